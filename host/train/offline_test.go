package train

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/plugins/env"
)

func TestCurveAtSteps(t *testing.T) {
	// 9 env steps with a frame every 4: frames after 0, 4 and 8 steps, and windows of 1, 2 and 3 of them.
	ends := endSteps([]int{1, 2, 3}, 3, 4, 9)
	require.Equal(t, []int{0, 4, 8}, ends)
	got := atSteps(audit.Curve{Ends: ends, Progress: []float64{0, 0.8, 1}}, 9)
	require.InDeltaSlice(t, []float64{0, 0.2, 0.4, 0.6, 0.8, 0.85, 0.9, 0.95, 1, 1}, got, 1e-12)

	require.Equal(t, []int{0, 50, 100}, endSteps([]int{1, 6, 11}, 11, 4, 100),
		"the frames of a reduced clip are spread evenly")
	require.InDeltaSlice(t, []float64{0.5, 0.5, 0.5},
		atSteps(audit.Curve{Ends: []int{1}, Progress: []float64{0.5}}, 2), 0)
	require.InDeltaSlice(t, []float64{0, 0, 0.5, 1},
		atSteps(audit.Curve{Ends: []int{1, 3}, Progress: []float64{0, 1}}, 3), 1e-12,
		"constant before the first window")
}

// A plan draws its tasks by their weights when there are any.
func TestPlanDrawsWeightedTasks(t *testing.T) {
	tasks := []env.Task{{ID: "a", StartStates: 2}, {ID: "b", StartStates: 2}}
	cfg := config.Default()
	r := &run{cfg: cfg, session: &session.Session{Config: cfg, Sched: &rollout.Scheduler{}}, tasks: tasks,
		weights: map[string]float64{"a": 1, "b": 3}}
	plan := r.plan(1)
	require.Equal(t, rollout.Drawn, plan.Order)
	require.Len(t, plan.Tasks, 2)
	require.Equal(t, 3.0, plan.Tasks[1].Weight)
}
