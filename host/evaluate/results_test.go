package evaluate_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/evaluate"
	"github.com/srpo-dev/srpo/host/stats"
)

// plus returns the tasks and episodes of an evaluation of LIBERO-Plus: n variants per dimension over levels and
// suites, of which `share` succeed.
func plus(n int, share map[string]float64) (tasks []evaluate.Task, episodes []evaluate.Episode) {
	for _, d := range evaluate.PlusDimensions {
		for i := range n {
			t := evaluate.Task{ID: fmt.Sprintf("%s/%s/%d", evaluate.LiberoSuites[i%4], d, i),
				Suite: evaluate.LiberoSuites[i%4], Tags: map[string]string{"dimension": d}}
			if d != "light" || i%5 > 0 {
				t.Tags["level"] = fmt.Sprintf("L%d", i%5+1)
			}
			tasks = append(tasks, t)
			e := evaluate.Episode{ID: "eval/" + t.ID + "/0/0", Index: len(episodes), Task: t.ID, Steps: 10 + i,
				Side: []string{"train", "test"}[i%2], Seed: uint64(i)}
			e.Success = float64(i) < share[d]*float64(n)
			e.Terminated, e.Truncated = e.Success, !e.Success
			episodes = append(episodes, e)
		}
	}
	return tasks, episodes
}

func TestSum(t *testing.T) {
	tasks, episodes := plus(20, map[string]float64{"camera": 0.5, "robot": 1, "light": 0.25})
	rec := evaluate.Record{
		Identity: map[string]string{"env": "libero-plus", "policy": "p", "actions": "greedy", "states": "all"},
	}
	r := evaluate.Summarize(rec, tasks, episodes, map[string]string{episodes[12].ID: "videos/x.gif"})

	require.Equal(t, 140, r.All.Episodes)
	require.Equal(t, 35, r.All.Successes)
	require.Len(t, r.Suites, 4)
	require.Len(t, r.Dimensions, 7)
	require.Equal(t, "camera", r.Dimensions[0].Name)
	low, high := stats.Wilson(0.5, 20)
	require.Equal(t,
		evaluate.Score{Name: "camera", Episodes: 20, Successes: 10, Rate: 0.5, Low: low, High: high, MeanSteps: 19.5},
		r.Dimensions[0].Score)
	for _, d := range r.Dimensions {
		var names []string
		n, successes := 0, 0
		for _, l := range d.Levels {
			names, n, successes = append(names, l.Name), n+l.Episodes, successes+l.Successes
		}
		require.Equal(t, d.Episodes, n, "every episode is in one level")
		require.Equal(t, d.Successes, successes)
		if d.Name == "light" {
			require.Equal(t, []string{"L2", "L3", "L4", "L5", ""}, names, "what has no level comes last")
		} else {
			require.Equal(t, []string{"L1", "L2", "L3", "L4", "L5"}, names)
		}
	}
	require.Equal(t, "dimensions", r.Totals.Of)
	require.InDelta(t, 1.75/7, r.Totals.Mean, 1e-12)
	require.InDelta(t, 0.25, r.Totals.Weighted.Rate, 1e-12)
	require.Less(t, r.Totals.Low, r.Totals.Mean)
	require.Less(t, r.Totals.Mean, r.Totals.High)
	require.Equal(t, 70, r.Split.Train.Episodes)
	require.Equal(t, 35, r.Split.Train.Successes+r.Split.Test.Successes)

	require.Equal(
		t,
		evaluate.Kind{Group: "camera", Outcome: "out of steps", Episodes: 10,
			Examples: []evaluate.Example{{ID: episodes[12].ID, Steps: 22, Video: "videos/x.gif"}}},
		r.Kinds[0],
	)
	total := 0
	for _, k := range r.Kinds {
		total += k.Episodes
	}
	require.Equal(t, 140, total)

	var table bytes.Buffer
	require.NoError(t, r.Table(&table))
	require.NotContains(t, table.String(), "repeat")
	again := slices.Clone(episodes)
	again[3].Repeat, again[4].Repeat = 1, 2
	twice := evaluate.Summarize(rec, tasks, again, nil)
	require.Equal(t, 2, twice.Repeats)
	require.NoError(t, twice.Table(&table))
	require.Contains(t, table.String(),
		"2 of the 140 episodes repeat a start state, and a greedy policy may repeat itself there")
	require.Len(t, twice.Page("x", rec, nil).Notes, 1)
	sampled := evaluate.Summarize(evaluate.Record{Identity: map[string]string{"actions": "sampled at temperature 1"}},
		tasks, again, nil)
	require.Empty(t, sampled.Page("x", rec, nil).Notes, "sampled actions differ each time")

	// The results do not depend on the order in which episodes end.
	shuffled := slices.Clone(episodes)
	rand.New(rand.NewPCG(1, 2)).
		Shuffle(len(shuffled), func(a, b int) { shuffled[a], shuffled[b] = shuffled[b], shuffled[a] })
	require.Equal(t, r, evaluate.Summarize(rec, tasks, shuffled, map[string]string{episodes[12].ID: "videos/x.gif"}))

	var b bytes.Buffer
	require.NoError(t, r.Table(&b))
	for _, text := range []string{"dimension camera ", "  L3 ", "no level", "plain mean of 7 dimensions",
		"weighted by episodes", "Published by others (arXiv 2511.15605, LIBERO-Plus), not measured by srpo",
		"this evaluation", "full SFT, augmented data"} {
		require.Contains(t, b.String(), text)
	}
	b.Reset()
	require.NoError(t, r.Page("name", rec, func(string) ([]byte, error) { return []byte("GIF89a"), nil }).Write(&b))
	for _, text := range []string{"By dimension and level", "not measured by srpo", "data:image/gif;base64,R0lGODlh",
		"one of 10", "25.0 %"} {
		require.Contains(t, b.String(), text)
	}
}

