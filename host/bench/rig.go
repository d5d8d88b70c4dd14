package bench

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// rigOptions say what episodes are rolled with.
type rigOptions struct {
	env         supervise.Launch
	envSettings plugins.Settings
	// policy is the process of the policy that does nothing; nil: it is a function in the host's process.
	policy *supervise.Launch
	lanes  int
	// alone gives each lane a process of its own; otherwise there are as few as hold the lanes.
	alone bool
	chunk int
	// see passes the frame on to the policy and asks the env for it.
	see  bool
	wave float64
	// task is the id of the task; empty: the first one.
	task string
	// arenaMB is each process's shared memory; 0: bytes in messages.
	arenaMB int
}

// rig is the host's real path without a run around it: supervised processes, mutual TLS, gRPC, shared
// memory, scheduler.
type rig struct {
	super *supervise.Supervisor
	sched *rollout.Scheduler
	task  env.Task
	opts  rigOptions
	// inStep are lane-nanoseconds inside Step.
	inStep atomic.Int64
	rolls  int
	procs  []func() *supervise.Process
}

const startTimeout = 5 * time.Minute

func newRig(ctx context.Context, o rigOptions) (_ *rig, err error) {
	super, err := supervise.New(supervise.Options{StartTimeout: startTimeout, ArenaBytes: o.arenaMB << 20})
	if err != nil {
		return nil, err
	}
	r := &rig{super: super, sched: &rollout.Scheduler{EnvName: "env " + o.env.Name, PolicyName: "policy " + Name},
		opts: o}
	defer func() {
		if err != nil {
			super.Close()
		}
	}()
	if err = r.startEnvs(ctx); err != nil {
		return nil, err
	}
	return r, r.startPolicy(ctx)
}

func (r *rig) startEnvs(ctx context.Context) error {
	o := r.opts
	var shares []int
	start := func(i int) *supervise.ProcessWorker[env.Env] {
		l := o.env
		if i > 0 {
			l.Instance = strconv.Itoa(i + 1)
		}
		return supervise.NewEnv(r.super, l, func(ctx context.Context, e env.Env) error {
			if shares == nil {
				info, err := e.Info(ctx)
				if err != nil {
					return err
				}
				each := info.MaxLanes
				if o.alone {
					each = 1
				}
				shares = supervise.SplitLanes(o.lanes, each)
			}
			return e.Configure(ctx, plugins.Config{Settings: o.envSettings, WorldSize: 1, Lanes: shares[i]})
		})
	}
	first := start(0)
	e, _, err := first.Client(ctx)
	if err != nil {
		return err
	}
	if r.sched.EnvSpec, err = e.Describe(ctx); err != nil {
		return err
	}
	for t, err := range e.Tasks(ctx) {
		if err != nil {
			return err
		}
		if t.Unavailable == "" && (o.task == "" || o.task == t.ID) {
			r.task = t
			break
		}
	}
	if r.task.ID == "" {
		return plugins.Errorf(plugins.NotFound, "no task %q", o.task).WithPlace("%s",
			r.sched.EnvName).WithHint("give the whole id of a task")
	}
	for i, share := range shares {
		w := first
		if i > 0 {
			w = start(i)
			if _, _, err := w.Client(ctx); err != nil {
				return err
			}
		}
		r.procs = append(r.procs, w.Process)
		r.sched.Envs = append(r.sched.Envs, &rollout.EnvProc{Worker: timedWorker{w, &r.inStep}, Lanes: share})
	}
	return nil
}

