package pyenv

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/plugins"
)

const (
	// reportEvery is the time between two progress reports, measureEvery that between two looks at the folder's size.
	reportEvery  = 250 * time.Millisecond
	measureEvery = 2 * time.Second
	// keptLines of an installer's output go into an error.
	keptLines = 15
)

// builder builds one environment.
type builder struct {
	Spec
	Options
	dir   string
	began time.Time
	log   *os.File
	// step is what is being done, for progress.
	step string
}

func (b *builder) build(ctx context.Context) error {
	text, err := os.ReadFile(b.Requirements)
	if err != nil {
		return plugins.Errorf(plugins.NotFound, "the requirements: %w", err).WithHint("put the file that [python] requirements names into the package")
	}
	if b.Requirements, err = filepath.Abs(b.Requirements); err != nil {
		return err
	}
	count, err := checkRequirements(string(text), b.Requirements)
	if err != nil {
		return err
	}
	if err := b.checkSpace(); err != nil {
		return err
	}
	_ = os.RemoveAll(b.dir) // half-built, or changed
	if b.log, err = os.Create(b.dir + ".log"); err != nil {
		return plugins.Errorf(plugins.Exhausted, "the installer's log: %w", err).WithHint("set SRPO_CACHE to a folder that can be written to")
	}
	defer b.log.Close()

	b.report(Progress{What: "looking for Python " + b.Python.String()})
	uv, why := "", "uv is turned off"
	if !b.PipOnly {
		uv, why = findUV(ctx)
	}
	in, err := b.python(ctx, uv)
	if err != nil {
		return err
	}
	installer := "pip"
	if uv != "" {
		installer = why // its version
	} else if !in.Venv {
		return plugins.Errorf(plugins.NotFound, "%s (Python %s) cannot make environments: it lacks the modules venv and ensurepip; and %s", in.Path, in.Version, why).
			WithHint("install python3-venv (apt-get install python3.%d-venv) or uv, or give another Python in [host] python", in.Version.Minor)
	}
	b.report(Progress{What: b.plan(in, installer, count)})
	b.step = "installing " + b.Name

	python := filepath.Join(b.dir, "bin", "python")
	var install []string
	switch {
	case uv != "":
		install = []string{uv, "pip", "install", "--python", python}
		err = b.runInstaller(ctx, uv, "venv", "--no-project", "--no-config", "--python", in.Real, b.dir)
	case in.Pip != "" || count == 0:
		// Run from its wheel, pip need not be installed first, which would take longer than many a plugin's whole list, and would stay in the environment.
		install = []string{python, "-I", filepath.Join(in.Pip, "pip"), "install"}
		err = b.runInstaller(ctx, in.Real, "-I", "-m", "venv", "--without-pip", b.dir)
	default:
		install = []string{python, "-I", "-m", "pip", "install"}
		err = b.runInstaller(ctx, in.Real, "-I", "-m", "venv", b.dir)
	}
	if err != nil {
		return err
	}
	if count > 0 {
		if uv == "" {
			install = append(install, "--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--no-compile")
		}
		install = append(install, "--require-hashes", "-r", b.Requirements)
		if b.NoDeps {
			install = append(install, "--no-deps")
		}
		if err := b.runInstaller(ctx, install[0], install[1:]...); err != nil {
			return err
		}
	}
	made, err := b.postInstall(ctx, python)
	if err != nil {
		return err
	}
	return b.commit(in, installer, made)
}

