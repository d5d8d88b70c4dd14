package pyenv

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

var background = context.Background()

func requirement(t *testing.T, text string) Requirement {
	t.Helper()
	r, err := ParseRequirement(text)
	require.NoError(t, err)
	return r
}

func script(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
}

// anyPython returns a Python of this machine.
func anyPython(t *testing.T) Interpreter {
	t.Helper()
	in, err := Find(background, requirement(t, ">=3.8"), "")
	if err != nil || !in.Venv {
		t.Skip("no Python with venv on this machine")
	}
	in.Path = in.Real // a shim takes a second
	return in
}

func TestRequirement(t *testing.T) {
	for _, c := range []struct {
		text    string
		yes, no []Version
	}{
		{"3.11", []Version{{3, 11, 0}, {3, 11, 9}}, []Version{{3, 12, 0}, {3, 1, 1}}},
		{"3.11.7", []Version{{3, 11, 7}}, []Version{{3, 11, 8}}},
		{"==3.11.*", []Version{{3, 11, 7}}, []Version{{3, 12, 0}}},
		{">=3.10", []Version{{3, 10, 0}, {3, 13, 1}}, []Version{{3, 9, 18}}},
		{">=3.10, <3.13", []Version{{3, 12, 9}}, []Version{{3, 13, 0}, {3, 9, 0}}},
		{">3.10", []Version{{3, 11, 0}}, []Version{{3, 10, 5}}},
		{">=3.10,!=3.12,<=3.13", []Version{{3, 11, 0}, {3, 13, 4}}, []Version{{3, 12, 4}, {3, 14, 0}}},
	} {
		r := requirement(t, c.text)
		for _, v := range c.yes {
			require.True(t, r.Allows(v), "%s %v", c.text, v)
		}
		for _, v := range c.no {
			require.False(t, r.Allows(v), "%s %v", c.text, v)
		}
	}
	require.Equal(t, []int{12, 11, 10}, requirement(t, ">=3.10,<3.13").minors())
	require.Equal(t, []int{11}, requirement(t, "3.11.7").minors())
	for _, bad := range []string{"", "3", "2.7", "python3", "3.x", ">=", "3.11.7.1", "3.-1", "~=3.10"} {
		_, err := ParseRequirement(bad)
		require.Equal(t, plugins.Invalid, plugins.KindOf(err), bad)
	}
	require.False(t, Requirement{}.Allows(Version{3, 11, 0}))
}

func TestFindSkipsBrokenShims(t *testing.T) {
	in := anyPython(t)
	v := requirement(t, fmt.Sprintf("3.%d", in.Version.Minor))
	name := fmt.Sprintf("python3.%d", in.Version.Minor)
	root := t.TempDir()
	shims, good := filepath.Join(root, "shims"), filepath.Join(root, "versions", in.Version.String(), "bin")
	broken := "#!/bin/sh\necho \"pyenv: " + name + ": command not found\" >&2\nexit 127\n"
	for _, n := range []string{"python3", name, "python"} {
		script(t, filepath.Join(shims, n), broken)
	}
	script(t, filepath.Join(good, "python3"), "#!/bin/sh\nexec "+in.Real+" \"$@\"\n")
	t.Setenv("PATH", shims+":/nonexistent")
	t.Setenv("PYENV_ROOT", root)
	got, err := Find(background, v, "")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(good, "python3"), got.Path)
	require.Equal(t, in.Version, got.Version)
	require.Equal(t, in.Real, got.Real)

	// A given Python is the only one that is tried.
	_, err = Find(background, v, filepath.Join(shims, "python3"))
	require.ErrorContains(t, err, "command not found")
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	_, err = Find(background, requirement(t, "3.7.1"), in.Path)
	require.Equal(t, plugins.Mismatch, plugins.KindOf(err))
	_, err = Find(background, v, "/nonexistent/python")
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))

	// No Python is suitable: the error lists the candidates with reasons.
	t.Setenv("HOME", root)
	_, err = Find(background, requirement(t, "3.6.99"), "")
	require.ErrorContains(t, err, "no Python 3.6.99 on this machine")
	e := plugins.AsError(err)
	require.Contains(t, e.Detail, name+": command not found")
	require.Contains(t, e.Detail, "is "+in.Version.String())
	require.Contains(t, e.Hint, "uv python install 3.6")

	// Scan lists each Python that runs once, whatever its number of names.
	script(t, filepath.Join(good, "python3."+fmt.Sprint(in.Version.Minor)), "#!/bin/sh\nexec "+in.Real+" \"$@\"\n")
	n := 0
	for _, found := range Scan(background) {
		require.NotContains(t, found.Path, shims)
		if found.Real == in.Real {
			n++
		}
	}
	require.Equal(t, 1, n)
}

