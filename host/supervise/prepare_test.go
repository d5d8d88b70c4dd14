package supervise

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
)

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), mode))
}

func open(t *testing.T, dir string) catalog.Package {
	t.Helper()
	p, err := (&catalog.Catalog{}).Open(dir)
	require.NoError(t, err)
	return p
}

const toyHead = "name = \"toy\"\nkind = \"env\"\nversion = \"1\"\nprotocol = 1\n"

func TestPrepareBuiltIn(t *testing.T) {
	l, err := (&Preparer{Program: "/opt/srpo"}).Prepare(
		background,
		catalog.Package{Kind: plugins.Env, Name: "tabletop", Origin: catalog.BuiltIn},
	)
	require.NoError(t, err)
	require.Equal(t, []string{"/opt/srpo", "plugin", "serve", "env", "tabletop"}, l.Argv)
}

// TestPrepareCommand runs a package from its folder, and refuses it after a change.
func TestPrepareCommand(t *testing.T) {
	root := t.TempDir()
	exe, err := os.Executable()
	require.NoError(t, err)
	dir := filepath.Join(root, "toy")
	write(
		t,
		filepath.Join(dir, "plugin.toml"),
		toyHead+"[command]\nexec = [\"./run.sh\"]\n[env]\n"+modeEnv+" = \"good\"\nDATA = \"{cache}/x\"\nHERE = "+
			"\"{package}\"\n",
		0o644,
	)
	write(t, filepath.Join(dir, "run.sh"), "#!/bin/sh\nexec "+exe+"\n", 0o755)
	var notices []string
	p := &Preparer{
		Cache:  filepath.Join(root, "cache"),
		Lock:   filepath.Join(root, "srpo.lock"),
		Notice: func(s string) { notices = append(notices, s) },
	}
	l, err := p.Prepare(background, open(t, dir))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "run.sh")}, l.Argv)
	require.Equal(t, filepath.Join(root, "cache", "data", "env-toy", "x"), l.Env["DATA"])
	require.DirExists(t, filepath.Dir(l.Env["DATA"]))
	require.Equal(t, dir, l.Env["HERE"])
	require.Len(t, notices, 1)
	require.Contains(t, notices[0], "is used for the first time")

	s := supervisor(t, Options{})
	proc, err := s.Start(background, l)
	require.NoError(t, err)
	configured(t, proc)
	proc.Stop()

	l, err = p.Prepare(background, open(t, dir))
	require.NoError(t, err)
	require.Len(t, notices, 1)
	s = supervisor(t, Options{Restarts: 9, Backoff: time.Millisecond})
	w := NewEnv(s, l, configure)
	for incarnation := range uint64(2) { // an unchanged package is restarted
		_, n, err := w.Client(background)
		require.NoError(t, err)
		require.Equal(t, incarnation+1, n)
		w.Failed(n, nil)
	}
	write(t, filepath.Join(dir, "run.sh"), "#!/bin/sh\nexec "+exe+" \n", 0o755)
	_, _, err = w.Client(background)
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
	require.ErrorContains(
		t,
		err,
		"env toy: it cannot be restarted: its package "+dir+" was changed while it ran: run.sh changed",
	)
	require.Contains(t, plugins.AsError(err).Hint, "srpo plugin lock "+dir)
	_, err = p.Prepare(background, open(t, dir))
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
	require.ErrorContains(t, err, "run.sh changed")
	require.Contains(t, plugins.AsError(err).Hint, "srpo plugin lock")

	p.Relock = true
	_, err = p.Prepare(background, open(t, dir))
	require.ErrorContains(t, err, "run.sh changed", "a package that was found by its name")
	byPath := open(t, dir)
	byPath.ByPath = true
	_, err = p.Prepare(background, byPath)
	require.NoError(t, err)
	require.Equal(t, "re-locked "+dir+": 1 file changed (run.sh)", notices[len(notices)-1])

	require.NoError(t, os.Chmod(filepath.Join(dir, "run.sh"), 0o644))
	p.Lock = ""
	_, err = p.Prepare(background, open(t, dir))
	require.ErrorContains(t, err, "may not be executed")
}

