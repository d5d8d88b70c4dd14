package tiny

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

var ctx = context.Background()

// smallPolicy returns a policy that is small enough for fast tests; more overrides settings.
func smallPolicy(t testing.TB, seed uint64, more map[string]any) *Policy {
	given := map[string]any{
		"conv": []string{"3,8,8", "4,3,2"}, "vision": 6, "hidden": 12, "chunk": 3, "clock_bases": 4, "shift_steps": 2,
		"imitate_steps": 150, "imitate_batch": 8, "imitate_copies": 4, "image_shift": 1, "noise": "step", "std": 0.05,
	}
	for k, v := range more {
		given[k] = v
	}
	s, err := plugins.Resolve(settings(), given)
	require.NoError(t, err)
	p := New()
	spec := &plugins.EnvSpec{
		RecordCamera: "front", Proprio: []string{"eef_x [m]", "gap"},
		Action: plugins.ActionSpace{Names: []string{"dx", "grip"}, Low: []float32{-1, 0}, High: []float32{1, 4}},
	}
	require.NoError(t, p.Configure(ctx, plugins.Config{Settings: s, Seed: seed, Env: spec}))
	return p
}

// fakeObservation returns a random observation.
func fakeObservation(seed uint64) env.Observation {
	r := rand.New(rand.NewPCG(seed, 9))
	b := make([]byte, side*side*3)
	for i := range b {
		b[i] = byte(r.IntN(256))
	}
	proprio := []float32{float32(r.NormFloat64()), float32(r.Float64())}
	return env.Observation{
		Images:  map[string]plugins.Tensor{"front": plugins.Bytes(b, side, side, 3)},
		Proprio: plugins.Floats(proprio), Instruction: "put it there",
	}
}

// actRecorded samples and records the given number of chunks on each of n trajectories t0, t1, ...
func actRecorded(t testing.TB, p *Policy, n, chunks int, temperature float64) []policy.Result {
	var a policy.Act
	for i := range n {
		for c := range chunks {
			a.Items = append(a.Items, policy.Item{
				Trajectory: fmt.Sprint("t", i), Step: c * p.net.Chunk,
				Observation: fakeObservation(uint64(100*i + c)), Seed: uint64(1000*i + c),
			})
		}
	}
	a.Temperature, a.Record = temperature, true
	out, err := p.Act(ctx, a)
	require.NoError(t, err)
	return out
}

// newUpdate returns an update of trajectories t0, t1, ... with advantages 1, -1, 1, ...
func newUpdate(id uint64, n, steps, epochs int) policy.Update {
	h := policy.Hyperparameters{ClipLow: 0.2, ClipHigh: 0.28, ClipDual: 3, KLBeta: 0.05, Epochs: epochs}
	u := policy.Update{ID: id, Temperature: 1, Seed: 5, Hyperparameters: h}
	for i := range n {
		u.Trajectories = append(u.Trajectories, policy.Advantage{
			Trajectory: fmt.Sprint("t", i), Values: []float64{1 - 2*float64(i%2)}, Steps: steps,
		})
	}
	return u
}

func TestSettings(t *testing.T) {
	info, err := New().Info(ctx)
	require.NoError(t, err)
	for _, s := range info.Settings {
		_, err := s.Check(s.Default)
		require.NoError(t, err, s.Name)
		require.NotEmpty(t, s.Doc, s.Name)
	}
	_, err = New().Act(ctx, policy.Act{})
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))
	for _, conv := range [][]string{{}, {"1,2"}, {"a,1,1"}, {"8,0,1"}} {
		s, err := plugins.Resolve(settings(), map[string]any{"conv": conv})
		require.NoError(t, err)
		err = New().Configure(ctx, plugins.Config{Settings: s, Env: &smallPolicy(t, 1, nil).env})
		require.Equal(t, plugins.Invalid, plugins.KindOf(err), "%v", conv)
	}
	// The default network for an env with seven action dimensions and eight proprio entries has the
	// documented size.
	sp := plugins.EnvSpec{RecordCamera: "front", Proprio: make([]string, 8),
		Action: plugins.ActionSpace{Names: make([]string, 7), Low: make([]float32, 7),
			High: []float32{1, 1, 1, 1, 1, 1, 1}}}
	p := New()
	require.NoError(t, p.Configure(ctx, plugins.Config{Env: &sp}))
	spec, err := p.Describe(ctx)
	require.NoError(t, err)
	require.InDelta(t, 80_000, spec.Parameters, 40_000)
	require.Equal(t, []plugins.CameraRequest{{}}, spec.Cameras)
	require.True(t, spec.Proprio && spec.Trainable && spec.CanImitate)
}

