package tiny

import (
	"context"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Defaults that depend on the arm. docs/results/tiny-settings.md has the measurements behind them.
const (
	fullPose = 6 // action dimensions of an arm that moves and turns its gripper

	// imitate_steps = 0
	imitateSteps         = 800
	imitateStepsFullPose = 100

	// lr = 0
	updateRate         = 3e-4
	updateRateFullPose = 4e-4

	// std = 0
	stepStd          = 0.05
	chunkStd         = 0.018
	chunkStdFullPose = 0.035
)

// idleThreshold is the magnitude, in units of half the range, that an action dimension must reach in the
// demonstrations to be used at full range; see the setting idle_range.
const idleThreshold = 0.25

// example is one demonstration prepared for training. Its actions are in units of half the action range,
// and after [Policy.scaleActions] in the policy's action units.
type example struct {
	images  [][]byte
	proprio [][]float32
	actions [][]float32
	weights []float32 // one per action; nil: all 1
	words   [wordBuckets]float32
}

// pair is a proprio entry that an action dimension moves.
type pair struct{ proprio, action int }

// Imitate trains the policy on demonstrations by supervised learning, with Adam and a learning rate that
// falls to 0 along a cosine. It draws frames uniformly. The labels of a frame are the actions of the next
// chunk; those beyond the demonstration's end are masked. The gaussian head minimises the squared error
// and the tokens head the cross-entropy. The loss of an action is multiplied by its weight in
// [policy.Demonstration].Weights.
//
// Every sample is augmented:
//   - The recorded gripper position is shifted, and the labels of the next shift_steps steps are corrected to undo the
//     shift. This teaches the policy to return to the demonstrated path.
//   - Proprio entries that no action corrects get noise. Demonstrations hardly vary the wrist's angles, but exploration
//     does, and the policy must not react to them.
//   - The image is shifted and its brightness changed a little.
//   - The clock is shifted.
//
// The first call also fixes the scales of proprio and actions and the clock's horizon. Imitate makes the
// result the starting policy of the KL term, resets the optimiser and drops recorded chunks. Failed
// demonstrations without weights are skipped. An id above 0 that was applied before is not applied again.
//
// Errors: Invalid if no demonstration is left or one does not match the env, Diverged for a loss that is
// not finite. On error or cancellation nothing changes.
func (p *Policy) Imitate(
	ctx context.Context,
	im policy.Imitate,
	demos iter.Seq2[policy.Demonstration, error],
	progress func(done, loss float64),
) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ready(); err != nil {
		return err
	}
	fail := func(err error) error { return plugins.AsError(err).WithPlace("policy tiny, imitation") }
	if im.ID > 0 && slices.Contains(p.state.imitated, im.ID) {
		for _, err := range demos { // the sender waits until all demonstrations are read
			if err != nil {
				return fail(err)
			}
		}
		return nil
	}
	examples, err := p.examples(ctx, demos)
	if err != nil {
		return fail(err)
	}
	old := p.state
	p.state.weights = append([]float32(nil), old.weights...)
	p.state.adam = newAdam(p.net.size)
	if len(old.imitated) == 0 && old.reference == nil {
		p.fitScales(examples)
	}
	p.scaleActions(examples)
	if err := p.cloneBehaviour(ctx, im, examples, progress); err != nil {
		p.state = old
		return fail(err)
	}
	p.state.adam = newAdam(p.net.size)
	p.state.reference = append([]float32(nil), p.state.weights...)
	if p.state.imitated = slices.Clone(old.imitated); im.ID > 0 {
		p.state.imitated = append(p.state.imitated, im.ID)
	}
	p.dropAllRecords()
	return nil
}

