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

// Gradient steps of imitation where neither the call nor imitate_steps says how many; see that setting's doc.
const (
	imitateSteps         = 800
	imitateStepsFullPose = 100
	fullPose             = 6 // action dimensions of an arm that is moved and turned
)

// Adam's learning rates of updates where the setting lr leaves them to the policy; see its doc.
const (
	updateRate         = 3e-4
	updateRateFullPose = 4e-4
)

// Standard deviations of the gaussian head where the setting std leaves them to the policy; see its doc.
const (
	stepStd          = 0.05
	chunkStd         = 0.018
	chunkStdFullPose = 0.035
)

// idle is the share of its range that an action dimension leaves at least once in the demonstrations, or else the policy uses it in small units.
const idle = 0.25

// example is one demonstration, ready for training: pictures of side x side, actions in units of half the action range; after [Policy.toUnits] in the policy's.
type example struct {
	pictures [][]byte
	proprio  [][]float32
	actions  [][]float32
	weights  []float32 // one an action; nil: all 1
	words    [words]float32
}

// pair is a proprio entry that an action dimension moves.
type pair struct{ proprio, action int }

// Imitate trains by supervised learning on demonstrations: Adam with a learning rate that falls to 0 along a cosine, on frames drawn uniformly, each with the
// actions of the next chunk as labels (those beyond the demonstration's end are left out). The gaussian head minimises squared error, tokens cross-entropy,
// each action's loss times its weight in [policy.Demonstration].Weights.
//
// Every sample is augmented: the gripper's recorded position is shifted and the labels of the next shift_steps steps corrected so that they undo the
// shift, which teaches to come back to the demonstrated path; proprio entries that no action corrects get noise, since a demonstration hardly moves the wrist's
// angles, exploration does, and what the policy never saw vary must not steer it; the picture is moved and brightened a little; the clock is shifted.
//
// The first demonstrations also fix the scale of the proprio inputs and the clock's horizon. Afterwards the result is the starting policy of the KL term, the
// optimiser is fresh and recorded chunks are forgotten. Failed demonstrations without weights are left out; none left is Invalid. An id above 0 that was applied before is
// not applied again. When it fails or is cancelled, nothing has changed.
func (p *Policy) Imitate(ctx context.Context, im policy.Imitate, demos iter.Seq2[policy.Demonstration, error], progress func(done, loss float64)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ready(); err != nil {
		return err
	}
	fail := func(err error) error { return plugins.AsError(err).WithPlace("policy tiny, imitation") }
	if im.ID > 0 && slices.Contains(p.state.imitated, im.ID) {
		for _, err := range demos { // the sender waits until they are read
			if err != nil {
				return fail(err)
			}
		}
		return nil
	}
	var examples []example
	failed := 0
	for d, err := range demos {
		if err != nil {
			return fail(err)
		}
		if err := canceled(ctx); err != nil {
			return err
		}
		if !d.Success && d.Weights == nil {
			failed++
			continue
		}
		e, err := p.example(d)
		if err != nil {
			return fail(plugins.AsError(err).WithPlace("demonstration %s", d.ID))
		}
		examples = append(examples, e)
	}
	if len(examples) > 0 && !slices.ContainsFunc(examples, example.counts) {
		return fail(plugins.Errorf(plugins.Invalid, "all weights are 0").WithHint("give steps that are worth learning a weight above 0"))
	}
	if len(examples) == 0 {
		return fail(plugins.Errorf(plugins.Invalid, "no successful demonstration, %d failed ones", failed).WithHint("record some with the env's expert, or use a policy's checkpoint"))
	}
	old := p.state
	p.state.weights = append([]float32(nil), old.weights...)
	p.state.adam = newAdam(p.net.size)
	if len(old.imitated) == 0 && old.reference == nil {
		p.measure(examples)
	}
	p.toUnits(examples)
	if err := p.clone(ctx, im, examples, progress); err != nil {
		p.state = old
		return fail(err)
	}
	p.state.adam = newAdam(p.net.size)
	p.state.reference = append([]float32(nil), p.state.weights...)
	if p.state.imitated = slices.Clone(old.imitated); im.ID > 0 {
		p.state.imitated = append(p.state.imitated, im.ID)
	}
	p.forgetAll()
	return nil
}

