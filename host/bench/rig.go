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

// rigOptions describe the processes that run episodes.
type rigOptions struct {
	env supervise.Launch
	// resolve returns the env's settings, given those that it declares; nil takes the defaults.
	resolve func(declared []plugins.Setting) (plugins.Settings, error)
	// policy is the process of the idle policy; nil runs it inside the host's process.
	policy *supervise.Launch
	lanes  int
	// processPerLane starts one env process per lane; otherwise as few as possible are started.
	processPerLane bool
	chunk          int
	// observe renders the recording camera for the policy.
	observe bool
	// wave is the amplitude of the policy's actions.
	wave float64
	// task is the ID of the task; "" takes the first one.
	task string
	// arenaMB is the shared memory of each process in MiB; 0 sends tensors in messages.
	arenaMB int
}

// rig executes episodes as a run does: supervised processes, mutual TLS, gRPC, shared memory, scheduler.
type rig struct {
	super *supervise.Supervisor
	sched *rollout.Scheduler
	task  env.Task
	opts  rigOptions
	// inStep is the time inside Step in nanoseconds, summed over lanes.
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
	var shares []int // lanes of each process; known once the first one reported its limit
	start := func(i int) *supervise.ProcessWorker[env.Env] {
		l := o.env
		if i > 0 {
			l.Instance = strconv.Itoa(i + 1)
		}
		return supervise.NewEnv(r.super, l, func(ctx context.Context, e env.Env) error {
			settings, err := resolve(ctx, e, o.resolve)
			if err != nil {
				return err
			}
			if shares == nil {
				info, err := e.Info(ctx)
				if err != nil {
					return err
				}
				maxLanes := info.MaxLanes
				if o.processPerLane {
					maxLanes = 1
				}
				shares = supervise.SplitLanes(o.lanes, maxLanes)
			}
			return e.Configure(ctx, plugins.Config{Settings: settings, WorldSize: 1, Lanes: shares[i]})
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
	if err := r.findTask(ctx, e); err != nil {
		return err
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

func (r *rig) findTask(ctx context.Context, e env.Env) error {
	for t, err := range e.Tasks(ctx) {
		if err != nil {
			return err
		}
		if t.Unavailable == "" && (r.opts.task == "" || r.opts.task == t.ID) {
			r.task = t
			return nil
		}
	}
	return plugins.Errorf(plugins.NotFound, "no task %q", r.opts.task).WithPlace("%s", r.sched.EnvName).
		WithHint("give the full ID of a task")
}

func (r *rig) startPolicy(ctx context.Context) (err error) {
	o := r.opts
	c := plugins.Config{Settings: plugins.Settings{"chunk": int64(o.chunk), "observe": o.observe, "wave": o.wave},
		WorldSize: 1, Env: &r.sched.EnvSpec}
	if o.policy == nil {
		p := NewPolicy()
		if err := p.Configure(ctx, c); err != nil {
			return err
		}
		r.sched.Policy = localPolicy{p}
	} else {
		configure := func(ctx context.Context, ranks []policy.Policy) error { return ranks[0].Configure(ctx, c) }
		w := supervise.NewPolicy(r.super, *o.policy, 1, configure)
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

// spent is the cost of one call of roll.
type spent struct {
	// wall is the wall time in seconds, with Resets; steps is the sum over lanes.
	wall  float64
	steps int
	// inStep is the time inside Step in seconds, the mean over lanes.
	inStep float64
	// cpu is the processor time of the host and all plugins in seconds, with a resolution of 0.01.
	cpu float64
}

// us returns the microseconds of wall time per step of one lane.
func (s spent) us() float64 { return s.wall / float64(s.steps) * 1e6 }

// cpuUs returns the microseconds of processor time of all processes per step of one lane.
func (s spent) cpuUs() float64 { return s.cpu / float64(s.steps) * 1e6 }

// roll runs one episode of at most the given number of steps on every lane; 0 takes the task's limit.
func (r *rig) roll(ctx context.Context, steps int) (spent, error) {
	r.rolls++
	e := rollout.Evaluation{Name: "bench/" + strconv.Itoa(r.rolls), Rules: rollout.Rules{Greedy: true,
		MaxSteps: steps}}
	if r.opts.observe {
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

// length returns a number of steps, in whole chunks, with which roll takes about the given time.
func (r *rig) length(ctx context.Context, seconds float64) (int, error) {
	steps := 4 * r.opts.chunk
	for {
		s, err := r.roll(ctx, steps)
		if err != nil {
			return 0, err
		}
		if s.wall > seconds/4 || steps > 1<<20 {
			chunks := int(float64(steps) * seconds / s.wall / float64(r.opts.chunk))
			return max(32, chunks) * r.opts.chunk, nil
		}
		steps *= 4
	}
}

// fixed returns a resolve function for settings that need no resolving.
func fixed(s plugins.Settings) func([]plugins.Setting) (plugins.Settings, error) {
	return func([]plugins.Setting) (plugins.Settings, error) { return s, nil }
}

// localPolicy is a policy in the host's process.
type localPolicy struct{ policy policy.Policy }

func (l localPolicy) Client(context.Context) (policy.Policy, uint64, error) { return l.policy, 1, nil }
func (l localPolicy) Failed(uint64, error)                                  {}

// timedWorker measures the time inside Step.
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

func (e timedEnv) StepExpert(ctx context.Context, s env.ExpertStep) (env.Transition, error) {
	began := time.Now()
	t, err := env.StepExpert(ctx, e.Env, s)
	e.inStep.Add(int64(time.Since(began)))
	return t, err
}

func (e timedEnv) Step(ctx context.Context, s env.Step) (env.Transition, error) {
	began := time.Now()
	t, err := e.Env.Step(ctx, s)
	e.inStep.Add(int64(time.Since(began)))
	return t, err
}
