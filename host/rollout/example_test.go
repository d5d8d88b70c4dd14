package rollout_test

import (
	"context"
	"fmt"
	"iter"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// corridor is an env. The task is to walk right to position 3 within 6 steps, from position 0, -1 or -2.
type corridor struct {
	at, steps []int // by lane
}

var spec = plugins.EnvSpec{
	Action:  plugins.ActionSpace{Names: []string{"step"}, Low: []float32{-1}, High: []float32{1}},
	Proprio: []string{"position"},
}

func (c *corridor) Info(context.Context) (plugins.Info, error)      { return plugins.Info{}, nil }
func (c *corridor) Configure(context.Context, plugins.Config) error { return nil }
func (c *corridor) Describe(context.Context) (plugins.EnvSpec, error) {
	return spec, nil
}
func (c *corridor) Tasks(context.Context) iter.Seq2[env.Task, error] {
	return func(yield func(env.Task, error) bool) {
		yield(env.Task{ID: "right", StartStates: 3, MaxSteps: 6}, nil)
	}
}

func (c *corridor) Reset(_ context.Context, r env.Reset) (env.Transition, error) {
	c.at[r.Lane], c.steps[r.Lane] = -r.StartState, 0
	return c.see(r.Lane, 0), nil
}

func (c *corridor) Step(_ context.Context, s env.Step) (env.Transition, error) {
	if s.Actions.Float32s()[0] > 0 {
		c.at[s.Lane]++
	}
	c.steps[s.Lane]++
	return c.see(s.Lane, 1), nil
}

func (c *corridor) see(lane, done int) env.Transition {
	success := c.at[lane] == 3
	return env.Transition{
		Observation: env.Observation{Proprio: plugins.Floats([]float32{float32(c.at[lane])})},
		StepsDone:   done, EpisodeSteps: c.steps[lane],
		Success: success, Terminated: success, Truncated: !success && c.steps[lane] == 6,
	}
}

// walker is a policy that walks right with probability 2/3.
type walker struct{ policy.Policy }

func (walker) Act(_ context.Context, a policy.Act) ([]policy.Result, error) {
	var results []policy.Result
	for _, item := range a.Items {
		step := float32(1)
		if item.Seed%3 == 0 {
			step = -1
		}
		results = append(results, policy.Result{Actions: plugins.Floats([]float32{step}, 1, 1)})
	}
	return results, nil
}

// here is a worker whose plugin is in this process.
type here[T any] struct{ plugin T }

func (h here[T]) Client(context.Context) (T, uint64, error) { return h.plugin, 1, nil }
func (h here[T]) Failed(uint64, error)                      {}

func ExampleScheduler_Run() {
	lanes := 4
	s := rollout.Scheduler{
		Envs: []*rollout.EnvProc{
			{Worker: here[env.Env]{&corridor{at: make([]int, lanes), steps: make([]int, lanes)}}, Lanes: lanes},
		},
		Policy:  here[policy.Policy]{walker{}},
		EnvSpec: spec,
	}
	result, err := s.Run(context.Background(), rollout.Plan{
		Rules: rollout.Rules{Temperature: 1},
		Seed:  2, Groups: 2, GroupSize: 4, KeepLow: 0.1, KeepHigh: 0.9, ExtraGroups: 4,
		Tasks: []rollout.PlanTask{{Task: env.Task{ID: "right", StartStates: 3, MaxSteps: 6}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, g := range result.Groups {
		fmt.Printf("group %d: %d of %d succeeded, kept: %v, reason %q\n", g.ID, g.Successes, len(g.Episodes),
			g.Kept, g.Reason)
	}
	fmt.Println(result.EnvSteps, "env steps, first episode", result.Groups[0].Episodes[0].ID)
	// Output:
	// group 0: 4 of 4 succeeded, kept: false, reason "success rate 1 is above 0.9"
	// group 1: 1 of 4 succeeded, kept: true, reason ""
	// group 2: 1 of 4 succeeded, kept: true, reason ""
	// 67 env steps, first episode 0/right/0/0
}

func ExampleSeed() {
	for index := range 2 {
		fmt.Printf("%#016x\n", rollout.Seed(0, "episode", 3, "reach", 0, index))
	}
	// Output:
	// 0xf0162b8b46e2ea77
	// 0x6e1bb0cb60ecb018
}

func ExampleSplit() {
	train, test := rollout.Split(0, env.Task{ID: "reach", StartStates: 6}, 0.5)
	fmt.Println(train, test)
	// Output:
	// [2 3 4] [0 1 5]
}
