// Package catalog finds the package that a name or a path means.
//
// Packages come from three places: those that are part of srpo (served by the same program, or embedded Python packages), folders of packages that the
// user has named ([host] plugin_path), and single folders given by path. PATH is never searched.
package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"

	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/plugins"
)

// Origin says where a package is from.
type Origin string

// The origins.
const (
	// BuiltIn is served by srpo's own program.
	BuiltIn Origin = "built in"
	// Embedded is a package inside of srpo's program.
	Embedded Origin = "embedded"
	// Folder is a package on disk, covered by srpo.lock.
	Folder Origin = "folder"
)

// Catalog knows the packages.
type Catalog struct {
	// BuiltIns are served by srpo's own program.
	BuiltIns []BuiltInPackage
	// Embedded are packages inside of srpo's program, each with a plugin.toml at its root.
	Embedded []fs.FS
	// Path are folders whose sub-folders are packages.
	Path []string
	// Cache is where embedded packages are unpacked.
	Cache string
}

// BuiltInPackage is served by srpo's own program.
type BuiltInPackage struct {
	Kind      plugins.Kind
	Name, Doc string
	Version   string
}

// Package is one that was found.
type Package struct {
	Kind               plugins.Kind
	Name, Version, Doc string
	Origin             Origin
	// ByPath is true when [Catalog.Lookup] got the path of the folder instead of a name.
	ByPath bool
	// Dir is the package's folder, absolute; empty for built-in ones. For embedded ones it is set by [Catalog.Find], not by [Catalog.List].
	Dir string
	// Manifest is nil for built-in ones.
	Manifest *manifest.Manifest
	embedded fs.FS
}

// IsPath says whether a plugin was given by its path rather than its name.
func IsPath(s string) bool {
	return s == "." || s == ".." || strings.ContainsRune(s, filepath.Separator) || strings.HasPrefix(s, "~")
}

// Find returns the package of a kind that a name or the path of a folder means. What is part of srpo wins over what lies in [Catalog.Path], and earlier
// folders of that over later ones.
func (c *Catalog) Find(kind plugins.Kind, nameOrPath string) (Package, error) {
	p, err := c.Lookup(kind, nameOrPath)
	if err == nil && p.embedded != nil {
		return c.unpack(p)
	}
	return p, err
}

// Lookup is Find without putting an embedded package, whose Dir is then empty, onto the disk.
func (c *Catalog) Lookup(kind plugins.Kind, nameOrPath string) (Package, error) {
	if nameOrPath == "" {
		return Package{}, plugins.Errorf(plugins.Invalid, "no %s given", kind).WithHint("one of %s, or the path of a package's folder", c.names(kind))
	}
	if IsPath(nameOrPath) {
		p, err := c.Open(nameOrPath)
		p.ByPath = true
		if err == nil && p.Kind != kind {
			err = plugins.Errorf(plugins.Invalid, "%s is of kind %s, not %s", nameOrPath, p.Kind, kind).WithHint("give it where the %s goes", p.Kind)
		}
		return p, err
	}
	list, broken := c.List(kind)
	for _, p := range list {
		if p.Name == nameOrPath {
			return p, nil
		}
	}
	for _, err := range broken { // one that is there but cannot be read is not "not found"
		if e := plugins.AsError(err); strings.Contains(e.Place+e.Message, string(filepath.Separator)+nameOrPath+string(filepath.Separator)) {
			return Package{}, err
		}
	}
	e := plugins.Errorf(plugins.NotFound, "no %s is called %q; there is %s", kind, nameOrPath, c.names(kind))
	var known []string
	for _, p := range list {
		known = append(known, p.Name)
	}
	if near := nearest.To(nameOrPath, known); near != "" {
		return Package{}, e.WithHint("did you mean %q?", near)
	}
	if _, err := os.Stat(filepath.Join(nameOrPath, manifest.FileName)); err == nil {
		return Package{}, e.WithHint("for the package in the folder of that name, give its path: ./%s", nameOrPath)
	}
	return Package{}, e.WithHint("give the path of a package's folder, or name the folder of your packages in [host] plugin_path")
}

// Open returns the package in a folder.
func (c *Catalog) Open(dir string) (Package, error) {
	if rest, ok := strings.CutPrefix(dir, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			dir = filepath.Join(home, rest)
		}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Package{}, plugins.Errorf(plugins.Invalid, "the path %q: %w", dir, err).WithHint("give the path of a folder")
	}
	if filepath.Base(abs) == manifest.FileName {
		abs = filepath.Dir(abs)
	}
	m, err := manifest.Load(os.DirFS(abs), abs)
	if err != nil {
		return Package{}, err
	}
	if m.Command != nil && m.Command.IsSelf() {
		e := plugins.Errorf(plugins.Invalid, "%s %s is served by srpo's own program: only packages inside of it may be", m.Kind, m.Name).WithPlace("%s", filepath.Join(abs, manifest.FileName))
		for _, f := range c.Embedded {
			if own, err := manifest.Load(f, "embedded"); err == nil && own.Kind == m.Kind && own.Name == m.Name {
				return Package{}, e.WithHint("give its name instead of its folder: %s", m.Name)
			}
		}
		return Package{}, e.WithHint("name a program of the package in [command] exec")
	}
	return Package{Kind: m.Kind, Name: m.Name, Version: m.Version, Doc: m.Doc, Origin: Folder, Dir: abs, Manifest: m}, nil
}

