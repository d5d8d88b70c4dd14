package audit

import (
	"math"
	"sort"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat"

	"github.com/srpo-dev/srpo/host/srpo"
)

// Bins is the number of equal bins from 0 to 1 that [JS] uses.
const Bins = 20

// Progress turns the distances d_t of growing windows into the progress curve of the SRPO paper (arXiv
// 2511.15605, reward quality):
//
//	r_t = 1 - (d_t - min d) / (max d - min d)
//
// For a success d_t is the distance to the embedding of its own whole clip, for a failure the distance to the nearest
// success centre. The smallest distance becomes 1 and the largest 0, so a success always ends at 1. If all distances
// are equal, the progress is 0.
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

// SC is the Spearman rank correlation of a curve with its frame index, from -1 to 1; equal values share their mean
// rank. Taken on distances to held-out centres it is VOC, the value-order correlation of GVL (arXiv 2411.04549). ok is
// false for fewer than 2 points or a constant curve.
func SC(curve []float64) (rho float64, ok bool) { return srpo.Spearman(curve, index(len(curve))) }

// Mono is the share of steps with r_(t+1) > r_t. ok is false for fewer than 2 points.
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

// OrderAccuracy is the share of pairs of frames t < u with value_t < value_u. Equal values count half, so 0.5 is
// chance. ok is false for fewer than 2 frames.
func OrderAccuracy(values []float64) (share float64, ok bool) {
	return srpo.PairOrder(values, index(len(values)))
}

// index returns 0, 1, ..., n-1.
func index(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = float64(i)
	}
	return out
}

// MMD is the maximum mean discrepancy between two samples of numbers: the square root of the biased estimate of
// Gretton et al. 2012, equation 5,
//
//	MMD^2 = mean k(x,x') + mean k(y,y') - 2 mean k(x,y),   k(a,b) = exp(-(a-b)^2 / (2 sigma^2))
//
// where each mean is over all pairs, including pairs of an element and itself, and sigma is [Bandwidth]. ok is false if
// a sample is empty.
func MMD(x, y []float64) (value float64, ok bool) {
	if len(x) == 0 || len(y) == 0 {
		return 0, false
	}
	k := newKernel(append(append([]float64(nil), x...), y...), Bandwidth(x, y))
	return k.mmd(span(0, len(x)), span(len(x), len(x)+len(y))), true
}

// Bandwidth is the median heuristic: the median of |a - b| over all pairs of the two samples together. If the median
// is 0, the mean is taken instead; if that is 0 too, the bandwidth is 1.
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

// kernel is the matrix of k over all elements, computed once for all resamples.
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
	return math.Sqrt(max(0, m.mean(a, a)+m.mean(b, b)-2*m.mean(a, b))) // rounding can give a negative number
}

// span returns from, ..., to-1.
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
// It is 0 for equal histograms and at most ln 2 = 0.693. The [Bins] bins have equal width; numbers outside the range
// count in the outermost bins. ok is false if a sample is empty.
func JS(x, y []float64) (value float64, ok bool) {
	if len(x) == 0 || len(y) == 0 {
		return 0, false
	}
	return max(0, stat.JensenShannon(histogram(x), histogram(y))), true
}

func histogram(x []float64) []float64 {
	h := make([]float64, Bins)
	for _, v := range x {
		h[min(max(int(v*Bins), 0), Bins-1)] += 1 / float64(len(x))
	}
	return h
}

// SMD is the standardised mean difference (Cohen's d) of two samples:
//
//	SMD = (mean x - mean y) / s,   s^2 = ((n-1) s_x^2 + (m-1) s_y^2) / (n + m - 2)
//
// with the sample variances. ok is false if a sample has fewer than 2 elements or if s is 0.
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
