package tiny

import (
	"math"
	"math/rand/v2"
)

// head turns the network's outputs for one chunk into a distribution over actions. An element is one action dimension at one chunk position, elements are
// ordered [chunk, dim]. A sample is what was drawn, before any clipping: for the Gaussian head numbers in the policy's units of
// actions (half their range, less for dimensions that demonstrations do not use), for tokens bin numbers. Log-probabilities are of the sample; that an env gets the clipped action is the env's business, as far as the gradient is concerned.
type head interface {
	// outputs is the number of network outputs.
	outputs() int
	// sample draws into sample [elements]; greedy takes the mode.
	sample(out []float32, r *rand.Rand, temperature float64, greedy bool, sample []float32)
	// logProb writes the log-probability of every element to lp [elements].
	logProb(out, sample []float32, temperature float64, lp []float64)
	// logProbBackward adds to dout the gradient of sum(dlp*lp).
	logProbBackward(out, sample []float32, temperature float64, dlp []float64, dout []float32)
	// divergence writes KL(out || ref) of every element, exact, to kl [elements].
	divergence(out, ref []float32, temperature float64, kl []float64)
	// divergenceBackward adds to dout the gradient of sum(dkl*kl).
	divergenceBackward(out, ref []float32, temperature float64, dkl []float64, dout []float32)
	// random is the number of chunk positions, of so many executed ones, that have random numbers of their own: the first ones, at least 1. It divides executed.
	random(executed int) int
	// entropy is the mean over elements, in nats (differential for the Gaussian).
	entropy(out []float32, temperature float64) float64
	// imitate returns the mean loss over the elements whose weight is not 0 and adds scale times the gradient of their summed loss to dout. target is in
	// the policy's units of actions.
	imitate(out, target, weight []float32, scale float64, dout []float32) (sum float64)
	// unit gives the value of a sample's element in the policy's units of actions, not clipped.
	unit(v float32) float32
}

// gaussian has a mean for every element and one fixed standard deviation, all elements independent.
type gaussian struct {
	chunk, dim int
	std        float64
}

func (g gaussian) outputs() int            { return g.chunk * g.dim }
func (g gaussian) unit(v float32) float32  { return v }
func (g gaussian) random(executed int) int { return executed }

func (g gaussian) sample(out []float32, r *rand.Rand, temperature float64, greedy bool, sample []float32) {
	for i := range sample {
		if sample[i] = out[i]; !greedy {
			sample[i] += float32(g.std * temperature * r.NormFloat64())
		}
	}
}

func (g gaussian) logProb(out, sample []float32, temperature float64, lp []float64) {
	std := g.std * temperature
	for i := range lp {
		e := (float64(sample[i]) - float64(out[i])) / std
		lp[i] = -0.5*e*e - math.Log(std) - 0.5*math.Log(2*math.Pi)
	}
}

func (g gaussian) logProbBackward(out, sample []float32, temperature float64, dlp []float64, dout []float32) {
	std := g.std * temperature
	for i, d := range dlp {
		dout[i] += float32(d * (float64(sample[i]) - float64(out[i])) / (std * std))
	}
}

func (g gaussian) divergence(out, ref []float32, temperature float64, kl []float64) {
	std := g.std * temperature
	for i := range kl {
		e := (float64(out[i]) - float64(ref[i])) / std
		kl[i] = 0.5 * e * e
	}
}

func (g gaussian) divergenceBackward(out, ref []float32, temperature float64, dkl []float64, dout []float32) {
	std := g.std * temperature
	for i, d := range dkl {
		dout[i] += float32(d * (float64(out[i]) - float64(ref[i])) / (std * std))
	}
}

func (g gaussian) entropy(_ []float32, temperature float64) float64 {
	return math.Log(g.std*temperature) + 0.5*math.Log(2*math.Pi*math.E)
}

// imitate is half the squared error.
func (g gaussian) imitate(out, target, weight []float32, scale float64, dout []float32) (sum float64) {
	for i, w := range weight {
		if w == 0 {
			continue
		}
		e := float64(out[i]) - float64(target[i])
		sum += 0.5 * float64(w) * e * e
		dout[i] += float32(scale * float64(w) * e)
	}
	return sum
}

// steady is a Gaussian whose noise is one draw for each action dimension that all positions of the chunk share: the chunk is shifted as a whole. Independent noise
// of a chunk's positions mostly cancels in where the arm ends up, and the part that cancels is pure noise in the gradient, in chunk times as many directions.
//
// What is random is the shift, one number a dimension, and its log-probability is that of the chunk's mean, N(mean of out, std). It stands at the
// first position, which is always executed; the other positions follow from it and have 0. Updates move chunks as wholes; their shape is imitation's.
type steady struct{ gaussian }

func (g steady) random(int) int { return 1 }

func (g steady) sample(out []float32, r *rand.Rand, temperature float64, greedy bool, sample []float32) {
	copy(sample, out)
	if greedy {
		return
	}
	for d := range g.dim {
		shift := float32(g.std * temperature * r.NormFloat64())
		for i := d; i < len(sample); i += g.dim {
			sample[i] += shift
		}
	}
}

// mean is the chunk's mean of dimension d.
func (g steady) mean(v []float32, d int) float64 {
	var sum float64
	for i := d; i < len(v); i += g.dim {
		sum += float64(v[i])
	}
	return sum / float64(g.chunk)
}

func (g steady) logProb(out, sample []float32, temperature float64, lp []float64) {
	std := g.std * temperature
	clear(lp)
	for d := range g.dim {
		e := (g.mean(sample, d) - g.mean(out, d)) / std
		lp[d] = -0.5*e*e - math.Log(std) - 0.5*math.Log(2*math.Pi)
	}
}

