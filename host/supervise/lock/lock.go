// Package lock keeps srpo.lock: what every plugin package that is not part of srpo itself consists of.
//
// A package is hashed file by file. The first use of a package adds it; afterwards a changed, added or removed file is refused, with its name, until
// somebody says that the change was meant (srpo plugin lock).
package lock

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/gofrs/flock"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/host/internal/tomltext"
	"github.com/srpo-dev/srpo/plugins"
)

// FileName is the lock's name; it lies beside srpo.toml.
const FileName = "srpo.lock"

// maxFile bounds a lock, bytes: some 500,000 files.
const maxFile = 64 << 20

// version of the file's form.
const version = 1

// Package is a package to be locked.
type Package struct {
	Kind          plugins.Kind
	Name, Version string
	// Dir is its folder.
	Dir string
}

// Entry is what the lock says of a package.
type Entry struct {
	Kind          plugins.Kind
	Name, Version string
	// Path is where the package lay when it was locked, relative to the lock's folder where it is near; for people only.
	Path string
	Tree Tree
}

// File is a lock, read into memory.
type File struct {
	path    string
	entries []Entry
}

// onDisk is the form of the file.
type onDisk struct {
	Version int           `toml:"version"`
	Plugin  []onDiskEntry `toml:"plugin"`
}

type onDiskEntry struct {
	Kind    string   `toml:"kind"`
	Name    string   `toml:"name"`
	Version string   `toml:"version"`
	Path    string   `toml:"path"`
	SHA256  string   `toml:"sha256"`
	Files   []string `toml:"files"`
}

// Load reads a lock; a file that does not exist is an empty lock.
func Load(path string) (*File, error) {
	f := &File{path: path}
	data, err := bounded.ReadFile(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	broken := func(format string, args ...any) (*File, error) {
		return nil, plugins.Errorf(plugins.Corrupt, format, args...).WithPlace("%s", path).
			WithHint("restore it from version control, or delete it: the next run writes it anew and trusts what is there then")
	}
	if errors.Is(err, bounded.ErrTooLarge) {
		return broken("%v: srpo wrote no such lock", err)
	}
	if err != nil {
		return nil, plugins.Errorf(plugins.NotFound, "reading the lock: %w", err).WithPlace("%s", path).WithHint("make it readable")
	}
	if tomltext.TooDeep(data) {
		return broken("brackets nest deeper than %d: srpo wrote no such lock", tomltext.MaxDepth)
	}
	var d onDisk
	md, err := toml.Decode(string(data), &d)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			line, _, _ := tomltext.Locate(string(data), pe.Position.Start)
			return broken("line %d: %s", line, pe.Message)
		}
		return broken("%w", err)
	}
	if d.Version != version {
		return nil, plugins.Errorf(plugins.Mismatch, "the lock has form %d, this srpo knows %d", d.Version, version).WithPlace("%s", path).
			WithHint("use the srpo that wrote it, or delete it")
	}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		return broken("unknown key %s", unknown[0])
	}
	for _, e := range d.Plugin {
		entry := Entry{Kind: plugins.Kind(e.Kind), Name: e.Name, Version: e.Version, Path: e.Path}
		for _, line := range e.Files {
			file, err := parseFileHash(line)
			if err != nil {
				return broken("%s %s: %w", e.Kind, e.Name, err)
			}
			entry.Tree.Files = append(entry.Tree.Files, file)
		}
		if entry.Tree.Sum() != e.SHA256 {
			return broken("%s %s: the list of files does not have the hash that is written above it", e.Kind, e.Name)
		}
		if f.find(entry.Kind, entry.Name) >= 0 {
			return broken("%s %s is listed twice", e.Kind, e.Name)
		}
		f.entries = append(f.entries, entry)
	}
	return f, nil
}

func parseFileHash(line string) (FileHash, error) {
	parts := strings.SplitN(line, " ", 4)
	if len(parts) != 4 || len(parts[0]) != 64 || len(parts[1]) != 1 || !strings.Contains("-xl", parts[1]) {
		return FileHash{}, fmt.Errorf("not a line of a file: %q", line)
	}
	size, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return FileHash{}, fmt.Errorf("not a line of a file: %q", line)
	}
	return FileHash{SHA256: parts[0], Mode: parts[1][0], Size: size, Path: parts[3]}, nil
}

// Entries are the packages in the lock, sorted by kind and name.
func (f *File) Entries() []Entry { return slices.Clone(f.entries) }

func (f *File) find(kind plugins.Kind, name string) int {
	return slices.IndexFunc(f.entries, func(e Entry) bool { return e.Kind == kind && e.Name == name })
}

// Verify hashes the package and compares it with the lock. known is false when the lock does not have it. The error, of kind Corrupt, names what changed.
func (f *File) Verify(p Package) (known bool, tree Tree, err error) {
	tree, err = HashDir(p.Dir)
	if err != nil {
		return false, tree, plugins.AsError(err).WithPlace("%s %s", p.Kind, p.Name)
	}
	i := f.find(p.Kind, p.Name)
	if i < 0 {
		return false, tree, nil
	}
	if changes := f.entries[i].Tree.Changes(tree); len(changes) > 0 {
		e := plugins.Errorf(plugins.Corrupt, "%s %s in %s is not what the lock says: %s", p.Kind, p.Name, p.Dir, changes[0])
		if n := len(changes) - 1; n > 0 {
			e = plugins.Errorf(plugins.Corrupt, "%s, and %d more", e.Message, n)
		}
		shown := changes[:min(len(changes), 20)]
		return true, tree, e.WithPlace("%s", f.path).WithDetail(strings.Join(shown, "\n")).
			WithHint("if the change was meant: srpo plugin lock %s; if not, restore the package", p.Dir)
	}
	return true, tree, nil
}

