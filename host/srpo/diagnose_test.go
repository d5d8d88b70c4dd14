package srpo

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAUROC(t *testing.T) {
	for _, c := range []struct {
		success, failure []float64
		want             float64
	}{
		{[]float64{2, 3}, []float64{0, 1}, 1},
		{[]float64{0, 1}, []float64{2, 3}, 0},
		{[]float64{1, 1}, []float64{1, 1, 1}, 0.5},
		{[]float64{1, 3}, []float64{1, 2}, (0.5 + 0 + 1 + 1) / 4},
	} {
		got, ok := AUROC(c.success, c.failure)
		assert.True(t, ok)
		assert.InDelta(t, c.want, got, 1e-15)
	}
	_, ok := AUROC(nil, []float64{1})
	assert.False(t, ok)
	_, ok = AUROC([]float64{math.NaN()}, []float64{1})
	assert.False(t, ok)

	// compared with counting all pairs, with many ties
	rng := rand.New(rand.NewPCG(30, 1))
	s, f := make([]float64, 23), make([]float64, 31)
	for i := range s {
		s[i] = float64(rng.IntN(6))
	}
	for i := range f {
		f[i] = float64(rng.IntN(5))
	}
	want := 0.0
	for _, a := range s {
		for _, b := range f {
			if a > b {
				want++
			} else if a == b {
				want += 0.5
			}
		}
	}
	got, _ := AUROC(s, f)
	assert.InDelta(t, want/(23*31), got, 1e-12)
}

func TestSpearmanAndPairOrder(t *testing.T) {
	rho, ok := Spearman([]float64{1, 2, 3}, []float64{10, 200, 3000})
	assert.True(t, ok)
	assert.InDelta(t, 1, rho, 1e-12)
	// ranks 1, 2.5, 2.5, 4 against 2, 1, 3, 4: products of the deviations 3, squares 4.5 and 5
	rho, _ = Spearman([]float64{1, 2, 2, 3}, []float64{0.2, 0.1, 0.3, 0.4})
	assert.InDelta(t, 3/math.Sqrt(4.5*5), rho, 1e-12)
	for _, bad := range [][2][]float64{{{1}, {1}}, {{1, 2}, {1}}, {{1, 1}, {1, 2}}, {{1, math.NaN()}, {1, 2}}} {
		rho, ok = Spearman(bad[0], bad[1])
		assert.False(t, ok)
		assert.Zero(t, rho)
	}

	share, ok := PairOrder([]float64{1, 2, 2, 0}, []float64{1, 2, 3, 3})
	assert.True(t, ok)
	assert.InDelta(t, (1+1+0+0.5+0)/5, share, 1e-15) // ab ac ad | bc bd | cd has equal y
	_, ok = PairOrder([]float64{1, 2}, []float64{3, 3})
	assert.False(t, ok)
	_, ok = PairOrder([]float64{1, 2}, []float64{3})
	assert.False(t, ok)
}

func TestDiagnose(t *testing.T) {
	half, nearly := 0.5, 0.9
	rollouts := []Rollout{
		{ID: "a", Task: "x", Success: true, Embedding: []float64{0, 1}},
		{ID: "b", Task: "x", Success: true, Embedding: []float64{1, 0}},
		{ID: "c", Task: "x", Embedding: []float64{9, 9}, Progress: &half},
		{ID: "d", Task: "x", Embedding: []float64{4, 4}, Progress: &nearly},
		{ID: "e", Task: "x", Embedding: []float64{math.NaN(), 4}, Progress: &half},
		{ID: "f", Task: "y", Embedding: []float64{4, 4}},
	}
	scored, err := ScoreBatch(rollouts, Known{}, DefaultRewardOptions())
	require.NoError(t, err)
	got, err := Diagnose(scored.Rollouts)
	require.NoError(t, err)
	assert.Equal(t, Diagnostics{AUROC: Estimate{1, 1}, Spearman: Estimate{1, 1}, PairOrder: Estimate{1, 1}}, got)
}

// For random embeddings AUROC is 0.5, because a success is held out of its own centre.
func TestAUROCOfRandomEmbeddingsIsHalf(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 1))
	for _, kind := range []ClusterKind{ClusterMean, ClusterNearest, ClusterAuto} {
		sum := 0.0
		for range 40 {
			var rollouts []Rollout
			for i := range 40 {
				rollouts = append(
					rollouts,
					Rollout{ID: string(rune('a' + i)), Success: i < 20, Embedding: gauss(rng, 50, 1)},
				)
			}
			opt := DefaultRewardOptions()
			opt.Cluster.Kind = kind
			scored, err := ScoreBatch(rollouts, Known{}, opt)
			require.NoError(t, err)
			d, err := Diagnose(scored.Rollouts)
			require.NoError(t, err)
			sum += d.AUROC.Value / 40
		}
		assert.InDelta(t, 0.5, sum, 0.06, kind)
	}
}
