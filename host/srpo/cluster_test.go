package srpo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/floats"
)

// modes returns clouds of the given sizes in dim dimensions, and the cloud of each point. A point is about 1 from the
// centre of its cloud, and the centres are about gap apart from each other, in random directions from a common point.
func modes(rng *rand.Rand, dim int, gap float64, sizes ...int) (points [][]float64, truth []int) {
	base := gauss(rng, dim, 5)
	for m, size := range sizes {
		direction := gauss(rng, dim, 1)
		floats.Scale(gap/math.Sqrt2/floats.Norm(direction, 2), direction)
		for range size {
			h := gauss(rng, dim, 1/math.Sqrt(float64(dim)))
			floats.Add(h, base)
			floats.Add(h, direction)
			points, truth = append(points, h), append(truth, m)
		}
	}
	return points, truth
}

func auto(t *testing.T, points [][]float64) Clustering {
	c, err := Cluster(points, DefaultClusterOptions())
	require.NoError(t, err)
	return c
}

func TestTwoModesAt1408Dimensions(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	for _, gap := range []float64{1.3, 1.6, 2, 4, 20} { // in units of the radius of a mode
		for _, sizes := range [][]int{{2, 2}, {3, 3}, {2, 6}, {5, 3}, {10, 10}, {20, 5}, {4, 4, 4}} {
			t.Run(fmt.Sprint(gap, sizes), func(t *testing.T) {
				points, truth := modes(rng, 1408, gap, sizes...)
				c := auto(t, points)
				require.Equal(t, truth, c.Labels)
				require.Equal(t, sizes, c.Sizes)
				require.Empty(t, c.Fallback)
				opt := DefaultClusterOptions()
				opt.Kind = ClusterReference
				reference, err := Cluster(points, opt)
				require.NoError(t, err)
				require.NotEmpty(t, reference.Fallback, "the reference never finds a cluster here")
			})
		}
	}
}

func TestOneModeIsNotSplit(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 1))
	for _, size := range []int{4, 5, 8, 16, 40} {
		for range 4 {
			points, _ := modes(rng, 1408, 0, size)
			c := auto(t, points)
			require.Equal(t, []int{size}, c.Sizes)
			require.InDeltaSlice(t, mean(points), c.Centres[0], 1e-12)
		}
	}
	// In few dimensions distances vary widely, and a small cloud may look like two: rarely.
	split, trials := 0, 0
	for _, dim := range []int{3, 5, 20} {
		for _, size := range []int{8, 16, 40} {
			for range 20 {
				points, _ := modes(rng, dim, 0, size)
				if len(auto(t, points).Centres) != 1 {
					split++
				}
				trials++
			}
		}
	}
	assert.LessOrEqual(t, split, trials/10)
	t.Logf("%d of %d clouds in 3 to 20 dimensions were split", split, trials)
}

func TestFarSuccessIsNoise(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 1))
	points, _ := modes(rng, 1408, 4, 9, 8)
	points = append(points, gauss(rng, 1408, 50))
	c := auto(t, points)
	assert.Equal(t, []int{9, 8}, c.Sizes)
	assert.Equal(t, Noise, c.Labels[17])
}

func TestTooFewToCluster(t *testing.T) {
	for n := 1; n <= 3; n++ {
		var points [][]float64
		for i := range n {
			points = append(points, []float64{float64(i * i), 1})
		}
		c := auto(t, points)
		assert.Equal(t, []int{n}, c.Sizes)
		assert.Contains(t, c.Fallback, fmt.Sprintf("%d references", n))
	}
	assert.Empty(t, auto(t, nil).Centres)
	same := auto(t, [][]float64{{1, 2}, {1, 2}, {1, 2}, {1, 2}, {1, 2}})
	assert.Equal(t, []int{5}, same.Sizes)
	pairs := auto(t, [][]float64{{1, 2}, {1, 2}, {3, 4}, {3, 4}})
	assert.Equal(t, []int{2, 2}, pairs.Sizes)
}

