package tiny

import (
	"context"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/stat"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// trainingChunk is a recorded chunk with its advantages.
type trainingChunk struct {
	*record
	valid     int       // number of executed chunk positions
	advantage []float64 // [valid]
	reference []float32 // the starting policy's outputs
}

// Update performs one PPO update (Schulman et al., 2017) with separate clip bounds (DAPO's clip-higher)
// and the dual clip of Ye et al. (2020). It minimises
//
//	mean over units of -max(min(r A, clip(r, 1-ClipLow, 1+ClipHigh) A), ClipDual A if A < 0)
//	    + KLBeta * mean over units of KL(pi || pi_start)
//
// with r = exp(log pi - log pi_old). The setting ratio defines a unit: the executed part of a chunk, one
// position, or one action dimension of a position. Every executed unit has the same weight, so a long
// episode has more weight than a short one. With one advantage per step, the advantage of a chunk is the
// mean over its executed steps. KL is exact (gaussian: closed form; tokens: over all bins), at the
// update's temperature. The starting policy is the result of the last Imitate or BeginRun, or the policy
// before the first Update; it is part of a checkpoint.
//
// Statistics: Loss, ClipFraction (share of units with a clipped gradient), GradNorm (before clipping) and
// Entropy (nats per element) are means over the mini-batches. KL is the mean per chunk in the last epoch.
// Samples is the number of chunks per epoch. Extra["moved"] is the KL per chunk from the policy before
// the update to that of the last epoch, estimated from the ratios; a value above about 1 means that the
// update goes further than its data supports.
//
// Errors: NotFound for a trajectory that was not recorded, Invalid for advantages that do not match or
// are not finite, Diverged for a loss or gradient that is not finite. On error or cancellation, weights
// and optimiser do not change.
func (p *Policy) Update(ctx context.Context, u policy.Update, progress func(float64)) (policy.Statistics, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ready(); err != nil {
		return policy.Statistics{}, err
	}
	var last uint64
	for _, a := range p.state.updates {
		if a.ID == u.ID {
			s := a.Statistics
			s.AlreadyApplied = true
			return s, nil
		}
		last = max(last, a.ID)
	}
	fail := func(err error) (policy.Statistics, error) {
		return policy.Statistics{}, plugins.AsError(err).WithPlace("policy tiny, update %d", u.ID)
	}
	if u.ID <= last && len(p.state.updates) > 0 {
		return fail(plugins.Errorf(plugins.Invalid, "update %d was applied before", last).
			WithHint("use increasing ids, starting after the id that Load returns"))
	}
	if u.Temperature == 0 {
		u.Temperature = 1
	}
	if err := checkHyperparameters(u); err != nil {
		return fail(err)
	}
	chunks, err := p.trainingChunks(u)
	if err != nil {
		return fail(err)
	}
	before, optimiser := append([]float32(nil), p.state.weights...), p.state.adam.clone()
	hadReference := p.state.reference != nil
	if !hadReference {
		p.state.reference = append([]float32(nil), before...)
	}
	s, err := p.ppo(ctx, u, chunks, progress)
	if err == nil && !finite(p.state.weights) {
		err = notFinite("weights")
	}
	if err != nil {
		p.state.weights, p.state.adam = before, optimiser
		if !hadReference {
			p.state.reference = nil
		}
		return fail(err)
	}
	p.state.updates = append(p.state.updates, applied{u.ID, s})
	return s, nil
}

// notFinite returns the Diverged error for what, for example "weights".
func notFinite(what string) error {
	return plugins.Errorf(plugins.Diverged, "%s not finite; nothing was changed", what).
		WithHint("lower policy.tiny.lr, or set update.clip_dual")
}

// checkHyperparameters returns an Invalid error for a value that is out of range.
func checkHyperparameters(u policy.Update) error {
	h := u.Hyperparameters
	for _, v := range []struct {
		name  string
		value float64
	}{
		{"clip_low", h.ClipLow}, {"clip_high", h.ClipHigh}, {"clip_dual", h.ClipDual}, {"kl_beta", h.KLBeta},
		{"epochs", float64(h.Epochs)}, {"mini_batch", float64(h.MiniBatch)}, {"temperature", u.Temperature},
	} {
		if !(v.value >= 0) || math.IsInf(v.value, 0) {
			return plugins.Errorf(plugins.Invalid, "%s is %v", v.name, v.value).
				WithHint("use a finite number of 0 or more")
		}
	}
	if h.ClipDual > 0 && h.ClipDual <= 1 {
		return plugins.Errorf(plugins.Invalid, "clip_dual is %v", h.ClipDual).
			WithHint("use a value above 1 (3 is usual), or 0 to disable it")
	}
	return nil
}

// trainingChunks returns the recorded chunks that were executed, in the order of the trajectories and
// their steps.
func (p *Policy) trainingChunks(u policy.Update) ([]trainingChunk, error) {
	var out []trainingChunk
	for _, t := range u.Trajectories {
		list := p.records[t.Trajectory]
		at := func(err *plugins.Error) error { return err.WithPlace("episode %s", t.Trajectory) }
		if len(list) == 0 {
			return nil, at(plugins.Errorf(plugins.NotFound, "the trajectory was not recorded").
				WithHint("set record in Act, and do not call Forget before the update"))
		}
		if len(t.Values) != 1 && len(t.Values) < t.Steps {
			return nil, at(plugins.Errorf(plugins.Invalid, "%d advantages for %d steps", len(t.Values), t.Steps).
				WithHint("give one advantage for the whole trajectory, or one per env step"))
		}
		for _, v := range t.Values {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return nil, at(plugins.Errorf(plugins.Invalid, "an advantage is %v", v).
					WithHint("drop the episode before the update"))
			}
		}
		for _, r := range list {
			valid := min(p.net.Chunk, t.Steps-r.step)
			if valid <= 0 {
				continue
			}
			c := trainingChunk{record: r, valid: valid, advantage: make([]float64, valid)}
			for i := range c.advantage {
				if c.advantage[i] = t.Values[0]; len(t.Values) > 1 {
					c.advantage[i] = t.Values[r.step+i]
				}
			}
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "no executed step in %d trajectories", len(u.Trajectories)).
			WithHint("give at least one trajectory with an executed step")
	}
	return out, nil
}

