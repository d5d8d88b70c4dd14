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
	// reportEvery is the time between progress reports, measureEvery that between measurements of the
	// folder's size.
	reportEvery  = 250 * time.Millisecond
	measureEvery = 2 * time.Second
	// errorLines is the number of lines of an installer's output in an error.
	errorLines = 15
)

// builder builds one environment.
type builder struct {
	Spec
	Options
	dir   string
	began time.Time
	log   *os.File
	// step is the current step, for progress reports.
	step string
}

func (b *builder) build(ctx context.Context) error {
	text, err := os.ReadFile(b.Requirements)
	if err != nil {
		return plugins.Errorf(plugins.NotFound, "the requirements: %w", err).
			WithHint("add the file that [python] requirements names to the package")
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
	_ = os.RemoveAll(b.dir) // the rest of an interrupted build, or changed
	if b.log, err = os.Create(b.dir + ".log"); err != nil {
		return plugins.Errorf(plugins.Exhausted, "the installer's log: %w", err).
			WithHint("set SRPO_CACHE to a folder that can be written to")
	}
	defer b.log.Close()

	b.report(Progress{What: "looking for Python " + b.Python.String()})
	uv, version := "", "uv is turned off"
	if !b.PipOnly {
		uv, version = UV(ctx)
	}
	in, err := b.python(ctx, uv)
	if err != nil {
		return err
	}
	installer := "pip"
	if uv != "" {
		installer = version
	} else if !in.Venv {
		const message = "%s (Python %s) cannot make environments: it lacks the modules venv and ensurepip; and %s"
		return plugins.Errorf(plugins.NotFound, message, in.Path, in.Version, version).
			WithHint("install python3-venv (apt-get install python3.%d-venv) or uv, or give another Python in "+
				"[host] python",
				in.Version.Minor)
	}
	b.report(Progress{What: b.plan(in, installer, count)})
	b.step = "installing " + b.Name
	if err := b.install(ctx, in, uv, count); err != nil {
		return err
	}
	made, err := b.postInstall(ctx)
	if err != nil {
		return err
	}
	return b.commit(in, installer, made)
}

// venvPython returns the interpreter of the environment.
func (b *builder) venvPython() string { return filepath.Join(b.dir, "bin", "python") }

// install makes the environment and installs the requirements, with uv, or with pip if uv is empty. count
// is the number of requirements.
func (b *builder) install(ctx context.Context, in Interpreter, uv string, count int) error {
	python := b.venvPython()
	pipOptions := []string{
		"install",
		"--disable-pip-version-check",
		"--no-input",
		"--progress-bar",
		"off",
		"--no-compile",
	}
	var create, install []string
	switch {
	case uv != "":
		create = []string{uv, "venv", "--no-project", "--no-config", "--python", in.Real, b.dir}
		install = []string{uv, "pip", "install", "--python", python}
	case in.Pip != "" || count == 0:
		// Pip runs from its wheel. To install it takes longer than many lists of requirements, and it would
		// stay in the environment.
		create = []string{in.Real, "-I", "-m", "venv", "--without-pip", b.dir}
		install = append([]string{python, "-I", filepath.Join(in.Pip, "pip")}, pipOptions...)
	default:
		create = []string{in.Real, "-I", "-m", "venv", b.dir}
		install = append([]string{python, "-I", "-m", "pip"}, pipOptions...)
	}
	if err := b.runInstaller(ctx, nil, create...); err != nil || count == 0 {
		return err
	}
	install = append(install, "--require-hashes", "-r", b.Requirements)
	if b.NoDeps {
		install = append(install, "--no-deps")
	}
	return b.runInstaller(ctx, nil, install...)
}

// python finds the interpreter with which the environment is made. Where this machine has no suitable one,
// and the user named none, uv downloads one into srpo's cache.
func (b *builder) python(ctx context.Context, uv string) (Interpreter, error) {
	in, notFound := Find(ctx, b.Python, b.Interpreter)
	if b.Interpreter != "" || plugins.KindOf(notFound) != plugins.NotFound {
		return in, notFound
	}
	hint := plugins.AsError(notFound).Hint
	dir := os.Getenv("UV_PYTHON_INSTALL_DIR")
	if dir == "" {
		dir = filepath.Join(b.Cache, "python")
	}
	if in, ok := fetched(ctx, b.Python, dir); ok {
		return in, nil
	}
	if uv == "" {
		return in, plugins.AsError(notFound).WithHint("%s; where uv is installed, srpo uses it to download one", hint)
	}
	b.step = "downloading Python " + b.Python.String() + " with uv"
	b.report(
		Progress{What: fmt.Sprintf("there is no Python %s on this machine: uv downloads one into %s", b.Python, dir)},
	)
	// Only into the cache: neither into the user's folder of programs nor into uv's own folder.
	variables := []string{"UV_PYTHON_INSTALL_DIR=" + dir, "UV_PYTHON_INSTALL_BIN=0"}
	if err := b.runInstaller(ctx, variables, uv, "python", "install", b.Python.request()); err != nil {
		e := plugins.AsError(err)
		if e.Kind == plugins.Canceled {
			return in, err
		}
		const message = "no Python %s on this machine, and uv could not download one: %w"
		return in, plugins.Errorf(plugins.NotFound, message, b.Python, err).WithDetail(e.Detail).WithHint("%s", hint)
	}
	in, ok := fetched(ctx, b.Python, dir)
	if !ok {
		const message = "uv downloaded a Python %s, but none in %s runs"
		return in, plugins.Errorf(plugins.NotFound, message, b.Python, dir).WithHint("%s", hint)
	}
	return in, nil
}

// postInstallTimeout bounds the post-install program.
const postInstallTimeout = 30 * time.Minute

// postInstall runs the package's post-install program, and returns the files that it made.
func (b *builder) postInstall(ctx context.Context) ([]lock.FileHash, error) {
	if b.PostInstall == "" {
		return nil, nil
	}
	program, err := filepath.Abs(b.PostInstall)
	if err != nil {
		return nil, err
	}
	made := filepath.Join(b.dir, madeFolder)
	if err := os.Mkdir(made, 0o755); err != nil {
		return nil, plugins.Errorf(plugins.Exhausted, "the folder of the post-install program: %w", err).
			WithHint("check that the disk is not full")
	}
	name := filepath.Base(program)
	b.step = "running " + name + " of " + b.Name
	ctx, cancel := context.WithTimeout(ctx, postInstallTimeout)
	defer cancel()
	b.report(Progress{What: b.step, Elapsed: time.Since(b.began)})
	// -I excludes the user's variables and site, and files beside the program, which are not in the hash of
	// the environment.
	if err := b.runInstaller(ctx, nil, b.venvPython(), "-I", "-B", "-u", program, made); err != nil {
		e := plugins.AsError(err)
		if e.Kind == plugins.Canceled {
			return nil, err
		}
		return nil, plugins.Errorf(plugins.Corrupt, "%s, the post-install program, failed: %w", name, errors.Unwrap(e)).
			WithDetail(e.Detail).
			WithHint("read %s.log; if it contains no remedy, tell the plugin's author", b.dir)
	}
	tree, err := lock.HashDir(made)
	if err != nil {
		return nil, err
	}
	if len(tree.Files) == 0 {
		return nil, plugins.Errorf(plugins.Corrupt, "%s made no file", name).
			WithHint("it must write to the folder in its argument: tell the plugin's author")
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
	return fmt.Sprintf(
		"installing %s's Python environment (%d packages%s) into %s with Python %s (%s) and %s",
		b.Name,
		count,
		size,
		b.dir,
		in.Version,
		in.Path,
		installer,
	)
}

func (b *builder) checkSpace() error {
	var st unix.Statfs_t
	if b.DiskMB <= 0 || unix.Statfs(filepath.Dir(b.dir), &st) != nil {
		return nil
	}
	if free := float64(st.Bavail) * float64(st.Bsize) / 1e6; free < b.DiskMB {
		return plugins.Errorf(plugins.Exhausted, "needs %.0f MB, %s has %.0f MB free", b.DiskMB, filepath.Dir(b.dir),
			free).
			WithHint("free some space, or set SRPO_CACHE to a folder on another disk")
	}
	return nil
}

// commit checks the environment, and writes its stamp.
func (b *builder) commit(in Interpreter, installer string, made []lock.FileHash) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	if _, err := probe(ctx, filepath.Join(b.dir, "bin", "python")); err != nil {
		return plugins.Errorf(plugins.Corrupt, "the new environment's Python does not run: %w", err).
			WithHint("read %s.log", b.dir)
	}
	sum, changed, err := integrity(b.dir)
	if err != nil {
		return plugins.Errorf(plugins.Corrupt, "the new environment: %w", err).
			WithHint("read %s.log", b.dir)
	}
	data, err := json.MarshalIndent(
		Stamp{
			Python:     in.Real,
			Version:    in.Version.String(),
			Installer:  installer,
			Built:      time.Now().UTC(),
			Seconds:    time.Since(b.began).Seconds(),
			MB:         folderMB(b.dir),
			Integrity:  sum,
			Deviations: changed,
			Made:       made,
		},
		"",
		"  ",
	)
	if err == nil {
		tmp := filepath.Join(b.dir, "."+stampFile)
		if err = os.WriteFile(tmp, append(data, '\n'), 0o644); err == nil {
			syncFile(tmp)
			err = os.Rename(tmp, filepath.Join(b.dir, stampFile))
		}
	}
	if err != nil {
		return plugins.Errorf(plugins.Exhausted, "writing the environment's stamp: %w", err).
			WithHint("check that the disk is not full")
	}
	return nil
}

func syncFile(path string) {
	if f, err := os.Open(path); err == nil {
		_ = f.Sync()
		_ = f.Close()
	}
}

// runInstaller runs a command with additional variables, writes its output to the log, and reports
// progress. It kills the whole process group when ctx ends.
func (b *builder) runInstaller(ctx context.Context, variables []string, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(append(installerEnviron(os.Environ()), cacheVariables(b.Cache)...), variables...)
	cmd.Dir = filepath.Dir(b.dir) // not in a project of the user, whose settings the installer would read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	fmt.Fprintf(b.log, "$ %s\n", strings.Join(cmd.Args, " "))
	out := &tail{log: b.log}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	copied := make(chan struct{})
	go func() { defer close(copied); out.copy(r) }()
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
			return b.explain(err, command[0], out.last(errorLines))
		case <-tick.C:
			if b.Progress == nil {
				continue
			}
			if time.Since(measured) > measureEvery {
				mb, measured = folderMB(b.dir), time.Now()
			}
			b.report(Progress{What: b.step, MB: mb, OfMB: b.DiskMB, Elapsed: time.Since(b.began), Line: out.last(1)})
		}
	}
}

