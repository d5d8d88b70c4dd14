package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io/fs"
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

	"github.com/srpo-dev/srpo/envs/libero"
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

// Below lowMB doctor warns; below minMB a run would fail. The default run takes 137 MB of memory (PSS) in its four
// processes and 13 MB of disk for 10 iterations, as measured.
const (
	lowMB = 1000
	minMB = 200
)

// lowGPU is the free share of a GPU's memory below which doctor warns: a policy that fits an empty GPU may not fit.
const lowGPU = 0.5

// goodGo is the minor version of the first Go that downloads the toolchain that a plugin's go.mod asks for.
const goodGo = 21

// triangle draws a triangle with EGL, and prints the renderer and the EGL device.
//
//go:embed templates/triangle.py
var triangle string

// finding is the result of one check.
type finding struct {
	What string `json:"what"`
	// Status is "ok", "absent" (not needed for this run), "warning" or "failure".
	Status  string `json:"status"`
	Message string `json:"message"`
	// Fix is the command that fixes it.
	Fix string `json:"mend,omitempty"`
	// Needed reports whether srpo run would need it here.
	Needed bool `json:"needed"`
}

func (a *app) doctorCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine",
		Long: "doctor checks what srpo run needs here, with the srpo.toml of this folder or the defaults, and\n" +
			"what other plugins need. Each problem comes with the command that fixes it. Exit code 0: the run\n" +
			"would work; 1: it would not.",
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
			failed := slices.ContainsFunc(d.findings, func(f finding) bool { return f.Status == "failure" && f.Needed })
			if a.json {
				if err := a.printJSON(map[string]any{"ok": !failed, "findings": d.findings}); err != nil {
					return err
				}
			} else if failed {
				fmt.Fprintln(a.out, "\nsrpo run would not work here; fix the lines with ✗")
			} else {
				fmt.Fprintf(
					a.out, "\nsrpo run would work here, with env %s, policy %s, encoder %s\n", w.cfg.Run.Env,
					w.cfg.Run.Policy, w.cfg.Run.Encoder,
				)
			}
			if failed {
				return errReported
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "config", "", "configuration file; default srpo.toml, if it exists")
	return c
}

func (a *app) showFinding(f finding) {
	mark := map[string]string{"ok": "✓", "absent": "-", "warning": "!", "failure": "✗"}[f.Status]
	fmt.Fprintf(a.out, "%s %-18s %s\n", mark, f.What, strings.ReplaceAll(f.Message, "\n", "\n"+strings.Repeat(" ", 21)))
	if f.Fix != "" {
		fmt.Fprintf(a.out, "  %-18s try: %s\n", "", f.Fix)
	}
}

type doctor struct {
	w        *workbench
	show     func(finding)
	findings []finding

	all    []catalog.Package          // every known package, unpacked
	needed map[string]catalog.Package // the packages that srpo run would use, by kind and name
}

func (d *doctor) note(f finding) {
	d.findings = append(d.findings, f)
	d.show(f)
}

func (d *doctor) ok(what, format string, args ...any) {
	d.note(finding{What: what, Status: "ok", Message: fmt.Sprintf(format, args...)})
}

func (d *doctor) absent(what, fix, format string, args ...any) {
	d.note(finding{What: what, Status: "absent", Message: fmt.Sprintf(format, args...), Fix: fix})
}

