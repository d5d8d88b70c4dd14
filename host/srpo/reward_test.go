package srpo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// randomBatch returns 2 tasks with successes around two modes, and failures anywhere.
func randomBatch(rng *rand.Rand) []Rollout {
	dim := []int{2, 5, 40}[rng.IntN(3)]
	spread := math.Exp(rng.NormFloat64())
	var out []Rollout
	for task := range 2 {
		modes := [2][]float64{gauss(rng, dim, 3), gauss(rng, dim, 3)}
		n := 3 + rng.IntN(14)
		for i := range n {
			h := gauss(rng, dim, spread)
			success := rng.IntN(2) == 0
			if success {
				for j := range h {
					h[j] += modes[i%2][j]
				}
			}
			progress := rng.Float64()
			out = append(out, Rollout{
				ID: fmt.Sprintf("t%d/e%03d", task,
					i), Task: fmt.Sprint("task ", task), Group: fmt.Sprint("group ", i%2),
				Success: success, Embedding: h, Progress: &progress,
			})
		}
	}
	return out
}

func gauss(rng *rand.Rand, n int, scale float64) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = scale * rng.NormFloat64()
	}
	return out
}

// everyOption runs f for each kind of reward, clustering and references.
func everyOption(t *testing.T, rng *rand.Rand,
	f func(t *testing.T, rollouts []Rollout, known Known, opt RewardOptions)) {
	for _, kind := range RewardKinds() {
		for _, cluster := range ClusterKinds() {
			for _, references := range ReferenceKinds() {
				t.Run(kind+" "+cluster+" "+references, func(t *testing.T) {
					for range 8 {
						rollouts := randomBatch(rng)
						dim := len(rollouts[0].Embedding)
						memory, err := NewMemory(8)
						require.NoError(t, err)
						var earlier []Rollout
						for k := range 12 {
							earlier = append(
								earlier,
								Rollout{
									ID:        fmt.Sprint("earlier ", k),
									Task:      "task 0",
									Success:   true,
									Embedding: gauss(rng, dim, 2),
								},
							)
						}
						memory.Remember(1, dim, earlier)
						known := Known{
							Memory:  memory,
							Demos:   map[string][][]float64{"task 0": {gauss(rng, dim, 1), gauss(rng, dim, 1)}},
							Anchors: map[string][]float64{"task 0": gauss(rng, dim, 4)},
						}
						opt := DefaultRewardOptions()
						opt.Kind, opt.Cluster.Kind, opt.References = RewardKind(
							kind,
						), ClusterKind(
							cluster,
						), ReferenceKind(
							references,
						)
						opt.Alpha = []float64{0, 0.3, 0.8, 1}[rng.IntN(4)]
						f(t, rollouts, known, opt)
					}
				})
			}
		}
	}
}

func TestNoFailureReachesASuccess(t *testing.T) {
	everyOption(
		t,
		rand.New(rand.NewPCG(1, 1)),
		func(t *testing.T, rollouts []Rollout, known Known, opt RewardOptions) {
			scored, err := ScoreBatch(rollouts, known, opt)
			require.NoError(t, err)
			for i, s := range scored.Rollouts {
				if rollouts[i].Success {
					require.Equal(t, 1.0, s.Reward)
					continue
				}
				require.Less(t, s.Reward, 1.0)
				require.GreaterOrEqual(t, s.Reward, 0.0)
				if opt.Kind == ZScore || opt.Kind == Anchored {
					require.LessOrEqual(t, s.Reward, opt.Alpha)
				}
			}
		},
	)
	// a failure on top of the centre, at alpha 1
	opt := DefaultRewardOptions()
	opt.Kind, opt.Alpha = Anchored, 1
	scored, err := ScoreBatch([]Rollout{
		{ID: "a", Success: true, Embedding: []float64{1, 1}},
		{ID: "b", Embedding: []float64{1, 1}},
	}, Known{ReferenceDistances: map[string]float64{"": 1}}, opt)
	require.NoError(t, err)
	assert.Less(t, scored.Rollouts[1].Reward, 1.0)
	assert.Greater(t, scored.Rollouts[1].Reward, 0.99)
}

