package rollout

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

func takes(n int) []Take {
	var out []Take
	for i := range n {
		for _, a := range []Actor{{}, {Noise: 0.5}, {Random: true}} {
			out = append(
				out,
				Take{
					Trial{
						Task:       fakeTask("a"),
						StartState: i % fakeTask("a").StartStates,
						Repeat:     i / fakeTask("a").StartStates,
					},
					a,
				},
			)
		}
	}
	return out
}

// record returns the episodes of a plan by id.
func record(t *testing.T, w *world, lanes, processes int, p RecordPlan) map[string]Episode {
	t.Helper()
	s := &Scheduler{EnvSpec: fakeSpec}
	for range processes {
		s.Envs = append(s.Envs, &EnvProc{Worker: w.process(lanes), Lanes: lanes})
	}
	out := map[string]Episode{}
	require.NoError(t, s.Record(context.Background(), p, func(take Take, e Episode) error {
		require.Equal(t, take.ID(), e.ID)
		require.NotContains(t, out, e.ID)
		e.Retries = 0
		out[e.ID] = e
		return nil
	}))
	return out
}

func TestRecord(t *testing.T) {
	p := RecordPlan{Takes: takes(20), Seed: 5, Every: 2}
	one := record(t, &world{t: t}, 1, 1, p)
	require.Len(t, one, 60)
	noisy, random := 0, 0
	for id, e := range one {
		require.Equal(t, 1+e.Steps/2, e.FrameCount, id)
		require.Equal(t, []int{e.FrameCount, 4, 4, 3}, e.Frames.Shape)
		require.Len(t, e.Frames.Data, e.FrameCount*48)
		require.NotNil(t, e.Progress)
		require.GreaterOrEqual(t, *e.Furthest, *e.Progress)
		if e.Task == "" || !e.Terminated && !e.Truncated {
			t.Errorf("%s did not end", id)
		}
	}
	for i := range 20 {
		trial := takes(20)[3*i].Trial
		expert := one[Take{trial, Actor{}}.ID()]
		if string(expert.Frames.Data) != string(one[Take{trial, Actor{Noise: 0.5}}.ID()].Frames.Data) {
			noisy++
		}
		if string(expert.Frames.Data) != string(one[Take{trial, Actor{Random: true}}.ID()].Frames.Data) {
			random++
		}
	}
	require.Equal(t, []int{20, 20}, []int{noisy, random}, "actors differ")
	require.Equal(t, one, record(t, &world{t: t, jitter: true}, 3, 2, p), "lanes and order change nothing")
	require.Equal(t, one, record(t, &world{t: t, die: func(call int64) bool { return call%41 == 0 }}, 2, 2, p),
		"a process that dies changes nothing")
}

func TestRecordErrors(t *testing.T) {
	s := &Scheduler{EnvSpec: fakeSpec, Envs: []*EnvProc{{Worker: (&world{t: t}).process(2), Lanes: 2}}}
	full := errors.New("the disk is full")
	n := 0
	err := s.Record(context.Background(), RecordPlan{Takes: takes(20), Every: 1}, func(Take, Episode) error {
		if n++; n == 3 {
			return plugins.Errorf(plugins.Exhausted, "%w", full)
		}
		return nil
	})
	require.ErrorIs(t, err, full)
	require.Equal(t, plugins.Exhausted, plugins.KindOf(err))
	require.LessOrEqual(t, n, 4, "at most the episodes that were running")

	ctx, cancel := context.WithCancel(context.Background())
	err = s.Record(ctx, RecordPlan{Takes: takes(20), Every: 1}, func(Take, Episode) error { cancel(); return nil })
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))

	broken := &world{t: t, alter: func(_ Episode, r *env.Transition) { r.EpisodeSteps++ }}
	s.Envs = []*EnvProc{{Worker: broken.process(1), Lanes: 1}}
	err = s.Record(context.Background(), RecordPlan{Takes: takes(1), Every: 1},
		func(Take, Episode) error { return nil })
	require.ErrorContains(t, err, "failed 4 times")
	require.ErrorContains(t, err, "episode expert/a/0/0")
}

func TestRecordRefuses(t *testing.T) {
	keep := func(Take, Episode) error { return nil }
	bare := fakeSpec
	bare.Expert = false
	blind := fakeSpec
	blind.RecordCamera = ""
	for name, c := range map[string]struct {
		spec plugins.EnvSpec
		plan RecordPlan
		want string
	}{
		"no expert": {bare, RecordPlan{Takes: takes(1), Every: 1}, "no scripted expert"},
		"no camera": {blind, RecordPlan{Takes: takes(1), Every: 1}, "no camera to record"},
		"no step":   {fakeSpec, RecordPlan{Takes: takes(1)}, "the recording interval is 0"},
		"no such failure": {
			fakeSpec,
			RecordPlan{Takes: []Take{{Trial: takes(1)[0].Trial, Actor: Actor{Failure: "miss"}}}, Every: 1},
			`cannot fail by "miss"`,
		},
		"no start state": {
			fakeSpec,
			RecordPlan{Takes: []Take{{Trial: Trial{Task: fakeTask("a"), StartState: -1}}}, Every: 1},
			"no start state -1",
		},
	} {
		s := &Scheduler{EnvSpec: c.spec, Envs: []*EnvProc{{Worker: (&world{t: t}).process(1), Lanes: 1}}}
		err := s.Record(context.Background(), c.plan, keep)
		require.ErrorContains(t, err, c.want, name)
		require.NotEmpty(t, plugins.AsError(err).Hint, name)
	}
	// Random needs no expert.
	s := &Scheduler{EnvSpec: bare, Envs: []*EnvProc{{Worker: (&world{t: t}).process(1), Lanes: 1}}}
	require.NoError(t, s.Record(context.Background(), RecordPlan{Takes: takes(1)[2:], Every: 1}, keep))
}