// List returns the packages of a kind ("" for all), those that win first, and the errors of folders that look like packages but are not.
func (c *Catalog) List(kind plugins.Kind) (list []Package, broken []error) {
	seen := map[string]bool{}
	add := func(p Package) {
		if key := string(p.Kind) + " " + p.Name; (kind == "" || p.Kind == kind) && !seen[key] {
			seen[key] = true
			list = append(list, p)
		}
	}
	for _, b := range c.BuiltIns {
		add(Package{Kind: b.Kind, Name: b.Name, Version: b.Version, Doc: b.Doc, Origin: BuiltIn})
	}
	for i, f := range c.Embedded {
		m, err := manifest.Load(f, fmt.Sprintf("embedded package %d", i))
		if err != nil {
			broken = append(broken, err)
			continue
		}
		add(Package{Kind: m.Kind, Name: m.Name, Version: m.Version, Doc: m.Doc, Origin: Embedded, Manifest: m, embedded: f})
	}
	for _, dir := range c.Path {
		found, _ := filepath.Glob(filepath.Join(dir, "*", manifest.FileName))
		slices.Sort(found)
		for _, file := range found {
			p, err := c.Open(filepath.Dir(file))
			if err != nil {
				broken = append(broken, err)
				continue
			}
			add(p)
		}
	}
	return list, broken
}

func (c *Catalog) names(kind plugins.Kind) string {
	list, _ := c.List(kind)
	if len(list) == 0 {
		return "none"
	}
	var names []string
	for _, p := range list {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

// unpack puts an embedded package into the cache, unless it is there unchanged.
func (c *Catalog) unpack(p Package) (Package, error) {
	dir, err := Unpack(p.embedded, c.Cache, "packages", p.Name)
	if err != nil {
		return Package{}, plugins.AsError(err).WithPlace("%s %s", p.Kind, p.Name)
	}
	p.Dir = dir
	return p, nil
}

// Unpack puts an embedded folder into CACHE/what/NAME-HASH and returns that path. A copy that is there is compared file by file; one that differs is
// replaced. Files that begin with #! become executable, which embedding forgets.
func Unpack(f fs.FS, cache, what, name string) (string, error) {
	want, err := lock.HashFS(f)
	if err != nil {
		return "", err
	}
	for i, file := range want.Files {
		want.Files[i].Mode = '-'
		if runs, err := executable(f, file.Path); err != nil {
			return "", err
		} else if runs {
			want.Files[i].Mode = 'x'
		}
	}
	parent := filepath.Join(cache, what)
	dir := filepath.Join(parent, name+"-"+want.Sum()[:16])
	fail := func(err error) (string, error) {
		return "", plugins.Errorf(plugins.Exhausted, "unpacking %s into %s: %w", name, parent, err).WithHint("set SRPO_CACHE to a folder that can be written to and has room")
	}
	if same(dir, want) {
		return dir, nil
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fail(err)
	}
	guard := flock.New(dir+".lock", flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	if err := guard.Lock(); err != nil { // held while the copy is made
		return fail(err)
	}
	defer guard.Close()
	if same(dir, want) {
		return dir, nil
	}
	tmp, err := os.MkdirTemp(parent, "."+name+"-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(tmp)
	for _, file := range want.Files {
		if err := copyFile(f, file, tmp); err != nil {
			return fail(err)
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return fail(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fail(err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fail(err)
	}
	if !same(dir, want) {
		return fail(errors.New("the copy differs from the original"))
	}
	return dir, nil
}

func same(dir string, want lock.Tree) bool {
	have, err := lock.HashDir(dir)
	return err == nil && len(want.Changes(have)) == 0
}

func executable(f fs.FS, name string) (bool, error) {
	file, err := f.Open(name)
	if err != nil {
		return false, err
	}
	defer file.Close()
	b := make([]byte, 2)
	n, _ := file.Read(b)
	return string(b[:n]) == "#!", nil
}

func copyFile(f fs.FS, file lock.FileHash, to string) error {
	data, err := fs.ReadFile(f, file.Path)
	if err != nil {
		return err
	}
	path := filepath.Join(to, filepath.FromSlash(file.Path))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if file.Mode == 'x' {
		mode = 0o755
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode) // whatever the umask
}