func TestPrepareBuilds(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "toy")
	write(
		t,
		filepath.Join(dir, "plugin.toml"),
		toyHead+"[command]\nexec = [\"./toy\"]\nbuild = [\"sh\", \"build.sh\", \"toy\"]\n",
		0o644,
	)
	write(t, filepath.Join(dir, "build.sh"), "cp source \"$1\"\ncat ../outside >> \"$1\"\nchmod +x \"$1\"\n", 0o644)
	write(t, filepath.Join(root, "outside"), "", 0o644)
	write(t, filepath.Join(dir, "source"), "#!/bin/sh\necho one\n", 0o644)
	var steps []string
	p := &Preparer{
		Cache:    filepath.Join(root, "cache"),
		Progress: func(r pyenv.Progress) { steps = append(steps, r.What) },
	}
	run := func() string {
		l, err := p.Prepare(background, open(t, dir))
		require.NoError(t, err)
		out, err := exec.Command(l.Argv[0]).Output()
		require.NoError(t, err)
		return string(out)
	}
	require.Equal(t, "one\n", run())
	require.Equal(t, "one\n", run())
	require.NoFileExists(t, filepath.Join(dir, "toy"), "the package does not change")
	require.Equal(t, "building toy: sh build.sh toy", steps[0])
	require.Len(t, steps, 1, "a build without changes reports nothing")
	// A library beside the package, as with a replace in go.mod, is not in the package's hash.
	write(t, filepath.Join(root, "outside"), "echo library\n", 0o644)
	require.Equal(t, "one\nlibrary\n", run(), "files outside the package count too")
	write(t, filepath.Join(root, "outside"), "", 0o644)
	write(t, filepath.Join(dir, "source"), "#!/bin/sh\necho two\n", 0o644)
	require.Equal(t, "two\n", run(), "changed source is built again")
	path := os.Getenv("PATH")
	t.Setenv("PATH", root)
	require.Equal(t, "two\n", run(), "without the tool, the earlier program runs")
	t.Setenv("PATH", path)

	write(t, filepath.Join(dir, "build.sh"), "echo undefined: reach >&2\nexit 1\n", 0o644)
	_, err := p.Prepare(background, open(t, dir))
	require.ErrorContains(t, err, "env toy: sh build.sh toy failed")
	require.Contains(t, plugins.AsError(err).Detail, "undefined: reach")
}

// TestPreparePython runs a Python program in its environment, made by venv without a network.
func TestPreparePython(t *testing.T) {
	want, err := pyenv.ParseRequirement(">=3.8")
	require.NoError(t, err)
	in, err := pyenv.Find(background, want, "")
	if err != nil {
		t.Skip("no Python")
	}
	root := t.TempDir()
	dir := filepath.Join(root, "toy")
	write(t, filepath.Join(dir, "plugin.toml"), toyHead+"[python]\nversion = \">=3.8\"\n", 0o644)
	write(t, filepath.Join(dir, "requirements.txt"), "# nothing\n", 0o644)
	write(t, filepath.Join(dir, "part.py"), "x = 1\n", 0o644)
	write(
		t,
		filepath.Join(dir, "plugin.py"),
		"import os, sys, part, srpo_sdk\nprint(srpo_sdk.here, sys.prefix, hash('a') == hash('a'), "+
			"os.getcwd())\nsys.exit(3)\n",
		0o644,
	)
	sdk := fstest.MapFS{"srpo_sdk/__init__.py": {Data: []byte("here = 'sdk'\n")}}
	p := &Preparer{
		Cache:       filepath.Join(root, "cache"),
		Lock:        filepath.Join(root, "srpo.lock"),
		SDK:         sdk,
		Interpreter: in.Real,
	}
	l, err := p.Prepare(background, open(t, dir))
	require.NoError(t, err)
	s := supervisor(t, Options{})
	_, err = s.Start(background, l)
	// It is not a plugin, but its output shows that its paths are right.
	require.ErrorContains(t, err, "printed on stdout before the handshake: \"sdk ")
	require.Contains(t, plugins.AsError(err).Detail, "sdk "+l.Env["VIRTUAL_ENV"]+" True "+dir)
	require.ErrorContains(t, err, "then it exited with status 3")
	require.NoDirExists(t, filepath.Join(dir, "__pycache__"), "the package is unchanged")
	compiled, err := filepath.Glob(
		filepath.Join(l.Env["PYTHONPYCACHEPREFIX"], strings.TrimPrefix(dir, "/"), "part.*.pyc"),
	)
	require.NoError(t, err)
	require.Len(t, compiled, 1)

	_, err = p.Prepare(background, open(t, dir))
	require.NoError(t, err, "and the lock still holds")
}

// On a machine with an NVIDIA driver, a package may use another list of requirements.
func TestGPURequirements(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "toy")
	write(
		t,
		filepath.Join(dir, "plugin.toml"),
		toyHead+"[python]\nversion = \">=3.8\"\ndownload_mb = 1\n[python.gpu]\nrequirements = "+
			"\"gpu.txt\"\ndownload_mb = 7\n",
		0o644,
	)
	for _, name := range []string{"requirements.txt", "gpu.txt", "plugin.py"} {
		write(t, filepath.Join(dir, name), "# "+name+"\n", 0o644)
	}
	before := nvidiaDriver
	t.Cleanup(func() { nvidiaDriver = before })
	driver := filepath.Join(root, "version")
	nvidiaDriver = []string{filepath.Join(root, "nothing"), driver}
	p := &Preparer{Cache: filepath.Join(root, "cache")}
	plain, _, ok := p.Environment(open(t, dir))
	require.True(t, ok)
	require.Equal(t, filepath.Join(dir, "requirements.txt"), plain.Requirements)
	require.Equal(t, 1.0, plain.DownloadMB)
	write(t, driver, "", 0o644)
	gpu, o, _ := p.Environment(open(t, dir))
	require.Equal(t, filepath.Join(dir, "gpu.txt"), gpu.Requirements)
	require.Equal(t, 7.0, gpu.DownloadMB)
	one, err := plain.Dir(o)
	require.NoError(t, err)
	other, err := gpu.Dir(o)
	require.NoError(t, err)
	require.NotEqual(t, one, other)
}

