// Package lock maintains srpo.lock, which lists the files of every plugin package that is not part of srpo
// itself.
//
// A package is hashed file by file. Its first use adds it. After that, a package with a changed, added or
// removed file is refused, and the error names the file, until the user confirms the change (srpo plugin
// lock). A package that only its user can write may be locked again without that, see [Check].
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

// FileName is the name of the lock. It is in the same folder as srpo.toml.
const FileName = "srpo.lock"

// maxFile is the largest lock that is read, in bytes: about 500,000 files.
const maxFile = 64 << 20

// version of the file format.
const version = 1

// Package is a package to lock.
type Package struct {
	Kind          plugins.Kind
	Name, Version string
	// Dir is its folder.
	Dir string
}

// Entry is a package in the lock.
type Entry struct {
	Kind          plugins.Kind
	Name, Version string
	// Path is the folder of the package when it was locked, relative to the folder of the lock where it is
	// near.
	Path string
	Tree Tree
}

// File is the content of a lock.
type File struct {
	path    string
	entries []Entry
}

// onDisk is the file as TOML.
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

// Load reads a lock. A file that does not exist is an empty lock.
func Load(path string) (*File, error) {
	f := &File{path: path}
	data, err := bounded.ReadFile(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	broken := func(format string, args ...any) (*File, error) {
		return nil, plugins.Errorf(plugins.Corrupt, format, args...).WithPlace("%s", path).
			WithHint("restore it from version control, or delete it: the next run writes a new one and trusts the " +
				"packages as they are then")
	}
	if errors.Is(err, bounded.ErrTooLarge) {
		return broken("%v: srpo did not write this lock", err)
	}
	if err != nil {
		return nil, plugins.Errorf(plugins.NotFound, "reading the lock: %w", err).
			WithPlace("%s", path).
			WithHint("make it readable")
	}
	if tomltext.TooDeep(data) {
		return broken("brackets nest deeper than %d: srpo did not write this lock", tomltext.MaxDepth)
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
		return nil, plugins.Errorf(plugins.Mismatch, "the lock has format %d, this srpo reads %d", d.Version, version).
			WithPlace("%s", path).
			WithHint("use the srpo that wrote it, or delete it")
	}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		return broken("unknown key %s", unknown[0])
	}
	for _, e := range d.Plugin {
		entry, err := e.entry()
		if err != nil {
			return broken("%s %s: %w", e.Kind, e.Name, err)
		}
		if f.find(entry.Kind, entry.Name) >= 0 {
			return broken("%s %s is listed twice", e.Kind, e.Name)
		}
		f.entries = append(f.entries, entry)
	}
	return f, nil
}

// entry parses the list of files and checks it against its hash.
func (e onDiskEntry) entry() (Entry, error) {
	entry := Entry{Kind: plugins.Kind(e.Kind), Name: e.Name, Version: e.Version, Path: e.Path}
	for _, line := range e.Files {
		file, err := parseFileHash(line)
		if err != nil {
			return entry, err
		}
		entry.Tree.Files = append(entry.Tree.Files, file)
	}
	if entry.Tree.Sum() != e.SHA256 {
		return entry, errors.New("the list of files does not have the hash that is written above it")
	}
	return entry, nil
}

func parseFileHash(line string) (FileHash, error) {
	parts := strings.SplitN(line, " ", 4)
	if len(parts) != 4 || len(parts[0]) != 64 || len(parts[1]) != 1 || !strings.Contains("-xl", parts[1]) {
		return FileHash{}, fmt.Errorf("not an entry of a file: %q", line)
	}
	size, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return FileHash{}, fmt.Errorf("not an entry of a file: %q", line)
	}
	return FileHash{SHA256: parts[0], Mode: parts[1][0], Size: size, Path: parts[3]}, nil
}

// Entries returns the packages in the lock, sorted by kind and name.
func (f *File) Entries() []Entry { return slices.Clone(f.entries) }

