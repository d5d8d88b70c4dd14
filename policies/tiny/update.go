package tiny

import (
	"context"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/stat"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// lesson is a recorded chunk with what the update says of it.
type lesson struct {
	*record
	valid     int       // executed chunk positions, from the first
	advantage []float64 // one a valid position
	reference []float32 // the starting policy's outputs
}

// Update makes one PPO update (Schulman et al., 2017) with separate bounds (DAPO's clip-higher) and the dual clip of Ye et al. (2020). Minimised:
//
//	mean over units of -max(min(r A, clip(r, 1-ClipLow, 1+ClipHigh) A), ClipDual A if A < 0) + KLBeta * mean over units of KL(pi || pi_start)
//
// with r = exp(log pi - log pi_old). A unit is what the setting ratio says: the executed part of a chunk, one position of it, or one action dimension of
// a position. Every executed unit weighs the same, so a long episode weighs more than a short one. The advantage of a chunk is the mean over its executed steps when there is one
// a step. KL is exact (gaussian: the closed form; tokens: over all bins), at the update's temperature. The starting policy is the one that the
// last Imitate or BeginRun left, else the one before the first Update; Save and Load carry it.
//
// Statistics: Loss, ClipFraction (units whose gradient was cut off), GradNorm (before clipping) and Entropy (nats an element) are means over the
// mini-batches; KL is that of a chunk, over the last epoch; Samples counts chunks in one epoch. Extra: moved is the KL of a chunk from the policy before the
// update to the one of the last epoch, estimated from the ratios; above 1 or so an update goes farther than its data can tell.
//
// An update that fails, is cancelled or meets a loss or gradient that is not finite leaves weights and optimiser as they were. Errors: NotFound for a
// trajectory that was not recorded, Invalid for advantages that do not fit or are not finite, Diverged for a loss that is not finite.
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
		return fail(plugins.Errorf(plugins.Invalid, "update %d was applied before it", last).WithHint("ids grow; go on from the id that Load returns"))
	}
	if u.Temperature == 0 {
		u.Temperature = 1
	}
	if err := checkHyper(u); err != nil {
		return fail(err)
	}
	lessons, err := p.lessons(u)
	if err != nil {
		return fail(err)
	}
	before, optimiser := append([]float32(nil), p.state.weights...), p.state.adam.clone()
	hadReference := p.state.reference != nil
	if !hadReference {
		p.state.reference = append([]float32(nil), before...)
	}
	s, err := p.ppo(ctx, u, lessons, progress)
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

func notFinite(what string) error {
	return plugins.Errorf(plugins.Diverged, "%s not finite; nothing was changed", what).WithHint("lower policy.tiny.lr, or set update.clip_dual")
}

func checkHyper(u policy.Update) error {
	h := u.Hyperparameters
	for _, v := range []struct {
		name  string
		value float64
	}{{"clip_low", h.ClipLow}, {"clip_high", h.ClipHigh}, {"clip_dual", h.ClipDual}, {"kl_beta", h.KLBeta}, {"epochs", float64(h.Epochs)},
		{"mini_batch", float64(h.MiniBatch)}, {"temperature", u.Temperature}} {
		if !(v.value >= 0) || math.IsInf(v.value, 0) {
			return plugins.Errorf(plugins.Invalid, "%s is %v", v.name, v.value).WithHint("a finite number, 0 or more")
		}
	}
	if h.ClipDual > 0 && h.ClipDual <= 1 {
		return plugins.Errorf(plugins.Invalid, "clip_dual is %v", h.ClipDual).WithHint("above 1 (3 is usual), or 0 for none")
	}
	return nil
}

