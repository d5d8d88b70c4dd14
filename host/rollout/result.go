package rollout

import (
	"fmt"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// EpisodeID is "<iteration>/<task>/<group>/<index>". It names the trajectory in the policy too. Task ids may
// contain slashes.
func EpisodeID(iteration int, task string, group, index int) string {
	return fmt.Sprintf("%d/%s/%d/%d", iteration, task, group, index)
}

// Result is one iteration's rollouts.
type Result struct {
	// Groups that were rolled out, in the order of ids, including dropped ones.
	Groups []Group
	// Invalid are the invalid episodes, in the order of ids. They are in no group.
	Invalid []Episode
	// EnvSteps of all episodes, including invalid ones. Steps of failed attempts are in Timing.
	EnvSteps int
	Timing   Timing
}

// Group is a set of episodes of one task that are compared with each other.
type Group struct {
	ID   int
	Task string
	// Kept: its success rate is in the plan's range. Reason is a text that explains why it is not.
	Kept   bool
	Reason string
	// Successes among Episodes, which are in the order of their index and contain no invalid one.
	Successes int
	Episodes  []Episode
}

// Episode is one rollout.
type Episode struct {
	ID string
	// Iteration, Group and Index are its place. In a list of trials Index is its place in the list, and the
	// others are 0.
	Iteration, Group, Index int
	Task                    string
	StartState              int
	Seed                    uint64
	// Success implies Terminated. Terminated: by the env's own rule. Truncated: at the largest number of steps.
	Success, Terminated, Truncated bool
	// Invalid is why the episode ended early, with actions or log-probabilities that are NaN, infinite or out
	// of range; nil: it did not. An invalid episode is not rolled out again, because the same weights and seeds
	// would give the same numbers. It is not embedded, and the policy forgets what it recorded.
	Invalid *plugins.Error
	// Steps executed, in env steps.
	Steps int
	// Progress is the env's own last measure of progress, 0 to 1; nil: it has none. It is for audits, not for
	// training.
	Progress *float64
	// Furthest is the largest progress that was reported, at the ends of calls.
	Furthest *float64
	// LogProb is the sum of the log-probabilities of the executed actions, when the policy returned them.
	LogProb float64
	// Embedding of the recorded frames; nil when nothing was encoded, or when the vector is unusable for the reason
	// EmbeddingError.
	Embedding      []float32
	EmbeddingError string
	// FrameCount frames were recorded. Frames, uint8 [FrameCount, H, W, 3], are present only in OnFrames and where
	// Rules.KeepFrames keeps them.
	FrameCount int
	Frames     plugins.Tensor
	// Trajectory is the whole episode, observed before every action; nil without an action. It is present only in
	// OnFrames, when Rules.KeepTrajectory is set.
	Trajectory *policy.Demonstration
	// Retries is how often the episode was rolled out again. It depends on the machine, not on the episode.
	Retries int
}

// recordProgress stores the progress of a reply; nil: the env reports none.
func (e *Episode) recordProgress(progress *float64) {
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

// bytes that the recorded frames and the trajectory take, at least 1.
func (e *Episode) bytes() int {
	n := 1 + len(e.Frames.Data)
	if e.Trajectory != nil {
		for _, img := range e.Trajectory.Images {
			n += len(img.Data)
		}
		n += len(e.Trajectory.Proprio.Data) + len(e.Trajectory.Actions.Data)
	}
	return n
}

// Timing is where the time of a call went, in seconds. Lane-seconds are summed over lanes.
type Timing struct {
	// Wall is the duration of the whole call.
	Wall float64
	// Lanes at the start. LanesLost were given up because their process would not come back.
	Lanes, LanesLost int
	// Env is lane-seconds inside Reset and Step, PolicyWait lane-seconds between a request for actions and the
	// reply. Idle is the remaining lane-seconds: without an episode, or waiting for a process. Utilisation is
	// Env's share of all lane-seconds.
	Env, PolicyWait, Idle, Utilisation float64
	// Policy and Encode are seconds inside Act and Encode. They overlap with the others.
	Policy, Encode float64
	// ActCalls had ActItems items in total; EncodeCalls had EncodeClips clips.
	ActCalls, ActItems, EncodeCalls, EncodeClips int
	// Faults that were survived. LostSteps were executed in attempts that failed.
	Faults, LostSteps int
}