// python finds the interpreter to make the environment with. Where this machine has none that fits, and the user named none, uv fetches one into srpo's cache.
func (b *builder) python(ctx context.Context, uv string) (Interpreter, error) {
	in, err := Find(ctx, b.Python, b.Interpreter)
	if b.Interpreter != "" || plugins.KindOf(err) != plugins.NotFound {
		return in, err
	}
	dir := os.Getenv("UV_PYTHON_INSTALL_DIR")
	if dir == "" {
		dir = filepath.Join(b.Cache, "python")
	}
	if in, ok := fetched(ctx, b.Python, dir); ok {
		return in, nil
	}
	if uv == "" {
		e := plugins.AsError(err)
		return in, e.WithHint("%s; where uv is installed, srpo lets it fetch one", e.Hint)
	}
	b.step = "fetching Python " + b.Python.String() + " with uv"
	b.report(Progress{What: fmt.Sprintf("there is no Python %s on this machine: uv fetches one into %s", b.Python, dir)})
	// Into the cache only: neither into the user's folder of programs nor into uv's own of Pythons.
	fetch := []string{"UV_PYTHON_INSTALL_DIR=" + dir, "UV_PYTHON_INSTALL_BIN=0"}
	if failure := b.runInstallerWith(ctx, fetch, uv, "python", "install", b.Python.request()); failure != nil {
		if e := plugins.AsError(failure); e.Kind != plugins.Canceled {
			return in, plugins.Errorf(plugins.NotFound, "no Python %s on this machine, and uv could not fetch one: %w", b.Python, failure).WithDetail(e.Detail).WithHint("%s", plugins.AsError(err).Hint)
		}
		return in, failure
	}
	in, ok := fetched(ctx, b.Python, dir)
	if !ok {
		return in, plugins.Errorf(plugins.NotFound, "uv fetched a Python %s, and none that runs is in %s", b.Python, dir).WithHint("%s", plugins.AsError(err).Hint)
	}
	return in, nil
}

// postInstallTimeout bounds the program that runs after the installation.
const postInstallTimeout = 30 * time.Minute

// postInstall runs the package's own last step, and returns the files that it made.
func (b *builder) postInstall(ctx context.Context, python string) ([]lock.FileHash, error) {
	if b.PostInstall == "" {
		return nil, nil
	}
	program, err := filepath.Abs(b.PostInstall)
	if err != nil {
		return nil, err
	}
	made := filepath.Join(b.dir, madeFolder)
	if err := os.Mkdir(made, 0o755); err != nil {
		return nil, plugins.Errorf(plugins.Exhausted, "a folder for what is made: %w", err).WithHint("see that the disk is not full")
	}
	name := filepath.Base(program)
	b.step = "running " + name + " of " + b.Name
	ctx, cancel := context.WithTimeout(ctx, postInstallTimeout)
	defer cancel()
	b.report(Progress{What: b.step, Elapsed: time.Since(b.began)})
	// -I: without the user's variables and site, and without the program's neighbours, which the environment's name does not depend on.
	if err := b.runInstaller(ctx, python, "-I", "-B", "-u", program, made); err != nil {
		e := plugins.AsError(err)
		if e.Kind == plugins.Canceled {
			return nil, err
		}
		return nil, plugins.Errorf(plugins.Corrupt, "%s, which makes what the package cannot bring, failed: %w", name, errors.Unwrap(e)).WithDetail(e.Detail).
			WithHint("its output is in %s.log: if that names no remedy, tell the plugin's author", b.dir)
	}
	tree, err := lock.HashDir(made)
	if err != nil {
		return nil, err
	}
	if len(tree.Files) == 0 {
		return nil, plugins.Errorf(plugins.Corrupt, "%s made no file", name).WithHint("it is to write into the folder that is its argument; tell the plugin's author")
	}
	for _, f := range tree.Files {
		syncFile(filepath.Join(made, filepath.FromSlash(f.Path)))
	}
	return tree.Files, nil
}

func (b *builder) plan(in Interpreter, installer string, count int) string {
	size := ""
	if b.DownloadMB > 0 {
		size += fmt.Sprintf(", %.0f MB to download", b.DownloadMB)
	}
	if b.DiskMB > 0 {
		size += fmt.Sprintf(", %.0f MB on disk", b.DiskMB)
	}
	return fmt.Sprintf("installing %s's own Python environment (%d packages%s) into %s with Python %s (%s) and %s", b.Name, count, size, b.dir, in.Version, in.Path, installer)
}

