//go:build faults

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/supervise/pyenv"
)

// realRig is a run with a plugin with large dependencies, whose process is killed. All rigs reward by the distance to
// demonstrations, so that there are updates even though no episode succeeds after so little imitation.
type realRig struct {
	name, description, config string
	// calls in which the plugin is killed, in turn.
	calls []string
}

const realRun = `[run]
iterations = 2
lanes = 2
videos = 0
eval_every = 0
keep = 2
solved_after = 0
[rollout]
groups = 1
group_size = 3
extra_groups = 0
keep_low = 0
keep_high = 1
[reward]
references = "demos"
[update]
epochs = 1
`

func realRigs(t *testing.T) []realRig {
	source, err := filepath.Abs("../..")
	require.NoError(t, err)
	tiny := "[policy.tiny]\nimitate_batch = 16\nhidden = 16\nvision = 8\nconv = [\"4,8,8\"]\n"
	task := func(env, task, encoder, policy string, steps int) string {
		return strings.Replace(
			realRun, "[run]\n", fmt.Sprintf(
				"[run]\nenv = %q\ntask = [%q]\nencoder = %q\npolicy = %q\n", env, task, encoder, policy,
			), 1,
		) +
			fmt.Sprintf("[imitate]\nsteps = %d\n", steps)
	}
	short := func(config string, steps int) string {
		return strings.Replace(config, "[rollout]\n", fmt.Sprintf("[rollout]\nmax_steps = %d\n", steps), 1)
	}
	return []realRig{
		{"onnx", "tabletop, tiny, **dinov2** with the 42 pixel model of its tests, on ONNX Runtime", short(
			task("tabletop", "tabletop/one_block", "dinov2", "tiny", 150), 40,
		) + tiny +
			fmt.Sprintf(
				"[encoder.dinov2]\nthreads = 1\nmodel = %q\n", filepath.Join(
					source, "encoders/dinov2/testdata/plain-42.onnx",
				),
			), []string{"encoder Encode", "encoder Encode", "encoder Describe", "encoder Configure", "encoder Encode"}},
		{"openvla", "tabletop, **openvla** with 5 million random weights (`preset = tiny`), pixel", short(
			task("tabletop", "tabletop/one_block", "pixel", "openvla", 4), 40,
		) +
			"[policy.openvla]\npreset = \"tiny\"\nthreads = 1\n", []string{
			"policy Act", "policy Update", "policy Save", "policy Imitate", "policy Forget",
		}},
		{"libero", "**libero** (bbq sauce, one process per lane), tiny, pixel", short(
			task("libero", "libero_object/*bbq*", "pixel", "tiny", 20), 180,
		) + tiny +
			"[env.libero]\nmultisample = 0\nmesh_cell_mm = 4\n", []string{
			"env Step", "env Reset", "env Step", "env Configure", "env Step",
		}},
	}
}

