// Package env is the contract of environments: tasks, lanes, episodes.
//
// A plugin's author implements [Env] and serves it with sdk.ServeEnv; the host holds a [Client]. An episode is Reset and then Step until Done.
package env

import (
	"context"
	"iter"

	"github.com/srpo-dev/srpo/plugins"
)

// Env holds one or more lanes, independent copies of the environment, numbered 0 to Config.Lanes-1. Calls for different lanes may come at the same
// time; calls for one lane never do.
type Env interface {
	plugins.Plugin
	// Describe says what the env's cameras, actions and proprio are.
	Describe(ctx context.Context) (plugins.EnvSpec, error)
	// Tasks yields every task in the env's own fixed order; it starts no simulator.
	Tasks(ctx context.Context) iter.Seq2[Task, error]
	// Reset begins an episode on a lane and returns its first observation.
	Reset(ctx context.Context, r Reset) (Transition, error)
	// Step executes a chunk of actions in order, until the chunk or the episode ends.
	Step(ctx context.Context, s Step) (Transition, error)
}

// Task is something to do in an env.
type Task struct {
	// ID is unique within the env, e.g. "libero_object/pick_up_the_bbq_sauce_and_place_it_in_the_basket".
	ID, Suite, Instruction string
	// StartStates is the number of start states.
	StartStates int
	// MaxSteps is when an episode is truncated.
	MaxSteps int
	// Tags such as dimension and level.
	Tags map[string]string
	// Unavailable says why the task cannot run here; empty: it can.
	Unavailable string
}

// Render says what will be looked at; nothing else need be rendered.
type Render struct {
	// Observe names the cameras of the observation, rendered once at the end of the call.
	Observe []string
	// Record names the camera recorded for the encoder; empty: none.
	Record string
	// RecordEvery is k: a frame after every k-th step of the episode, counted from its start; Reset records step 0.
	RecordEvery int
}

// Frames returns how many frames a chunk of n steps that begins after `from` executed steps records.
func (r Render) Frames(from, n int) int {
	if r.Record == "" || r.RecordEvery <= 0 {
		return 0
	}
	return (from+n)/r.RecordEvery - from/r.RecordEvery
}

// Reset asks for a new episode.
type Reset struct {
	Lane       int
	Task       string
	StartState int
	// Seed seeds everything random in the episode.
	Seed uint64
	// MaxSteps overrides the task's when > 0.
	MaxSteps int
	Render   Render
}

// Step asks for a chunk of actions to be executed.
type Step struct {
	Lane int
	// Actions is float32 [n, action dim]; zero when Expert is set.
	Actions plugins.Tensor
	// Expert > 0 lets the scripted expert act for that many steps instead.
	Expert int
	// ExpertNoise is the std of Gaussian noise on each expert action, in action units, seeded by the episode's seed and step.
	ExpertNoise float32
	// ExpertFailure is one of EnvSpec.ExpertFailures, the same in each step of an episode; empty: the expert does its best.
	ExpertFailure string
	Render        Render
}

// Observation is what a policy sees.
type Observation struct {
	// Images by camera, uint8 [H, W, 3].
	Images map[string]plugins.Tensor
	// Proprio is float32 [P].
	Proprio     plugins.Tensor
	Instruction string
}

// Transition is the outcome of Reset or Step.
type Transition struct {
	Observation Observation
	// Recorded is uint8 [frames, H, W, 3]; zero when none.
	Recorded plugins.Tensor
	// StepsDone counts the steps of this call, EpisodeSteps those since Reset.
	StepsDone, EpisodeSteps int
	// Success implies Terminated.
	Success bool
	// Terminated: the episode ended by the env's own rule. Truncated: it reached its most steps.
	Terminated, Truncated bool
	// Progress is the env's own measure of how far the task has come, 0 to 1; nil: it has none. For audits, never for training.
	Progress *float64
	// Actions is what was executed, float32 [StepsDone, action dim], when the expert acted.
	Actions plugins.Tensor
	// Intended is what the expert meant in its place, without [Step].ExpertNoise; zero: what was executed.
	Intended plugins.Tensor
}

// Done says whether the episode has ended.
func (t Transition) Done() bool { return t.Terminated || t.Truncated }
