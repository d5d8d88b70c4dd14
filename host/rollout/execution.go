package rollout

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/srpo-dev/srpo/plugins"
)

// execution is one call of Run, Evaluate or Record at work. Lanes take jobs from the queue and hand over
// episodes, the batcher asks the policy, and the encoding goroutine embeds. collect brings them together in the
// caller's goroutine.
type execution struct {
	s     *Scheduler
	rules Rules
	// caller is the caller's context. ctx ends with it, or with the first failure.
	caller  context.Context
	ctx     context.Context
	cancel  context.CancelFunc
	mu      sync.Mutex
	failure error

	queue  *queue
	policy *batcher  // nil: no policy acts
	encode *encoding // nil: nothing is encoded
	shapes shapes
	// lanesCtx ends before ctx, so that no lane waits for a process when every episode is rolled out. Calls to
	// envs use envCtx, which stays open when only the policy is lost: a call that is canceled here may still
	// run in the plugin when the lane is used again.
	lanesCtx  context.Context
	stopLanes context.CancelFunc
	envCtx    context.Context
	cancelEnv context.CancelFunc
	lanes     sync.WaitGroup
	alive     atomic.Int64  // lanes that were not given up
	failures  []lastFailure // by process
	rolled    chan *Episode

	// The following belong to collect's goroutine: counts of jobs that were given out, that are not rolled out
	// yet, and that are not finished yet.
	total, unrolled, unfinished int
	maxSteps                    map[string]int // by task
	progress                    Progress
	invalid                     int // invalid episodes, and the reason of the last one
	lastInvalid                 *plugins.Error

	began             time.Time
	envTime, waitTime atomic.Int64 // nanoseconds, summed over lanes
	faults, lostSteps atomic.Int64
}

// start begins a call. policyActs is false when no job has a policy as its actor.
func (s *Scheduler) start(caller context.Context, rules Rules, policyActs bool) (*execution, error) {
	ctx, cancel := context.WithCancel(caller)
	x := &execution{
		s: s, rules: rules, caller: caller, ctx: ctx, cancel: cancel,
		rolled: make(chan *Episode), maxSteps: map[string]int{}, began: time.Now(),
	}
	limit := s.maxWaiting
	if rules.Encode && rules.EqualLength.late() {
		limit = 0
	}
	x.queue = newQueue(limit)
	context.AfterFunc(ctx, x.queue.close)
	x.lanesCtx, x.stopLanes = context.WithCancel(ctx)
	x.envCtx, x.cancelEnv = context.WithCancel(caller)

	if policyActs {
		if err := x.startBatcher(); err != nil {
			x.fail(err)
			x.cancelEnv()
			return nil, x.cause()
		}
	}
	if rules.Encode {
		x.startEncoding()
	}
	x.alive.Store(int64(s.lanes()))
	x.failures = make([]lastFailure, len(s.Envs))
	for p, proc := range s.Envs {
		for n := range proc.Lanes {
			x.lanes.Add(1)
			go (&lane{exec: x, proc: proc, process: p, number: n}).run()
		}
	}
	return x, nil
}

// fail ends the call with err. Only the first error counts, because later ones follow from the end of the call.
func (x *execution) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ctx.Err() == nil {
		x.failure = err
		x.cancel()
		if !errors.Is(err, ErrPolicyLost) {
			x.cancelEnv()
		}
	}
}

// cause returns why the call ended early, nil when it did not.
func (x *execution) cause() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failure == nil && x.caller.Err() != nil {
		return stopped(x.caller)
	}
	return x.failure
}

// add gives out jobs. Only collect's goroutine may call it.
func (x *execution) add(jobs []*job) {
	x.total += len(jobs)
	x.unrolled += len(jobs)
	x.unfinished += len(jobs)
	for _, j := range jobs {
		x.maxSteps[j.task.ID] = x.rules.maxSteps(j.task)
	}
	x.queue.put(jobs...)
}

// handlers are called by collect, each in the order in which episodes arrive. Any of them may be nil.
type handlers struct {
	// rolled is called as soon as an episode is rolled out. It may add jobs.
	rolled func(*Episode)
	// complete is called when an episode is encoded too, while its frames and trajectory are present. An error
	// ends the call.
	complete func(*Episode) error
	// finished is called after complete, with what the result keeps of the episode.
	finished func(*Episode)
}