func TestCloserNeverGetsLess(t *testing.T) {
	differ := 0
	everyOption(
		t,
		rand.New(rand.NewPCG(2, 1)),
		func(t *testing.T, rollouts []Rollout, known Known, opt RewardOptions) {
			scored, err := ScoreBatch(rollouts, known, opt)
			require.NoError(t, err)
			if opt.Kind == Progress { // does not depend on the distance
				return
			}
			for i, a := range scored.Rollouts {
				for j, b := range scored.Rollouts {
					if rollouts[i].Task != rollouts[j].Task || rollouts[i].Success || rollouts[j].Success ||
						a.Distance >= b.Distance {
						continue
					}
					require.GreaterOrEqual(t, a.Reward, b.Reward)
					if a.Reward > b.Reward {
						differ++
					}
					if opt.Kind == ZScore && opt.Alpha > 0 {
						require.Greater(t, a.Reward, b.Reward, "distances %g and %g", a.Distance, b.Distance)
					}
				}
			}
		},
	)
	assert.Greater(t, differ, 1000)
}

func TestOrderOfRolloutsChangesNoBit(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	everyOption(t, rng, func(t *testing.T, rollouts []Rollout, known Known, opt RewardOptions) {
		scored, err := ScoreBatch(rollouts, known, opt)
		require.NoError(t, err)
		advantages, groups, err := Advantages(scored.Rollouts, DefaultAdvantageOptions())
		require.NoError(t, err)
		diagnostics, err := Diagnose(scored.Rollouts)
		require.NoError(t, err)

		order := rng.Perm(len(rollouts))
		shuffled := make([]Rollout, len(rollouts))
		for to, from := range order {
			shuffled[to] = rollouts[from]
		}
		again, err := ScoreBatch(shuffled, known, opt)
		require.NoError(t, err)
		advantagesAgain, groupsAgain, err := Advantages(again.Rollouts, DefaultAdvantageOptions())
		require.NoError(t, err)
		diagnosticsAgain, err := Diagnose(again.Rollouts)
		require.NoError(t, err)

		for to, from := range order {
			require.Equal(t, scored.Rollouts[from], again.Rollouts[to])
			require.Equal(t, math.Float64bits(scored.Rollouts[from].Reward),
				math.Float64bits(again.Rollouts[to].Reward))
			require.Equal(t, advantages[from], advantagesAgain[to])
		}
		require.Equal(t, scored.Tasks, again.Tasks)
		require.Equal(t, groups, groupsAgain)
		require.Equal(t, diagnostics, diagnosticsAgain)
	})
}

func TestScaleAndShiftChangeNoZScoreReward(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	for range 60 {
		rollouts := randomBatch(rng)
		scored, err := ScoreBatch(rollouts, Known{}, DefaultRewardOptions())
		require.NoError(t, err)
		scale, shift := math.Exp(3*rng.NormFloat64()), gauss(rng, len(rollouts[0].Embedding), 1)
		moved := append([]Rollout(nil), rollouts...)
		for i := range moved {
			h := make([]float64, len(moved[i].Embedding))
			for j, v := range moved[i].Embedding {
				h[j] = scale * (v + 10*shift[j])
			}
			moved[i].Embedding = h
		}
		again, err := ScoreBatch(moved, Known{}, DefaultRewardOptions())
		require.NoError(t, err)
		for i := range rollouts {
			require.InDelta(t, scored.Rollouts[i].Reward, again.Rollouts[i].Reward, 1e-9)
		}
	}
}