// tail copies the output of an installer to the log, and keeps the last lines.
type tail struct {
	log   io.Writer
	mu    sync.Mutex
	lines []string
}

func (t *tail) copy(from io.Reader) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		if text := strings.TrimSpace(line); text != "" {
			fmt.Fprintln(t.log, text)
			t.mu.Lock()
			if t.lines = append(t.lines, text); len(t.lines) > errorLines {
				t.lines = t.lines[1:]
			}
			t.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// last returns the last n lines, joined.
func (t *tail) last(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines[max(0, len(t.lines)-n):], "\n")
}

// explain returns the error for an installer that failed, with a remedy for what it printed.
func (b *builder) explain(err error, name, output string) error {
	lower := strings.ToLower(output)
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
		kind, hint = plugins.NotFound, "check that the program exists"
	case has("no space left"):
		kind, hint = plugins.Exhausted, "free some space, or set SRPO_CACHE to a folder on another disk"
	case has("hash mismatch", "do not match the hashes", "hashes are required", "hashes in --require-hashes",
		"require-hashes"):
		kind, hint = plugins.Corrupt, "the package index returned other files than those that the plugin's author "+
			"locked, or a line has no hash: do not install it, and tell the author"
	case has("no matching distribution", "no solution found", "could not find a version"):
		kind, hint = plugins.NotFound, "the index does not have a wheel for this Python and machine: give another "+
			"Python in [host] python, or ask the plugin's author"
	case has("connection", "network", "resolve", "timed out", "timeout", "proxy", "dns", "failed to fetch",
		"unreachable"):
		hint = "check that the network and the package index can be reached (proxy, index address), then run the " +
			"same command again; downloads are kept"
	}
	return plugins.Errorf(kind, "%s failed: %w", filepath.Base(name), err).
		WithDetail(output).
		WithHint("%s; the log is %s.log", hint, b.dir)
}