func TestEveryKindOfCluster(t *testing.T) {
	points := [][]float64{{0, 0}, {0.1, 0}, {10, 0}, {10.1, 0}}
	for kind, want := range map[ClusterKind][][]float64{
		ClusterAuto:      {{0.05, 0}, {10.05, 0}},
		ClusterReference: {{0.05, 0}, {10.05, 0}},
		ClusterMean:      {{5.05, 0}},
		ClusterNearest:   points,
	} {
		opt := DefaultClusterOptions()
		opt.Kind = kind
		c, err := Cluster(points, opt)
		require.NoError(t, err)
		require.Len(t, c.Centres, len(want), kind)
		for j := range want {
			assert.InDeltaSlice(t, want[j], c.Centres[j], 1e-12, kind)
		}
	}
	_, err := Cluster([][]float64{{1, 2}, {1}}, DefaultClusterOptions())
	assert.ErrorContains(t, err, "point 1 has the wrong size: 1 numbers, want 2")
	_, err = Cluster([][]float64{{1, math.NaN()}}, DefaultClusterOptions())
	assert.ErrorContains(t, err, "point 0 is not a number at index 1")
}

// A held-out distance is the distance to the centre of the others.
func TestNearestHeldOut(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 1))
	points, truth := modes(rng, 30, 6, 5, 4)
	c := auto(t, points)
	require.Equal(t, truth, c.Labels)
	for i, h := range points {
		var others [][]float64
		for k := range points {
			if k != i && truth[k] == truth[i] {
				others = append(others, points[k])
			}
		}
		d, j := c.NearestHeldOut(h, i)
		assert.Equal(t, truth[i], j)
		assert.InDelta(t, floats.Distance(h, mean(others), 2), d, 1e-12)
		plain, _ := c.Nearest(h)
		assert.Less(t, plain, d)
	}
	lone, err := Cluster(points[:1], DefaultClusterOptions())
	require.NoError(t, err)
	_, j := lone.NearestHeldOut(points[0], 0)
	assert.Equal(t, -1, j)
}

func TestDBSCAN(t *testing.T) {
	line := func(xs ...float64) (points [][]float64) {
		for _, x := range xs {
			points = append(points, []float64{x})
		}
		return points
	}
	// eps is inclusive; 2 is a border point of the first cluster; 9 is alone.
	assert.Equal(t, []int{0, 0, 0, 0, Noise, 1, 1, 1}, DBSCAN(line(0, 0.5, 1, 2, 9, 20, 21, 20.5), 1, 3))
	// a border point between two clusters joins the first
	assert.Equal(t, []int{0, 0, 0, 0, 1, 1, 1}, DBSCAN(line(0, 0.1, 0.2, 1.1, 2, 2.1, 2.2), 0.95, 4))
	assert.Equal(t, []int{Noise, Noise, Noise}, DBSCAN(line(0, 2, 4), 1, 2))
	assert.Equal(t, []int{0, 1, 2}, DBSCAN(line(0, 2, 4), 1, 1))
	assert.Equal(t, []int{0, 0, Noise}, DBSCAN(line(3, 3, 4), 0, 2))
	assert.Empty(t, DBSCAN(nil, 1, 2))
}

// Despite blocks, symmetry and cancellation every distance equals that of the pair measured alone.
func TestPairwise(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 1))
	var points [][]float64
	for i := range 300 {
		h := gauss(rng, 7, 1)
		if i%3 == 1 { // almost equal to the previous one
			copy(h, points[i-1])
			h[0] += 1e-9
		}
		points = append(points, h)
	}
	for i := range points {
		floats.AddConst(1e4, points[i])
	}
	d := pairwise(points)
	for i := range points {
		for j := range points {
			want := floats.Distance(points[i], points[j], 2)
			require.InDelta(t, want, d.at(i, j), 1e-9*want)
		}
	}
	nearest := d.kth(3)
	for k := 1; k < len(nearest); k++ {
		require.LessOrEqual(t, nearest[k-1], nearest[k])
	}
	assert.Equal(t, []float64{1, 1, 2, 6}, pairwise([][]float64{{0}, {1}, {3}, {9}}).kth(1))
	assert.Equal(t, []float64{2, 3, 3, 8}, pairwise([][]float64{{0}, {1}, {3}, {9}}).kth(2))
}

func BenchmarkDBSCAN(b *testing.B) {
	for _, n := range []int{500, 2000} {
		b.Run(fmt.Sprintf("%dx1408", n), func(b *testing.B) {
			points, _ := modes(rand.New(rand.NewPCG(12, 1)), 1408, 4, n/2, n-n/2)
			for b.Loop() {
				DBSCAN(points, 1.7, 5)
			}
		})
	}
}
