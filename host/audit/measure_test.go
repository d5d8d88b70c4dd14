package audit

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/srpo"
)

func gauss(rng *rand.Rand, n int, scale float64, at ...float64) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = scale * rng.NormFloat64()
		if i < len(at) {
			out[i] += at[i]
		}
	}
	return out
}

// scene returns attempts whose windows move from a start to the end of the attempt: successes end at the goal,
// failures part of the way. With informed = false the embeddings are random.
func scene(rng *rand.Rand, task string, goal []float64, n int, informed bool) []Item {
	const windows = 12
	var out []Item
	yes, no := true, false
	for i := range 2 * n {
		it := Item{ID: fmt.Sprintf("%s/%d", task, i), Task: task, Success: &yes, Frames: 20 + rng.IntN(3)}
		share := 1.0
		if i >= n {
			share = rng.Float64() * 0.6
			it.Success, it.Progress = &no, &share
			it.Frames += 10
		}
		for w := 1; w <= windows; w++ {
			v := gauss(rng, len(goal), 0.05)
			for j := range v {
				if informed {
					v[j] += goal[j] * share * float64(w) / windows
				} else {
					v[j] = rng.NormFloat64()
				}
			}
			it.Ends, it.Windows = append(it.Ends, it.Frames*w/windows), append(it.Windows, v)
		}
		it.Embedding = it.Windows[windows-1]
		it.Reversed = it.Embedding // an encoder that ignores the order of frames
		it.Stalled = it.Windows[windows/2]
		out = append(out, it)
	}
	return out
}

func options() MeasureOptions {
	return MeasureOptions{Cluster: srpo.DefaultClusterOptions(), Seed: 3, Bootstrap: 200}
}

func TestMeasureSeparatesInformedFromRandomEmbeddings(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	items := append(scene(rng, "a", []float64{3, 0, 0, 0}, 14, true), scene(rng, "b", []float64{0, 3, 0, 0}, 14,
		true)...)
	good, err := Measure(items, options())
	require.NoError(t, err)
	m := good.Mean
	for name, minimum := range map[string]float64{"sc": 0.95, "mono": 0.8, "auroc": 0.99, "voc": 0.95, "order": 0.95,
		"progress_rank": 0.9, "progress_order": 0.9,
		"stalled_auroc": 0.99, "other_auroc": 0.99} {
		require.GreaterOrEqual(t, m[name].Value, minimum, name)
		require.Equal(t, 2, m[name].Tasks, name)
	}
	require.InDelta(t, 1, m["length_auroc"].Value, 1e-9, "these failures are longer, so length alone separates them")
	require.InDelta(t, 0.5, m["random_auroc"].Value, 0.25)
	require.InDelta(t, 0.5, m["reversed_auroc"].Value, 0.15, "the encoder ignores order, and the control shows it")
	require.Equal(t, 1.0, m["time_sc"].Value)
	require.Equal(t, 0.5, m["time_auroc"].Value)
	require.Len(t, good.Tasks, 2)
	require.Len(t, good.Curves, len(items))
	for name, v := range m {
		require.LessOrEqual(t, v.Low, v.High, name)
	}

	blind, err := Measure(append(scene(rng, "a", make([]float64, 4), 14, false),
		scene(rng, "b", make([]float64, 4), 14, false)...), options())
	require.NoError(t, err)
	v := blind.Mean["auroc"]
	require.True(t, v.Low < 0.5 && 0.5 < v.High, "%+v", v)
	require.InDelta(t, 0, blind.Mean["voc"].Value, 0.35)
	require.InDelta(t, 0.5, blind.Mean["order"].Value, 0.2)
	require.Less(t, blind.Mean["stalled_auroc"].Value, 0.75)
}

func TestMeasureIsDeterministic(t *testing.T) {
	items := scene(rand.New(rand.NewPCG(6, 6)), "a", []float64{2, 1, 0}, 6, true)
	first, err := Measure(items, options())
	require.NoError(t, err)
	again, err := Measure(items, options())
	require.NoError(t, err)
	require.Equal(t, first, again)
	other := options()
	other.Seed++
	reseeded, err := Measure(items, other)
	require.NoError(t, err)
	require.Equal(t, first.Mean["voc"].Value, reseeded.Mean["voc"].Value)
	require.NotEqual(t, first.Mean["smd"], reseeded.Mean["smd"], "the bootstrap comes from the seed")
}