// bad records a failure of something that is needed, and a warning otherwise.
func (d *doctor) bad(needed bool, what, fix, format string, args ...any) {
	status := "warning"
	if needed {
		status = "failure"
	}
	d.note(finding{What: what, Status: status, Message: fmt.Sprintf(format, args...), Fix: fix, Needed: needed})
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
	interpreters := make(chan interpreters, 1) // the slowest check runs beside the others
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
	summary := fmt.Sprintf("%s, %s/%s, %s", version(), runtime.GOOS, runtime.GOARCH, count(runtime.NumCPU(), "core"))
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		d.bad(true, "srpo", "use a Linux or macOS machine, or a container", "%s: srpo runs on Linux and macOS", summary)
		return
	}
	d.ok("srpo", "%s", summary)
	if a, err := arena.New(1 << 20); plugins.KindOf(err) == plugins.Unsupported {
		d.absent(
			"shared memory", "",
			"this system cannot seal memory files; frames are sent in messages, with the same results",
		)
	} else if err != nil {
		e := plugins.AsError(err)
		d.bad(d.w.arenaBytes() > 0, "shared memory", "srpo run --arena off", "%s", e.Error())
	} else {
		_ = a.Close()
		d.ok("shared memory", "memory files can be sealed")
	}
	switch mb, from := freeMemoryMB(); {
	case mb == 0:
		d.absent("memory", "", "unknown")
	case mb < minMB:
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

// freeMemoryMB returns the free memory of the machine or its control group, whichever is less, in 10^6 bytes; 0:
// unknown.
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
	if limit, used := number("memory.max"), number("memory.current"); limit > 0 && used >= 0 && limit-used < mb {
		return limit - used, "of the container"
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
	for _, f := range []struct{ what, dir, fix string }{
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
			d.bad(true, f.what, f.fix, "%s: %v", dir, err)
			continue
		}
		if probe, err := os.CreateTemp(dir, ".srpo-doctor-"); err != nil {
			d.bad(true, f.what, f.fix, "cannot write to %s: %v", dir, err)
			continue
		} else {
			_ = probe.Close()
			_ = os.Remove(probe.Name())
		}
		switch mb := float64(st.Bavail) * float64(st.Bsize) / 1e6; {
		case mb < minMB:
			d.bad(true, f.what, f.fix, "%.0f MB free for %s", mb, f.dir)
		case mb < lowMB:
			d.bad(false, f.what, f.fix, "%.0f MB free for %s", mb, f.dir)
		default:
			d.ok(f.what, "%.1f GB free for %s", mb/1000, f.dir)
		}
	}
}

// leftovers removes socket folders and plugins of hosts that are gone.
func (d *doctor) leftovers() {
	folders, processes := supervise.Sweep()
	if len(folders) > 0 || processes > 0 {
		d.ok(
			"leftovers", "removed %s and %s of runs whose host is gone", count(
				len(folders), "socket folder",
			), count(processes, "plugin"),
		)
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
		if p.Origin == catalog.Folder && !slices.ContainsFunc(
			d.all, func(o catalog.Package) bool { return o.Dir == p.Dir },
		) {
			d.all = append(d.all, p)
		}
	}
}

func (d *doctor) isNeeded(p catalog.Package) bool {
	n, ok := d.needed[string(p.Kind)+" "+p.Name]
	return ok && n.Dir == p.Dir
}

