package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
)

// probeTime bounds each program that doctor runs.
var probeTime = 60 * time.Second // a variable for tests

// Below these sizes doctor warns, or says that a run cannot go on. The default run was measured to take 137 MB of memory (PSS) over its four
// processes, and 13 MB of disk for 10 iterations.
const (
	lowMB  = 1000
	noneMB = 200
)

// lowGPU is the share of a GPU's memory below which what is free is worth a warning: a policy that was measured on an empty one may not fit.
const lowGPU = 0.5

// goodGo is the first Go that fetches by itself the version that a plugin's go.mod asks for.
const goodGo = 21

// triangle draws one by EGL, and prints the renderer and the colours in its middle and beside it.
//
//go:embed templates/triangle.py
var triangle string

// finding is what doctor saw of one thing.
type finding struct {
	What string `json:"what"`
	// Status is "ok", "absent" (and not needed here), "warning" or "failure".
	Status  string `json:"status"`
	Message string `json:"message"`
	// Mend is the command that mends it.
	Mend string `json:"mend,omitempty"`
	// Needed says that what srpo run would run here needs it.
	Needed bool `json:"needed"`
}

func (a *app) doctorCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at what this machine has for srpo",
		Long: "doctor checks what srpo run needs here, by the srpo.toml that lies here or the defaults, and what other plugins would need. Each line that is\n" +
			"not in order names the command that mends it. Exit code 1: the run would not work; 0: it would.",
		RunE: func(c *cobra.Command, _ []string) error {
			w, err := a.workbench(file, nil)
			if err != nil {
				return err
			}
			d := &doctor{w: w, show: func(f finding) {
				if !a.json {
					a.showFinding(f)
				}
			}}
			d.examine(c.Context())
			if err := stopRequested(c.Context()); err != nil {
				return err
			}
			sick := slices.ContainsFunc(d.findings, func(f finding) bool { return f.Status == "failure" && f.Needed })
			if a.json {
				if err := a.printJSON(map[string]any{"ok": !sick, "findings": d.findings}); err != nil {
					return err
				}
			} else if sick {
				fmt.Fprintln(a.out, "\nsrpo run would not work here: see the lines with ✗")
			} else {
				fmt.Fprintf(a.out, "\nsrpo run works here, with env %s, policy %s, encoder %s\n", w.cfg.Run.Env, w.cfg.Run.Policy, w.cfg.Run.Encoder)
			}
			if sick {
				return errReported
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "config", "", "configuration file; default srpo.toml where there is one")
	return c
}

func (a *app) showFinding(f finding) {
	mark := map[string]string{"ok": "✓", "absent": "-", "warning": "!", "failure": "✗"}[f.Status]
	fmt.Fprintf(a.out, "%s %-18s %s\n", mark, f.What, strings.ReplaceAll(f.Message, "\n", "\n"+strings.Repeat(" ", 21)))
	if f.Mend != "" {
		fmt.Fprintf(a.out, "  %-18s try: %s\n", "", f.Mend)
	}
}

type doctor struct {
	w        *workbench
	show     func(finding)
	findings []finding

	all    []catalog.Package          // every package that is known, unpacked
	needed map[string]catalog.Package // those that srpo run would use, by kind and name
}

func (d *doctor) note(f finding) {
	d.findings = append(d.findings, f)
	d.show(f)
}

func (d *doctor) ok(what, format string, args ...any) {
	d.note(finding{What: what, Status: "ok", Message: fmt.Sprintf(format, args...)})
}

func (d *doctor) absent(what, mend, format string, args ...any) {
	d.note(finding{What: what, Status: "absent", Message: fmt.Sprintf(format, args...), Mend: mend})
}

// bad notes a failure where it is needed, and a warning elsewhere.
func (d *doctor) bad(needed bool, what, mend, format string, args ...any) {
	status := "warning"
	if needed {
		status = "failure"
	}
	d.note(finding{What: what, Status: status, Message: fmt.Sprintf(format, args...), Mend: mend, Needed: needed})
}

func (d *doctor) err(needed bool, what string, err error) {
	e := plugins.AsError(err)
	message := e.Error()
	if e.Detail != "" {
		message += "\n" + e.Detail
	}
	d.bad(needed, what, e.Hint, "%s", message)
}

