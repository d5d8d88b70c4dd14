// Package policy is the contract of policies: act, learn, save.
package policy

import (
	"context"
	"iter"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Policy acts in batches and learns from what it recorded while acting.
//
// An item's result depends on its observation, its seed and the weights, never on the batch it came in. What an update needs, the policy keeps itself,
// keyed by trajectory and step.
type Policy interface {
	plugins.Plugin
	Describe(ctx context.Context) (Spec, error)
	Act(ctx context.Context, a Act) ([]Result, error)
	// Update makes one policy update; progress (0 to 1) may be called while it runs. An update id that was applied before is not applied again: its
	// statistics are returned once more, with AlreadyApplied set.
	Update(ctx context.Context, u Update, progress func(float64)) (Statistics, error)
	// Forget frees what was recorded for trajectories; none named: all.
	Forget(ctx context.Context, trajectories []string) error
	// Save writes weights, optimiser and RNG state into an existing empty folder and fsyncs the files.
	Save(ctx context.Context, folder string) error
	// Load restores what Save wrote, forgets recorded trajectories and returns the last update id that the state contains.
	Load(ctx context.Context, folder string) (uint64, error)
}

// Imitator is a policy that can be trained on demonstrations.
type Imitator interface {
	// Imitate trains by supervised learning; progress gets the share done and the loss.
	Imitate(ctx context.Context, im Imitate, demos iter.Seq2[Demonstration, error], progress func(done, loss float64)) error
}

// RunBeginner is a policy that can begin a new run with what another run saved.
type RunBeginner interface {
	// BeginRun is Load, but for two things: the optimiser begins anew, and what was loaded is the starting policy that KL is measured to.
	BeginRun(ctx context.Context, folder string) (uint64, error)
}

// BeginRun begins a new run with a folder. A policy that is no [RunBeginner] goes on with the optimiser and the starting policy that were saved.
func BeginRun(ctx context.Context, p Policy, folder string) (uint64, error) {
	if f, ok := p.(RunBeginner); ok {
		return f.BeginRun(ctx, folder)
	}
	return p.Load(ctx, folder)
}

// Spec is what a policy says of itself.
type Spec struct {
	// Cameras it reads; an empty name means the env's recording camera, 0 x 0 any size.
	Cameras []plugins.CameraRequest
	// Proprio says whether it reads the proprio vector.
	Proprio bool
	// Action is the space that it emits; without names it takes the env's.
	Action plugins.ActionSpace
	// Chunk is the number of actions it emits at once.
	Chunk      int
	Trainable  bool
	CanImitate bool
	Parameters int
	// MaxBatch is the number of items it likes in one Act; 0: any.
	MaxBatch int
	// WeighsSteps says that Imitate honours [Demonstration].Weights.
	WeighsSteps bool
}

// Act asks for one chunk for each item.
type Act struct {
	Items []Item
	// Greedy takes the most likely actions; seeds are then ignored.
	Greedy      bool
	Temperature float64
	// Record keeps what Update needs.
	Record bool
}

// Item is one lane's turn.
type Item struct {
	// Trajectory is unique in the run; with Step it keys what Update needs.
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
	// LogProbs has one log-probability a chunk position; the sum over the executed ones is the chunk's.
	LogProbs []float32
}

// Hyperparameters of one update (algorithm.md 1.5, PPO's clipped objective with KL to the starting policy).
type Hyperparameters struct {
	// ClipLow and ClipHigh bound the ratio to [1-ClipLow, 1+ClipHigh].
	ClipLow, ClipHigh float64
	// ClipDual bounds the loss for negative advantages at ClipDual*A; 0: none.
	ClipDual float64
	// KLBeta weighs KL(pi || pi_ref); 0 turns it off.
	KLBeta float64
	Epochs int
	// MiniBatch is the number of chunks in a mini-batch; 0: the policy's own choice.
	MiniBatch int
}

// Update asks for one policy update from recorded trajectories, given in the order of their ids.
type Update struct {
	// ID is unique in the run and grows.
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
	// Values has one entry for the whole trajectory, or one an env step.
	Values []float64
	// Steps executed; recorded actions beyond are masked.
	Steps int
}

// Statistics of one update.
type Statistics struct {
	Loss, KL, ClipFraction, GradNorm, Entropy float64
	// FirstRatio is the mean ratio on the first mini-batch before any step: 1 when sampling and training agree.
	FirstRatio     float64
	Samples        int
	Extra          map[string]float64
	AlreadyApplied bool
}

// Imitate asks for supervised training.
type Imitate struct {
	ID   uint64
	Seed uint64
	// Steps of gradient descent; 0: the policy's own choice.
	Steps int
}

// Demonstration is one episode, observed before every action.
type Demonstration struct {
	ID, Instruction string
	// Images by camera, uint8 [T, H, W, 3].
	Images map[string]plugins.Tensor
	// Proprio is float32 [T, P], Actions float32 [T, action dim].
	Proprio, Actions plugins.Tensor
	Success          bool
	// Weights are factors on the loss of each step's action, one a step, finite and 0 or more, without unit. Where they are given, a failed episode is learned
	// from too: they say what its steps are worth. nil: all 1.
	Weights []float32
}
