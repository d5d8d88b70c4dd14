package rollout

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// DemoPlan says which demonstrations the env's scripted expert is to give.
type DemoPlan struct {
	// Trials to demonstrate, in order.
	Trials []Trial
	Seed   uint64
	// Noise is the std of Gaussian noise on each of the expert's actions, in action units.
	Noise float32
	// Observe names the cameras that the policy reads.
	Observe []string
	// MaxSteps replaces the tasks' own when > 0, in env steps.
	MaxSteps int
	// Lane to use; Retries as in [Scheduler], for a demonstration; 0: 3.
	Lane, Retries int
	// EnvName is for error messages.
	EnvName string
}

// Demonstrations yields the expert's episodes one after the other, each observed before every action, named "demo/<task>/<start state>/<repeat>", whether
// they succeed or not (Demonstration.Success tells). Each is rolled when it is asked for, so that only one is in memory. An error ends the sequence. A
// demonstration depends on Seed, Noise and its trial only.
func Demonstrations(ctx context.Context, w Worker[env.Env], spec plugins.EnvSpec, p DemoPlan) iter.Seq2[policy.Demonstration, error] {
	return func(yield func(policy.Demonstration, error) bool) {
		if err := p.check(spec); err != nil {
			yield(policy.Demonstration{}, err)
			return
		}
		if p.EnvName == "" {
			p.EnvName = "env"
		}
		if p.Retries <= 0 {
			p.Retries = defaultRetries
		}
		seen := &shapes{}
		for _, t := range p.Trials {
			d, err := p.demonstrate(ctx, w, spec, t, seen)
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

func (p DemoPlan) check(spec plugins.EnvSpec) error {
	if !spec.Expert {
		return plugins.Errorf(plugins.Unsupported, "the env has no scripted expert").WithHint("give demonstrations from elsewhere, or a policy that was trained already")
	}
	if err := spec.Action.Check(); err != nil {
		return err
	}
	if !(p.Noise >= 0) || math.IsInf(float64(p.Noise), 0) {
		return plugins.Errorf(plugins.Invalid, "noise is %v", p.Noise).WithHint("0 or more, in action units")
	}
	for _, t := range p.Trials {
		if err := checkTask(t.Task, Rules{MaxSteps: p.MaxSteps}); err != nil {
			return err
		}
		if err := checkState(t.Task, t.StartState); err != nil {
			return err
		}
	}
	return nil
}

// demonstrate gives one demonstration, with retries.
func (p DemoPlan) demonstrate(ctx context.Context, w Worker[env.Env], spec plugins.EnvSpec, t Trial, seen *shapes) (policy.Demonstration, error) {
	for attempts := 1; ; attempts++ {
		client, incarnation, err := w.Client(ctx)
		if ctx.Err() != nil {
			return policy.Demonstration{}, stopped(ctx)
		}
		if err != nil {
			return policy.Demonstration{}, plugins.AsError(err).WithPlace("%s", p.EnvName)
		}
		d, err := p.attempt(ctx, client, spec, t, seen)
		switch {
		case err == nil:
			return d, nil
		case ctx.Err() != nil:
			return policy.Demonstration{}, stopped(ctx)
		case Replaces(err) || attempts == 2 && suspicious(err):
			w.Failed(incarnation, err)
		}
		if attempts > p.Retries {
			return policy.Demonstration{}, gaveUp(p.EnvName, p.id(t), attempts, 0, err)
		}
	}
}

func (p DemoPlan) id(t Trial) string {
	return fmt.Sprintf("demo/%s/%d/%d", t.Task.ID, t.StartState, t.Repeat)
}

func (p DemoPlan) attempt(ctx context.Context, e env.Env, spec plugins.EnvSpec, trial Trial, seen *shapes) (policy.Demonstration, error) {
	rules := Rules{Observe: p.Observe, MaxSteps: p.MaxSteps}
	replies := replyChecker{spec: spec, render: rules.render(), maxSteps: rules.maxSteps(trial.Task), shapes: seen}
	seed := Seed(p.Seed, "demonstration", trial.Task.ID, trial.StartState, trial.Repeat)
	t, err := e.Reset(ctx, env.Reset{Lane: p.Lane, Task: trial.Task.ID, StartState: trial.StartState, Seed: seed, MaxSteps: p.MaxSteps, Render: replies.render})
	if err == nil {
		err = replies.reset(t)
	}
	if err != nil {
		return policy.Demonstration{}, plugins.AsError(err).WithPlace("Reset")
	}
	d := policy.Demonstration{ID: p.id(trial), Instruction: t.Observation.Instruction, Images: map[string]plugins.Tensor{}}
	steps := 0
	for ; !t.Done(); steps++ {
		before := t.Observation
		t, err = e.Step(ctx, env.Step{Lane: p.Lane, Expert: 1, ExpertNoise: p.Noise, Render: replies.render})
		if err == nil && t.StepsDone == 0 && !t.Done() { // the expert gives up: a demonstration that failed
			break
		}
		if err == nil {
			err = replies.step(t, steps, 1)
		}
		if err == nil {
			err = checkExecuted(t.Actions, spec.Action)
		}
		// What is learned is what the expert meant: with noise it comes to places from which it has to come back, and shows how (DART, arXiv 1703.09327).
		if err == nil && !t.Intended.IsZero() {
			err = checkExecuted(t.Intended, spec.Action)
			t.Actions = t.Intended
		}
		if err != nil {
			return policy.Demonstration{}, plugins.AsError(err).WithPlace("Step %d", steps)
		}
		appendObservation(&d, before, p.Observe)
		d.Actions.Data = append(d.Actions.Data, t.Actions.Data...)
	}
	d.Success = t.Success
	d.Actions.DType, d.Actions.Shape = plugins.Float32, []int{steps, spec.Action.Dim()}
	return d, nil
}

// appendObservation adds a row to every tensor of d.
func appendObservation(d *policy.Demonstration, o env.Observation, cameras []string) {
	for _, c := range cameras {
		d.Images[c] = appendRow(d.Images[c], o.Images[c])
	}
	if !o.Proprio.IsZero() {
		d.Proprio = appendRow(d.Proprio, o.Proprio)
	}
}

// appendRow copies row, of shape s, behind t, of shape [n, s...].
func appendRow(t, row plugins.Tensor) plugins.Tensor {
	if t.IsZero() {
		t = plugins.Tensor{DType: row.DType, Shape: append([]int{0}, row.Shape...)}
	}
	t.Data = append(t.Data, row.Data...)
	t.Shape = slices.Clone(t.Shape)
	t.Shape[0]++
	return t
}

// checkExecuted checks the action that the expert took in one step.
func checkExecuted(actions plugins.Tensor, space plugins.ActionSpace) error {
	if err := actions.Check("the expert's actions", plugins.Float32, 1, space.Dim()); err != nil {
		return plugins.AsError(err).WithHint("%s", fixEnv)
	}
	for d, v := range actions.Float32s() {
		if !inRange(v, space.Low[d], space.High[d]) {
			return corrupt(fixEnv, "the expert's action %s is %v, want %g to %g", space.Names[d], v, space.Low[d], space.High[d])
		}
	}
	return nil
}
