// Command reach-go is a complete environment: a point has to reach a target.
package main

import (
	"math/rand/v2"

	"github.com/srpo-dev/srpo/sdk"
)

type reach struct{ x, y, tx, ty float32 }

// Reset places the target by the start state alone, so that a start state is the same in every run.
func (r *reach) Reset(_ string, startState int, _ uint64) error {
	rng := rand.New(rand.NewPCG(uint64(startState), 0))
	r.x, r.y, r.tx, r.ty = 0.5, 0.5, 0.2+0.6*rng.Float32(), 0.2+0.6*rng.Float32()
	return nil
}

func (r *reach) Step(a []float32) (sdk.Outcome, error) {
	r.x, r.y = min(max(r.x+a[0]/20, 0), 1), min(max(r.y+a[1]/20, 0), 1)
	return sdk.Outcome{Success: max(r.x-r.tx, r.tx-r.x, r.y-r.ty, r.ty-r.y) < 0.05}, nil
}

func (r *reach) Proprio() []float32 { return []float32{r.x, r.y} }

// Render draws a green target and a red point, 4 x 4 pixels each.
func (r *reach) Render(_ string, h, w int) []byte {
	img := make([]byte, h*w*3)
	for d := range 16 {
		img[(int(r.ty*float32(h-4))+d/4)*w*3+(int(r.tx*float32(w-4))+d%4)*3+1] = 255
		img[(int(r.y*float32(h-4))+d/4)*w*3+(int(r.x*float32(w-4))+d%4)*3] = 255
	}
	return img
}

func main() {
	sdk.ServeSim(sdk.SimSpec{
		Info: sdk.Info{Name: "reach-go", Version: "0.1.0", Doc: "a point reaches a target", MaxLanes: 64},
		Env: sdk.EnvSpec{
			Cameras: []sdk.Camera{{Name: "main", Height: 64, Width: 64, View: "third_person", AnySize: true}},
			Proprio: []string{"x", "y"},
			Action: sdk.ActionSpace{Names: []string{"dx", "dy"}, Low: []float32{-1, -1}, High: []float32{1, 1},
				Meaning: "displacement / 20"},
		},
		Tasks: []sdk.Task{{
			ID: "reach/point", Suite: "reach", Instruction: "reach the green target", StartStates: 50, MaxSteps: 40,
		}},
		New: func(sdk.Config, int) (sdk.Sim, error) { return &reach{}, nil },
	})
}
