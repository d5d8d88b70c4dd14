package audit

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/floats"

	"github.com/srpo-dev/srpo/host/srpo"
)

// Scale says what 0 and 1 of a progress curve are.
type Scale string

// The scales.
const (
	// OwnScale is the paper's, [Progress]: the episode's own least and greatest distance, to its own end
	// for a success. Every curve, a failure's too, reaches 1.
	OwnScale Scale = "own"
	// TaskScale is 1 - (d_t - min)/(max - min) with min and max over all windows of all of the task's
	// attempts, and d_t the least distance to the success centres for successes and failures alike: a
	// failure that never comes near stays low.
	TaskScale Scale = "task"
)

// Curves gives every item that has windows its progress curve, in the order of the items, measured against
// the centres of its task's successes. Labels that are nil count as failures. An item has none when it has
// no usable windows, or when it is a failure of a task without successes. The curves of OwnScale are those
// of [Measure].
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

// successCurve measures against the success's own end.
func successCurve(it Item) Curve {
	return Curve{ID: it.ID, Task: it.Task, Success: it.Success, Ends: it.Ends,
		Progress: Progress(toOwnEnd(it.Windows))}
}

// failureCurve measures against centres.
func failureCurve(it Item, centres srpo.Clustering) Curve {
	near := nearness(it.Windows, centres)
	d := slices.Clone(near)
	floats.Scale(-1, d)
	return Curve{ID: it.ID, Task: it.Task, Success: it.Success, Ends: it.Ends, Progress: Progress(d), Nearness: near}
}
