// Package stats computes confidence intervals of success rates and of means, and compares paired outcomes.
package stats

import (
	"math"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// z95 is the 97.5 % quantile of the normal distribution.
const z95 = 1.959963984540054

// Wilson returns the 95 % score interval (Wilson 1927) of a success rate p over n episodes: [0, 1] when n is 0,
// and NaN when p is NaN.
func Wilson(p float64, n int) (low, high float64) {
	if math.IsNaN(p) {
		return p, p
	}
	if n <= 0 {
		return 0, 1
	}
	const z = z95
	k := float64(n)
	centre := (p + z*z/(2*k)) / (1 + z*z/k)
	half := z / (1 + z*z/k) * math.Sqrt(p*(1-p)/k+z*z/(4*k*k))
	return max(0, centre-half), min(1, centre+half)
}

// Interval is a mean over N values with its 95 % confidence interval. Low and High are NaN for fewer than two values.
type Interval struct {
	Mean, Low, High float64
	N               int
}

// Within returns the interval without what lies outside low and high, the range that the quantity can have.
func (i Interval) Within(low, high float64) Interval {
	i.Low, i.High = max(i.Low, low), min(i.High, high)
	return i
}

// AUROC returns the 95 % interval of an AUROC over m and n attempts: Newcombe's score interval (Statistics in Medicine
// 2006, method 5), which is not empty at 0 and 1 and suits small m and n. It is [0, 1] if m or n is 0.
func AUROC(value float64, m, n int) (low, high float64) {
	if m <= 0 || n <= 0 {
		return 0, 1
	}
	// tooFar reports whether an observed value is too far from the true value a.
	tooFar := func(a float64) bool {
		extra := float64(m+n)/2 - 1
		variance := a * (1 - a) * (1 + extra*((1-a)/(2-a)+a/(1+a))) / (float64(m) * float64(n))
		return math.Abs(value-a) > z95*math.Sqrt(variance)
	}
	bisect := func(outside float64) float64 {
		inside := value
		for range 50 {
			if middle := (inside + outside) / 2; tooFar(middle) {
				outside = middle
			} else {
				inside = middle
			}
		}
		return outside
	}
	return bisect(0), bisect(1)
}

// MeanInterval returns the mean of v with Student's t interval.
func MeanInterval(v []float64) Interval {
	if len(v) == 0 {
		return Interval{math.NaN(), math.NaN(), math.NaN(), 0}
	}
	mean, std := stat.MeanStdDev(v, nil)
	i := Interval{mean, math.NaN(), math.NaN(), len(v)}
	if len(v) > 1 {
		half := quantile(float64(len(v)-1)) * std / math.Sqrt(float64(len(v)))
		i.Low, i.High = mean-half, mean+half
	}
	return i
}

// DifferenceInterval returns mean(a) - mean(b) with Welch's t interval (unequal variances).
func DifferenceInterval(a, b []float64) Interval {
	if len(a) == 0 || len(b) == 0 {
		return Interval{math.NaN(), math.NaN(), math.NaN(), 0}
	}
	ma, sa := stat.MeanStdDev(a, nil)
	mb, sb := stat.MeanStdDev(b, nil)
	i := Interval{ma - mb, math.NaN(), math.NaN(), len(a) + len(b)}
	if len(a) < 2 || len(b) < 2 {
		return i
	}
	na, nb := float64(len(a)), float64(len(b))
	va, vb := sa*sa/na, sb*sb/nb
	if va+vb == 0 {
		i.Low, i.High = i.Mean, i.Mean
		return i
	}
	df := (va + vb) * (va + vb) / (va*va/(na-1) + vb*vb/(nb-1))
	half := quantile(df) * math.Sqrt(va+vb)
	i.Low, i.High = i.Mean-half, i.Mean+half
	return i
}

// quantile returns the 97.5 % quantile of Student's t with df degrees of freedom.
func quantile(df float64) float64 { return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: df}.Quantile(0.975) }