func (d *doctor) examine(ctx context.Context) {
	interpreters := make(chan interpreters, 1) // the slowest look: it runs beside the others
	go func() { interpreters <- d.interpreters(ctx) }()
	d.machine()
	d.disk()
	d.leftovers()
	d.packages()
	d.builtIns(ctx)
	d.pythons(<-interpreters)
	d.tools(ctx)
	d.environments()
	d.egl(ctx)
	d.gpu(ctx)
	d.lock()
}

func (d *doctor) machine() {
	words := fmt.Sprintf("%s, %s/%s, %s", version(), runtime.GOOS, runtime.GOARCH, count(runtime.NumCPU(), "core"))
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		d.bad(true, "srpo", "on a Linux or macOS machine, or in a container: srpo doctor", "%s: srpo runs on Linux and macOS", words)
		return
	}
	d.ok("srpo", "%s", words)
	if a, err := arena.New(1 << 20); plugins.KindOf(err) == plugins.Unsupported {
		d.absent("shared memory", "", "this system has none that can be sealed: frames travel in the messages, with the same results")
	} else if err != nil {
		e := plugins.AsError(err)
		d.bad(d.w.arenaBytes() > 0, "shared memory", "srpo run --arena off", "%s", e.Error())
	} else {
		_ = a.Close()
		d.ok("shared memory", "sealed memory files can be made")
	}
	switch mb, from := freeMemoryMB(); {
	case mb == 0:
		d.absent("memory", "", "unknown")
	case mb < noneMB:
		d.bad(true, "memory", "srpo run --lanes 1, and end other programs", "%.0f MB free (%s)", mb, from)
	case mb < lowMB:
		d.bad(false, "memory", "srpo run --lanes 1, and end other programs", "%.0f MB free (%s)", mb, from)
	default:
		d.ok("memory", "%.1f GB free (%s)", mb/1000, from)
	}
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil && files.Cur < 256 {
		d.bad(false, "open files", "ulimit -n 1024", "at most %d", files.Cur)
	}
}

// freeMemoryMB is what the machine and the control group leave, in 10^6 bytes, and which of them says so; 0: unknown.
func freeMemoryMB() (mb float64, from string) {
	data, _ := os.ReadFile("/proc/meminfo")
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			mb, from = kib*1024/1e6, "of the machine"
		}
	}
	number := func(name string) float64 {
		text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", name))
		if err != nil {
			return -1
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
		if err != nil {
			return -1 // "max"
		}
		return v / 1e6
	}
	if most, used := number("memory.max"), number("memory.current"); most > 0 && used >= 0 && most-used < mb {
		return most - used, "of the container"
	}
	return mb, from
}

func (d *doctor) disk() {
	here, err := os.Getwd()
	if err != nil {
		here = "."
	}
	out := d.w.cfg.Run.Out
	if out == "" {
		out = filepath.Join(here, "runs")
	}
	for _, f := range []struct{ what, dir, mend string }{
		{"run folder", out, "srpo run --out FOLDER-ON-ANOTHER-DISK"},
		{"cache", d.w.prep.Cache, "export SRPO_CACHE=FOLDER-ON-ANOTHER-DISK"},
	} {
		dir := f.dir
		for { // the nearest folder that exists
			if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == filepath.Dir(dir) {
				break
			}
			dir = filepath.Dir(dir)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			d.bad(true, f.what, f.mend, "%s: %v", dir, err)
			continue
		}
		if probe, err := os.CreateTemp(dir, ".srpo-doctor-"); err != nil {
			d.bad(true, f.what, f.mend, "%s cannot be written to: %v", dir, err)
			continue
		} else {
			_ = probe.Close()
			_ = os.Remove(probe.Name())
		}
		switch mb := float64(st.Bavail) * float64(st.Bsize) / 1e6; {
		case mb < noneMB:
			d.bad(true, f.what, f.mend, "%.0f MB free for %s", mb, f.dir)
		case mb < lowMB:
			d.bad(false, f.what, f.mend, "%.0f MB free for %s", mb, f.dir)
		default:
			d.ok(f.what, "%.1f GB free for %s", mb/1000, f.dir)
		}
	}
}

