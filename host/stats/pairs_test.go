package stats_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/stats"
)

// Newcombe's interval contains the true difference about 95 times in 100, for correlated and for independent pairs.
func TestPairedIntervalCovers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, c := range []struct{ a, b, same float64 }{
		{0.3, 0.5, 0}, {0.3, 0.5, 0.6}, {0.8, 0.8, 0.9}, {0.05, 0.1, 0.3},
	} {
		const times, n = 2000, 60
		covered := 0
		for range times {
			var p stats.Pairs
			for range n {
				u := r.Float64()
				v := u // correlated in a share of the pairs
				if r.Float64() >= c.same {
					v = r.Float64()
				}
				switch a, b := u < c.a, v < c.b; {
				case a && b:
					p.Both++
				case a:
					p.OnlyA++
				case b:
					p.OnlyB++
				default:
					p.Neither++
				}
			}
			if _, low, high := p.Difference(); low <= c.b-c.a && c.b-c.a <= high {
				covered++
			}
		}
		require.GreaterOrEqual(t, float64(covered)/times, 0.935, "%v", c)
		if c.same < 0.8 { // the interval is conservative for rates near 0 or 1 and for highly correlated pairs
			require.LessOrEqual(t, float64(covered)/times, 0.985, "%v", c)
		}
	}
}

func TestPairs(t *testing.T) {
	// Newcombe's method 10 on 20 pairs, computed by hand: Wilson 12/20 [.3866, .7812], 9/20 [.2582, .6579], phi
	// = (9*8 - 3*0 - 10)/sqrt(12*8*9*11).
	d, low, high := stats.Pairs{Both: 9, OnlyB: 3, OnlyA: 0, Neither: 8}.Difference()
	require.InDelta(t, 0.15, d, 1e-12)
	phi := 62 / math.Sqrt(12*8*9*11)
	down, up := [2]float64{0.6 - 0.3866, 0.6579 - 0.45}, [2]float64{0.7812 - 0.6, 0.45 - 0.2582}
	require.InDelta(t, 0.15-math.Sqrt(down[0]*down[0]-2*phi*down[0]*down[1]+down[1]*down[1]), low, 2e-4)
	require.InDelta(t, 0.15+math.Sqrt(up[0]*up[0]-2*phi*up[0]*up[1]+up[1]*up[1]), high, 2e-4)
	require.InDelta(t, 0.25, stats.Pairs{OnlyB: 3}.McNemar(), 1e-12)
	require.InDelta(t, 1, stats.Pairs{OnlyA: 2, OnlyB: 2, Both: 50}.McNemar(), 1e-12)
	require.InDelta(t, 2*11.0/1024, stats.Pairs{OnlyA: 1, OnlyB: 9}.McNemar(), 1e-12)
	d, low, high = stats.Pairs{Both: 10}.Difference()
	require.Zero(t, d)
	require.Less(t, low, 0.0, "ten episodes prove little")
	require.Greater(t, high, 0.0)
	b, l, h := stats.Pairs{OnlyA: 7, OnlyB: 2, Both: 5, Neither: 6}.Difference()
	f, fl, fh := stats.Pairs{OnlyA: 2, OnlyB: 7, Both: 5, Neither: 6}.Difference()
	require.InDeltaSlice(t, []float64{b, l, h}, []float64{-f, -fh, -fl}, 1e-12,
		"exchanging A and B changes the signs")
}