// Attempts without a label are not measured, and missing data only leaves out the measures that need it.
func TestMeasureWithFewAttempts(t *testing.T) {
	yes, no := true, false
	items := []Item{{ID: "u", Task: "t", Embedding: []float64{1, 2}}}
	m, err := Measure(items, options())
	require.NoError(t, err)
	require.Empty(t, m.Mean)
	items = append(items, Item{ID: "s", Task: "t", Success: &yes, Embedding: []float64{1, 1}},
		Item{ID: "f", Task: "t", Success: &no, Embedding: []float64{4, 1}})
	m, err = Measure(items, options())
	require.NoError(t, err)
	require.NotContains(t, m.Mean, "auroc", "one success cannot be held out")
	items = append(items, Item{ID: "s2", Task: "t", Success: &yes, Embedding: []float64{1, 1.5}})
	m, err = Measure(items, options())
	require.NoError(t, err)
	require.Equal(t, 1.0, m.Mean["auroc"].Value)
	require.NotContains(t, m.Mean, "sc")
	require.NotContains(t, m.Mean, "other_auroc")
}

// A success far from all others is farther from the centres if they were computed without it. Otherwise AUROC would be
// too high.
func TestHeldOutCentresExcludeTheSuccess(t *testing.T) {
	h, err := holdOut([][]float64{{0, 0}, {0, 1}, {10, 0}}, [][]float64{{2, 0}},
		srpo.ClusterOptions{Kind: srpo.ClusterMean, Slack: 1, OutlierRatio: 1, ReferenceEps: 1,
			ReferenceMinPoints: 1})
	require.NoError(t, err)
	require.InDelta(t, 10.01, h.own[2], 0.01) // to (0, 0.5)
	require.Zero(t, h.wins()[2][0])
	require.Len(t, h.centres, 3)

	many := make([][]float64, 50)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range many {
		many[i] = gauss(rng, 3, 1)
	}
	h, err = holdOut(many, many[:5], srpo.DefaultClusterOptions())
	require.NoError(t, err)
	require.Len(t, h.centres, maxFolds)
	seen := map[int]int{}
	for _, f := range h.fold {
		seen[f]++
	}
	require.Len(t, seen, maxFolds)
}

func TestLargeTasksAreThinned(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	var items []Item
	yes, no := true, false
	for i := range 2 * (maxMeasured + 10) {
		it := Item{ID: fmt.Sprint(i), Task: "t", Success: &yes, Embedding: gauss(rng, 2, 1)}
		if i%2 == 1 {
			it.Success, it.Embedding = &no, gauss(rng, 2, 1, 9)
		}
		items = append(items, it)
	}
	o := options()
	o.Bootstrap = 5
	m, err := Measure(items, o)
	require.NoError(t, err)
	require.Len(t, m.Notes, 2)
	require.Contains(t, m.Notes[0], "300 of 310 attempts")
	require.Greater(t, m.Mean["auroc"].Value, 0.99)
}

// The interval of a few attempts is honest, although all resamples of two random vectors agree.
func TestFewAttemptsAreTooFewToTell(t *testing.T) {
	for _, n := range []int{2, 4, 5, 30} {
		rng := rand.New(rand.NewPCG(7, 7))
		for try := range 20 {
			items := scene(rng, fmt.Sprint("t", try), make([]float64, 4), n, false)
			for i := range items {
				items[i].Windows, items[i].Ends = nil, nil
			}
			m, err := Measure(items, options())
			require.NoError(t, err)
			for _, v := range []Value{m.Mean["auroc"], m.Mean["random_auroc"], m.Tasks[items[0].Task]["auroc"]} {
				require.Equal(t, n < FewestAttempts, v.TooFew)
				require.Equal(t, n < FewestAttempts, v.Interval() == "too few to tell")
				require.GreaterOrEqual(t, v.Low, 0.0)
				require.LessOrEqual(t, v.High, 1.0)
				require.Greater(t, v.High-v.Low, 0.1, "%+v", v)
				if n == 2 {
					require.True(t, v.Low < 0.5 && v.High > 0.5, "%+v", v)
				}
			}
		}
	}
}