// lessons lists the recorded chunks that were executed, in the order of the trajectories and their steps.
func (p *Policy) lessons(u policy.Update) ([]lesson, error) {
	var out []lesson
	for _, t := range u.Trajectories {
		list := p.records[t.Trajectory]
		at := func(err *plugins.Error) error { return err.WithPlace("episode %s", t.Trajectory) }
		if len(list) == 0 {
			return nil, at(plugins.Errorf(plugins.NotFound, "nothing was recorded").WithHint("act with record set, and do not forget before the update"))
		}
		if len(t.Values) != 1 && len(t.Values) < t.Steps {
			return nil, at(plugins.Errorf(plugins.Invalid, "%d advantages for %d steps", len(t.Values), t.Steps).WithHint("one for the whole trajectory, or one an env step"))
		}
		for _, v := range t.Values {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return nil, at(plugins.Errorf(plugins.Invalid, "an advantage is %v", v).WithHint("drop the episode before the update"))
			}
		}
		for _, r := range list {
			valid := min(p.net.Chunk, t.Steps-r.step)
			if valid <= 0 {
				continue
			}
			l := lesson{record: r, valid: valid, advantage: make([]float64, valid)}
			for i := range l.advantage {
				if l.advantage[i] = t.Values[0]; len(t.Values) > 1 {
					l.advantage[i] = t.Values[r.step+i]
				}
			}
			out = append(out, l)
		}
	}
	if len(out) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "no executed step in %d trajectories", len(u.Trajectories)).WithHint("an update needs at least one")
	}
	return out, nil
}

