// Package bench measures speed: env steps per second, encoder clips per second, and, for developers of
// srpo, the costs of the host itself. Every number comes from real processes and the code path of a run.
// Comparisons alternate with what they are compared with on the same machine, and each section records the
// load of the machine.
package bench

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/plugins"
)

// Report is the result of a benchmark run.
type Report struct {
	Command  string    `json:"command"`
	Commit   string    `json:"commit"`
	Date     time.Time `json:"date"`
	Machine  Machine   `json:"machine"`
	Sections []Section `json:"sections"`
}

// Machine describes the computer that was measured.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

// Section is one benchmark.
type Section struct {
	// Name is "host", "clip", "step", "encoder", "libero" or "reward".
	Name  string `json:"name"`
	Title string `json:"title"`
	// Text describes what is measured and what it is compared with.
	Text   string  `json:"text"`
	Tables []Table `json:"tables"`
	// Load is the one-minute load average before and after. On a busy machine ratios are more reliable than
	// times.
	Load    [2]float64 `json:"load"`
	Seconds float64    `json:"seconds"`
}

// Table has one row per case.
type Table struct {
	Title   string   `json:"title"`
	Columns []string `json:"columns"`
	Rows    []Row    `json:"rows"`
}

// Row is one case: its cells as shown, and the numbers in them.
type Row struct {
	Cells  []string           `json:"cells"`
	Values map[string]float64 `json:"values"`
}

// NewReport returns a report without sections on this machine and program.
func NewReport(command string) Report {
	return Report{Command: command, Commit: commit(), Date: time.Now().UTC().Truncate(time.Second),
		Machine: thisMachine()}
}

func thisMachine() Machine {
	m := Machine{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	if model := procValue("/proc/cpuinfo", "model name"); model != "" {
		m.CPU = model
	}
	if kb, err := strconv.ParseFloat(strings.TrimSuffix(procValue("/proc/meminfo", "MemTotal"), " kB"),
		64); err == nil {
		m.Memory = fmt.Sprintf("%.0f GB", kb/1e6)
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = string(bytes.TrimRight(u.Sysname[:], "\x00")) + " " + string(bytes.TrimRight(u.Release[:], "\x00"))
	}
	return m
}

// procValue returns the value of the first line "key: value" of a file; "" if there is none.
func procValue(path, key string) string {
	data, _ := os.ReadFile(path)
	for _, line := range strings.Split(string(data), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// commit returns the commit that this program was built from: as stamped by the Go toolchain, or else the
// HEAD of a checkout in the working directory.
func commit() string {
	revision, changed := "", false
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				revision = s.Value
			case "vcs.modified":
				changed = s.Value == "true"
			}
		}
	}
	if revision == "" {
		dir, err := os.Getwd()
		if err != nil {
			return "unknown"
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
			return "unknown"
		}
		out, err := exec.Command("git", "rev-parse", "HEAD").Output()
		if err != nil {
			return "unknown"
		}
		revision = strings.TrimSpace(string(out))
		changed = exec.Command("git", "diff", "--quiet", "HEAD", "--", "*.go", "*.py").Run() != nil
	}
	if changed {
		return fmt.Sprintf("%.10s with changes", revision)
	}
	return fmt.Sprintf("%.10s", revision)
}

// Markdown writes the report as a page.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks\n\nMade by `%s`, commit %s, %s.\n\n%s, %d cores, %s, %s, %s.\n", r.Command,
		r.Commit, r.Date.UTC().Format("2006-01-02 15:04 UTC"),
		r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go)
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\nLoad average before and after: %.1f and %.1f; %.0f s.\n",
			s.Title, s.Text, s.Load[0], s.Load[1], s.Seconds)
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

// WriteFile writes the report as a page into a file. path is the value of the flag --out.
func (r *Report) WriteFile(path string) error {
	var b bytes.Buffer
	if err := r.Markdown(&b); err != nil {
		return err
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", path).
			WithHint("give a file in an existing folder with free space")
	}
	return nil
}
