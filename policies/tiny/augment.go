package tiny

import (
	"math/rand/v2"
	"slices"
)

// augmenter draws augmented samples.
type augmenter struct {
	p          *Policy
	examples   []example
	starts     []int // index of each example's first frame
	frames     int   // in all examples
	pairs      []pair
	sigma      float64   // standard deviation of the shift, in metres
	scale      []float64 // metres per step for half the range of the action, one per pair
	shiftSteps int       // steps over which labels undo the shift
	imageShift int
	brightness float64
	jitter     float64 // standard deviation of the clock's shift, in env steps
	noisy      []int   // proprio entries that no pair corrects
	noise      float64 // standard deviation of their noise, in units of their scale

	// bounded clips labels to the action range, because bins cover no more. The Gaussian's mean may lie
	// beyond it: the env clips the action, and the correction stays linear.
	bounded bool
}

// newAugmenter returns an augmenter with the policy's settings.
func (p *Policy) newAugmenter(examples []example) *augmenter {
	s := p.settings
	g := &augmenter{
		p:          p,
		examples:   examples,
		pairs:      p.pairs(),
		sigma:      s.Float("shift"),
		shiftSteps: s.Int("shift_steps"),
		imageShift: s.Int("image_shift"),
		brightness: s.Float("brightness"),
		jitter:     s.Float("clock_jitter"),
		noise:      s.Float("proprio_noise"),
		bounded:    p.net.Head == "tokens",
	}
	for i := range p.env.Proprio {
		if !slices.ContainsFunc(g.pairs, func(q pair) bool { return q.proprio == i }) {
			g.noisy = append(g.noisy, i)
		}
	}
	for _, e := range examples {
		g.starts = append(g.starts, g.frames)
		g.frames += len(e.actions)
	}
	delta := p.estimateDelta(examples, g.pairs)
	for _, q := range g.pairs {
		if v := s.Float("delta_scale"); v > 0 {
			delta = v * float64(p.env.Action.High[q.action]-p.env.Action.Low[q.action]) / 2
		}
		g.scale = append(g.scale, delta)
	}
	return g
}

// draw adds one frame and its augmented copies to the pass. It calls label with each copy's targets and
// weights, both [chunk, action dim]; weights beyond the demonstration's end are 0.
func (g *augmenter) draw(r *rand.Rand, ps *pass, copies int, label func(target, weight []float32)) {
	i := r.IntN(g.frames)
	which, _ := slices.BinarySearch(g.starts, i+1)
	e := &g.examples[which-1]
	t := i - g.starts[which-1]
	image := e.images[t]
	if image != nil && (g.imageShift > 0 || g.brightness > 0) {
		shifted := make([]byte, len(image))
		dy, dx := r.IntN(2*g.imageShift+1)-g.imageShift, r.IntN(2*g.imageShift+1)-g.imageShift
		shiftImage(shifted, image, dy, dx, float32(1+g.brightness*(2*r.Float64()-1)))
		image = shifted
	}
	f := ps.addImage(image)
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
			g.shift(r, proprio, target)
		}
		for _, i := range g.noisy {
			proprio[i] += float32(r.NormFloat64()*g.noise) * g.p.state.scale[i]
		}
		step := float64(t)
		if g.jitter > 0 {
			step += r.NormFloat64() * g.jitter
		}
		g.p.inputs(ps.addSample(f), proprio, e.words[:], step)
		label(target, weight)
	}
}

// shift moves the gripper position in proprio by a random amount and corrects target [chunk, action dim]
// to undo it.
func (g *augmenter) shift(r *rand.Rand, proprio, target []float32) {
	sigma := g.sigma
	if r.IntN(4) == 0 { // a quarter of the samples is far off the path, where a late or stuck gripper is
		sigma *= 3
	}
	dim := g.p.net.Actions
	for n, q := range g.pairs {
		by := r.NormFloat64() * sigma
		proprio[q.proprio] += float32(by)
		for k := range min(g.shiftSteps, g.p.net.Chunk) {
			v := &target[k*dim+q.action]
			*v -= float32(by / float64(g.shiftSteps) / g.scale[n])
			if g.bounded {
				*v = min(max(*v, -1), 1)
			}
		}
	}
}