// siiRL 0.2.0 uses one video, and so one embedding, for all rollouts of a prompt.
func TestRolloutsOfOnePromptGetDifferentRewards(t *testing.T) {
	batch := func(second []float64) []Rollout {
		return []Rollout{
			{ID: "prompt/0", Group: "prompt", Embedding: []float64{1, 0}},
			{ID: "prompt/1", Group: "prompt", Embedding: second},
			{ID: "prompt/2", Group: "prompt", Success: true, Embedding: []float64{0, 5}},
		}
	}
	for _, kind := range []RewardKind{ZScore, MinMax, Anchored} {
		opt := DefaultRewardOptions()
		opt.Kind = kind
		known := Known{ReferenceDistances: map[string]float64{"": 5}}
		rollouts := batch([]float64{0, 4})
		scored, err := ScoreBatch(rollouts, known, opt)
		require.NoError(t, err)
		assert.Greater(t, scored.Rollouts[1].Reward, scored.Rollouts[0].Reward+0.1, kind)
		assert.Zero(t, scored.Tasks[0].Repeated)
		advantages, _, err := Advantages(scored.Rollouts, DefaultAdvantageOptions())
		require.NoError(t, err)
		assert.Greater(t, advantages[1].Value, advantages[0].Value)

		// a shared video is counted, so that the host can report it
		scored, err = ScoreBatch(batch([]float64{1, 0}), known, opt)
		require.NoError(t, err)
		assert.Equal(t, scored.Rollouts[1].Reward, scored.Rollouts[0].Reward)
		assert.Equal(t, 1, scored.Tasks[0].Repeated)
	}

	rollouts := batch([]float64{0, 4})
	rollouts[1].ID = "prompt/0"
	_, err := ScoreBatch(rollouts, Known{}, DefaultRewardOptions())
	assert.ErrorContains(t, err, `two rollouts have the ID "prompt/0"`)
	rollouts[1].ID = ""
	_, err = ScoreBatch(rollouts, Known{}, DefaultRewardOptions())
	assert.ErrorContains(t, err, "rollout 1 has no ID")
}

func TestUnusableEmbeddingsDoNotSpread(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 1))
	unusable := map[string][]float64{
		"not a number at index 1": {1, math.NaN(), 1, 1, 1},
		"infinite at index 0":     {math.Inf(-1), 0, 0, 0, 0},
		"above":                   {1e200, 0, 0, 0, 0},
		"all zero":                make([]float64, 5),
		"4 numbers, want 5":       {1, 2, 3, 4},
		"missing":                 nil,
	}
	for reason, h := range unusable {
		for _, kind := range []RewardKind{ZScore, MinMax, Anchored} {
			for _, cluster := range ClusterKinds() {
				opt := DefaultRewardOptions()
				opt.Kind, opt.Cluster.Kind = kind, ClusterKind(cluster)
				known := Known{ReferenceDistances: map[string]float64{"": 2}}
				var rollouts []Rollout
				for i := range 14 {
					rollouts = append(
						rollouts,
						Rollout{ID: fmt.Sprintf("%02d", i), Success: i < 6, Embedding: gauss(rng, 5, 1)},
					)
				}
				clean, err := ScoreBatch(rollouts, known, opt)
				require.NoError(t, err)
				bad := append(append([]Rollout(nil), rollouts...),
					Rollout{ID: "05 bad success", Success: true, Embedding: h},
					Rollout{ID: "09 bad failure", Embedding: h})
				scored, err := ScoreBatch(bad, known, opt)
				require.NoError(t, err)

				require.Equal(t, clean.Rollouts, scored.Rollouts[:14], "no other rollout changes")
				success, failure := scored.Rollouts[14], scored.Rollouts[15]
				require.Contains(t, success.Reason, reason)
				require.Equal(t, Score{Reward: 1, Centre: -1, Reason: success.Reason}, success.Score)
				require.Equal(t, Score{Centre: -1, Dropped: true, Reason: success.Reason}, failure.Score)
				require.Equal(t, 2, scored.Tasks[0].Unusable)
				require.Equal(t, 1, scored.Tasks[0].Dropped)
				require.Equal(t, 6, scored.Tasks[0].References)

				advantages, groups, err := Advantages(scored.Rollouts, DefaultAdvantageOptions())
				require.NoError(t, err)
				require.Equal(t, Advantage{Masked: true}, advantages[15])
				require.False(t, advantages[14].Masked)
				require.Equal(t, 1, groups[0].Dropped)
			}
		}
	}
}

