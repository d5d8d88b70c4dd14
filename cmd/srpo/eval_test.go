package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/evaluate"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/stats"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// evalCLI runs a command line and returns its exit code and output.
func evalCLI(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = Main(args, &out, &err)
	return code, out.String(), err.String()
}

var smallRun struct {
	once sync.Once
	dir  string
	err  string
}

// smallPolicy returns the folder of a run of a small policy, whose episodes have at most 24 steps. It changes the
// working folder of the test to a temporary one.
func smallPolicy(t *testing.T) string {
	t.Helper()
	smallRun.once.Do(func() {
		dir, err := os.MkdirTemp("", "srpo-eval-test-")
		require.NoError(t, err)
		smallRun.dir = filepath.Join(dir, "small")
		code, _, stderr := evalCLI(t, "imitate", "--out", smallRun.dir, "--task", "tabletop/one_block", "--seed", "5",
			"--set", "policy.tiny.imitate_steps=12",
			"--set", "policy.tiny.imitate_batch=4", "--set", "policy.tiny.hidden=16", "--set", "policy.tiny.vision=8",
			"--set", "policy.tiny.conv=4,8,8",
			"--set", "rollout.start_states=train", "--set", "rollout.max_steps=24")
		if code != 0 {
			smallRun.err = stderr
		}
	})
	require.Empty(t, smallRun.err)
	t.Chdir(t.TempDir())
	t.Setenv("SRPO_CACHE", filepath.Join(filepath.Dir(smallRun.dir), "cache"))
	return smallRun.dir
}

// removeSmallRun is called by TestMain.
func removeSmallRun() {
	if smallRun.dir != "" {
		_ = os.RemoveAll(filepath.Dir(smallRun.dir))
	}
}

// evalJSON runs an evaluation that must succeed, and returns its results and its output.
func evalJSON(t *testing.T, args ...string) (evaluate.Results, string) {
	t.Helper()
	code, stdout, stderr := evalCLI(t, append([]string{"eval", "--json"}, args...)...)
	require.Zero(t, code, stderr)
	var r evaluate.Results
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	return r, stdout
}

// evalEpisodes returns the episodes of an evaluation's folder by ID.
func evalEpisodes(t *testing.T, dir string) map[string]evaluate.Episode {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "episodes.jsonl"))
	require.NoError(t, err)
	all := map[string]evaluate.Episode{}
	for _, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		var e evaluate.Episode
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		require.NotContains(t, all, e.ID)
		all[e.ID] = e
	}
	return all
}

func TestEval(t *testing.T) {
	run := smallPolicy(t)
	const dir = "runs/small-000000-eval"
	r, out := evalJSON(t, "--checkpoint", run, "--videos", "2")
	require.Equal(t, dir, mustRel(t, r.Dir))
	all := evalEpisodes(t, dir)
	checkOneTaskResults(t, r, all)
	require.JSONEq(t, out, evalRead(t, filepath.Join(dir, "results.json")))
	evalVideos(t, dir, r, all, 2)
	checkSplitInReport(t, dir, r)

	t.Run("a complete evaluation rolls out nothing", func(t *testing.T) {
		again, _ := evalJSON(t, "--checkpoint", run)
		require.Zero(t, again.Rolled)
		require.Equal(t, r.All, again.All)
	})

	// The sides of the split follow from the run's seed. The folder of the checkpoint contains the same policy.
	rec, err := store.Read(run)
	require.NoError(t, err)
	train, test := rollout.Split(5, env.Task{ID: "tabletop/one_block", StartStates: 50}, 0.5)
	require.Equal(t, train, rec.Manifest.StartStates.Train["tabletop/one_block"])
	for _, c := range []struct {
		side, message string
		states        []int
	}{
		{"train", "trained on these start states.", train},
		{"test", "start states were held out from training.", test},
	} {
		t.Run("the "+c.side+" side", func(t *testing.T) {
			code, out, stderr := evalCLI(
				t, "eval", "--checkpoint", run+"/checkpoints/000000", "--states", c.side, "--lanes", "3",
			)
			require.Zero(t, code, stderr)
			require.Contains(t, out, "of 25")
			require.Contains(t, out, c.message)
			got := evalEpisodes(t, dir+"-"+c.side)
			require.Len(t, got, 25)
			for _, s := range c.states {
				id := "eval/tabletop/one_block/" + strconv.Itoa(s) + "/0"
				part, whole := got[id], all[id]
				part.Index, whole.Index = 0, 0
				require.Equal(t, whole, part, "an episode depends neither on the lanes nor on the other episodes")
			}
		})
	}

	t.Run("a policy without images acts differently", func(t *testing.T) {
		code, _, stderr := evalCLI(
			t, "eval", "--checkpoint", run, "--set", "policy.tiny.image=false", "--out", "blind", "--videos", "2",
		)
		require.Zero(t, code, stderr)
		blind := evalEpisodes(t, "blind")
		require.Len(t, blind, 50)
		for _, e := range blind {
			name := evaluate.VideoName(e)
			if _, err := os.Stat(filepath.Join("blind", name)); err == nil {
				require.NotEqual(t, evalRead(t, filepath.Join(dir, name)), evalRead(t, filepath.Join("blind", name)))
			}
		}
	})
}

