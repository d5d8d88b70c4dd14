package rollout

import (
	"context"
	"sync"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Worker is a plugin's process as the scheduler sees it. The process is started and restarted behind it;
// host/supervise implements it.
type Worker[T any] interface {
	// Client returns the live, configured plugin and the incarnation of its process. It starts or restarts the
	// process where needed. ctx bounds the wait, not the life of the process. An error other than ctx's own
	// means that the process will not come back, because its restart budget is spent.
	Client(ctx context.Context) (client T, incarnation uint64, err error)
	// Failed reports that a call to that incarnation failed in a way that requires a new process. Repeated reports of
	// one incarnation change nothing.
	Failed(incarnation uint64, cause error)
}

// EnvProc is one process of an env.
type EnvProc struct {
	Worker Worker[env.Env]
	// Lanes is the number of lanes that the process was configured with, numbered 0 to Lanes-1.
	Lanes int
}

// Scheduler rolls out episodes on the processes of one env, one policy and one encoder. Its methods do not change it,
// but only one of them may run at a time on the same envs.
type Scheduler struct {
	Envs    []*EnvProc
	Policy  Worker[policy.Policy]   // nil: no policy acts
	Encoder Worker[encoder.Encoder] // nil: nothing can be encoded

	EnvSpec     plugins.EnvSpec
	PolicySpec  policy.Spec
	EncoderSpec encoder.Spec

	// EnvName, PolicyName and EncoderName are for error messages, e.g. "env libero"; empty: just "env".
	EnvName, PolicyName, EncoderName string

	// PolicyIncarnation is the incarnation that holds the weights to act with, see [Scheduler.ActingPolicy]. 0: any.
	PolicyIncarnation uint64

	// Progress, when set, is called after every finished episode, never concurrently.
	Progress func(Progress)
	// OnFault, when set, is called with every fault that cost an attempt only, never concurrently.
	OnFault func(Fault)

	// maxWaiting bounds the bytes of finished episodes that wait to be encoded or kept: above it, lanes begin no new
	// episode. 0: defaultMaxWaiting. [Cut] at the shortest clip is exempt, because it encodes nothing before all
	// episodes are rolled out.
	maxWaiting int
}

// Progress is for a status line.
type Progress struct {
	// Episodes are rolled out, of Total planned so far. Total grows as groups are replaced.
	Episodes, Total int
	// EnvSteps and Successes of those episodes.
	EnvSteps, Successes int
}

// Fault is a failure that cost an attempt, not the run.
type Fault struct {
	// Episode is the id of the episode that is rolled out or encoded again; empty: a lane was given up.
	Episode string
	// Place is for example "env libero, process 2, lane 0".
	Place string
	Err   error
}

const (
	defaultMaxWaiting = 2 << 30
	// defaultEncodeBatch is for encoders that take any number of clips: enough to fill a device, and small enough for
	// encoding and rollouts to overlap.
	defaultEncodeBatch = 16
)

func (s *Scheduler) withDefaults() *Scheduler {
	c := *s
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&c.maxWaiting, defaultMaxWaiting)
	set(&c.EncoderSpec.Batch, defaultEncodeBatch)
	name := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	name(&c.EnvName, "env")
	name(&c.PolicyName, "policy")
	name(&c.EncoderName, "encoder")
	if f := s.OnFault; f != nil {
		var mu sync.Mutex
		c.OnFault = func(fault Fault) { mu.Lock(); defer mu.Unlock(); f(fault) }
	} else {
		c.OnFault = func(Fault) {}
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	return &c
}

func (s *Scheduler) lanes() int {
	n := 0
	for _, p := range s.Envs {
		n += p.Lanes
	}
	return n
}

// ActingPolicy returns the policy that holds the weights of PolicyIncarnation, and its incarnation. A process
// that was restarted since they were loaded has neither these weights nor what the policy recorded: the error
// is then [ErrPolicyLost].
func (s *Scheduler) ActingPolicy(ctx context.Context) (client policy.Policy, incarnation uint64, err error) {
	client, incarnation, err = s.Policy.Client(ctx)
	if err != nil {
		return nil, 0, plugins.AsError(err).WithPlace("%s", s.PolicyName)
	}
	if s.PolicyIncarnation != 0 && incarnation != s.PolicyIncarnation {
		cause := plugins.Errorf(plugins.Unavailable, "the process was restarted after its weights were loaded")
		return nil, 0, PolicyLost(s.PolicyName, cause)
	}
	return client, incarnation, nil
}

// Run rolls out one iteration's groups, encodes their episodes, and returns them in the order of ids.
//
// Groups whose success rate is outside of the plan's range are dropped and replaced by the group with the next
// id, within the budget. The ids that are rolled out depend on the plan and the policy only: they are the
// smallest prefix of ids with Plan.Groups kept groups, or the whole budget. So Result may contain fewer kept
// groups than the plan asks for, which is not an error. Invalid episodes (see [Episode.Invalid]) are left out
// of their groups. It is an error when there is more than one and they are more than a fifth of all. The policy
// forgets what it recorded for dropped groups.
//
// Errors are *plugins.Error values: Invalid for the plan; [ErrPolicyLost] in the chain when the policy must be loaded
// again; Canceled or Deadline with ctx's own error in the chain when ctx ended; otherwise the error that an episode,
// which it names, or a plugin could not recover from. Every goroutine has ended when Run returns.
func (s *Scheduler) Run(ctx context.Context, p Plan) (*Result, error) {
	s = s.withDefaults()
	if err := s.checkPlan(p); err != nil {
		return nil, err
	}
	x, err := s.start(ctx, p.Rules, true)
	if err != nil {
		return nil, err
	}
	groups := sampler{plan: p}
	episodes := map[string]*Episode{}
	x.add(groups.begin())
	err = x.collect((p.Groups+p.ExtraGroups)*p.GroupSize, handlers{rolled: func(e *Episode) {
		episodes[e.ID] = e
		g := groups.rolled(e)
		if g == nil {
			return
		}
		x.add(groups.begin())
		if !g.Kept && p.Record {
			x.policy.forgetLater(ids(p.group(g.ID)))
		}
	}})
	timing, err := x.end(err)
	if err != nil {
		return nil, err
	}

	result := &Result{Groups: groups.groups, Timing: timing}
	for g := range result.Groups {
		for _, j := range p.group(g) {
			e := episodes[j.episode.ID]
			if e.Invalid != nil {
				result.Invalid = append(result.Invalid, *e)
			} else {
				result.Groups[g].Episodes = append(result.Groups[g].Episodes, *e)
			}
			result.EnvSteps += e.Steps
		}
	}
	if err := tooManyInvalid(x.invalid, len(episodes), x.lastInvalid); err != nil {
		return nil, err
	}
	return result, nil
}

func ids(jobs []*job) []string {
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		ids[i] = j.episode.ID
	}
	return ids
}
