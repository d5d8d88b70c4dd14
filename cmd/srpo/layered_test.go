package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/encoders/dinov2"
	"github.com/srpo-dev/srpo/encoders/generic"
	"github.com/srpo-dev/srpo/encoders/vjepa2"
	"github.com/srpo-dev/srpo/envs/libero"
	liberoplus "github.com/srpo-dev/srpo/envs/libero-plus"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/plugins"
)

func TestLayered(t *testing.T) {
	l := layered{
		fstest.MapFS{"a.py": {Data: []byte("top")}, "d/x": {Data: []byte("x")}},
		fstest.MapFS{"a.py": {Data: []byte("below")}, "b.py": {Data: []byte("b")}, "d/y": {Data: []byte("y")}},
	}
	require.NoError(t, fstest.TestFS(fs.FS(l[0]), "a.py"))
	for name, want := range map[string]string{"a.py": "top", "b.py": "b", "d/x": "x", "d/y": "y"} {
		data, err := fs.ReadFile(l, name)
		require.NoError(t, err)
		require.Equal(t, want, string(data))
	}
	var names []string
	require.NoError(t, fs.WalkDir(l, ".", func(path string, _ fs.DirEntry, err error) error { names = append(names, path); return err }))
	require.Equal(t, []string{".", "a.py", "b.py", "d", "d/x", "d/y"}, names)
	_, err := l.Open("c.py")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = l.ReadDir("e")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// The package of libero-plus is its own files and libero's shared ones, all of them in its hash, and nothing of its own hides a shared one.
func TestLiberoPlusIsWhole(t *testing.T) {
	c := &catalog.Catalog{Embedded: embedded, Cache: t.TempDir()}
	pkg, err := c.Find(plugins.Env, "libero-plus")
	require.NoError(t, err)
	tree, err := lock.HashDir(pkg.Dir)
	require.NoError(t, err)
	own, err := lock.HashFS(liberoplus.Files)
	require.NoError(t, err)
	shared, err := lock.HashFS(libero.Shared)
	require.NoError(t, err)
	require.Len(t, tree.Files, len(own.Files)+len(shared.Files), "a file of libero-plus hides one of libero")
	for _, f := range append(own.Files, shared.Files...) {
		require.FileExists(t, filepath.Join(pkg.Dir, f.Path))
	}
	// A changed byte of a shared module is another package, and a copy that differs is not run.
	path := filepath.Join(pkg.Dir, "scene.py")
	require.NoError(t, os.WriteFile(path, []byte("print('changed')\n"), 0o644))
	again, err := c.Find(plugins.Env, "libero-plus")
	require.NoError(t, err)
	require.Equal(t, pkg.Dir, again.Dir)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	want, err := fs.ReadFile(libero.Shared, "scene.py")
	require.NoError(t, err)
	require.Equal(t, string(want), string(data))
}

// TestListedSettings holds what plugin.toml lists against what the sources declare: a name that is missing there would be refused although the plugin takes it.
func TestListedSettings(t *testing.T) {
	sources := map[string][]string{"libero": {"lane.py"}, "libero-plus": {"lane.py", "plus_env.py"}, "openvla": {"settings.py"}, "pi0": {"vla_lerobot/settings.py", "settings.py"},
		"pi0-fast": {"vla_lerobot/settings.py", "settings.py"}, "remote": {"remote_policy.py"}}
	declared := regexp.MustCompile(`\bSetting\(\s*"(\w+)"`)
	served := map[string]plugins.Plugin{"generic": generic.New(), "dinov2": dinov2.New(), "vjepa2": vjepa2.New()}
	for _, files := range embedded {
		m, err := manifest.Load(files, "embedded")
		require.NoError(t, err)
		var want []string
		if p := served[m.Name]; p != nil {
			info, err := p.Info(t.Context())
			require.NoError(t, err)
			for _, s := range info.Settings {
				want = append(want, s.Name)
			}
		}
		for _, name := range sources[m.Name] {
			text, err := fs.ReadFile(files, name)
			require.NoError(t, err, "%s is made of other files now", m.Name)
			for _, found := range declared.FindAllSubmatch(text, -1) {
				want = append(want, string(found[1]))
			}
		}
		require.NotEmpty(t, want, m.Name)
		require.ElementsMatch(t, want, m.Settings, "settings of %s/plugin.toml", m.Name)
	}
}
