package score_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/score"
)

// plus makes an evaluation of LIBERO-Plus: in each dimension n variants over levels and suites, of which `share` succeed.
func plus(n int, share map[string]float64) (tasks []score.Task, episodes []score.Episode) {
	for _, d := range score.PlusDimensions {
		for i := range n {
			t := score.Task{ID: fmt.Sprintf("%s/%s/%d", score.LiberoSuites[i%4], d, i), Suite: score.LiberoSuites[i%4], Tags: map[string]string{"dimension": d}}
			if d != "light" || i%5 > 0 {
				t.Tags["level"] = fmt.Sprintf("L%d", i%5+1)
			}
			tasks = append(tasks, t)
			e := score.Episode{ID: "eval/" + t.ID + "/0/0", Index: len(episodes), Task: t.ID, Steps: 10 + i, Side: []string{"train", "test"}[i%2], Seed: uint64(i)}
			e.Success = float64(i) < share[d]*float64(n)
			e.Terminated, e.Truncated = e.Success, !e.Success
			episodes = append(episodes, e)
		}
	}
	return tasks, episodes
}

func TestSum(t *testing.T) {
	tasks, episodes := plus(20, map[string]float64{"camera": 0.5, "robot": 1, "light": 0.25})
	rec := score.Record{Identity: map[string]string{"env": "libero-plus", "policy": "p", "actions": "greedy", "states": "all"}}
	r := score.Sum(rec, tasks, episodes, map[string]string{episodes[12].ID: "videos/x.gif"})

	require.Equal(t, 140, r.All.Episodes)
	require.Equal(t, 35, r.All.Successes)
	require.Len(t, r.Suites, 4)
	require.Len(t, r.Dimensions, 7)
	require.Equal(t, "camera", r.Dimensions[0].Name)
	low, high := report.Wilson(0.5, 20)
	require.Equal(t, score.Score{Name: "camera", Episodes: 20, Successes: 10, Rate: 0.5, Low: low, High: high, MeanSteps: 19.5}, r.Dimensions[0].Score)
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

	require.Equal(t, score.Kind{Group: "camera", Outcome: "out of steps", Episodes: 10, Examples: []score.Example{{ID: episodes[12].ID, Steps: 22, Video: "videos/x.gif"}}}, r.Kinds[0])
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
	twice := score.Sum(rec, tasks, again, nil)
	require.Equal(t, 2, twice.Repeats)
	require.NoError(t, twice.Table(&table))
	require.Contains(t, table.String(), "2 of the 140 episodes repeat a start state, and a greedy policy may repeat itself there")
	require.Len(t, twice.Page("x", rec, nil).Notes, 1)
	sampled := score.Sum(score.Record{Identity: map[string]string{"actions": "sampled at temperature 1"}}, tasks, again, nil)
	require.Empty(t, sampled.Page("x", rec, nil).Notes, "one that draws does something else each time")

	// The order in which episodes ended is not in the results.
	shuffled := slices.Clone(episodes)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(a, b int) { shuffled[a], shuffled[b] = shuffled[b], shuffled[a] })
	require.Equal(t, r, score.Sum(rec, tasks, shuffled, map[string]string{episodes[12].ID: "videos/x.gif"}))

	var b bytes.Buffer
	require.NoError(t, r.Table(&b))
	for _, words := range []string{"dimension camera ", "  L3 ", "no level", "plain mean of 7 dimensions", "weighted by episodes", "Published by others (arXiv 2511.15605, LIBERO-Plus), not measured by srpo",
		"this evaluation", "full SFT, augmented data"} {
		require.Contains(t, b.String(), words)
	}
	b.Reset()
	require.NoError(t, r.Page("name", rec, func(string) ([]byte, error) { return []byte("GIF89a"), nil }).Write(&b))
	for _, words := range []string{"By dimension and level", "not measured by srpo", "data:image/gif;base64,R0lGODlh", "one of 10", "25.0 %"} {
		require.Contains(t, b.String(), words)
	}
}

// Unequal groups tell the two totals apart.
func TestTotals(t *testing.T) {
	tasks, episodes := plus(20, map[string]float64{"camera": 1})
	keep := slices.DeleteFunc(slices.Clone(episodes), func(e score.Episode) bool { return e.Index >= 20 && e.Index%10 > 0 })
	r := score.Sum(score.Record{}, tasks, keep, nil)
	require.InDelta(t, 1.0/7, r.Totals.Mean, 1e-12)
	require.InDelta(t, 20.0/32, r.Totals.Weighted.Rate, 1e-12)
}