func TestByVersion(t *testing.T) {
	require.Positive(t, byVersion("a/3.11.7", "b/3.9.18"))
	require.Positive(t, byVersion("cpython-3.12.1-linux-x86_64", "cpython-3.11.9-linux-x86_64"))
	require.Zero(t, byVersion("x", "x"))
}

func TestCheckRequirements(t *testing.T) {
	n, err := checkRequirements(
		"# list\n\nnumpy==1.26.4 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n    # via x\n--index-url "+
			"https://x\nsix==1 --hash=sha256:cc # comment\n",
		"r.txt",
	)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	_, err = checkRequirements("six==1 --hash=sha256:cc\n# c\nnumpy==1.26.4\n", "r.txt")
	require.ErrorContains(t, err, "r.txt:3: the requirement numpy==1.26.4 has no hash")
	_, err = checkRequirements("-e .\n", "r.txt")
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))
	n, err = checkRequirements("", "r.txt")
	require.NoError(t, err)
	require.Zero(t, n)
}

// wheel writes a small distribution and returns its path and hash.
func wheel(t *testing.T, dir, name string) (path, hash string) {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	info := name + "-1.0.dist-info/"
	record := ""
	for _, f := range [][2]string{
		{name + ".py", "value = 41 + 1\n"},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
	} {
		w, err := z.Create(f[0])
		require.NoError(t, err)
		_, err = w.Write([]byte(f[1]))
		require.NoError(t, err)
		sum := sha256.Sum256([]byte(f[1]))
		record += fmt.Sprintf("%s,sha256=%s,%d\n", f[0], base64.RawURLEncoding.EncodeToString(sum[:]), len(f[1]))
	}
	w, err := z.Create(info + "RECORD")
	require.NoError(t, err)
	_, err = w.Write([]byte(record + info + "RECORD,,\n"))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	path = filepath.Join(dir, name+"-1.0-py3-none-any.whl")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	return path, fmt.Sprintf("%x", sha256.Sum256(b.Bytes()))
}

// spec makes a package that requires one local distribution.
func spec(t *testing.T, in Interpreter) Spec {
	t.Helper()
	dir := t.TempDir()
	path, hash := wheel(t, dir, "srpotoy")
	req := filepath.Join(dir, "requirements.txt")
	require.NoError(t, os.WriteFile(req, []byte("srpotoy @ file://"+path+" --hash=sha256:"+hash+"\n"), 0o644))
	return Spec{
		Name:         "toy",
		Python:       requirement(t, fmt.Sprintf("3.%d", in.Version.Minor)),
		Requirements: req,
		NoDeps:       true,
		DiskMB:       1,
	}
}

func offline(t *testing.T) {
	t.Setenv("PIP_NO_INDEX", "1")
	t.Setenv("UV_OFFLINE", "1")
}