// ppo runs the epochs over the chunks and updates weights and optimiser.
func (p *Policy) ppo(ctx context.Context, u policy.Update, chunks []trainingChunk,
	progress func(float64)) (policy.Statistics, error) {
	h := u.Hyperparameters
	records := make([]*record, len(chunks))
	for i, c := range chunks {
		records[i] = c.record
	}
	// The KL from the starting policy is reported even if its weight is 0.
	p.forwardAll(records, shard, p.state.reference, func(i int, out []float32) {
		chunks[i].reference = append([]float32(nil), out...)
	})
	batch := h.MiniBatch
	if batch == 0 {
		batch = p.settings.Int("mini_batch")
	}
	// Mini-batches have equal sizes near the requested one. A small remainder would move the weights as
	// far as a whole batch, in a mostly random direction.
	batches := max(int(math.Round(float64(len(chunks))/float64(batch))), 1)
	batch = (len(chunks) + batches - 1) / batches
	lr := learningRate(p.settings, p.net.Actions) *
		min(1, math.Sqrt(float64(len(chunks))/float64(p.settings.Int("lr_chunks"))))
	parts := make([][]float32, (batch+shard-1)/shard)
	for i := range parts {
		parts[i] = make([]float32, p.net.size)
	}
	var sum batchTotals
	var loss, norm float64
	s := policy.Statistics{Samples: len(chunks), Extra: map[string]float64{}}
	steps, all := 0, h.Epochs*((len(chunks)+batch-1)/batch)
	for epoch := range h.Epochs {
		order := rand.New(rand.NewPCG(u.Seed, uint64(epoch))).Perm(len(chunks))
		last := batchTotals{}
		for from := 0; from < len(order); from += batch {
			if err := contextError(ctx); err != nil {
				return s, err
			}
			t, g := p.lossGradient(u, chunks, order[from:min(from+batch, len(order))], parts)
			value := t.loss / t.units
			n := clipNorm(g, p.settings.Float("grad_clip"))
			if math.IsNaN(value+n) || math.IsInf(value+n, 0) {
				return s, notFinite("loss or gradient is")
			}
			if steps == 0 {
				s.FirstRatio = t.ratio / t.units
				s.Extra["first_kl"] = t.kl / t.chunks
			}
			beta1, beta2 := p.settings.Float("adam_beta1"), p.settings.Float("adam_beta2")
			p.state.adam.step(p.state.weights, g, lr, beta1, beta2)
			steps++
			loss, norm = loss+value, norm+n
			sum.add(t)
			last.add(t)
			if progress != nil {
				progress(float64(steps) / float64(all))
			}
		}
		s.KL = last.kl / last.chunks
		s.Extra["moved"] = last.moved / last.chunks
	}
	if steps > 0 {
		s.Loss, s.GradNorm = loss/float64(steps), norm/float64(steps)
		s.ClipFraction, s.Entropy = sum.clipped/sum.units, sum.entropy/sum.chunks
		s.Extra["ratio"], s.Extra["ratio_max"] = sum.ratio/sum.units, sum.maxRatio
	}
	s.Extra["steps"], s.Extra["lr"] = float64(steps), lr
	return s, nil
}

// batchTotals are sums over a mini-batch.
type batchTotals struct {
	loss, ratio, clipped, units float64 // over units
	kl, entropy, chunks         float64 // over chunks
	maxRatio                    float64 // largest ratio
	// KL(before the update || now), estimated from the ratios of the units
	moved float64
}

