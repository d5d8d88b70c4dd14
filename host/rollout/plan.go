package rollout

import (
	"math"
	"slices"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Rules are how episodes are rolled out, the same for all episodes of a call.
type Rules struct {
	// Observe names the cameras that the policy reads.
	Observe []string
	// RecordCamera is recorded every RecordEvery env steps, and at step 0; empty: nothing is recorded.
	RecordCamera string
	RecordEvery  int
	// MaxSteps replaces the tasks' own when > 0, in env steps.
	MaxSteps int
	// Greedy takes the most likely actions. Temperature is for sampling, > 0.
	Greedy      bool
	Temperature float64
	// Record makes the policy keep what Update needs, under the episodes' ids.
	Record bool
	// Encode embeds every episode's recorded frames, made equally long by EqualLength.
	Encode      bool
	EqualLength EqualLength
	// KeepFrames selects the finished (and encoded) episodes whose recorded frames the result keeps; nil: none.
	// It must depend on the episode alone, and is never called concurrently. Frames are kept in the order of
	// ids until they fill FrameBytes (0: 256 MiB).
	KeepFrames func(Episode) bool
	FrameBytes int
	// OnFrames, when set, is called with each finished (and encoded) episode while its recorded frames are
	// present, in the order of completion and never concurrently. It must not change the frames. An episode
	// that is rolled out again after the policy was lost is passed again.
	OnFrames func(Episode)
	// KeepTrajectory observes before every action, not only before a chunk, and passes each episode with its
	// [Episode].Trajectory to OnFrames. Chunks are executed one action per call, which does not change the episode.
	// AlsoObserve names cameras of the trajectory that the policy does not read.
	KeepTrajectory bool
	AlsoObserve    []string
	// keepIntended makes trajectories contain the action that the expert intended where noise changed it.
	keepIntended bool
}

const defaultFrameBytes = 256 << 20

func (r Rules) render() env.Render {
	if r.RecordCamera == "" {
		return env.Render{Observe: r.cameras()}
	}
	return env.Render{Observe: r.cameras(), Record: r.RecordCamera, RecordEvery: r.RecordEvery}
}

// cameras are the policy's cameras, and those that only a trajectory contains.
func (r Rules) cameras() []string {
	out := r.Observe
	if r.KeepTrajectory {
		out = slices.Clone(out)
		for _, c := range r.AlsoObserve {
			if !slices.Contains(out, c) {
				out = append(out, c)
			}
		}
	}
	return out
}

func (r Rules) maxSteps(t env.Task) int {
	if r.MaxSteps > 0 {
		return r.MaxSteps
	}
	return t.MaxSteps
}

// GroupBy is what the members of a group have in common.
type GroupBy int

// The two ways to group.
const (
	ByTask  GroupBy = iota // one task; a start state for each episode
	ByStart                // one task and one start state
)

// Order is how groups get their tasks.
type Order int

// The two orders.
const (
	// RoundRobin gives group g of iteration i the task number (i*Groups + g) mod n. So an iteration continues
	// where the previous one stopped, and every task gets the same number of groups. Replacement groups
	// continue in the same order.
	RoundRobin Order = iota
	// Drawn draws each group's task by seed, with the tasks' weights.
	Drawn
)

// PlanTask is a task to train on.
type PlanTask struct {
	env.Task
	// Weight for [Drawn]; when all weights are 0, all tasks are equally likely.
	Weight float64
	// States to draw from, each in 0..StartStates-1; nil: all.
	States []int
}

// Plan is one iteration's rollouts.
type Plan struct {
	Rules
	// Seed of the run; Iteration counts from 0.
	Seed      uint64
	Iteration int
	Tasks     []PlanTask
	Order     Order
	GroupBy   GroupBy
	// Groups to keep, of GroupSize episodes each.
	Groups, GroupSize int
	// A group is kept when KeepLow <= its success rate <= KeepHigh. Others are replaced, by at most ExtraGroups more.
	KeepLow, KeepHigh float64
	ExtraGroups       int
}

func invalid(hint, format string, args ...any) *plugins.Error {
	return plugins.Errorf(plugins.Invalid, format, args...).WithHint("%s", hint)
}

// checkEnv checks what every call needs.
func (s *Scheduler) checkEnv() error {
	if s.lanes() < 1 {
		return invalid("give the env at least one lane", "no lanes to roll out on")
	}
	if err := s.EnvSpec.Action.Check(); err != nil {
		return plugins.AsError(err).WithPlace("%s", s.EnvName)
	}
	return nil
}

// checkRules checks the rules of a call in which the policy acts.
func (s *Scheduler) checkRules(r Rules) error {
	if err := s.checkEnv(); err != nil {
		return err
	}
	switch {
	case s.Policy == nil:
		return invalid("name a policy", "no policy to act")
	case !r.Greedy && !(r.Temperature > 0 && !math.IsInf(r.Temperature, 0)):
		return invalid("set it to a number above 0, or act greedily", "temperature is %v", r.Temperature)
	case r.RecordCamera != "" && r.RecordEvery < 1:
		return invalid("set it to 1 or more env steps", "record_every is %d", r.RecordEvery)
	case r.Encode && s.Encoder == nil:
		return invalid("name an encoder, or turn encoding off", "no encoder to embed episodes with")
	case r.Encode && r.RecordCamera == "":
		return invalid(
			"name a camera to record for the encoder",
			"no camera is recorded, so there is nothing to encode",
		)
	case r.Encode && s.EncoderSpec.Dimension < 1:
		return invalid("Describe must return the length of its vectors",
			"%s has dimension %d", s.EncoderName, s.EncoderSpec.Dimension)
	case r.EqualLength.Mode < None || r.EqualLength.Mode > Hold || r.EqualLength.Frames < 0:
		return invalid("use none, cut or hold", "equal_length is %v", r.EqualLength)
	}
	return nil
}

func checkTask(t env.Task, r Rules) error {
	var err *plugins.Error
	switch {
	case t.Unavailable != "":
		err = invalid("leave the task out", "cannot run here: %s", t.Unavailable)
	case t.StartStates < 1:
		err = invalid("fix the env's task list", "has %d start states", t.StartStates)
	case r.maxSteps(t) < 1:
		err = invalid("set max_steps", "has no end: max_steps is %d", r.maxSteps(t))
	default:
		return nil
	}
	return err.WithPlace("task %s", t.ID)
}

func checkState(t env.Task, state int) error {
	if state < 0 || state >= t.StartStates {
		return plugins.Errorf(plugins.Invalid, "has no start state %d", state).WithPlace("task %s", t.ID).
			WithHint("use 0 to %d", t.StartStates-1)
	}
	return nil
}

func (s *Scheduler) checkPlan(p Plan) error {
	if err := s.checkRules(p.Rules); err != nil {
		return err
	}
	switch {
	case len(p.Tasks) == 0:
		return invalid("name at least one task", "no tasks to roll out")
	case p.Groups < 1 || p.GroupSize < 1 || p.ExtraGroups < 0:
		return invalid("set groups and group_size to 1 or more, extra_groups to 0 or more",
			"%d groups of %d with %d extra", p.Groups, p.GroupSize, p.ExtraGroups)
	case !(p.KeepLow <= p.KeepHigh): // NaN too
		return invalid("set 0 <= keep_low <= keep_high <= 1", "keep_low is %v, keep_high %v", p.KeepLow, p.KeepHigh)
	case p.Iteration < 0:
		return invalid("iterations count from 0", "iteration is %d", p.Iteration)
	}
	for _, t := range p.Tasks {
		if err := p.checkTask(t); err != nil {
			return err
		}
	}
	return nil
}

func (p Plan) checkTask(t PlanTask) error {
	if err := checkTask(t.Task, p.Rules); err != nil {
		return err
	}
	for _, state := range t.States {
		if err := checkState(t.Task, state); err != nil {
			return err
		}
	}
	switch {
	case t.States != nil && len(t.States) == 0:
		return invalid("use another train_fraction, or all start states", "task %s: no start states to draw from",
			t.ID)
	case !(t.Weight >= 0) || math.IsInf(t.Weight, 0):
		return invalid("set it to 0 or more", "task %s has weight %v", t.ID, t.Weight)
	case p.Order == RoundRobin && t.Weight != 0:
		return invalid("draw tasks by weight, or leave the weights out",
			"task %s has weight %v, but tasks are given round robin", t.ID, t.Weight)
	}
	return nil
}

// task returns the task of group g.
func (p Plan) task(g int) PlanTask {
	if p.Order == RoundRobin {
		return p.Tasks[(p.Iteration*p.Groups+g)%len(p.Tasks)]
	}
	total := 0.0
	for _, t := range p.Tasks {
		total += t.Weight
	}
	seed := Seed(p.Seed, "task", p.Iteration, g)
	if total == 0 {
		return p.Tasks[draw(seed, len(p.Tasks))]
	}
	at, last := unit(seed)*total, 0
	for i, t := range p.Tasks {
		if t.Weight > 0 {
			last = i
		}
		if at -= t.Weight; at < 0 {
			return t
		}
	}
	return p.Tasks[last] // rounding
}

// group lists the episodes of group g, before they are rolled out.
func (p Plan) group(g int) []*job {
	t := p.task(g)
	jobs := make([]*job, p.GroupSize)
	for m := range jobs {
		jobs[m] = &job{task: t.Task, actor: Actor{Policy: true}, episode: Episode{
			ID: EpisodeID(p.Iteration, t.ID, g, m), Iteration: p.Iteration, Group: g, Index: m, Task: t.ID,
			StartState: p.startState(t, g, m),
			Seed:       Seed(p.Seed, "episode", p.Iteration, t.ID, g, m),
		}}
	}
	return jobs
}

// startState draws with replacement.
func (p Plan) startState(t PlanTask, g, m int) int {
	seed := Seed(p.Seed, "start", p.Iteration, t.ID, g, m)
	if p.GroupBy == ByStart {
		seed = Seed(p.Seed, "start", p.Iteration, t.ID, g)
	}
	if t.States == nil {
		return draw(seed, t.StartStates)
	}
	return t.States[draw(seed, len(t.States))]
}