func TestEnsure(t *testing.T) {
	in := anyPython(t)
	offline(t)
	uv, _ := UV(background)
	haveUV := uv != ""
	for _, pipOnly := range []bool{true, false} {
		t.Run(fmt.Sprint("pip only ", pipOnly), func(t *testing.T) {
			if !pipOnly && !haveUV {
				t.Skip("no uv")
			}
			s := spec(t, in)
			var steps []string
			o := Options{
				Cache:       t.TempDir(),
				Interpreter: in.Path,
				PipOnly:     pipOnly,
				Progress:    func(p Progress) { steps = append(steps, p.What) },
			}
			require.False(t, Installed(s, o))
			_, err := Open(s, o)
			require.Equal(t, plugins.NotFound, plugins.KindOf(err))
			env, err := Ensure(background, s, o)
			require.NoError(t, err)
			require.True(t, env.Built)
			require.True(t, Installed(s, o))
			require.Contains(
				t,
				strings.Join(steps, "\n"),
				"installing toy's Python environment (1 packages, 1 MB on disk) into "+
					""+env.Dir+" with Python "+in.Version.String(),
			)
			out, err := exec.Command(env.Python, "-c", "import srpotoy; print(srpotoy.value)").Output()
			require.NoError(t, err)
			require.Equal(t, "42\n", string(out))
			require.NotEmpty(t, env.Stamp.Integrity)
			require.Equal(t, in.Version.String(), env.Stamp.Version)

			again, err := Ensure(background, s, o)
			require.NoError(t, err)
			require.False(t, again.Built)
			require.Equal(t, env.Stamp, again.Stamp)

			if pipOnly && haveUV {
				return // the rest does not depend on the installer, and uv is faster
			}
			// A changed environment is refused with the name of the file, and built again with Repair.
			sites, err := filepath.Glob(filepath.Join(env.Dir, "lib", "python3.*", "site-packages"))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(sites[0], "srpotoy.py"), []byte("value = 0\n"), 0o644))
			_, err = Ensure(background, s, o)
			require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
			require.ErrorContains(t, err, "srpotoy.py has 10 bytes instead of 15")
			_, err = Open(s, o)
			require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
			require.Contains(t, plugins.AsError(err).Hint, "srpo plugin install "+s.Name+" --repair")
			o.Repair = true
			env, err = Ensure(background, s, o)
			require.NoError(t, err)
			require.True(t, env.Built)
			o.Repair = false
			require.NoError(t, os.WriteFile(filepath.Join(sites[0], "evil.pth"), []byte("import os\n"), 0o644))
			_, err = Ensure(background, s, o)
			require.Equal(t, plugins.Corrupt, plugins.KindOf(err))

			// An unfinished environment has no stamp. It is built again.
			require.NoError(t, os.Remove(filepath.Join(env.Dir, stampFile)))
			env, err = Ensure(background, s, o)
			require.NoError(t, err)
			require.True(t, env.Built)
			require.NoFileExists(t, filepath.Join(sites[0], "evil.pth"))
		})
	}
}

func TestEnsureFailures(t *testing.T) {
	in := anyPython(t)
	offline(t)
	o := Options{Cache: t.TempDir(), Interpreter: in.Path}

	s := spec(t, in)
	text, err := os.ReadFile(s.Requirements)
	require.NoError(t, err)
	wrong := s
	wrong.Requirements = filepath.Join(t.TempDir(), "requirements.txt")
	require.NoError(
		t,
		os.WriteFile(
			wrong.Requirements,
			append(text[:len(text)-65], append([]byte(strings.Repeat("0", 64)), '\n')...),
			0o644,
		),
	)
	_, err = Ensure(background, wrong, o)
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err), err)
	e := plugins.AsError(err)
	require.Regexp(t, "(?i)hash mismatch|do not match the hashes", e.Detail, "the output of the installer")
	require.Contains(t, e.Hint, "do not install it")
	dir, err := wrong.Dir(o)
	require.NoError(t, err)
	require.NoDirExists(t, dir, "no unfinished environment is left")
	require.FileExists(t, dir+".log")

	absent := s
	absent.Requirements = filepath.Join(t.TempDir(), "requirements.txt")
	require.NoError(
		t,
		os.WriteFile(
			absent.Requirements,
			[]byte("srpo-no-such-thing==1 --hash=sha256:"+strings.Repeat("0", 64)+"\n"),
			0o644,
		),
	)
	_, err = Ensure(background, absent, o)
	require.Equal(t, plugins.NotFound, plugins.KindOf(err), err)

	huge := s
	huge.DiskMB = 1e15
	_, err = Ensure(background, huge, o)
	require.Equal(t, plugins.Exhausted, plugins.KindOf(err))
	require.ErrorContains(t, err, "Python environment of toy: needs")

	gone := s
	gone.Requirements = "/nonexistent/requirements.txt"
	_, err = Ensure(background, gone, o)
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))

	ctx, cancel := context.WithCancel(background)
	cancel()
	_, err = Ensure(ctx, s, o)
	require.Equal(t, plugins.Canceled, plugins.KindOf(err), err)
}

