package tiny

import (
	"math"
	"math/rand/v2"
)

// head turns the network's outputs for one chunk into a distribution over actions. An element is one
// action dimension at one chunk position; elements are ordered [chunk, dim]. A sample contains the drawn
// values before clipping: for the Gaussian head, numbers in the policy's action units (half the range, or
// less for dimensions that demonstrations do not use); for tokens, bin numbers. Log-probabilities refer
// to the sample. Clipping counts as part of the env.
type head interface {
	// outputs is the number of network outputs.
	outputs() int
	// sample draws sample [elements]; greedy takes the mode.
	sample(out []float32, r *rand.Rand, temperature float64, greedy bool, sample []float32)
	// logProb writes the log-probability of every element to lp [elements].
	logProb(out, sample []float32, temperature float64, lp []float64)
	// logProbBackward adds to dout the gradient of sum(dlp*lp).
	logProbBackward(out, sample []float32, temperature float64, dlp []float64, dout []float32)
	// divergence writes the exact KL(out || ref) of every element to kl [elements].
	divergence(out, ref []float32, temperature float64, kl []float64)
	// divergenceBackward adds to dout the gradient of sum(dkl*kl).
	divergenceBackward(out, ref []float32, temperature float64, dkl []float64, dout []float32)
	// randomPositions is the number of leading chunk positions that have independent random numbers, when
	// the given number of positions was executed. It is at least 1 and divides executed.
	randomPositions(executed int) int
	// entropy is the mean entropy of the elements in nats (differential entropy for the Gaussian).
	entropy(out []float32, temperature float64) float64
	// imitationLoss returns the weighted sum of the elements' losses and adds scale times its gradient to
	// dout. target [elements] is in the policy's action units. Elements with weight 0 are skipped.
	imitationLoss(out, target, weight []float32, scale float64, dout []float32) (sum float64)
	// value converts a sample's element to the policy's action units, without clipping.
	value(v float32) float32
}

// gaussian is a head with a mean for every element and one fixed standard deviation. Elements are
// independent.
type gaussian struct {
	chunk, dim int
	std        float64
}

func (g gaussian) outputs() int                     { return g.chunk * g.dim }
func (g gaussian) value(v float32) float32          { return v }
func (g gaussian) randomPositions(executed int) int { return executed }

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

// imitationLoss uses half the squared error.
func (g gaussian) imitationLoss(out, target, weight []float32, scale float64, dout []float32) (sum float64) {
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

// chunkGaussian is a Gaussian that draws one noise value per action dimension for all positions of a
// chunk, so the chunk is shifted as a whole. Independent noise per position mostly cancels in the arm's
// final position. The part that cancels only adds noise to the gradient, in chunk times as many
// directions.
//
// The random variable is the shift, one number per dimension. Its log-probability is that of the chunk's
// mean, N(mean of out, std). It is assigned to the first position, which is always executed; the other
// positions get 0. Updates therefore shift whole chunks and do not change their shape, which imitation
// determines.
type chunkGaussian struct{ gaussian }

func (g chunkGaussian) randomPositions(int) int { return 1 }

func (g chunkGaussian) sample(out []float32, r *rand.Rand, temperature float64, greedy bool, sample []float32) {
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

// mean returns the mean of dimension d over the chunk's positions.
func (g chunkGaussian) mean(v []float32, d int) float64 {
	var sum float64
	for i := d; i < len(v); i += g.dim {
		sum += float64(v[i])
	}
	return sum / float64(g.chunk)
}

func (g chunkGaussian) logProb(out, sample []float32, temperature float64, lp []float64) {
	std := g.std * temperature
	clear(lp)
	for d := range g.dim {
		e := (g.mean(sample, d) - g.mean(out, d)) / std
		lp[d] = -0.5*e*e - math.Log(std) - 0.5*math.Log(2*math.Pi)
	}
}

func (g chunkGaussian) logProbBackward(out, sample []float32, temperature float64, dlp []float64, dout []float32) {
	std := g.std * temperature
	for d := range g.dim {
		slope := float32(dlp[d] * (g.mean(sample, d) - g.mean(out, d)) / (std * std * float64(g.chunk)))
		for i := d; i < len(dout); i += g.dim {
			dout[i] += slope
		}
	}
}

// divergence is that of a Gaussian with independent noise of std*sqrt(chunk), whose mean over the chunk
// has the same variance. It is exact for a shift of the whole chunk and also penalises a change of the
// chunk's shape.
func (g chunkGaussian) divergence(out, ref []float32, temperature float64, kl []float64) {
	g.gaussian.divergence(out, ref, temperature*math.Sqrt(float64(g.chunk)), kl)
}

func (g chunkGaussian) divergenceBackward(out, ref []float32, temperature float64, dkl []float64, dout []float32) {
	g.gaussian.divergenceBackward(out, ref, temperature*math.Sqrt(float64(g.chunk)), dkl, dout)
}

// tokens is a head with a categorical distribution over equal bins of the policy's action units for every
// element, as in OpenVLA. A bin stands for its centre.
type tokens struct {
	chunk, dim, bins int
}

func (k tokens) outputs() int                     { return k.chunk * k.dim * k.bins }
func (k tokens) randomPositions(executed int) int { return executed }
func (k tokens) value(v float32) float32          { return (2*v+1)/float32(k.bins) - 1 }

// bin returns the bin that contains v, a value in the policy's action units; values outside the range go
// to the outer bins.
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
		for j, v := range lp { // if rounding leaves u above the sum, this keeps the last bin with any probability
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

// imitationLoss uses the cross-entropy of the target's bin.
func (k tokens) imitationLoss(out, target, weight []float32, scale float64, dout []float32) (sum float64) {
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