// leftovers removes what hosts that are gone left, and names what nobody uses any more.
func (d *doctor) leftovers() {
	folders, processes := supervise.Sweep()
	if len(folders) > 0 || processes > 0 {
		d.ok("leftovers", "removed %s and %s of runs whose host is gone", count(len(folders), "socket folder"), count(processes, "plugin"))
	}
}

func (d *doctor) packages() {
	list, broken := d.w.cat.List("")
	for _, p := range list {
		if found, err := d.w.cat.Find(p.Kind, p.Name); err == nil {
			p = found
		}
		d.all = append(d.all, p)
	}
	for _, err := range broken {
		d.err(false, "packages", err)
	}
	d.needed = map[string]catalog.Package{}
	run := d.w.cfg.Run
	for _, n := range []struct {
		kind plugins.Kind
		name string
	}{{plugins.Env, run.Env}, {plugins.Policy, run.Policy}, {plugins.Encoder, run.Encoder}} {
		if n.kind == plugins.Encoder && !srpo.RewardKind(d.w.cfg.Reward.Kind).Embeds() {
			continue
		}
		p, err := d.w.cat.Find(n.kind, n.name)
		if err != nil {
			d.err(true, string(n.kind)+" "+n.name, err)
			continue
		}
		d.needed[string(n.kind)+" "+p.Name] = p
		if p.Origin == catalog.Folder && !slices.ContainsFunc(d.all, func(o catalog.Package) bool { return o.Dir == p.Dir }) {
			d.all = append(d.all, p)
		}
	}
}

func (d *doctor) isNeeded(p catalog.Package) bool {
	n, ok := d.needed[string(p.Kind)+" "+p.Name]
	return ok && n.Dir == p.Dir
}

// builtIns starts the plugins that this program carries, all at once.
func (d *doctor) builtIns(ctx context.Context) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	failed := map[string]error{}
	var names []string
	began := time.Now()
	for _, p := range d.all {
		if p.Origin != catalog.BuiltIn {
			continue
		}
		label := string(p.Kind) + " " + p.Name
		names = append(names, label)
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTime)
			defer cancel()
			if err := d.w.ask(ctx, p, func(ctx context.Context, p plugins.Plugin) error { _, err := p.Info(ctx); return err }); err != nil {
				mu.Lock()
				failed[label] = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, p := range d.all {
		if err := failed[string(p.Kind)+" "+p.Name]; err != nil && p.Origin == catalog.BuiltIn {
			d.err(d.isNeeded(p), string(p.Kind)+" "+p.Name, err)
		}
	}
	if len(failed) == 0 {
		d.ok("built-in plugins", "%s start and answer, in %s", strings.Join(names, ", "), took(time.Since(began)))
	}
}

// interpreters are the Pythons and the uv of this machine.
type interpreters struct {
	found   []pyenv.Interpreter
	err     error // of [host] python
	uv, why string
}

func (d *doctor) interpreters(ctx context.Context) (i interpreters) {
	i.uv, i.why = pyenv.UV(ctx)
	if given := d.w.cfg.Host.Python; given != "" {
		var in pyenv.Interpreter
		any3, _ := pyenv.ParseRequirement(">=3.6")
		if in, i.err = pyenv.Find(ctx, any3, given); i.err == nil {
			i.found = []pyenv.Interpreter{in}
		}
		return i
	}
	i.found = pyenv.Scan(ctx)
	return i
}

// pythons lists what is there and what each Python package takes of it.
func (d *doctor) pythons(i interpreters) {
	if i.err != nil {
		d.err(false, "Python", i.err)
		return
	}
	found, uv, why := i.found, i.uv, i.why
	var words []string
	for _, in := range found {
		w := fmt.Sprintf("%s %s", in.Version, in.Path)
		if !in.Venv {
			w += " (without venv: only with uv)"
		}
		words = append(words, w)
	}
	if len(found) == 0 {
		d.absent("Python", "apt-get install python3 python3-venv", "none: only plugins in Python need it")
	} else {
		d.ok("Python", "%s", strings.Join(words, "\n"))
	}
	if uv == "" {
		mend := ""
		if len(found) > 0 && !slices.ContainsFunc(found, func(in pyenv.Interpreter) bool { return in.Venv }) {
			mend = "apt-get install python3-venv, or install uv"
		}
		d.absent("uv", mend, "%s: environments are made with venv and pip, which takes longer", why)
	} else {
		d.ok("uv", "%s, %s", why, uv)
	}
	for _, p := range d.all {
		if p.Manifest == nil || p.Manifest.Python == nil {
			continue
		}
		if state, _ := d.w.state(p); state == "ready" {
			continue // it has its interpreter
		}
		if !slices.ContainsFunc(found, func(in pyenv.Interpreter) bool {
			return p.Manifest.Python.Requirement.Allows(in.Version) && (in.Venv || uv != "")
		}) {
			if uv != "" {
				continue // uv fetches it with the plugin
			}
			minor := strings.TrimLeft(strings.Split(p.Manifest.Python.Version, ",")[0], "<>=! ")
			d.bad(d.isNeeded(p), "Python for "+p.Name, "uv python install "+minor+", or pyenv install "+minor, "it wants %s", p.Manifest.Python.Version)
		}
	}
}

