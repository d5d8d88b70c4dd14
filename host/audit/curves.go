package audit

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/floats"

	"github.com/srpo-dev/srpo/host/srpo"
)

// Scale defines which distances are 0 and 1 of a progress curve.
type Scale string

// The scales.
const (
	// OwnScale is the scale of the SRPO paper, see [Progress]: the largest and smallest distance of the attempt
	// itself, for a success to its own end. Every curve reaches 1, also that of a failure.
	OwnScale Scale = "own"
	// TaskScale uses the largest and smallest distance over all windows of all attempts at the task, for
	// successes and failures to the nearest success centre: 1 - (d_t - min)/(max - min). A failure that never
	// comes near a centre stays low.
	TaskScale Scale = "task"
)

// Curves returns the progress curve of every item that has one, in the order of the items, measured against the
// centres of its task's successes. Items without a label count as failures. An item has no curve if its windows are
// missing or not usable, or if it is a failure of a task without successes. With OwnScale the curves have the progress
// that [Measure] returns. The errors are those of [srpo.Cluster].
func Curves(items []Item, cluster srpo.ClusterOptions, scale Scale) ([]Curve, error) {
	byTask := map[string][][]float64{}
	for _, it := range items {
		if it.Success != nil && *it.Success {
			byTask[it.Task] = append(byTask[it.Task], it.Embedding)
		}
	}
	centres := map[string]srpo.Clustering{}
	for task, list := range byTask {
		c, err := srpo.Cluster(list, cluster)
		if err != nil {
			return nil, fmt.Errorf("task %q: %w", task, err)
		}
		centres[task] = c
	}
	var out []Curve
	low, high := map[string]float64{}, map[string]float64{}
	for _, it := range items {
		if !hasCurve(it) {
			continue
		}
		all, ok := centres[it.Task]
		succeeded := it.Success != nil && *it.Success
		switch {
		case succeeded && scale == OwnScale:
			out = append(out, successCurve(it))
		case ok && len(all.Centres) > 0:
			c := failureCurve(it, all)
			if _, seen := low[it.Task]; !seen {
				low[it.Task], high[it.Task] = math.Inf(1), math.Inf(-1)
			}
			low[it.Task], high[it.Task] = min(low[it.Task], floats.Min(c.Nearness)),
				max(high[it.Task], floats.Max(c.Nearness))
			out = append(out, c)
		}
	}
	if scale == TaskScale {
		for _, c := range out {
			far, span := low[c.Task], high[c.Task]-low[c.Task]
			for k, near := range c.Nearness {
				if c.Progress[k] = 0; span > 0 {
					c.Progress[k] = (near - far) / span
				}
			}
		}
	}
	return out, nil
}

// successCurve measures the progress of a success by the distance to its own end.
func successCurve(it Item) Curve {
	return Curve{ID: it.ID, Task: it.Task, Success: it.Success, Ends: it.Ends,
		Progress: Progress(toOwnEnd(it.Windows))}
}

// failureCurve measures progress by the distance to the nearest centre.
func failureCurve(it Item, centres srpo.Clustering) Curve {
	near := nearness(it.Windows, centres)
	d := slices.Clone(near)
	floats.Scale(-1, d)
	return Curve{ID: it.ID, Task: it.Task, Success: it.Success, Ends: it.Ends, Progress: Progress(d), Nearness: near}
}

// toOwnEnd returns the distances of windows to the last one.
func toOwnEnd(windows [][]float64) []float64 {
	d := make([]float64, len(windows))
	for i, w := range windows {
		d[i] = floats.Distance(w, windows[len(windows)-1], 2)
	}
	return d
}

// nearness returns minus the distance of each window to the nearest centre.
func nearness(windows [][]float64, c srpo.Clustering) []float64 {
	out := make([]float64, len(windows))
	for i, w := range windows {
		out[i] = -nearest(c, w)
	}
	return out
}
