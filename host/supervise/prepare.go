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

// Preparer turns packages into launches: it checks them against srpo.lock and for system libraries, and
// installs or builds what is missing.
type Preparer struct {
	// Cache is the cache folder of srpo, see [pyenv.CacheDir].
	Cache string
	// Lock is the path of srpo.lock; empty: packages are not checked.
	Lock string
	// SDK contains the folder srpo_sdk, the Python side of the contract, for the PYTHONPATH of plugins.
	SDK fs.FS
	// Program serves the built-in plugins, as PROGRAM plugin serve KIND NAME; empty: the running program.
	Program string
	// Interpreter is the Python with which environments are made; empty: search.
	Interpreter string
	// PipOnly disables uv.
	PipOnly bool
	// Relock locks a changed package again when it was given by path and only the user can write it, see
	// [lock.Check]. It must be false when the path comes from a run folder.
	Relock bool
	// Repair installs and builds again what has changed; for `srpo plugin install`.
	Repair bool
	// Progress receives the progress of installations and builds. May be nil.
	Progress func(pyenv.Progress)
	// Notice receives sentences for the user, e.g. that a package was added to the lock. May be nil.
	Notice func(string)
}

func (p *Preparer) notice(format string, args ...any) {
	if p.Notice != nil {
		p.Notice(fmt.Sprintf(format, args...))
	}
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
			return l, e // the message contains the name of the package
		}
		return l, e.WithPlace("%s", l.Label())
	}
	return l, nil
}

// self returns the path of srpo's program.
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

// errCache is the error for a folder of the cache that cannot be written.
func errCache(what string, err error) error {
	return plugins.Errorf(plugins.Exhausted, "%s: %w", what, err).
		WithHint("set SRPO_CACHE to a folder that can be written to")
}

func (p *Preparer) prepare(ctx context.Context, pkg catalog.Package, l *Launch) error {
	if pkg.Origin == catalog.Folder && p.Lock != "" {
		if err := p.checkLock(pkg); err != nil {
			return err
		}
		tree, err := lock.HashDir(pkg.Dir)
		if err != nil {
			return err
		}
		l.VerifyPackage = verifyPackage(pkg, tree, l.Label())
	}
	if err := CheckLibraries(pkg.Manifest.System); err != nil {
		return err
	}
	var env pyenv.Env
	if pkg.Manifest.Python != nil {
		var err error
		if env, err = p.python(ctx, pkg); err != nil {
			return err
		}
	}
	if err := p.variables(pkg, env, l); err != nil {
		return err
	}
	return p.command(ctx, pkg, env, l)
}

// variables sets the variables of the manifest and of the Python environment.
func (p *Preparer) variables(pkg catalog.Package, env pyenv.Env, l *Launch) error {
	data := filepath.Join(p.Cache, "data", string(pkg.Kind)+"-"+pkg.Name)
	replace := strings.NewReplacer("{package}", pkg.Dir, "{cache}", data, "{venv}", env.Dir, "{made}", env.Made)
	for name, value := range pkg.Manifest.Env {
		if strings.Contains(value, "{cache}") {
			if err := os.MkdirAll(data, 0o755); err != nil {
				return errCache("the package's folder in the cache", err)
			}
		}
		l.Env[name] = replace.Replace(value)
	}
	if pkg.Manifest.Python == nil {
		return nil
	}
	return p.pythonVariables(env, l)
}

