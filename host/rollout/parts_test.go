package rollout

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// The values were computed with Python's hashlib from the encoding in Seed's comment. Resumed runs depend on them.
func TestSeedEncoding(t *testing.T) {
	require.Equal(t, uint64(0x8ce4518c4c55f123), Seed(0))
	require.Equal(t, uint64(0x5cdb762eba1508c0), Seed(7, "episode", 3, "libero_object/bbq", 0, 5))
	require.Equal(t, uint64(0x75f62130cb23b0f4), Seed(math.MaxUint64, -1, true, 0.5, "ä"))

	type name string
	require.Equal(t, Seed(1, 3, "x"), Seed(1, uint8(3), name("x")), "the type does not matter")
	different := []uint64{
		Seed(1),
		Seed(1, 0),
		Seed(1, ""),
		Seed(1, "", ""),
		Seed(1, "ab"),
		Seed(1, "a", "b"),
		Seed(1, false),
		Seed(1, 0.0),
		Seed(1, "0"),
		Seed(1, 0, 0),
		Seed(1, -1),
		Seed(1, uint64(math.MaxUint64)),
		Seed(2),
	}
	for i := range different {
		for j := range i {
			require.NotEqual(t, different[j], different[i], "%d and %d", j, i)
		}
	}
	require.Panics(t, func() { Seed(1, struct{}{}) })
	require.Panics(t, func() { Seed(1, nil) })
}

func TestSplit(t *testing.T) {
	for n := 1; n < 60; n++ {
		for _, fraction := range []float64{0, 0.01, 0.3, 0.5, 0.99, 1, 7, -1} {
			train, test := Split(3, env.Task{ID: "t", StartStates: n}, fraction)
			seen := map[int]bool{}
			for _, s := range append(append([]int{}, train...), test...) {
				require.True(t, s >= 0 && s < n && !seen[s])
				seen[s] = true
			}
			require.Len(t, seen, n)
			require.IsIncreasing(t, append([]int{-1}, append(train[:len(train):len(train)], n)...))
			require.IsIncreasing(t, append([]int{-1}, append(test[:len(test):len(test)], n)...))
			switch {
			case fraction <= 0:
				require.Empty(t, train)
			case fraction >= 1:
				require.Empty(t, test)
			case n >= 2:
				require.NotEmpty(t, train)
				require.NotEmpty(t, test)
				require.InDelta(t, fraction*float64(n), len(train), 1)
			}
		}
	}
	a, _ := Split(3, env.Task{ID: "t", StartStates: 50}, 0.5)
	b, _ := Split(4, env.Task{ID: "t", StartStates: 50}, 0.5)
	c, _ := Split(3, env.Task{ID: "u", StartStates: 50}, 0.5)
	require.NotEqual(t, a, b)
	require.NotEqual(t, a, c)
}

func TestEqualLength(t *testing.T) {
	lengths := func(e EqualLength) map[int]int {
		x := newSetting(t, 3)
		x.plan.EqualLength = e
		x.plan.Tasks = x.plan.Tasks[:1] // at most 20 steps, recorded every 2nd
		x.plan.KeepLow, x.plan.KeepHigh = 0, 1
		x.run(t)
		count := map[int]int{}
		for _, s := range x.encoder.shapes {
			count[s[0]]++
		}
		return count
	}
	own := lengths(EqualLength{})
	require.Greater(t, len(own), 2)
	shortest := 100
	for n := range own {
		shortest = min(shortest, n)
	}
	require.Equal(t, map[int]int{11: 20}, lengths(EqualLength{Mode: Hold}))
	require.Equal(t, map[int]int{4: 20}, lengths(EqualLength{Mode: Cut, Frames: 4}))
	require.Equal(t, map[int]int{shortest: 20}, lengths(EqualLength{Mode: Cut}))
}

