//go:build faults

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// faultRun is a small run that passes every kind of point: demonstrations, references, rollouts on several lanes, a
// reward from embeddings, updates, audits, evaluations, videos, saved embeddings, commits, retention.
const faultRun = `[run]
task = ["tabletop/one_block"]
iterations = 3
lanes = 4
videos = 2
eval_every = 2
eval_episodes = 4
keep = 2
keep_embeddings = true
tensorboard = true
[rollout]
groups = 2
group_size = 3
extra_groups = 1
max_steps = 60
keep_low = 0
keep_high = 1
[reward]
kind = "anchored"
references = "memory"
[imitate]
steps = 150
[update]
epochs = 1
[report]
audit_every = 1
[policy.tiny]
imitate_batch = 16
hidden = 16
vision = 8
conv = ["4,8,8"]
`

// faultPoint is a point at which a process is killed, with the result of the run.
type faultPoint struct {
	spec, name string
	host       bool // the host is killed, not a plugin
	fired      bool
	resumed    int // how often the host was started again
	err        error
	output     string // of the host, in the run with the fault
}

// rig is a folder in which runs of tiny.toml are done with faults.
type rig struct{ work, cache string }

func newRig(work, config string) (rig, error) {
	return rig{work, filepath.Join(work, "cache")}, os.WriteFile(
		filepath.Join(work, "tiny.toml"), []byte(config), 0o644,
	)
}

// faultOptions returns the number of points and their seed, from SRPO_FAULTS and SRPO_FAULTS_SEED.
func faultOptions(points int) (n int, seed uint64) {
	n, seed = points, 1
	if v := os.Getenv("SRPO_FAULTS"); v != "" {
		n, _ = strconv.Atoi(v)
	}
	if v := os.Getenv("SRPO_FAULTS_SEED"); v != "" {
		seed, _ = strconv.ParseUint(v, 10, 64)
	}
	return n, seed
}

// TestKillPoints kills plugins and the host at seeded points, lets the run continue (by --resume if the host died), and
// compares checkpoints and metrics with those of the undisturbed run bit for bit. SRPO_FAULTS is the number of points
// for plugins and for the host, SRPO_FAULTS_SEED their seed, SRPO_FAULTS_OUT a page to write. SRPO_FAULTS_ONLY names
// faults to try instead, in the notation of the error messages.
func TestKillPoints(t *testing.T) {
	n, seed := faultOptions(20)
	began := time.Now()
	work := t.TempDir()
	rig, err := newRig(work, faultRun)
	require.NoError(t, err)
	trace := filepath.Join(work, "trace")
	code, out := rig.host(t, "whole", false, "SRPO_FAULT_TRACE="+trace)
	require.Zero(t, code, out)
	whole := time.Since(began)
	want := faultResult(t, filepath.Join(work, "whole"))
	require.Len(t, want.metrics, 3)
	require.Contains(t, strings.Join(want.metrics, " "), `"updated":1`)
	points := choosePoints(t, trace, n, rand.New(rand.NewPCG(seed, 7)))
	if one := os.Getenv("SRPO_FAULTS_ONLY"); one != "" {
		points = nil
		for _, spec := range strings.Split(one, ";") {
			points = append(points, &faultPoint{spec: spec, name: spec, host: strings.HasPrefix(spec, "host")})
		}
	}

	var mu sync.Mutex
	var done []*faultPoint
	var wg sync.WaitGroup
	free := make(chan struct{}, runtime.NumCPU())
	for i, p := range points {
		wg.Add(1)
		free <- struct{}{}
		go func() {
			defer func() { <-free; wg.Done() }()
			err := p.strike(t, rig, fmt.Sprintf("run-%03d", i), want)
			mu.Lock()
			defer mu.Unlock()
			p.err, done = err, append(done, p)
			if page := os.Getenv("SRPO_FAULTS_OUT"); page != "" { // an interrupted test has a page too
				_ = os.WriteFile(page, faultPage(done, len(points), seed, whole, time.Since(began)), 0o644)
			}
		}()
	}
	wg.Wait()
	count, fired := map[bool]int{}, map[bool]int{}
	for _, p := range points {
		if p.err != nil {
			t.Errorf("SRPO_FAULT='%s': %v", p.spec, p.err)
		}
		if count[p.host]++; p.fired {
			fired[p.host]++
		}
	}
	// The batches of calls differ between runs, so that some calls are rarer than in the undisturbed run. A point that
	// is not triggered tests nothing.
	for host, n := range count {
		if float64(fired[host]) < minFired*float64(n) {
			t.Errorf("host %v: %d of %d points were triggered", host, fired[host], n)
		}
	}
}