// checkOneTaskResults checks that the episodes cover each start state of one_block once, and that the results agree
// with the episodes.
func checkOneTaskResults(t *testing.T, r evaluate.Results, all map[string]evaluate.Episode) {
	t.Helper()
	require.Len(t, all, 50)
	states, successes, steps, indices := map[int]bool{}, 0, int64(0), map[int]bool{}
	for _, e := range all {
		require.Equal(t, "tabletop/one_block", e.Task)
		require.Zero(t, e.Repeat)
		require.Contains(t, []string{"train", "test"}, e.Side)
		states[e.StartState], indices[e.Index] = true, true
		steps += int64(e.Steps)
		if e.Success {
			successes++
		}
	}
	require.Len(t, states, 50)
	require.Len(t, indices, 50)
	rate := float64(successes) / 50
	low, high := stats.Wilson(rate, 50)
	require.Equal(t, evaluate.Score{
		Name: "all", Episodes: 50, Successes: successes, Rate: rate, Low: low, High: high,
		MeanSteps: float64(steps) / 50,
	}, r.All)
	require.Len(t, r.Tasks, 1)
	require.Equal(t, steps, r.EnvSteps)
	require.Equal(t, 50, r.Rolled)
}

// checkSplitInReport checks that the results and the report separate training start states from held-out ones.
func checkSplitInReport(t *testing.T, dir string, r evaluate.Results) {
	t.Helper()
	require.Equal(t, evaluate.Split{
		Used: "all", By: "start", TrainFraction: 0.5, TrainedOn: "train", Train: r.Split.Train, Test: r.Split.Test,
	}, r.Split)
	require.Equal(t, 25, r.Split.Train.Episodes)
	require.Equal(t, 25, r.Split.Test.Episodes)
	page := evalRead(t, filepath.Join(dir, "report.html"))
	for _, text := range []string{
		"data:image/gif;base64,", "side test, held out", "one of ", "tabletop/one_block", "By suite",
	} {
		require.Contains(t, page, text)
	}
	require.NotContains(t, page, "http://")
	require.NotContains(t, page, "https://")
}

// evalVideos checks that the first n episodes of each kind of outcome have a video, and that no others do.
func evalVideos(t *testing.T, dir string, r evaluate.Results, all map[string]evaluate.Episode, n int) {
	t.Helper()
	var kinds []string
	files := map[string]bool{}
	for _, k := range r.Kinds {
		kinds = append(kinds, k.Outcome)
		var want []evaluate.Episode
		for _, e := range all {
			if e.Outcome() == k.Outcome {
				want = append(want, e)
			}
		}
		require.Equal(t, k.Episodes, len(want))
		sort.Slice(want, func(a, b int) bool { return want[a].Index < want[b].Index })
		require.Len(t, k.Examples, min(n, len(want)))
		for i, x := range k.Examples {
			require.Equal(t, want[i].ID, x.ID)
			require.FileExists(t, filepath.Join(dir, x.Video))
			files[filepath.Base(x.Video)] = true
		}
	}
	require.NotEmpty(t, kinds)
	entries, err := os.ReadDir(filepath.Join(dir, "videos"))
	require.NoError(t, err)
	require.Len(t, entries, len(files), "replaced videos are removed")
}

