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
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/srpo-dev/srpo/plugins"
)

// maxFiles is the largest number of files in a package. A user who gives a home folder by mistake gets an
// error early.
const maxFiles = 100_000

// Tree is the content of a package.
type Tree struct {
	// Files are sorted by path.
	Files []FileHash
}

// FileHash is one file of a package.
type FileHash struct {
	// Path is relative to the package, with slashes.
	Path string
	// Mode is '-' for a file, 'x' for an executable file, 'l' for a symbolic link, whose content is its
	// target.
	Mode byte
	Size int64
	// SHA256 of the content, in hexadecimal.
	SHA256 string
}

func (f FileHash) String() string {
	return fmt.Sprintf("%s %c %d %s", f.SHA256, f.Mode, f.Size, f.Path)
}

// Sum returns one SHA-256 over the paths, modes, sizes and hashes of all files, in hexadecimal.
func (t Tree) Sum() string {
	h := sha256.New()
	for _, f := range t.Files {
		fmt.Fprintf(h, "%s\n", f)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Change is a difference of one file between two trees.
type Change struct {
	// Path is that of the file, and What happened to it, e.g. "changed" or "was added".
	Path, What string
}

func (c Change) String() string { return c.Path + " " + c.What }

// Describe joins changes by a separator.
func Describe(changes []Change, separator string) string {
	list := make([]string, len(changes))
	for i, c := range changes {
		list[i] = c.String()
	}
	return strings.Join(list, separator)
}

// Changes returns the differences from t to now, sorted by path; nil when there are none.
func (t Tree) Changes(now Tree) []Change {
	var out []Change
	before := map[string]FileHash{}
	for _, f := range t.Files {
		before[f.Path] = f
	}
	for _, f := range now.Files {
		b, ok := before[f.Path]
		delete(before, f.Path)
		switch {
		case !ok:
			out = append(out, Change{f.Path, "was added"})
		case b.SHA256 != f.SHA256 || b.Size != f.Size || (b.Mode == 'l') != (f.Mode == 'l'):
			out = append(out, Change{f.Path, "changed"})
		case b.Mode != f.Mode && f.Mode == 'x':
			out = append(out, Change{f.Path, "became executable"})
		case b.Mode != f.Mode:
			out = append(out, Change{f.Path, "is no longer executable"})
		}
	}
	for p := range before {
		out = append(out, Change{p, "was removed"})
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// notOwned returns why a folder may have been written by somebody other than the caller; empty: it was not.
// The caller must own the folder and everything in it, and neither the group nor others may write to any of
// it.
func notOwned(dir string) (reason string) {
	uid := os.Getuid()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && path == dir { // the folder may be given by a link
			info, err = os.Stat(dir)
		}
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != uid {
			return fmt.Errorf("%s belongs to another user", path)
		}
		if info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("%s can be written by other users", path)
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return ""
}

// HashDir hashes the package in a folder. It skips folders named __pycache__, which is safe because plugins
// run with PYTHONPYCACHEPREFIX set and do not read them, and .git at the top. Errors: NotFound when the
// folder is missing or cannot be read, Invalid for a link that leaves the package, and for anything that is
// neither a file, a folder nor a link.
func HashDir(dir string) (Tree, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return Tree{}, plugins.Errorf(plugins.NotFound, "the package's folder: %w", err).WithHint("check the path")
	}
	if !info.IsDir() {
		return Tree{}, plugins.Errorf(plugins.Invalid, "%s is not a folder", dir).
			WithHint("give the folder that contains plugin.toml")
	}
	return hash(os.DirFS(dir), dir)
}

// HashFS hashes a package in a file system such as embed.FS.
func HashFS(fsys fs.FS) (Tree, error) { return hash(fsys, "") }

func hash(fsys fs.FS, dir string) (Tree, error) {
	var t Tree
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return plugins.Errorf(plugins.NotFound, "reading %s: %w", name, err).
				WithHint("make every file of the package readable")
		}
		if name == ".git" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil // the file of a worktree or submodule
		}
		if d.IsDir() {
			if d.Name() == "__pycache__" {
				return fs.SkipDir
			}
			return nil
		}
		if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
			return plugins.Errorf(plugins.Invalid, "a file of the package has an unprintable name: %q", name).
				WithHint("rename it")
		}
		if len(t.Files) >= maxFiles {
			return plugins.Errorf(plugins.Invalid, "the package has more than %d files", maxFiles).
				WithHint("check that %s is the right folder", dir)
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
		return f, plugins.Errorf(plugins.Invalid, "%s is neither a file nor a folder (%v)", name, d.Type()).
			WithHint("remove it from the package")
	}
	unreadable := func(err error) (FileHash, error) {
		return f, plugins.Errorf(plugins.NotFound, "reading %s: %w", name, err).
			WithHint("make every file of the package readable")
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

// checkLink returns the target of a link. A target outside the package is an error.
func checkLink(dir, name string) (string, error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", plugins.Errorf(plugins.Invalid, "%s",
			fmt.Sprintf("%s is a link ", name)+fmt.Sprintf(format, args...)).
			WithHint("a package contains all its files: copy the file into it")
	}
	if dir == "" {
		return refuse("in a package that cannot contain links")
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
		return refuse("to %s, outside the package", target)
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
		return refuse("to %s, outside the package", target)
	}
	return target, nil
}
