// Package catalog finds the package for a name or a path.
//
// There are three kinds of packages: those that are part of srpo (served by its program, or embedded Python
// packages), packages in the folders of [host] plugin_path, and single folders given by path. PATH is never
// searched.
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

// Origin is the place that a package is from.
type Origin string

// The origins.
const (
	// BuiltIn packages are served by srpo's own program.
	BuiltIn Origin = "built in"
	// Embedded packages are inside srpo's program.
	Embedded Origin = "embedded"
	// Folder packages are on disk, and covered by srpo.lock.
	Folder Origin = "folder"
)

// Catalog lists the available packages.
type Catalog struct {
	// BuiltIns are served by srpo's own program.
	BuiltIns []BuiltInPackage
	// Embedded are packages inside srpo's program, each with a plugin.toml at its root.
	Embedded []fs.FS
	// Path are folders whose sub-folders are packages.
	Path []string
	// Cache is the folder into which embedded packages are unpacked.
	Cache string
}

// BuiltInPackage is a package that srpo's own program serves.
type BuiltInPackage struct {
	Kind      plugins.Kind
	Name, Doc string
	Version   string
}

// Package is a package that was found.
type Package struct {
	Kind               plugins.Kind
	Name, Version, Doc string
	Origin             Origin
	// ByPath is true when [Catalog.Lookup] got the path of the folder instead of a name.
	ByPath bool
	// Dir is the absolute path of the package's folder; empty for built-in packages. For embedded packages,
	// [Catalog.Find] sets it and [Catalog.List] does not.
	Dir string
	// Manifest is nil for built-in packages.
	Manifest *manifest.Manifest
	embedded fs.FS
}

// IsPath reports whether s is a path rather than a name.
func IsPath(s string) bool {
	return s == "." || s == ".." || strings.ContainsRune(s, filepath.Separator) || strings.HasPrefix(s, "~")
}

// Find returns the package of a kind for a name, or for the path of a folder. Packages that are part of
// srpo precede those in [Catalog.Path], and its earlier folders precede later ones.
func (c *Catalog) Find(kind plugins.Kind, nameOrPath string) (Package, error) {
	p, err := c.Lookup(kind, nameOrPath)
	if err == nil && p.embedded != nil {
		return c.unpack(p)
	}
	return p, err
}

// Lookup is [Catalog.Find] without unpacking an embedded package, whose Dir is then empty.
func (c *Catalog) Lookup(kind plugins.Kind, nameOrPath string) (Package, error) {
	if nameOrPath == "" {
		return Package{}, plugins.Errorf(plugins.Invalid, "no %s given", kind).
			WithHint("one of %s, or the path of a package's folder", c.names(kind))
	}
	if IsPath(nameOrPath) {
		p, err := c.Open(nameOrPath)
		p.ByPath = true
		if err == nil && p.Kind != kind {
			err = plugins.Errorf(plugins.Invalid, "%s is of kind %s, not %s", nameOrPath, p.Kind, kind).
				WithHint("give it where the %s goes", p.Kind)
		}
		return p, err
	}
	list, broken := c.List(kind)
	for _, p := range list {
		if p.Name == nameOrPath {
			return p, nil
		}
	}
	for _, err := range broken { // a package that exists but cannot be read is not "not found"
		if e := plugins.AsError(err); strings.Contains(
			e.Place+e.Message,
			string(filepath.Separator)+nameOrPath+string(filepath.Separator),
		) {
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
		return Package{}, e.WithHint("to use the package in the folder of that name, give its path: ./%s", nameOrPath)
	}
	return Package{}, e.WithHint(
		"give the path of a package's folder, or add the folder of your packages to [host] plugin_path",
	)
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
		return Package{}, plugins.Errorf(plugins.Invalid, "the path %q: %w", dir, err).
			WithHint("give the path of a folder")
	}
	if filepath.Base(abs) == manifest.FileName {
		abs = filepath.Dir(abs)
	}
	m, err := manifest.Load(os.DirFS(abs), abs)
	if err != nil {
		return Package{}, err
	}
	if m.Command != nil && m.Command.IsSelf() {
		e := plugins.Errorf(plugins.Invalid,
			"%s %s is served by srpo's own program, which only packages inside srpo may be", m.Kind, m.Name).
			WithPlace("%s", filepath.Join(abs, manifest.FileName))
		for _, f := range c.Embedded {
			if own, err := manifest.Load(f, "embedded"); err == nil && own.Kind == m.Kind && own.Name == m.Name {
				return Package{}, e.WithHint("give its name instead of its folder: %s", m.Name)
			}
		}
		return Package{}, e.WithHint("name a program of the package in [command] exec")
	}
	return Package{
		Kind:     m.Kind,
		Name:     m.Name,
		Version:  m.Version,
		Doc:      m.Doc,
		Origin:   Folder,
		Dir:      abs,
		Manifest: m,
	}, nil
}

// List returns the packages of a kind ("" for all) in order of precedence, and the errors of folders with a
// broken package.
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
		add(
			Package{
				Kind:     m.Kind,
				Name:     m.Name,
				Version:  m.Version,
				Doc:      m.Doc,
				Origin:   Embedded,
				Manifest: m,
				embedded: f,
			},
		)
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

// unpack unpacks an embedded package into the cache.
func (c *Catalog) unpack(p Package) (Package, error) {
	dir, err := Unpack(p.embedded, c.Cache, "packages", p.Name)
	if err != nil {
		return Package{}, plugins.AsError(err).WithPlace("%s %s", p.Kind, p.Name)
	}
	p.Dir = dir
	return p, nil
}

// Unpack writes an embedded folder to CACHE/what/NAME-HASH and returns that path. It compares an existing
// copy file by file, and replaces one that differs. Files that begin with #! become executable, as
// embedding loses the mode.
func Unpack(f fs.FS, cache, what, name string) (string, error) {
	tree, err := hashEmbedded(f)
	if err != nil {
		return "", err
	}
	parent := filepath.Join(cache, what)
	dir := filepath.Join(parent, name+"-"+tree.Sum()[:16])
	if same(dir, tree) {
		return dir, nil
	}
	if err := replace(f, tree, dir); err != nil {
		return "", plugins.Errorf(plugins.Exhausted, "unpacking %s into %s: %w", name, parent, err).
			WithHint("set SRPO_CACHE to a folder that can be written to and has space")
	}
	return dir, nil
}

// hashEmbedded hashes an embedded folder, with the modes that its files get on disk.
func hashEmbedded(f fs.FS) (lock.Tree, error) {
	tree, err := lock.HashFS(f)
	if err != nil {
		return tree, err
	}
	for i, file := range tree.Files {
		tree.Files[i].Mode = '-'
		runs, err := executable(f, file.Path)
		if err != nil {
			return tree, err
		}
		if runs {
			tree.Files[i].Mode = 'x'
		}
	}
	return tree, nil
}

// replace writes the files of f to dir, unless another process did meanwhile.
func replace(f fs.FS, tree lock.Tree, dir string) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	guard := flock.New(dir+".lock", flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	if err := guard.Lock(); err != nil {
		return err
	}
	defer guard.Close()
	if same(dir, tree) {
		return nil
	}
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(dir)+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, file := range tree.Files {
		if err := copyFile(f, file, tmp); err != nil {
			return err
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	if !same(dir, tree) {
		return errors.New("the copy differs from the original")
	}
	return nil
}

func same(dir string, tree lock.Tree) bool {
	have, err := lock.HashDir(dir)
	return err == nil && len(tree.Changes(have)) == 0
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
	return os.Chmod(path, mode) // WriteFile applies the umask
}