// examples reads and converts the demonstrations that are successful or have weights. It returns Invalid
// if none has a step to learn from.
func (p *Policy) examples(ctx context.Context, demos iter.Seq2[policy.Demonstration, error]) ([]example, error) {
	var out []example
	failed := 0
	for d, err := range demos {
		if err != nil {
			return nil, err
		}
		if err := contextError(ctx); err != nil {
			return nil, err
		}
		if !d.Success && d.Weights == nil {
			failed++
			continue
		}
		e, err := p.example(d)
		if err != nil {
			return nil, plugins.AsError(err).WithPlace("demonstration %s", d.ID)
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "no successful demonstration, %d failed", failed).
			WithHint("record some with the env's expert, or start from a checkpoint")
	}
	if !slices.ContainsFunc(out, example.hasWeight) {
		return nil, plugins.Errorf(plugins.Invalid, "all weights are 0").
			WithHint("give the steps to learn from a weight above 0")
	}
	return out, nil
}

// example checks and converts a demonstration.
func (p *Policy) example(d policy.Demonstration) (example, error) {
	var e example
	if err := d.Actions.Check("actions", plugins.Float32, -1, p.net.Actions); err != nil {
		return e, err
	}
	n := d.Actions.Shape[0]
	if n == 0 {
		return e, plugins.Errorf(plugins.Invalid, "the demonstration has no steps")
	}
	actions := d.Actions.Float32s()
	if !finite(actions) {
		return e, plugins.Errorf(plugins.Invalid, "an action is not finite")
	}
	a := p.env.Action
	for i := range n {
		row := actions[i*a.Dim() : (i+1)*a.Dim()]
		for j := range row {
			row[j] = min(max(2*(row[j]-a.Low[j])/(a.High[j]-a.Low[j])-1, -1), 1)
		}
		e.actions = append(e.actions, row)
	}
	e.proprio = make([][]float32, n)
	if p.net.Proprio > 0 {
		if err := d.Proprio.Check("proprio", plugins.Float32, n, p.net.Proprio); err != nil {
			return e, err
		}
		v := d.Proprio.Float32s()
		if !finite(v) {
			return e, plugins.Errorf(plugins.Invalid, "proprio is not finite")
		}
		for i := range n {
			e.proprio[i] = v[i*p.net.Proprio : (i+1)*p.net.Proprio]
		}
	}
	e.images = make([][]byte, n)
	if p.settings.Bool("image") {
		t, err := p.image(d.Images, 4)
		if err != nil {
			return e, err
		}
		if t.Shape[0] != n {
			return e, plugins.Errorf(plugins.Invalid, "%d images for %d actions", t.Shape[0], n)
		}
		size := t.Shape[1] * t.Shape[2] * 3
		workers(n, func(_, i int) {
			e.images[i] = make([]byte, side*side*3)
			resizeArea(e.images[i], t.Data[i*size:(i+1)*size], t.Shape[1], t.Shape[2])
		})
	}
	hashWords(d.Instruction, e.words[:])
	if d.Weights != nil && len(d.Weights) != n {
		return e, plugins.Errorf(plugins.Invalid, "%d weights for %d actions", len(d.Weights), n)
	}
	for t, w := range d.Weights {
		if !(w >= 0) || math.IsInf(float64(w), 0) {
			return e, plugins.Errorf(plugins.Invalid, "the weight of step %d is %v", t, w).
				WithHint("use finite weights of 0 or more")
		}
	}
	e.weights = d.Weights
	return e, nil
}

// weight returns the factor of the loss of action t.
func (e *example) weight(t int) float32 {
	if e.weights == nil {
		return 1
	}
	return e.weights[t]
}

// hasWeight reports whether any action has a weight above 0.
func (e example) hasWeight() bool {
	return e.weights == nil || slices.ContainsFunc(e.weights, func(w float32) bool { return w > 0 })
}

