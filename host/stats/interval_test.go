package stats

import (
	"math"
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