// minFired is the share of the points at which a process must have been killed.
const minFired = 0.75

// TestHangs stops each plugin in each kind of call (SIGSTOP, as a simulator that hangs). The host notices the missing
// heartbeat minutes before the deadline and replaces the process. The run, or its --resume, matches the undisturbed
// run.
func TestHangs(t *testing.T) {
	work := t.TempDir()
	rig, err := newRig(work, faultRun)
	require.NoError(t, err)
	trace := filepath.Join(work, "trace")
	code, out := rig.host(t, "whole", false, "SRPO_FAULT_TRACE="+trace)
	require.Zero(t, code, out)
	want := faultResult(t, filepath.Join(work, "whole"))
	data, err := os.ReadFile(trace)
	require.NoError(t, err)
	count := map[string]int{}
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Split(line, "\t"); f[0] == "call" {
			count[f[1]]++
		}
	}
	_, err = newRig(work, faultRun+"[host]\nsilence_timeout_s = 6\n")
	require.NoError(t, err)
	var wg sync.WaitGroup
	free := make(chan struct{}, 4*runtime.NumCPU()) // most of the time is spent waiting
	require.Greater(t, len(count), 10)
	for name, n := range count {
		wg.Add(1)
		free <- struct{}{}
		go func() {
			defer func() { <-free; wg.Done() }()
			p := &faultPoint{spec: fmt.Sprintf("stop,before,%s,%d", name, (n+1)/2), name: name}
			err := p.strike(t, rig, "hang-"+strings.ReplaceAll(name, " ", "-"), want)
			if err != nil || !p.fired {
				t.Errorf("SRPO_FAULT='%s': fired %v: %v", p.spec, p.fired, err)
			}
			if !strings.Contains(p.output, "sent no heartbeat") { // rather than the deadline
				t.Errorf(
					"SRPO_FAULT='%s': the message does not mention the missing heartbeat: %s", p.spec,
					lastLines(p.output, 12),
				)
			}
		}()
	}
	wg.Wait()
}

// host runs srpo with a run folder below work, until it ends.
func (r rig) host(t *testing.T, dir string, resume bool, variables ...string) (code int, out string) {
	args := []string{"run", "--config", "tiny.toml", "--out", dir}
	if resume {
		args = []string{"run", "--resume", dir}
	}
	program, err := os.Executable()
	if err != nil {
		return -1, err.Error()
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = r.work
	cmd.Env = append(os.Environ(), append(variables, "SRPO_TEST_MAIN=1", "NO_COLOR=1", "SRPO_CACHE="+r.cache)...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err = cmd.Run()
	var e *exec.ExitError
	if errors.As(err, &e) {
		if s, ok := e.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			return 128 + int(s.Signal()), b.String()
		}
		return e.ExitCode(), b.String()
	} else if err != nil {
		return -1, err.Error()
	}
	return 0, b.String()
}

// tracedPoints are the points that a run passed.
type tracedPoints struct {
	count  map[string]int
	kind   map[string]string // "call", "point" or "torn", by name
	length map[string]int    // the mean length of a call, microseconds
}

func readTrace(t *testing.T, trace string) tracedPoints {
	data, err := os.ReadFile(trace)
	require.NoError(t, err)
	p := tracedPoints{map[string]int{}, map[string]string{}, map[string]int{}}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		f := strings.Split(line, "\t")
		p.count[f[1]]++
		p.kind[f[1]] = f[0]
		if f[0] == "call" {
			us, _ := strconv.Atoi(f[2])
			p.length[f[1]] += us
		}
	}
	for name := range p.length {
		p.length[name] /= p.count[name]
	}
	return p
}

// names returns the sorted names with a prefix.
func (p tracedPoints) names(prefix string) (list []string) {
	for name := range p.kind {
		if strings.HasPrefix(name, prefix) {
			list = append(list, name)
		}
	}
	sort.Strings(list)
	return list
}