// ppo makes the epochs over the lessons.
func (p *Policy) ppo(ctx context.Context, u policy.Update, lessons []lesson, progress func(float64)) (policy.Statistics, error) {
	h := u.Hyperparameters
	records := make([]*record, len(lessons))
	for i, l := range lessons {
		records[i] = l.record
	}
	// Also with beta 0: the distance from the start is worth knowing.
	p.passing(records, shard, p.state.reference, func(i int, out []float32) { lessons[i].reference = append([]float32(nil), out...) })
	batch := h.MiniBatch
	if batch == 0 {
		batch = p.settings.Int("mini_batch")
	}
	// Mini-batches of one size, near the one wanted: a remainder of a few chunks would move the weights as far as a whole batch, mostly at random.
	batches := max(int(math.Round(float64(len(lessons))/float64(batch))), 1)
	batch = (len(lessons) + batches - 1) / batches
	lr := learningRate(p.settings, p.net.Actions) * min(1, math.Sqrt(float64(len(lessons))/float64(p.settings.Int("lr_chunks"))))
	parts := make([][]float32, (batch+shard-1)/shard)
	for i := range parts {
		parts[i] = make([]float32, p.net.size)
	}
	var sum tally
	var loss, norm float64
	s := policy.Statistics{Samples: len(lessons), Extra: map[string]float64{}}
	steps, all := 0, h.Epochs*((len(lessons)+batch-1)/batch)
	for epoch := range h.Epochs {
		order := rand.New(rand.NewPCG(u.Seed, uint64(epoch))).Perm(len(lessons))
		last := tally{}
		for from := 0; from < len(order); from += batch {
			if err := canceled(ctx); err != nil {
				return s, err
			}
			t, g := p.lossGradient(u, lessons, order[from:min(from+batch, len(order))], parts)
			value := t.loss / t.units
			n := clip(g, p.settings.Float("grad_clip"))
			if math.IsNaN(value+n) || math.IsInf(value+n, 0) {
				return s, notFinite("loss or gradient is")
			}
			if steps == 0 {
				s.FirstRatio = t.ratio / t.units
				s.Extra["first_kl"] = t.kl / t.chunks
			}
			p.state.adam.step(p.state.weights, g, lr, p.settings.Float("adam_beta1"), p.settings.Float("adam_beta2"))
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
		s.Extra["ratio"], s.Extra["ratio_max"] = sum.ratio/sum.units, sum.most
	}
	s.Extra["steps"], s.Extra["lr"] = float64(steps), lr
	return s, nil
}

// tally sums up what a mini-batch gives.
type tally struct {
	loss, ratio, clipped, units float64 // over units
	kl, entropy, chunks         float64 // over chunks
	most                        float64 // largest ratio
	moved                       float64 // KL(before the update || now), estimated from the ratios of the chunks' units
}

func (t *tally) add(o tally) {
	t.loss, t.ratio, t.clipped, t.units = t.loss+o.loss, t.ratio+o.ratio, t.clipped+o.clipped, t.units+o.units
	t.kl, t.entropy, t.chunks, t.most, t.moved = t.kl+o.kl, t.entropy+o.entropy, t.chunks+o.chunks, max(t.most, o.most), t.moved+o.moved
}

// lossGradient returns sums of the mini-batch's loss and the gradient of its mean over units, which lies in parts[0]. Shards are of fixed size and are added in
// order, whoever computes them.
func (p *Policy) lossGradient(u policy.Update, lessons []lesson, order []int, parts [][]float32) (tally, []float32) {
	units := 0
	for _, i := range order {
		units += p.units(p.head.random(lessons[i].valid))
	}
	n := (len(order) + shard - 1) / shard
	tallies := make([]tally, n)
	p.needPasses()
	workers(n, func(w, k int) {
		ps := p.passes[w]
		ps.reset()
		mine := order[k*shard : min((k+1)*shard, len(order))]
		for _, i := range mine {
			copy(ps.add(ps.look(lessons[i].picture)), lessons[i].inputs)
		}
		ps.forward(p.state.weights)
		clear(ps.dout)
		for j, i := range mine {
			tallies[k].add(p.surrogate(u, lessons[i], ps.result(j), 1/float64(units), ps.gradient(j)))
		}
		clear(parts[k])
		ps.backward(p.state.weights, parts[k])
	})
	var sum tally
	for _, t := range tallies {
		sum.add(t)
	}
	return sum, total(parts[:n])
}

// units is the number of ratios in a chunk with random numbers for so many positions.
func (p *Policy) units(positions int) int {
	switch p.settings.String("ratio") {
	case "chunk":
		return 1
	case "token":
		return positions * p.net.Actions
	}
	return positions
}

// surrogate computes one chunk's loss from the network's outputs and adds scale times its gradient to dout.
func (p *Policy) surrogate(u policy.Update, l lesson, out []float32, scale float64, dout []float32) tally {
	elements := p.net.Chunk * p.net.Actions
	lp, dlp := make([]float64, elements), make([]float64, elements)
	p.head.logProb(out, l.sample, u.Temperature, lp)
	positions := p.head.random(l.valid)
	units := p.units(positions)
	size := positions * p.net.Actions / units
	steps := l.valid / positions // whose mean is an element's advantage
	t := tally{units: float64(units), chunks: 1, entropy: p.head.entropy(out, u.Temperature)}
	for k := range units {
		var change, advantage float64
		for i := k * size; i < (k+1)*size; i++ {
			change += lp[i] - l.logProb[i]
			at := i / p.net.Actions * steps
			advantage += stat.Mean(l.advantage[at:at+steps], nil)
		}
		advantage /= float64(size)
		ratio := math.Exp(min(change, 20)) // beyond, the loss is as good as infinite and the exponential would become it
		loss, slope, cut := clipped(ratio, advantage, u.Hyperparameters)
		t.loss += loss
		t.ratio += ratio
		t.most = max(t.most, ratio)
		t.moved += ratio - 1 - change // never negative, mean over samples KL (Schulman's k3)
		if cut {
			t.clipped++
		}
		for i := k * size; i < (k+1)*size; i++ {
			dlp[i] = scale * slope * ratio
		}
	}
	p.head.logProbBackward(out, l.sample, u.Temperature, dlp, dout)
	kl, dkl := lp, dlp
	p.head.divergence(out, l.reference, u.Temperature, kl)
	for _, v := range kl[:l.valid*p.net.Actions] {
		t.kl += v
	}
	if beta := u.Hyperparameters.KLBeta; beta > 0 {
		t.loss += beta * t.kl
		clear(dkl)
		for i := range dkl[:l.valid*p.net.Actions] {
			dkl[i] = scale * beta
		}
		p.head.divergenceBackward(out, l.reference, u.Temperature, dkl, dout)
	}
	return t
}

// clipped is PPO's loss for one ratio r and advantage a, its slope by r, and whether clipping has cut the slope off.
func clipped(r, a float64, h policy.Hyperparameters) (loss, slope float64, cut bool) {
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
