package rollout

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

func trials() []Trial {
	var all []Trial
	for _, task := range []string{"a/easy", "c/long"} {
		for s := range 7 {
			all = append(all, Trial{Task: fakeTask(task), StartState: s},
				Trial{Task: fakeTask(task), StartState: s, Repeat: 1})
		}
	}
	return all
}

func (x *setting) evaluation() Evaluation {
	return Evaluation{
		Name:   "eval/3",
		Seed:   9,
		Trials: trials(),
		Rules:  Rules{Observe: []string{"front"}, Temperature: 1},
	}
}

func evaluate(t *testing.T, x *setting, e Evaluation) []Episode {
	t.Helper()
	episodes, _, err := x.s.Evaluate(t.Context(), e)
	require.NoError(t, err)
	for i := range episodes {
		episodes[i].Retries = 0
	}
	return episodes
}

func TestEvaluate(t *testing.T) {
	leaks(t)
	x := newSetting(t, 1)
	want := evaluate(t, x, x.evaluation())
	require.Len(t, want, 28)
	require.Empty(t, x.policy.recorded, "an evaluation records nothing for an update")
	for i, e := range want {
		require.Equal(t, x.evaluation().ID(i), e.ID)
		require.Equal(t, i, e.Index)
		require.True(t, e.Terminated || e.Truncated)
		require.Nil(t, e.Embedding)
		require.Zero(t, e.FrameCount)
	}
	require.Equal(t, "eval/3/a/easy/0/1", want[1].ID)

	for seed := range uint64(12) { // any number of lanes, and processes that die
		x := newSetting(t, [][]int{{1}, {5}, {3, 3, 3}}[seed%3]...)
		x.world.jitter = seed%2 == 0
		x.world.die = chance(seed, 20, 5)
		require.Equal(t, want, evaluate(t, x, x.evaluation()))
	}

	e := x.evaluation() // seeds do not depend on the name
	e.Name = "eval/4"
	for i, ep := range evaluate(t, x, e) {
		require.Equal(t, want[i].Steps, ep.Steps)
		require.Equal(t, want[i].LogProb, ep.LogProb)
	}

	e = x.evaluation() // greedy episodes differ
	e.Greedy, e.Temperature = true, 0
	require.NotEqual(t, want, evaluate(t, x, e))
}

// Finished trials are not rolled out again after a kill, and the whole equals an undisturbed evaluation, also
// through JSON.
func TestEvaluateResumes(t *testing.T) {
	leaks(t)
	x := newSetting(t, 3)
	e := x.evaluation()
	e.Encode, e.RecordCamera, e.RecordEvery = true, "front", 2
	want := evaluate(t, newSetting(t, 1), e)
	require.Len(t, want[0].Embedding, fakeDimension)

	ctx, cancel := context.WithCancel(t.Context())
	var saved [][]byte
	e.OnEpisode = func(ep Episode) {
		b, err := json.Marshal(ep)
		require.NoError(t, err)
		if saved = append(saved, b); len(saved) == 10 {
			cancel()
		}
	}
	_, _, err := x.s.Evaluate(ctx, e)
	require.ErrorIs(t, err, context.Canceled)
	require.GreaterOrEqual(t, len(saved), 10)
	require.Less(t, len(saved), 28)

	e.Have = map[string]Episode{}
	for _, b := range saved {
		var ep Episode
		require.NoError(t, json.Unmarshal(b, &ep))
		e.Have[ep.ID] = ep
	}
	rolled := 0
	e.OnEpisode = func(ep Episode) { rolled++; require.NotContains(t, e.Have, ep.ID) }
	require.Equal(t, want, evaluate(t, newSetting(t, 2), e))
	require.Equal(t, 28-len(saved), rolled)
}

func TestEvaluateRefuses(t *testing.T) {
	x := newSetting(t, 1)
	for words, change := range map[string]func(*Evaluation){
		"is listed twice":      func(e *Evaluation) { e.Trials[1].Repeat = 0 },
		"has no start state 7": func(e *Evaluation) { e.Trials[3].StartState = 7 },
		"temperature is 0":     func(e *Evaluation) { e.Temperature = 0 },
		"cannot run here: no":  func(e *Evaluation) { e.Trials[0].Task.Unavailable = "no GPU" },
	} {
		e := x.evaluation()
		change(&e)
		_, _, err := x.s.Evaluate(t.Context(), e)
		require.ErrorContains(t, err, words)
		require.Equal(t, plugins.Invalid, plugins.KindOf(err))
	}
}