func evalRead(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

// mustRel returns a path relative to the working folder, without symbolic links.
func mustRel(t *testing.T, path string) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	dir, err = filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	path, err = filepath.EvalSymlinks(path)
	require.NoError(t, err)
	rel, err := filepath.Rel(dir, path)
	require.NoError(t, err)
	return filepath.ToSlash(rel)
}

func TestEvalRefuses(t *testing.T) {
	run := smallPolicy(t)
	code, _, stderr := evalCLI(t, "eval", "--checkpoint", run, "--episodes", "4", "--out", "e")
	require.Zero(t, code, stderr)
	before := evalTree(t, "e")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--episodes", "5"}, 4, "episodes: 4 in the folder, 5 now"},
		{[]string{"--episodes", "4", "--seed", "6"}, 4, "seed: 5 in the folder, 6 now"},
		{[]string{"--episodes", "4", "--sample"}, 4, "actions: greedy in the folder, sampled at temperature 1 now"},
		{[]string{"--episodes", "4", "--states", "test"}, 4, "states: all in the folder, test now"},
		{
			[]string{
				"--episodes", "4", "--set", "policy.tiny.image=false",
			}, 4, "policy.tiny.image: true in the folder, false now",
		},
		{[]string{"--episodes", "4", "--task", "*"}, 4, "tasks differs"},
		{[]string{"--states", "left"}, 2, `no side "left"`},
		{[]string{"--episodes", "-1"}, 2, "a count of -1"},
		{[]string{"--checkpoint", "nowhere"}, 3, "no folder nowhere"},
		{[]string{"--episodes", "4", "--task", "nothing*"}, 3, "no task of env tabletop matches"},
	} {
		evalFails(t, c.code, c.want, append([]string{"--checkpoint", run, "--out", "e"}, c.args...)...)
		require.Equal(t, before, evalTree(t, "e"), "%v changed the folder", c.args)
	}
	// After a change of a default, the evaluation continues with the settings in the folder.
	evalFails(t, 4, "continue with its original settings: --config e/srpo.toml",
		"--checkpoint", run, "--out", "e", "--episodes", "4", "--set", "policy.tiny.std=0.5")
	code, stdout, stderr := evalCLI(t, "eval", "--config", "e/srpo.toml", "--out", "e", "--episodes", "4", "--json")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, `"rolled": 0`)

	evalFails(t, 2, "no policy to evaluate")
	code, stdout, stderr = evalCLI(
		t, "eval", "--task", "tabletop/one_block", "--episodes", "2", "--set", "imitate.demos=0", "--set",
		"rollout.max_steps=8", "--out", "own", "--json",
	)
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, `"episodes": 2`)
	require.Contains(t, stderr, "policy tiny with its own weights")
	evalFails(t, 2, "and no evaluation", "--checkpoint", run, "--out", run)

	require.NoError(t, os.WriteFile("file", []byte("mine"), 0o644))
	evalFails(t, 2, "--out file: a file has this name", "--checkpoint", run, "--out", "file")
	require.Equal(t, "mine", evalRead(t, "file"))

	require.NoError(t, os.MkdirAll("empty", 0o755)) // a folder without a policy
	evalFails(t, 3, "checkpoint empty", "--checkpoint", "empty", "--task", "tabletop/one_block")
}

// evalTree returns the contents of the files in a folder, without the plugins' logs.
func evalTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".log") {
			m[path] = evalRead(t, path)
		}
		return err
	}))
	return m
}

