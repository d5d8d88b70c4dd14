package lock

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// pack makes a package, and returns it with the path of a lock in the same folder.
func pack(t *testing.T) (Package, string) {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "reach")
	write(t, filepath.Join(dir, "plugin.toml"), "name = \"reach\"\n", 0o644)
	write(t, filepath.Join(dir, "plugin.py"), "import srpo_sdk\n", 0o644)
	write(t, filepath.Join(dir, "bin", "tool"), "#!/bin/sh\n", 0o755)
	write(t, filepath.Join(dir, "meshes", "arm.bin"), strings.Repeat("x", 3<<20), 0o644)
	require.NoError(t, os.Symlink("plugin.py", filepath.Join(dir, "main.py")))
	return Package{Kind: plugins.Env, Name: "reach", Version: "0.1.0", Dir: dir}, filepath.Join(root, FileName)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), mode))
	require.NoError(t, os.Chmod(path, mode))
}

func TestFirstUseAddsThenNothingChanges(t *testing.T) {
	p, path := pack(t)
	result, err := Check(path, p, false)
	require.NoError(t, err)
	require.Equal(t, Result{Added: true}, result)
	first, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(first), `path = "reach"`)
	write(t, filepath.Join(p.Dir, "__pycache__", "plugin.cpython-311.pyc"), "cached", 0o644)
	write(t, filepath.Join(p.Dir, "lib", "__pycache__", "x.pyc"), "cached", 0o644)
	write(t, filepath.Join(p.Dir, ".git", "index"), "git's", 0o644)
	result, err = Check(path, p, false)
	require.NoError(t, err)
	require.Zero(t, result)
	second, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(first), string(second))

	moved := p
	moved.Dir = filepath.Join(t.TempDir(), "elsewhere")
	require.NoError(t, os.CopyFS(moved.Dir, os.DirFS(p.Dir)))
	result, err = Check(path, moved, false)
	require.NoError(t, err, "the same files in another folder")
	require.Zero(t, result)
}

func TestTampering(t *testing.T) {
	for _, c := range []struct {
		name, want string
		do         func(t *testing.T, dir string)
	}{
		{"one byte", "plugin.py changed",
			func(t *testing.T, dir string) { write(t, filepath.Join(dir, "plugin.py"), "import srpo_sdl\n", 0o644) }},
		{"last byte of a large file", "meshes/arm.bin changed", func(t *testing.T, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, "meshes", "arm.bin"), os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte("y"), 3<<20-1)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}},
		{"added", "sitecustomize.py was added",
			func(t *testing.T, dir string) { write(t, filepath.Join(dir, "sitecustomize.py"), "", 0o644) }},
		{"removed", "bin/tool was removed",
			func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "bin", "tool"))) }},
		{"executable", "plugin.py became executable",
			func(t *testing.T, dir string) { require.NoError(t, os.Chmod(filepath.Join(dir, "plugin.py"), 0o755)) }},
		{"not executable", "bin/tool is no longer executable", func(t *testing.T, dir string) {
			require.NoError(t, os.Chmod(filepath.Join(dir, "bin", "tool"), 0o644))
		}},
		{"link turned", "main.py changed", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "main.py")))
			require.NoError(t, os.Symlink("bin/tool", filepath.Join(dir, "main.py")))
		}},
		{"file for a link", "main.py changed", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "main.py")))
			write(t, filepath.Join(dir, "main.py"), "plugin.py", 0o644) // the same content as the link
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, path := pack(t)
			_, err := Check(path, p, false)
			require.NoError(t, err)
			c.do(t, p.Dir)
			_, err = Check(path, p, false)
			require.ErrorContains(t, err, c.want)
			var e *plugins.Error
			require.True(t, errors.As(err, &e))
			require.Equal(t, plugins.Corrupt, e.Kind)
			require.Equal(t, path, e.Place)
			require.Contains(t, e.Hint, "srpo plugin lock "+p.Dir)

			changes, err := Relock(path, p)
			require.NoError(t, err)
			require.Equal(t, c.want, Describe(changes, ", "))
			result, err := Check(path, p, false)
			require.NoError(t, err)
			require.Zero(t, result)
		})
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, want string
		do         func(t *testing.T, dir string)
	}{
		{"absolute link", "data is a link to /etc/hostname, an absolute path", func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink("/etc/hostname", filepath.Join(dir, "data")))
		}},
		{"link out", "data is a link to ../../x, outside the package",
			func(t *testing.T, dir string) { require.NoError(t, os.Symlink("../../x", filepath.Join(dir, "data"))) }},
		{"link to nothing", "which does not exist",
			func(t *testing.T, dir string) { require.NoError(t, os.Symlink("nothing", filepath.Join(dir, "data"))) }},
		{"loop", "data is a link to data",
			func(t *testing.T, dir string) { require.NoError(t, os.Symlink("data", filepath.Join(dir, "data"))) }},
		{"fifo", "pipe is neither a file nor a folder",
			func(t *testing.T, dir string) { require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644)) }},
		{"newline in a name", "unprintable name",
			func(t *testing.T, dir string) { write(t, filepath.Join(dir, "a\nb"), "", 0o644) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, path := pack(t)
			c.do(t, p.Dir)
			_, err := Check(path, p, false)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, plugins.Invalid, plugins.KindOf(err))
			require.NoFileExists(t, path)
		})
	}
	_, err := HashDir("/nonexistent")
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
}