// installerEnviron returns the user's environment without the variables that would make an installer use
// another folder. The installer needs the index, the proxy and the certificates that the user has set.
func installerEnviron(host []string) []string {
	var out []string
	for _, kv := range host {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "PYTHONPATH",
			"PYTHONHOME",
			"PYTHONSTARTUP",
			"VIRTUAL_ENV",
			"CONDA_PREFIX",
			"PIP_TARGET",
			"PIP_PREFIX",
			"PIP_USER",
			"PIP_REQUIRE_VIRTUALENV",
			"UV_PROJECT_ENVIRONMENT",
			"UV_SYSTEM_PYTHON",
			"UV_PYTHON",
			"__PYVENV_LAUNCHER__":
		default:
			out = append(out, kv)
		}
	}
	return out
}

// cacheVariables puts the caches of the installers into srpo's cache folder, unless the user has set them.
func cacheVariables(cache string) []string {
	var out []string
	for name, dir := range map[string]string{"UV_CACHE_DIR": "uv", "PIP_CACHE_DIR": "pip"} {
		if os.Getenv(name) == "" {
			out = append(out, name+"="+filepath.Join(cache, dir))
		}
	}
	return append(out, "UV_NO_PROGRESS=1", "NO_COLOR=1")
}

// checkRequirements counts the requirements. It refuses one without a hash, as both installers do, with a
// clearer message.
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
		if logical != "" &&
			(!strings.HasPrefix(logical, "-") || strings.HasPrefix(logical, "-e") || strings.HasPrefix(logical,
				"--editable")) {
			count++
			if !strings.Contains(logical, "--hash=") {
				shown, _, _ := strings.Cut(logical, " ")
				return count, plugins.Errorf(plugins.Invalid, "the requirement %s has no hash", shown).
					WithPlace("%s:%d", path, start).
					WithHint("lock the list with its hashes: uv pip compile --generate-hashes requirements.in -o " +
						"requirements.txt")
			}
		}
		logical = ""
	}
	return count, nil
}

// folderMB returns the size of a folder in 10^6 bytes.
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