// fitScales sets the mean and scale of proprio, the action units and the clock's horizon from the
// demonstrations.
//
// The scale of a proprio entry is at least 0.02 (2 cm for a position), or 0.1 rad for an angle, so that
// an entry that hardly moves is not amplified. The unit of an action dimension is half its range. For a
// dimension that stays below [idleThreshold] and that the shift does not correct, it is that times the
// setting idle_range.
func (p *Policy) fitScales(examples []example) {
	n := p.net.Proprio
	sum, squares, count, longest := make([]float64, n), make([]float64, n), 0.0, 0
	for _, e := range examples {
		longest = max(longest, len(e.actions))
		for _, row := range e.proprio {
			count++
			for i, v := range row {
				sum[i] += float64(v)
				squares[i] += float64(v) * float64(v)
			}
		}
	}
	p.state.mean, p.state.scale = make([]float32, n), make([]float32, n)
	for i := range n {
		m := sum[i] / count
		p.state.mean[i] = float32(m)
		minScale := 0.02
		if strings.HasSuffix(p.env.Proprio[i], "[rad]") {
			minScale = 0.1
		}
		p.state.scale[i] = float32(max(math.Sqrt(max(squares[i]/count-m*m, 0)), minScale))
	}
	largest := make([]float32, p.net.Actions)
	for _, e := range examples {
		for _, row := range e.actions {
			for d, v := range row {
				largest[d] = max(largest[d], v, -v)
			}
		}
	}
	p.state.units = ones(p.net.Actions)
	for d, v := range largest {
		if v < idleThreshold && !slices.ContainsFunc(p.pairs(), func(q pair) bool { return q.action == d }) {
			p.state.units[d] = float32(p.settings.Float("idle_range"))
		}
	}
	if p.settings.Int("clock_horizon") == 0 {
		p.state.horizon = math.Ceil(1.25 * float64(longest))
	}
}

// scaleActions converts the actions to the policy's action units, in place.
func (p *Policy) scaleActions(examples []example) {
	for _, e := range examples {
		for _, row := range e.actions {
			for d := range row {
				if row[d] /= p.state.units[d]; p.net.Head == "tokens" { // the bins cover -1 to 1
					row[d] = min(max(row[d], -1), 1)
				}
			}
		}
	}
}

// pairs returns the proprio entries and action dimensions of the settings shift_proprio and shift_actions
// that the env has.
func (p *Policy) pairs() []pair {
	var out []pair
	actions := p.settings.Strings("shift_actions")
	for i, name := range p.settings.Strings("shift_proprio") {
		if i >= len(actions) {
			break
		}
		from := slices.IndexFunc(p.env.Proprio, func(s string) bool {
			bare, _, _ := strings.Cut(s, " [")
			return slices.Contains(strings.Split(name, "|"), bare)
		})
		to := slices.Index(p.env.Action.Names, actions[i])
		if from >= 0 && to >= 0 {
			out = append(out, pair{from, to})
		}
	}
	return out
}

// estimateDelta estimates how far the gripper moves in one step for half the range of an action. It fits
// displacements over shift_steps steps to the summed actions of all pairs, by least squares through 0.
// The result is 0 if nothing moved.
func (p *Policy) estimateDelta(examples []example, pairs []pair) float64 {
	k := p.settings.Int("shift_steps")
	var numerator, denominator float64
	for _, e := range examples {
		for t := 0; t+k < len(e.actions); t++ {
			for _, q := range pairs {
				var sum float64
				for _, row := range e.actions[t : t+k] {
					sum += float64(row[q.action])
				}
				numerator += sum * float64(e.proprio[t+k][q.proprio]-e.proprio[t][q.proprio])
				denominator += sum * sum
			}
		}
	}
	if denominator == 0 {
		return 0
	}
	return max(numerator/denominator, 0)
}

// imitationSteps returns the number of gradient steps for a call that requests the given number (0: the
// default).
func (p *Policy) imitationSteps(requested int) int {
	switch configured := p.settings.Int("imitate_steps"); {
	case requested > 0:
		return requested
	case configured > 0:
		return configured
	case p.net.Actions >= fullPose:
		return imitateStepsFullPose
	}
	return imitateSteps
}