// builtIns starts the plugins of this program, all at once.
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
			if err := d.w.ask(
				ctx, p, func(ctx context.Context, p plugins.Plugin) error { _, err := p.Info(ctx); return err },
			); err != nil {
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

// interpreters holds the Python interpreters and uv of this machine.
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

// pythons lists the interpreters and the plugins for which there is none.
func (d *doctor) pythons(i interpreters) {
	if i.err != nil {
		d.err(false, "Python", i.err)
		return
	}
	found, uv, why := i.found, i.uv, i.why
	var lines []string
	for _, in := range found {
		line := fmt.Sprintf("%s %s", in.Version, in.Path)
		if !in.Venv {
			line += " (without venv: only with uv)"
		}
		lines = append(lines, line)
	}
	if len(found) == 0 {
		d.absent("Python", "apt-get install python3 python3-venv", "not found; only plugins in Python need it")
	} else {
		d.ok("Python", "%s", strings.Join(lines, "\n"))
	}
	if uv == "" {
		fix := ""
		if len(found) > 0 && !slices.ContainsFunc(found, func(in pyenv.Interpreter) bool { return in.Venv }) {
			fix = "apt-get install python3-venv, or install uv"
		}
		d.absent("uv", fix, "%s; environments are built with venv and pip, which takes longer", why)
	} else {
		d.ok("uv", "%s, %s", why, uv)
	}
	for _, p := range d.all {
		if p.Manifest == nil || p.Manifest.Python == nil {
			continue
		}
		if state, _ := d.w.state(p); state == "ready" {
			continue // its environment exists
		}
		if !slices.ContainsFunc(found, func(in pyenv.Interpreter) bool {
			return p.Manifest.Python.Requirement.Allows(in.Version) && (in.Venv || uv != "")
		}) {
			if uv != "" {
				continue // uv installs it with the plugin
			}
			minor := strings.TrimLeft(strings.Split(p.Manifest.Python.Version, ",")[0], "<>=! ")
			d.bad(
				d.isNeeded(p), "Python for "+p.Name, "uv python install "+minor+", or pyenv install "+minor,
				"it needs %s", p.Manifest.Python.Version,
			)
		}
	}
}

// tools checks programs that some plugins need.
func (d *doctor) tools(ctx context.Context) {
	for _, t := range []struct{ name, flag, why, fix string }{
		{"gcc", "--version", "only Python packages without a wheel need it, no plugin of srpo", "apt-get install gcc"},
		{"go", "version", "only plugins that are built from Go source need it", "apt-get install golang-go"},
	} {
		out, err := output(ctx, nil, t.name, t.flag)
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		needed := t.name == "go" && slices.ContainsFunc(d.all, func(p catalog.Package) bool {
			return d.isNeeded(p) && p.Manifest != nil && p.Manifest.Command != nil &&
				len(p.Manifest.Command.Build) > 0 &&
				p.Manifest.Command.Build[0] == "go"
		})
		if err != nil {
			if needed {
				d.bad(true, t.name, t.fix, "not found, and a plugin of this run is built with it")
			} else {
				d.absent(t.name, t.fix, "not found: %s", t.why)
			}
			continue
		}
		var minor int
		if _, err := fmt.Sscanf(line, "go version go1.%d", &minor); t.name == "go" && err == nil && minor < goodGo {
			d.bad(
				needed, t.name, t.fix+", or install a newer Go",
				"%s: older than 1.%d, which downloads the version that a plugin needs", line, goodGo,
			)
			continue
		}
		d.ok(t.name, "%s (%s)", line, t.why)
	}
}

// output runs a program with a deadline and returns its stdout. The error has the last line of stderr. The process
// group of the program ends with it.
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
		return nil, fmt.Errorf("it did not finish within %v", probeTime)
	}
	if lines := strings.Split(strings.TrimSpace(stderr.String()), "\n"); err != nil && lines[len(lines)-1] != "" {
		return nil, fmt.Errorf("%s", lines[len(lines)-1])
	}
	return stdout.Bytes(), err
}

// environments checks the environment of each Python package.
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
			d.ok(what, "installed and complete: %.0f MB, Python %s", env.Stamp.MB, env.Stamp.Version)
		case plugins.KindOf(err) == plugins.NotFound:
			d.absent(
				what, "srpo plugin install "+installName(p), "not installed%s; its first run installs it", sizes(p),
			)
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
		d.absent("other environments", "",
			"%s in %s of unknown packages or of older versions,\nwhich are built again when needed: %s",
			count(len(unused), "environment"), filepath.Join(d.w.prep.Cache, "venvs"), strings.Join(
				unused[:min(3, len(unused))], ", ",
			)+more(len(unused)-3))
	}
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// egl draws a triangle with the environment of a plugin that uses EGL, in a separate process, because a driver may
// hang or crash.
func (d *doctor) egl(ctx context.Context) {
	for _, p := range d.all {
		if p.Manifest == nil || !slices.ContainsFunc(
			p.Manifest.System, func(s manifest.System) bool { return s.Library == "libEGL.so.1" },
		) {
			continue
		}
		state, env := d.w.state(p)
		if state != "ready" || env == nil {
			if supervise.CheckLibraries(p.Manifest.System) == nil {
				d.ok("EGL", "libEGL.so.1 exists; drawing is checked once env %s is installed", p.Name)
			}
			return // a missing library is reported already
		}
		began := time.Now()
		own := []string{"PYOPENGL_PLATFORM=egl", "MUJOCO_GL=egl", "PYTHONNOUSERSITE=1", "PYTHONDONTWRITEBYTECODE=1"}
		for name, value := range p.Manifest.Env {
			if !strings.Contains(value, "{") {
				own = append(own, name+"="+value)
			}
		}
		out, err := drawTriangle(ctx, append(os.Environ(), own...), env.Python)
		if err != nil {
			fix := "apt-get install libegl1 libgl1-mesa-dri, or install the driver's EGL; or --set env.libero.gl=osmesa"
			if strings.Contains(err.Error(), "MUJOCO_EGL_DEVICE_ID is") {
				fix = "unset MUJOCO_EGL_DEVICE_ID"
			}
			d.bad(d.isNeeded(p), "EGL", fix, "cannot draw a triangle: %v", err)
			return
		}
		d.ok("EGL", "drew a triangle in %s, on %s", took(time.Since(began)), strings.TrimSpace(string(out)))
		return
	}
}

