package rollout

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/srpo-dev/srpo/plugins"
)

// roll is one call of Run or Evaluate at work: lanes take jobs from the queue and hand over episodes, the batcher asks the policy, the encoding goroutine
// embeds; collect, in the caller's goroutine, brings them together.
type roll struct {
	s     *Scheduler
	rules Rules
	// caller is the caller's context; ctx ends with it, or with the first failure.
	caller  context.Context
	ctx     context.Context
	cancel  context.CancelFunc
	mu      sync.Mutex
	failure error

	queue  *queue
	policy *batcher
	encode *encoding // nil: nothing is encoded
	shapes shapes
	// lanesCtx ends before ctx, so that no lane waits for a process when everything is rolled. Calls to envs have envCtx: when only the policy is lost they
	// come to their own end, for a call that was cancelled here may still run there when the lane is used again.
	lanesCtx  context.Context
	stopLanes context.CancelFunc
	envCtx    context.Context
	cancelEnv context.CancelFunc
	lanes     sync.WaitGroup
	alive     atomic.Int64 // lanes that can still roll
	doubts    []doubt      // by process
	rolled    chan *Episode

	// What collect knows: jobs that were given out, that are not rolled yet, that are not finished yet.
	total, unrolled, unfinished int
	maxSteps                    map[string]int // by task

	began             time.Time
	envTime, waitTime atomic.Int64 // nanoseconds, over lanes
	faults, lostSteps atomic.Int64
	seen              Progress
	invalid            int // episodes, and the last one's reason; of collect
	lastInvalid        *plugins.Error
}

func (s *Scheduler) start(caller context.Context, rules Rules) (*roll, error) {
	ctx, cancel := context.WithCancel(caller)
	r := &roll{s: s, rules: rules, caller: caller, ctx: ctx, cancel: cancel, rolled: make(chan *Episode), maxSteps: map[string]int{},
		began: time.Now()}
	limit := 0
	if rules.Encode && !rules.EqualLength.late() {
		limit = s.ClipBytes
	}
	r.queue = newQueue(limit)
	context.AfterFunc(ctx, r.queue.close)
	r.lanesCtx, r.stopLanes = context.WithCancel(ctx)
	r.envCtx, r.cancelEnv = context.WithCancel(caller)

	if err := r.startBatcher(); err != nil {
		r.fail(err)
		r.cancelEnv()
		return nil, r.cause()
	}
	if rules.Encode {
		r.startEncoding()
	}
	r.alive.Store(int64(s.lanes()))
	r.doubts = make([]doubt, len(s.Envs))
	for p, proc := range s.Envs {
		for n := range proc.Lanes {
			r.lanes.Add(1)
			go (&lane{roll: r, proc: proc, process: p, number: n}).run()
		}
	}
	return r, nil
}

// fail ends the call with err. Only the first one counts: what fails when the call has ended, failed because of that.
func (r *roll) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() == nil {
		r.failure = err
		r.cancel()
		if !errors.Is(err, ErrPolicyLost) {
			r.cancelEnv()
		}
	}
}

// cause is why the call ended before it was through, nil while it goes on.
func (r *roll) cause() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure == nil && r.caller.Err() != nil {
		return stopped(r.caller)
	}
	return r.failure
}

// add gives out jobs. It is for collect's goroutine.
func (r *roll) add(jobs []*job) {
	r.total += len(jobs)
	r.unrolled += len(jobs)
	r.unfinished += len(jobs)
	for _, j := range jobs {
		r.maxSteps[j.task.ID] = r.rules.maxSteps(j.task)
	}
	r.queue.put(jobs...)
}

// collect returns when every job is rolled, encoded and finished, or with the first error, which it is too when of most episodes, all that may become jobs, too
// many are invalid. rolled is called with every episode as soon as it is done, and
// may add more; finished when it is encoded too. Both are called in the order of arrival.
func (r *roll) collect(most int, rolled, finished func(*Episode)) error {
	frames := newKeeper(r.rules)
	finish := func(e *Episode) {
		r.unfinished--
		r.queue.hold(-e.bytes())
		if r.rules.OnFrames != nil && (!e.Frames.IsZero() || e.Trajectory != nil) {
			r.rules.OnFrames(*e)
		}
		e.Trajectory = nil
		frames.offer(e)
		finished(e)
	}
	var encoded chan *Episode
	if r.encode != nil {
		encoded = r.encode.done
	}
	var late []*Episode // that wait for the shortest one
	for r.unfinished > 0 {
		select {
		case e := <-r.rolled:
			r.unrolled--
			if e.Invalid != nil {
				r.invalid, r.lastInvalid = r.invalid+1, e.Invalid
				if err := tooManyInvalid(r.invalid, most, e.Invalid); err != nil {
					return err
				}
			}
			rolled(e)
			r.progress(e)
			switch {
			case e.Invalid != nil:
				finish(e)
				if r.encode != nil && r.rules.EqualLength.late() && r.unrolled == 0 {
					r.encode.add(atShortest(late)...)
				}
			case r.encode == nil:
				finish(e)
			case !r.rules.EqualLength.late():
				r.encode.add(clip{e, r.rules.EqualLength.frames(r.maxSteps[e.Task], r.rules.RecordEvery)})
			default:
				if late = append(late, e); r.unrolled == 0 {
					r.encode.add(atShortest(late)...)
				}
			}
		case e := <-encoded:
			finish(e)
		case <-r.ctx.Done():
			return r.cause()
		}
	}
	return nil
}

func (r *roll) progress(e *Episode) {
	p := &r.seen
	p.Episodes++
	p.Total = r.total
	p.EnvSteps += e.Steps
	if e.Success {
		p.Successes++
	}
	r.s.Progress(*p)
}

// end stops everything, waits for it, and returns the first error: err, or one that came up meanwhile.
func (r *roll) end(err error) (Timing, error) {
	if err != nil {
		r.fail(err)
	}
	r.queue.close()
	r.stopLanes()
	r.lanes.Wait()
	r.cancelEnv()
	r.policy.close() // forgets what there is to forget
	if r.encode != nil {
		r.encode.close()
	}
	if e := r.cause(); err == nil {
		err = e
	}
	r.cancel()
	return r.timing(), err
}

func (r *roll) timing() Timing {
	t := Timing{Wall: time.Since(r.began).Seconds(), Lanes: r.s.lanes(), Faults: int(r.faults.Load()), LostSteps: int(r.lostSteps.Load())}
	t.LanesLost = t.Lanes - int(r.alive.Load())
	t.Env = time.Duration(r.envTime.Load()).Seconds()
	t.PolicyWait = time.Duration(r.waitTime.Load()).Seconds()
	all := t.Wall * float64(t.Lanes)
	t.Idle = max(0, all-t.Env-t.PolicyWait)
	if all > 0 {
		t.Utilisation = t.Env / all
	}
	r.policy.timing(&t)
	if r.encode != nil {
		r.encode.timing(&t)
	}
	return t
}

// survived counts and reports a fault that costs an attempt only.
func (r *roll) survived(episode, place string, err error) {
	r.faults.Add(1)
	r.s.OnFault(Fault{Episode: episode, Place: place, Err: plugins.AsError(err)})
}