// pick draws n points. It takes the names in turn, because some occur a thousand times and others once.
func (p tracedPoints) pick(n int, names []string, host bool, r *rand.Rand) (points []*faultPoint) {
	var turn []string
	for range n {
		if len(turn) == 0 {
			turn = append(turn, names...)
			r.Shuffle(len(turn), func(i, j int) { turn[i], turn[j] = turn[j], turn[i] })
		}
		name := turn[0]
		turn = turn[1:]
		victim, when := "plugin", "before"
		if host {
			victim = "host"
		}
		switch p.kind[name] {
		case "torn":
			when = "torn"
		case "call":
			when = []string{
				"before", "after", strconv.Itoa(r.IntN(p.length[name] + 1)), strconv.Itoa(r.IntN(p.length[name] + 1)),
			}[r.IntN(4)]
		}
		points = append(
			points, &faultPoint{
				spec: fmt.Sprintf("%s,%s,%s,%d", victim, when, name, 1+r.IntN(p.count[name])), name: name, host: host,
			},
		)
	}
	return points
}

// choosePoints draws n points for plugins and n for the host.
func choosePoints(t *testing.T, trace string, n int, r *rand.Rand) (points []*faultPoint) {
	p := readTrace(t, trace)
	calls, all := p.names("call "), p.names("")
	require.Greater(t, len(calls), 10)
	require.Greater(t, len(all), 30)
	ofPlugins, ofHost := p.pick(n, calls, false, r), p.pick(n, all, true, r)
	for i := range n { // alternating, so that an interrupted test has both kinds
		points = append(points, ofPlugins[i], ofHost[i])
	}
	return points
}

// strike runs with a fault, resumes until the run is complete, and compares it with the undisturbed run.
func (p *faultPoint) strike(t *testing.T, rig rig, dir string, want result) error {
	work := rig.work
	trace := filepath.Join(work, dir+".trace")
	code, out := rig.host(t, dir, false, "SRPO_FAULT="+p.spec, "SRPO_FAULT_TRACE="+trace)
	p.output = out
	if data, err := os.ReadFile(trace); err == nil {
		p.fired = bytes.Contains(data,
			[]byte("\nkilled\t")) || bytes.Contains(data, []byte("\ndied\t")) || bytes.HasPrefix(data, []byte("died\t"))
	}
	switch {
	case code == 0 && p.host && p.fired:
		return errors.New("the host was not killed")
	case code == 137 && !p.host:
		return errors.New("the host was killed instead of a plugin")
	}
	messages := ""
	for code != 0 {
		messages += lastLines(out, 6)
		if p.resumed++; p.resumed > 2 {
			return fmt.Errorf("the run could not be continued:\n%s", messages)
		}
		_, err := os.Stat(filepath.Join(work, dir, "manifest.json"))
		code, out = rig.host(t, dir, err == nil)
	}
	got := faultResult(t, filepath.Join(work, dir))
	if err := want.compare(got); err != nil {
		return err
	}
	_ = os.RemoveAll(filepath.Join(work, dir))
	_ = os.Remove(trace)
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n") + "\n"
}

// result is the part of a run folder that must not depend on faults.
type result struct {
	metrics []string
	files   map[string]string // checkpoints' files, videos and embeddings, by path
}

// machineMetrics are parts of the names of metrics that depend on time or on faults.
var machineMetrics = []string{"seconds", "lane_utilisation", "act_batch", "faults"}

func faultResult(t *testing.T, dir string) result {
	r := result{files: map[string]string{}}
	data, err := os.ReadFile(filepath.Join(dir, "metrics.jsonl"))
	if err != nil {
		return r
	}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		m := map[string]json.RawMessage{} // keeps the digits of the numbers
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			r.metrics = append(r.metrics, err.Error())
			continue
		}
		var keys []string
		for k := range m {
			if !containsAny(k, machineMetrics) {
				keys = append(keys, k)
			}
		}
		sort.Strings(keys)
		text := ""
		for _, k := range keys {
			text += fmt.Sprintf("%q:%s ", k, m[k])
		}
		r.metrics = append(r.metrics, text)
	}
	for _, folder := range []string{"checkpoints", "episodes", "embeddings"} {
		_ = filepath.WalkDir(filepath.Join(dir, folder), func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			rel, _ := filepath.Rel(dir, path)
			// MANIFEST has the time and the lengths of logs. Its checksums are those of the compared files.
			if e.Name() == "MANIFEST" {
				data = nil
			}
			r.files[rel] = string(data)
			return err
		})
	}
	return r
}

func containsAny(s string, parts []string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}

