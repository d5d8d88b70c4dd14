package main

import (
	"cmp"
	"io/fs"
	"slices"
	"strings"
)

// bundle is the package of an embedded plugin: its own folder with the folders that it shares with other plugins
// inside. It is unpacked, hashed and run as one folder.
type bundle struct {
	fs.FS                   // the plugin's own folder, plugin.toml at its root
	shared map[string]fs.FS // by name
}

// Open opens a file of the shared folder that name is in, else of the plugin's own.
func (b bundle) Open(name string) (fs.File, error) {
	fsys, name := b.find(name)
	return fsys.Open(name)
}

// ReadDir lists a folder. The shared ones are listed at the root.
func (b bundle) ReadDir(name string) ([]fs.DirEntry, error) {
	fsys, within := b.find(name)
	entries, err := fs.ReadDir(fsys, within)
	if err != nil || name != "." {
		return entries, err
	}
	for folder, shared := range b.shared {
		info, err := fs.Stat(shared, ".")
		if err != nil {
			return nil, err
		}
		entries = append(entries, fs.FileInfoToDirEntry(named{info, folder}))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// find returns the file system that a file is in, and its name there.
func (b bundle) find(name string) (fs.FS, string) {
	folder, rest, _ := strings.Cut(name, "/")
	if shared, ok := b.shared[folder]; ok {
		return shared, cmp.Or(rest, ".")
	}
	return b.FS, name
}

// named is a file's information under another name.
type named struct {
	fs.FileInfo
	name string
}

func (n named) Name() string { return n.name }