// TestLossGradient compares the gradient of an update's loss with finite differences along each layer's
// part of the gradient, for all heads and ratios.
func TestLossGradient(t *testing.T) {
	for _, c := range [][2]string{{"gaussian", "step"}, {"gaussian", "chunk"}, {"tokens", "step"}} {
		head, noise := c[0], c[1]
		for _, ratio := range []string{"chunk", "position", "token"} {
			if (head == "tokens" || noise == "chunk") && ratio == "position" {
				continue // slow, and covered by the other cases
			}
			t.Run(head+"/"+noise+"/"+ratio, func(t *testing.T) {
				p := smallPolicy(t, 3, map[string]any{"head": head, "noise": noise, "bins": 5, "std": 0.5,
					"ratio": ratio})
				actRecorded(t, p, 5, 2, 1.2)
				u := newUpdate(1, 5, 5, 1) // the last position of every second chunk was not executed
				u.Temperature = 1.2
				u.Trajectories[1].Values = []float64{0.5, -1, 2, 0.3, -0.7} // one per env step
				p.state.reference = p.net.initial(77)
				// Move away from the recorded weights, so that ratios differ from 1.
				r := rand.New(rand.NewPCG(8, 1))
				for i := range p.state.weights {
					p.state.weights[i] += float32(0.01 * r.NormFloat64())
				}
				chunks, err := p.trainingChunks(u)
				require.NoError(t, err)
				require.Len(t, chunks, 10)
				for i := range chunks {
					chunks[i].reference = random(r, p.net.outputs)
				}
				order := r.Perm(len(chunks))
				parts := [][]float32{make([]float32, p.net.size)}
				loss := func() float64 {
					s, _ := p.lossGradient(u, chunks, order, [][]float32{make([]float32, p.net.size)})
					return s.loss / s.units
				}
				totals, g := p.lossGradient(u, chunks, order, parts)
				require.NotEqual(t, 1.0, totals.ratio/totals.units)
				at := 0
				for _, s := range p.net.names {
					n := plugins.Elements(s.Shape)
					part := g[at : at+n]
					norm := math.Sqrt(dot(part, part))
					require.Positive(t, norm, s.Name)
					// The loss is rounded to about 1e-7 of its value and has kinks, so the step is a
					// compromise.
					const h = 1e-3
					move := func(by float64) {
						for i := range part {
							p.state.weights[at+i] += float32(by * float64(part[i]) / norm)
						}
					}
					old := append([]float32(nil), p.state.weights...)
					move(h)
					up := loss()
					copy(p.state.weights, old)
					move(-h)
					down := loss()
					copy(p.state.weights, old)
					require.InEpsilon(t, norm, (up-down)/(2*h), 0.01, "%s", s.Name)
					at += n
				}
			})
		}
	}
}

func TestClipped(t *testing.T) {
	h := policy.Hyperparameters{ClipLow: 0.2, ClipHigh: 0.28, ClipDual: 3}
	for _, c := range []struct {
		r, a, loss, slope float64
		cut               bool
	}{
		// Positive advantage: clipped above.
		{1, 2, -2, -2, false}, {1.2, 2, -2.4, -2, false}, {1.5, 2, -2.56, 0, true}, {0.5, 2, -1, -2, false},
		// Negative advantage: clipped below, and the dual clip.
		{1, -1, 1, 1, false}, {0.9, -1, 0.9, 1, false}, {0.5, -1, 0.8, 0, true}, {2, -1, 2, 1, false},
		{4, -1, 3, 0, true},
		{1, 0, 0, 0, false},
	} {
		loss, slope, cut := clippedLoss(c.r, c.a, h)
		require.InDelta(t, c.loss, loss, 1e-12, "%+v", c)
		require.InDelta(t, c.slope, slope, 1e-12, "%+v", c)
		require.Equal(t, c.cut, cut, "%+v", c)
	}
	h.ClipDual = 0
	loss, _, _ := clippedLoss(4, -1, h)
	require.InDelta(t, 4, loss, 1e-12)
}

func TestFirstRatio(t *testing.T) {
	for _, head := range []string{"gaussian", "tokens"} {
		p := smallPolicy(t, 1, map[string]any{"head": head, "ratio": "chunk", "mini_batch": 7})
		actRecorded(t, p, 6, 3, 0.8)
		u := newUpdate(1, 6, 9, 2)
		u.Temperature = 0.8
		var done []float64
		s, err := p.Update(ctx, u, func(v float64) { done = append(done, v) })
		require.NoError(t, err)
		require.InDelta(t, 1, s.FirstRatio, 1e-5)
		require.InDelta(t, 0, s.Extra["first_kl"], 1e-9)
		require.Positive(t, s.KL)
		require.Positive(t, s.GradNorm)
		require.Equal(t, 18, s.Samples)
		require.Len(t, done, 6)
		require.IsIncreasing(t, done)
		require.Equal(t, 1.0, done[5])
	}
}

// TestBatchIndependence checks that an item's result is bit-identical alone and in any batch, on any
// number of cores.
func TestBatchIndependence(t *testing.T) {
	large := map[string]any{"hidden": 300, "conv": []string{"8,4,4", "16,3,2"}}
	for _, more := range []map[string]any{nil, {"head": "tokens"}, large} {
		p := smallPolicy(t, 1, more)
		var items []policy.Item
		for i := range 37 {
			items = append(items, policy.Item{Trajectory: fmt.Sprint(i), Step: i,
				Observation: fakeObservation(uint64(i)), Seed: uint64(i)})
		}
		act := func(items ...policy.Item) []policy.Result {
			out, err := p.Act(ctx, policy.Act{Items: items, Temperature: 1})
			require.NoError(t, err)
			return out
		}
		all := act(items...)
		require.NotEqual(t, all[0], all[1])
		for _, i := range []int{0, 5, 16, 36} {
			require.Equal(t, all[i], act(items[i])[0])
			require.Equal(t, all[i], act(items[36], items[3], items[i])[2])
		}
		old := runtime.GOMAXPROCS(1)
		alone := act(items...)
		runtime.GOMAXPROCS(5)
		many := act(items...)
		runtime.GOMAXPROCS(old)
		require.Equal(t, all, alone)
		require.Equal(t, all, many)
	}
}