// collect returns when every job is rolled out, encoded and finished, or with the first error. It also fails
// when more episodes are invalid than maxEpisodes, the largest possible number of jobs, allows.
func (x *execution) collect(maxEpisodes int, h handlers) error {
	frames := newFrameKeeper(x.rules)
	var encoded chan *Episode
	if x.encode != nil {
		encoded = x.encode.done
	}
	var late []*Episode // wait for the shortest clip
	for x.unfinished > 0 {
		var e *Episode
		select {
		case e = <-x.rolled:
			x.unrolled--
			if err := x.countInvalid(e, maxEpisodes); err != nil {
				return err
			}
			if h.rolled != nil {
				h.rolled(e)
			}
			x.reportProgress(e)
			if x.encode != nil {
				var waits bool
				if late, waits = x.encodeClip(e, late); waits {
					continue
				}
			}
		case e = <-encoded:
		case <-x.ctx.Done():
			return x.cause()
		}
		if err := x.finish(e, frames, h); err != nil {
			return err
		}
	}
	return nil
}

// encodeClip hands an episode to the encoder, or appends it to those that wait for the shortest clip and hands all of
// them over after the last one. It returns those that wait, and false for an invalid episode, which is not encoded.
func (x *execution) encodeClip(e *Episode, late []*Episode) (_ []*Episode, encoding bool) {
	equal := x.rules.EqualLength
	valid := e.Invalid == nil
	if !equal.late() {
		if valid {
			x.encode.add(clip{e, equal.frames(x.maxSteps[e.Task], x.rules.RecordEvery)})
		}
		return nil, valid
	}
	if valid {
		late = append(late, e)
	}
	if x.unrolled == 0 {
		x.encode.add(cutToShortest(late)...)
	}
	return late, valid
}

// finish takes an episode out of the call, and drops the frames and the trajectory that the result does not keep.
func (x *execution) finish(e *Episode, frames *frameKeeper, h handlers) error {
	x.unfinished--
	size := e.bytes()
	defer x.queue.release(size)
	if x.rules.OnFrames != nil && (!e.Frames.IsZero() || e.Trajectory != nil) {
		x.rules.OnFrames(*e)
	}
	if h.complete != nil {
		if err := h.complete(e); err != nil {
			return err
		}
	}
	e.Trajectory = nil
	frames.offer(e)
	if h.finished != nil {
		h.finished(e)
	}
	return nil
}

func (x *execution) countInvalid(e *Episode, maxEpisodes int) error {
	if e.Invalid == nil {
		return nil
	}
	x.invalid, x.lastInvalid = x.invalid+1, e.Invalid
	return tooManyInvalid(x.invalid, maxEpisodes, e.Invalid)
}

func (x *execution) reportProgress(e *Episode) {
	p := &x.progress
	p.Episodes++
	p.Total = x.total
	p.EnvSteps += e.Steps
	if e.Success {
		p.Successes++
	}
	x.s.Progress(*p)
}

// end stops everything, waits for it, and returns the first error: err, or one that occurred meanwhile.
func (x *execution) end(err error) (Timing, error) {
	if err != nil {
		x.fail(err)
	}
	x.queue.close()
	x.stopLanes()
	x.lanes.Wait()
	x.cancelEnv()
	if x.policy != nil {
		x.policy.close() // after the trajectories that it still has to forget
	}
	if x.encode != nil {
		x.encode.close()
	}
	if e := x.cause(); err == nil {
		err = e
	}
	x.cancel()
	return x.timing(), err
}

func (x *execution) timing() Timing {
	t := Timing{
		Wall: time.Since(x.began).Seconds(), Lanes: x.s.lanes(),
		Faults: int(x.faults.Load()), LostSteps: int(x.lostSteps.Load()),
	}
	t.LanesLost = t.Lanes - int(x.alive.Load())
	t.Env = time.Duration(x.envTime.Load()).Seconds()
	t.PolicyWait = time.Duration(x.waitTime.Load()).Seconds()
	all := t.Wall * float64(t.Lanes)
	t.Idle = max(0, all-t.Env-t.PolicyWait)
	if all > 0 {
		t.Utilisation = t.Env / all
	}
	if x.policy != nil {
		x.policy.timing(&t)
	}
	if x.encode != nil {
		x.encode.timing(&t)
	}
	return t
}

// survived counts and reports a fault that cost an attempt only.
func (x *execution) survived(episode, place string, err error) {
	x.faults.Add(1)
	x.s.OnFault(Fault{Episode: episode, Place: place, Err: plugins.AsError(err)})
}