func TestZScoreRewards(t *testing.T) {
	// d = 1, 3: mean 2, std 1, z = -1, +1
	g := ZScoreRewards([]float64{1, 3}, 0.8)
	assert.InDelta(t, 0.8/(1+math.Exp(-1)), g[0], 1e-15)
	assert.InDelta(t, 0.8/(1+math.Exp(1)), g[1], 1e-15)
	assert.Greater(t, g[0], g[1], "the printed formula, without the minus, gives the farther one more")
	assert.Equal(t, []float64{0.4}, ZScoreRewards([]float64{7}, 0.8), "one failure")
	assert.Equal(t, []float64{0.4, 0.4, 0.4}, ZScoreRewards([]float64{math.Nextafter(0.3, 1), 0.3, 0.3}, 0.8),
		"equal up to rounding")
	assert.Equal(t, []float64{0.4, 0.4}, ZScoreRewards([]float64{0, 0}, 0.8))
	assert.Empty(t, ZScoreRewards(nil, 0.8))
}

func TestMinMaxRewards(t *testing.T) {
	assert.InDelta(t, 0.30, MinMaxRewards([]float64{123}, 0.6, 10, 0.5)[0], 1e-15)
	g := MinMaxRewards([]float64{900, 1000, 950}, 0.6, 10, 0.5)
	assert.InDelta(t, 0.6/(1+math.Exp(-5)), g[0], 1e-15)
	assert.InDelta(t, 0.6/(1+math.Exp(5)), g[1], 1e-15)
	assert.InDelta(t, 0.3, g[2], 1e-15)
}

func TestAnchoredRewardIsTheSameInEveryBatch(t *testing.T) {
	assert.InDeltaSlice(t, []float64{0.8, 0.08, 0.008}, AnchoredRewards([]float64{0, 5, 10}, 5, 0.8, 0.1), 1e-15)

	opt := DefaultRewardOptions()
	opt.Kind = Anchored
	known := Known{Anchors: map[string][]float64{"": {0, 10}}}
	success := Rollout{ID: "s", Success: true, Embedding: []float64{0, 1e-9}}
	near := Rollout{ID: "near", Embedding: []float64{3, 0}}
	alone, err := ScoreBatch([]Rollout{success, near}, known, opt)
	require.NoError(t, err)
	crowd, err := ScoreBatch(
		[]Rollout{
			success,
			near,
			{ID: "far", Embedding: []float64{90, 0}},
			{ID: "nearer", Embedding: []float64{1, 0}},
		},
		known,
		opt,
	)
	require.NoError(t, err)
	assert.Equal(t, alone.Rollouts[1].Reward, crowd.Rollouts[1].Reward)
	assert.InDelta(t, 0.8*math.Pow(0.1, 0.3), alone.Rollouts[1].Reward, 1e-9)
	assert.InDelta(t, 10, alone.Tasks[0].ReferenceDistance, 1e-8)
	assert.Equal(t, Anchored, alone.Tasks[0].Kind)

	// a reference distance takes precedence over the anchor
	known.ReferenceDistances = map[string]float64{"": 3}
	kept, err := ScoreBatch([]Rollout{success, near}, known, opt)
	require.NoError(t, err)
	assert.InDelta(t, 0.08, kept.Rollouts[1].Reward, 1e-9)
}

