package audit

import (
	"math"
	"sort"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat"

	"github.com/srpo-dev/srpo/host/srpo"
)

// Bins is the number of bins of [JS], equally wide over 0 to 1.
const Bins = 20

// Progress turns the distances d_t of growing windows into the progress curve of the SRPO paper (arXiv
// 2511.15605, reward quality):
//
//	r_t = 1 - (d_t - min d) / (max d - min d)
//
// For a success d_t is the distance to the embedding of its own whole clip, for a failure the least
// distance to the success centres. Both ends are pinned: a success that comes nearer all the time ends at 1
// by construction. A curve whose distances are all equal shows no progress: 0 throughout.
func Progress(d []float64) []float64 {
	out := make([]float64, len(d))
	if len(d) == 0 {
		return out
	}
	low, high := floats.Min(d), floats.Max(d)
	for i, v := range d {
		if high > low {
			out[i] = 1 - (v-low)/(high-low)
		}
	}
	return out
}

// SC is the rank correlation (Spearman, ties sharing their mean rank) of a curve with its frame index, -1
// to 1. The same number, taken on distances to centres that do not know the attempt, is VOC, the
// value-order correlation of GVL (arXiv 2411.04549). ok is false for fewer than 2 points or a constant
// curve.
func SC(curve []float64) (rho float64, ok bool) { return srpo.Spearman(curve, index(len(curve))) }

// Mono is the share of steps with r_(t+1) > r_t, strictly. ok is false for fewer than 2 points.
func Mono(curve []float64) (share float64, ok bool) {
	if len(curve) < 2 {
		return 0, false
	}
	up := 0
	for t := 1; t < len(curve); t++ {
		if curve[t] > curve[t-1] {
			up++
		}
	}
	return float64(up) / float64(len(curve)-1), true
}

// OrderAccuracy is the share of pairs of moments t < u with value_t < value_u, an equal value counting
// half; 0.5 says nothing. ok is false for fewer than 2 moments.
func OrderAccuracy(values []float64) (share float64, ok bool) {
	return srpo.PairOrder(values, index(len(values)))
}

func index(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = float64(i)
	}
	return out
}

// MMD is the maximum mean discrepancy between two samples of numbers (Gretton et al. 2012, eq. 5: the
// biased estimate MMD_b, the root taken):
//
//	MMD^2 = mean k(x,x') + mean k(y,y') - 2 mean k(x,y),   k(a,b) = exp(-(a-b)^2 / (2 sigma^2))
//
// with pairs of an element and itself included, and [Bandwidth] as sigma. ok is false when a side is empty.
func MMD(x, y []float64) (value float64, ok bool) {
	if len(x) == 0 || len(y) == 0 {
		return 0, false
	}
	k := newKernel(append(append([]float64(nil), x...), y...), Bandwidth(x, y))
	return k.mmd(span(0, len(x)), span(len(x), len(x)+len(y))), true
}

// Bandwidth is the median heuristic: the median of |a - b| over all pairs of different elements of both
// samples together. When more than half of the pairs are equal, which makes it 0, it is the mean of |a - b|
// instead; 1 when all are equal.
func Bandwidth(x, y []float64) float64 {
	all := append(append([]float64(nil), x...), y...)
	var d []float64
	for i := range all {
		for j := range i {
			d = append(d, math.Abs(all[i]-all[j]))
		}
	}
	if len(d) == 0 {
		return 1
	}
	sort.Float64s(d)
	n := len(d)
	if m := (d[(n-1)/2] + d[n/2]) / 2; m > 0 {
		return m
	}
	if m := stat.Mean(d, nil); m > 0 {
		return m
	}
	return 1
}

// kernel is the matrix of k over all elements, so that a bootstrap only adds up.
type kernel struct {
	n int
	k []float64
}

func newKernel(all []float64, sigma float64) kernel {
	m := kernel{n: len(all), k: make([]float64, len(all)*len(all))}
	for i, a := range all {
		for j, b := range all {
			m.k[i*m.n+j] = math.Exp(-(a - b) * (a - b) / (2 * sigma * sigma))
		}
	}
	return m
}

func (m kernel) mean(a, b []int) float64 {
	sum := 0.0
	for _, i := range a {
		for _, j := range b {
			sum += m.k[i*m.n+j]
		}
	}
	return sum / float64(len(a)*len(b))
}

func (m kernel) mmd(a, b []int) float64 {
	return math.Sqrt(max(0, m.mean(a, a)+m.mean(b, b)-2*m.mean(a, b))) // rounding may go below 0
}

func span(from, to int) []int {
	out := make([]int, to-from)
	for i := range out {
		out[i] = from + i
	}
	return out
}

// JS is the Jensen-Shannon divergence, in nats, between histograms of two samples of numbers from 0 to 1:
//
//	JS = KL(p || m)/2 + KL(q || m)/2,   m = (p + q)/2
//
// 0 for equal histograms, at most ln 2 = 0.693. [Bins] bins of equal width, the last one closed; numbers
// outside go into the outermost. ok is false when a side is empty.
func JS(x, y []float64) (value float64, ok bool) {
	if len(x) == 0 || len(y) == 0 {
		return 0, false
	}
	p, q := histogram(x), histogram(y)
	for i := range p {
		m := (p[i] + q[i]) / 2
		for _, v := range []float64{p[i], q[i]} {
			if v > 0 {
				value += v * math.Log(v/m) / 2
			}
		}
	}
	return max(0, value), true
}

func histogram(x []float64) [Bins]float64 {
	var h [Bins]float64
	for _, v := range x {
		h[min(max(int(v*Bins), 0), Bins-1)] += 1 / float64(len(x))
	}
	return h
}

// SMD is the standardised mean difference (Cohen's d) of two samples:
//
//	SMD = (mean x - mean y) / s,   s^2 = ((n-1) s_x^2 + (m-1) s_y^2) / (n + m - 2)
//
// with the sample variances. ok is false with fewer than 2 elements on a side, and when s is 0: then it has
// no bound.
func SMD(x, y []float64) (value float64, ok bool) {
	if len(x) < 2 || len(y) < 2 {
		return 0, false
	}
	n, m := float64(len(x)), float64(len(y))
	s := math.Sqrt(((n-1)*stat.Variance(x, nil) + (m-1)*stat.Variance(y, nil)) / (n + m - 2))
	if !(s > 1e-12) {
		return 0, false
	}
	return (stat.Mean(x, nil) - stat.Mean(y, nil)) / s, true
}