func TestLibraries(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "conf", "ld.so.conf"), "# comment\ninclude conf.d/*.conf\n", 0o644)
	write(t, filepath.Join(root, "conf", "conf.d", "x.conf"), filepath.Join(root, "libs")+"\n", 0o644)
	write(t, filepath.Join(root, "libs", "libconfigured.so.1"), "", 0o644)
	write(t, filepath.Join(root, "own", "libown.so.2"), "", 0o644)
	before := loaderConfig
	loaderConfig = filepath.Join(root, "conf", "ld.so.conf")
	t.Cleanup(func() { loaderConfig = before })
	t.Setenv("LD_LIBRARY_PATH", filepath.Join(root, "own"))
	require.NoError(t, CheckLibraries([]manifest.System{{Library: "libconfigured.so.1"}, {Library: "libown.so.2"}}))
	err := CheckLibraries(
		[]manifest.System{
			{Library: "libown.so.2"},
			{Library: "libEGLX.so.1", Apt: "libeglx1"},
			{Library: "libnone.so"},
		},
	)
	require.ErrorContains(t, err, "needs libEGLX.so.1 and libnone.so, which this machine does not have")
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	require.Contains(t, plugins.AsError(err).Hint, "sudo apt-get install libeglx1")
	loaderConfig = before
	require.NoError(t, CheckLibraries([]manifest.System{{Library: "libc.so.6"}}))
}

// TestPrepareServed runs a package inside srpo that srpo's own program serves, with an environment. A
// folder that asks for the same is refused.
func TestPrepareServed(t *testing.T) {
	want, err := pyenv.ParseRequirement(">=3.8")
	require.NoError(t, err)
	in, err := pyenv.Find(background, want, "")
	if err != nil {
		t.Skip("no Python")
	}
	root := t.TempDir()
	exe, err := os.Executable()
	require.NoError(t, err)
	text := toyHead + "[python]\nversion = \">=3.8\"\npost_install = \"make.py\"\n[command]\nexec = [\"{srpo}\", " +
		"\"plugin\", \"serve\"]\n[env]\n" +
		modeEnv + " = \"good\"\nMODEL = \"{made}/model\"\nLIBRARY = \"{venv}/lib\"\n"
	embedded := fstest.MapFS{"plugin.toml": {Data: []byte(text)}, "requirements.txt": {Data: []byte("# nothing\n")},
		"make.py": {Data: []byte("import sys\nopen(sys.argv[1] + '/model', 'w').write('weights')\n")}}
	c := &catalog.Catalog{Embedded: []fs.FS{embedded}, Cache: filepath.Join(root, "cache")}
	pkg, err := c.Find(plugins.Env, "toy")
	require.NoError(t, err)
	p := &Preparer{Cache: c.Cache, Program: exe, Interpreter: in.Real}
	l, err := p.Prepare(background, pkg)
	require.NoError(t, err)
	require.Equal(t, []string{exe, "plugin", "serve"}, l.Argv)
	require.Empty(t, l.Dir, "paths in its settings are the user's")
	weights, err := os.ReadFile(l.Env["MODEL"])
	require.NoError(t, err)
	require.Equal(t, "weights", string(weights))
	require.DirExists(t, l.Env["LIBRARY"])
	require.Equal(t, filepath.Dir(l.Env["LIBRARY"]), l.Env["VIRTUAL_ENV"])
	proc, err := supervisor(t, Options{}).Start(background, l)
	require.NoError(t, err)
	configured(t, proc)
	proc.Stop()

	for _, dir := range []string{pkg.Dir, filepath.Join(root, "other")} {
		if dir != pkg.Dir {
			write(t, filepath.Join(dir, "plugin.toml"), strings.Replace(text, "toy", "other", 1), 0o644)
			write(t, filepath.Join(dir, "requirements.txt"), "", 0o644)
			write(t, filepath.Join(dir, "make.py"), "", 0o644)
		}
		_, err = c.Open(dir)
		require.Equal(t, plugins.Invalid, plugins.KindOf(err))
		require.ErrorContains(t, err, "which only packages inside srpo may be")
		hint := "name a program of the package in [command] exec"
		if dir == pkg.Dir {
			hint = "give its name instead of its folder: toy"
		}
		require.Equal(t, hint, plugins.AsError(err).Hint)
	}
	pkg.Origin = catalog.Folder
	_, err = p.Prepare(background, pkg)
	require.ErrorContains(t, err, "only packages inside srpo")
}