// With unequal groups the two means differ.
func TestTotals(t *testing.T) {
	tasks, episodes := plus(20, map[string]float64{"camera": 1})
	keep := slices.DeleteFunc(slices.Clone(episodes),
		func(e evaluate.Episode) bool { return e.Index >= 20 && e.Index%10 > 0 })
	r := evaluate.Summarize(evaluate.Record{}, tasks, keep, nil)
	require.InDelta(t, 1.0/7, r.Totals.Mean, 1e-12)
	require.InDelta(t, 20.0/32, r.Totals.Weighted.Rate, 1e-12)
}

// The means of the published rows equal the published means.
func TestPublished(t *testing.T) {
	tasks, episodes := plus(1, nil)
	r := evaluate.Summarize(evaluate.Record{}, tasks, episodes, nil)
	require.Len(t, r.Published, 5)
	for i, want := range []struct{ mean, weighted float64 }{
		{19.4, 0}, {59.6, 57.3}, {30.7, 0}, {82.1, 80.8}, {73.0, 0},
	} {
		require.InDelta(t, want.mean, 100*r.Published[i].Mean, 0.06, r.Published[i].Name)
		if want.weighted > 0 {
			require.InDelta(t, want.weighted, 100**r.Published[i].Weighted, 0.06, r.Published[i].Name)
		}
	}
	// A sample with equally many episodes per dimension is weighted by the benchmark's counts: 1599 of 10,030
	// for camera.
	tasks, episodes = plus(1, map[string]float64{"camera": 1})
	var table bytes.Buffer
	require.NoError(t, evaluate.Summarize(evaluate.Record{}, tasks, episodes, nil).Table(&table))
	require.Regexp(t, `this evaluation +100\.0 +0\.0 .* 14\.3 +15\.9\s`, table.String())
	require.Regexp(t, `weighted by episodes +14\.3 %`, table.String())
	var libero []evaluate.Task
	for _, s := range evaluate.LiberoSuites {
		libero = append(libero, evaluate.Task{ID: s + "/x", Suite: s})
	}
	r = evaluate.Summarize(evaluate.Record{}, libero, []evaluate.Episode{{Task: "libero_goal/x"}}, nil)
	require.Len(t, r.Published, 4)
	require.InDelta(t, 48.9, 100*r.Published[0].Mean, 0.06)
	require.InDelta(t, 99.2, 100*r.Published[2].Mean, 0.06)
	r = evaluate.Summarize(evaluate.Record{}, []evaluate.Task{{ID: "t", Suite: "tabletop"}},
		[]evaluate.Episode{{Task: "t"}}, nil)
	require.Empty(t, r.Published, "no rows are published for another env")
}

func TestOutcomes(t *testing.T) {
	p := func(x float64) *float64 { return &x }
	for want, e := range map[string]evaluate.Episode{
		"success":                              {Success: true, Terminated: true, Progress: p(1)},
		"ended by the env without success":     {Terminated: true},
		"out of steps":                         {Truncated: true},
		"out of steps, progress below 25 %":    {Truncated: true, Progress: p(0.2)},
		"out of steps, progress 25 to 50 %":    {Truncated: true, Progress: p(0.25)},
		"out of steps, progress 75 % and more": {Truncated: true, Progress: p(1)},
	} {
		require.Equal(t, want, e.Outcome())
	}
}

func TestCompareByDimension(t *testing.T) {
	tasks, a := plus(20, map[string]float64{"camera": 0.2, "robot": 0.5})
	_, b := plus(20, map[string]float64{"camera": 0.9, "robot": 0.5})
	rec := func(policy string) evaluate.Record {
		return evaluate.Record{
			Mine: 140,
			Identity: map[string]string{
				"env":            "libero-plus",
				"policy":         "tiny",
				"checkpoint":     policy,
				"policy.tiny.lr": policy,
			},
		}
	}
	fa, fb := &evaluate.Folder{Dir: "a", Record: rec("a"), Tasks: tasks, Episodes: a}, &evaluate.Folder{Dir: "b",
		Record: rec("b"), Tasks: tasks, Episodes: b}
	c, err := evaluate.Compare(fa, fb)
	require.NoError(t, err)
	require.Equal(t, "dimensions", c.Of)
	require.Len(t, c.Groups, 7)
	require.InDelta(t, 0.7, c.Groups[0].Diff, 1e-12)
	require.Greater(t, c.Groups[0].Low, 0.0)
	require.Zero(t, c.Groups[1].Diff)
	require.InDelta(t, 0.1, c.PlainMean.Diff, 1e-12)
	require.InDelta(t, 0.1, c.All.Diff, 1e-12)
	require.Equal(t, "B is ahead of A by 10.0 points", c.Verdict()[:30])

	fb.Identity["env.libero-plus.noise"] = "other"
	_, err = evaluate.Compare(fa, fb)
	require.ErrorContains(t, err, "env.libero-plus.noise is nothing in the one, other in the other")
	fb.Record = rec("b")
	fb.Episodes[3].Seed++
	_, err = evaluate.Compare(fa, fb)
	require.ErrorContains(t, err, "libero_10/camera/3/0/0 has the seed 3 in the one, 4 in the other")
}
