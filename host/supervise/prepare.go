package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
)

// buildTimeout bounds the build of a package from source, which may download its dependencies.
const buildTimeout = 30 * time.Minute

// Preparer turns packages into launches: it checks them against srpo.lock, looks for the system libraries that they need, and installs or builds what is
// not there yet.
type Preparer struct {
	// Cache is srpo's cache folder, see [pyenv.CacheDir].
	Cache string
	// Lock is the path of srpo.lock; empty: packages are not checked.
	Lock string
	// SDK holds the folder srpo_sdk, the Python side of the contract; it is put on the plugins' PYTHONPATH.
	SDK fs.FS
	// Program serves the built-in plugins: PROGRAM plugin serve KIND NAME; empty: the running program.
	Program string
	// Interpreter is the Python to make environments with; empty: search.
	Interpreter string
	// PipOnly never uses uv.
	PipOnly bool
	// Relock locks a changed package again when it was given by path and only the user can write it, see [lock.Check]. It must
	// be false when the path comes from a run folder.
	Relock bool
	// Repair installs and builds anew what has changed; for `srpo plugin install`.
	Repair bool
	// Progress is told of installations and builds; nil: nobody is told.
	Progress func(pyenv.Progress)
	// Notice is told in a sentence what the user should know, such as that a package was added to the lock; nil: nobody is told.
	Notice func(string)
}

// Prepare makes a package ready to run.
func (p *Preparer) Prepare(ctx context.Context, pkg catalog.Package) (Launch, error) {
	l := Launch{Kind: pkg.Kind, Name: pkg.Name, Dir: pkg.Dir, Env: map[string]string{}}
	if pkg.Origin == catalog.BuiltIn {
		program, err := p.self()
		if err != nil {
			return l, err
		}
		l.Argv = []string{program, "plugin", "serve", string(pkg.Kind), pkg.Name}
		return l, nil
	}
	if err := p.prepare(ctx, pkg, &l); err != nil {
		e := plugins.AsError(err)
		if strings.HasPrefix(e.Place, p.Lock) && p.Lock != "" {
			return l, e // it names the package already
		}
		return l, e.WithPlace("%s", l.Label())
	}
	return l, nil
}

// self is srpo's own program.
func (p *Preparer) self() (string, error) {
	if p.Program != "" {
		return p.Program, nil
	}
	program, err := os.Executable()
	if err != nil {
		return "", plugins.Errorf(plugins.Internal, "finding srpo's own program: %w", err)
	}
	return program, nil
}

func (p *Preparer) prepare(ctx context.Context, pkg catalog.Package, l *Launch) error {
	var tree lock.Tree
	var err error
	if pkg.Origin == catalog.Folder && p.Lock != "" {
		if err := p.checkLock(pkg); err != nil {
			return err
		}
		if tree, err = lock.HashDir(pkg.Dir); err != nil {
			return err
		}
		l.VerifyPackage = unchanged(pkg, tree, l.Label())
	}
	m := pkg.Manifest
	if err := CheckLibraries(m.System); err != nil {
		return err
	}
	var env pyenv.Env
	if m.Python != nil {
		if env, err = p.python(ctx, pkg); err != nil {
			return err
		}
	}
	data := filepath.Join(p.Cache, "data", string(pkg.Kind)+"-"+pkg.Name)
	for name, value := range m.Env {
		if strings.Contains(value, "{cache}") {
			if err := os.MkdirAll(data, 0o755); err != nil {
				return plugins.Errorf(plugins.Exhausted, "the package's folder in the cache: %w", err).WithHint("set SRPO_CACHE to a folder that can be written to")
			}
		}
		l.Env[name] = strings.NewReplacer("{package}", pkg.Dir, "{cache}", data, "{venv}", env.Dir, "{made}", env.Made).Replace(value)
	}
	if m.Python != nil {
		if err := p.pythonVariables(env, l); err != nil {
			return err
		}
	}
	if m.Command == nil {
		l.Argv = []string{env.Python, "-u", filepath.Join(pkg.Dir, filepath.FromSlash(m.Python.Entry))}
		return nil
	}
	if m.Command.IsSelf() {
		if pkg.Origin != catalog.Embedded {
			return plugins.Errorf(plugins.Invalid, "only packages inside of srpo are served by its own program").WithHint("name a program of the package in [command] exec")
		}
		program, err := p.self()
		if err != nil {
			return err
		}
		// Like what is built in, it works where the host does: paths in its settings are the user's.
		l.Argv, l.Dir = append([]string{program}, m.Command.Exec[1:]...), ""
		return nil
	}
	program := filepath.Join(pkg.Dir, filepath.FromSlash(m.Command.Exec[0]))
	if len(m.Command.Build) > 0 {
		if tree, err = lock.HashDir(pkg.Dir); err != nil {
			return err
		}
		if program, err = p.build(ctx, pkg, tree); err != nil {
			return err
		}
	}
	if info, err := os.Stat(program); err != nil || info.Mode()&0o111 == 0 {
		return plugins.Errorf(plugins.Invalid, "%s may not be executed", program).WithHint("chmod +x %s", program)
	}
	l.Argv = append([]string{program}, m.Command.Exec[1:]...)
	return nil
}

