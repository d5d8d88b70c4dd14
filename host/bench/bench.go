// Package bench measures what srpo itself costs: host overhead an env step, a clip's way to an encoder, an
// env's steps a second. Every number comes from real processes through the host's real path, next to what
// it is compared with, in alternation on the same machine, and says how busy the machine was.
package bench

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

//go:embed python/plugin.toml python/requirements.txt python/*.py
var files embed.FS

// Files is the Python package that is measured with, plugin.toml at its root: plugins that do nothing, and
// gymnasium's vector environment.
func Files() fs.FS {
	sub, err := fs.Sub(files, "python")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Tools are what is measured with.
type Tools struct {
	// Env, Policy and Encoder are processes that serve [NewEnv], [NewPolicy] and [NewEncoder].
	Env, Policy, Encoder supervise.Launch
	// Python is the package of [Files], ready to run; its zero value leaves out what needs it.
	Python supervise.Launch
	// Libero is the libero plugin, ready to run; only for [Libero].
	Libero supervise.Launch
	// ArenaMB is each process's shared memory, MiB.
	ArenaMB int
	// Say is told what is going on.
	Say func(format string, args ...any)
}

// script is a Python program of the package of [Files].
func (t Tools) script(name string) supervise.Launch {
	l := t.Python
	l.Argv = append([]string(nil), l.Argv...)
	l.Argv[len(l.Argv)-1] = l.Dir + "/" + name
	return l
}

// Report is what was measured.
type Report struct {
	Command  string    `json:"command"`
	Commit   string    `json:"commit"`
	Date     time.Time `json:"date"`
	Machine  Machine   `json:"machine"`
	Sections []Section `json:"sections"`
}

// Machine says on what.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

// Section is one table.
type Section struct {
	// Name is "host", "clip", "step", "encoder" or "libero".
	Name  string `json:"name"`
	Title string `json:"title"`
	// Text says what is compared with what.
	Text   string  `json:"text"`
	Tables []Table `json:"tables"`
	// Load is the machine's one-minute load before and after; with other programs at work, ratios say more
	// than times.
	Load    [2]float64 `json:"load"`
	Seconds float64    `json:"seconds"`
}

// Table has a row of cells for each case.
type Table struct {
	Title   string   `json:"title"`
	Columns []string `json:"columns"`
	Rows    []Row    `json:"rows"`
}

// Row is one case: cells as they are shown, and the numbers behind them.
type Row struct {
	Cells  []string           `json:"cells"`
	Values map[string]float64 `json:"values"`
}

// ThisMachine describes the machine.
func ThisMachine() Machine {
	m := Machine{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	if line := fileLine("/proc/cpuinfo", "model name"); line != "" {
		m.CPU = line
	}
	if kb, err := strconv.ParseFloat(strings.TrimSuffix(fileLine("/proc/meminfo", "MemTotal"), " kB"),
		64); err == nil {
		m.Memory = fmt.Sprintf("%.0f GB", kb/1e6)
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = "Linux " + string(bytes.TrimRight(u.Release[:], "\x00"))
	}
	return m
}

// fileLine is what follows the colon in the first line that begins with a word.
func fileLine(path, word string) string {
	data, _ := os.ReadFile(path)
	for _, line := range strings.Split(string(data), "\n") {
		if name, rest, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == word {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// load is the one-minute load average; 0 where it is not known.
func load() float64 {
	data, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(data), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}

// cpuSeconds is the processor time that the processes of some groups have used, seconds; 0 stands for this
// process alone.
func cpuSeconds(groups ...int) float64 {
	const ticks = 100 // of a second, on every Linux
	total := 0.0
	add := func(pid string, group bool) {
		data, _ := os.ReadFile("/proc/" + pid + "/stat")
		_, rest, ok := strings.Cut(string(data), ") ") // what is before may hold anything
		f := strings.Fields(rest)
		if !ok || len(f) < 13 {
			return
		}
		if pgrp, _ := strconv.Atoi(f[2]); group && !slices.Contains(groups, pgrp) {
			return
		}
		user, _ := strconv.ParseFloat(f[11], 64)
		kernel, _ := strconv.ParseFloat(f[12], 64)
		total += (user + kernel) / ticks
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			add(e.Name(), true)
		}
	}
	if slices.Contains(groups, 0) {
		add("self", false)
	}
	return total
}

// measured fills in what a section has in common with all others.
func measured(s *Section, measure func() error) error {
	began := time.Now()
	s.Load[0] = load()
	err := measure()
	s.Load[1], s.Seconds = load(), time.Since(began).Seconds()
	return err
}

// median of v; NaN for none.
func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile of v, interpolated; NaN for none.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Clone(v)
	sort.Float64s(v)
	at := q * float64(len(v)-1)
	i := int(at)
	if i+1 >= len(v) {
		return v[i]
	}
	return v[i] + (at-float64(i))*(v[i+1]-v[i])
}

// ratios of pairs that were measured one right after the other; a pair over zero has none.
func ratios(a, b []float64) []float64 {
	var r []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			r = append(r, a[i]/b[i])
		}
	}
	return r
}

// Markdown writes the report.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks\n\nMade by `%s`, commit %s, %s.\n\n%s, %d cores, %s, %s, %s.\n", r.Command,
		r.Commit, r.Date.UTC().Format("2006-01-02 15:04 UTC"),
		r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go)
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\nLoad of the machine before and after: %.1f and %.1f (an idle one has 0); "+
			"%.0f s.\n", s.Title, s.Text, s.Load[0], s.Load[1], s.Seconds)
		for _, t := range s.Tables {
			fmt.Fprintf(&b, "\n%s\n\n| %s |\n|%s\n", t.Title, strings.Join(t.Columns, " | "),
				strings.Repeat("---|", len(t.Columns)))
			for _, row := range t.Rows {
				fmt.Fprintf(&b, "| %s |\n", strings.Join(row.Cells, " | "))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// talker is a program that answers each line of JSON with one.
type talker struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Reader
	words lastLines
}

// talk starts a program in a process group of its own.
func talk(l supervise.Launch, args ...string) (*talker, error) {
	t := &talker{name: l.Argv[len(l.Argv)-1]}
	t.cmd = exec.Command(l.Argv[0], append(append([]string(nil), l.Argv[1:]...), args...)...)
	t.cmd.Dir = l.Dir
	t.cmd.Env = os.Environ()
	for k, v := range l.Env {
		t.cmd.Env = append(t.cmd.Env, k+"="+v)
	}
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	t.cmd.Stderr = &t.words
	t.cmd.WaitDelay = 2 * time.Second
	in, err := t.cmd.StdinPipe()
	if err != nil {
		return nil, plugins.Errorf(plugins.Exhausted, "%w", err).WithPlace("%s", t.name)
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, plugins.Errorf(plugins.Exhausted, "%w", err).WithPlace("%s", t.name)
	}
	t.in, t.lines = in, bufio.NewReader(out)
	if err := t.cmd.Start(); err != nil {
		return nil, plugins.Errorf(plugins.NotFound, "%w", err).WithPlace("%s",
			t.name).WithHint("run srpo plugin install")
	}
	return t, nil
}

// ask sends a question (nil: none) and reads the answer into to. A ctx that ends kills the program.
func (t *talker) ask(ctx context.Context, question, to any) error {
	stop := context.AfterFunc(ctx, t.kill)
	defer stop()
	failed := func(err error) error {
		if ctx.Err() != nil {
			return plugins.Errorf(plugins.Canceled, "stopped: %w", ctx.Err()).WithPlace("%s", t.name)
		}
		return plugins.Errorf(plugins.Unavailable, "%w", err).WithPlace("%s",
			t.name).WithDetail(t.words.String()).WithHint("its own last words are above")
	}
	if question != nil {
		data, err := json.Marshal(question)
		if err != nil {
			return err
		}
		if _, err := t.in.Write(append(data, '\n')); err != nil {
			return failed(err)
		}
	}
	line, err := t.lines.ReadBytes('\n')
	if err != nil {
		return failed(err)
	}
	if err := json.Unmarshal(line, to); err != nil {
		return failed(err)
	}
	return nil
}

func (t *talker) kill() { _ = syscall.Kill(-t.cmd.Process.Pid, syscall.SIGKILL) }

// close lets the program end by itself, and kills its group when it does not.
func (t *talker) close() {
	_ = t.in.Close()
	timer := time.AfterFunc(10*time.Second, t.kill)
	_ = t.cmd.Wait()
	if !timer.Stop() {
		return
	}
	t.kill() // children that outlived it
}

// lastLines keeps the end of what was written to it.
type lastLines struct {
	mu   sync.Mutex
	data []byte
}

func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, p...)
	if len(l.data) > 4096 {
		l.data = l.data[len(l.data)-4096:]
	}
	return len(p), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.data))
}