// Cut at the shortest clip has no bound on what waits, because it would wait for itself.
func TestCutToShortestIsNotBounded(t *testing.T) {
	x := newSetting(t, 2)
	x.plan.EqualLength = EqualLength{Mode: Cut}
	x.s.maxWaiting = 1
	x.run(t)
}

func TestFit(t *testing.T) {
	clip := plugins.Bytes([]byte{1, 2, 3, 4, 5, 6}, 3, 1, 2, 1)
	require.Equal(t, clip, fit(clip, 0))
	require.Equal(t, clip, fit(clip, 3))
	require.Equal(t, plugins.Bytes([]byte{1, 2}, 1, 1, 2, 1), fit(clip, 1))
	require.Equal(t, plugins.Bytes([]byte{1, 2, 3, 4, 5, 6, 5, 6, 5, 6}, 5, 1, 2, 1), fit(clip, 5))
	require.Equal(t, []int{3, 1, 2, 1}, clip.Shape)
	require.Equal(t, []byte{1, 2, 3, 4, 5, 6}, clip.Data)
}

// The kept frames are the longest prefix that fits, in any order of arrival.
func TestFrameKeeper(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 2))
		episodes := make([]*Episode, 1+r.IntN(12))
		for i := range episodes {
			episodes[i] = &Episode{
				Group:   i / 3,
				Index:   i % 3,
				Success: r.IntN(3) > 0,
				Frames:  plugins.Bytes(make([]byte, 1+r.IntN(9))),
			}
		}
		budget := 1 + r.IntN(40)
		want, total, full := map[int]bool{}, 0, false
		for i, e := range episodes {
			if !e.Success {
				continue
			}
			total += len(e.Frames.Data)
			full = full || total > budget
			want[i] = !full
		}
		k := newFrameKeeper(Rules{FrameBytes: budget, KeepFrames: func(e Episode) bool { return e.Success }})
		for _, i := range r.Perm(len(episodes)) {
			k.offer(episodes[i])
		}
		for i, e := range episodes {
			require.Equal(t, want[i], !e.Frames.IsZero(), "episode %d of %d", i, len(episodes))
		}
	}
}

func TestPlanIsChecked(t *testing.T) {
	nan := math.NaN()
	for message, change := range map[string]func(x *setting){
		"no tasks to roll out":                func(x *setting) { x.plan.Tasks = nil },
		"0 groups of 4":                       func(x *setting) { x.plan.Groups = 0 },
		"groups of 0":                         func(x *setting) { x.plan.GroupSize = 0 },
		"with -1 extra":                       func(x *setting) { x.plan.ExtraGroups = -1 },
		"keep_low is 0.9, keep_high 0.1":      func(x *setting) { x.plan.KeepLow, x.plan.KeepHigh = 0.9, 0.1 },
		"keep_low is NaN":                     func(x *setting) { x.plan.KeepLow = nan },
		"iteration is -1":                     func(x *setting) { x.plan.Iteration = -1 },
		"temperature is NaN":                  func(x *setting) { x.plan.Temperature = nan },
		"temperature is +Inf":                 func(x *setting) { x.plan.Temperature = math.Inf(1) },
		"record_every is 0":                   func(x *setting) { x.plan.RecordEvery = 0 },
		"nothing to encode":                   func(x *setting) { x.plan.RecordCamera = "" },
		"no encoder to embed":                 func(x *setting) { x.s.Encoder = nil },
		"encoder has dimension 0":             func(x *setting) { x.s.EncoderSpec.Dimension = 0 },
		"no lanes to roll out on":             func(x *setting) { x.s.Envs = nil },
		"no policy to act":                    func(x *setting) { x.s.Policy = nil },
		"equal_length is {1 -3}":              func(x *setting) { x.plan.EqualLength = EqualLength{Cut, -3} },
		"env: action space has 0 names":       func(x *setting) { x.s.EnvSpec.Action = plugins.ActionSpace{} },
		"task a/easy: has 0 start states":     func(x *setting) { x.plan.Tasks[0].StartStates = 0 },
		"task a/easy: has no end":             func(x *setting) { x.plan.Tasks[0].MaxSteps = 0 },
		"task a/easy: has no start state 7":   func(x *setting) { x.plan.Tasks[0].States = []int{1, 7} },
		"task a/easy: no start states":        func(x *setting) { x.plan.Tasks[0].States = []int{} },
		"task a/easy has weight 2, but":       func(x *setting) { x.plan.Tasks[0].Weight = 2 },
		"task a/easy has weight -2":           func(x *setting) { x.plan.Tasks[0].Weight, x.plan.Order = -2, Drawn },
		"task a/easy: cannot run here: no gl": func(x *setting) { x.plan.Tasks[0].Unavailable = "no gl" },
	} {
		t.Run(message, func(t *testing.T) {
			leaks(t)
			x := newSetting(t, 1)
			change(x)
			_, err := x.s.Run(t.Context(), x.plan)
			require.ErrorContains(t, err, message)
			require.NotEmpty(t, plugins.AsError(err).Hint)
			require.Zero(t, x.policy.calls.Load())
		})
	}
}

