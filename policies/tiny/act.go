package tiny

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// record is one chunk that was acted, with all that an update needs.
type record struct {
	step    int
	picture []byte    // [side, side, 3]; nil: zeros
	inputs  []float32 // the network's inputs beside the picture
	sample  []float32 // [chunk, dim], before clipping
	logProb []float64 // of every element of sample
}

func (r *record) bytes() int {
	return len(r.picture) + 4*len(r.inputs) + 4*len(r.sample) + 8*len(r.logProb) + 160
}

// shard is the number of items that go through the network in one pass.
const shard = 16

// Act samples one chunk for each item: float32 [chunk, action dim] in the env's units, clipped to its range, and the log-probability of every chunk
// position (summed over dimensions).
//
// Log-probabilities belong to the sample before clipping (gaussian: a density in the policy's units of actions; tokens: a probability). The clipping is
// treated as a part of the env, which keeps the policy gradient exact. At step 0 a trajectory's earlier records are dropped.
//
// Errors: Invalid for observations that do not fit the env's description, Exhausted when recording would exceed record_mb; then nothing is recorded.
func (p *Policy) Act(ctx context.Context, a policy.Act) ([]policy.Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ready(); err != nil {
		return nil, err
	}
	temperature := a.Temperature
	if a.Greedy && temperature == 0 {
		temperature = 1
	}
	if !(temperature > 0) || math.IsInf(temperature, 0) {
		return nil, plugins.Errorf(plugins.Invalid, "temperature %v", a.Temperature).WithPlace("policy tiny").WithHint("above 0; ask for greedy actions to take the most likely ones")
	}
	records := make([]*record, len(a.Items))
	errs := make([]error, len(a.Items))
	workers(len(a.Items), func(_, i int) { records[i], errs[i] = p.see(a.Items[i]) })
	for i, err := range errs {
		if err != nil {
			return nil, plugins.AsError(err).WithPlace("policy tiny, episode %s, step %d", a.Items[i].Trajectory, a.Items[i].Step)
		}
	}
	if err := canceled(ctx); err != nil {
		return nil, err
	}
	results := make([]policy.Result, len(a.Items))
	n := min(max((len(a.Items)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0), 1), shard)
	p.passing(records, n, p.state.weights, func(i int, out []float32) {
		r := records[i]
		r.sample = make([]float32, p.net.Chunk*p.net.Actions)
		r.logProb = make([]float64, len(r.sample))
		p.head.sample(out, rand.New(rand.NewPCG(a.Items[i].Seed, 0x616374)), temperature, a.Greedy, r.sample)
		p.head.logProb(out, r.sample, temperature, r.logProb)
		results[i] = policy.Result{Actions: plugins.Floats(p.actions(r.sample), p.net.Chunk, p.net.Actions), LogProbs: make([]float32, p.net.Chunk)}
		for t := range p.net.Chunk {
			var sum float64
			for _, v := range r.logProb[t*p.net.Actions : (t+1)*p.net.Actions] {
				sum += v
			}
			results[i].LogProbs[t] = float32(sum)
		}
	})
	for i, r := range records {
		if !finite(r.sample) {
			return nil, plugins.Errorf(plugins.Diverged, "the network's output is not finite").WithPlace("policy tiny, episode %s, step %d", a.Items[i].Trajectory, r.step).
				WithHint("start from an earlier checkpoint and lower policy.tiny.lr")
		}
	}
	if a.Record {
		if err := p.keep(a.Items, records); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// see checks an observation and makes the network's inputs of it.
func (p *Policy) see(it policy.Item) (*record, error) {
	r := &record{step: it.Step, inputs: make([]float32, p.net.rest())}
	if it.Step < 0 {
		return nil, plugins.Errorf(plugins.Invalid, "step %d", it.Step)
	}
	o := it.Observation
	if p.settings.Bool("image") {
		t, err := p.picture(o.Images, 3)
		if err != nil {
			return nil, err
		}
		r.picture = make([]byte, side*side*3)
		average(r.picture, t.Data, t.Shape[0], t.Shape[1])
	}
	var proprio []float32
	if p.net.Proprio > 0 {
		if err := o.Proprio.Check("proprio", plugins.Float32, p.net.Proprio); err != nil {
			return nil, err
		}
		if proprio = o.Proprio.Float32s(); !finite(proprio) {
			return nil, plugins.Errorf(plugins.Invalid, "proprio is not finite: %v", proprio)
		}
	}
	var bag [words]float32
	instruction(o.Instruction, bag[:])
	p.inputs(r.inputs, proprio, bag[:], float64(it.Step))
	return r, nil
}

// keep records the chunks for an update.
func (p *Policy) keep(items []policy.Item, records []*record) error {
	size := 0
	for i, r := range records {
		size += r.bytes()
		if r.step == 0 {
			p.forget(items[i].Trajectory)
		}
	}
	if most := p.settings.Int("record_mb") << 20; p.recorded+size > most {
		return plugins.Errorf(plugins.Exhausted, "%d MiB of chunks are recorded and %d bytes more do not fit into record_mb = %d", p.recorded>>20, size, p.settings.Int("record_mb")).
			WithPlace("policy tiny").WithHint("raise policy.tiny.record_mb, or sample fewer episodes an iteration")
	}
	for i, r := range records {
		id := items[i].Trajectory
		list := p.records[id]
		at := len(list)
		for at > 0 && list[at-1].step >= r.step {
			at--
		}
		if at < len(list) && list[at].step == r.step {
			p.recorded -= list[at].bytes()
			list[at] = r
		} else {
			list = append(list, nil)
			copy(list[at+1:], list[at:])
			list[at] = r
		}
		p.records[id] = list
		p.recorded += r.bytes()
	}
	return nil
}

func (p *Policy) forget(id string) {
	for _, r := range p.records[id] {
		p.recorded -= r.bytes()
	}
	delete(p.records, id)
}

func (p *Policy) forgetAll() { p.records, p.recorded = map[string][]*record{}, 0 }

// Forget frees what was recorded for trajectories; none named: all. Unknown ones are no error.
func (p *Policy) Forget(_ context.Context, trajectories []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(trajectories) == 0 {
		p.forgetAll()
	}
	for _, id := range trajectories {
		p.forget(id)
	}
	return nil
}

// passing runs records through the network, n at a time, and calls f with each one's outputs, from several goroutines.
func (p *Policy) passing(records []*record, n int, weights []float32, f func(i int, out []float32)) {
	p.needPasses()
	workers((len(records)+n-1)/n, func(w, k int) {
		ps := p.passes[w]
		ps.reset()
		from, to := k*n, min((k+1)*n, len(records))
		for _, r := range records[from:to] {
			copy(ps.add(ps.look(r.picture)), r.inputs)
		}
		ps.forward(weights)
		for i := from; i < to; i++ {
			f(i, ps.result(i-from))
		}
	})
}

// needPasses makes a pass for every worker that there may be.
func (p *Policy) needPasses() {
	for len(p.passes) < runtime.GOMAXPROCS(0) {
		p.passes = append(p.passes, newPass(p.net, shard, shard))
	}
}

func canceled(ctx context.Context) error {
	switch err := ctx.Err(); err {
	case nil:
		return nil
	case context.DeadlineExceeded:
		return plugins.Errorf(plugins.Deadline, "%w", err).WithPlace("policy tiny")
	default:
		return plugins.Errorf(plugins.Canceled, "%w", err).WithPlace("policy tiny")
	}
}