func TestActLogProbs(t *testing.T) {
	p := smallPolicy(t, 1, map[string]any{"std": 0.8})
	out := actRecorded(t, p, 1, 1, 1.5)
	r := p.records["t0"][0]
	std := 0.8 * 1.5
	for k := range 3 {
		var want float64
		for d := range 2 {
			// The mean is the greedy action; the record contains the sample before clipping.
			g, err := p.Act(ctx, policy.Act{Items: []policy.Item{{Trajectory: "x",
				Observation: fakeObservation(0)}}, Greedy: true})
			require.NoError(t, err)
			a := float64(g[0].Actions.Float32s()[k*2+d])
			mean := [2]float64{a, a/2 - 1}[d]
			e := (float64(r.sample[k*2+d]) - mean) / std
			want += -0.5*e*e - math.Log(std*math.Sqrt(2*math.Pi))
		}
		require.InDelta(t, want, float64(out[0].LogProbs[k]), 1e-3)
	}
	clippedOnce := false
	for _, res := range actRecorded(t, p, 20, 1, 3) {
		for i, v := range res.Actions.Float32s() {
			low, high := p.env.Action.Low[i%2], p.env.Action.High[i%2]
			require.True(t, v >= low && v <= high)
			clippedOnce = clippedOnce || v == low || v == high
		}
	}
	require.True(t, clippedOnce, "the test should clip")
}

func TestActRefuses(t *testing.T) {
	p := smallPolicy(t, 1, nil)
	good := policy.Item{Trajectory: "a", Observation: fakeObservation(1)}
	for name, change := range map[string]func(*policy.Item){
		"no image": func(i *policy.Item) { i.Observation.Images = nil },
		"another camera": func(i *policy.Item) {
			i.Observation.Images = map[string]plugins.Tensor{"wrist": fakeObservation(1).Images["front"]}
		},
		"flat image": func(i *policy.Item) {
			i.Observation.Images = map[string]plugins.Tensor{"front": plugins.Bytes(make([]byte, 4), 2, 2)}
		},
		"empty image": func(i *policy.Item) {
			i.Observation.Images = map[string]plugins.Tensor{"front": plugins.Bytes(nil, 0, 2, 3)}
		},
		"long proprio": func(i *policy.Item) { i.Observation.Proprio = plugins.Floats(make([]float32, 3)) },
		"NaN proprio": func(i *policy.Item) {
			i.Observation.Proprio = plugins.Floats([]float32{0,
				float32(math.NaN())})
		},
		"negative step": func(i *policy.Item) { i.Step = -1 },
	} {
		bad := good
		change(&bad)
		_, err := p.Act(ctx, policy.Act{Items: []policy.Item{good, bad}, Temperature: 1, Record: true})
		require.Error(t, err, name)
		require.Contains(t, plugins.AsError(err).Place, "episode a", name)
		require.Empty(t, p.records, name)
	}
	for _, temperature := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		_, err := p.Act(ctx, policy.Act{Items: []policy.Item{good}, Temperature: temperature})
		require.Equal(t, plugins.Invalid, plugins.KindOf(err))
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	_, err := p.Act(stopped, policy.Act{Items: []policy.Item{good}, Temperature: 1})
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
}

func TestRecordsAreBounded(t *testing.T) {
	p := smallPolicy(t, 1, map[string]any{"record_mb": 1})
	actRecorded(t, p, 10, 8, 1)
	one := p.recorded / 80
	require.InDelta(t, side*side*3, one, 600)
	actRecorded(t, p, 10, 8, 1) // the same trajectories again replace their records
	require.Equal(t, 80*one, p.recorded)
	var more policy.Act
	for i := range 5 {
		more.Items = append(more.Items, policy.Item{Trajectory: fmt.Sprint("more", i), Observation: fakeObservation(1)})
	}
	more.Temperature, more.Record = 1, true
	_, err := p.Act(ctx, more)
	require.Equal(t, plugins.Exhausted, plugins.KindOf(err))
	require.NoError(t, p.Forget(ctx, []string{"t3", "unknown"}))
	require.Equal(t, 72*one, p.recorded)
	require.NoError(t, p.Forget(ctx, nil))
	require.Zero(t, p.recorded)
	require.Empty(t, p.records)
}

func TestUpdateRaisesWhatWasRewarded(t *testing.T) {
	for _, head := range []string{"gaussian", "tokens"} {
		p := smallPolicy(t, 1, map[string]any{"head": head, "lr": 1e-3})
		actRecorded(t, p, 8, 2, 1)
		before := append([]float32(nil), p.state.weights...)
		probability := func(i int) (sum float64) {
			lp := make([]float64, 6)
			p.forwardAll(p.records[fmt.Sprint("t", i)], 1, p.state.weights, func(k int, out []float32) {
				p.head.logProb(out, p.records[fmt.Sprint("t", i)][k].sample, 1, lp)
				for _, v := range lp {
					sum += v
				}
			})
			return sum
		}
		old := runtime.GOMAXPROCS(1) // lp is shared by the callbacks
		defer runtime.GOMAXPROCS(old)
		var first [8]float64
		for i := range first {
			first[i] = probability(i)
		}
		u := newUpdate(1, 8, 6, 6)
		u.Hyperparameters.KLBeta = 0
		_, err := p.Update(ctx, u, nil)
		require.NoError(t, err)
		require.False(t, slices.Equal(before, p.state.weights))
		var up, down float64
		for i := range first {
			if i%2 == 0 {
				up += probability(i) - first[i]
			} else {
				down += probability(i) - first[i]
			}
		}
		require.Greater(t, up, 0.0, head)
		require.Less(t, down, 0.0, head)
	}
}

