package stats

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWilson(t *testing.T) {
	// Newcombe 1998, table I: 81 of 263, and 0 of 20.
	low, high := Wilson(81.0/263, 263)
	require.InDelta(t, 0.2553, low, 5e-5)
	require.InDelta(t, 0.3662, high, 5e-5)
	low, high = Wilson(0, 20)
	require.Zero(t, low)
	require.InDelta(t, 0.1611, high, 5e-5)
	low, high = Wilson(0.5, 0)
	require.Equal(t, []float64{0, 1}, []float64{low, high})
}

func TestAUROC(t *testing.T) {
	low, high := AUROC(1, 2, 2)
	require.Equal(t, 1.0, high)
	// By hand: |1 - a| = z sqrt(V(a)) with V(a) = a (1-a) (1 + (1-a)/(2-a) + a/(1+a)) / 4.
	a := low
	variance := a * (1 - a) * (1 + (1-a)/(2-a) + a/(1+a)) / 4
	require.InDelta(t, 1.959964, (1-a)/math.Sqrt(variance), 1e-6)
	require.Less(t, low, 0.5)
	mirrored, zero := AUROC(0, 2, 2)
	require.InDeltaSlice(t, []float64{0, 1 - low}, []float64{mirrored, zero}, 1e-12)
	low, high = AUROC(1, 300, 300)
	require.InDelta(t, 1, low, 0.02)
	require.Equal(t, 1.0, high)
	low, high = AUROC(0.7, 0, 3)
	require.Equal(t, []float64{0, 1}, []float64{low, high})
	// Of many samples of two normal distributions, at least 95 % of the intervals have the true value.
	rng := rand.New(rand.NewPCG(1, 2))
	for _, shift := range []float64{0, 1, 2} {
		truth := 0.5 * math.Erfc(-shift/2) // P(x < y) with y - x normal with mean shift and variance 2
		for _, n := range []int{5, 10, 20} {
			covered := 0
			const samples = 2000
			for range samples {
				wins := 0.0
				y := make([]float64, n)
				for i := range y {
					y[i] = rng.NormFloat64() + shift
				}
				for range n {
					x := rng.NormFloat64()
					for _, v := range y {
						if v > x {
							wins++
						}
					}
				}
				low, high := AUROC(wins/float64(n*n), n, n)
				if low <= truth && truth <= high {
					covered++
				}
			}
			require.Greater(t, float64(covered)/samples, 0.935, "shift %g, n %d", shift, n)
		}
	}
}

func TestIntervals(t *testing.T) {
	// Student's t by hand: mean 3, std sqrt(2.5), 2.776445 for 4 degrees of freedom.
	i := MeanInterval([]float64{1, 2, 3, 4, 5})
	require.InDelta(t, 3, i.Mean, 1e-12)
	require.InDelta(t, 2.776445*math.Sqrt(2.5/5), i.High-3, 1e-5)
	require.True(t, math.IsNaN(MeanInterval([]float64{1}).Low))
	require.True(t, math.IsNaN(MeanInterval(nil).Mean))
	// Welch by hand: variances 1 and 4 of 3 values each: se sqrt(5/3), df 25/(1+16)*2 = 2.941176, t 3.2181.
	d := DifferenceInterval([]float64{1, 2, 3}, []float64{0, 2, 4})
	require.InDelta(t, 0, d.Mean, 1e-12)
	require.InDelta(t, 3.2181*math.Sqrt(5.0/3), d.High, 2e-3)
	same := DifferenceInterval([]float64{1, 1}, []float64{0, 0})
	require.Equal(t, Interval{1, 1, 1, 4}, same)
}
