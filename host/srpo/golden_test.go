package srpo

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/floats"
)

// splitmix returns n numbers in [-1, 1), the same as testdata/make_goldens.py.
func splitmix(seed uint64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		seed += 0x9E3779B97F4A7C15
		z := seed
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		z ^= z >> 31
		out[i] = float64(z>>11)*0x1p-52 - 1
	}
	return out
}

type goldenCase struct {
	Name     string
	Dim      int
	Rollouts []struct {
		Task      int
		Success   bool
		Embedding []float64
		Recipe    [][2]float64 // seed, scale
		Score     float64
		Distance  *float64
	}
}

type goldenDBSCAN struct {
	Dim       int
	Recipes   [][][2]float64
	Eps       float64
	MinPoints int `json:"min_points"`
	Labels    []int
}

func readGoldens(t *testing.T) (cases []goldenCase, labels []goldenDBSCAN) {
	raw, err := os.ReadFile("testdata/goldens.json")
	require.NoError(t, err)
	var file struct {
		Cases  []goldenCase
		DBSCAN []goldenDBSCAN
	}
	require.NoError(t, json.Unmarshal(raw, &file))
	require.Len(t, file.Cases, 24)
	require.Len(t, file.DBSCAN, 12)
	return file.Cases, file.DBSCAN
}

// sumOf adds up the noise vectors of a recipe.
func sumOf(recipe [][2]float64, dim int) []float64 {
	h := make([]float64, dim)
	for _, part := range recipe {
		floats.AddScaled(h, part[1], splitmix(uint64(part[0]), dim))
	}
	return h
}

// DBSCAN gives every point the same label as scikit-learn: cores, borders, noise and their numbers.
func TestDBSCANGoldens(t *testing.T) {
	_, cases := readGoldens(t)
	for _, c := range cases {
		var points [][]float64
		for _, recipe := range c.Recipes {
			points = append(points, sumOf(recipe, c.Dim))
		}
		assert.Equal(t, c.Labels, DBSCAN(points, c.Eps, c.MinPoints), "%d points of %d dimensions", len(points),
			c.Dim)
	}
}

// minmax with the reference clustering equals siiRL 0.2.0, except for all-zero embeddings: siiRL gives 0 even
// to such a success. Here the success gets 1, and the failure is dropped.
func TestReferenceGoldens(t *testing.T) {
	const tolerance = 1e-9
	worst := 0.0
	compared := 0
	cases, _ := readGoldens(t)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			var rollouts []Rollout
			for i, r := range c.Rollouts {
				h := r.Embedding
				if h == nil {
					h = sumOf(r.Recipe, c.Dim)
				}
				rollouts = append(
					rollouts,
					Rollout{ID: fmt.Sprintf("r%03d", i), Task: fmt.Sprint(r.Task), Success: r.Success, Embedding: h},
				)
			}
			opt := DefaultRewardOptions()
			opt.Kind, opt.Cluster.Kind, opt.Dim = MinMax, ClusterReference, c.Dim
			scored, err := ScoreBatch(rollouts, Known{}, opt)
			require.NoError(t, err)
			for i, s := range scored.Rollouts {
				want := c.Rollouts[i]
				if s.Reason != "" {
					assert.Equal(t, "the embedding is all zero", s.Reason)
					assert.Zero(t, want.Score)
					assert.Equal(t, !want.Success, s.Dropped)
					assert.Equal(t, want.Success, s.Reward == 1)
					continue
				}
				assert.InDelta(t, want.Score, s.Reward, tolerance, "reward of %d", i)
				worst = math.Max(worst, math.Abs(want.Score-s.Reward))
				compared++
				if want.Distance != nil {
					assert.InDelta(t, *want.Distance, s.Distance, tolerance*math.Max(1, *want.Distance),
						"distance of %d", i)
				}
			}
		})
	}
	assert.Greater(t, compared, 300)
	t.Logf("%d rewards, largest difference from the reference %.2g", compared, worst)
}

// The reference clustering finds no cluster in 1408 dimensions where auto finds both modes. It clusters in two
// dimensions.
func TestReferenceClustersOnlyInLowDimensions(t *testing.T) {
	count := map[string][2]int{}
	cases, _ := readGoldens(t)
	for _, c := range cases {
		var points [][]float64
		for _, r := range c.Rollouts {
			if r.Success && r.Recipe != nil {
				points = append(points, sumOf(r.Recipe, c.Dim))
			} else if r.Success {
				points = append(points, r.Embedding)
			}
		}
		opt := DefaultClusterOptions()
		auto, err := Cluster(points, opt)
		require.NoError(t, err)
		opt.Kind = ClusterReference
		reference, err := Cluster(points, opt)
		require.NoError(t, err)
		fellBack := 0
		if reference.Fallback != "" {
			fellBack = 1
		}
		count[c.Name] = [2]int{len(auto.Centres), len(reference.Centres) - fellBack}
	}
	assert.Equal(t, [2]int{2, 0}, count["two modes in 1408 dimensions"])
	assert.Equal(t, [2]int{2, 0}, count["two modes in 64 dimensions"])
	assert.Equal(t, [2]int{2, 2}, count["two clusters in two dimensions"])
	assert.Equal(t, [2]int{2, 2}, count["one dimension, two clusters and a far one"])
	assert.Equal(t, [2]int{3, 3}, count["three clusters and noise"])
}