func demos(t *testing.T, x *setting, p DemoPlan) []policy.Demonstration {
	t.Helper()
	var all []policy.Demonstration
	for d, err := range x.s.Demonstrations(t.Context(), p) {
		require.NoError(t, err)
		all = append(all, d)
	}
	return all
}

func TestDemonstrations(t *testing.T) {
	leaks(t)
	p := DemoPlan{Trials: trials()[:6], Seed: 4, Observe: []string{"front"}}
	want := demos(t, newSetting(t, 1), p)
	require.Len(t, want, 6)
	for i, d := range want {
		n := d.Actions.Shape[0]
		require.Equal(t, "do a/easy", d.Instruction)
		require.NoError(t, d.Actions.Check("actions", plugins.Float32, n, 2))
		require.NoError(t, d.Proprio.Check("proprio", plugins.Float32, n, 2))
		require.NoError(t, d.Images["front"].Check("images", plugins.Uint8, n, 4, 4, 3))
		for step := range n { // observed before every action, and copied
			require.Equal(t, float32(step), d.Proprio.Float32s()[2*step])
		}
		require.NotEqual(t, d.Images["front"].Data[:48], d.Images["front"].Data[48:96])
		if i > 0 {
			require.NotEqual(t, want[i-1].Actions, d.Actions)
		}
	}
	require.Equal(t, "demo/a/easy/0/1", want[1].ID)

	x := newSetting(t, 1)
	x.world.die = chance(8, 12, 9)
	require.Equal(t, want, demos(t, x, p), "processes that die change nothing")
	require.NotZero(t, x.envs[0].reported)

	p.Noise = 0.3
	noisy := demos(t, newSetting(t, 1), p)
	require.NotEqual(t, want, noisy)
	beyond := func(d policy.Demonstration) bool {
		return slices.ContainsFunc(d.Actions.Float32s(), func(v float32) bool { return v > 0.1 || v < -0.1 })
	}
	require.True(t, slices.ContainsFunc(want, beyond))
	require.False(t, slices.ContainsFunc(noisy, beyond), "the demonstration contains the intended actions")
	for d, err := range x.s.Demonstrations(t.Context(), p) {
		require.NoError(t, err)
		require.NotEmpty(t, d.ID)
		break // the caller may stop early
	}
}

func TestDemonstrationErrors(t *testing.T) {
	first := func(x *setting, ctx context.Context, spec plugins.EnvSpec, p DemoPlan) (got error) {
		x.s.EnvSpec, x.s.EnvName = spec, "env fake"
		for _, err := range x.s.Demonstrations(ctx, p) {
			require.NoError(t, got, "an error ends the sequence")
			got = err
		}
		return got
	}
	p := DemoPlan{Trials: trials()[:1], Seed: 4, Observe: []string{"front"}}
	spec := fakeSpec
	spec.Expert = false
	require.ErrorContains(t, first(newSetting(t, 1), t.Context(), spec, p), "no scripted expert")

	x := newSetting(t, 1)
	x.world.before = func(context.Context, int, Episode) error {
		return plugins.Errorf(plugins.Unsupported, "no expert for this task")
	}
	err := first(x, t.Context(), fakeSpec, p)
	require.ErrorContains(t, err, "env fake, process 0, lane 0, episode demo/a/easy/0/0")
	require.ErrorContains(t, err, "no expert for this task")

	x = newSetting(t, 1)
	x.policy = nil
	x.world.before = func(ctx context.Context, _ int, _ Episode) error { return nil }
	p.Observe = []string{"wrist", "front"}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, first(x, ctx, fakeSpec, p), context.Canceled)

	p.Noise = float32(math.NaN())
	require.ErrorContains(t, first(x, t.Context(), fakeSpec, p), "noise is NaN")
}

// An expert that gives up yields a failed demonstration. It is not a fault of the env.
func TestDemonstrationOfAnExpertThatGivesUp(t *testing.T) {
	p := DemoPlan{Trials: trials()[:1], Seed: 4, Observe: []string{"front"}}
	n := 0
	s := &Scheduler{
		EnvSpec: fakeSpec,
		Envs:    []*EnvProc{{Worker: quitter{Worker: (&world{t: t}).process(1)}, Lanes: 1}},
	}
	for d, err := range s.Demonstrations(context.Background(), p) {
		require.NoError(t, err)
		require.False(t, d.Success)
		require.Equal(t, []int{0, 2}, d.Actions.Shape)
		n++
	}
	require.Equal(t, 1, n)
}
