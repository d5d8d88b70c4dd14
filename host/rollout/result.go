package rollout

import (
	"fmt"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// EpisodeID is "<iteration>/<task>/<group>/<index>", the trajectory's name in the policy too. Task ids may hold slashes.
func EpisodeID(iteration int, task string, group, index int) string {
	return fmt.Sprintf("%d/%s/%d/%d", iteration, task, group, index)
}

// Result is what an iteration's rollouts gave.
type Result struct {
	// Groups that were rolled, in the order of ids, the dropped ones too.
	Groups []Group
	// Invalid are the episodes that ended with a number of the policy's that cannot be used, in the order of ids. They belong to no group any more.
	Invalid []Episode
	// EnvSteps of all their episodes, the spoilt ones too. Steps of attempts that were lost are in Timing.
	EnvSteps int
	Timing   Timing
}

// Group is a set of episodes of one task that are compared with each other.
type Group struct {
	ID   int
	Task string
	// Kept: its success rate lies in the plan's range. Reason says in words why not.
	Kept   bool
	Reason string
	// Successes among Episodes, which are in the order of their index, without those that are invalid.
	Successes int
	Episodes  []Episode
}

// Episode is one rollout.
type Episode struct {
	ID string
	// Iteration, Group and Index place it; in an evaluation Index is its place in the list, and the others are 0.
	Iteration, Group, Index int
	Task                    string
	StartState              int
	Seed                    uint64
	// Success implies Terminated. Terminated: by the env's own rule. Truncated: at its most steps.
	Success, Terminated, Truncated bool
	// Invalid says why the episode ended early, with actions or log-probabilities that cannot be used: NaN, infinite or out of range. nil: it did not. It is
	// never rolled again, as the same weights and seeds would say the same, never embedded, and what the policy recorded of it is forgotten.
	Invalid *plugins.Error
	// Steps executed, in env steps.
	Steps int
	// Progress is the env's own last measure of how far the task came, 0 to 1; nil: it has none. For audits, never for training.
	Progress *float64
	// Furthest is the largest of those that were reported, at the ends of calls.
	Furthest *float64
	// LogProb is the sum of the log-probabilities of the executed actions, when the policy gave them.
	LogProb float64
	// Embedding of the recorded frames; nil when nothing was encoded or the vector is unusable: then EmbeddingError says why.
	Embedding      []float32
	EmbeddingError string
	// FrameCount frames were recorded. Frames, uint8 [FrameCount, H, W, 3], are here only when they were wanted and fitted (see Rules.KeepFrames).
	FrameCount int
	Frames     plugins.Tensor
	// Actions executed, float32 [Steps, action dim], when Rules.KeepActions is set.
	Actions plugins.Tensor
	// Trajectory is the whole episode, observed before every action; it is there in OnFrames, when Rules.KeepTrajectory is set, and dropped then.
	Trajectory *policy.Demonstration
	// Retries is how often it had to be rolled again; it says something of the machine, not of the episode.
	Retries int
}

// came notes how far the task has come, as a reply says; nil: it does not say.
func (e *Episode) came(progress *float64) {
	if progress == nil {
		return
	}
	p := min(max(*progress, 0), 1)
	furthest := p
	if e.Furthest != nil {
		furthest = max(p, *e.Furthest)
	}
	e.Progress, e.Furthest = &p, &furthest
}

// before orders episodes by id.
func (e *Episode) before(o *Episode) bool {
	if e.Group != o.Group {
		return e.Group < o.Group
	}
	return e.Index < o.Index
}

// Timing tells where the time went, in seconds. Lane-seconds add over lanes.
type Timing struct {
	// Wall is how long the whole call took.
	Wall float64
	// Lanes that there were, LanesLost those that were given up because their process would not come back.
	Lanes, LanesLost int
	// Env is lane-seconds inside Reset and Step, PolicyWait lane-seconds between asking for an action and having it, Idle the lane-seconds that remain:
	// without an episode, or waiting for a process. Utilisation is Env's share of all lane-seconds.
	Env, PolicyWait, Idle, Utilisation float64
	// Policy and Encode are seconds inside Act and Encode; they overlap with the rest.
	Policy, Encode float64
	// ActCalls carried ActItems requests; EncodeCalls carried EncodeClips clips.
	ActCalls, ActItems, EncodeCalls, EncodeClips int
	// Faults that were survived; LostSteps were executed in attempts that did not count.
	Faults, LostSteps int
}