// TestMasks checks that positions that were not executed, and their advantages, do not affect an update.
func TestMasks(t *testing.T) {
	run := func(change func(p *Policy, u *policy.Update)) ([]float32, policy.Statistics) {
		p := smallPolicy(t, 1, nil)
		actRecorded(t, p, 4, 2, 1)
		u := newUpdate(1, 4, 4, 2)
		change(p, &u)
		s, err := p.Update(ctx, u, nil)
		require.NoError(t, err)
		return p.state.weights, s
	}
	plain, s := run(func(*Policy, *policy.Update) {})
	require.Equal(t, 8, s.Samples)
	// steps 4 and 5 are in the second chunk and were not executed
	changed, _ := run(func(p *Policy, _ *policy.Update) {
		p.records["t1"][1].sample[2] += 3
		p.records["t1"][1].logProb[5] -= 3
	})
	require.Equal(t, plain, changed)
	changed, _ = run(func(p *Policy, _ *policy.Update) { p.records["t1"][1].logProb[1] += 0.1 })
	require.NotEqual(t, plain, changed)
	changed, _ = run(func(_ *Policy, u *policy.Update) {
		for i := range u.Trajectories { // one per env step, more than were executed
			v := u.Trajectories[i].Values[0]
			u.Trajectories[i].Values = []float64{v, v, v, v, 99, 99}
		}
	})
	require.Equal(t, plain, changed)
	_, s = run(func(_ *Policy, u *policy.Update) { u.Trajectories[2].Steps = 3 })
	require.Equal(t, 7, s.Samples)
}

func TestUpdateRefuses(t *testing.T) {
	p := smallPolicy(t, 1, nil)
	actRecorded(t, p, 3, 2, 1)
	before, optimiser := append([]float32(nil), p.state.weights...), p.state.adam.clone()
	for name, c := range map[string]struct {
		kind   plugins.ErrorKind
		change func(*policy.Update)
	}{
		"unknown":        {plugins.NotFound, func(u *policy.Update) { u.Trajectories[1].Trajectory = "x" }},
		"NaN":            {plugins.Invalid, func(u *policy.Update) { u.Trajectories[1].Values[0] = math.NaN() }},
		"too few":        {plugins.Invalid, func(u *policy.Update) { u.Trajectories[1].Values = []float64{1, 2} }},
		"none":           {plugins.Invalid, func(u *policy.Update) { u.Trajectories[1].Values = nil }},
		"no step":        {plugins.Invalid, func(u *policy.Update) { u.Trajectories = nil }},
		"dual below 1":   {plugins.Invalid, func(u *policy.Update) { u.Hyperparameters.ClipDual = 0.5 }},
		"negative clip":  {plugins.Invalid, func(u *policy.Update) { u.Hyperparameters.ClipLow = -1 }},
		"infinite beta":  {plugins.Invalid, func(u *policy.Update) { u.Hyperparameters.KLBeta = math.Inf(1) }},
		"huge advantage": {plugins.Diverged, func(u *policy.Update) { u.Trajectories[1].Values[0] = 1e300 }},
	} {
		u := newUpdate(1, 3, 6, 2)
		c.change(&u)
		_, err := p.Update(ctx, u, nil)
		require.Equal(t, c.kind, plugins.KindOf(err), "%s: %v", name, err)
		require.NotEmpty(t, plugins.AsError(err).Hint, name)
		require.Equal(t, before, p.state.weights, name)
		require.Equal(t, optimiser, p.state.adam, name)
		require.Nil(t, p.state.reference, name)
	}
	stopped, cancel := context.WithCancel(ctx)
	_, err := p.Update(stopped, newUpdate(1, 3, 6, 5), func(done float64) {
		if done > 0.5 {
			cancel()
		}
	})
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
	require.Equal(t, before, p.state.weights)
	require.Equal(t, optimiser, p.state.adam)
	_, err = p.Update(ctx, newUpdate(1, 3, 6, 2), nil)
	require.NoError(t, err)
}

func TestAlreadyApplied(t *testing.T) {
	p := smallPolicy(t, 1, nil)
	actRecorded(t, p, 3, 2, 1)
	first, err := p.Update(ctx, newUpdate(4, 3, 6, 2), nil)
	require.NoError(t, err)
	require.False(t, first.AlreadyApplied)
	weights := append([]float32(nil), p.state.weights...)
	require.NoError(t, p.Forget(ctx, nil))
	again, err := p.Update(ctx, newUpdate(4, 3, 6, 2), nil)
	require.NoError(t, err)
	require.True(t, again.AlreadyApplied)
	again.AlreadyApplied = false
	require.Equal(t, first, again)
	require.Equal(t, weights, p.state.weights)
	_, err = p.Update(ctx, newUpdate(3, 3, 6, 2), nil)
	require.Equal(t, plugins.Invalid, plugins.KindOf(err), "ids must increase")

	folder := t.TempDir()
	require.NoError(t, p.Save(ctx, folder))
	q := smallPolicy(t, 2, nil)
	last, err := q.Load(ctx, folder)
	require.NoError(t, err)
	require.Equal(t, uint64(4), last)
	again, err = q.Update(ctx, newUpdate(4, 3, 6, 2), nil)
	require.NoError(t, err)
	require.True(t, again.AlreadyApplied)
	require.InDelta(t, first.Loss, again.Loss, 0)
}

