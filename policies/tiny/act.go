package tiny

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// record is one sampled chunk with everything that an update needs.
type record struct {
	step    int
	image   []byte    // [side, side, 3]; nil: zeros
	inputs  []float32 // the network's vector inputs
	sample  []float32 // [chunk, dim], before clipping
	logProb []float64 // [chunk, dim]
}

// bytes returns the approximate size of r in memory.
func (r *record) bytes() int {
	return len(r.image) + 4*len(r.inputs) + 4*len(r.sample) + 8*len(r.logProb) + 160
}

// shard is the maximum number of items in one pass through the network.
const shard = 16

// Act samples one chunk for each item: float32 [chunk, action dim] in the env's units, clipped to its
// range, with the log-probability of every chunk position (summed over dimensions).
//
// Log-probabilities refer to the sample before clipping (gaussian: a density in the policy's action
// units; tokens: a probability). Clipping counts as part of the env, which keeps the policy gradient
// exact. An item with step 0 drops the trajectory's earlier records.
//
// Errors: Invalid for a bad temperature or observations that do not match the env's description,
// Exhausted when recording would exceed record_mb, Diverged when the network's output is not finite. On
// error nothing is recorded.
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
		return nil, plugins.Errorf(plugins.Invalid, "temperature %v", a.Temperature).WithPlace("policy tiny").
			WithHint("use a temperature above 0, or request greedy actions")
	}
	records := make([]*record, len(a.Items))
	errs := make([]error, len(a.Items))
	workers(len(a.Items), func(_, i int) { records[i], errs[i] = p.newRecord(a.Items[i]) })
	for i, err := range errs {
		if err != nil {
			return nil, plugins.AsError(err).
				WithPlace("policy tiny, episode %s, step %d", a.Items[i].Trajectory, a.Items[i].Step)
		}
	}
	if err := contextError(ctx); err != nil {
		return nil, err
	}
	results := make([]policy.Result, len(a.Items))
	cores := runtime.GOMAXPROCS(0)
	n := min(max((len(a.Items)+cores-1)/cores, 1), shard)
	p.forwardAll(records, n, p.state.weights, func(i int, out []float32) {
		r := records[i]
		r.sample = make([]float32, p.net.Chunk*p.net.Actions)
		r.logProb = make([]float64, len(r.sample))
		p.head.sample(out, rand.New(rand.NewPCG(a.Items[i].Seed, 0x616374)), temperature, a.Greedy, r.sample)
		p.head.logProb(out, r.sample, temperature, r.logProb)
		results[i] = policy.Result{
			Actions:  plugins.Floats(p.actions(r.sample), p.net.Chunk, p.net.Actions),
			LogProbs: make([]float32, p.net.Chunk),
		}
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
			return nil, plugins.Errorf(plugins.Diverged, "the network's output is not finite").
				WithPlace("policy tiny, episode %s, step %d", a.Items[i].Trajectory, r.step).
				WithHint("start from an earlier checkpoint and lower policy.tiny.lr")
		}
	}
	if a.Record {
		if err := p.storeRecords(a.Items, records); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// newRecord checks an item's observation and converts it to the network's inputs.
func (p *Policy) newRecord(it policy.Item) (*record, error) {
	r := &record{step: it.Step, inputs: make([]float32, p.net.vectorInputs())}
	if it.Step < 0 {
		return nil, plugins.Errorf(plugins.Invalid, "step %d", it.Step)
	}
	o := it.Observation
	if p.settings.Bool("image") {
		t, err := p.image(o.Images, 3)
		if err != nil {
			return nil, err
		}
		r.image = make([]byte, side*side*3)
		resizeArea(r.image, t.Data, t.Shape[0], t.Shape[1])
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
	var bag [wordBuckets]float32
	hashWords(o.Instruction, bag[:])
	p.inputs(r.inputs, proprio, bag[:], float64(it.Step))
	return r, nil
}

// storeRecords keeps the chunks for an update, sorted by step; a record of the same step is replaced. It
// returns Exhausted, and stores nothing, when they exceed record_mb.
func (p *Policy) storeRecords(items []policy.Item, records []*record) error {
	size := 0
	for i, r := range records {
		size += r.bytes()
		if r.step == 0 {
			p.dropRecords(items[i].Trajectory)
		}
	}
	if limit := p.settings.Int("record_mb"); p.recorded+size > limit<<20 {
		return plugins.Errorf(plugins.Exhausted,
			"%d MiB of chunks are recorded and %d more bytes exceed record_mb = %d",
			p.recorded>>20, size, limit).
			WithPlace("policy tiny").
			WithHint("raise policy.tiny.record_mb, or sample fewer episodes per iteration")
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

// dropRecords drops the records of a trajectory.
func (p *Policy) dropRecords(id string) {
	for _, r := range p.records[id] {
		p.recorded -= r.bytes()
	}
	delete(p.records, id)
}

func (p *Policy) dropAllRecords() { p.records, p.recorded = map[string][]*record{}, 0 }

// Forget drops the records of the given trajectories, or of all if none is given. Unknown trajectories
// are ignored.
func (p *Policy) Forget(_ context.Context, trajectories []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(trajectories) == 0 {
		p.dropAllRecords()
	}
	for _, id := range trajectories {
		p.dropRecords(id)
	}
	return nil
}

// forwardAll runs records through the network in batches of n and calls f with each record's outputs.
// Calls of f come from several goroutines.
func (p *Policy) forwardAll(records []*record, n int, weights []float32, f func(i int, out []float32)) {
	p.ensurePasses()
	workers((len(records)+n-1)/n, func(w, k int) {
		ps := p.passes[w]
		ps.reset()
		from, to := k*n, min((k+1)*n, len(records))
		for _, r := range records[from:to] {
			copy(ps.addSample(ps.addImage(r.image)), r.inputs)
		}
		ps.forward(weights)
		for i := from; i < to; i++ {
			f(i, ps.result(i-from))
		}
	})
}

// ensurePasses allocates a pass for every worker.
func (p *Policy) ensurePasses() {
	for len(p.passes) < runtime.GOMAXPROCS(0) {
		p.passes = append(p.passes, newPass(p.net, shard, shard))
	}
}

// contextError returns a Canceled or Deadline error if ctx is done, otherwise nil.
func contextError(ctx context.Context) error {
	switch err := ctx.Err(); err {
	case nil:
		return nil
	case context.DeadlineExceeded:
		return plugins.Errorf(plugins.Deadline, "%w", err).WithPlace("policy tiny")
	default:
		return plugins.Errorf(plugins.Canceled, "%w", err).WithPlace("policy tiny")
	}
}
