package sdk_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/sdk"
	"github.com/srpo-dev/srpo/sdk/plugintest"
)

// slide moves along a line to a goal. The start state sets the goal.
type slide struct {
	position, goal, speed float32
}

func (s *slide) Reset(_ string, startState int, _ uint64) error {
	s.position, s.goal = 0, 0.3+float32(startState)/20
	return nil
}

func (s *slide) Step(a []float32) (sdk.Outcome, error) {
	s.position += a[0] * s.speed
	return sdk.Outcome{Success: s.position >= s.goal, Terminated: s.position < -2}, nil
}

func (s *slide) Proprio() []float32        { return []float32{s.position} }
func (s *slide) Expert() ([]float32, bool) { return []float32{0.5}, true }
func (s *slide) Progress() float64         { return float64(s.position / s.goal) }

func (s *slide) Render(_ string, h, w int) []byte {
	img := make([]byte, h*w*3)
	for i, x := range []float32{s.position, s.goal} {
		img[(max(0, min(w-1, int(x*float32(w)))))*3+i] = 255
	}
	return img
}

// ExpertFailures and FailingExpert implement sdk.FailingExpert.
func (s *slide) ExpertFailures() []string { return []string{"stop"} }

func (s *slide) FailingExpert(string) ([]float32, bool) {
	if s.position > s.goal/2 {
		return []float32{0}, true
	}
	return s.Expert()
}

type slideSettings struct {
	Speed float64 `setting:"speed" min:"0" max:"1" doc:"distance of a full action [m]"`
}

func slideSpec(lane func(slide) sdk.Sim) sdk.SimSpec {
	return sdk.SimSpec{
		Info: sdk.Info{
			Name:     "slide",
			Version:  "1",
			Doc:      "slides",
			MaxLanes: 4,
			Settings: sdk.DeclareSettings(slideSettings{Speed: 0.05}),
		},
		Env: sdk.EnvSpec{
			Cameras: []sdk.Camera{
				{Name: "main", Height: 64, Width: 48, View: "third_person"},
				{Name: "wrist", Height: 32, Width: 32, View: "wrist"},
			},
			Proprio: []string{"x [m]"},
			Action:  sdk.ActionSpace{Names: []string{"dx"}, Low: []float32{-1}, High: []float32{1}, Meaning: "delta"},
		},
		Tasks: []sdk.Task{{
			ID: "slide/right", Suite: "slide", Instruction: "go right", StartStates: 5, MaxSteps: 60,
			Tags: map[string]string{"level": "L1"},
		}},
		New: func(c sdk.Config, _ int) (sdk.Sim, error) {
			var s slideSettings
			if err := c.Settings.Decode(&s); err != nil {
				return nil, err
			}
			return lane(slide{speed: float32(s.Speed)}), nil
		},
	}
}

func honest(s slide) sdk.Sim { return &s }

func TestSimEnvKeepsTheContract(t *testing.T) {
	plugintest.TestEnv(t, func() env.Env { return sdk.SimEnv(slideSpec(honest)) }, nil)
}

// The interfaces that a lane implements fill in the env's description.
func TestSimEnvDescribesTheExpert(t *testing.T) {
	e := sdk.SimEnv(slideSpec(honest))
	require.NoError(t, e.Configure(t.Context(), plugins.Config{Lanes: 1, Settings: plugins.Settings{"speed": 0.05}}))
	spec, err := e.Describe(t.Context())
	require.NoError(t, err)
	require.True(t, spec.Expert)
	require.Equal(t, []string{"stop"}, spec.ExpertFailures)

	mistaken := slideSpec(func(s slide) sdk.Sim { return struct{ sdk.Sim }{&s} })
	mistaken.Env.Expert = true
	err = sdk.SimEnv(mistaken).
		Configure(t.Context(), plugins.Config{Lanes: 1, Settings: plugins.Settings{"speed": 0.05}})
	require.ErrorContains(t, err, "does not implement sdk.Expert")
}

// leaky keeps state over Reset.
type leaky struct {
	slide
	drift float32
}

func (l *leaky) Step(a []float32) (sdk.Outcome, error) {
	l.drift += 0.001
	l.position += l.drift
	return l.slide.Step(a)
}

func newLeaky(s slide) sdk.Sim { return &leaky{slide: s} }

// seeded chooses its start states by the seed of the run.
type seeded struct{ slide }

func (s *seeded) Reset(task string, startState int, seed uint64) error {
	err := s.slide.Reset(task, startState, seed)
	s.goal += float32(seed%7) / 10
	return err
}

func newSeeded(s slide) sdk.Sim { return &seeded{s} }

// forgetful does not report what its expert intended.
type forgetful struct{ env.Env }

func (f forgetful) StepExpert(ctx context.Context, s env.ExpertStep) (env.Transition, error) {
	tr, err := env.StepExpert(ctx, f.Env, s)
	tr.Intended = plugins.Tensor{}
	return tr, err
}

func TestPlugintestFindsFaults(t *testing.T) {
	simEnv := func(lane func(slide) sdk.Sim) env.Env { return sdk.SimEnv(slideSpec(lane)) }
	for check, e := range map[string]env.Env{
		"the same seed and actions give the same episode, on every lane": simEnv(newLeaky),
		"a start state is the same with every seed":                      simEnv(newSeeded),
		"an expert with noise reports the actions that it intended":      forgetful{simEnv(honest)},
	} {
		t.Run(check, func(t *testing.T) {
			failed := map[string]error{}
			plugintest.Run(t.Context(), plugintest.Env(e, nil), 10e9, func(r plugintest.Result) {
				if r.Err != nil && !r.Skipped() {
					failed[r.Name] = r.Err
				}
			})
			require.Contains(t, failed, check)
			require.NotEmpty(t, plugins.AsError(failed[check]).Hint)
			require.NotContains(t, failed, "bad actions are refused, and the episode continues",
				"the SDK refuses bad actions")
		})
	}
}