func TestAnchoredWithoutItsAnchor(t *testing.T) {
	opt := DefaultRewardOptions()
	opt.Kind = Anchored
	rollouts := []Rollout{
		{ID: "s", Task: "a", Success: true, Embedding: []float64{1, 1}},
		{ID: "f", Task: "a", Embedding: []float64{2, 1}},
	}
	_, err := ScoreBatch(rollouts, Known{}, opt)
	assert.ErrorContains(t, err, "needs an anchor")
	for note, known := range map[string]Known{
		"the task has no anchor":            {Anchors: map[string][]float64{"b": {1, 2}}},
		"not a number at index 0":           {Anchors: map[string][]float64{"a": {math.NaN(), 2}}},
		"the wrong size: 3 numbers, want 2": {Anchors: map[string][]float64{"a": {1, 2, 3}}},
		"the anchor lies on a centre":       {Anchors: map[string][]float64{"a": {1, 1}}},
		"the reference distance is -1":      {ReferenceDistances: map[string]float64{"a": -1}},
		"the reference distance is NaN":     {ReferenceDistances: map[string]float64{"a": math.NaN()}},
	} {
		scored, err := ScoreBatch(rollouts, known, opt)
		require.NoError(t, err)
		assert.Equal(t, 0.4, scored.Rollouts[1].Reward, "the lone failure's z is 0")
		assert.Equal(t, ZScore, scored.Tasks[0].Kind)
		assert.Contains(t, strings.Join(scored.Tasks[0].Notes, "\n"), note)
	}
}

func TestNoSuccessInTheBatch(t *testing.T) {
	rollouts := []Rollout{
		{ID: "a", Task: "stack", Embedding: []float64{1, 0}},
		{ID: "b", Task: "stack", Embedding: []float64{5, 0}},
	}
	opt := DefaultRewardOptions()
	for _, kind := range []RewardKind{ZScore, MinMax, Binary} {
		opt.Kind = kind
		scored, err := ScoreBatch(rollouts, Known{}, opt)
		require.NoError(t, err)
		assert.Zero(t, scored.Rollouts[0].Reward)
		assert.Zero(t, scored.Rollouts[1].Reward)
		assert.Equal(t, -1, scored.Rollouts[0].Centre)
		assert.Contains(t, scored.Tasks[0].Notes[0], `no reference from "batch"`)
		_, groups, err := Advantages(scored.Rollouts, DefaultAdvantageOptions())
		require.NoError(t, err)
		assert.False(t, groups[0].Signal)
	}
	opt.Kind = ZScore

	opt.References = ReferencesMemory
	_, err := ScoreBatch(rollouts, Known{}, opt)
	assert.ErrorContains(t, err, "there is no memory")
	memory, err := NewMemory(4)
	require.NoError(t, err)
	memory.Remember(3, 2, []Rollout{{ID: "old", Task: "stack", Success: true, Embedding: []float64{0.5, 0}}})
	scored, err := ScoreBatch(rollouts, Known{Memory: memory}, opt)
	require.NoError(t, err)
	assert.Greater(t, scored.Rollouts[0].Reward, scored.Rollouts[1].Reward)
	assert.InDelta(t, 0.5, scored.Rollouts[0].Distance, 1e-15)

	opt.References = ReferencesDemos
	_, err = ScoreBatch(rollouts, Known{Memory: memory}, opt)
	assert.ErrorContains(t, err, "there are no demonstrations")
	scored, err = ScoreBatch(rollouts, Known{Demos: map[string][][]float64{"stack": {{6, 0}, {1, 2, 3}}}}, opt)
	require.NoError(t, err)
	assert.Less(t, scored.Rollouts[0].Reward, scored.Rollouts[1].Reward)
	assert.Equal(t, 1, scored.Tasks[0].References)
	assert.Contains(t, scored.Tasks[0].Notes[0],
		"demonstration 1 is left out: its embedding has the wrong size: 3 numbers, want 2")
}

func TestMemoryDoesNotCountARolloutTwice(t *testing.T) {
	rollouts := []Rollout{
		{ID: "s", Success: true, Embedding: []float64{1, 0}},
		{ID: "f", Embedding: []float64{5, 0}},
	}
	memory, err := NewMemory(4)
	require.NoError(t, err)
	memory.Remember(1, 0, rollouts)
	opt := DefaultRewardOptions()
	opt.References = ReferencesMemory
	scored, err := ScoreBatch(rollouts, Known{Memory: memory}, opt)
	require.NoError(t, err)
	assert.Equal(t, 1, scored.Tasks[0].References)
	assert.Equal(t, -1, scored.Rollouts[0].Centre, "there is no other reference to compare with")
}