// command sets the command line. It builds the program of a package that is built from source.
func (p *Preparer) command(ctx context.Context, pkg catalog.Package, env pyenv.Env, l *Launch) error {
	m := pkg.Manifest
	if m.Command == nil {
		l.Argv = []string{env.Python, "-u", filepath.Join(pkg.Dir, filepath.FromSlash(m.Python.Entry))}
		return nil
	}
	if m.Command.IsSelf() {
		if pkg.Origin != catalog.Embedded {
			return plugins.Errorf(plugins.Invalid, "only packages inside srpo are served by its own program").
				WithHint("name a program of the package in [command] exec")
		}
		program, err := p.self()
		if err != nil {
			return err
		}
		// It runs in the host's folder, as a built-in plugin does: relative paths in its settings are the
		// user's.
		l.Argv, l.Dir = append([]string{program}, m.Command.Exec[1:]...), ""
		return nil
	}
	program := filepath.Join(pkg.Dir, filepath.FromSlash(m.Command.Exec[0]))
	if len(m.Command.Build) > 0 {
		tree, err := lock.HashDir(pkg.Dir)
		if err != nil {
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
	if err == nil && result.Added {
		p.notice(
			"%s %s is used for the first time: its files are locked in %s from now on",
			pkg.Kind,
			pkg.Name,
			p.Lock,
		)
	}
	if err == nil && len(result.Relocked) > 0 {
		p.notice("%s", relockNotice(pkg.Dir, result.Relocked))
	}
	return err
}

// relockNotice is the line about a package that was locked again, e.g. "re-locked ./my-env: 2 files changed
// (a.py, b.py)".
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

// verifyPackage returns a function that compares a locked package with its content at the start of the run:
// a restart may be a week later.
func verifyPackage(pkg catalog.Package, locked lock.Tree, label string) func() error {
	return func() error {
		now, err := lock.HashDir(pkg.Dir)
		if err != nil {
			return plugins.AsError(err).WithPlace("%s", label)
		}
		changes := locked.Changes(now)
		if len(changes) == 0 {
			return nil
		}
		const message = "it cannot be restarted: its package %s was changed while it ran: %s"
		return plugins.Errorf(plugins.Corrupt, message, pkg.Dir, changes[0]).WithPlace("%s", label).
			WithDetail(lock.Describe(changes[:min(len(changes), 20)], "\n")).
			WithHint("restore the package, or if you made the change: srpo plugin lock %s", pkg.Dir)
	}
}

// Environment returns the contents and options of a package's Python environment. ok is false when the
// package has none. pkg.Dir must be set.
func (p *Preparer) Environment(pkg catalog.Package) (s pyenv.Spec, o pyenv.Options, ok bool) {
	if pkg.Manifest == nil || pkg.Manifest.Python == nil {
		return s, o, false
	}
	m := pkg.Manifest.Python
	s = pyenv.Spec{
		Name:         pkg.Name,
		Python:       m.Requirement,
		NoDeps:       m.NoDeps,
		DownloadMB:   m.DownloadMB,
		DiskMB:       m.DiskMB,
		Requirements: filepath.Join(pkg.Dir, filepath.FromSlash(m.Requirements)),
	}
	if m.GPU != nil && hasNVIDIA() {
		s.Requirements = filepath.Join(pkg.Dir, filepath.FromSlash(m.GPU.Requirements))
		s.DownloadMB, s.DiskMB = m.GPU.DownloadMB, m.GPU.DiskMB
	}
	if m.PostInstall != "" {
		s.PostInstall = filepath.Join(pkg.Dir, filepath.FromSlash(m.PostInstall))
	}
	o = pyenv.Options{
		Cache:       p.Cache,
		Interpreter: p.Interpreter,
		PipOnly:     p.PipOnly,
		Repair:      p.Repair,
		Progress:    p.Progress,
	}
	return s, o, true
}

// nvidiaDriver are files of which a machine with NVIDIA's driver has at least one, also inside containers.
// Tests replace it.
var nvidiaDriver = []string{"/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvidia0"}

func hasNVIDIA() bool {
	return slices.ContainsFunc(nvidiaDriver, func(file string) bool { _, err := os.Stat(file); return err == nil })
}

// python returns the package's environment, and makes it when it is missing.
func (p *Preparer) python(ctx context.Context, pkg catalog.Package) (pyenv.Env, error) {
	spec, options, _ := p.Environment(pkg)
	env, err := pyenv.Ensure(ctx, spec, options)
	if err != nil {
		if e := plugins.AsError(err); pkg.Origin == catalog.Folder &&
			strings.HasPrefix(e.Hint, "srpo plugin install ") {
			return env, e.WithHint(
				"srpo plugin install %s --repair",
				pkg.Dir,
			) // the name may be unknown to the catalog
		}
		return env, err
	}
	if env.Built {
		p.notice("%s's Python environment is ready: %.0f MB in %s, made in %.0f s with Python %s and %s", pkg.Name,
			env.Stamp.MB, env.Dir, env.Stamp.Seconds, env.Stamp.Version, env.Stamp.Installer)
	}
	return env, nil
}

// pythonVariables sets the variables of every process that has a Python environment, unless the manifest
// sets them.
func (p *Preparer) pythonVariables(env pyenv.Env, l *Launch) (err error) {
	own := map[string]string{
		"PYTHONNOUSERSITE": "1",
		// Compiled files are written to the cache. So packages and environments keep their hashes, and no
		// compiled file in a package is ever run.
		"PYTHONPYCACHEPREFIX": filepath.Join(p.Cache, "pycache", filepath.Base(env.Dir)),
		// Sets of strings have the same order in every process, so results depend on seeds only.
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

// build makes a package's program from source. It runs the build command every time: a program also depends
// on files outside its package (a local replace in go.mod, a go.work, a Go SDK in the same module), which
// only the build tool knows, and a build without changes is fast. Where the build tool is missing, as on a
// machine that got a filled cache, it returns the program that was built from the same package files.
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
		return "", errCache("the build's folder", err)
	}
	tmp := filepath.Join(dir, fmt.Sprintf(".program-%d", os.Getpid()))
	defer os.Remove(tmp)
	if built && !p.Repair { // so that the build tool need not link it again
		if err := copyProgram(tmp, program); err != nil {
			return "", plugins.Errorf(plugins.Exhausted, "the build's folder: %w", err)
		}
	}
	out, err := p.runBuild(ctx, pkg, pkg.Manifest.Command.BuildArgs(tmp), built)
	if err == nil {
		err = os.Rename(tmp, program)
	}
	if err == nil {
		return program, nil
	}
	if plugins.KindOf(err) == plugins.Canceled {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	hint := "run it by hand in " + pkg.Dir
	if strings.Contains(out, "missing go.sum entry") || strings.Contains(out, "updates to go.mod needed") {
		hint = "cd " + pkg.Dir + " && go mod tidy; if that cannot find srpo's module, build against a checkout: " +
			"go mod edit -replace github.com/srpo-dev/srpo=PATH-OF-A-CHECKOUT"
	}
	command := strings.Join(pkg.Manifest.Command.Build, " ")
	return "", plugins.Errorf(plugins.Invalid, "%s failed: %w", command, err).
		WithDetail(strings.Join(lines[max(0, len(lines)-30):], "\n")).WithHint("%s", hint)
}

// runBuild runs a build command and reports its progress, for a program that was built before only after a
// second. It returns the output of the command.
func (p *Preparer) runBuild(ctx context.Context, pkg catalog.Package, args []string, built bool) (string, error) {
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
	report := func() {
		if p.Progress != nil {
			what := fmt.Sprintf("building %s: %s", pkg.Name, strings.Join(pkg.Manifest.Command.Build, " "))
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
			if err != nil && ctx.Err() != nil {
				err = plugins.Errorf(plugins.Canceled, "the build was stopped: %w", ctx.Err())
			}
			return out.String(), err
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
