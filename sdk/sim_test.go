package sdk_test

import (
	"testing"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/sdk"
	"github.com/srpo-dev/srpo/sdk/plugintest"
)

// slide moves along a line; the expert knows the way.
type slide struct{ at, goal float32 }

func (s *slide) Reset(_ string, start int, seed uint64) error {
	s.at, s.goal = 0, 0.3+float32(start)/20+float32(seed%7)/100
	return nil
}
func (s *slide) Step(a []float32) (sdk.Outcome, error) {
	s.at += a[0] / 20
	return sdk.Outcome{Success: s.at >= s.goal, Terminated: s.at < -2}, nil
}
func (s *slide) Proprio() []float32        { return []float32{s.at} }
func (s *slide) Expert() ([]float32, bool) { return []float32{1}, true }
func (s *slide) Progress() float64         { return float64(s.at / s.goal) }
func (s *slide) Render(_ string, h, w int) []byte {
	img := make([]byte, h*w*3)
	img[(max(0, min(w-1, int(s.at*float32(w)))))*3] = 255
	return img
}

func slideSpec() sdk.SimSpec {
	return sdk.SimSpec{
		Info: plugins.Info{Name: "slide", Version: "1", Doc: "slides", MaxLanes: 4},
		Env: plugins.EnvSpec{Expert: true, Cameras: []plugins.Camera{{Name: "main", Height: 64, Width: 48, View: "third_person"}, {Name: "wrist", Height: 32, Width: 32, View: "wrist"}},
			Proprio: []string{"x [m]"}, Action: plugins.ActionSpace{Names: []string{"dx"}, Low: []float32{-1}, High: []float32{1}, Meaning: "delta"}},
		Tasks: []env.Task{{ID: "slide/right", Suite: "slide", Instruction: "go right", StartStates: 5, MaxSteps: 60, Tags: map[string]string{"level": "L1"}}},
		New:   func(plugins.Config, int) (sdk.Sim, error) { return &slide{}, nil },
	}
}

func TestSimEnvKeepsTheContract(t *testing.T) {
	plugintest.TestEnv(t, func() env.Env { return sdk.SimEnv(slideSpec()) }, nil)
}

// leaky keeps state over Reset: plugintest must find it.
type leaky struct {
	slide
	drift float32
}

func (l *leaky) Step(a []float32) (sdk.Outcome, error) {
	l.drift += 0.001
	l.at += l.drift
	return l.slide.Step(a)
}

func TestPlugintestFindsFaults(t *testing.T) {
	spec := slideSpec()
	spec.New = func(plugins.Config, int) (sdk.Sim, error) { return &leaky{}, nil }
	failed := map[string]bool{}
	checks := plugintest.Env(sdk.SimEnv(spec), nil)
	plugintest.Run(t.Context(), checks, 10e9, func(r plugintest.Result) { failed[r.Name] = r.Err != nil && !r.Skipped() })
	if !failed["the same seed and actions give the same episode, on every lane"] {
		t.Errorf("state kept over Reset was not found: %v", failed)
	}
	if failed["bad actions are refused, and the episode goes on"] {
		t.Error("bad actions are refused by the SDK")
	}
}
