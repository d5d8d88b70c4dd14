package main

import (
	"io/fs"
	"slices"
	"strings"
)

// layered is a package made of several: a file is that of the first layer that has it. So plugins of one family share modules without a copy in the source,
// and what is unpacked, hashed and run is one folder.
type layered []fs.FS

// Open opens a file of the first layer that has it. A folder opens as that of one layer; its entries are ReadDir's.
func (l layered) Open(name string) (fs.File, error) {
	var first error
	for _, layer := range l {
		f, err := layer.Open(name)
		if err == nil {
			return f, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// ReadDir lists the entries of all layers, each name once, sorted.
func (l layered) ReadDir(name string) ([]fs.DirEntry, error) {
	var all []fs.DirEntry
	var first error
	found := false
	for _, layer := range l {
		entries, err := fs.ReadDir(layer, name)
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		found = true
		for _, e := range entries {
			if !slices.ContainsFunc(all, func(o fs.DirEntry) bool { return o.Name() == e.Name() }) {
				all = append(all, e)
			}
		}
	}
	if !found {
		return nil, first
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all, nil
}