// Add puts a package into the lock, in the place of what was there under its kind and name.
func (f *File) Add(p Package, tree Tree) {
	path := p.Dir
	if base, err := filepath.Abs(filepath.Dir(f.path)); err == nil {
		if dir, err := filepath.Abs(p.Dir); err == nil {
			path = dir
			if rel, err := filepath.Rel(base, dir); err == nil && strings.Count(rel, "..") <= 2 {
				path = rel
			}
		}
	}
	e := Entry{Kind: p.Kind, Name: p.Name, Version: p.Version, Path: filepath.ToSlash(path), Tree: tree}
	if i := f.find(p.Kind, p.Name); i >= 0 {
		f.entries[i] = e
		return
	}
	f.entries = append(f.entries, e)
	slices.SortFunc(f.entries, func(a, b Entry) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
}

// Remove takes a package out of the lock.
func (f *File) Remove(kind plugins.Kind, name string) {
	if i := f.find(kind, name); i >= 0 {
		f.entries = slices.Delete(f.entries, i, i+1)
	}
}

// Write replaces the file in one step: a reader sees the old one or the new one.
func (f *File) Write() error {
	d := onDisk{Version: version}
	for _, e := range f.entries {
		o := onDiskEntry{Kind: string(e.Kind), Name: e.Name, Version: e.Version, Path: e.Path, SHA256: e.Tree.Sum()}
		for _, file := range e.Tree.Files {
			o.Files = append(o.Files, file.String())
		}
		d.Plugin = append(d.Plugin, o)
	}
	var b bytes.Buffer
	b.WriteString("# What the plugin packages consist of: SHA-256, kind (- file, x executable, l link), bytes and path of every file. Written by srpo; keep it in\n" +
		"# version control. A package that differs is refused until `srpo plugin lock FOLDER` says that the change was meant.\n")
	fmt.Fprintf(&b, "version = %d\n", d.Version)
	for _, e := range d.Plugin {
		fmt.Fprintf(&b, "\n[[plugin]]\nkind = %s\nname = %s\nversion = %s\npath = %s\nsha256 = %s\nfiles = [\n",
			quote(e.Kind), quote(e.Name), quote(e.Version), quote(e.Path), quote(e.SHA256))
		for _, line := range e.Files {
			fmt.Fprintf(&b, "  %s,\n", quote(line))
		}
		b.WriteString("]\n")
	}
	if err := writeAtomically(f.path, b.Bytes()); err != nil {
		return plugins.Errorf(plugins.Exhausted, "writing the lock: %w", err).WithPlace("%s", f.path).WithHint("make its folder writable and see that the disk is not full")
	}
	return nil
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func writeAtomically(path string, data []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return err
	}
	if d, err := os.Open(dir); err == nil { // the rename itself must survive a power cut too
		_ = d.Sync()
		_ = d.Close()
	}
	return nil
}

// Check verifies a package against the lock at path, and adds it when the lock does not have it; added says so. Two hosts that do this at the same time
// do not lose each other's entries.
func Check(path string, p Package) (added bool, err error) {
	return update(path, p, false)
}

// Relock puts the package into the lock as it is now; changes says what differs from before, and is empty for a package that was not locked or did not change.
func Relock(path string, p Package) (changes []string, err error) {
	release, err := exclusive(path)
	if err != nil {
		return nil, err
	}
	defer release()
	f, err := Load(path)
	if err != nil {
		return nil, err
	}
	tree, err := HashDir(p.Dir)
	if err != nil {
		return nil, plugins.AsError(err).WithPlace("%s %s", p.Kind, p.Name)
	}
	if i := f.find(p.Kind, p.Name); i >= 0 {
		changes = f.entries[i].Tree.Changes(tree)
	}
	f.Add(p, tree)
	return changes, f.Write()
}

func update(path string, p Package, again bool) (added bool, err error) {
	f, err := Load(path)
	if err != nil {
		return false, err
	}
	known, tree, err := f.Verify(p)
	if err != nil || known {
		return false, err
	}
	if !again { // look once more with the lock in hand
		release, err := exclusive(path)
		if err != nil {
			return false, err
		}
		defer release()
		return update(path, p, true)
	}
	f.Add(p, tree)
	return true, f.Write()
}

// exclusive keeps other hosts from writing locks in the same folder meanwhile. The folder itself is locked, so that no further file lies around.
func exclusive(path string) (release func(), err error) {
	folder := flock.New(filepath.Dir(path), flock.SetFlag(os.O_RDONLY))
	if err := folder.Lock(); err != nil {
		return nil, plugins.Errorf(plugins.NotFound, "the lock's folder: %w", err).WithPlace("%s", path).
			WithHint("make the folder, or start srpo beside srpo.toml")
	}
	return func() { _ = folder.Close() }, nil
}
