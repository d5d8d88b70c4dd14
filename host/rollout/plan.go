package rollout

import (
	"math"
	"slices"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Rules say how an episode is rolled; they are the same for all episodes of a call.
type Rules struct {
	// Observe names the cameras that the policy reads.
	Observe []string
	// RecordCamera is recorded every RecordEvery env steps, and at step 0; empty: nothing is recorded.
	RecordCamera string
	RecordEvery  int
	// MaxSteps replaces the tasks' own when > 0, in env steps.
	MaxSteps int
	// Greedy takes the most likely actions; Temperature is for sampling, > 0.
	Greedy      bool
	Temperature float64
	// Record makes the policy keep what Update needs, for the trajectories with the episodes' ids.
	Record bool
	// Encode embeds every episode's recorded frames, made equally long as EqualLength says.
	Encode      bool
	EqualLength EqualLength
	// KeepFrames says of which finished (and encoded) episodes the recorded frames are wanted in the result; nil: of none. It must depend on the episode
	// alone, and is never called twice at a time. Wanted frames are kept in the order of ids until they fill FrameBytes (0: 256 MiB).
	KeepFrames func(Episode) bool
	FrameBytes int
	// OnFrames, when set, is called with each finished (and encoded) episode while its recorded frames are there, in the order of arrival and never twice at a
	// time. Whoever keeps the frames does not change them. An episode that is rolled again after the policy was lost comes again.
	OnFrames func(Episode)
	// KeepActions keeps the executed actions in the result.
	KeepActions bool
	// KeepTrajectory observes before every action, not only where a chunk begins, and gives OnFrames each episode with its [Episode].Trajectory. Chunks are
	// then executed an action at a time; what happens is the same. AlsoObserve names cameras that are kept so though the policy does not read them.
	KeepTrajectory bool
	AlsoObserve    []string
}

const defaultFrameBytes = 256 << 20

func (r Rules) render() env.Render {
	if r.RecordCamera == "" {
		return env.Render{Observe: r.cameras()}
	}
	return env.Render{Observe: r.cameras(), Record: r.RecordCamera, RecordEvery: r.RecordEvery}
}

// cameras are those that are observed: the policy's, and those that a trajectory keeps besides.
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

// GroupBy says what the members of a group have in common.
type GroupBy int

// The two ways to group.
const (
	ByTask  GroupBy = iota // one task; a start state for each episode
	ByStart                // one task and one start state
)

// Order says how tasks are given to groups.
type Order int

// The two orders.
const (
	// RoundRobin gives group g of iteration i the task number (i*Groups + g) mod n, so that iterations go on where the last one stopped and every task gets
	// as many groups as any other; replacement groups go on in the same order.
	RoundRobin Order = iota
	// Drawn draws each group's task by seed, with the tasks' weights.
	Drawn
)

// PlanTask is a task to train on.
type PlanTask struct {
	env.Task
	// Weight for [Drawn]; all 0: all equal.
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
	// Groups wanted, of GroupSize episodes each.
	Groups, GroupSize int
	// A group is kept when KeepLow <= its success rate <= KeepHigh; others are replaced, by at most ExtraGroups more.
	KeepLow, KeepHigh float64
	ExtraGroups       int
}

func (s *Scheduler) checkRules(r Rules) error {
	bad := func(hint, format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithHint("%s", hint)
	}
	switch {
	case s.lanes() < 1:
		return bad("give the env at least one lane", "no lanes to roll on")
	case s.Policy == nil:
		return bad("name a policy", "no policy to act")
	case !r.Greedy && !(r.Temperature > 0 && !math.IsInf(r.Temperature, 0)):
		return bad("a number above 0, or greedy", "temperature is %v", r.Temperature)
	case r.RecordCamera != "" && r.RecordEvery < 1:
		return bad("1 or more env steps", "record_every is %d", r.RecordEvery)
	case r.Encode && s.Encoder == nil:
		return bad("name an encoder, or turn encoding off", "no encoder to embed episodes with")
	case r.Encode && r.RecordCamera == "":
		return bad("name a camera to record for the encoder", "no camera is recorded, so there is nothing to encode")
	case r.Encode && s.EncoderSpec.Dimension < 1:
		return bad("Describe must give the length of its vectors", "%s has dimension %d", s.EncoderName, s.EncoderSpec.Dimension)
	case r.EqualLength.Mode < None || r.EqualLength.Mode > Hold || r.EqualLength.Frames < 0:
		return bad("none, cut or hold", "equal_length is %v", r.EqualLength)
	}
	if err := s.EnvSpec.Action.Check(); err != nil {
		return plugins.AsError(err).WithPlace("%s", s.EnvName)
	}
	return nil
}

func checkTask(t env.Task, r Rules) error {
	bad := func(hint, format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("task %s", t.ID).WithHint("%s", hint)
	}
	switch {
	case t.Unavailable != "":
		return bad("leave the task out", "cannot run here: %s", t.Unavailable)
	case t.StartStates < 1:
		return bad("the env's task list is broken", "has %d start states", t.StartStates)
	case r.maxSteps(t) < 1:
		return bad("set max_steps", "has no end: max_steps is %d", r.maxSteps(t))
	}
	return nil
}

func checkState(t env.Task, state int) error {
	if state < 0 || state >= t.StartStates {
		return plugins.Errorf(plugins.Invalid, "has no start state %d", state).WithPlace("task %s", t.ID).WithHint("0 to %d", t.StartStates-1)
	}
	return nil
}

func (s *Scheduler) checkPlan(p Plan) error {
	bad := func(hint, format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithHint("%s", hint)
	}
	if err := s.checkRules(p.Rules); err != nil {
		return err
	}
	switch {
	case len(p.Tasks) == 0:
		return bad("name at least one task", "no tasks to roll")
	case p.Groups < 1 || p.GroupSize < 1 || p.ExtraGroups < 0:
		return bad("groups and group_size are 1 or more, extra_groups 0 or more", "%d groups of %d with %d extra", p.Groups, p.GroupSize, p.ExtraGroups)
	case !(p.KeepLow <= p.KeepHigh): // NaN too
		return bad("0 <= keep_low <= keep_high <= 1", "keep_low is %v, keep_high %v", p.KeepLow, p.KeepHigh)
	case p.Iteration < 0:
		return bad("iterations count from 0", "iteration is %d", p.Iteration)
	}
	for _, t := range p.Tasks {
		if err := checkTask(t.Task, p.Rules); err != nil {
			return err
		}
		if t.States != nil && len(t.States) == 0 {
			return bad("another train_fraction, or all start states", "task %s: no start states to draw from", t.ID)
		}
		for _, state := range t.States {
			if err := checkState(t.Task, state); err != nil {
				return err
			}
		}
		if !(t.Weight >= 0) || math.IsInf(t.Weight, 0) {
			return bad("0 or more", "task %s has weight %v", t.ID, t.Weight)
		}
		if p.Order == RoundRobin && t.Weight != 0 {
			return bad("draw tasks by weight, or leave the weights out", "task %s has weight %v, but tasks are given round robin", t.ID, t.Weight)
		}
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

// group lists the episodes of group g, before they are rolled.
func (p Plan) group(g int) []*job {
	t := p.task(g)
	jobs := make([]*job, p.GroupSize)
	for m := range jobs {
		jobs[m] = &job{task: t.Task, episode: Episode{
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