// TestUVDownloadsPython simulates a machine without the required Python, and a uv that downloads it.
func TestUVDownloadsPython(t *testing.T) {
	in := anyPython(t)
	offline(t)
	bin, root := t.TempDir(), t.TempDir()
	calls := filepath.Join(root, "calls")
	const version = "3.6" // no machine has it any more; the one from uv only reports this version
	uv := func(download string) {
		script(t, filepath.Join(bin, "uv"), `#!/bin/sh
echo "$*" >> `+calls+`
case "$1 $2" in
--version*) echo uv 9.9.9 ;;
"python install") `+download+` ;;
"venv "*) for dir; do :; done; exec `+in.Real+` -I -m venv --without-pip "$dir" ;;
*) exit 1 ;;
esac
`)
	}
	t.Setenv("PATH", bin+":/bin") // for sh and mkdir
	t.Setenv("HOME", root)
	t.Setenv("PYENV_ROOT", root)
	t.Setenv("XDG_DATA_HOME", root)
	t.Setenv("UV_PYTHON_INSTALL_DIR", "")
	want := requirement(t, version)
	if found, err := Find(background, want, ""); err == nil {
		t.Skipf("this machine has a Python %s: %s", version, found.Path)
	}
	requirements := filepath.Join(root, "requirements.txt")
	require.NoError(t, os.WriteFile(requirements, nil, 0o644))
	s := Spec{Name: "toy", Python: want, Requirements: requirements}
	var steps []string
	o := Options{Cache: t.TempDir(), Progress: func(p Progress) { steps = append(steps, p.What) }}
	log := func() string { text, _ := os.ReadFile(calls); return string(text) }

	// The download fails: the error contains the output of uv and other remedies.
	uv("echo 'no download for you' >&2; exit 2")
	_, err := Ensure(background, s, o)
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	require.ErrorContains(t, err, "no Python "+version+" on this machine, and uv could not download one")
	require.Contains(t, plugins.AsError(err).Detail, "no download for you")
	require.Contains(t, plugins.AsError(err).Hint, "or give its path in [host] python")

	// uv reports success, but there is no Python.
	uv("true")
	_, err = Ensure(background, s, o)
	require.ErrorContains(t, err, "but none in "+filepath.Join(o.Cache, "python")+" runs")

	old := filepath.Join(root, "old")
	script(t, old, `#!/bin/sh
echo '{"version": [3, 6, 15], "real": "`+in.Real+`", "implementation": "cpython", "venv": true, "pip": ""}'
`)
	uv(`d="$UV_PYTHON_INSTALL_DIR/cpython-3.6.15-linux/bin"; mkdir -p "$d"; cp ` + old + ` "$d/python3"`)
	steps = nil
	env, err := Ensure(background, s, o)
	require.NoError(t, err)
	require.True(t, env.Built)
	require.Contains(
		t,
		steps,
		"there is no Python "+version+" on this machine: uv downloads one into "+filepath.Join(o.Cache, "python"),
	)
	require.Contains(t, log(), "python install "+version+"\n")

	// The next environment uses the existing one, and a given Python is the only one that is tried.
	require.NoError(t, os.Remove(calls))
	s.Name = "another"
	_, err = Ensure(background, s, o)
	require.NoError(t, err)
	require.NotContains(t, log(), "python install")
	s.Name, o.Interpreter = "third", filepath.Join(bin, "uv")
	_, err = Ensure(background, s, o)
	require.ErrorContains(t, err, "does not run")
	require.NotContains(t, log(), "python install")

	// Without uv the error suggests it.
	o = Options{Cache: t.TempDir(), PipOnly: true}
	_, err = Ensure(background, s, o)
	require.Contains(t, plugins.AsError(err).Hint, "where uv is installed, srpo uses it to download one")
}

func TestTwoHostsInstallOnce(t *testing.T) {
	in := anyPython(t)
	offline(t)
	s := spec(t, in)
	require.NoError(t, os.WriteFile(s.Requirements, []byte("# nothing\n"), 0o644))
	o := Options{Cache: t.TempDir(), Interpreter: in.Path}
	var mu sync.Mutex
	built := 0
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			env, err := Ensure(background, s, o)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if env.Built {
				built++
			}
		}()
	}
	wg.Wait()
	require.Equal(t, 1, built)
}

func TestCacheDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	t.Setenv("SRPO_CACHE", dir)
	got, err := CacheDir()
	require.NoError(t, err)
	require.Equal(t, dir, got)
	t.Setenv("SRPO_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", dir)
	got, err = CacheDir()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "srpo"), got)
	t.Setenv("SRPO_CACHE", "/proc/nothing")
	_, err = CacheDir()
	require.Equal(t, plugins.Exhausted, plugins.KindOf(err))
}

// The post-install program runs once, in the new environment. Its files are checked like all others, and
// the program is part of the hash of the environment.
func TestPostInstall(t *testing.T) {
	in := anyPython(t)
	offline(t)
	dir := t.TempDir()
	s := Spec{
		Name:         "toy",
		Python:       requirement(t, fmt.Sprintf("3.%d", in.Version.Minor)),
		Requirements: filepath.Join(dir, "requirements.txt"),
		PostInstall:  filepath.Join(dir, "make.py"),
	}
	require.NoError(t, os.WriteFile(s.Requirements, []byte("# nothing\n"), 0o644))
	count := filepath.Join(dir, "count")
	program := func(text string) {
		t.Helper()
		require.NoError(
			t,
			os.WriteFile(
				s.PostInstall,
				[]byte("import os, sys\nopen("+fmt.Sprintf("%q", count)+", 'a').write('x')\n"+text),
				0o644,
			),
		)
	}
	var steps []string
	o := Options{
		Cache:       t.TempDir(),
		Interpreter: in.Path,
		Progress:    func(p Progress) { steps = append(steps, p.What) },
	}
	program("os.mkdir(sys.argv[1] + '/sub')\nopen(sys.argv[1] + '/sub/model', 'w').write(sys.prefix)\n")
	env, err := Ensure(background, s, o)
	require.NoError(t, err)
	made, err := os.ReadFile(filepath.Join(env.Made, "sub", "model"))
	require.NoError(t, err)
	require.Equal(t, env.Dir, string(made), "in the new environment")
	require.Contains(t, steps, "running make.py of toy")
	require.Len(t, env.Stamp.Made, 1)

	again, err := Ensure(background, s, o)
	require.NoError(t, err)
	require.False(t, again.Built)
	require.Equal(t, env.Made, again.Made)
	runs, err := os.ReadFile(count)
	require.NoError(t, err)
	require.Equal(t, "x", string(runs), "once")

	model := filepath.Join(env.Made, "sub", "model")
	require.NoError(t, os.WriteFile(model, []byte(strings.ToUpper(string(made))), 0o644))
	_, err = Open(s, o)
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
	require.ErrorContains(t, err, "sub/model changed")
	require.Contains(t, plugins.AsError(err).Hint, "srpo plugin install toy --repair")
	require.NoError(t, os.Remove(model))
	_, err = Open(s, o)
	require.ErrorContains(t, err, "sub/model was removed")
	o.Repair = true
	env, err = Ensure(background, s, o)
	require.NoError(t, err)
	require.FileExists(t, model)
	o.Repair = false

	before := env.Dir
	program("open(sys.argv[1] + '/model', 'w').write('2')\n")
	env, err = Ensure(background, s, o)
	require.NoError(t, err)
	require.NotEqual(t, before, env.Dir, "another program makes another environment")

	program("print('weights have the wrong shape')\nsys.exit(3)\n")
	_, err = Ensure(background, s, o)
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
	require.ErrorContains(t, err, "make.py, the post-install program, failed: exit status 3")
	require.Contains(t, plugins.AsError(err).Detail, "weights have the wrong shape")
	gone, err := s.Dir(o)
	require.NoError(t, err)
	require.NoDirExists(t, gone, "no unfinished environment is left")
	program("")
	_, err = Ensure(background, s, o)
	require.ErrorContains(t, err, "make.py made no file")
	s.PostInstall = filepath.Join(dir, "none.py")
	_, err = Ensure(background, s, o)
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
}