// realPoint is a line of points.jsonl.
type realPoint struct {
	Spec    string  `json:"spec"`
	Fired   bool    `json:"fired"`
	Resumed int     `json:"resumed"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

// TestRealKillPoints is TestKillPoints for plugins with environments of their own. SRPO_FAULTS_REAL lists some of "onnx
// openvla libero", and each gets SRPO_FAULTS points. Another call with the same folder SRPO_FAULTS_DIR continues.
func TestRealKillPoints(t *testing.T) {
	names := strings.Fields(os.Getenv("SRPO_FAULTS_REAL"))
	if len(names) == 0 {
		t.Skip("run by docs/results/faults-real.sh")
	}
	n, seed := faultOptions(5)
	folder := os.Getenv("SRPO_FAULTS_DIR")
	if folder == "" {
		folder = t.TempDir()
	}
	folder, err := filepath.Abs(folder)
	require.NoError(t, err)
	var page bytes.Buffer
	var points []realPoint
	for _, x := range realRigs(t) {
		if slices.Contains(names, x.name) {
			points = append(points, x.killAtPoints(t, filepath.Join(folder, x.name), n, seed, &page)...)
		}
	}
	if out := os.Getenv("SRPO_FAULTS_OUT"); out != "" {
		require.NoError(t, os.WriteFile(out, realPage(points, seed, page.String()), 0o644))
	}
}

// killAtPoints kills the plugin at n points and appends a table of the results to page.
func (x realRig) killAtPoints(t *testing.T, work string, n int, seed uint64, page *bytes.Buffer) (points []realPoint) {
	t.Helper()
	require.NoError(t, os.MkdirAll(work, 0o755))
	rig, err := newRig(work, x.config)
	require.NoError(t, err)
	rig.cache, err = pyenv.CacheDir()
	require.NoError(t, err)
	done := x.undisturbed(t, rig)
	want := faultResult(t, filepath.Join(work, "whole"))
	require.Len(t, want.metrics, 2)
	require.Contains(t, strings.Join(want.metrics, " "), `"updated":1`, "the run needs an update that can be lost")
	trace := readTrace(t, filepath.Join(work, "trace"))
	fmt.Fprintf(
		page, "\n%s; %.0f s without a kill.\n\n| killed | then | seconds | result |\n| --- | --- | ---: | --- |\n",
		x.description, done["whole"].Seconds,
	)
	r := rand.New(rand.NewPCG(seed, 7))
	for i := range n {
		name := "call " + x.calls[i%len(x.calls)]
		require.Contains(t, trace.count, name)
		p := trace.pick(1, []string{name}, false, r)[0]
		point, ok := done[p.spec]
		if !ok {
			point = p.strikeReal(t, rig, fmt.Sprintf("run-%03d", i), want)
			writeLine(t, filepath.Join(work, "points.jsonl"), point)
		}
		t.Logf(
			"%s: %d of %d: %s: fired %v, resumed %d times, %.0f s %s", x.name, i+1, n, p.spec, point.Fired,
			point.Resumed, point.Seconds, point.Error,
		)
		if point.Error != "" {
			t.Errorf("%s: SRPO_FAULT='%s': %s", x.name, p.spec, point.Error)
		}
		page.WriteString(point.row(p.name))
		points = append(points, point)
	}
	return points
}

// undisturbed returns the recorded points by spec, of which "whole" is the undisturbed run. It does that run if it is
// not recorded.
func (x realRig) undisturbed(t *testing.T, rig rig) map[string]realPoint {
	t.Helper()
	done := map[string]realPoint{}
	log, trace := filepath.Join(rig.work, "points.jsonl"), filepath.Join(rig.work, "trace")
	if data, err := os.ReadFile(log); err == nil {
		for _, line := range bytes.Split(data, []byte("\n")) {
			var p realPoint
			if json.Unmarshal(line, &p) == nil {
				done[p.Spec] = p
			}
		}
		return done
	}
	for _, path := range []string{trace, filepath.Join(rig.work, "whole")} { // of a call that was interrupted
		require.NoError(t, os.RemoveAll(path))
	}
	t.Logf("%s: the undisturbed run", x.name)
	began := time.Now()
	code, out := rig.host(t, "whole", false, "SRPO_FAULT_TRACE="+trace)
	require.Zero(t, code, out)
	whole := realPoint{Spec: "whole", Seconds: time.Since(began).Seconds()}
	writeLine(t, log, whole)
	done["whole"] = whole
	return done
}

// strikeReal is strike in a new folder, with its result as a line of points.jsonl.
func (p *faultPoint) strikeReal(t *testing.T, rig rig, dir string, want result) realPoint {
	t.Helper()
	began := time.Now()
	for _, path := range []string{dir, dir + ".trace"} { // of a call that was interrupted
		require.NoError(t, os.RemoveAll(filepath.Join(rig.work, path)))
	}
	err := p.strike(t, rig, dir, want)
	point := realPoint{Spec: p.spec, Fired: p.fired, Resumed: p.resumed, Seconds: time.Since(began).Seconds()}
	if err != nil {
		point.Error = err.Error()
	}
	return point
}

// realPage returns the page of results with its tables.
func realPage(points []realPoint, seed uint64, tables string) []byte {
	triggered, same := 0, 0
	for _, p := range points {
		if p.Fired {
			triggered++
		}
		if p.Error == "" {
			same++
		}
	}
	head := fmt.Sprintf("# Kill points of real plugins\n\n"+
		"**Question.** Does a run give the same results when a plugin with large dependencies is killed at any "+
		"point?\n\n**Result.** We injected a kill into %d runs; %d triggered it, and %d of the %d matched the "+
		"undisturbed run bit\nfor bit.\n\n", len(points), triggered, same, len(points)) +
		fmt.Sprintf("Made by `bash docs/results/faults-real.sh` on %s with %s on %d cores, seed %d, %s.\n\n",
			time.Now().UTC().Format("2006-01-02"), runtime.Version(), runtime.NumCPU(), seed,
			os.Getenv("SRPO_FAULTS_COMMIT")) +
		`As in [faults.md](faults.md), one process of the plugin in **bold** receives SIGKILL before, during or
after a call, at points drawn by the seed. A run has 2 iterations of one group of 3 episodes on 2 lanes. *Continued*:
the host restarted the plugin and the run continued. *Resumed*: the run ended, and another command resumed it. *Same*:
the metrics without times and all files of the checkpoints equal those of the undisturbed run bit for bit.
`
	limits := "\n## Limits\n\nA few points per plugin do not cover all calls. The policy is small: weights of " +
		"billions of\nparameters and a GPU were not tried.\n"
	return []byte(head + tables + limits)
}

func (r realPoint) row(name string) string {
	then, result := "continued", "same"
	if r.Resumed > 0 {
		then = "resumed"
	}
	if !r.Fired {
		then = "not triggered"
	}
	if r.Error != "" {
		result = "**" + strings.ReplaceAll(strings.ReplaceAll(r.Error, "\n", " "), "|", "/") + "**"
	}
	f := strings.Split(r.Spec, ",")
	when := f[1]
	if us, err := strconv.Atoi(when); err == nil {
		when = fmt.Sprintf("%.1f ms into", float64(us)/1000)
	}
	return fmt.Sprintf(
		"| %s %s, no. %s | %s | %.0f | %s |\n", when, strings.TrimPrefix(name, "call "), f[3], then, r.Seconds, result,
	)
}

func writeLine(t *testing.T, path string, v any) {
	line, err := json.Marshal(v)
	require.NoError(t, err)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	require.NoError(t, err)
	_, err = f.Write(append(line, '\n'))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}