func TestBrokenLock(t *testing.T) {
	p, path := pack(t)
	_, err := Check(path, p, false)
	require.NoError(t, err)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	tree, err := HashDir(p.Dir)
	require.NoError(t, err)
	for _, c := range []struct {
		name, text, want string
		kind             plugins.ErrorKind
	}{
		{"not TOML", "what is this", "line 1", plugins.Corrupt},
		{"another form", "version = 7\n", "format 7", plugins.Mismatch},
		{"a changed hash", strings.Replace(string(good), tree.Files[0].SHA256, strings.Repeat("0", 64), 1),
			"does not have the hash", plugins.Corrupt},
		{"a removed file", strings.Replace(string(good), "  \""+tree.Files[1].String()+"\",\n", "", 1),
			"does not have the hash", plugins.Corrupt},
		{"unknown key", "version = 1\nsurprise = 2\n", "unknown key surprise", plugins.Corrupt},
	} {
		write(t, path, c.text, 0o644)
		_, err := Check(path, p, false)
		require.ErrorContains(t, err, c.want, c.name)
		require.Equal(t, c.kind, plugins.KindOf(err), c.name)
	}
}

// A package that only the user can write is locked again. One that another user may have changed is refused.
func TestCheckRelocks(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		do           func(t *testing.T, p *Package)
	}{
		{"own", "", func(*testing.T, *Package) {}},
		{"own, given by a link", "", func(t *testing.T, p *Package) {
			require.NoError(t, os.Rename(p.Dir, p.Dir+"-target"))
			require.NoError(t, os.Symlink(p.Dir+"-target", p.Dir))
		}},
		{"a file that the group can write", "bin/tool can be written by other users", func(t *testing.T, p *Package) {
			require.NoError(t, os.Chmod(filepath.Join(p.Dir, "bin", "tool"), 0o775))
		}},
		{"a folder that others can write", "meshes can be written by other users", func(t *testing.T, p *Package) {
			require.NoError(t, os.Chmod(filepath.Join(p.Dir, "meshes"), 0o757))
		}},
		{"another folder", "it was locked in another folder, reach", func(t *testing.T, p *Package) {
			require.NoError(t, os.Rename(p.Dir, p.Dir+"-moved"))
			p.Dir += "-moved"
		}},
		{"another user's file", "plugin.toml belongs to another user", func(t *testing.T, p *Package) {
			if os.Getuid() != 0 {
				t.Skip("only root can give a file away")
			}
			require.NoError(t, os.Chown(filepath.Join(p.Dir, "plugin.toml"), 4711, -1))
		}},
		{"another user's folder", " belongs to another user", func(t *testing.T, p *Package) {
			if os.Getuid() != 0 {
				t.Skip("only root can give a folder away")
			}
			require.NoError(t, os.Chown(p.Dir, 4711, -1))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, path := pack(t)
			_, err := Check(path, p, true)
			require.NoError(t, err)
			write(t, filepath.Join(p.Dir, "plugin.py"), "import srpo_sdk as s\n", 0o644)
			c.do(t, &p)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			_, err = Check(path, p, false)
			require.Equal(t, plugins.Corrupt, plugins.KindOf(err), "without relock")

			result, err := Check(path, p, true)
			after, readErr := os.ReadFile(path)
			require.NoError(t, readErr)
			if c.reason != "" {
				require.ErrorContains(t, err, "plugin.py changed")
				require.Contains(t, plugins.AsError(err).Hint, c.reason)
				require.Equal(t, string(before), string(after))
				return
			}
			require.NoError(t, err)
			require.Equal(t, "plugin.py changed", Describe(result.Relocked, ", "))
			require.False(t, result.Added)
			require.NotEqual(t, string(before), string(after))
			result, err = Check(path, p, true)
			require.NoError(t, err)
			require.Zero(t, result)
		})
	}
}

func TestConcurrentHostsKeepAllEntries(t *testing.T) {
	p, path := pack(t)
	var wg sync.WaitGroup
	for i := range 8 {
		q := p
		q.Name = string(rune('a' + i))
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := Check(path, q, false); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	f, err := Load(path)
	require.NoError(t, err)
	require.Len(t, f.Entries(), 8)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	require.NoError(t, err)
	require.Empty(t, left)
	f.Remove(plugins.Env, "c")
	require.NoError(t, f.Write())
	f, err = Load(path)
	require.NoError(t, err)
	require.Len(t, f.Entries(), 7)
}

func TestHashFSIsHashDir(t *testing.T) {
	fsys := fstest.MapFS{
		"plugin.toml":         {Data: []byte("x")},
		"a/b.py":              {Data: []byte("y")},
		"a/__pycache__/b.pyc": {Data: []byte("z")},
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "plugin.toml"), "x", 0o644)
	write(t, filepath.Join(dir, "a", "b.py"), "y", 0o644)
	want, err := HashDir(dir)
	require.NoError(t, err)
	got, err := HashFS(fsys)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Len(t, got.Files, 2)
	require.Equal(t, want.Sum(), got.Sum())
}

func TestQuote(t *testing.T) {
	p, path := pack(t)
	p.Version = "1 \"odd\" \\ version\n"
	f, err := Load(path)
	require.NoError(t, err)
	tree, err := HashDir(p.Dir)
	require.NoError(t, err)
	f.Add(p, tree)
	require.NoError(t, f.Write())
	f, err = Load(path)
	require.NoError(t, err)
	require.Equal(t, p.Version, f.Entries()[0].Version)
}
