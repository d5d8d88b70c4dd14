package sdk_test

import (
	"context"
	"fmt"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/sdk"
)

// cart is pushed along a rail of 1 m to its end, by at most 10 cm per step.
type cart struct{ x float32 }

func (c *cart) Reset(string, int, uint64) error { c.x = 0; return nil }
func (c *cart) Step(a []float32) (sdk.Outcome, error) {
	c.x += a[0] / 10
	return sdk.Outcome{Success: c.x > 0.95}, nil
}
func (c *cart) Proprio() []float32               { return []float32{c.x} }
func (c *cart) Render(_ string, h, w int) []byte { return make([]byte, h*w*3) }

// An env with one task. The main function of a plugin calls sdk.ServeSim with the same argument.
func ExampleSimEnv() {
	e := sdk.SimEnv(sdk.SimSpec{
		Info: plugins.Info{Name: "cart", Version: "0.1.0", MaxLanes: 1},
		Env: plugins.EnvSpec{
			Cameras: []plugins.Camera{{Name: "side", Height: 32, Width: 32}},
			Proprio: []string{"x [m]"},
			Action:  plugins.ActionSpace{Names: []string{"push"}, Low: []float32{-1}, High: []float32{1}},
		},
		Tasks: []env.Task{
			{ID: "cart/end", Suite: "cart", Instruction: "go to the end", StartStates: 1, MaxSteps: 40},
		},
		New: func(plugins.Config, int) (sdk.Sim, error) { return &cart{}, nil },
	})
	ctx := context.Background()
	if err := e.Configure(ctx, plugins.Config{Lanes: 1}); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := e.Reset(ctx, env.Reset{Task: "cart/end"}); err != nil {
		fmt.Println(err)
		return
	}
	chunk := plugins.Floats([]float32{1, 1, 1, 1, 1, 1, 1, 1}, 8, 1)
	for {
		t, err := e.Step(ctx, env.Step{Actions: chunk})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(t.StepsDone, "of 8 executed, success", t.Success)
		if t.Done() {
			return
		}
	}
	// Output:
	// 8 of 8 executed, success false
	// 2 of 8 executed, success true
}
