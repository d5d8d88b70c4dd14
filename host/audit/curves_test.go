package audit

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCurvesAreThoseOfMeasure(t *testing.T) {
	items := scene(rand.New(rand.NewPCG(1, 2)), "a", []float64{5, 0, 0, 0}, 8, true)
	measured, err := Measure(items, options())
	require.NoError(t, err)
	curves, err := Curves(items, options().Cluster, OwnScale)
	require.NoError(t, err)
	require.Len(t, curves, len(measured.Curves))
	for i, c := range curves {
		require.Equal(t, measured.Curves[i].ID, c.ID)
		require.Equal(t, measured.Curves[i].Ends, c.Ends)
		require.Equal(t, measured.Curves[i].Progress, c.Progress)
	}
}

func TestTaskScaleKeepsFailuresLow(t *testing.T) {
	items := scene(rand.New(rand.NewPCG(1, 2)), "a", []float64{5, 0, 0, 0}, 8, true)
	curves, err := Curves(items, options().Cluster, TaskScale)
	require.NoError(t, err)
	top := map[bool]float64{}
	n := map[bool]float64{}
	for _, c := range curves {
		for _, p := range c.Progress {
			require.True(t, p >= 0 && p <= 1)
		}
		top[*c.Success] += c.Progress[len(c.Progress)-1]
		n[*c.Success]++
	}
	require.Greater(t, top[true]/n[true], top[false]/n[false])
	own, err := Curves(items, options().Cluster, OwnScale)
	require.NoError(t, err)
	for _, c := range own {
		top := 0.0
		for _, p := range c.Progress {
			top = max(top, p)
		}
		require.InDelta(t, 1, top, 1e-12, "every curve on its own scale reaches 1")
	}
}

func TestCurvesWithoutSuccesses(t *testing.T) {
	items := scene(rand.New(rand.NewPCG(1, 2)), "a", []float64{5, 0, 0, 0}, 8, true)
	for i := range items {
		no := false
		items[i].Success = &no
	}
	for _, scale := range []Scale{OwnScale, TaskScale} {
		curves, err := Curves(items, options().Cluster, scale)
		require.NoError(t, err)
		require.Empty(t, curves)
	}
}
