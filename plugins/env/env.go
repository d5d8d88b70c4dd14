// Package env is the contract of environments: tasks, lanes and episodes.
//
// The author of a plugin implements [Env] and serves it with sdk.ServeEnv, or implements sdk.Sim, which is
// shorter. The host uses a [Client]. An episode is one Reset, and then Step until the transition is Done.
package env

import (
	"context"
	"iter"
	"math"

	"github.com/srpo-dev/srpo/plugins"
)

// Env has one or more lanes. A lane is an independent copy of the environment; lanes have the numbers 0 to
// Config.Lanes-1. Calls for different lanes may run at the same time. Calls for one lane do not.
type Env interface {
	plugins.Plugin
	// Describe returns the cameras, the action space and the proprio of the env.
	Describe(ctx context.Context) (plugins.EnvSpec, error)
	// Tasks yields every task in a fixed order. It does not start a simulator.
	Tasks(ctx context.Context) iter.Seq2[Task, error]
	// Reset begins an episode on a lane and returns its first observation. It returns an error of kind NotFound or
	// Invalid for a task, start state, lane or camera that does not exist.
	Reset(ctx context.Context, r Reset) (Transition, error)
	// Step executes a chunk of actions in order, until the chunk or the episode ends. It returns an error of kind
	// Invalid for an action that is out of range or not finite, before it executes any action of the chunk. An env
	// without an expert refuses a Step with Expert > 0 with an error of kind Unsupported.
	Step(ctx context.Context, s Step) (Transition, error)
}

// Expert is an [Env] with a scripted expert. The server refuses requests for the expert of any other env.
type Expert interface {
	// StepExpert lets the expert act until it has done s.Steps steps, the episode ends, or the expert gives up. An
	// expert that gives up leaves the episode open: the transition has fewer steps than requested and is not Done.
	// StepExpert returns an error of kind Unsupported for a failure that EnvSpec.ExpertFailures does not list.
	StepExpert(ctx context.Context, s ExpertStep) (Transition, error)
}

// StepExpert calls the expert of e. It returns an error of kind Unsupported if e is not an [Expert], and Invalid
// for a number of steps below 1 or a noise that is negative or not finite.
func StepExpert(ctx context.Context, e Env, s ExpertStep) (Transition, error) {
	expert, ok := e.(Expert)
	switch {
	case !ok:
		return Transition{}, plugins.Errorf(plugins.Unsupported, "this env has no expert")
	case s.Steps < 1:
		return Transition{}, plugins.Errorf(plugins.Invalid, "the expert cannot act for %d steps", s.Steps).
			WithHint("request 1 step or more")
	case !(s.Noise >= 0) || math.IsInf(float64(s.Noise), 0):
		return Transition{}, plugins.Errorf(plugins.Invalid, "the expert noise is %g", s.Noise).
			WithHint("use a standard deviation in action units, 0 or more")
	}
	return expert.StepExpert(ctx, s)
}

// Task is a task of an env.
type Task struct {
	// ID is unique within the env, e.g. "libero_object/pick_up_the_bbq_sauce_and_place_it_in_the_basket".
	ID, Suite, Instruction string
	// StartStates is the number of start states.
	StartStates int
	// MaxSteps is the number of steps after which an episode is truncated.
	MaxSteps int
	// Tags such as "dimension" and "level".
	Tags map[string]string
	// Unavailable is the reason why the task cannot run here. It is "" if the task can run.
	Unavailable string
}

// Render lists what the env must render in a call. It need not render anything else.
type Render struct {
	// Observe names the cameras of the observation, which are rendered once, at the end of the call.
	Observe []string
	// Record names the camera that is recorded for the encoder. It is "" if no frames are recorded.
	Record string
	// RecordEvery is k: a frame is recorded after every k-th step of the episode. Reset records the state at step 0.
	RecordEvery int
}

// Frames returns the number of frames that a chunk of n steps records if `from` steps were executed before it.
func (r Render) Frames(from, n int) int {
	if r.Record == "" || r.RecordEvery <= 0 {
		return 0
	}
	return (from+n)/r.RecordEvery - from/r.RecordEvery
}

// Reset is a request for a new episode.
type Reset struct {
	Lane       int
	Task       string
	StartState int
	// Seed seeds what happens at random during the episode. The start state follows from Task and StartState alone.
	Seed uint64
	// MaxSteps overrides Task.MaxSteps if it is above 0.
	MaxSteps int
	Render   Render
}

// Step is a request to execute a chunk of actions.
type Step struct {
	Lane int
	// Actions is float32 [n, action dim].
	Actions plugins.Tensor
	Render  Render
}

// ExpertStep is a request to let the scripted expert act.
type ExpertStep struct {
	Lane, Steps int
	// Noise is the std of Gaussian noise on each of the expert's actions, in action units. The noise follows from
	// the seed and the step of the episode. Actions are clipped to their range afterwards.
	Noise float32
	// Failure is one of EnvSpec.ExpertFailures, the same in all steps of an episode. It is "" if the expert must
	// not fail.
	Failure string
	Render  Render
}

// Observation is what a policy observes.
type Observation struct {
	// Images by camera, uint8 [H, W, 3].
	Images map[string]plugins.Tensor
	// Proprio is float32 [P].
	Proprio     plugins.Tensor
	Instruction string
}

// Transition is the outcome of Reset, Step or StepExpert.
type Transition struct {
	Observation Observation
	// Recorded is uint8 [frames, H, W, 3], or zero if no frame was recorded.
	Recorded plugins.Tensor
	// StepsDone counts the steps of this call, and EpisodeSteps those since Reset.
	StepsDone, EpisodeSteps int
	// Success implies Terminated.
	Success bool
	// Terminated is set if a rule of the env ended the episode. Truncated is set if the episode reached its
	// maximum number of steps. They exclude each other.
	Terminated, Truncated bool
	// Progress measures how far the task is done, 0 to 1. It is nil if the env does not measure it. It is for
	// audits and never for training.
	Progress *float64
	// Actions contains the executed actions, float32 [StepsDone, action dim], if the expert acted.
	Actions plugins.Tensor
	// Intended contains the expert's actions without [ExpertStep].Noise, in the shape of Actions. Zero means that
	// they equal Actions. Demonstrations are labelled with the intended actions.
	Intended plugins.Tensor
}

// Done reports whether the episode has ended.
func (t Transition) Done() bool { return t.Terminated || t.Truncated }
