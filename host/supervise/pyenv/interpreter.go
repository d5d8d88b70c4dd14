package pyenv

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/srpo-dev/srpo/plugins"
)

// probeTimeout bounds the check of an interpreter.
const probeTimeout = 20 * time.Second

// Interpreter is a Python that runs.
type Interpreter struct {
	// Path is where it was found. Real is the program (sys.executable, with links resolved).
	Path, Real string
	Version    Version
	// Venv is true when it has the modules venv and ensurepip, and so can make environments. Debian's
	// python3 lacks them without python3-venv.
	Venv bool
	// Pip is the wheel of pip that came with the interpreter, which can be run without installation; empty:
	// none.
	Pip string
}

// Find returns an interpreter that satisfies the requirement. If a path is given, only that is tried.
// Otherwise python3 on PATH comes first, then names with a version on PATH, then the folders of pyenv and
// uv and the usual ones, the newest version first. A candidate is run to find out whether it is a Python:
// pyenv's shims of versions that are not selected exist, but fail.
func Find(ctx context.Context, want Requirement, given string) (Interpreter, error) {
	if given != "" {
		return findGiven(ctx, want, given)
	}
	var failures []string
	var withoutVenv *Interpreter // good enough for uv
	for _, path := range distinct(candidates(want)) {
		if ctx.Err() != nil {
			return Interpreter{}, canceled(ctx)
		}
		in, err := probe(ctx, path)
		switch {
		case err != nil:
			failures = append(failures, fmt.Sprintf("%s: %v", path, err))
		case !want.Allows(in.Version):
			failures = append(failures, fmt.Sprintf("%s: is %s", path, in.Version))
		case !in.Venv:
			if withoutVenv == nil {
				withoutVenv = &in
			}
			failures = append(
				failures,
				fmt.Sprintf("%s: is %s, but lacks the modules venv and ensurepip", path, in.Version),
			)
		default:
			return in, nil
		}
	}
	if withoutVenv != nil {
		return *withoutVenv, nil
	}
	minor := "3.x"
	if m := want.minors(); len(m) > 0 {
		minor = fmt.Sprintf("3.%d", m[0])
	}
	const hint = "install one (uv python install %s, pyenv install %s, or your system's package), or give its path " +
		"in [host] python"
	return Interpreter{}, plugins.Errorf(plugins.NotFound, "no Python %s on this machine", want).
		WithDetail(strings.Join(failures, "\n")).WithHint(hint, minor, minor)
}

func findGiven(ctx context.Context, want Requirement, given string) (in Interpreter, err error) {
	path, err := exec.LookPath(given)
	if err == nil {
		in, err = probe(ctx, path)
	}
	if ctx.Err() != nil {
		return in, canceled(ctx)
	}
	if err != nil {
		return in, plugins.Errorf(plugins.NotFound, "the Python %s does not run: %w", given, err).
			WithHint("correct [host] python, or leave it empty to search")
	}
	if !want.Allows(in.Version) {
		return in, plugins.Errorf(plugins.Mismatch, "Python %s is required, %s is %s", want, given, in.Version).
			WithHint("give another one in [host] python, or leave it empty to search")
	}
	return in, nil
}

func canceled(ctx context.Context) error {
	return plugins.Errorf(plugins.Canceled, "looking for Python: %w", ctx.Err())
}

// distinct drops the paths that lead to the same program as an earlier one. The shims of one folder are one
// script for all programs, so their links are not resolved.
func distinct(paths []string) (out []string) {
	seen := map[string]bool{}
	for _, path := range paths {
		key := path
		if filepath.Base(filepath.Dir(path)) != "shims" {
			key, _ = filepath.EvalSymlinks(path)
		}
		if key != "" && !seen[key] {
			seen[key] = true
			out = append(out, path)
		}
	}
	return out
}

// fetched returns the newest suitable Python among those that uv installed into a folder.
func fetched(ctx context.Context, want Requirement, dir string) (Interpreter, bool) {
	found, _ := filepath.Glob(filepath.Join(dir, "*", "bin", "python3"))
	slices.SortFunc(
		found,
		func(a, b string) int { return byVersion(filepath.Dir(filepath.Dir(b)), filepath.Dir(filepath.Dir(a))) },
	)
	for _, path := range found {
		if in, err := probe(ctx, path); err == nil && want.Allows(in.Version) {
			return in, true
		}
	}
	return Interpreter{}, false
}