// TestSaveLoad checks that saving and loading between updates changes no bit, on any number of cores.
func TestSaveLoad(t *testing.T) {
	train := func(save bool) *Policy {
		p := smallPolicy(t, 1, nil)
		require.NoError(t, p.Imitate(ctx, policy.Imitate{ID: 1, Seed: 2, Steps: 5}, sequence(fakeDemonstration(8)),
			nil))
		for id := range uint64(3) {
			actRecorded(t, p, 4, 3, 1)
			_, err := p.Update(ctx, newUpdate(id+1, 4, 8, 2), nil)
			require.NoError(t, err)
			if save {
				folder := t.TempDir()
				require.NoError(t, p.Save(ctx, folder))
				p = smallPolicy(t, 99, nil)
				last, err := p.Load(ctx, folder)
				require.NoError(t, err)
				require.Equal(t, id+1, last)
			}
		}
		return p
	}
	plain, saved := train(false), train(true)
	require.Equal(t, plain.state, saved.state)
	old := runtime.GOMAXPROCS(1)
	alone := train(false)
	runtime.GOMAXPROCS(old)
	require.Equal(t, plain.state, alone.state)
}

// TestBeginRun checks that a new run from saved weights equals a run that starts with these weights, and
// that its checkpoints restore that state.
func TestBeginRun(t *testing.T) {
	p, folder := smallPolicy(t, 1, nil), t.TempDir()
	for id := range uint64(2) {
		actRecorded(t, p, 4, 3, 1)
		_, err := p.Update(ctx, newUpdate(id+1, 4, 8, 3), nil)
		require.NoError(t, err)
	}
	require.NoError(t, p.Save(ctx, folder))
	plain, fresh, first := smallPolicy(t, 2, nil), smallPolicy(t, 3, nil), smallPolicy(t, 4, nil)
	last, err := plain.Load(ctx, folder)
	require.NoError(t, err)
	require.Equal(t, uint64(2), last)
	last, err = fresh.BeginRun(ctx, folder)
	require.NoError(t, err)
	require.Equal(t, uint64(2), last, "ids continue")
	copy(first.state.weights, p.state.weights)

	zero := t.TempDir()
	require.NoError(t, fresh.Save(ctx, zero))
	again := smallPolicy(t, 5, nil)
	_, err = again.Load(ctx, zero)
	require.NoError(t, err)
	require.Equal(t, fresh.state, again.state)

	learn := func(p *Policy) policy.Statistics {
		actRecorded(t, p, 4, 3, 1)
		s, err := p.Update(ctx, newUpdate(3, 4, 8, 2), nil)
		require.NoError(t, err)
		return s
	}
	s := learn(fresh)
	require.Zero(t, s.Extra["first_kl"])
	require.Equal(t, learn(first), s)
	require.Equal(t, first.state.weights, fresh.state.weights, "the optimiser is reset")
	require.Equal(t, s, learn(again))
	require.Equal(t, fresh.state, again.state)
	s = learn(plain)
	require.Positive(t, s.Extra["first_kl"], "Load keeps the saved starting policy")
	require.NotEqual(t, first.state.weights, plain.state.weights)

	_, err = fresh.BeginRun(ctx, t.TempDir())
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	require.Equal(t, again.state, fresh.state)
}

// TestBeginRunUntrained checks that Imitate fits its scales after BeginRun of an untrained policy.
func TestBeginRunUntrained(t *testing.T) {
	p, folder := smallPolicy(t, 1, nil), t.TempDir()
	require.NoError(t, p.Save(ctx, folder))
	q := smallPolicy(t, 2, nil)
	_, err := q.BeginRun(ctx, folder)
	require.NoError(t, err)
	for _, x := range []*Policy{p, q} {
		require.NoError(t, x.Imitate(ctx, policy.Imitate{ID: 1, Seed: 2, Steps: 2}, sequence(fakeDemonstration(8)),
			nil))
	}
	require.Equal(t, p.state, q.state)
}

func TestLoadRefuses(t *testing.T) {
	p := smallPolicy(t, 1, nil)
	folder := t.TempDir()
	require.NoError(t, p.Save(ctx, folder))
	file := filepath.Join(folder, fileName)
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	q := smallPolicy(t, 2, nil)
	before := append([]float32(nil), q.state.weights...)
	requireRefused := func(q *Policy, kind plugins.ErrorKind, want string) {
		t.Helper()
		_, err := q.Load(ctx, folder)
		require.Equal(t, kind, plugins.KindOf(err), "%v", err)
		require.ErrorContains(t, err, want)
		require.NotEmpty(t, plugins.AsError(err).Hint)
	}
	for _, n := range []int{0, 5, 11, 43, 60, 500, len(good) / 2, len(good) - 1} {
		require.NoError(t, os.WriteFile(file, good[:n], 0o644))
		requireRefused(q, plugins.Corrupt, "cut short")
	}
	require.NoError(t, os.WriteFile(file, append(append([]byte(nil), good...), 0), 0o644))
	requireRefused(q, plugins.Corrupt, "")
	for _, at := range []int{0, 12, 40, len(good) / 2, len(good) - 40, len(good) - 1} {
		bad := append([]byte(nil), good...)
		bad[at] ^= 4
		require.NoError(t, os.WriteFile(file, bad, 0o644))
		requireRefused(q, plugins.Corrupt, "")
	}
	require.Equal(t, before, q.state.weights)
	require.NoError(t, os.WriteFile(file, good, 0o644))
	requireRefused(smallPolicy(t, 1, map[string]any{"hidden": 13}), plugins.Mismatch, "network")
	requireRefused(smallPolicy(t, 1, map[string]any{"head": "tokens"}), plugins.Mismatch, "network")
	other := smallPolicy(t, 1, nil)
	other.env.Action.High = []float32{1, 5}
	requireRefused(other, plugins.Mismatch, "actions")
	other = smallPolicy(t, 1, nil)
	other.env.Proprio = []string{"eef_x [m]", "speed"}
	requireRefused(other, plugins.Mismatch, "proprio")
	other = smallPolicy(t, 1, nil)
	other.env.Proprio = append(other.env.Proprio, "speed")
	requireRefused(other, plugins.Mismatch,
		"the checkpoint was made for an env with 2 action and 2 proprio values, this one has 2 and 3")
	_, err = q.Load(ctx, folder)
	require.NoError(t, err)
	require.Equal(t, p.state.weights, q.state.weights)
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary files remain")

	_, err = q.Load(ctx, filepath.Join(folder, "nowhere"))
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	require.Equal(t, plugins.NotFound, plugins.KindOf(q.Save(ctx, filepath.Join(folder, "nowhere"))))
}