// checkLock checks a package against srpo.lock and adds it at its first use.
func (p *Preparer) checkLock(pkg catalog.Package) error {
	locked := lock.Package{Kind: pkg.Kind, Name: pkg.Name, Version: pkg.Version, Dir: pkg.Dir}
	result, err := lock.Check(p.Lock, locked, p.Relock && pkg.ByPath)
	switch {
	case err != nil || p.Notice == nil:
	case result.Added:
		p.Notice(fmt.Sprintf("%s %s is used for the first time: its files are locked in %s from now on", pkg.Kind, pkg.Name, p.Lock))
	case len(result.Relocked) > 0:
		p.Notice(relockNotice(pkg.Dir, result.Relocked))
	}
	return err
}

// relockNotice is the line about a package that was locked again, e.g. "re-locked ./my-env: 2 files changed (a.py, b.py)".
func relockNotice(dir string, changes []lock.Change) string {
	const maxNames = 5
	var names []string
	for _, c := range changes[:min(len(changes), maxNames)] {
		names = append(names, c.Path)
	}
	if len(changes) > maxNames {
		names = append(names, "...")
	}
	files := "1 file"
	if len(changes) > 1 {
		files = fmt.Sprintf("%d files", len(changes))
	}
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, dir); err == nil && filepath.IsLocal(rel) {
			dir = "." + string(filepath.Separator) + rel
		}
	}
	return fmt.Sprintf("re-locked %s: %s changed (%s)", dir, files, strings.Join(names, ", "))
}

// unchanged compares a package that was locked with what it was then: a week lies between a run's start and the restart of a plugin.
func unchanged(pkg catalog.Package, was lock.Tree, label string) func() error {
	return func() error {
		now, err := lock.HashDir(pkg.Dir)
		if err != nil {
			return plugins.AsError(err).WithPlace("%s", label)
		}
		if changes := was.Changes(now); len(changes) > 0 {
			return plugins.Errorf(plugins.Corrupt, "it cannot be restarted: its package %s was changed while it ran: %s", pkg.Dir, changes[0]).WithPlace("%s", label).
				WithDetail(lock.Describe(changes[:min(len(changes), 20)], "\n")).WithHint("restore the package, or if the change was meant: srpo plugin lock %s", pkg.Dir)
		}
		return nil
	}
}

// Environment is what a Python package's environment is made of, and how; ok is false for other packages, which have none. pkg.Dir must be set.
func (p *Preparer) Environment(pkg catalog.Package) (s pyenv.Spec, o pyenv.Options, ok bool) {
	if pkg.Manifest == nil || pkg.Manifest.Python == nil {
		return s, o, false
	}
	m := pkg.Manifest.Python
	s = pyenv.Spec{Name: pkg.Name, Python: m.Requirement, Requirements: filepath.Join(pkg.Dir, filepath.FromSlash(m.Requirements)),
		NoDeps: m.NoDeps, DownloadMB: m.DownloadMB, DiskMB: m.DiskMB}
	if m.GPU != nil && hasNVIDIA() {
		s.Requirements = filepath.Join(pkg.Dir, filepath.FromSlash(m.GPU.Requirements))
		s.DownloadMB, s.DiskMB = m.GPU.DownloadMB, m.GPU.DiskMB
	}
	if m.PostInstall != "" {
		s.PostInstall = filepath.Join(pkg.Dir, filepath.FromSlash(m.PostInstall))
	}
	return s, pyenv.Options{Cache: p.Cache, Interpreter: p.Interpreter, PipOnly: p.PipOnly, Repair: p.Repair, Progress: p.Progress}, true
}

// nvidiaDriver are files of which a machine with NVIDIA's driver has one, inside of containers too; a variable so that tests can give their own.
var nvidiaDriver = []string{"/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvidia0"}

func hasNVIDIA() bool {
	return slices.ContainsFunc(nvidiaDriver, func(file string) bool { _, err := os.Stat(file); return err == nil })
}

