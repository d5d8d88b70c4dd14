package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/policies/pi0"
	pi0fast "github.com/srpo-dev/srpo/policies/pi0-fast"
)

func TestBundle(t *testing.T) {
	b := bundle{
		fstest.MapFS{"plugin.py": {Data: []byte("own")}, "data/x": {Data: []byte("x")}},
		map[string]fs.FS{"kit": fstest.MapFS{"a.py": {Data: []byte("a")}, "sub/b.py": {Data: []byte("b")}}},
	}
	require.NoError(t, fstest.TestFS(struct{ fs.FS }{b.FS}, "plugin.py", "data/x"))
	for name, want := range map[string]string{"plugin.py": "own", "data/x": "x", "kit/a.py": "a", "kit/sub/b.py": "b"} {
		data, err := fs.ReadFile(b, name)
		require.NoError(t, err)
		require.Equal(t, want, string(data))
	}
	var names []string
	require.NoError(t, fs.WalkDir(b, ".", func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	}))
	require.Equal(t, []string{".", "data", "data/x", "kit", "kit/a.py", "kit/sub", "kit/sub/b.py", "plugin.py"}, names)
	_, err := b.Open("kit/c.py")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = b.ReadDir("elsewhere")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestBundlesAreComplete checks that an unpacked package contains the plugin's files and those of its shared folders,
// and that no shared file hides one of the plugin's.
func TestBundlesAreComplete(t *testing.T) {
	c := &catalog.Catalog{Embedded: embedded, Cache: t.TempDir()}
	for _, files := range embedded {
		b, ok := files.(bundle)
		if !ok {
			continue
		}
		m, err := manifest.Load(b, "embedded")
		require.NoError(t, err)
		pkg, err := c.Find(m.Kind, m.Name)
		require.NoError(t, err)
		tree, err := lock.HashDir(pkg.Dir)
		require.NoError(t, err)
		own, err := lock.HashFS(b.FS)
		require.NoError(t, err)
		count := len(own.Files)
		for _, f := range own.Files {
			require.FileExists(t, filepath.Join(pkg.Dir, f.Path))
		}
		for folder, shared := range b.shared {
			part, err := lock.HashFS(shared)
			require.NoError(t, err)
			count += len(part.Files)
			for _, f := range part.Files {
				require.FileExists(t, filepath.Join(pkg.Dir, folder, f.Path))
			}
		}
		require.Len(t, tree.Files, count, "%s: a file hides another", m.Name)
	}
}

// TestBundleIsRestored checks that an unpacked package with a changed shared file is unpacked again.
func TestBundleIsRestored(t *testing.T) {
	c := &catalog.Catalog{Embedded: embedded, Cache: t.TempDir()}
	pkg, err := c.Find(plugins.Env, "libero-plus")
	require.NoError(t, err)
	path := filepath.Join(pkg.Dir, "libero_sim", "scene.py")
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("print('changed')\n"), 0o644))
	again, err := c.Find(plugins.Env, "libero-plus")
	require.NoError(t, err)
	require.Equal(t, pkg.Dir, again.Dir)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

// TestPiRequirements checks that pi0 and pi0-fast have the same requirements, so that their environments share
// downloads.
func TestPiRequirements(t *testing.T) {
	a, err := fs.ReadFile(pi0.Files, "requirements.txt")
	require.NoError(t, err)
	b, err := fs.ReadFile(pi0fast.Files, "requirements.txt")
	require.NoError(t, err)
	require.Equal(t, string(a), string(b))
}