// The weighted totals that others published for rows of these very numbers come out of the counts.
func TestPublished(t *testing.T) {
	tasks, episodes := plus(1, nil)
	r := score.Sum(score.Record{}, tasks, episodes, nil)
	require.Len(t, r.Published, 5)
	for i, want := range []struct{ mean, weighted float64 }{{19.4, 0}, {59.6, 57.3}, {30.7, 0}, {82.1, 80.8}, {73.0, 0}} {
		require.InDelta(t, want.mean, 100*r.Published[i].Mean, 0.06, r.Published[i].Name)
		if want.weighted > 0 {
			require.InDelta(t, want.weighted, 100**r.Published[i].Weighted, 0.06, r.Published[i].Name)
		}
	}
	// A sample with as many episodes of each dimension is weighted as theirs are: camera's 1599 of 10,030.
	tasks, episodes = plus(1, map[string]float64{"camera": 1})
	var table bytes.Buffer
	require.NoError(t, score.Sum(score.Record{}, tasks, episodes, nil).Table(&table))
	require.Regexp(t, `this evaluation +100\.0 +0\.0 .* 14\.3 +15\.9\s`, table.String())
	require.Regexp(t, `weighted by episodes +14\.3 %`, table.String())
	var libero []score.Task
	for _, s := range score.LiberoSuites {
		libero = append(libero, score.Task{ID: s + "/x", Suite: s})
	}
	r = score.Sum(score.Record{}, libero, []score.Episode{{Task: "libero_goal/x"}}, nil)
	require.Len(t, r.Published, 4)
	require.InDelta(t, 48.9, 100*r.Published[0].Mean, 0.06)
	require.InDelta(t, 99.2, 100*r.Published[2].Mean, 0.06)
	r = score.Sum(score.Record{}, []score.Task{{ID: "t", Suite: "tabletop"}}, []score.Episode{{Task: "t"}}, nil)
	require.Empty(t, r.Published, "nothing is published beside another env")
}

func TestOutcomes(t *testing.T) {
	p := func(x float64) *float64 { return &x }
	for want, e := range map[string]score.Episode{
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

// Newcombe's interval holds the true difference about 95 times in 100, for pairs that go together and pairs that do not.
func TestPairedIntervalCovers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, c := range []struct{ a, b, same float64 }{{0.3, 0.5, 0}, {0.3, 0.5, 0.6}, {0.8, 0.8, 0.9}, {0.05, 0.1, 0.3}} {
		const times, n = 2000, 60
		covered := 0
		for range times {
			var p score.Pairs
			for range n {
				u := r.Float64()
				v := u // the same luck for both, now and then
				if r.Float64() >= c.same {
					v = r.Float64()
				}
				switch a, b := u < c.a, v < c.b; {
				case a && b:
					p.Both++
				case a:
					p.OnlyA++
				case b:
					p.OnlyB++
				default:
					p.Neither++
				}
			}
			if _, low, high := p.Difference(); low <= c.b-c.a && c.b-c.a <= high {
				covered++
			}
		}
		require.GreaterOrEqual(t, float64(covered)/times, 0.935, "%v", c)
		if c.same < 0.8 { // rates near the border and pairs that agree make it wider than need be
			require.LessOrEqual(t, float64(covered)/times, 0.985, "%v", c)
		}
	}
}

func TestPairs(t *testing.T) {
	// Newcombe's method 10 on 20 pairs, worked out by hand: Wilson 12/20 [.3866, .7812], 9/20 [.2582, .6579], phi = (9*8 - 3*0 - 10)/sqrt(12*8*9*11).
	d, low, high := score.Pairs{Both: 9, OnlyB: 3, OnlyA: 0, Neither: 8}.Difference()
	require.InDelta(t, 0.15, d, 1e-12)
	phi := 62 / math.Sqrt(12*8*9*11)
	down, up := [2]float64{0.6 - 0.3866, 0.6579 - 0.45}, [2]float64{0.7812 - 0.6, 0.45 - 0.2582}
	require.InDelta(t, 0.15-math.Sqrt(down[0]*down[0]-2*phi*down[0]*down[1]+down[1]*down[1]), low, 2e-4)
	require.InDelta(t, 0.15+math.Sqrt(up[0]*up[0]-2*phi*up[0]*up[1]+up[1]*up[1]), high, 2e-4)
	require.InDelta(t, 0.25, score.Pairs{OnlyB: 3}.McNemar(), 1e-12)
	require.InDelta(t, 1, score.Pairs{OnlyA: 2, OnlyB: 2, Both: 50}.McNemar(), 1e-12)
	require.InDelta(t, 2*11.0/1024, score.Pairs{OnlyA: 1, OnlyB: 9}.McNemar(), 1e-12)
	d, low, high = score.Pairs{Both: 10}.Difference()
	require.Zero(t, d)
	require.Less(t, low, 0.0, "ten episodes prove little")
	require.Greater(t, high, 0.0)
	b, l, h := score.Pairs{OnlyA: 7, OnlyB: 2, Both: 5, Neither: 6}.Difference()
	f, fl, fh := score.Pairs{OnlyA: 2, OnlyB: 7, Both: 5, Neither: 6}.Difference()
	require.InDeltaSlice(t, []float64{b, l, h}, []float64{-f, -fh, -fl}, 1e-12, "turned round")
}

func TestCompareByDimension(t *testing.T) {
	tasks, a := plus(20, map[string]float64{"camera": 0.2, "robot": 0.5})
	_, b := plus(20, map[string]float64{"camera": 0.9, "robot": 0.5})
	rec := func(policy string) score.Record {
		return score.Record{Mine: 140, Identity: map[string]string{"env": "libero-plus", "policy": "tiny", "checkpoint": policy, "policy.tiny.lr": policy}}
	}
	fa, fb := &score.Folder{Dir: "a", Record: rec("a"), Tasks: tasks, Episodes: a}, &score.Folder{Dir: "b", Record: rec("b"), Tasks: tasks, Episodes: b}
	c, err := score.Compare(fa, fb)
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
	_, err = score.Compare(fa, fb)
	require.ErrorContains(t, err, "env.libero-plus.noise is nothing in the one, other in the other")
	fb.Record = rec("b")
	fb.Episodes[3].Seed++
	_, err = score.Compare(fa, fb)
	require.ErrorContains(t, err, "libero_10/camera/3/0/0 has the seed 3 in the one, 4 in the other")
}