// compare returns an error that lists the differences, nil if there are none.
func (r result) compare(other result) error {
	if len(r.metrics) != len(other.metrics) {
		return fmt.Errorf("%d iterations in the metrics, want %d", len(other.metrics), len(r.metrics))
	}
	for i := range r.metrics {
		if r.metrics[i] != other.metrics[i] {
			return fmt.Errorf("the metrics of iteration %d are\n%s\nwant\n%s", i+1, other.metrics[i], r.metrics[i])
		}
	}
	var bad []string
	for path, data := range r.files {
		if got, ok := other.files[path]; !ok {
			bad = append(bad, path+" is missing")
		} else if got != data {
			bad = append(bad, path+" differs")
		}
	}
	for path := range other.files {
		if _, ok := r.files[path]; !ok {
			bad = append(bad, path+" is left over")
		}
	}
	sort.Strings(bad)
	if len(bad) > 0 {
		return errors.New(strings.Join(bad, ", "))
	}
	return nil
}

// faultPage returns the page of results.
func faultPage(points []*faultPoint, planned int, seed uint64, one, all time.Duration) []byte {
	var b bytes.Buffer
	triggered, same := 0, 0
	for _, p := range points {
		if p.fired {
			triggered++
		}
		if p.err == nil {
			same++
		}
	}
	fmt.Fprintf(&b, "# Kill points\n\n"+
		"**Question.** Does a run give the same results when one of its processes is killed at any point?\n\n"+
		"**Result.** We injected a kill into %d runs; %d triggered it, and %d of the %d matched the undisturbed "+
		"run bit\nfor bit.\n\n", len(points), triggered, same, len(points))
	fmt.Fprintf(&b,
		"Made by `bash docs/results/faults.sh` on %s with %s on %d cores, seed %d%s. %d of %d planned\n"+
			"points were tried, in %.0f s.\n\n", time.Now().UTC().Format("2006-01-02"), runtime.Version(),
		runtime.NumCPU(), seed, os.Getenv("SRPO_FAULTS_COMMIT"), len(points), planned, all.Seconds())
	fmt.Fprintf(&b, "Each point is one small run: tabletop, tiny and pixel, 3 iterations of 2 groups of 3 episodes on "+
		"4 lanes, %.1f s\nwithout a kill. ", one.Seconds())
	b.WriteString(`One process receives SIGKILL:

- a plugin, before, during or after a call;
- the host, at the same points, between phases, and before or in the middle (*torn*) of each change to the run
  folder.

*Continued*: the host restarted the plugin and the run continued. *Resumed*: the run ended, and another command resumed
it, or started it again if the run folder did not exist yet. *Same*: the metrics without times, all files of the
checkpoints, the videos and the kept embeddings equal those of the undisturbed run bit for bit, and no temporary file
remains.

| killed | points | triggered | continued | resumed | same | different |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
`)
	faultTables(&b, points)
	for _, p := range points {
		if p.err != nil {
			fmt.Fprintf(&b, "\n`SRPO_FAULT='%s'`: %v\n", p.spec, p.err)
		}
	}
	b.WriteString(`
## Limits

The run is small and its plugins are built in; [faults-real.md](faults-real.md) kills plugins with large dependencies.
Processes are killed, the machine is not: a loss of power was not tried.
`)
	return b.Bytes()
}

// faultTables writes the rows of the table of plugins and host, and a table of the points by name.
func faultTables(b *bytes.Buffer, points []*faultPoint) {
	victim := map[bool]string{false: "plugin", true: "host"}
	for _, host := range []bool{false, true} {
		var n, fired, resumed, bad int
		for _, p := range points {
			if p.host != host {
				continue
			}
			n++
			if p.fired {
				fired++
			}
			if p.resumed > 0 {
				resumed++
			}
			if p.err != nil {
				bad++
			}
		}
		fmt.Fprintf(b, "| %s | %d | %d | %d | %d | %d | %d |\n", victim[host], n, fired, n-resumed, resumed, n-bad, bad)
	}
	type row struct{ n, resumed, bad int }
	rows := map[string]*row{}
	var names []string
	for _, p := range points {
		name := victim[p.host] + " | " + p.name
		if rows[name] == nil {
			rows[name] = &row{}
			names = append(names, name)
		}
		rows[name].n++
		if p.resumed > 0 {
			rows[name].resumed++
		}
		if p.err != nil {
			rows[name].bad++
		}
	}
	sort.Strings(names)
	fmt.Fprintf(b, "\n| killed | at | points | resumed | different |\n| --- | --- | ---: | ---: | ---: |\n")
	for _, name := range names {
		fmt.Fprintf(b, "| %s | %d | %d | %d |\n", name, rows[name].n, rows[name].resumed, rows[name].bad)
	}
}