func (f *File) find(kind plugins.Kind, name string) int {
	return slices.IndexFunc(f.entries, func(e Entry) bool { return e.Kind == kind && e.Name == name })
}

// compare hashes the package and compares it with its entry, which is nil when the lock does not contain
// the package.
func (f *File) compare(p Package) (entry *Entry, tree Tree, changes []Change, err error) {
	if tree, err = HashDir(p.Dir); err != nil {
		return nil, tree, nil, plugins.AsError(err).WithPlace("%s %s", p.Kind, p.Name)
	}
	if i := f.find(p.Kind, p.Name); i >= 0 {
		entry = &f.entries[i]
		changes = entry.Tree.Changes(tree)
	}
	return entry, tree, changes, nil
}

// Verify hashes the package and compares it with the lock. It returns an error of kind Corrupt that lists
// the changes.
func (f *File) Verify(p Package) error {
	_, _, changes, err := f.compare(p)
	if err == nil && len(changes) > 0 {
		return f.changedError(p, changes, "")
	}
	return err
}

// maxShown is the number of changes that an error lists.
const maxShown = 20

// changedError is the error for a package that differs from the lock. reason is why it is not locked again
// without the user, empty: nothing was tried.
func (f *File) changedError(p Package, changes []Change, reason string) error {
	more := ""
	if n := len(changes) - 1; n > 0 {
		more = fmt.Sprintf(", and %d more", n)
	}
	hint := fmt.Sprintf("if you made the change: srpo plugin lock %s; if not, restore the package", p.Dir)
	if reason != "" {
		hint += " (it is not re-locked automatically: " + reason + ")"
	}
	return plugins.Errorf(plugins.Corrupt, "%s %s in %s differs from the lock: %s%s", p.Kind, p.Name, p.Dir,
		changes[0], more).
		WithPlace("%s", f.path).
		WithDetail(Describe(changes[:min(len(changes), maxShown)], "\n")).
		WithHint("%s", hint)
}

// pathOf returns the folder of a package as an entry records it.
func (f *File) pathOf(p Package) string {
	base, err := filepath.Abs(filepath.Dir(f.path))
	if err != nil {
		return filepath.ToSlash(p.Dir)
	}
	dir, err := filepath.Abs(p.Dir)
	if err != nil {
		return filepath.ToSlash(p.Dir)
	}
	if rel, err := filepath.Rel(base, dir); err == nil && strings.Count(rel, "..") <= 2 {
		return filepath.ToSlash(rel)
	}
	return filepath.ToSlash(dir)
}