// python makes a package's environment where it is not there yet.
func (p *Preparer) python(ctx context.Context, pkg catalog.Package) (pyenv.Env, error) {
	spec, options, _ := p.Environment(pkg)
	env, err := pyenv.Ensure(ctx, spec, options)
	if err != nil {
		if e := plugins.AsError(err); pkg.Origin == catalog.Folder && strings.HasPrefix(e.Hint, "srpo plugin install ") {
			return env, e.WithHint("srpo plugin install %s --repair", pkg.Dir) // its name alone need not be known
		}
		return env, err
	}
	if env.Built && p.Notice != nil {
		p.Notice(fmt.Sprintf("%s's Python environment is ready: %.0f MB in %s, made in %.0f s with Python %s and %s", pkg.Name, env.Stamp.MB, env.Dir, env.Stamp.Seconds,
			env.Stamp.Version, env.Stamp.Installer))
	}
	return env, nil
}

// pythonVariables are those of every process that has a Python environment.
func (p *Preparer) pythonVariables(env pyenv.Env, l *Launch) (err error) {
	own := map[string]string{
		"PYTHONNOUSERSITE": "1",
		// Compiled files go to the cache, for three reasons: packages and environments stay as they were hashed, no compiled file that lies in a package is
		// ever run, and the second start is as fast as if they were there.
		"PYTHONPYCACHEPREFIX": filepath.Join(p.Cache, "pycache", filepath.Base(env.Dir)),
		// Sets of strings have the same order in every process, so that results depend on seeds only.
		"PYTHONHASHSEED": "0",
		"VIRTUAL_ENV":    env.Dir,
		"PATH":           filepath.Join(env.Dir, "bin") + string(filepath.ListSeparator) + os.Getenv("PATH"),
	}
	if p.SDK != nil {
		if own["PYTHONPATH"], err = catalog.Unpack(p.SDK, p.Cache, "sdk", "python"); err != nil {
			return err
		}
	}
	for name, value := range own {
		if _, given := l.Env[name]; !given {
			l.Env[name] = value
		}
	}
	return nil
}

// build makes a package's program from source. The build command runs every time: a program also depends on files outside its package (a local replace in go.mod,
// a go.work, a Go SDK in the same module), which only the build tool knows, and with nothing changed it takes a fraction of a second. Where the tool is gone, as
// on a machine that got a filled cache, the program that was built from the same package files runs.
func (p *Preparer) build(ctx context.Context, pkg catalog.Package, tree lock.Tree) (string, error) {
	dir := filepath.Join(p.Cache, "builds", pkg.Name+"-"+tree.Sum()[:16])
	program := filepath.Join(dir, "program")
	_, err := os.Stat(program)
	built := err == nil
	if tool := pkg.Manifest.Command.Build[0]; built && !p.Repair && !strings.Contains(tool, "/") {
		if _, err := exec.LookPath(tool); err != nil {
			return program, nil
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", plugins.Errorf(plugins.Exhausted, "the build's folder: %w", err).WithHint("set SRPO_CACHE to a folder that can be written to")
	}
	tmp := filepath.Join(dir, fmt.Sprintf(".program-%d", os.Getpid()))
	defer os.Remove(tmp)
	if built && !p.Repair { // what is up to date need not be linked again
		if err := copyProgram(tmp, program); err != nil {
			return "", plugins.Errorf(plugins.Exhausted, "the build's folder: %w", err)
		}
	}
	args := pkg.Manifest.Command.BuildArgs(tmp)
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = pkg.Dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	began := time.Now()
	what := fmt.Sprintf("building %s: %s", pkg.Name, strings.Join(pkg.Manifest.Command.Build, " "))
	report := func() {
		if p.Progress != nil {
			p.Progress(pyenv.Progress{What: what, Elapsed: time.Since(began)})
		}
	}
	if !built {
		report()
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			report()
		case err := <-done:
			if err == nil {
				err = os.Rename(tmp, program)
			}
			if err == nil {
				return program, nil
			}
			if ctx.Err() != nil {
				return "", plugins.Errorf(plugins.Canceled, "the build was stopped: %w", ctx.Err())
			}
			words := strings.Split(strings.TrimSpace(out.String()), "\n")
			hint := "run it by hand in " + pkg.Dir
			if strings.Contains(out.String(), "missing go.sum entry") || strings.Contains(out.String(), "updates to go.mod needed") {
				hint = "cd " + pkg.Dir + " && go mod tidy"
			}
			return "", plugins.Errorf(plugins.Invalid, "%s failed: %w", strings.Join(pkg.Manifest.Command.Build, " "), err).
				WithDetail(strings.Join(words[max(0, len(words)-30):], "\n")).WithHint("%s", hint)
		}
	}
}

func copyProgram(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