// A success whose video cannot be read is dropped, and does not count as a reward of 1.
func TestUnreadableSuccessIsDropped(t *testing.T) {
	yes, no := true, false
	list := []attempts.Attempt{{ID: "a", Task: "t", Success: &yes}, {ID: "b", Task: "t", Success: &yes,
		Problem: "it does not decode"}, {ID: "c", Task: "t", Success: &no}}
	s, err := Reward(list, [][]float64{{1, 2}, nil, {3, 3}}, nil, srpo.DefaultRewardOptions())
	require.NoError(t, err)
	require.Equal(t, []bool{false, true, false},
		[]bool{s.Attempts[0].Dropped, s.Attempts[1].Dropped, s.Attempts[2].Dropped})
	require.Equal(t, []float64{1, 0}, []float64{s.Attempts[0].Reward, s.Attempts[1].Reward})
	require.Equal(t, "it does not decode", s.Attempts[1].Reason)
	require.Equal(t, []int{1, 1}, []int{s.Tasks[0].Dropped, s.Tasks[0].Measured})

	binary := srpo.DefaultRewardOptions() // needs no embedding
	binary.Kind = srpo.Binary
	s, err = Reward(list, [][]float64{{1, 2}, nil, {3, 3}}, nil, binary)
	require.NoError(t, err)
	require.Equal(t, 1.0, s.Attempts[1].Reward)
}

// One failure is no scale for the distances of the others.
func TestSameRewardForAllIsNoted(t *testing.T) {
	yes, no := true, false
	list := []attempts.Attempt{{ID: "s", Task: "t", Success: &yes}, {ID: "f", Task: "t", Success: &no}}
	vectors := [][]float64{{1, 1}, {3, 1}}
	for i := range 6 {
		list = append(list, attempts.Attempt{ID: fmt.Sprint("u", i), Task: "t"})
		vectors = append(vectors, []float64{float64(i), 2})
	}
	s, err := Reward(list, vectors, nil, srpo.DefaultRewardOptions())
	require.NoError(t, err)
	require.Contains(t, s.Tasks[0].Notes, "all 7 attempts that are not successes have the reward 0.400, although "+
		"their distances differ: fewer than 2 failures give no scale to compare distances with; label at least 2")

	list[2].Success = &no
	s, err = Reward(list, vectors, nil, srpo.DefaultRewardOptions())
	require.NoError(t, err)
	for _, n := range s.Tasks[0].Notes {
		require.NotContains(t, n, "have the reward")
	}
}

func TestRewardKeepsTheOrder(t *testing.T) {
	yes, no := true, false
	list := []attempts.Attempt{
		{ID: "z", Task: "b", Success: &no}, {ID: "y", Task: "a", Success: &yes, Demo: true}, {ID: "x", Task: "a"},
		{ID: "w", Task: "a", Success: &no, Problem: "it does not decode"},
	}
	vectors := [][]float64{{1, 1}, {1, 2}, {1, 3}, nil}
	for _, references := range srpo.ReferenceKinds() {
		opt := srpo.DefaultRewardOptions()
		opt.References = srpo.ReferenceKind(references)
		s, err := Reward(list, vectors, nil, opt)
		require.NoError(t, err, references)
		require.Len(t, s.Attempts, 4)
		for i, a := range s.Attempts {
			require.Equal(t, list[i].ID, a.ID)
		}
		require.Equal(t, 1.0, s.Attempts[1].Reward)
		require.Nil(t, s.Attempts[2].Success)
		require.Equal(t, 1.0, *s.Attempts[2].Distance)
		require.InDelta(t, 0.4, s.Attempts[2].Reward, 1e-12)
		require.True(t, s.Attempts[3].Dropped)
		require.Equal(t, "it does not decode", s.Attempts[3].Reason)
		require.Equal(t, 1, s.Tasks[0].Unlabelled)
	}
}