// example checks and converts a demonstration.
func (p *Policy) example(d policy.Demonstration) (example, error) {
	var e example
	if err := d.Actions.Check("actions", plugins.Float32, -1, p.net.Actions); err != nil {
		return e, err
	}
	n := d.Actions.Shape[0]
	if n == 0 {
		return e, plugins.Errorf(plugins.Invalid, "no step")
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
	e.pictures = make([][]byte, n)
	if p.settings.Bool("image") {
		t, err := p.picture(d.Images, 4)
		if err != nil {
			return e, err
		}
		if t.Shape[0] != n {
			return e, plugins.Errorf(plugins.Invalid, "%d pictures for %d actions", t.Shape[0], n)
		}
		size := t.Shape[1] * t.Shape[2] * 3
		workers(n, func(_, i int) {
			e.pictures[i] = make([]byte, side*side*3)
			average(e.pictures[i], t.Data[i*size:(i+1)*size], t.Shape[1], t.Shape[2])
		})
	}
	instruction(d.Instruction, e.words[:])
	if d.Weights != nil && len(d.Weights) != n {
		return e, plugins.Errorf(plugins.Invalid, "%d weights for %d actions", len(d.Weights), n)
	}
	for t, w := range d.Weights {
		if !(w >= 0) || math.IsInf(float64(w), 0) {
			return e, plugins.Errorf(plugins.Invalid, "the weight of step %d is %v", t, w).WithHint("finite and 0 or more")
		}
	}
	e.weights = d.Weights
	return e, nil
}

// weight is the factor on the loss of action t.
func (e *example) weight(t int) float32 {
	if e.weights == nil {
		return 1
	}
	return e.weights[t]
}

// counts says whether there is an action to learn.
func (e example) counts() bool {
	return e.weights == nil || slices.ContainsFunc(e.weights, func(w float32) bool { return w > 0 })
}

// measure sets the proprio's mean and scale, the units of actions and the clock's horizon from the demonstrations. An entry that hardly moves is not blown up: the scale is at
// least 0.02 (2 cm for a position, 0.02 of a gripper that goes from 0 to 1), for an angle 0.1 rad. Of an action dimension that never leaves a quarter of its range
// the unit is the setting idle_range, of others half their range; dimensions that the shift corrects are such others.
func (p *Policy) measure(examples []example) {
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
		least := 0.02
		if strings.HasSuffix(p.env.Proprio[i], "[rad]") {
			least = 0.1
		}
		p.state.scale[i] = float32(max(math.Sqrt(max(squares[i]/count-m*m, 0)), least))
	}
	most := make([]float32, p.net.Actions)
	for _, e := range examples {
		for _, row := range e.actions {
			for d, v := range row {
				most[d] = max(most[d], v, -v)
			}
		}
	}
	p.state.units = ones(p.net.Actions)
	for d, v := range most {
		if v < idle && !slices.ContainsFunc(p.pairs(), func(q pair) bool { return q.action == d }) {
			p.state.units[d] = float32(p.settings.Float("idle_range"))
		}
	}
	if p.settings.Int("clock_horizon") == 0 {
		p.state.horizon = math.Ceil(1.25 * float64(longest))
	}
}

// toUnits divides the actions by the policy's units of them.
func (p *Policy) toUnits(examples []example) {
	for _, e := range examples {
		for _, row := range e.actions {
			for d := range row {
				if row[d] /= p.state.units[d]; p.net.Head == "tokens" { // bins cover no more
					row[d] = min(max(row[d], -1), 1)
				}
			}
		}
	}
}

// pairs finds the proprio entries and action dimensions of the corrective shift by their names.
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

