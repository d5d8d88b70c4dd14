package bench

import (
	"context"
	"fmt"

	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// StepOptions are the settings of [Steps].
type StepOptions struct {
	Env supervise.Launch
	// Resolve returns the settings of the env, given those that it declares; nil takes the defaults.
	Resolve func(declared []plugins.Setting) (plugins.Settings, error)
	// Task is the ID of the task; "" takes the first one.
	Task string
	// Lanes are the numbers of lanes to measure; default 1, 8, 32.
	Lanes []int
	// Repeats is the number of runs, default 5, of Seconds each, default 1.
	Repeats int
	Seconds float64
}

// Steps measures an env's steps per second through the host, with a policy that needs no time.
func Steps(ctx context.Context, t Tools, o StepOptions) (Section, error) {
	if len(o.Lanes) == 0 {
		o.Lanes = []int{1, 8, 32}
	}
	orDefault(&o.Repeats, 5)
	orDefault(&o.Seconds, 1)
	s := Section{Name: "step", Title: "Steps per second of " + o.Env.Name,
		Text: fmt.Sprintf("Whole episodes, as a run executes them, with a policy inside the host that returns sine "+
			"waves. Steps of all lanes over wall time, median of %d runs. The env renders one frame at the end of "+
			"each chunk of actions.", o.Repeats)}
	return s, measured(&s, func() error {
		table := Table{Title: "Env steps per second, all lanes together.", Columns: []string{"lanes", "chunk 8",
			"chunk 1"}}
		for _, lanes := range o.Lanes {
			row := Row{Cells: []string{fmt.Sprint(lanes)}, Values: map[string]float64{"lanes": float64(lanes)}}
			for _, chunk := range []int{8, 1} {
				t.Progress("steps of %s: %d lanes, chunk %d", o.Env.Name, lanes, chunk)
				rates, _, err := throughHost(ctx, rigOptions{env: o.Env, resolve: o.Resolve, lanes: lanes,
					chunk:   chunk,
					observe: true, wave: 0.5, task: o.Task, arenaMB: t.ArenaMB}, o.Repeats, o.Seconds)
				if err != nil {
					return err
				}
				row.Values[fmt.Sprintf("chunk%d_per_s", chunk)] = median(rates)
				row.Cells = append(row.Cells, fmt.Sprintf("%.0f", median(rates)))
			}
			table.Rows = append(table.Rows, row)
		}
		s.Tables = append(s.Tables, table)
		return nil
	})
}

// throughHost runs episodes of the task's own length and returns, for each repeat, the steps per second of
// whole episodes and of the time inside Step alone.
func throughHost(ctx context.Context, o rigOptions, repeats int, seconds float64) (whole, inStep []float64,
	err error) {
	r, err := newRig(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	defer r.close()
	if _, err := r.roll(ctx, 0); err != nil { // warm-up
		return nil, nil, err
	}
	for range repeats {
		wall, steps, inside := 0.0, 0, 0.0
		for steps == 0 || wall < seconds {
			s, err := r.roll(ctx, 0)
			if err != nil {
				return nil, nil, err
			}
			wall, steps, inside = wall+s.wall, steps+s.steps, inside+s.inStep
		}
		whole, inStep = append(whole, float64(steps)/wall), append(inStep, float64(steps)/inside)
	}
	return whole, inStep, nil
}