// TestEvalContinues checks that a stopped evaluation continues, even after a line that a crash left incomplete, and
// gives the same episodes.
func TestEvalContinues(t *testing.T) {
	run := smallPolicy(t)
	all := []string{"eval", "--checkpoint", run, "--task", "*", "--lanes", "1", "--sample"}
	code, _, stderr := evalCLI(t, append(all, "--out", "whole")...)
	require.Zero(t, code, stderr)
	want := evalEpisodes(t, "whole")
	require.Len(t, want, 150)

	f := &settingsFlags{}
	c := &cobra.Command{}
	f.add(c)
	require.NoError(t, c.ParseFlags([]string{"--checkpoint", run, "--task", "*", "--lanes", "1"}))
	cfg, err := f.loadFor(run)
	require.NoError(t, err)
	term := report.NewTerminal(io.Discard)
	launch, err := launcher(cfg, term)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if data, _ := os.ReadFile("parts/episodes.jsonl"); bytes.Count(data, []byte("\n")) >= 5 {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err = evaluate.Run(
		ctx, evaluate.Options{Config: cfg, Launch: launch, Terminal: term, Dir: "parts", Sample: true},
	)
	require.Error(t, err)
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
	require.Contains(t, plugins.AsError(err).Hint, "--out parts")
	some := evalEpisodes(t, "parts")
	require.GreaterOrEqual(t, len(some), 5)
	require.Less(t, len(some), 150)
	require.NoFileExists(t, "parts/results.json")
	log, err := os.OpenFile("parts/episodes.jsonl", os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = log.WriteString(`{"id":"eval/tabletop/one_bl`)
	require.NoError(t, err)
	require.NoError(t, log.Close())

	code, out, stderr := evalCLI(t, append(all, "--out", "parts", "--json")...)
	require.Zero(t, code, stderr)
	require.Equal(t, want, evalEpisodes(t, "parts"))
	var r evaluate.Results
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	require.Equal(t, 150-len(some), r.Rolled, "finished episodes are not repeated")
	require.Len(t, r.Tasks, 3)
	require.Equal(t, 150, r.Suites[0].Episodes)

	// An episode that is in the log twice is refused, not counted.
	data, err := os.ReadFile("parts/episodes.jsonl")
	require.NoError(t, err)
	require.NoError(
		t, os.WriteFile("parts/episodes.jsonl", append(data, data[:bytes.IndexByte(data, '\n')+1]...), 0o644),
	)
	code, _, stderr = evalCLI(t, append(all, "--out", "parts")...)
	require.Equal(t, 8, code, stderr)
	require.Contains(t, stderr, "episodes.jsonl:151")
}

// TestEvalShards checks that the merged shards of an evaluation have the same episodes, numbers and videos as the
// evaluation in one piece.
func TestEvalShards(t *testing.T) {
	args := manyTasks(smallPolicy(t), "--sample")
	whole, _ := evalJSON(t, append(args, "--out", "whole")...)
	seen := map[string]bool{}
	for _, i := range []string{"1", "2", "3"} {
		evalJSON(t, append(args, "--shard", i+"/3", "--out", "part-"+i)...)
		for id := range evalEpisodes(t, "part-"+i) {
			require.NotContains(t, seen, id, "an episode is in two shards")
			seen[id] = true
		}
	}
	require.Len(t, seen, 40)

	for _, c := range []struct {
		folders []string
		code    int
		want    string
	}{
		{
			[]string{"part-1", "part-3"}, 2,
			"13 of 40 episodes are in none of the folders, which are the shards 1/3, 3/3",
		},
		{[]string{"part-1", "part-2", "part-2"}, 2, "is in part-2 and in part-2"},
		{[]string{"part-1", "whole"}, 2, "is in part-1 and in whole"},
		{[]string{"part-1", "nowhere"}, 3, "eval.json is missing"},
		{nil, 2, "--merge needs the folders of the shards"},
	} {
		evalFails(t, c.code, c.want, append([]string{"--merge", "--out", "merged"}, c.folders...)...)
		require.NoDirExists(t, "merged")
	}

	merged, _ := evalJSON(t, "--merge", "part-2", "part-3", "part-1", "--out", "merged")
	require.Equal(t, evalEpisodes(t, "whole"), evalEpisodes(t, "merged"))
	merged.Dir, merged.Seconds, merged.Rolled = whole.Dir, whole.Seconds, whole.Rolled
	require.Equal(t, whole, merged)
	for _, k := range merged.Kinds {
		for _, x := range k.Examples {
			require.Equal(t, evalRead(t, "whole/"+x.Video), evalRead(t, "merged/"+x.Video))
		}
	}
	require.FileExists(t, "merged/report.html")
	evalFails(t, 2, "the folder contains ", "--merge", "part-1", "part-2", "part-3", "--out", "merged")

	for _, s := range []string{"0/3", "4/3", "1/0", "a/b", "1/3x", "-1/3"} {
		evalFails(t, 2, "shard", append(args, "--shard", s, "--out", "never")...)
		require.NoDirExists(t, "never")
	}
	evalFails(t, 4, "shard: 1/3 in the folder, 2/3 now", append(args, "--shard", "2/3", "--out", "part-1")...)
}

// TestEvalCompare checks the paired difference of two evaluations, and that incomparable folders are refused.
func TestEvalCompare(t *testing.T) {
	run := smallPolicy(t)
	for dir, change := range map[string][]string{
		"sampled": {"--sample"}, "greedy": nil, "part": {"--sample", "--shard", "1/3"}, "other-seed": {"--seed", "6"},
		"fewer": {"--episodes", "39"}, "longer": {"--set", "rollout.max_steps=25"},
	} {
		evalJSON(t, append(manyTasks(run, change...), "--out", dir)...)
	}
	code, out, stderr := evalCLI(t, "eval", "--compare", "sampled", "greedy")
	require.Zero(t, code, stderr)
	require.Contains(t, out, "No difference shown")
	require.Contains(t, out, "Newcombe")
	require.Regexp(t, `(?m)^all .* 40 `, out)
	for _, c := range []struct{ a, b, want string }{
		{"greedy", "other-seed", "episode 1 is eval/tabletop/"},
		{"fewer", "greedy", " is in greedy only"},
		{"greedy", "longer", "max_steps is 24 in the one, 25 in the other"},
		{"greedy", "part", "episode 2 is"},
	} {
		evalFails(t, 4, c.want, "--compare", c.a, c.b)
	}

	lines := strings.SplitAfter(evalRead(t, "greedy/episodes.jsonl"), "\n")
	require.Len(t, lines, 41) // the last is empty
	incomplete := strings.Join(lines[:39], "")
	require.NoError(t, os.WriteFile("greedy/episodes.jsonl", []byte(incomplete), 0o644))
	evalFails(t, 2, "the evaluation has 39 of its 40 episodes", "--compare", "sampled", "greedy")
}

// manyTasks returns the arguments of an evaluation of 40 episodes of all tasks.
func manyTasks(run string, args ...string) []string {
	all := append([]string{"--checkpoint", run, "--task", "*", "--episodes", "40", "--lanes", "2"}, args...)
	return slices.Clip(all)
}

// evalFails checks that an evaluation ends with an exit code, an error that contains a text, and a hint.
func evalFails(t *testing.T, code int, want string, args ...string) {
	t.Helper()
	got, _, stderr := evalCLI(t, append([]string{"eval"}, args...)...)
	require.Equal(t, code, got, "%v: %s", args, stderr)
	require.Contains(t, stderr, want)
	require.Contains(t, stderr, "try: ")
}

// TestEvalKilledPlugins kills the env and the policy repeatedly. The evaluation has the same episodes as an undisturbed
// one.
func TestEvalKilledPlugins(t *testing.T) {
	run := smallPolicy(t)
	args := []string{
		"eval", "--checkpoint", run, "--episodes", "60", "--lanes", "3", "--sample", "--set", "host.restarts=50",
	}
	code, _, stderr := evalCLI(t, append(args, "--out", "whole")...)
	require.Zero(t, code, stderr)

	done := make(chan struct{})
	kills := make(chan int, 1)
	go func() {
		n := 0
		defer func() { kills <- n }()
		for last := 0; ; {
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
			}
			data, _ := os.ReadFile("torn/episodes.jsonl")
			if have := bytes.Count(data, []byte("\n")); n < 4 && have >= last+7 {
				for _, pid := range servers([]string{"env\x00tabletop", "policy\x00tiny"}[n%2]) {
					if syscall.Kill(pid, syscall.SIGKILL) == nil {
						n, last = n+1, have
					}
				}
			}
		}
	}()
	code, _, stderr = evalCLI(t, append(args, "--out", "torn")...)
	close(done)
	require.Zero(t, code, stderr)
	require.GreaterOrEqual(t, <-kills, 2, "too few processes were killed")
	require.Contains(t, stderr, "env tabletop died")
	require.Contains(t, stderr, "policy tiny died")
	require.Equal(t, evalEpisodes(t, "whole"), evalEpisodes(t, "torn"))
}

// servers returns the children of this process that serve a plugin, given as its kind and name, separated by a NUL.
func servers(plugin string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		isChild := len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid())
		if isChild && bytes.Contains(line, []byte("serve\x00"+plugin)) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