// tools looks for programs that some plugins need.
func (d *doctor) tools(ctx context.Context) {
	for _, t := range []struct{ name, flag, why, mend string }{
		{"gcc", "--version", "only Python packages without a wheel need it; no plugin of this program does", "apt-get install gcc"},
		{"go", "version", "only plugins that are built from Go source need it", "apt-get install golang-go"},
	} {
		out, err := output(ctx, nil, t.name, t.flag)
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		needed := t.name == "go" && slices.ContainsFunc(d.all, func(p catalog.Package) bool {
			return d.isNeeded(p) && p.Manifest != nil && p.Manifest.Command != nil && len(p.Manifest.Command.Build) > 0 && p.Manifest.Command.Build[0] == "go"
		})
		if err != nil {
			if needed {
				d.bad(true, t.name, t.mend, "not found, and a plugin of this run is built with it")
			} else {
				d.absent(t.name, t.mend, "not found: %s", t.why)
			}
			continue
		}
		var minor int
		if _, err := fmt.Sscanf(line, "go version go1.%d", &minor); t.name == "go" && err == nil && minor < goodGo {
			d.bad(needed, t.name, t.mend+", or a newer Go's own installer", "%s: older than 1.%d, which fetches the version that a plugin asks for", line, goodGo)
			continue
		}
		d.ok(t.name, "%s (%s)", line, t.why)
	}
}

// output runs a program with a deadline and returns what it printed on stdout; the error has the last line of stderr. Its group ends with it.
func output(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		return nil, fmt.Errorf("no answer within %v", probeTime)
	}
	if lines := strings.Split(strings.TrimSpace(stderr.String()), "\n"); err != nil && lines[len(lines)-1] != "" {
		return nil, fmt.Errorf("%s", lines[len(lines)-1])
	}
	return stdout.Bytes(), err
}

