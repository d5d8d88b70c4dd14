package host

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/audit"
)

func TestStepsOfACurve(t *testing.T) {
	// 9 env steps, a frame every 4: frames after 0, 4 and 8 steps, and windows of 1, 2 and 3 of them.
	ends := endSteps([]int{1, 2, 3}, 3, 4, 9)
	require.Equal(t, []int{0, 4, 8}, ends)
	got := atSteps(audit.Curve{Ends: ends, Progress: []float64{0, 0.8, 1}}, 9)
	require.InDeltaSlice(t, []float64{0, 0.2, 0.4, 0.6, 0.8, 0.85, 0.9, 0.95, 1, 1}, got, 1e-12)

	require.Equal(t, []int{0, 50, 100}, endSteps([]int{1, 6, 11}, 11, 4, 100), "a thinned clip is spread evenly")
	require.InDeltaSlice(t, []float64{0.5, 0.5, 0.5}, atSteps(audit.Curve{Ends: []int{1}, Progress: []float64{0.5}}, 2), 0)
	require.InDeltaSlice(t, []float64{0, 0, 0.5, 1}, atSteps(audit.Curve{Ends: []int{1, 3}, Progress: []float64{0, 1}}, 3), 1e-12, "flat before the first window")
}
