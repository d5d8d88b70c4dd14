package catalog

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

func manifestText(name, kind string) string {
	return "name = \"" + name + "\"\nkind = \"" + kind + "\"\nversion = \"0.1.0\"\nprotocol = 1\n[command]\nexec = " +
		"[\"./run.sh\"]\n"
}

func put(t *testing.T, dir, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plugin.toml"), []byte(text), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\n"), 0o755))
}

func catalog(t *testing.T) *Catalog {
	t.Helper()
	root := t.TempDir()
	put(t, filepath.Join(root, "a", "reach"), manifestText("reach", "env"))
	put(t, filepath.Join(root, "a", "tabletop"), manifestText("tabletop", "env")) // same name as a built-in package
	put(t, filepath.Join(root, "b", "reach"), manifestText("reach", "env"))
	put(t, filepath.Join(root, "b", "broken"), "nmae = 1\n")
	embedded := fstest.MapFS{
		"plugin.toml": {Data: []byte(manifestText("libero", "env"))},
		"run.sh":      {Data: []byte("#!/bin/sh\necho hi\n")},
		"sub/x.py":    {Data: []byte("1\n")},
	}
	return &Catalog{
		BuiltIns: []BuiltInPackage{
			{Kind: plugins.Env, Name: "tabletop"},
			{Kind: plugins.Policy, Name: "tiny"},
			{Kind: plugins.Encoder, Name: "pixel"},
		},
		Embedded: []fs.FS{
			embedded,
		},
		Path:  []string{filepath.Join(root, "a"), filepath.Join(root, "b"), filepath.Join(root, "absent")},
		Cache: filepath.Join(root, "cache"),
	}
}

func TestFind(t *testing.T) {
	c := catalog(t)
	p, err := c.Find(plugins.Env, "tabletop")
	require.NoError(t, err)
	require.Equal(t, BuiltIn, p.Origin, "a part of srpo takes precedence")
	p, err = c.Find(plugins.Env, filepath.Join(c.Path[0], "tabletop"))
	require.NoError(t, err)
	require.Equal(t, Folder, p.Origin, "a path takes precedence")
	p, err = c.Find(plugins.Env, filepath.Join(c.Path[0], "tabletop", "plugin.toml"))
	require.NoError(t, err)
	require.Equal(t, filepath.Join(c.Path[0], "tabletop"), p.Dir)
	p, err = c.Find(plugins.Env, "reach")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(c.Path[0], "reach"), p.Dir, "the first folder wins")
	p, err = c.Find(plugins.Env, "libero")
	require.NoError(t, err)
	require.Equal(t, Embedded, p.Origin)
	require.FileExists(t, filepath.Join(p.Dir, "sub", "x.py"))

	list, broken := c.List(plugins.Env)
	require.Len(t, broken, 1)
	require.Len(t, list, 3)
	all, _ := c.List("")
	require.Len(t, all, 5)
}

func TestNotFound(t *testing.T) {
	c := catalog(t)
	for _, c2 := range []struct {
		kind                plugins.Kind
		name, message, hint string
		is                  plugins.ErrorKind
	}{
		{plugins.Env, "table-top", `no env is called "table-top"; there is tabletop, libero, reach`,
			`did you mean "tabletop"?`, plugins.NotFound},
		{plugins.Policy, "openvla", `there is tiny`, "plugin_path", plugins.NotFound},
		{plugins.Policy, "tabletop", "no policy is called", "", plugins.NotFound},
		{plugins.Env, "sh", "no env is called", "", plugins.NotFound}, // PATH is not searched
		{plugins.Env, "", "no env given", "tabletop, libero, reach", plugins.Invalid},
		{plugins.Env, "./nowhere", "no plugin package in", "srpo plugin init", plugins.NotFound},
		{plugins.Policy, filepath.Join(c.Path[0], "reach"), "is of kind env, not policy", "", plugins.Invalid},
		{plugins.Env, "broken", "unknown key nmae", "", plugins.Invalid},
	} {
		_, err := c.Find(c2.kind, c2.name)
		e := plugins.AsError(err)
		require.NotNil(t, e, c2.name)
		require.Equal(t, c2.is, e.Kind, err)
		require.Contains(t, e.Error(), c2.message)
		require.Contains(t, e.Hint, c2.hint)
	}
	t.Chdir(c.Path[0])
	put(t, filepath.Join(c.Path[0], "elsewhere"), manifestText("other", "env"))
	c.Path = nil
	_, err := c.Find(plugins.Env, "elsewhere")
	require.Contains(t, plugins.AsError(err).Hint, "./elsewhere")
}

func TestUnpackedPackagesAreVerified(t *testing.T) {
	c := catalog(t)
	p, err := c.Find(plugins.Env, "libero")
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(p.Dir, "run.sh"))
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&0o111)
	for _, tamper := range []func(){
		func() { require.NoError(t, os.WriteFile(filepath.Join(p.Dir, "sub", "x.py"), []byte("2\n"), 0o644)) },
		func() { require.NoError(t, os.WriteFile(filepath.Join(p.Dir, "more.py"), nil, 0o644)) },
		func() { require.NoError(t, os.Remove(filepath.Join(p.Dir, "run.sh"))) },
	} {
		tamper()
		again, err := c.Find(plugins.Env, "libero")
		require.NoError(t, err)
		require.Equal(t, p.Dir, again.Dir)
		data, err := os.ReadFile(filepath.Join(p.Dir, "sub", "x.py"))
		require.NoError(t, err)
		require.Equal(t, "1\n", string(data))
		require.NoFileExists(t, filepath.Join(p.Dir, "more.py"))
		require.FileExists(t, filepath.Join(p.Dir, "run.sh"))
	}
	var wg sync.WaitGroup
	require.NoError(t, os.RemoveAll(p.Dir))
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := c.Find(plugins.Env, "libero"); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	c.Cache = "/proc/nothing"
	_, err = c.Find(plugins.Env, "libero")
	require.Equal(t, plugins.Exhausted, plugins.KindOf(err))
}