// fakeDemonstration moves along x by 0.02 m per step at full action, and closes the gripper halfway
// through n steps.
func fakeDemonstration(n int) policy.Demonstration {
	var images []byte
	var proprio, actions []float32
	x := float32(0)
	for i := range n {
		images = append(images, fakeObservation(uint64(i)).Images["front"].Data...)
		a, grip := float32(math.Sin(float64(i)/3)), float32(0)
		if i > n/2 {
			grip = 4
		}
		proprio = append(proprio, x, grip/4)
		actions = append(actions, a, grip)
		x += 0.02 * a
	}
	return policy.Demonstration{ID: "demo", Instruction: "put it there", Success: true,
		Proprio: plugins.Floats(proprio, n, 2), Actions: plugins.Floats(actions, n, 2),
		Images: map[string]plugins.Tensor{"front": plugins.Bytes(images, n, side, side, 3)}}
}

// itemAt returns the item that a policy would receive at step t of a demonstration.
func itemAt(d policy.Demonstration, t int) policy.Item {
	size := side * side * 3
	image := d.Images["front"].Data[t*size : (t+1)*size]
	return policy.Item{Trajectory: "x", Step: t, Observation: env.Observation{
		Instruction: d.Instruction, Proprio: plugins.Floats(d.Proprio.Float32s()[2*t : 2*t+2]),
		Images: map[string]plugins.Tensor{"front": plugins.Bytes(image, side, side, 3)},
	}}
}

func TestImitateOverfits(t *testing.T) {
	// on a busy machine, synchronising the cores takes most of the time
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, head := range []string{"gaussian", "tokens"} {
		p := smallPolicy(t, 1, map[string]any{"head": head, "conv": []string{"3,16,16"}, "hidden": 32, "shift": 0,
			"image_shift": 0, "brightness": 0,
			"imitate_steps": 300, "imitate_copies": 1, "clock_bases": 8, "imitate_lr": 1e-2})
		d := fakeDemonstration(12)
		var first, last float64
		require.NoError(t, p.Imitate(ctx, policy.Imitate{ID: 1, Seed: 3}, sequence(d), func(done, loss float64) {
			if first == 0 {
				first = loss
			}
			last = loss
		}))
		require.Less(t, last, first/10)
		want := d.Actions.Float32s()
		for step := range 12 {
			out, err := p.Act(ctx, policy.Act{Items: []policy.Item{itemAt(d, step)}, Greedy: true})
			require.NoError(t, err)
			got := out[0].Actions.Float32s()
			tolerance := 0.1 // the tokens' bins are 0.06 wide
			for k := 0; k < 3 && step+k < 12; k++ {
				require.InDelta(t, want[2*(step+k)], got[2*k], tolerance, "%s step %d+%d", head, step, k)
				require.InDelta(t, want[2*(step+k)+1], got[2*k+1], 2*tolerance, "%s step %d+%d", head, step, k)
			}
		}
		require.Equal(t, p.state.weights, p.state.reference)
		require.Zero(t, p.state.adam.steps)
		require.InDelta(t, 15, p.state.horizon, 0)
	}
}

// TestAugmentation checks that labels undo a shift of the gripper over shift_steps steps, and that the
// scale of actions is estimated from the demonstration.
func TestAugmentation(t *testing.T) {
	p := smallPolicy(t, 1, map[string]any{"shift": 0.01, "image_shift": 0, "brightness": 0})
	e, err := p.example(fakeDemonstration(30))
	require.NoError(t, err)
	p.fitScales([]example{e})
	require.Equal(t, []pair{{0, 0}}, p.pairs())
	require.InDelta(t, 0.02, p.estimateDelta([]example{e}, p.pairs()), 1e-6)
	g := p.newAugmenter([]example{e})
	ps := newPass(p.net, 1, 64)
	r := rand.New(rand.NewPCG(1, 1))
	var squares, noise, count float64
	require.NotEmpty(t, g.noisy)
	for range 200 {
		ps.reset()
		var targets, weights [][]float32
		g.draw(r, ps, 64, func(target, weight []float32) {
			targets, weights = append(targets, target),
				append(weights, weight)
		})
		for i := range targets {
			x := float64(ps.in[i*p.net.hidden[0].in+p.net.visualFeatures()]*p.state.scale[0] + p.state.mean[0])
			at := math.Inf(1)
			var off float64
			step := 0
			// Find the step of these labels by the second action dimension and the third position, which
			// stay unchanged.
			for s := range e.actions {
				d := math.Abs(float64(targets[i][4]-action(e, s+2, 0))) +
					math.Abs(float64(targets[i][1]-e.actions[s][1]))
				if weights[i][4] == 1 && d < at {
					at, off, step = d, x-float64(e.proprio[s][0]), s
				}
			}
			if math.IsInf(at, 1) {
				continue // the demonstration's end
			}
			require.Zero(t, at)
			count++
			squares += off * off
			free := g.noisy[0]
			spread := float64(ps.in[i*p.net.hidden[0].in+p.net.visualFeatures()+free]) -
				float64((e.proprio[step][free]-p.state.mean[free])/p.state.scale[free])
			noise += spread * spread
			for k := range 2 {
				require.InDelta(t, float64(e.actions[step+k][0])-off/2/0.02, float64(targets[i][2*k]), 1e-3)
			}
		}
	}
	require.InDelta(t, 0.01*math.Sqrt(0.75+0.25*9), math.Sqrt(squares/count), 0.001,
		"a quarter of the samples is shifted three times as far")
	require.InDelta(t, 1, noise/count, 0.05, "the noise of the other entries has the size of their spread")

	p = smallPolicy(t, 1, map[string]any{"shift": 0.1, "head": "tokens"})
	p.fitScales([]example{e})
	g = p.newAugmenter([]example{e})
	for range 20 {
		ps = newPass(p.net, 1, 64)
		g.draw(r, ps, 64, func(target, _ []float32) {
			for _, v := range target {
				require.LessOrEqual(t, math.Abs(float64(v)), 1.0, "labels stay within the bins")
			}
		})
	}

	p = smallPolicy(t, 1, map[string]any{"delta_scale": 0.05})
	require.Equal(t, []float64{0.05}, p.newAugmenter([]example{e}).scale)
}