// Add puts a package into the lock. It replaces the entry of the same kind and name.
func (f *File) Add(p Package, tree Tree) {
	e := Entry{Kind: p.Kind, Name: p.Name, Version: p.Version, Path: f.pathOf(p), Tree: tree}
	if i := f.find(p.Kind, p.Name); i >= 0 {
		f.entries[i] = e
		return
	}
	f.entries = append(f.entries, e)
	slices.SortFunc(f.entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
}

// Remove removes a package from the lock.
func (f *File) Remove(kind plugins.Kind, name string) {
	if i := f.find(kind, name); i >= 0 {
		f.entries = slices.Delete(f.entries, i, i+1)
	}
}

// header is the comment at the top of the file.
const header = `# The files of the plugin packages: SHA-256, kind (- file, x executable, l link), bytes and path.
# Written by srpo; keep it in version control. A changed package is locked again by a run if only
# you can write to its folder; otherwise it is refused until srpo plugin lock FOLDER accepts the change.
`

// Write replaces the file atomically.
func (f *File) Write() error {
	var b bytes.Buffer
	b.WriteString(header)
	fmt.Fprintf(&b, "version = %d\n", version)
	for _, e := range f.entries {
		b.WriteString("\n[[plugin]]\n")
		for _, field := range [][2]string{{"kind", string(e.Kind)}, {"name", e.Name}, {"version", e.Version},
			{"path", e.Path},
			{"sha256", e.Tree.Sum()}} {
			fmt.Fprintf(&b, "%s = %s\n", field[0], quote(field[1]))
		}
		b.WriteString("files = [\n")
		for _, file := range e.Tree.Files {
			fmt.Fprintf(&b, "  %s,\n", quote(file.String()))
		}
		b.WriteString("]\n")
	}
	if err := writeAtomically(f.path, b.Bytes()); err != nil {
		return plugins.Errorf(plugins.Exhausted, "writing the lock: %w", err).
			WithPlace("%s", f.path).WithHint("make its folder writable, and check that the disk is not full")
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
	if d, err := os.Open(dir); err == nil { // so that the rename survives a power failure
		_ = d.Sync()
		_ = d.Close()
	}
	return nil
}

// Result is the outcome of [Check].
type Result struct {
	// Added is true when the lock did not contain the package.
	Added bool
	// Relocked are the changes that were accepted, nil when there were none.
	Relocked []Change
}

// Check verifies a package against the lock at path, and adds it when the lock does not contain it.
// Concurrent calls of several hosts keep each other's entries.
//
// With relock, a package that has changed is locked again when that gives away nothing: its entry is for
// the same path, and the folder and all its files belong to the caller and can be written by nobody else.
// Otherwise the error, of kind Corrupt, lists the changes.
func Check(path string, p Package, relock bool) (Result, error) {
	f, err := Load(path)
	if err != nil {
		return Result{}, err
	}
	entry, _, changes, err := f.compare(p)
	if err != nil || entry != nil && len(changes) == 0 {
		return Result{}, err
	}
	if entry != nil && !relock {
		return Result{}, f.changedError(p, changes, "")
	}
	release, err := exclusive(path)
	if err != nil {
		return Result{}, err
	}
	defer release()
	if f, err = Load(path); err != nil { // another host may have written it meanwhile
		return Result{}, err
	}
	if entry != nil {
		if reason := f.notRelockable(p); reason != "" {
			return Result{}, f.changedError(p, changes, reason)
		}
	}
	added := entry == nil
	entry, tree, changes, err := f.compare(p)
	if err != nil {
		return Result{}, err
	}
	if added && entry != nil && len(changes) > 0 { // another host added it meanwhile, with other files
		return Result{}, f.changedError(p, changes, "")
	}
	f.Add(p, tree)
	return Result{Added: entry == nil, Relocked: changes}, f.Write()
}

// notRelockable returns why a package may not be locked again without the user; empty: it may.
func (f *File) notRelockable(p Package) string {
	i := f.find(p.Kind, p.Name)
	if i < 0 {
		return "another srpo removed it from the lock"
	}
	if at := f.entries[i].Path; at != f.pathOf(p) {
		return "it was locked in another folder, " + at
	}
	return notOwned(p.Dir)
}

// Relock puts the package into the lock as it is now. It returns the changes since the previous entry, nil
// when there was none.
func Relock(path string, p Package) ([]Change, error) {
	release, err := exclusive(path)
	if err != nil {
		return nil, err
	}
	defer release()
	f, err := Load(path)
	if err != nil {
		return nil, err
	}
	_, tree, changes, err := f.compare(p)
	if err != nil {
		return nil, err
	}
	f.Add(p, tree)
	return changes, f.Write()
}

// exclusive excludes other hosts that write locks in the same folder. It locks the folder itself, which
// leaves no extra file.
func exclusive(path string) (release func(), err error) {
	folder := flock.New(filepath.Dir(path), flock.SetFlag(os.O_RDONLY))
	if err := folder.Lock(); err != nil {
		return nil, plugins.Errorf(plugins.NotFound, "the lock's folder: %w", err).WithPlace("%s", path).
			WithHint("make the folder, or start srpo beside srpo.toml")
	}
	return func() { _ = folder.Close() }, nil
}
