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
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/supervise/pyenv"
)

// realRig is a run with a plugin that people work with, whose process is killed. All of them reward by the distance
// to demonstrations, so that there is an update though nobody succeeds after so little imitation.
type realRig struct {
	name, words, config string
	// calls in which the plugin is killed, by turns.
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

// TestRealKillPoints is TestKillPoints for plugins with environments of their own, SRPO_FAULTS_REAL of "onnx openvla
// libero", at SRPO_FAULTS points each, in the folder SRPO_FAULTS_DIR, where another call goes on from what is done.
func TestRealKillPoints(t *testing.T) {
	names := strings.Fields(os.Getenv("SRPO_FAULTS_REAL"))
	if len(names) == 0 {
		t.Skip("docs/results/faults-real.sh")
	}
	n, seed := 5, uint64(1)
	if v := os.Getenv("SRPO_FAULTS"); v != "" {
		n, _ = strconv.Atoi(v)
	}
	if v := os.Getenv("SRPO_FAULTS_SEED"); v != "" {
		seed, _ = strconv.ParseUint(v, 10, 64)
	}
	folder := os.Getenv("SRPO_FAULTS_DIR")
	if folder == "" {
		folder = t.TempDir()
	}
	folder, err := filepath.Abs(folder)
	require.NoError(t, err)
	cache, err := pyenv.CacheDir()
	require.NoError(t, err)
	var page bytes.Buffer
	killed, triggered, same := 0, 0, 0
	for _, x := range realRigs(t) {
		if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+x.name+" ") {
			continue
		}
		work := filepath.Join(folder, x.name)
		require.NoError(t, os.MkdirAll(work, 0o755))
		rig, err := newRig(work, x.config)
		require.NoError(t, err)
		rig.cache = cache
		trace, log := filepath.Join(work, "trace"), filepath.Join(work, "points.jsonl")
		done := map[string]realPoint{}
		if data, err := os.ReadFile(log); err == nil {
			for _, line := range bytes.Split(data, []byte("\n")) {
				var p realPoint
				if json.Unmarshal(line, &p) == nil {
					done[p.Spec] = p
				}
			}
		} else { // a whole run that was cut short is begun anew
			for _, path := range []string{trace, filepath.Join(work, "whole")} {
				require.NoError(t, os.RemoveAll(path))
			}
			t.Logf("%s: the undisturbed run", x.name)
			began := time.Now()
			code, out := rig.host(t, "whole", false, "SRPO_FAULT_TRACE="+trace)
			require.Zero(t, code, out)
			writeLine(t, log, realPoint{Spec: "whole", Seconds: time.Since(began).Seconds()})
			done["whole"] = realPoint{Seconds: time.Since(began).Seconds()}
		}
		want := faultResult(t, filepath.Join(work, "whole"))
		require.Len(t, want.metrics, 2)
		require.Contains(
			t, strings.Join(want.metrics, " "), `"updated":1`, "without an update there is nothing to lose",
		)
		points := readTrace(t, trace)
		fmt.Fprintf(
			&page, "\n%s; %.0f s without a kill.\n\n| killed | then | seconds | result |\n| --- | --- | ---: | --- |\n",
			x.words, done["whole"].Seconds,
		)
		r := rand.New(rand.NewPCG(seed, 7))
		for i := range n {
			name := "call " + x.calls[i%len(x.calls)]
			require.Contains(t, points.count, name)
			p := points.pick(1, []string{name}, false, r)[0]
			was, ok := done[p.spec]
			if !ok {
				began := time.Now()
				dir := fmt.Sprintf("run-%03d", i)
				require.NoError(t, os.RemoveAll(filepath.Join(work, dir))) // of a call that was cut short
				require.NoError(t, os.RemoveAll(filepath.Join(work, dir+".trace")))
				err := p.strike(t, rig, dir, want)
				was = realPoint{Spec: p.spec, Fired: p.fired, Resumed: p.resumed, Seconds: time.Since(began).Seconds()}
				if err != nil {
					was.Error = err.Error()
				}
				writeLine(t, log, was)
			}
			t.Logf(
				"%s: %d of %d: %s: fired %v, resumed %d times, %.0f s %s", x.name, i+1, n, p.spec, was.Fired,
				was.Resumed, was.Seconds, was.Error,
			)
			if was.Error != "" {
				t.Errorf("%s: SRPO_FAULT='%s': %s", x.name, p.spec, was.Error)
			}
			page.WriteString(was.row(p.name))
			killed++
			if was.Fired {
				triggered++
			}
			if was.Error == "" {
				same++
			}
		}
	}
	if out := os.Getenv("SRPO_FAULTS_OUT"); out != "" {
		head := fmt.Sprintf("# Kill points of real plugins\n\n"+
			"**Question.** Does a run give the same results when a plugin with large dependencies is killed at any "+
			"point?\n\n**Result.** We injected a kill into %d runs; %d triggered it, and %d of the %d matched the "+
			"undisturbed run bit\nfor bit.\n\n", killed, triggered, same, killed) +
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
		require.NoError(t, os.WriteFile(out, []byte(head+page.String()+limits), 0o644))
	}
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