func (g steady) logProbBackward(out, sample []float32, temperature float64, dlp []float64, dout []float32) {
	std := g.std * temperature
	for d := range g.dim {
		slope := float32(dlp[d] * (g.mean(sample, d) - g.mean(out, d)) / (std * std * float64(g.chunk)))
		for i := d; i < len(dout); i += g.dim {
			dout[i] += slope
		}
	}
}

// divergence is that of a Gaussian with independent noise of std*sqrt(chunk), whose mean varies as much: for a shift of the whole chunk the exact one, and a change of its
// shape counts too.
func (g steady) divergence(out, ref []float32, temperature float64, kl []float64) {
	g.gaussian.divergence(out, ref, temperature*math.Sqrt(float64(g.chunk)), kl)
}

func (g steady) divergenceBackward(out, ref []float32, temperature float64, dkl []float64, dout []float32) {
	g.gaussian.divergenceBackward(out, ref, temperature*math.Sqrt(float64(g.chunk)), dkl, dout)
}

// tokens has a categorical distribution over equal bins of the policy's units of actions for every element, as OpenVLA: a bin stands for its centre.
type tokens struct {
	chunk, dim, bins int
}

func (k tokens) outputs() int            { return k.chunk * k.dim * k.bins }
func (k tokens) random(executed int) int { return executed }
func (k tokens) unit(v float32) float32  { return (2*v+1)/float32(k.bins) - 1 }

// bin is the bin that a value in the policy's units falls into.
func (k tokens) bin(v float32) int {
	return min(max(int(math.Floor(float64(v+1)/2*float64(k.bins))), 0), k.bins-1)
}

// logSoftmax writes the log-probabilities of element i to lp [bins].
func (k tokens) logSoftmax(out []float32, i int, temperature float64, lp []float64) {
	x := out[i*k.bins : (i+1)*k.bins]
	top := math.Inf(-1)
	for j, v := range x {
		lp[j] = float64(v) / temperature
		top = max(top, lp[j])
	}
	var sum float64
	for _, v := range lp {
		sum += math.Exp(v - top)
	}
	sum = math.Log(sum) + top
	for j := range lp {
		lp[j] -= sum
	}
}

func (k tokens) sample(out []float32, r *rand.Rand, temperature float64, greedy bool, sample []float32) {
	lp := make([]float64, k.bins)
	for i := range sample {
		if greedy {
			best := 0
			for j, v := range out[i*k.bins : (i+1)*k.bins] {
				if v > out[i*k.bins+best] {
					best = j
				}
			}
			sample[i] = float32(best)
			continue
		}
		k.logSoftmax(out, i, temperature, lp)
		u, drawn := r.Float64(), 0
		for j, v := range lp { // the last bin with any probability, should rounding leave u above the sum
			q := math.Exp(v)
			if q > 0 {
				drawn = j
			}
			if u -= q; u < 0 {
				break
			}
		}
		sample[i] = float32(drawn)
	}
}

func (k tokens) logProb(out, sample []float32, temperature float64, lp []float64) {
	q := make([]float64, k.bins)
	for i := range lp {
		k.logSoftmax(out, i, temperature, q)
		lp[i] = q[int(sample[i])]
	}
}

func (k tokens) logProbBackward(out, sample []float32, temperature float64, dlp []float64, dout []float32) {
	q := make([]float64, k.bins)
	for i, d := range dlp {
		if d == 0 {
			continue
		}
		k.logSoftmax(out, i, temperature, q)
		for j, v := range q {
			dout[i*k.bins+j] -= float32(d * math.Exp(v) / temperature)
		}
		dout[i*k.bins+int(sample[i])] += float32(d / temperature)
	}
}

func (k tokens) divergence(out, ref []float32, temperature float64, kl []float64) {
	a, b := make([]float64, k.bins), make([]float64, k.bins)
	for i := range kl {
		k.logSoftmax(out, i, temperature, a)
		k.logSoftmax(ref, i, temperature, b)
		kl[i] = 0
		for j := range a {
			kl[i] += math.Exp(a[j]) * (a[j] - b[j])
		}
	}
}

func (k tokens) divergenceBackward(out, ref []float32, temperature float64, dkl []float64, dout []float32) {
	a, b := make([]float64, k.bins), make([]float64, k.bins)
	for i, d := range dkl {
		if d == 0 {
			continue
		}
		k.logSoftmax(out, i, temperature, a)
		k.logSoftmax(ref, i, temperature, b)
		var kl float64
		for j := range a {
			kl += math.Exp(a[j]) * (a[j] - b[j])
		}
		for j := range a {
			dout[i*k.bins+j] += float32(d * math.Exp(a[j]) * (a[j] - b[j] - kl) / temperature)
		}
	}
}

func (k tokens) entropy(out []float32, temperature float64) float64 {
	q := make([]float64, k.bins)
	var sum float64
	for i := range k.chunk * k.dim {
		k.logSoftmax(out, i, temperature, q)
		for _, v := range q {
			sum -= math.Exp(v) * v
		}
	}
	return sum / float64(k.chunk*k.dim)
}

// imitate is the cross-entropy of the target's bin.
func (k tokens) imitate(out, target, weight []float32, scale float64, dout []float32) (sum float64) {
	q := make([]float64, k.bins)
	for i, w := range weight {
		if w == 0 {
			continue
		}
		k.logSoftmax(out, i, 1, q)
		b := k.bin(target[i])
		sum -= float64(w) * q[b]
		for j, v := range q {
			dout[i*k.bins+j] += float32(scale * float64(w) * math.Exp(v))
		}
		dout[i*k.bins+b] -= float32(scale * float64(w))
	}
	return sum
}