func (b *builder) checkSpace() error {
	var st unix.Statfs_t
	if b.DiskMB <= 0 || unix.Statfs(filepath.Dir(b.dir), &st) != nil {
		return nil
	}
	if free := float64(st.Bavail) * float64(st.Bsize) / 1e6; free < b.DiskMB {
		return plugins.Errorf(plugins.Exhausted, "needs %.0f MB, %s has %.0f MB free", b.DiskMB, filepath.Dir(b.dir), free).
			WithHint("make room, or set SRPO_CACHE to a folder on another disk")
	}
	return nil
}

// commit checks that the environment's Python runs, and writes the stamp.
func (b *builder) commit(in Interpreter, installer string, made []lock.FileHash) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	if _, err := probe(ctx, filepath.Join(b.dir, "bin", "python")); err != nil {
		return plugins.Errorf(plugins.Corrupt, "the new environment's Python does not run: %w", err).WithHint("look into %s.log", b.dir)
	}
	sum, changed, err := integrity(b.dir)
	if err != nil {
		return plugins.Errorf(plugins.Corrupt, "the new environment: %w", err).WithHint("look into %s.log", b.dir)
	}
	data, err := json.MarshalIndent(Stamp{Python: in.Real, Version: in.Version.String(), Installer: installer, Built: time.Now().UTC(), Seconds: time.Since(b.began).Seconds(),
		MB: folderMB(b.dir), Integrity: sum, Deviations: changed, Made: made}, "", "  ")
	if err == nil {
		tmp := filepath.Join(b.dir, "."+stampFile)
		if err = os.WriteFile(tmp, append(data, '\n'), 0o644); err == nil {
			syncFile(tmp)
			err = os.Rename(tmp, filepath.Join(b.dir, stampFile))
		}
	}
	if err != nil {
		return plugins.Errorf(plugins.Exhausted, "writing the environment's stamp: %w", err).WithHint("see that the disk is not full")
	}
	return nil
}

func syncFile(path string) {
	if f, err := os.Open(path); err == nil {
		_ = f.Sync()
		_ = f.Close()
	}
}

// runInstaller runs a command, its output into the log, and reports progress. Its whole process group ends with ctx.
func (b *builder) runInstaller(ctx context.Context, name string, args ...string) error {
	return b.runInstallerWith(ctx, nil, name, args...)
}

// runInstallerWith is runInstaller with variables over the environment's.
func (b *builder) runInstallerWith(ctx context.Context, variables []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(append(installerEnviron(os.Environ()), cacheVariables(b.Cache)...), variables...)
	cmd.Dir = filepath.Dir(b.dir) // not in a project of the user's, whose settings would be read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	fmt.Fprintf(b.log, "$ %s\n", strings.Join(cmd.Args, " "))
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	var mu sync.Mutex
	var last []string
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadString('\n')
			if text := strings.TrimSpace(line); text != "" {
				fmt.Fprintln(b.log, text)
				mu.Lock()
				if last = append(last, text); len(last) > keptLines {
					last = last[1:]
				}
				mu.Unlock()
			}
			if err != nil {
				return
			}
		}
	}()
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var mb float64
	var measured time.Time
	for {
		select {
		case err := <-done:
			_ = w.Close()
			<-copied
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return plugins.Errorf(plugins.Canceled, "the installation was cancelled: %w", ctx.Err())
			}
			return b.explain(err, name, last)
		case <-tick.C:
			if b.Progress == nil {
				continue
			}
			if time.Since(measured) > measureEvery {
				mb, measured = folderMB(b.dir), time.Now()
			}
			mu.Lock()
			line := ""
			if len(last) > 0 {
				line = last[len(last)-1]
			}
			mu.Unlock()
			b.report(Progress{What: b.step, MB: mb, OfMB: b.DiskMB, Elapsed: time.Since(b.began), Line: line})
		}
	}
}

