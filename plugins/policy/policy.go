// Package policy is the contract of policies: act, learn and save.
package policy

import (
	"context"
	"iter"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Policy acts in batches and learns from what it recorded while it acted.
//
// The result of an item depends on its observation, its seed and the weights, and never on the other items of the
// batch. The policy keeps what an update needs, by trajectory and step.
type Policy interface {
	plugins.Plugin
	// Describe returns what the policy reads and emits.
	Describe(ctx context.Context) (Spec, error)
	// Act returns one result per item, in the order of the items.
	Act(ctx context.Context, a Act) ([]Result, error)
	// Update does one policy update. It can report its progress, 0 to 1. It does not apply an update ID a second
	// time, but returns the statistics of the first time with AlreadyApplied set. It returns an error of kind
	// Invalid for advantages that do not fit, NotFound for a trajectory that was not recorded, and Diverged if the
	// loss or a gradient is not finite.
	Update(ctx context.Context, u Update, progress func(float64)) (Statistics, error)
	// Forget frees what was recorded for the given trajectories, or for all if none is given.
	Forget(ctx context.Context, trajectories []string) error
	// Save writes weights, optimiser and random state into an existing empty folder and syncs the files.
	Save(ctx context.Context, folder string) error
	// Load restores what Save wrote, forgets recorded trajectories, and returns the last update ID of the loaded
	// state.
	Load(ctx context.Context, folder string) (uint64, error)
}

// Imitator is a policy that can be trained on demonstrations.
type Imitator interface {
	// Imitate trains by supervised learning. It reports the share that is done, 0 to 1, and the loss.
	Imitate(ctx context.Context, im Imitate, demos iter.Seq2[Demonstration, error],
		progress func(done, loss float64)) error
}

// RunBeginner is a policy that can begin a new run with what another run saved.
type RunBeginner interface {
	// BeginRun loads a folder as Load does, with two differences: it resets the optimiser, and the loaded weights
	// become the reference policy of the KL penalty.
	BeginRun(ctx context.Context, folder string) (uint64, error)
}

// BeginRun begins a new run with what is saved in a folder. A policy that is not a [RunBeginner] continues with
// the saved optimiser and reference policy.
func BeginRun(ctx context.Context, p Policy, folder string) (uint64, error) {
	if f, ok := p.(RunBeginner); ok {
		return f.BeginRun(ctx, folder)
	}
	return p.Load(ctx, folder)
}

// Spec describes a policy.
type Spec struct {
	// Cameras lists the cameras that the policy reads. An empty name means the env's recording camera, and 0 x 0
	// any size.
	Cameras []plugins.CameraRequest
	// Proprio reports whether the policy reads the proprio vector.
	Proprio bool
	// Action is the space of the emitted actions. Without names, the policy uses the env's space.
	Action plugins.ActionSpace
	// Chunk is the number of actions per call.
	Chunk      int
	Trainable  bool
	CanImitate bool
	// Parameters is the number of weights.
	Parameters int
	// MaxBatch is the largest number of items per call of Act. 0 means any number.
	MaxBatch int
	// WeighsSteps reports whether Imitate uses [Demonstration].Weights.
	WeighsSteps bool
}

// Act is a request for one chunk per item.
type Act struct {
	Items []Item
	// Greedy selects the most likely actions and ignores the seeds.
	Greedy      bool
	Temperature float64
	// Record makes the policy keep what Update needs.
	Record bool
}

// Item is the observation of one lane.
type Item struct {
	// Trajectory is unique in the run. Recorded chunks are kept by Trajectory and Step.
	Trajectory string
	// Step is the number of env steps executed before this chunk.
	Step        int
	Observation env.Observation
	Seed        uint64
}

// Result is a chunk of actions.
type Result struct {
	// Actions is float32 [chunk, action dim].
	Actions plugins.Tensor
	// LogProbs has one log-probability per chunk position. The sum over the executed positions is that of the chunk.
	LogProbs []float32
}

// Hyperparameters of one update: PPO's clipped objective with a KL penalty to the reference policy.
type Hyperparameters struct {
	// ClipLow and ClipHigh bound the ratio to [1-ClipLow, 1+ClipHigh].
	ClipLow, ClipHigh float64
	// ClipDual bounds the loss at ClipDual*A for a negative advantage A. 0 turns the bound off.
	ClipDual float64
	// KLBeta is the weight of KL(pi || pi_ref). 0 turns the penalty off.
	KLBeta float64
	Epochs int
	// MiniBatch is the number of chunks per mini-batch. 0 means that the policy chooses.
	MiniBatch int
}

// Update is a request for one policy update from recorded trajectories, in the order of their IDs.
type Update struct {
	// ID is unique in the run and increases.
	ID              uint64
	Trajectories    []Advantage
	Hyperparameters Hyperparameters
	// Temperature at which the trajectories were sampled.
	Temperature float64
	Seed        uint64
}

// Advantage of one trajectory.
type Advantage struct {
	Trajectory string
	// Values has one entry for the whole trajectory, or one per env step.
	Values []float64
	// Steps is the number of executed steps. Recorded actions after them are masked.
	Steps int
}

// Statistics of one update.
type Statistics struct {
	Loss, KL, ClipFraction, GradNorm, Entropy float64
	// FirstRatio is the mean ratio on the first mini-batch before any step. It is 1 if sampling and training agree.
	FirstRatio float64
	// Samples is the number of chunks of the update.
	Samples int
	// Extra contains other numbers for the run's metrics.
	Extra          map[string]float64
	AlreadyApplied bool
}

// Imitate is a request for supervised training. Its IDs and those of updates are one sequence.
type Imitate struct {
	ID   uint64
	Seed uint64
	// Steps is the number of gradient steps. 0 means that the policy chooses.
	Steps int
}

// Demonstration is one episode of T steps, observed before each action.
type Demonstration struct {
	ID, Instruction string
	// Images by camera, uint8 [T, H, W, 3].
	Images map[string]plugins.Tensor
	// Proprio is float32 [T, P], Actions float32 [T, action dim].
	Proprio, Actions plugins.Tensor
	Success          bool
	// Weights has one factor per step on the loss of its action, finite and 0 or more. With weights, a policy also
	// learns from failed episodes. Nil means that all factors are 1.
	Weights []float32
}