// reach estimates how far the gripper moves in one step for half the range of an action, from displacements over shift_steps steps against the summed
// actions, by least squares through 0, all pairs together. 0: nothing moved.
func (p *Policy) reach(examples []example, pairs []pair) float64 {
	k := p.settings.Int("shift_steps")
	var top, bottom float64
	for _, e := range examples {
		for t := 0; t+k < len(e.actions); t++ {
			for _, q := range pairs {
				var sum float64
				for _, row := range e.actions[t : t+k] {
					sum += float64(row[q.action])
				}
				top += sum * float64(e.proprio[t+k][q.proprio]-e.proprio[t][q.proprio])
				bottom += sum * sum
			}
		}
	}
	if bottom == 0 {
		return 0
	}
	return max(top/bottom, 0)
}

// imitationSteps is the number of gradient steps when the call asks for so many; 0: it leaves it to the policy.
func (p *Policy) imitationSteps(asked int) int {
	switch own := p.settings.Int("imitate_steps"); {
	case asked > 0:
		return asked
	case own > 0:
		return own
	case p.net.Actions >= fullPose:
		return imitateStepsFullPose
	}
	return imitateSteps
}

// clone runs the gradient steps of imitation.
func (p *Policy) clone(ctx context.Context, im policy.Imitate, examples []example, progress func(done, loss float64)) error {
	steps := p.imitationSteps(im.Steps)
	g := p.augmenting(examples)
	if g.sigma > 0 && len(g.pairs) > 0 && g.scale[0] == 0 {
		return plugins.Errorf(plugins.Invalid, "the demonstrations do not show how far an action moves the gripper").WithHint("set policy.tiny.delta_scale, or policy.tiny.shift = 0")
	}
	frames, copies := p.settings.Int("imitate_batch"), p.settings.Int("imitate_copies")
	perPass := max(min(maxRows/copies, (frames+1)/2), 1)
	n := (frames + perPass - 1) / perPass
	passes := make([]*pass, n)
	parts := make([][]float32, n)
	for i := range n {
		passes[i], parts[i] = newPass(p.net, perPass, perPass*copies), make([]float32, p.net.size)
	}
	losses, counts := make([]float64, n), make([]float64, n)
	mean := math.NaN()
	for step := range steps {
		if err := canceled(ctx); err != nil {
			return err
		}
		workers(n, func(_, k int) {
			ps := passes[k]
			ps.reset()
			targets, weights := make([][]float32, 0, perPass*copies), make([][]float32, 0, perPass*copies)
			for f := k * perPass; f < min((k+1)*perPass, frames); f++ {
				r := rand.New(rand.NewPCG(im.Seed, uint64(step*frames+f)))
				g.draw(r, ps, copies, func(target, weight []float32) { targets, weights = append(targets, target), append(weights, weight) })
			}
			ps.forward(p.state.weights)
			clear(ps.dout)
			losses[k], counts[k] = 0, 0
			for i := range targets {
				losses[k] += p.head.imitate(ps.result(i), targets[i], weights[i], 1/float64(frames*copies*p.net.Actions), ps.gradient(i))
				for _, w := range weights[i] {
					counts[k] += float64(w)
				}
			}
			clear(parts[k])
			ps.backward(p.state.weights, parts[k])
		})
		var loss, count float64
		for k := range n {
			loss, count = loss+losses[k], count+counts[k]
		}
		loss /= max(count, math.SmallestNonzeroFloat32) // a batch may hold no step that counts
		d := total(parts)
		if norm := clip(d, p.settings.Float("grad_clip")); math.IsNaN(loss+norm) || math.IsInf(loss+norm, 0) {
			return plugins.Errorf(plugins.Diverged, "loss or gradient is not finite at step %d; nothing was changed", step).WithHint("lower policy.tiny.imitate_lr")
		}
		lr := p.settings.Float("imitate_lr") * 0.5 * (1 + math.Cos(math.Pi*float64(step)/float64(steps)))
		p.state.adam.step(p.state.weights, d, lr, p.settings.Float("adam_beta1"), p.settings.Float("adam_beta2"))
		if mean = 0.95*mean + 0.05*loss; math.IsNaN(mean) {
			mean = loss
		}
		if progress != nil && (step%10 == 9 || step == steps-1) {
			progress(float64(step+1)/float64(steps), mean)
		}
	}
	return nil
}