// Scan returns every Python 3 on this machine that runs, each once, in the order in which [Find] tries them.
func Scan(ctx context.Context) []Interpreter {
	paths := distinct(candidates(Requirement{bounds: []bound{{op: ">=", version: []int{3, 6}}}}))
	found := make([]*Interpreter, len(paths))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i, path := range paths {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if in, err := probe(ctx, path); err == nil {
				found[i] = &in
			}
		})
	}
	wg.Wait()
	var out []Interpreter
	real := map[string]bool{}
	for _, in := range found {
		if in != nil && !real[in.Real] {
			real[in.Real] = true
			out = append(out, *in)
		}
	}
	return out
}

// candidates returns the paths of programs that may be a suitable Python, in the order in which they are
// tried.
func candidates(want Requirement) []string {
	var out []string
	add := func(dir, name string) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			out = append(out, path)
		}
	}
	names := []string{"python3"}
	for _, m := range want.minors() {
		names = append(names, fmt.Sprintf("python3.%d", m))
	}
	names = append(names, "python")
	for _, name := range names {
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			if filepath.IsAbs(dir) {
				add(dir, name)
			}
		}
	}
	home, _ := os.UserHomeDir()
	var roots []string
	if root := os.Getenv("PYENV_ROOT"); root != "" {
		roots = append(roots, filepath.Join(root, "versions"))
	}
	if dir := os.Getenv("UV_PYTHON_INSTALL_DIR"); dir != "" {
		roots = append(roots, dir)
	}
	data := cmp.Or(os.Getenv("XDG_DATA_HOME"), filepath.Join(home, ".local", "share"))
	roots = append(roots, filepath.Join(home, ".pyenv", "versions"), filepath.Join(data, "uv", "python"))
	for _, root := range roots {
		found, _ := filepath.Glob(filepath.Join(root, "*"))
		slices.SortFunc(found, func(a, b string) int { return byVersion(b, a) })
		for _, dir := range found {
			add(filepath.Join(dir, "bin"), "python3")
		}
	}
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/opt/homebrew/bin"} {
		for _, name := range names {
			add(dir, name)
		}
	}
	return out
}

// byVersion compares folder names such as 3.9.18 and cpython-3.11.7-linux by their numbers.
func byVersion(a, b string) int {
	numbers := func(s string) []int {
		var out []int
		n, in := 0, false
		for _, c := range filepath.Base(s) + " " {
			if c >= '0' && c <= '9' {
				n, in = min(10*n+int(c-'0'), 1e6), true
			} else if in {
				out = append(out, n)
				n, in = 0, false
			}
		}
		return out
	}
	return cmp.Or(slices.Compare(numbers(a), numbers(b)), cmp.Compare(a, b))
}

// probeScript prints the properties of an interpreter. find_spec finds the modules without importing them.
// The wheels of ensurepip are in its folder; Debian moves them to another folder, which the module names.
const probeScript = `import sys, json, os, glob, importlib.util as u
venv = bool(u.find_spec("venv")) and bool(u.find_spec("ensurepip"))
pip = []
if venv:
    import ensurepip
    bundled = os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
    for d in (bundled, getattr(ensurepip, "_WHEEL_PKG_DIR", None)):
        pip += sorted(glob.glob(os.path.join(d, "pip-*.whl"))) if d else []
print(json.dumps({"version": list(sys.version_info[:3]), "real": os.path.realpath(sys.executable),
    "implementation": sys.implementation.name,
    "venv": venv, "pip": pip[0] if pip else ""}))`

// probe runs a program to find out whether it is a Python.
func probe(ctx context.Context, path string) (Interpreter, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-I", "-c", probeScript)
	cmd.WaitDelay = time.Second
	cmd.Env = installerEnviron(os.Environ())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return Interpreter{}, fmt.Errorf("does not answer within %v", probeTimeout)
		}
		if line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); line != "" {
			return Interpreter{}, errors.New(line)
		}
		return Interpreter{}, err
	}
	var out struct {
		Version        []int
		Real           string
		Implementation string
		Venv           bool
		Pip            string
	}
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil || len(out.Version) != 3 {
		return Interpreter{}, errors.New("is not a Python")
	}
	if out.Implementation != "cpython" {
		return Interpreter{}, fmt.Errorf("is %s, not CPython", out.Implementation)
	}
	return Interpreter{
		Path:    path,
		Real:    out.Real,
		Version: Version{out.Version[0], out.Version[1], out.Version[2]},
		Venv:    out.Venv,
		Pip:     out.Pip,
	}, nil
}

// UV returns the path and version of a uv that works, or "" and the reason why there is none.
func UV(ctx context.Context) (path, version string) {
	path, err := exec.LookPath("uv")
	if err != nil {
		return "", "there is no uv on PATH"
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "uv ") {
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return "", fmt.Sprintf("%s does not work (%v: %s)", path, err, line)
	}
	return path, strings.TrimSpace(string(out))
}
