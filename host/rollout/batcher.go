package rollout

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// request is a lane's request for actions, or a request to forget trajectories.
type request struct {
	item   policy.Item
	forget []string
	// reply has room for one answer; nil: no lane waits for it.
	reply chan chunk
}

// batcher asks the policy for all lanes that wait: requests gather while one Act runs, and the next Act takes
// all of them up to MaxBatch. It never waits for a batch to fill. A failure of the policy ends the call, so
// every request is answered unless the call is over.
type batcher struct {
	exec        *execution
	policy      policy.Policy
	incarnation uint64
	requests    chan request
	done        chan struct{}

	calls, items, busy atomic.Int64
}

func (x *execution) startBatcher() error {
	client, incarnation, err := x.s.ActingPolicy(x.ctx)
	if err != nil {
		return err
	}
	// There is room for a request of every lane and some without a reply, so that a request does not block while the
	// policy is busy.
	requests := make(chan request, 2*x.s.lanes()+16)
	x.policy = &batcher{
		exec:        x,
		policy:      client,
		incarnation: incarnation,
		requests:    requests,
		done:        make(chan struct{}),
	}
	go x.policy.serve()
	return nil
}

// act returns actions for an observation, or false when the call is over.
func (b *batcher) act(ctx context.Context, item policy.Item) (chunk, bool) {
	r := request{item: item, reply: make(chan chunk, 1)}
	if !b.send(ctx, r) {
		return chunk{}, false
	}
	select {
	case c := <-r.reply:
		return c, true
	case <-ctx.Done():
		return chunk{}, false
	}
}

// forget returns when the policy has forgotten a trajectory, or false when the call is over.
func (b *batcher) forget(ctx context.Context, trajectory string) bool {
	r := request{forget: []string{trajectory}, reply: make(chan chunk, 1)}
	if !b.send(ctx, r) {
		return false
	}
	select {
	case <-r.reply:
		return true
	case <-ctx.Done():
		return false
	}
}

// forgetLater does not wait; close does.
func (b *batcher) forgetLater(trajectories []string) {
	b.send(b.exec.ctx, request{forget: trajectories})
}

func (b *batcher) send(ctx context.Context, r request) bool {
	select {
	case b.requests <- r:
		return true
	case <-ctx.Done():
		return false
	}
}

// close returns when the batcher has answered all requests. There must be no requests afterwards.
func (b *batcher) close() {
	close(b.requests)
	<-b.done
}

func (b *batcher) serve() {
	defer close(b.done)
	for first := range b.requests {
		acts, forgets := b.gather(first)
		if b.exec.ctx.Err() != nil {
			continue // no lane waits for a reply
		}
		if err := b.call(acts, forgets); err != nil {
			b.exec.fail(err)
		}
	}
}

// gather takes all requests that wait, without waiting for more.
func (b *batcher) gather(first request) (acts, forgets []request) {
	maxBatch := b.exec.s.PolicySpec.MaxBatch
	for next, ok := first, true; ok; {
		if next.forget != nil {
			forgets = append(forgets, next)
		} else {
			acts = append(acts, next)
		}
		if len(acts) == maxBatch { // never when maxBatch is 0, which means any number
			break
		}
		select {
		case next, ok = <-b.requests:
		default:
			ok = false
		}
	}
	return acts, forgets
}

// call forgets first, because a lane asks for a trajectory's actions only after it was forgotten.
func (b *batcher) call(acts, forgets []request) error {
	x := b.exec
	for _, f := range forgets {
		if err := b.policy.Forget(x.ctx, f.forget); err != nil {
			return b.failed("Forget", err)
		}
		if f.reply != nil {
			f.reply <- chunk{}
		}
	}
	if len(acts) == 0 {
		return nil
	}
	call := policy.Act{
		Items:  make([]policy.Item, len(acts)),
		Greedy: x.rules.Greedy, Temperature: x.rules.Temperature, Record: x.rules.Record,
	}
	for i, a := range acts {
		call.Items[i] = a.item
	}
	return b.answer(call, acts)
}

// answer asks for actions and gives them to the lanes that wait. A Diverged error of a batch does not name the
// items that caused it, so each item is then asked for alone, and costs its own episode only.
func (b *batcher) answer(call policy.Act, acts []request) error {
	x := b.exec
	began := time.Now()
	results, err := b.policy.Act(x.ctx, call)
	b.busy.Add(int64(time.Since(began)))
	b.calls.Add(1)
	b.items.Add(int64(len(acts)))
	place := func(a request, err error) *plugins.Error {
		return plugins.AsError(err).
			WithPlace("%s, episode %s, Act at step %d", x.s.PolicyName, a.item.Trajectory, a.item.Step)
	}
	switch diverged := plugins.KindOf(err) == plugins.Diverged; {
	case diverged && len(acts) > 1:
		for i := range acts {
			alone := call
			alone.Items = call.Items[i : i+1]
			if err := b.answer(alone, acts[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	case diverged:
		acts[0].reply <- chunk{invalid: place(acts[0], err)}
		return nil
	case err != nil:
		return b.failed("Act", err)
	case len(results) != len(acts):
		err := corrupt("a fault in the policy plugin", "%d results for %d items", len(results), len(acts))
		return plugins.AsError(err).WithPlace("%s, Act", x.s.PolicyName)
	}
	for i, a := range acts {
		c, err := x.s.checkActions(results[i], x.rules)
		if plugins.KindOf(err) == plugins.Diverged {
			c = chunk{invalid: place(a, err)}
		} else if err != nil {
			return place(a, err)
		}
		a.reply <- c
	}
	return nil
}

// failed distinguishes a lost process from a policy that returned an error. A result that breaks the contract (see
// checkActions) does not replace the process: the same weights and seeds would give it again.
func (b *batcher) failed(method string, err error) error {
	x := b.exec
	if x.ctx.Err() != nil {
		return err // the end of the call, not a fault of the policy
	}
	if !Replaces(err) {
		return plugins.AsError(err).WithPlace("%s, %s", x.s.PolicyName, method)
	}
	x.s.Policy.Failed(b.incarnation, err)
	return PolicyLost(x.s.PolicyName, err)
}

func (b *batcher) timing(t *Timing) {
	t.Policy = time.Duration(b.busy.Load()).Seconds()
	t.ActCalls, t.ActItems = int(b.calls.Load()), int(b.items.Load())
}