// augmented draws augmented samples.
type augmented struct {
	p          *Policy
	examples   []example
	starts     []int // number of frames in the examples before
	frames     int
	pairs      []pair
	sigma      float64   // metres
	scale      []float64 // metres a step for half the range of the action, one a pair
	back       int
	image      int
	brightness float64
	jitter     float64
	free       []int   // proprio entries that no pair corrects
	noise      float64 // standard deviation that these get, in units of their scale
	bounded    bool    // labels must lie within the action range, as bins need it; a mean beyond it saturates at the same action and leaves the correction linear
}

func (p *Policy) augmenting(examples []example) *augmented {
	s := p.settings
	g := &augmented{p: p, examples: examples, pairs: p.pairs(), sigma: s.Float("shift"), back: s.Int("shift_steps"), image: s.Int("image_shift"),
		brightness: s.Float("brightness"), jitter: s.Float("clock_jitter"),
		noise: s.Float("proprio_noise"), bounded: p.net.Head == "tokens"}
	for i := range p.env.Proprio {
		if !slices.ContainsFunc(g.pairs, func(q pair) bool { return q.proprio == i }) {
			g.free = append(g.free, i)
		}
	}
	for _, e := range examples {
		g.starts = append(g.starts, g.frames)
		g.frames += len(e.actions)
	}
	reach := p.reach(examples, g.pairs)
	for _, q := range g.pairs {
		if v := s.Float("delta_scale"); v > 0 {
			reach = v * float64(p.env.Action.High[q.action]-p.env.Action.Low[q.action]) / 2
		}
		g.scale = append(g.scale, reach)
	}
	return g
}

// draw adds one frame and its copies to the pass, and gives each copy's labels and their weights (0 beyond the demonstration's end).
func (g *augmented) draw(r *rand.Rand, ps *pass, copies int, label func(target, weight []float32)) {
	i := r.IntN(g.frames)
	which, _ := slices.BinarySearch(g.starts, i+1)
	e := &g.examples[which-1]
	t := i - g.starts[which-1]
	picture := e.pictures[t]
	if picture != nil && (g.image > 0 || g.brightness > 0) {
		moved := make([]byte, len(picture))
		move(moved, picture, r.IntN(2*g.image+1)-g.image, r.IntN(2*g.image+1)-g.image, float32(1+g.brightness*(2*r.Float64()-1)))
		picture = moved
	}
	f := ps.look(picture)
	dim := g.p.net.Actions
	for range copies {
		proprio := slices.Clone(e.proprio[t])
		target, weight := make([]float32, g.p.net.Chunk*dim), make([]float32, g.p.net.Chunk*dim)
		for k := 0; k < g.p.net.Chunk && t+k < len(e.actions); k++ {
			copy(target[k*dim:], e.actions[t+k])
			for d := range dim {
				weight[k*dim+d] = e.weight(t + k)
			}
		}
		if g.sigma > 0 {
			sigma := g.sigma
			if r.IntN(4) == 0 { // far off the path too, where a late or stuck gripper is
				sigma *= 3
			}
			for n, q := range g.pairs {
				by := r.NormFloat64() * sigma
				proprio[q.proprio] += float32(by)
				for k := range min(g.back, g.p.net.Chunk) {
					v := &target[k*dim+q.action]
					*v -= float32(by / float64(g.back) / g.scale[n])
					if g.bounded {
						*v = min(max(*v, -1), 1)
					}
				}
			}
		}
		for _, i := range g.free {
			proprio[i] += float32(r.NormFloat64()*g.noise) * g.p.state.scale[i]
		}
		step := float64(t)
		if g.jitter > 0 {
			step += r.NormFloat64() * g.jitter
		}
		g.p.inputs(ps.add(f), proprio, e.words[:], step)
		label(target, weight)
	}
}