func TestMaxStepsReplacesTheTasksOwn(t *testing.T) {
	x := newSetting(t, 2)
	x.plan.MaxSteps = 4
	x.plan.KeepLow, x.plan.KeepHigh = 0, 1
	for _, g := range x.run(t).Groups {
		for _, e := range g.Episodes {
			require.LessOrEqual(t, e.Steps, 4)
			require.Equal(t, e.Steps == 4 && !e.Terminated, e.Truncated)
		}
	}
}

func TestTimingAddsUp(t *testing.T) {
	x := newSetting(t, 3)
	x.world.jitter = true
	r, err := x.s.Run(t.Context(), x.plan)
	require.NoError(t, err)
	tm := r.Timing
	require.InDelta(t, 3*tm.Wall, tm.Env+tm.PolicyWait+tm.Idle, 1e-6)
	require.InDelta(t, tm.Env/(3*tm.Wall), tm.Utilisation, 1e-9)
	require.Equal(t, int(x.policy.calls.Load()), tm.ActCalls)
	require.Equal(t, int(x.policy.items.Load()), tm.ActItems)
	require.Equal(t, int(x.encoder.calls.Load()), tm.EncodeCalls)
	n := 0
	for _, g := range r.Groups {
		n += len(g.Episodes)
	}
	require.Equal(t, n, tm.EncodeClips)
	require.Zero(t, tm.Faults+tm.LostSteps+tm.LanesLost)
}

func TestProgress(t *testing.T) {
	x := newSetting(t, 4)
	var all []Progress
	x.s.Progress = func(p Progress) { all = append(all, p) }
	r := x.run(t)
	last := all[len(all)-1]
	require.Equal(
		t,
		Progress{
			Episodes:  len(r.Groups) * 4,
			Total:     len(r.Groups) * 4,
			EnvSteps:  r.EnvSteps,
			Successes: last.Successes,
		},
		last,
	)
	for i, p := range all {
		require.Equal(t, i+1, p.Episodes, fmt.Sprint(all))
		require.GreaterOrEqual(t, p.Total, 20)
	}
}

// Only the executed actions of a chunk count.
func TestLogProbIsThatOfTheExecutedActions(t *testing.T) {
	x := newSetting(t, 2)
	x.policy.alter = func(_ policy.Item, r *policy.Result) { r.LogProbs = []float32{-1, -1, -1} }
	within := 0
	for _, g := range x.run(t).Groups {
		for _, e := range g.Episodes {
			require.InDelta(t, -e.Steps, e.LogProb, 0)
			if e.Steps%fakeChunk != 0 {
				within++
			}
		}
	}
	require.NotZero(t, within, "some episodes must end within a chunk")
}