func (r *rig) startPolicy(ctx context.Context) (err error) {
	o := r.opts
	c := plugins.Config{Settings: plugins.Settings{"chunk": int64(o.chunk), "see": o.see, "wave": o.wave},
		WorldSize: 1, Env: &r.sched.EnvSpec}
	if o.policy == nil {
		p := NewPolicy()
		if err := p.Configure(ctx, c); err != nil {
			return err
		}
		r.sched.Policy = here{p}
	} else {
		w := supervise.NewPolicy(r.super, *o.policy, 1, func(ctx context.Context,
			ranks []policy.Policy) error {
			return ranks[0].Configure(ctx, c)
		})
		r.sched.Policy = w
		r.procs = append(r.procs, w.Process)
	}
	p, _, err := r.sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	r.sched.PolicySpec, err = p.Describe(ctx)
	return err
}

func (r *rig) close() { r.super.Close() }

// spent is what a roll took.
type spent struct {
	// wall is the whole of it, seconds, Resets included; steps are those of all lanes.
	wall  float64
	steps int
	// inStep is what a lane spent inside Step, seconds, the mean over lanes.
	inStep float64
	// cpu is processor time of the host and of all plugins, seconds, to a hundredth.
	cpu float64
}

// us is microseconds of the clock for one step of one lane.
func (s spent) us() float64 { return s.wall / float64(s.steps) * 1e6 }

// cpuUs is microseconds of processor time, of all processes, for one step of one lane.
func (s spent) cpuUs() float64 { return s.cpu / float64(s.steps) * 1e6 }

// roll rolls one episode of the given length on every lane.
func (r *rig) roll(ctx context.Context, steps int) (spent, error) {
	r.rolls++
	e := rollout.Evaluation{Name: "bench/" + strconv.Itoa(r.rolls), Rules: rollout.Rules{Greedy: true,
		MaxSteps: steps}}
	if r.opts.see {
		e.Observe = []string{r.sched.EnvSpec.RecordCamera}
	}
	for i := range r.opts.lanes {
		e.Trials = append(e.Trials, rollout.Trial{Task: r.task, StartState: i % r.task.StartStates,
			Repeat: i / r.task.StartStates})
	}
	groups := []int{0}
	for _, p := range r.procs {
		if proc := p(); proc != nil {
			groups = append(groups, proc.PID())
		}
	}
	r.inStep.Store(0)
	cpu := cpuSeconds(groups...)
	episodes, t, err := r.sched.Evaluate(ctx, e)
	if err != nil {
		return spent{}, err
	}
	s := spent{wall: t.Wall, inStep: time.Duration(r.inStep.Load()).Seconds() / float64(r.opts.lanes),
		cpu: cpuSeconds(groups...) - cpu}
	for _, ep := range episodes {
		s.steps += ep.Steps
	}
	return s, nil
}

// length finds an episode's length, in whole chunks, with which a roll takes about so many seconds.
func (r *rig) length(ctx context.Context, seconds float64) (int, error) {
	steps := 4 * r.opts.chunk
	for {
		s, err := r.roll(ctx, steps)
		if err != nil {
			return 0, err
		}
		if s.wall > seconds/4 || steps > 1<<20 {
			most := int(float64(steps) * seconds / s.wall / float64(r.opts.chunk))
			return max(32, most) * r.opts.chunk, nil
		}
		steps *= 4
	}
}

// here is a policy in the host's own process.
type here struct{ p policy.Policy }

func (h here) Client(context.Context) (policy.Policy, uint64, error) { return h.p, 1, nil }
func (h here) Failed(uint64, error)                                  {}

// timedWorker counts the time inside Step.
type timedWorker struct {
	rollout.Worker[env.Env]
	inStep *atomic.Int64
}

func (w timedWorker) Client(ctx context.Context) (env.Env, uint64, error) {
	e, incarnation, err := w.Worker.Client(ctx)
	return timedEnv{e, w.inStep}, incarnation, err
}

type timedEnv struct {
	env.Env
	inStep *atomic.Int64
}

func (e timedEnv) Step(ctx context.Context, s env.Step) (env.Transition, error) {
	began := time.Now()
	t, err := e.Env.Step(ctx, s)
	e.inStep.Add(int64(time.Since(began)))
	return t, err
}