func TestBinaryReadsNoEmbedding(t *testing.T) {
	opt := DefaultRewardOptions()
	opt.Kind = Binary
	scored, err := ScoreBatch(
		[]Rollout{{ID: "a", Success: true}, {ID: "b"}, {ID: "c", Embedding: []float64{math.NaN()}}}, Known{}, opt)
	require.NoError(t, err)
	for i, want := range []float64{1, 0, 0} {
		assert.Equal(t, want, scored.Rollouts[i].Reward)
		assert.False(t, scored.Rollouts[i].Dropped)
	}
}

func TestProgressReward(t *testing.T) {
	opt := DefaultRewardOptions()
	opt.Kind = Progress
	at := func(v float64) *float64 { return &v }
	rollouts := []Rollout{
		{ID: "a", Success: true}, {ID: "b", Progress: at(0.5)},
		{ID: "c", Progress: at(1.7), Embedding: []float64{math.NaN()}},
		{ID: "d", Progress: at(-1)},
		{ID: "e", Success: true, Embedding: []float64{1, 2}}, {ID: "f", Progress: at(0.25), Embedding: []float64{2, 2}},
	}
	scored, err := ScoreBatch(rollouts, Known{}, opt)
	require.NoError(t, err)
	for i, want := range []float64{1, 0.4, 0.8, 0, 1, 0.2} {
		assert.Equal(t, want, scored.Rollouts[i].Reward, rollouts[i].ID)
		assert.False(t, scored.Rollouts[i].Dropped)
	}
	opt.Alpha = 1
	scored, err = ScoreBatch(rollouts, Known{}, opt)
	require.NoError(t, err)
	assert.Less(t, scored.Rollouts[2].Reward, 1.0) // no failure reaches a success
	rollouts[3].Progress = nil
	_, err = ScoreBatch(rollouts, Known{}, opt)
	assert.ErrorContains(t, err, `rollout "d" has no progress`)
}

func TestTasksDoNotMix(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 1))
	rollouts := randomBatch(rng)
	both, err := ScoreBatch(rollouts, Known{}, DefaultRewardOptions())
	require.NoError(t, err)
	var only []Rollout
	var want []Scored
	for i, r := range rollouts {
		if r.Task == "task 1" {
			only, want = append(only, r), append(want, both.Rollouts[i])
		}
	}
	alone, err := ScoreBatch(only, Known{}, DefaultRewardOptions())
	require.NoError(t, err)
	assert.Equal(t, want, alone.Rollouts)
	assert.Equal(t, both.Tasks[1:], alone.Tasks)
	assert.True(
		t,
		sort.SliceIsSorted(both.Tasks, func(i, j int) bool { return both.Tasks[i].Task < both.Tasks[j].Task }),
	)
}

func TestInvalidOptions(t *testing.T) {
	for want, change := range map[string]func(*RewardOptions){
		`the reward kind is "zscroe"; use one of zscore, minmax, anchored, binary`: func(o *RewardOptions) {
			o.Kind = "zscroe"
		},
		`references is "memories"; use one of batch, memory, demos`: func(o *RewardOptions) {
			o.References = "memories"
		},
		`cluster is ""; use one of auto, reference, mean, nearest`: func(o *RewardOptions) {
			o.Cluster.Kind = ""
		},
		"alpha is 1.5":                         func(o *RewardOptions) { o.Alpha = 1.5 },
		"alpha is NaN":                         func(o *RewardOptions) { o.Alpha = math.NaN() },
		"the scale of minmax is 2":             func(o *RewardOptions) { o.MinMaxScale = 2 },
		"the share of anchored is 1":           func(o *RewardOptions) { o.AnchorShare = 1 },
		"the slack of auto is 0.5":             func(o *RewardOptions) { o.Cluster.Slack = 0.5 },
		"the embedding size is -1":             func(o *RewardOptions) { o.Dim = -1 },
		"the minimum points of the reference ": func(o *RewardOptions) { o.Cluster.ReferenceMinPoints = 0 },
	} {
		opt := DefaultRewardOptions()
		change(&opt)
		_, err := ScoreBatch(nil, Known{}, opt)
		assert.ErrorContains(t, err, want)
	}
	scored, err := ScoreBatch(nil, Known{}, DefaultRewardOptions())
	require.NoError(t, err, "an empty batch")
	assert.Empty(t, scored.Rollouts)
}