func TestParseActor(t *testing.T) {
	for text, want := range map[string]Actor{
		"expert": {}, "random": {Random: true}, "noise:0.25": {Noise: 0.25},
		"fail:drop": {Failure: "drop"}, "fail:drop+noise:0.5": {Failure: "drop", Noise: 0.5},
		"policy": {Policy: true}, "policy:greedy": {Policy: true, Greedy: true},
	} {
		a, err := ParseActor(text)
		require.NoError(t, err)
		require.Equal(t, want, a)
		require.Equal(t, text, a.String())
	}
	for _, text := range []string{
		"", "exprt", "noise", "noise:", "noise:0", "noise:-1", "noise:NaN", "noise:1e99", "random:1",
		"fail:", "fail:+noise:1", "fail:drop+", "fail:drop+noise", "fail:drop+expert",
	} {
		_, err := ParseActor(text)
		require.Equal(t, plugins.Invalid, plugins.KindOf(err), text)
		require.NotEmpty(t, plugins.AsError(err).Hint)
	}
}

func TestRandomActionsRepeatAndAreInRange(t *testing.T) {
	p := RecordPlan{Takes: takes(1)[2:], Seed: 1, Every: 1}
	w := &world{t: t}
	var seen []float32
	spy := &spyEnv{Worker: w.process(1), seen: &seen}
	s := &Scheduler{EnvSpec: fakeSpec, Envs: []*EnvProc{{Worker: spy, Lanes: 1}}}
	for p.Takes[0].Repeat = 0; len(seen) < 400; p.Takes[0].Repeat++ {
		require.NoError(t, s.Record(context.Background(), p, func(Take, Episode) error { return nil }))
	}
	repeats, low, high := 0, float32(0), float32(0)
	for i := 2; i < len(seen); i += 2 {
		require.GreaterOrEqual(t, seen[i], float32(-1))
		require.LessOrEqual(t, seen[i], float32(1))
		if seen[i] == seen[i-2] {
			repeats++
		}
		low, high = min(low, seen[i]), max(high, seen[i])
	}
	require.Greater(t, repeats, len(seen)/2/2, "an action is repeated for several steps")
	require.Less(t, low, float32(-0.7))
	require.Greater(t, high, float32(0.7))
}

// An expert that gives up ends its episode, which keeps what was recorded.
func TestRecordOfAnExpertThatGivesUp(t *testing.T) {
	for _, done := range []int{0, 3} {
		w := quitter{Worker: (&world{t: t}).process(1), done: done}
		s := &Scheduler{EnvSpec: fakeSpec, Envs: []*EnvProc{{Worker: w, Lanes: 1}}}
		var got []Episode
		require.NoError(
			t,
			s.Record(context.Background(), RecordPlan{Takes: takes(1)[:1], Every: 1},
				func(_ Take, e Episode) error { got = append(got, e); return nil }),
		)
		require.Equal(t, done, got[0].Steps)
		require.Equal(t, []int{1 + done, 4, 4, 3}, got[0].Frames.Shape)
		require.False(t, got[0].Success || got[0].Terminated || got[0].Truncated)
		require.Zero(t, got[0].Retries)
	}
}

// quitter is an env whose expert gives up in its first call, after done steps.
type quitter struct {
	Worker[env.Env]
	done int
}

func (q quitter) Client(ctx context.Context) (env.Env, uint64, error) {
	c, n, err := q.Worker.Client(ctx)
	return quitterClient{c, q.done}, n, err
}

type quitterClient struct {
	env.Env
	done int
}

func (q quitterClient) StepExpert(context.Context, env.ExpertStep) (env.Transition, error) {
	t := env.Transition{
		StepsDone:    q.done,
		EpisodeSteps: q.done,
		Observation:  env.Observation{Proprio: plugins.Floats([]float32{0, 0})},
	}
	if q.done > 0 {
		t.Recorded = plugins.Bytes(make([]byte, q.done*48), q.done, 4, 4, 3)
	}
	return t, nil
}

// spyEnv stores the actions that an env receives.
type spyEnv struct {
	Worker[env.Env]
	seen *[]float32
}

func (s *spyEnv) Client(ctx context.Context) (env.Env, uint64, error) {
	c, n, err := s.Worker.Client(ctx)
	return &spyClient{c, s.seen}, n, err
}

type spyClient struct {
	env.Env
	seen *[]float32
}

func (s *spyClient) Step(ctx context.Context, r env.Step) (env.Transition, error) {
	*s.seen = append(*s.seen, r.Actions.Float32s()...)
	return s.Env.Step(ctx, r)
}