func (t *batchTotals) add(o batchTotals) {
	t.loss, t.ratio, t.clipped, t.units = t.loss+o.loss, t.ratio+o.ratio, t.clipped+o.clipped, t.units+o.units
	t.kl, t.entropy, t.chunks = t.kl+o.kl, t.entropy+o.entropy, t.chunks+o.chunks
	t.maxRatio, t.moved = max(t.maxRatio, o.maxRatio), t.moved+o.moved
}

// lossGradient returns the totals of the mini-batch chunks[order] and the gradient of its mean loss over
// units, which is stored in parts[0]. Shards have a fixed size and are added in order, so the number of
// workers does not matter.
func (p *Policy) lossGradient(u policy.Update, chunks []trainingChunk, order []int,
	parts [][]float32) (batchTotals, []float32) {
	units := 0
	for _, i := range order {
		units += p.units(p.head.randomPositions(chunks[i].valid))
	}
	n := (len(order) + shard - 1) / shard
	totals := make([]batchTotals, n)
	p.ensurePasses()
	workers(n, func(w, k int) {
		ps := p.passes[w]
		ps.reset()
		part := order[k*shard : min((k+1)*shard, len(order))]
		for _, i := range part {
			copy(ps.addSample(ps.addImage(chunks[i].image)), chunks[i].inputs)
		}
		ps.forward(p.state.weights)
		clear(ps.dout)
		for j, i := range part {
			totals[k].add(p.surrogate(u, chunks[i], ps.result(j), 1/float64(units), ps.gradient(j)))
		}
		clear(parts[k])
		ps.backward(p.state.weights, parts[k])
	})
	var sum batchTotals
	for _, t := range totals {
		sum.add(t)
	}
	return sum, sumParts(parts[:n])
}

// units returns the number of ratios of a chunk that has random numbers at the given number of positions.
func (p *Policy) units(positions int) int {
	switch p.settings.String("ratio") {
	case "chunk":
		return 1
	case "token":
		return positions * p.net.Actions
	}
	return positions
}

// surrogate returns the loss and statistics of one chunk, given the network's outputs, and adds scale
// times the loss's gradient to dout.
func (p *Policy) surrogate(
	u policy.Update,
	c trainingChunk,
	out []float32,
	scale float64,
	dout []float32,
) batchTotals {
	elements := p.net.Chunk * p.net.Actions
	lp, dlp := make([]float64, elements), make([]float64, elements)
	p.head.logProb(out, c.sample, u.Temperature, lp)
	positions := p.head.randomPositions(c.valid)
	units := p.units(positions)
	size := positions * p.net.Actions / units
	steps := c.valid / positions // an element's advantage is the mean over this many steps
	t := batchTotals{units: float64(units), chunks: 1, entropy: p.head.entropy(out, u.Temperature)}
	for k := range units {
		var change, advantage float64
		for i := k * size; i < (k+1)*size; i++ {
			change += lp[i] - c.logProb[i]
			at := i / p.net.Actions * steps
			advantage += stat.Mean(c.advantage[at:at+steps], nil)
		}
		advantage /= float64(size)
		ratio := math.Exp(min(change, 20)) // avoids an overflow
		loss, slope, cut := clippedLoss(ratio, advantage, u.Hyperparameters)
		t.loss += loss
		t.ratio += ratio
		t.maxRatio = max(t.maxRatio, ratio)
		t.moved += ratio - 1 - change // Schulman's k3 estimator of the KL, never negative
		if cut {
			t.clipped++
		}
		for i := k * size; i < (k+1)*size; i++ {
			dlp[i] = scale * slope * ratio
		}
	}
	p.head.logProbBackward(out, c.sample, u.Temperature, dlp, dout)
	kl, dkl := lp, dlp
	p.head.divergence(out, c.reference, u.Temperature, kl)
	for _, v := range kl[:c.valid*p.net.Actions] {
		t.kl += v
	}
	if beta := u.Hyperparameters.KLBeta; beta > 0 {
		t.loss += beta * t.kl
		clear(dkl)
		for i := range dkl[:c.valid*p.net.Actions] {
			dkl[i] = scale * beta
		}
		p.head.divergenceBackward(out, c.reference, u.Temperature, dkl, dout)
	}
	return t
}

// clippedLoss returns PPO's loss for ratio r and advantage a, its derivative by r, and whether clipping
// made the derivative 0.
func clippedLoss(r, a float64, h policy.Hyperparameters) (loss, slope float64, cut bool) {
	bounded := min(max(r, 1-h.ClipLow), 1+h.ClipHigh)
	loss, slope = -r*a, -a
	if -bounded*a > loss {
		loss, slope, cut = -bounded*a, 0, true
	}
	if a < 0 && h.ClipDual > 0 && loss > -h.ClipDual*a {
		loss, slope, cut = -h.ClipDual*a, 0, true
	}
	return loss, slope, cut
}