// action returns an action's dimension d, or 9 beyond the end.
func action(e example, step, d int) float32 {
	if step >= len(e.actions) {
		return 9
	}
	return e.actions[step][d]
}

func TestMove(t *testing.T) {
	src, dst := make([]byte, side*side*3), make([]byte, side*side*3)
	src[(10*side+20)*3] = 100
	shiftImage(dst, src, 2, -3, 1.1)
	require.Equal(t, byte(110), dst[(12*side+17)*3])
	require.Zero(t, dst[(10*side+20)*3])
}

func TestImitateRefuses(t *testing.T) {
	p := smallPolicy(t, 1, nil)
	before := append([]float32(nil), p.state.weights...)
	failed := fakeDemonstration(5)
	failed.Success = false
	short := fakeDemonstration(5)
	short.Images = map[string]plugins.Tensor{"front": plugins.Bytes(make([]byte, 4*64*64*3), 4, 64, 64, 3)}
	nan := fakeDemonstration(5)
	nan.Actions = plugins.Floats([]float32{float32(math.NaN()), 0}, 1, 2)
	still := fakeDemonstration(5)
	still.Actions = plugins.Floats(make([]float32, 10), 5, 2)
	demos := map[string]policy.Demonstration{"failed": failed, "short": short, "nan": nan, "still": still}
	for name, d := range demos {
		require.Error(t, p.Imitate(ctx, policy.Imitate{}, sequence(d), nil), name)
		require.Equal(t, before, p.state.weights, name)
		require.Nil(t, p.state.reference, name)
	}
	stopped, cancel := context.WithCancel(ctx)
	err := p.Imitate(stopped, policy.Imitate{}, sequence(fakeDemonstration(5)), func(float64, float64) { cancel() })
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
	require.Equal(t, before, p.state.weights)

	require.NoError(t, p.Imitate(ctx, policy.Imitate{ID: 7, Seed: 1, Steps: 3}, sequence(fakeDemonstration(5)), nil))
	once := append([]float32(nil), p.state.weights...)
	require.NotEqual(t, before, once)
	require.NoError(t, p.Imitate(ctx, policy.Imitate{ID: 7, Seed: 1, Steps: 3}, sequence(fakeDemonstration(5)), nil))
	require.Equal(t, once, p.state.weights, "an id is not applied twice")
}

// TestImageOff checks that with image = false the image has no effect and no camera is requested.
func TestImageOff(t *testing.T) {
	for _, on := range []bool{true, false} {
		p := smallPolicy(t, 1, map[string]any{"image": on})
		spec, err := p.Describe(ctx)
		require.NoError(t, err)
		a, b := fakeObservation(1), fakeObservation(1)
		b.Images = fakeObservation(2).Images
		if !on {
			b.Images = nil
		}
		out, err := p.Act(ctx, policy.Act{Items: []policy.Item{{Observation: a}, {Observation: b}}, Greedy: true})
		require.NoError(t, err)
		if on {
			require.Len(t, spec.Cameras, 1)
			require.NotEqual(t, out[0], out[1])
		} else {
			require.Empty(t, spec.Cameras)
			require.Equal(t, out[0], out[1])
		}
	}
}

// TestWeights checks that of two contradicting demonstrations the one with weight is learned, even if it
// failed, and that weights of 1 change nothing.
func TestWeights(t *testing.T) {
	settings := map[string]any{
		"conv": []string{"3,16,16"}, "hidden": 32, "shift": 0, "image_shift": 0, "brightness": 0,
		"imitate_steps": 200, "imitate_copies": 1, "imitate_lr": 1e-2,
	}
	weighed := func(d policy.Demonstration, w float32) policy.Demonstration {
		d.Weights = slices.Repeat([]float32{w}, d.Actions.Shape[0])
		return d
	}
	learned := func(demos ...policy.Demonstration) *Policy {
		p := smallPolicy(t, 1, settings)
		require.NoError(t, p.Imitate(ctx, policy.Imitate{ID: 1, Seed: 3}, sequence(demos...), nil))
		return p
	}
	yes, no := fakeDemonstration(8), fakeDemonstration(8)
	v := no.Actions.Float32s()
	for i := range v {
		v[i] = -v[i]
	}
	no.Actions = plugins.Floats(v, no.Actions.Shape...)
	yes.Success = false
	p := learned(weighed(yes, 2), weighed(no, 0))
	for step := range 5 {
		out, err := p.Act(ctx, policy.Act{Items: []policy.Item{itemAt(yes, step)}, Greedy: true})
		require.NoError(t, err)
		require.InDelta(t, yes.Actions.Float32s()[2*step], out[0].Actions.Float32s()[0], 0.15, "step %d", step)
	}
	yes.Success = true
	require.Equal(t, learned(yes, no).state.weights, learned(weighed(yes, 1), weighed(no, 1)).state.weights)

	q := smallPolicy(t, 1, nil)
	require.Error(t, q.Imitate(ctx, policy.Imitate{}, sequence(weighed(yes, 0)), nil), "nothing to learn")
	require.Error(t, q.Imitate(ctx, policy.Imitate{}, sequence(weighed(yes, -1)), nil))
	yes.Weights = []float32{1}
	require.Error(t, q.Imitate(ctx, policy.Imitate{}, sequence(yes), nil), "one weight for eight steps")
}