// environments says of each Python package whether its environment is whole.
func (d *doctor) environments() {
	used := map[string]bool{}
	for _, p := range d.all {
		spec, o, ok := d.w.prep.Environment(p)
		if !ok {
			continue
		}
		what := string(p.Kind) + " " + p.Name
		if dir, err := spec.Dir(o); err == nil {
			used[dir] = true
		}
		if err := supervise.CheckLibraries(p.Manifest.System); err != nil {
			d.err(d.isNeeded(p), what, err)
			continue
		}
		env, err := pyenv.Open(spec, o)
		switch {
		case err == nil:
			d.ok(what, "its environment is whole: %.0f MB, Python %s", env.Stamp.MB, env.Stamp.Version)
		case plugins.KindOf(err) == plugins.NotFound:
			d.absent(what, "srpo plugin install "+installName(p), "not installed%s; its first run does that", sizes(p))
		default:
			d.bad(d.isNeeded(p), what, "srpo plugin install "+installName(p)+" --repair", "%s", err)
		}
	}
	stamps, _ := filepath.Glob(filepath.Join(d.w.prep.Cache, "venvs", "*", "pyvenv.cfg"))
	var unused []string
	for _, s := range stamps {
		if dir := filepath.Dir(s); !used[dir] {
			unused = append(unused, filepath.Base(dir))
		}
	}
	if len(unused) > 0 {
		d.absent("other environments", "", "%s in %s of packages that are not known here, or of older versions of theirs; whoever\nneeds one again makes it anew: %s",
			count(len(unused), "environment"), filepath.Join(d.w.prep.Cache, "venvs"), strings.Join(unused[:min(3, len(unused))], ", ")+more(len(unused)-3))
	}
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// egl draws a triangle with the environment of a plugin that draws by EGL, in a process of its own: a driver that hangs or crashes shows here.
func (d *doctor) egl(ctx context.Context) {
	for _, p := range d.all {
		if p.Manifest == nil || !slices.ContainsFunc(p.Manifest.System, func(s manifest.System) bool { return s.Library == "libEGL.so.1" }) {
			continue
		}
		state, env := d.w.state(p)
		if state != "ready" || env == nil {
			if supervise.CheckLibraries(p.Manifest.System) == nil {
				d.ok("EGL", "libEGL.so.1 is there; drawing is tried once env %s is installed", p.Name)
			}
			return // what is missing is said already
		}
		began := time.Now()
		own := []string{"PYOPENGL_PLATFORM=egl", "MUJOCO_GL=egl", "PYTHONNOUSERSITE=1", "PYTHONDONTWRITEBYTECODE=1"}
		for name, value := range p.Manifest.Env {
			if !strings.Contains(value, "{") {
				own = append(own, name+"="+value)
			}
		}
		out, err := output(ctx, append(os.Environ(), own...), env.Python, "-I", "-c", triangle)
		if err != nil {
			d.bad(d.isNeeded(p), "EGL", "apt-get install libegl1 libgl1-mesa-dri, or the driver's own EGL; LIBERO draws without it by --set env.libero.gl=osmesa",
				"a triangle could not be drawn: %v", err)
			return
		}
		d.ok("EGL", "drew a triangle in %s, on %s", took(time.Since(began)), strings.TrimSpace(string(out)))
		return
	}
}

func (d *doctor) gpu(ctx context.Context) {
	if _, err := exec.LookPath("nvidia-smi"); err != nil {
		d.absent("GPU", "", "no nvidia-smi: everything here runs on the CPU")
		return
	}
	out, err := output(ctx, nil, "nvidia-smi", "--query-gpu=name,memory.free,memory.total,driver_version", "--format=csv,noheader,nounits")
	if err != nil {
		d.bad(false, "GPU", "modprobe nvidia, or install the driver anew and start the machine again", "nvidia-smi: %v", err)
		return
	}
	var words []string
	scarce := false
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if f := strings.Split(line, ", "); len(f) == 4 {
			words = append(words, fmt.Sprintf("%s: %s of %s MiB free, driver %s", f[0], f[1], f[2], f[3]))
			free, err1 := strconv.ParseFloat(f[1], 64)
			total, err2 := strconv.ParseFloat(f[2], 64)
			scarce = scarce || err1 == nil && err2 == nil && free < lowGPU*total
		}
	}
	switch {
	case len(words) == 0:
		d.bad(false, "GPU", "nvidia-smi", "nvidia-smi lists none: %s", strings.TrimSpace(string(out)))
		return
	case scarce:
		d.bad(false, "GPU", "end what nvidia-smi lists, or choose another one by CUDA_VISIBLE_DEVICES", "%s", strings.Join(words, "\n"))
		return
	}
	d.ok("GPU", "%s", strings.Join(words, "\n"))
}

// lock compares every package in srpo.lock with what lies in its folder.
func (d *doctor) lock() {
	file := d.w.prep.Lock
	f, err := lock.Load(file)
	if err != nil {
		d.err(true, "srpo.lock", err)
		return
	}
	whole := 0
	for _, e := range f.Entries() {
		dir := filepath.FromSlash(e.Path)
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(filepath.Dir(file), dir)
		}
		if _, err := os.Stat(dir); err != nil {
			d.absent("srpo.lock", "srpo plugin lock --prune", "%s %s: its folder %s is gone", e.Kind, e.Name, dir)
			continue
		}
		if err := f.Verify(lock.Package{Kind: e.Kind, Name: e.Name, Version: e.Version, Dir: dir}); err != nil {
			n, ok := d.needed[string(e.Kind)+" "+e.Name]
			d.bad(ok && n.Dir == dir, "srpo.lock", "if it was meant: srpo plugin lock "+dir, "%s", plugins.AsError(err).Message)
			continue
		}
		whole++
	}
	if whole > 0 {
		d.ok("srpo.lock", "%s as locked", count(whole, "package"))
	}
}
