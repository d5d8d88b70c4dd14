package rollout

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// ask is a lane's wish for actions, or a wish to forget trajectories.
type ask struct {
	item   policy.Item
	forget []string
	// reply has room for one answer; nil: nobody waits.
	reply chan chunk
}

// batcher gives the policy whoever waits, as soon as it is free: while one Act runs, asks gather, and the next Act takes all of them up to MaxBatch. It never
// waits for a batch to fill. A failure of the policy ends the call, so an ask has an answer or the call is over.
type batcher struct {
	roll        *roll
	policy      policy.Policy
	incarnation uint64
	asks        chan ask
	servers     sync.WaitGroup

	calls, items, busy atomic.Int64
}

func (r *roll) startBatcher() error {
	client, incarnation, err := r.s.Policy.Client(r.ctx)
	if err != nil {
		return plugins.AsError(err).WithPlace("%s", r.s.PolicyName)
	}
	if want := r.s.PolicyIncarnation; want != 0 && incarnation != want {
		return policyLost(r.s.PolicyName, plugins.Errorf(plugins.Unavailable, "the process was restarted after its weights were loaded"))
	}
	// Room for an ask of every lane and some that nobody waits for, so that asking does not block while the policy is at work.
	b := &batcher{roll: r, policy: client, incarnation: incarnation, asks: make(chan ask, 2*r.s.lanes()+16)}
	r.policy = b
	for range r.s.PolicyCalls {
		b.servers.Add(1)
		go b.serve()
	}
	return nil
}

// act returns actions for an observation, or false when the call is over.
func (b *batcher) act(ctx context.Context, item policy.Item) (chunk, bool) {
	a := ask{item: item, reply: make(chan chunk, 1)}
	if !b.send(ctx, a) {
		return chunk{}, false
	}
	select {
	case c := <-a.reply:
		return c, true
	case <-ctx.Done():
		return chunk{}, false
	}
}

// forget returns when the policy has forgotten a trajectory, or false when the call is over.
func (b *batcher) forget(ctx context.Context, trajectory string) bool {
	a := ask{forget: []string{trajectory}, reply: make(chan chunk, 1)}
	if !b.send(ctx, a) {
		return false
	}
	select {
	case <-a.reply:
		return true
	case <-ctx.Done():
		return false
	}
}

// forgetLater does not wait; close does.
func (b *batcher) forgetLater(trajectories []string) { b.send(b.roll.ctx, ask{forget: trajectories}) }

func (b *batcher) send(ctx context.Context, a ask) bool {
	select {
	case b.asks <- a:
		return true
	case <-ctx.Done():
		return false
	}
}

// close serves what was asked before and returns when it is done. Nothing may be asked any more.
func (b *batcher) close() {
	close(b.asks)
	b.servers.Wait()
}

func (b *batcher) serve() {
	defer b.servers.Done()
	for first := range b.asks {
		acts, forgets := b.gather(first)
		if b.roll.ctx.Err() != nil {
			continue // nobody waits any more
		}
		if err := b.call(acts, forgets); err != nil {
			b.roll.fail(err)
		}
	}
}

// gather takes everybody who waits, without waiting.
func (b *batcher) gather(first ask) (acts, forgets []ask) {
	most := b.roll.s.PolicySpec.MaxBatch
	for next, ok := first, true; ok; {
		if next.forget != nil {
			forgets = append(forgets, next)
		} else {
			acts = append(acts, next)
		}
		if len(acts) == most { // never with most = 0, which is any number
			break
		}
		select {
		case next, ok = <-b.asks:
		default:
			ok = false
		}
	}
	return acts, forgets
}

// call forgets first: a lane asks to act for a trajectory only after it was forgotten.
func (b *batcher) call(acts, forgets []ask) error {
	r := b.roll
	for _, f := range forgets {
		if err := b.policy.Forget(r.ctx, f.forget); err != nil {
			return b.failed("Forget", err)
		}
		if f.reply != nil {
			f.reply <- chunk{}
		}
	}
	if len(acts) == 0 {
		return nil
	}
	call := policy.Act{Items: make([]policy.Item, len(acts)), Greedy: r.rules.Greedy, Temperature: r.rules.Temperature, Record: r.rules.Record}
	for i, a := range acts {
		call.Items[i] = a.item
	}
	return b.answer(call, acts)
}

// answer asks for actions and gives them to whoever waits. An error that numbers went wrong does not say whose they are: each is then asked for alone, and
// costs its own episode.
func (b *batcher) answer(call policy.Act, acts []ask) error {
	r := b.roll
	began := time.Now()
	results, err := b.policy.Act(r.ctx, call)
	b.busy.Add(int64(time.Since(began)))
	b.calls.Add(1)
	b.items.Add(int64(len(acts)))
	place := func(a ask, err error) *plugins.Error {
		return plugins.AsError(err).WithPlace("%s, episode %s, Act at step %d", r.s.PolicyName, a.item.Trajectory, a.item.Step)
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
		return plugins.AsError(corrupt("a fault in the policy plugin", "%d results for %d items", len(results), len(acts))).WithPlace("%s, Act", r.s.PolicyName)
	}
	for i, a := range acts {
		c, err := r.s.checkActions(results[i], r.rules)
		if plugins.KindOf(err) == plugins.Diverged {
			c = chunk{invalid: place(a, err)}
		} else if err != nil {
			return place(a, err)
		}
		a.reply <- c
	}
	return nil
}

// failed tells a lost process from a policy that answered with an error. A result that is wrong in itself (see checkActions) is not a reason to replace the
// process: weights and seeds being the same, it would come again.
func (b *batcher) failed(method string, err error) error {
	r := b.roll
	if r.ctx.Err() != nil {
		return err // not the policy's fault
	}
	if !Replaces(err) {
		return plugins.AsError(err).WithPlace("%s, %s", r.s.PolicyName, method)
	}
	r.s.Policy.Failed(b.incarnation, err)
	return policyLost(r.s.PolicyName, err)
}

func (b *batcher) timing(t *Timing) {
	t.Policy = time.Duration(b.busy.Load()).Seconds()
	t.ActCalls, t.ActItems = int(b.calls.Load()), int(b.items.Load())
}
