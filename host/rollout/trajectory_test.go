package rollout

import (
	"context"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins/policy"
)

// trajectories evaluates, and returns the trajectory of each episode by id and the episodes.
func trajectories(t *testing.T, keep bool, lanes ...int) (map[string]*policy.Demonstration, []Episode) {
	t.Helper()
	s := newSetting(t, lanes...)
	s.s.Encoder = nil
	kept := map[string]*policy.Demonstration{}
	e := Evaluation{
		Name: "x",
		Seed: 3,
		Rules: Rules{
			Observe:        []string{"front"},
			RecordCamera:   "front",
			RecordEvery:    2,
			Temperature:    1,
			KeepTrajectory: keep,
			OnFrames:       func(e Episode) { kept[e.ID] = e.Trajectory },
		},
	}
	for i := range 12 {
		e.Trials = append(
			e.Trials,
			Trial{
				Task:       fakeTask("a"),
				StartState: i % fakeTask("a").StartStates,
				Repeat:     i / fakeTask("a").StartStates,
			},
		)
	}
	episodes, _, err := s.s.Evaluate(context.Background(), e)
	require.NoError(t, err)
	return kept, episodes
}

func TestTrajectoryIsTheEpisode(t *testing.T) {
	kept, episodes := trajectories(t, true, 2, 1)
	require.Len(t, kept, 12)
	for _, e := range episodes {
		d := kept[e.ID]
		require.NotNil(t, d, e.ID)
		require.Equal(t, e.ID, d.ID)
		require.Equal(t, e.Success, d.Success)
		require.Equal(t, "do a", d.Instruction)
		require.Equal(t, []int{e.Steps, 2}, d.Actions.Shape)
		require.Equal(t, e.Steps, d.Proprio.Shape[0])
		require.Equal(t, []int{e.Steps, 4, 4, 3}, d.Images["front"].Shape)
		for step := range e.Steps { // the fake env's proprio contains the step: each observation precedes its action
			require.Equal(t, float32(step), d.Proprio.Float32s()[2*step])
		}
		require.Nil(t, e.Trajectory, "the result does not keep it")
	}
	none, same := trajectories(t, false, 2, 1)
	require.Equal(t, episodes, same, "observing every step does not change an episode")
	for id, d := range none {
		require.Nil(t, d, id)
	}
}

func TestTrajectoryDoesNotDependOnLanes(t *testing.T) {
	one, _ := trajectories(t, true, 1)
	many, _ := trajectories(t, true, 3, 2)
	require.True(t, maps.EqualFunc(one, many, func(a, b *policy.Demonstration) bool {
		return string(a.Actions.Data) == string(b.Actions.Data) &&
			string(a.Images["front"].Data) == string(b.Images["front"].Data)
	}))
}

func TestRecordKeepsTrajectories(t *testing.T) {
	p := RecordPlan{Seed: 5, Every: 2}
	for _, take := range takes(8) {
		if take.Random { // the fake env's expert depends on the size of a call
			p.Takes = append(p.Takes, take)
		}
	}
	plain := record(t, &world{t: t}, 2, 1, p)
	p.Observe = []string{"front"}
	for id, e := range record(t, &world{t: t}, 2, 1, p) {
		require.Equal(t, plain[id].Frames.Data, e.Frames.Data, "observing does not change the episode: %s", id)
		require.Equal(t, plain[id].Success, e.Success)
		require.Nil(t, plain[id].Trajectory)
		if e.Steps > 0 {
			require.Equal(t, e.Steps, e.Trajectory.Actions.Shape[0])
			require.Equal(t, []int{e.Steps, 4, 4, 3}, e.Trajectory.Images["front"].Shape)
		}
	}
}