// An unlabelled rollout gets a reward, and does not change another rollout's reward.
func TestUnlabelledChangeNoOtherReward(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	everyOption(t, rng, func(t *testing.T, rollouts []Rollout, known Known, opt RewardOptions) {
		before, err := ScoreBatch(rollouts, known, opt)
		require.NoError(t, err)
		with, some := append([]Rollout{}, rollouts...), 0.3
		for k := range 5 {
			with = append(
				with,
				Rollout{
					ID:         fmt.Sprint("a new one ", k),
					Task:       "task 0",
					Unlabelled: true,
					Embedding:  gauss(rng, len(rollouts[0].Embedding), 3),
					Progress:   &some,
				},
			)
		}
		after, err := ScoreBatch(with, known, opt)
		require.NoError(t, err)
		require.Equal(t, before.Rollouts, after.Rollouts[:len(rollouts)])
		require.Equal(t, 5, after.Tasks[0].Unlabelled)
		require.Equal(t, before.Tasks[0].Failures, after.Tasks[0].Failures)
		for k, s := range after.Rollouts[len(rollouts):] {
			require.GreaterOrEqual(t, s.Reward, 0.0, with[len(rollouts)+k].ID)
			require.Less(t, s.Reward, 1.0)
			require.Equal(t, s.Centre >= 0, after.Tasks[0].Clusters > 0)
		}
		diagnosed, err := Diagnose(before.Rollouts)
		require.NoError(t, err)
		again, err := Diagnose(after.Rollouts)
		require.NoError(t, err)
		require.Equal(t, diagnosed, again)
	})
	_, err := ScoreBatch([]Rollout{{ID: "x", Success: true, Unlabelled: true}}, Known{}, DefaultRewardOptions())
	require.ErrorContains(t, err, "both a success and unlabelled")
}

// An unlabelled rollout at a failure's distance gets the failure's reward.
func TestUnlabelledAreRewardedLikeFailures(t *testing.T) {
	for _, kind := range names(ZScore, MinMax, Anchored, Binary) {
		opt := DefaultRewardOptions()
		opt.Kind = RewardKind(kind)
		known := Known{ReferenceDistances: map[string]float64{"": 4}}
		scored, err := ScoreBatch([]Rollout{
			{ID: "s", Success: true, Embedding: []float64{0, 1}}, {ID: "f", Embedding: []float64{3, 1}},
			{ID: "g", Embedding: []float64{1, 1}},
			{ID: "u", Unlabelled: true, Embedding: []float64{0, 4}}}, known, opt)
		require.NoError(t, err)
		require.Equal(t, scored.Rollouts[1].Reward, scored.Rollouts[3].Reward, kind)
	}
	// without failures they are compared with each other
	scored, err := ScoreBatch([]Rollout{
		{ID: "s", Success: true, Embedding: []float64{0, 1}},
		{ID: "u", Unlabelled: true, Embedding: []float64{3, 1}},
		{ID: "v", Unlabelled: true, Embedding: []float64{1, 1}},
	}, Known{}, DefaultRewardOptions())
	require.NoError(t, err)
	require.InDelta(t, 0.8/(1+math.E), scored.Rollouts[1].Reward, 1e-12) // z = 1
	require.InDelta(t, 0.8/(1+1/math.E), scored.Rollouts[2].Reward, 1e-12)
}
