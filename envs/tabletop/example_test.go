package tabletop_test

import (
	"context"
	"fmt"

	"github.com/srpo-dev/srpo/envs/tabletop"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// One episode by the scripted expert in chunks of 8 actions, with a frame for the policy after each chunk
// and a recorded frame after every fourth step.
func Example() {
	ctx := context.Background()
	e := tabletop.New()
	if err := e.Configure(ctx, plugins.Config{Lanes: 1, Settings: plugins.Settings{"jitter": 0.0}}); err != nil {
		panic(err)
	}
	render := env.Render{Observe: []string{"front"}, Record: "front", RecordEvery: 4}
	t, err := e.Reset(ctx, env.Reset{Task: "tabletop/one_block", StartState: 3, Seed: 1, Render: render})
	if err != nil {
		panic(err)
	}
	fmt.Println(t.Observation.Instruction)
	for !t.Done() {
		if t, err = env.StepExpert(ctx, e, env.ExpertStep{Steps: 8, Render: render}); err != nil {
			panic(err)
		}
		fmt.Printf("%2d steps, progress %.1f, %d frames, image %v\n", t.EpisodeSteps, *t.Progress,
			t.Recorded.Shape[0],
			t.Observation.Images["front"].Shape)
	}
	fmt.Println("success:", t.Success)
	// Output:
	// put the red block on the red plate
	//  8 steps, progress 0.2, 2 frames, image [64 64 3]
	// 16 steps, progress 0.8, 2 frames, image [64 64 3]
	// 20 steps, progress 1.0, 1 frames, image [64 64 3]
	// success: true
}
