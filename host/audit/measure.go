package audit

import (
	"fmt"
	"sort"

	"github.com/srpo-dev/srpo/host/srpo"
)

// Item is one attempt to measure. Its embeddings must be finite and all of one length.
type Item struct {
	ID, Task string
	// Success is the label; nil if there is none. Attempts without a label take part in no measure.
	Success *bool
	// Progress is a given progress, for example from a simulator; nil if there is none.
	Progress *float64
	// Frames is the length of the clip; 0 if it is not known.
	Frames    int
	Embedding []float64
	// Windows[k] is the embedding of the clip's first Ends[k] frames. Ends increases, and its last value is
	// the length of the clip. Without windows an attempt has no progress curve.
	Ends    []int
	Windows [][]float64
	// Reversed is the embedding of the clip played backwards. Stalled is that of its first half, whose last
	// frame is held to the clip's length. Each is nil if it was not made.
	Reversed, Stalled []float64
}

// MeasureOptions are the settings of [Measure].
type MeasureOptions struct {
	Cluster srpo.ClusterOptions
	// Seed determines the bootstrap and the random vectors.
	Seed uint64
	// Bootstrap is the number of resamples; 0 means 1000.
	Bootstrap int
	// BootstrapOnly leaves out the score intervals of AUROCs, so that the metrics of a run stay comparable with those
	// of earlier versions.
	BootstrapOnly bool
}

// maxMeasured limits the successes and the failures measured per task. Of a longer list, evenly spaced attempts
// are measured.
const maxMeasured = 300

// FewestAttempts is the smallest number of attempts of each label that allows a statement. A value of fewer is
// [Value.TooFew].
const FewestAttempts = 5

// Value is a measured number with its 95 % interval.
type Value struct {
	Value float64 `json:"value"`
	// Low and High bound the middle 95 % of the resamples (percentile bootstrap over attempts, within each
	// task). The interval of an AUROC also covers [stats.AUROC], because all resamples of a few attempts can agree.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Attempts is the number of attempts that took part, Tasks that of their tasks. Value is the mean over
	// tasks.
	Attempts int `json:"attempts"`
	Tasks    int `json:"tasks"`
	// TooFew reports that fewer than FewestAttempts attempts of a label took part.
	TooFew bool `json:"too_few,omitempty"`
}

// Interval returns the interval as text.
func (v Value) Interval() string {
	if v.TooFew {
		return "too few to tell"
	}
	return fmt.Sprintf("%.3f to %.3f", v.Low, v.High)
}

// Measures maps keys of [Names] to values. A measure that the attempts do not allow is missing.
type Measures map[string]Value

// Curve is the progress of an attempt over growing windows.
type Curve struct {
	ID      string `json:"id"`
	Task    string `json:"task"`
	Success *bool  `json:"success"`
	// Ends are the lengths of the windows in frames.
	Ends []int `json:"ends"`
	// Progress is the curve of the SRPO paper, between 0 and 1.
	Progress []float64 `json:"progress"`
	// Nearness is minus the distance to the nearest centre; for a success, to the held-out centres.
	Nearness []float64 `json:"nearness"`
}

// Measured is the result of [Measure].
type Measured struct {
	// Mean is the mean over tasks, Tasks the measures of each task.
	Mean  Measures            `json:"mean"`
	Tasks map[string]Measures `json:"tasks"`
	// Curves has every attempt with windows, with or without a label, in the order of the input.
	Curves []Curve `json:"-"`
	// Notes state which attempts were left out.
	Notes []string `json:"notes,omitempty"`
}

// Measure computes every measure that the items allow, per task and as the mean over tasks. Its errors are those
// of [srpo.Cluster].
func Measure(items []Item, opt MeasureOptions) (Measured, error) {
	out := Measured{Mean: Measures{}, Tasks: map[string]Measures{}}
	if opt.Bootstrap <= 0 {
		opt.Bootstrap = 1000
	}
	byTask := map[string][]Item{}
	for _, it := range items {
		byTask[it.Task] = append(byTask[it.Task], it)
	}
	names := make([]string, 0, len(byTask))
	for name := range byTask {
		names = append(names, name)
	}
	sort.Strings(names)

	curves := map[string]Curve{}
	var tasks []*task
	for _, name := range names {
		t := newTask(name, byTask[name])
		t.others = successesOfOthers(byTask, names, name)
		out.Notes = append(out.Notes, t.thin()...)
		if err := t.measure(opt, curves); err != nil {
			return out, fmt.Errorf("task %q: %w", name, err)
		}
		tasks = append(tasks, t)
	}
	out.estimate(tasks, opt)
	for _, it := range items {
		if c, ok := curves[it.ID]; ok {
			out.Curves = append(out.Curves, c)
		}
	}
	return out, nil
}

// successesOfOthers returns the successes of all tasks but one, at most maxMeasured.
func successesOfOthers(byTask map[string][]Item, names []string, except string) []Item {
	var out []Item
	for _, name := range names {
		for _, it := range byTask[name] {
			if name != except && it.Success != nil && *it.Success {
				out = append(out, it)
			}
		}
	}
	return evenly(out, maxMeasured)
}

// evenly returns n evenly spaced elements of a list, or the list if it is not longer than n.
func evenly[T any](list []T, n int) []T {
	if len(list) <= n {
		return list
	}
	out := make([]T, n)
	for i := range out {
		out[i] = list[i*len(list)/n]
	}
	return out
}