// cloneBehaviour runs the gradient steps of imitation and reports the loss's moving average to progress.
func (p *Policy) cloneBehaviour(ctx context.Context, im policy.Imitate, examples []example,
	progress func(done, loss float64)) error {
	steps := p.imitationSteps(im.Steps)
	g := p.newAugmenter(examples)
	if g.sigma > 0 && len(g.pairs) > 0 && g.scale[0] == 0 {
		return plugins.Errorf(plugins.Invalid, "the demonstrations do not show how far an action moves the gripper").
			WithHint("set policy.tiny.delta_scale, or policy.tiny.shift = 0")
	}
	b := p.newImitationBatch(g, im.Seed)
	mean := math.NaN()
	for step := range steps {
		if err := contextError(ctx); err != nil {
			return err
		}
		loss, gradient := b.lossGradient(step)
		norm := clipNorm(gradient, p.settings.Float("grad_clip"))
		if math.IsNaN(loss+norm) || math.IsInf(loss+norm, 0) {
			return plugins.Errorf(plugins.Diverged,
				"loss or gradient is not finite at step %d; nothing was changed", step).
				WithHint("lower policy.tiny.imitate_lr")
		}
		lr := p.settings.Float("imitate_lr") * 0.5 * (1 + math.Cos(math.Pi*float64(step)/float64(steps)))
		p.state.adam.step(
			p.state.weights,
			gradient,
			lr,
			p.settings.Float("adam_beta1"),
			p.settings.Float("adam_beta2"),
		)
		if mean = 0.95*mean + 0.05*loss; math.IsNaN(mean) {
			mean = loss
		}
		if progress != nil && (step%10 == 9 || step == steps-1) {
			progress(float64(step+1)/float64(steps), mean)
		}
	}
	return nil
}

// imitationBatch computes the loss of a batch of augmented samples, in passes of a fixed size that run in
// parallel.
type imitationBatch struct {
	p              *Policy
	g              *augmenter
	seed           uint64
	frames, copies int
	perPass        int // frames per pass
	passes         []*pass
	parts          [][]float32 // gradients, one per pass
	losses, counts []float64   // sums of losses and weights, one per pass
}

// newImitationBatch allocates the passes of a batch.
func (p *Policy) newImitationBatch(g *augmenter, seed uint64) *imitationBatch {
	b := &imitationBatch{
		p:      p,
		g:      g,
		seed:   seed,
		frames: p.settings.Int("imitate_batch"),
		copies: p.settings.Int("imitate_copies"),
	}
	b.perPass = max(min(maxRows/b.copies, (b.frames+1)/2), 1)
	n := (b.frames + b.perPass - 1) / b.perPass
	b.losses, b.counts = make([]float64, n), make([]float64, n)
	for range n {
		b.passes = append(b.passes, newPass(p.net, b.perPass, b.perPass*b.copies))
		b.parts = append(b.parts, make([]float32, p.net.size))
	}
	return b
}

// lossGradient draws the batch of a step and returns its mean loss and the gradient, which is valid until
// the next call.
func (b *imitationBatch) lossGradient(step int) (float64, []float32) {
	workers(len(b.passes), func(_, k int) { b.runPass(step, k) })
	var loss, count float64
	for k := range b.passes {
		loss, count = loss+b.losses[k], count+b.counts[k]
	}
	return loss / max(count, math.SmallestNonzeroFloat32), sumParts(b.parts) // all weights of a batch may be 0
}

// runPass computes loss, weights and gradient of pass k.
func (b *imitationBatch) runPass(step, k int) {
	p, ps := b.p, b.passes[k]
	ps.reset()
	targets, weights := make([][]float32, 0, b.perPass*b.copies), make([][]float32, 0, b.perPass*b.copies)
	for f := k * b.perPass; f < min((k+1)*b.perPass, b.frames); f++ {
		r := rand.New(rand.NewPCG(b.seed, uint64(step*b.frames+f)))
		b.g.draw(r, ps, b.copies, func(target, weight []float32) {
			targets, weights = append(targets, target), append(weights, weight)
		})
	}
	ps.forward(p.state.weights)
	clear(ps.dout)
	b.losses[k], b.counts[k] = 0, 0
	scale := 1 / float64(b.frames*b.copies*p.net.Actions)
	for i := range targets {
		b.losses[k] += p.head.imitationLoss(ps.result(i), targets[i], weights[i], scale, ps.gradient(i))
		for _, w := range weights[i] {
			b.counts[k] += float64(w)
		}
	}
	clear(b.parts[k])
	ps.backward(p.state.weights, b.parts[k])
}