// TestLoadReturnsImitationID checks that Load counts imitations, which share the sequence of update ids.
func TestLoadReturnsImitationID(t *testing.T) {
	p := smallPolicy(t, 1, nil)
	require.NoError(t, p.Imitate(ctx, policy.Imitate{ID: 7, Seed: 1, Steps: 1}, sequence(fakeDemonstration(5)), nil))
	dir := t.TempDir()
	require.NoError(t, p.Save(ctx, dir))
	id, err := smallPolicy(t, 2, nil).Load(ctx, dir)
	require.NoError(t, err)
	require.Equal(t, uint64(7), id)
}

// TestLearningRate checks the default per arm and the setting.
func TestLearningRate(t *testing.T) {
	for _, c := range []struct {
		dims      int
		set, want float64
	}{{4, 0, updateRate}, {7, 0, updateRateFullPose}, {7, 1e-3, 1e-3}, {4, 1e-3, 1e-3}} {
		s, err := plugins.Resolve(settings(), plugins.Settings{"lr": c.set})
		require.NoError(t, err)
		require.Equal(t, c.want, learningRate(s, c.dims), "%+v", c)
	}
}

// TestStandardDeviation checks the default per arm and the setting.
func TestStandardDeviation(t *testing.T) {
	for _, c := range []struct {
		dims  int
		noise string
		set   float64
		want  float64
	}{
		{4, "chunk", 0, chunkStd}, {7, "chunk", 0, chunkStdFullPose}, {7, "step", 0, stepStd}, {7, "chunk", 0.3, 0.3},
		{2, "step", 0.1, 0.1},
	} {
		s, err := plugins.Resolve(settings(), plugins.Settings{"noise": c.noise, "std": c.set})
		require.NoError(t, err)
		require.Equal(t, c.want, standardDeviation(s, c.dims), "%+v", c)
	}
}

// TestImitationSteps checks the default per arm, the setting and the call's request.
func TestImitationSteps(t *testing.T) {
	require.Less(t, imitateStepsFullPose, imitateSteps)
	for _, c := range []struct{ dims, set, requested, want int }{
		{2, 0, 0, imitateSteps}, {7, 0, 0, imitateStepsFullPose}, {7, 30, 0, 30}, {7, 30, 20, 20}, {2, 0, 20, 20},
	} {
		p := smallPolicy(t, 1, map[string]any{"imitate_steps": c.set})
		p.net.Actions = c.dims
		require.Equal(t, c.want, p.imitationSteps(c.requested), "%+v", c)
	}
}

// TestIdleActions checks that a dimension that the demonstrations hardly use has a small unit in
// imitation, in exploration and in a checkpoint.
func TestIdleActions(t *testing.T) {
	d := fakeDemonstration(30)
	actions := d.Actions.Float32s()
	for i := range 30 {
		// within a quarter of half the range around the middle of 0 to 4
		actions[2*i+1] = 2 + 0.3*float32(math.Sin(float64(i)))
	}
	d.Actions = plugins.Floats(actions, 30, 2)
	spread := func(idle float64) (first, second float64) {
		p := smallPolicy(t, 1, map[string]any{"idle_range": idle, "std": 0.1, "imitate_steps": 20})
		require.NoError(t, p.Imitate(ctx, policy.Imitate{Seed: 1}, sequence(d), nil))
		folder := t.TempDir()
		require.NoError(t, p.Save(ctx, folder))
		loaded := smallPolicy(t, 2, map[string]any{"idle_range": 1.0, "std": 0.1}) // the checkpoint's units are used
		_, err := loaded.Load(ctx, folder)
		require.NoError(t, err)
		greedy, err := loaded.Act(ctx, policy.Act{Items: []policy.Item{itemAt(d, 3)}, Greedy: true})
		require.NoError(t, err)
		mean := greedy[0].Actions.Float32s()
		for seed := range uint64(400) {
			it := itemAt(d, 3)
			it.Seed = seed
			out, err := loaded.Act(ctx, policy.Act{Items: []policy.Item{it}, Temperature: 1})
			require.NoError(t, err)
			got := out[0].Actions.Float32s()
			first += math.Pow(float64(got[0]-mean[0]), 2) / 400
			second += math.Pow(float64(got[1]-mean[1]), 2) / 400
		}
		return math.Sqrt(first), math.Sqrt(second)
	}
	x, y := spread(1)
	require.InDelta(t, 0.1, x, 0.02)
	require.InDelta(t, 0.2, y, 0.04, "half of 0 to 4 is 2")
	x, y = spread(0.2)
	require.InDelta(t, 0.1, x, 0.02, "a dimension that is used keeps its unit")
	require.InDelta(t, 0.04, y, 0.008)
}
