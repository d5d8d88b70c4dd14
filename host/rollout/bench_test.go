package rollout

import (
	"context"
	"fmt"
	"testing"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// idleEnv and idlePolicy do nothing, so that only the scheduler is measured.
type idleEnv struct {
	env.Env
	steps [256]int
}

func (e *idleEnv) Reset(_ context.Context, r env.Reset) (env.Transition, error) {
	e.steps[r.Lane] = 0
	return idleReply(0, 0), nil
}

func (e *idleEnv) Step(_ context.Context, s env.Step) (env.Transition, error) {
	e.steps[s.Lane]++
	return idleReply(1, e.steps[s.Lane]), nil
}

func idleReply(done, steps int) env.Transition {
	return env.Transition{
		StepsDone:    done,
		EpisodeSteps: steps,
		Truncated:    steps == 100,
		Observation:  env.Observation{Proprio: plugins.Floats([]float32{1, 2})},
	}
}

type idlePolicy struct{ policy.Policy }

func (idlePolicy) Act(_ context.Context, a policy.Act) ([]policy.Result, error) {
	results := make([]policy.Result, len(a.Items))
	for i := range results {
		results[i].Actions = plugins.Floats([]float32{0, 0}, 1, 2)
	}
	return results, nil
}

// BenchmarkStep measures the scheduler's own time per env step of one lane, in-process, with chunks of one action.
func BenchmarkStep(b *testing.B) {
	for _, lanes := range []int{1, 8, 64, 256} {
		b.Run(fmt.Sprint(lanes), func(b *testing.B) {
			e := newProcess(func(*process[env.Env]) env.Env { return &idleEnv{} })
			s := Scheduler{
				Envs:    []*EnvProc{{e, lanes}},
				Policy:  newProcess(func(*process[policy.Policy]) policy.Policy { return idlePolicy{} }),
				EnvSpec: fakeSpec,
			}
			task := env.Task{ID: "idle", StartStates: 1, MaxSteps: 100}
			p := Plan{
				Rules:     Rules{Greedy: true},
				Groups:    max(1, b.N),
				GroupSize: 1,
				KeepHigh:  1,
				Tasks:     []PlanTask{{Task: task}},
			}
			r, err := s.Run(b.Context(), p)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(r.EnvSteps), "ns/step")
		})
	}
}