// drawTriangle draws a triangle on the EGL device that the LIBERO plugins would choose with these variables.
func drawTriangle(ctx context.Context, environ []string, python string) ([]byte, error) {
	choice, err := fs.ReadFile(libero.Shared["libero_sim"], "egl_device.py")
	if err != nil {
		return nil, err
	}
	return output(ctx, environ, python, "-I", "-c", string(choice)+"\n"+triangle)
}

func (d *doctor) gpu(ctx context.Context) {
	if _, err := exec.LookPath("nvidia-smi"); err != nil {
		d.absent("GPU", "", "no nvidia-smi; everything runs on the CPU")
		return
	}
	out, err := output(
		ctx, nil, "nvidia-smi", "--query-gpu=name,memory.free,memory.total,driver_version",
		"--format=csv,noheader,nounits",
	)
	if err != nil {
		d.bad(false, "GPU", "modprobe nvidia, or reinstall the driver and reboot", "nvidia-smi: %v", err)
		return
	}
	var gpus []string
	scarce := false
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if f := strings.Split(line, ", "); len(f) == 4 {
			gpus = append(gpus, fmt.Sprintf("%s: %s of %s MiB free, driver %s", f[0], f[1], f[2], f[3]))
			free, err1 := strconv.ParseFloat(f[1], 64)
			total, err2 := strconv.ParseFloat(f[2], 64)
			scarce = scarce || err1 == nil && err2 == nil && free < lowGPU*total
		}
	}
	switch {
	case len(gpus) == 0:
		d.bad(false, "GPU", "nvidia-smi", "nvidia-smi lists no GPU: %s", strings.TrimSpace(string(out)))
		return
	case scarce:
		d.bad(false, "GPU", "end the programs that nvidia-smi lists, or choose another GPU with CUDA_VISIBLE_DEVICES",
			"%s",
			strings.Join(gpus, "\n"))
		return
	}
	d.ok("GPU", "%s", strings.Join(gpus, "\n"))
}

// lock compares every package in srpo.lock with the files in its folder.
func (d *doctor) lock() {
	file := d.w.prep.Lock
	f, err := lock.Load(file)
	if err != nil {
		d.err(true, "srpo.lock", err)
		return
	}
	unchanged := 0
	for _, e := range f.Entries() {
		dir := filepath.FromSlash(e.Path)
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(filepath.Dir(file), dir)
		}
		if _, err := os.Stat(dir); err != nil {
			d.absent(
				"srpo.lock", "srpo plugin lock --prune", "%s %s: the folder %s does not exist", e.Kind, e.Name, dir,
			)
			continue
		}
		if err := f.Verify(lock.Package{Kind: e.Kind, Name: e.Name, Version: e.Version, Dir: dir}); err != nil {
			n, ok := d.needed[string(e.Kind)+" "+e.Name]
			d.bad(
				ok && n.Dir == dir, "srpo.lock", "srpo plugin lock "+dir+", if the change was intended", "%s",
				plugins.AsError(err).Message,
			)
			continue
		}
		unchanged++
	}
	if unchanged > 0 {
		d.ok("srpo.lock", "%s unchanged", count(unchanged, "package"))
	}
}
