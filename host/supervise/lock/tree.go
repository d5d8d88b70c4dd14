package lock

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/srpo-dev/srpo/plugins"
)

// maxFiles bounds a package: somebody who gives a home folder by mistake should hear of it before it is read.
const maxFiles = 100_000

// Tree is what a package consists of.
type Tree struct {
	// Files are sorted by path.
	Files []FileHash
}

// FileHash is one file of a package.
type FileHash struct {
	// Path is relative to the package, with slashes.
	Path string
	// Mode is '-' for a file, 'x' for an executable one, 'l' for a symbolic link, whose content is where it points.
	Mode byte
	Size int64
	// SHA256 of the content, in hexadecimal.
	SHA256 string
}

func (f FileHash) String() string {
	return fmt.Sprintf("%s %c %d %s", f.SHA256, f.Mode, f.Size, f.Path)
}

// Sum is one SHA-256 over every file's path, mode, size and hash.
func (t Tree) Sum() string {
	h := sha256.New()
	for _, f := range t.Files {
		fmt.Fprintf(h, "%s\n", f)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Changes says in words what differs in now; nil: nothing.
func (t Tree) Changes(now Tree) []string {
	var out []string
	before := map[string]FileHash{}
	for _, f := range t.Files {
		before[f.Path] = f
	}
	for _, f := range now.Files {
		b, ok := before[f.Path]
		delete(before, f.Path)
		switch {
		case !ok:
			out = append(out, f.Path+" was added")
		case b.SHA256 != f.SHA256 || b.Size != f.Size || (b.Mode == 'l') != (f.Mode == 'l'):
			out = append(out, f.Path+" changed")
		case b.Mode != f.Mode && f.Mode == 'x':
			out = append(out, f.Path+" became executable")
		case b.Mode != f.Mode:
			out = append(out, f.Path+" is no longer executable")
		}
	}
	for p := range before {
		out = append(out, p+" was removed")
	}
	slices.Sort(out)
	return out
}

// HashDir hashes the package in a folder. Folders named __pycache__ are left out, which is safe because plugins run with PYTHONPYCACHEPREFIX set and do
// not read them, and so is .git at the top. A link that leaves the package, and anything that is neither a file, a folder nor a link, is refused.
func HashDir(dir string) (Tree, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return Tree{}, plugins.Errorf(plugins.NotFound, "the package's folder: %w", err).WithHint("check the path")
	}
	if !info.IsDir() {
		return Tree{}, plugins.Errorf(plugins.Invalid, "%s is not a folder", dir).WithHint("give the folder that plugin.toml lies in")
	}
	return hash(os.DirFS(dir), dir)
}

// HashFS hashes a package in a file system such as embed.FS.
func HashFS(fsys fs.FS) (Tree, error) { return hash(fsys, "") }

func hash(fsys fs.FS, dir string) (Tree, error) {
	var t Tree
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return plugins.Errorf(plugins.NotFound, "reading %s: %w", name, err).WithHint("make every file of the package readable")
		}
		if name == ".git" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil // a worktree's or submodule's
		}
		if d.IsDir() {
			if d.Name() == "__pycache__" {
				return fs.SkipDir
			}
			return nil
		}
		if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
			return plugins.Errorf(plugins.Invalid, "a file of the package has an unprintable name: %q", name).WithHint("rename it")
		}
		if len(t.Files) >= maxFiles {
			return plugins.Errorf(plugins.Invalid, "the package has more than %d files", maxFiles).WithHint("is %s the folder that you meant?", dir)
		}
		f, err := hashFile(fsys, dir, name, d)
		if err != nil {
			return err
		}
		t.Files = append(t.Files, f)
		return nil
	})
	slices.SortFunc(t.Files, func(a, b FileHash) int { return strings.Compare(a.Path, b.Path) })
	return t, err
}

func hashFile(fsys fs.FS, dir, name string, d fs.DirEntry) (FileHash, error) {
	f := FileHash{Path: name, Mode: '-'}
	switch {
	case d.Type()&fs.ModeSymlink != 0:
		target, err := checkLink(dir, name)
		if err != nil {
			return f, err
		}
		sum := sha256.Sum256([]byte(target))
		f.Mode, f.Size, f.SHA256 = 'l', int64(len(target)), hex.EncodeToString(sum[:])
		return f, nil
	case !d.Type().IsRegular():
		return f, plugins.Errorf(plugins.Invalid, "%s is neither a file nor a folder (%v)", name, d.Type()).WithHint("remove it from the package")
	}
	unreadable := func(err error) (FileHash, error) {
		return f, plugins.Errorf(plugins.NotFound, "reading %s: %w", name, err).WithHint("make every file of the package readable")
	}
	file, err := fsys.Open(name)
	if err != nil {
		return unreadable(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return unreadable(err)
	}
	if info.Mode()&0o111 != 0 {
		f.Mode = 'x'
	}
	h := sha256.New()
	if f.Size, err = io.Copy(h, file); err != nil {
		return unreadable(err)
	}
	f.SHA256 = hex.EncodeToString(h.Sum(nil))
	return f, nil
}

// checkLink returns where a link points, if that is inside the package.
func checkLink(dir, name string) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", plugins.Errorf(plugins.Invalid, "%s", fmt.Sprintf("%s is a link ", name)+fmt.Sprintf(format, args...)).
			WithHint("a package holds everything that it needs: copy the file into it")
	}
	if dir == "" {
		return refuse("in a package that cannot have any")
	}
	full := filepath.Join(dir, filepath.FromSlash(name))
	target, err := os.Readlink(full)
	if err != nil {
		return refuse("that cannot be read: %v", err)
	}
	if filepath.IsAbs(target) {
		return refuse("to %s, an absolute path", target)
	}
	if rel := path.Join(path.Dir(name), filepath.ToSlash(target)); rel == ".." || strings.HasPrefix(rel, "../") {
		return refuse("to %s, outside of the package", target)
	}
	real, err := filepath.EvalSymlinks(full)
	if errors.Is(err, fs.ErrNotExist) {
		return refuse("to %s, which does not exist", target)
	}
	if err != nil {
		return refuse("to %s: %v", target, err)
	}
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return refuse("to %s: %v", target, err)
	}
	if rel, err := filepath.Rel(root, real); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return refuse("to %s, outside of the package", target)
	}
	return target, nil
}