// explain finds the remedy for what an installer said.
func (b *builder) explain(err error, name string, last []string) error {
	words := strings.Join(last, "\n")
	lower := strings.ToLower(words)
	has := func(list ...string) bool {
		for _, s := range list {
			if strings.Contains(lower, s) {
				return true
			}
		}
		return false
	}
	kind, hint := plugins.Unavailable, "read the whole output"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind, hint = plugins.NotFound, "see that the program is there"
	case has("no space left"):
		kind, hint = plugins.Exhausted, "make room, or set SRPO_CACHE to a folder on another disk"
	case has("hash mismatch", "do not match the hashes", "hashes are required", "hashes in --require-hashes", "require-hashes"):
		kind, hint = plugins.Corrupt, "the package index gave something else than what the plugin's author locked, or a line has no hash: do not install it, and tell the author"
	case has("no matching distribution", "no solution found", "could not find a version"):
		kind, hint = plugins.NotFound, "the index does not have a wheel for this Python and machine: give another Python in [host] python, or ask the plugin's author"
	case has("connection", "network", "resolve", "timed out", "timeout", "proxy", "dns", "failed to fetch", "unreachable"):
		hint = "see that the network and the package index can be reached (proxy, index address), then run the same command again: what was downloaded is kept"
	}
	return plugins.Errorf(kind, "%s failed: %w", filepath.Base(name), err).WithDetail(words).WithHint("%s; the log is %s.log", hint, b.dir)
}

// installerEnviron is the user's environment without what would lead an installer to another place: the installer is the user's own tool and needs the
// index, the proxy and the certificates that the user has set.
func installerEnviron(host []string) []string {
	var out []string
	for _, kv := range host {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV",
			"UV_PROJECT_ENVIRONMENT", "UV_SYSTEM_PYTHON", "UV_PYTHON", "__PYVENV_LAUNCHER__":
		default:
			out = append(out, kv)
		}
	}
	return out
}

// cacheVariables keep the installers' caches in srpo's cache folder, unless the user has given them a place.
func cacheVariables(cache string) []string {
	var out []string
	for name, dir := range map[string]string{"UV_CACHE_DIR": "uv", "PIP_CACHE_DIR": "pip"} {
		if os.Getenv(name) == "" {
			out = append(out, name+"="+filepath.Join(cache, dir))
		}
	}
	return append(out, "UV_NO_PROGRESS=1", "NO_COLOR=1")
}

// checkRequirements counts the requirements and refuses one without a hash, which both installers would refuse too, with less clear words.
func checkRequirements(text, path string) (count int, err error) {
	logical, start := "", 0
	for i, line := range append(strings.Split(text, "\n"), "") {
		if logical == "" {
			start = i + 1
		}
		if at := strings.Index(" "+line, " #"); at >= 0 {
			line = line[:max(0, at-1)]
		}
		line = strings.TrimSpace(line)
		if rest, more := strings.CutSuffix(line, "\\"); more {
			logical += rest + " "
			continue
		}
		logical = strings.TrimSpace(logical + line)
		if logical != "" && (!strings.HasPrefix(logical, "-") || strings.HasPrefix(logical, "-e") || strings.HasPrefix(logical, "--editable")) {
			count++
			if !strings.Contains(logical, "--hash=") {
				shown, _, _ := strings.Cut(logical, " ")
				return count, plugins.Errorf(plugins.Invalid, "the requirement %s has no hash", shown).WithPlace("%s:%d", path, start).
					WithHint("lock the list with its hashes: uv pip compile --generate-hashes requirements.in -o requirements.txt")
			}
		}
		logical = ""
	}
	return count, nil
}

// folderMB is the size of a folder in 10^6 bytes.
func folderMB(dir string) float64 {
	var n int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return float64(n) / 1e6
}
