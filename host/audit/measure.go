package audit

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"sort"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat"

	"github.com/srpo-dev/srpo/host/srpo"
)

// Item is an attempt as [Measure] sees it. Its embeddings must be usable: finite, of one size.
type Item struct {
	ID, Task string
	// Success nil: no label; such an attempt is in no measure.
	Success  *bool
	Progress *float64
	// Frames of the clip; 0: not known.
	Frames    int
	Embedding []float64
	// Windows[k] embeds the clip's first Ends[k] frames, ends growing, the last one the whole clip; nil: no
	// curve.
	Ends    []int
	Windows [][]float64
	// Reversed embeds the clip backwards, Stalled its first half with that half's last frame held to the
	// end; nil: not made.
	Reversed, Stalled []float64
}

// MeasureOptions are the settings of [Measure].
type MeasureOptions struct {
	Cluster srpo.ClusterOptions
	// Seed of bootstrap and random vectors; Bootstrap is the number of resamples, 0: 1000.
	Seed      uint64
	Bootstrap int
}

// mostMeasured bounds the successes and the failures of a task that are measured; of more, so many evenly
// spaced ones.
const mostMeasured = 300

// Value is a measured number with its bootstrap interval.
type Value struct {
	Value float64 `json:"value"`
	// Low and High bound the middle 95 % of the resamples (percentile bootstrap over attempts, within each
	// task).
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Attempts took part, of Tasks tasks; the value is the mean over tasks.
	Attempts int `json:"attempts"`
	Tasks    int `json:"tasks"`
}

// Measures are what [Measure] found, by the names of [Names]; a measure that could not be taken is missing.
type Measures map[string]Value

// Name says what a measure is.
type Name struct {
	Key   string `json:"key"`
	Title string `json:"title"`
	Doc   string `json:"doc"`
	// Control groups the rows of the controls.
	Control bool `json:"control,omitempty"`
	// Blind is the value of a reward that sees nothing; NaN where there is none.
	Blind float64 `json:"-"`
}

// Names are all measures, in the order in which they are shown.
var Names = []Name{
	{"sc", "SC", "rank correlation of frame index and progress, successes against their own video's end", false,
		math.NaN()},
	{"mono", "Mono", "share of steps with more progress than before, the same curves", false, math.NaN()},
	{"mmd", "MMD", "maximum mean discrepancy of the last progress, successes and failures; RBF kernel, sigma the " +
		"median distance, biased, root taken", false, 0},
	{"js", "JS", fmt.Sprintf("Jensen-Shannon divergence of the last progress in nats, %d equal bins from 0 to 1, at "+
		"most 0.693", Bins), false, 0},
	{"smd", "SMD", "difference of the mean last progress, success less failure, in pooled standard deviations",
		false, 0},
	{"auroc", "AUROC", "chance that a success lies nearer to the centres than a failure, centres held out", false,
		0.5},
	{"voc", "VOC", "rank correlation of frame index and nearness to the centres, successes, centres held out",
		false, 0},
	{"order", "order accuracy", "share of pairs of moments of a success in the right order, centres held out",
		false, 0.5},
	{"failure_voc", "VOC of failures", "the same of failures: how far they too come nearer", false, 0},
	{"progress_rank", "rank with progress", "rank correlation of nearness and the given progress, among failures",
		false, 0},
	{"progress_order", "order with progress", "share of pairs of failures that nearness and the given progress " +
		"order alike", false, 0.5},
	{"length_auroc", "length alone: AUROC", "shorter is better and nothing else; 0.5 on clips of equal length",
		true, 0.5},
	{"random_auroc", "random vectors: AUROC", "embeddings that know nothing; near 0.5", true, 0.5},
	{"random_sc", "random vectors: SC", "curves of windows that know nothing", true, 0},
	{"random_mono", "random vectors: Mono", "curves of windows that know nothing", true, 0.5},
	{"time_auroc", "time only: AUROC", "progress t/T by its last value; 0.5 by construction", true, 0.5},
	{"time_sc", "time only: SC", "progress t/T; 1 by construction, so SC alone proves nothing", true, 1},
	{"time_mono", "time only: Mono", "progress t/T; 1 by construction, so Mono alone proves nothing", true, 1},
	{"reversed_auroc", "reversed: told apart", "chance that a success lies nearer than a success played backwards; " +
		"0.5: the reward cannot tell", true, 0.5},
	{"stalled_auroc", "stalled: told apart", "chance that a success lies nearer than a success stopped half way; " +
		"0.5: the reward cannot tell", true, 0.5},
	{"other_auroc", "other task: told apart", "chance that a success lies nearer than a success of another task; " +
		"0.5: the reward cannot tell", true, 0.5},
}

// Definitions are what the measures mean, by their names.
func Definitions() map[string]string {
	out := map[string]string{}
	for _, n := range Names {
		out[n.Key] = n.Doc
	}
	return out
}

// Curve is an attempt's progress over growing windows.
type Curve struct {
	ID      string `json:"id"`
	Task    string `json:"task"`
	Success *bool  `json:"success"`
	// Ends are the windows' lengths in frames; Progress the paper's curve, 0 to 1; Nearness minus the
	// distance to the centres, held out for a success.
	Ends     []int     `json:"ends"`
	Progress []float64 `json:"progress"`
	Nearness []float64 `json:"nearness"`
}

// Measured is the outcome of [Measure].
type Measured struct {
	// Mean is over tasks; Tasks has those of each.
	Mean  Measures            `json:"mean"`
	Tasks map[string]Measures `json:"tasks"`
	// Curves of every attempt that has windows, labelled or not, in the order of the input.
	Curves []Curve `json:"-"`
	// Notes say what was left out.
	Notes []string `json:"notes,omitempty"`
}

// statistic is a number of one task's successes and failures, given by index; ok is false where it cannot
// be had.
type statistic struct {
	name string
	n    int
	at   func(s, f []int) (float64, bool)
}

// side is a task's attempts with one label.
type side struct {
	items []Item
}

func (s side) embeddings() [][]float64 {
	out := make([][]float64, len(s.items))
	for i, it := range s.items {
		out[i] = it.Embedding
	}
	return out
}

// Measure takes every measure that the items allow, task by task and on average.
func Measure(items []Item, opt MeasureOptions) (Measured, error) {
	out := Measured{Mean: Measures{}, Tasks: map[string]Measures{}}
	if opt.Bootstrap <= 0 {
		opt.Bootstrap = 1000
	}
	byTask := map[string][]Item{}
	var tasks []string
	for _, it := range items {
		if byTask[it.Task] == nil {
			tasks = append(tasks, it.Task)
		}
		byTask[it.Task] = append(byTask[it.Task], it)
	}
	sort.Strings(tasks)
	curves := map[string]Curve{}
	var each []taskStatistics
	for _, task := range tasks {
		var s, f, unknown side
		for _, it := range byTask[task] {
			switch {
			case it.Success == nil:
				unknown.items = append(unknown.items, it)
			case *it.Success:
				s.items = append(s.items, it)
			default:
				f.items = append(f.items, it)
			}
		}
		for _, x := range []*side{&s, &f} {
			if n := len(x.items); n > mostMeasured {
				out.Notes = append(out.Notes, fmt.Sprintf("%s: %d of %d attempts with one label are measured, "+
					"evenly spaced", task, mostMeasured, n))
				x.items = spread(x.items, mostMeasured)
			}
		}
		ts, err := measureTask(task, s, f, unknown, others(byTask, tasks, task), opt, curves)
		if err != nil {
			return out, err
		}
		each = append(each, ts)
	}
	out.estimate(tasks, each, opt)
	for _, it := range items {
		if c, ok := curves[it.ID]; ok {
			out.Curves = append(out.Curves, c)
		}
	}
	return out, nil
}

// spread takes n of a list, evenly.
func spread[T any](list []T, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = list[i*len(list)/n]
	}
	return out
}

// others are the successes of all other tasks, at most as many as are measured of one.
func others(byTask map[string][]Item, tasks []string, task string) (out []Item) {
	for _, t := range tasks {
		for _, it := range byTask[t] {
			if t != task && it.Success != nil && *it.Success {
				out = append(out, it)
			}
		}
	}
	if len(out) > mostMeasured {
		out = spread(out, mostMeasured)
	}
	return out
}

type taskStatistics struct {
	successes, failures int
	list                []statistic
}

func measureTask(task string, s, f, unknown side, other []Item, opt MeasureOptions,
	curves map[string]Curve) (taskStatistics, error) {
	ts := taskStatistics{successes: len(s.items), failures: len(f.items)}
	add := func(name string, n int, at func(s, f []int) (float64, bool)) {
		ts.list = append(ts.list, statistic{name, n, at})
	}
	held, err := holdOut(s.embeddings(), f.embeddings(), opt.Cluster)
	if err != nil {
		return ts, fmt.Errorf("task %q: %w", task, err)
	}
	var all srpo.Clustering
	if len(s.items) > 0 {
		if all, err = srpo.Cluster(s.embeddings(), opt.Cluster); err != nil {
			return ts, fmt.Errorf("task %q: %w", task, err)
		}
	}

	// Progress curves.
	sCurves, fCurves := make([]Curve, len(s.items)), make([]Curve, len(f.items))
	for i, it := range s.items {
		if !hasCurve(it) {
			continue
		}
		c := successCurve(it)
		if held != nil {
			c.Nearness = nearness(it.Windows, held.centres[held.fold[i]])
		}
		sCurves[i], curves[it.ID] = c, c
	}
	if len(all.Centres) > 0 {
		for i, it := range append(slices.Clone(f.items), unknown.items...) {
			if !hasCurve(it) {
				continue
			}
			c := failureCurve(it, all)
			if curves[it.ID] = c; i < len(f.items) {
				fCurves[i] = c
			}
		}
	}
	onCurves := func(name string, of []Curve, failures bool, pick func(Curve) []float64,
		measure func([]float64) (float64, bool)) {
		values := make([]float64, len(of))
		n := 0
		for i, c := range of {
			values[i] = math.NaN()
			if v, ok := measure(pick(c)); ok {
				values[i] = v
				n++
			}
		}
		if n > 0 {
			add(name, n, func(s, f []int) (float64, bool) {
				if failures {
					s = f
				}
				return meanAt(values, s)
			})
		}
	}
	progress := func(c Curve) []float64 { return c.Progress }
	near := func(c Curve) []float64 { return c.Nearness }
	onCurves("sc", sCurves, false, progress, SC)
	onCurves("mono", sCurves, false, progress, Mono)
	onCurves("voc", sCurves, false, near, SC)
	onCurves("order", sCurves, false, near, OrderAccuracy)
	onCurves("failure_voc", fCurves, true, near, SC)

	// Last progress, successes against failures.
	sLast, fLast := lasts(sCurves), lasts(fCurves)
	if x, y := present(sLast), present(fLast); len(x) > 0 && len(y) > 0 {
		k := newKernel(append(zeroed(sLast), zeroed(fLast)...), Bandwidth(x, y))
		n := len(x) + len(y)
		add("mmd", n, func(s, f []int) (float64, bool) {
			a, b := keep(sLast, s), keep(fLast, f)
			if len(a) == 0 || len(b) == 0 {
				return 0, false
			}
			for i := range b {
				b[i] += len(sLast)
			}
			return k.mmd(a, b), true
		})
		add("js", n, func(s, f []int) (float64, bool) {
			return JS(at(sLast, keep(sLast, s)),
				at(fLast, keep(fLast, f)))
		})
		add("smd", n, func(s, f []int) (float64, bool) {
			return SMD(at(sLast, keep(sLast, s)),
				at(fLast, keep(fLast, f)))
		})
	}

	// Held-out centres.
	separates := func(name string, wins [][]float64, n int, shared bool) {
		add(name, n, func(s, f []int) (float64, bool) {
			if shared { // both sides are successes: one resample serves both
				f = s
			}
			sum := 0.0
			for _, i := range s {
				for _, j := range f {
					sum += wins[i][j]
				}
			}
			return sum / float64(len(s)*len(f)), len(s) > 0 && len(f) > 0
		})
	}
	both := len(s.items) + len(f.items)
	if held != nil && len(f.items) > 0 {
		separates("auroc", held.wins(), both, false)
	}
	if len(all.Centres) > 0 {
		var nearF, prog []float64
		for _, it := range f.items {
			p := math.NaN()
			if it.Progress != nil {
				p = *it.Progress
			}
			nearF, prog = append(nearF, -nearest(all, it.Embedding)), append(prog, p)
		}
		if n := len(present(prog)); n > 1 {
			add("progress_rank", n, func(_, f []int) (float64, bool) {
				f = keep(prog, f)
				return srpo.Spearman(at(nearF, f), at(prog, f))
			})
			add("progress_order", n, func(_, f []int) (float64, bool) {
				f = keep(prog, f)
				return srpo.PairOrder(at(nearF, f), at(prog, f))
			})
		}
	}
	return ts, controls(task, s, f, other, held, opt, add, separates, onCurves)
}

// controls adds what a good reward must see through.
func controls(task string, s, f side, other []Item, held *heldOut, opt MeasureOptions,
	add func(string, int, func(s, f []int) (float64, bool)),
	separates func(string, [][]float64, int, bool), onCurves func(string, []Curve, bool, func(Curve) []float64,
		func([]float64) (float64, bool))) error {
	known := len(s.items) > 0 && len(f.items) > 0
	for _, it := range append(slices.Clone(s.items), f.items...) {
		known = known && it.Frames > 0
	}
	both := len(s.items) + len(f.items)
	if known {
		wins := make([][]float64, len(s.items))
		for i, a := range s.items {
			for _, b := range f.items {
				wins[i] = append(wins[i], win(float64(a.Frames), float64(b.Frames)))
			}
		}
		separates("length_auroc", wins, both, false)
	}

	// Random vectors in the place of all embeddings, time in the place of all curves.
	draw := func(it Item, n int) [][]float64 {
		h := fnv.New64a()
		h.Write([]byte(it.ID))
		rng := rand.New(rand.NewPCG(opt.Seed, h.Sum64()))
		out := make([][]float64, n)
		for i := range out {
			out[i] = make([]float64, len(it.Embedding))
			for j := range out[i] {
				out[i][j] = rng.NormFloat64()
			}
		}
		return out
	}
	noise := func(x side) (whole [][]float64, curves, clock []Curve) {
		for _, it := range x.items {
			n := 1
			if hasCurve(it) {
				n = len(it.Windows)
			}
			v := draw(it, n)
			whole = append(whole, v[n-1])
			curves, clock = append(curves, Curve{Progress: Progress(toOwnEnd(v))}),
				append(clock, Curve{Progress: index(n)})
		}
		return whole, curves, clock
	}
	sNoise, sCurves, sClock := noise(s)
	fNoise, _, fClock := noise(f)
	blind, err := holdOut(sNoise, fNoise, opt.Cluster)
	if err != nil {
		return fmt.Errorf("task %q, random vectors: %w", task, err)
	}
	if blind != nil && len(fNoise) > 0 {
		separates("random_auroc", blind.wins(), both, false)
	}
	pick := func(c Curve) []float64 { return c.Progress }
	onCurves("random_sc", sCurves, false, pick, SC)
	onCurves("random_mono", sCurves, false, pick, Mono)
	onCurves("time_sc", sClock, false, pick, SC)
	onCurves("time_mono", sClock, false, pick, Mono)
	if len(sClock) > 0 && len(fClock) > 0 && len(sClock[0].Progress) > 1 {
		wins := make([][]float64, len(sClock)) // the last t/T is 1 for all
		for i := range wins {
			wins[i] = make([]float64, len(fClock))
			for j := range wins[i] {
				wins[i][j] = 0.5
			}
		}
		separates("time_auroc", wins, both, false)
	}
	if held == nil {
		return nil
	}

	// Successes, changed: each is measured against centres that know neither it nor what it is compared with.
	changed := func(name string, pick func(Item) []float64) {
		var have []int
		for i, it := range s.items {
			if v := pick(it); len(v) == len(it.Embedding) && len(v) > 0 && !floats.HasNaN(v) {
				have = append(have, i)
			}
		}
		if len(have) < 2 {
			return
		}
		wins := make([][]float64, len(s.items))
		for i := range wins {
			wins[i] = make([]float64, len(s.items))
			for j := range wins[i] {
				wins[i][j] = math.NaN()
			}
		}
		for _, j := range have {
			d := nearest(held.centres[held.fold[j]], pick(s.items[j]))
			for _, i := range have {
				wins[i][j] = win(held.own[i], d)
			}
		}
		add(name, 2*len(have), func(s, _ []int) (float64, bool) {
			sum, n := 0.0, 0
			for _, i := range s {
				for _, j := range s {
					if w := wins[i][j]; !math.IsNaN(w) {
						sum += w
						n++
					}
				}
			}
			return sum / float64(max(n, 1)), n > 0
		})
	}
	changed("reversed_auroc", func(it Item) []float64 { return it.Reversed })
	changed("stalled_auroc", func(it Item) []float64 { return it.Stalled })
	if len(other) > 0 && len(other[0].Embedding) == len(s.items[0].Embedding) {
		share := make([]float64, len(s.items)) // the share of other tasks' successes that success i is nearer than
		for i := range s.items {
			for _, o := range other {
				share[i] += win(held.own[i], nearest(held.centres[held.fold[i]], o.Embedding)) / float64(len(other))
			}
		}
		add("other_auroc", len(s.items)+len(other), func(s, _ []int) (float64, bool) { return meanAt(share, s) })
	}
	return nil
}

// estimate takes the point values and the bootstrap: attempts are drawn with replacement within each task
// and label, and every statistic of a task is taken on the same draw.
func (m *Measured) estimate(tasks []string, each []taskStatistics, opt MeasureOptions) {
	points := make([]map[string]float64, len(each))
	for t, ts := range each {
		points[t] = map[string]float64{}
		m.Tasks[tasks[t]] = Measures{}
		s, f := span(0, ts.successes), span(0, ts.failures)
		for _, st := range ts.list {
			if v, ok := st.at(s, f); ok && !math.IsNaN(v) {
				points[t][st.name] = v
			}
		}
	}
	// resampled[t][name] has one value a resample, NaN where a draw gave none
	resampled := make([]map[string][]float64, len(each))
	for t, ts := range each {
		resampled[t] = map[string][]float64{}
		h := fnv.New64a()
		h.Write([]byte(tasks[t]))
		rng := rand.New(rand.NewPCG(opt.Seed, h.Sum64()))
		s, f := make([]int, ts.successes), make([]int, ts.failures)
		for range opt.Bootstrap {
			for i := range s {
				s[i] = rng.IntN(len(s))
			}
			for i := range f {
				f[i] = rng.IntN(len(f))
			}
			for _, st := range ts.list {
				v, ok := st.at(s, f)
				if !ok {
					v = math.NaN()
				}
				resampled[t][st.name] = append(resampled[t][st.name], v)
			}
		}
	}
	for _, name := range Names {
		var mean []float64
		boot := make([][]float64, opt.Bootstrap)
		attempts := 0
		for t, ts := range each {
			point, ok := points[t][name.Key]
			if !ok {
				continue
			}
			n := 0
			for _, st := range ts.list {
				if st.name == name.Key {
					n = st.n
				}
			}
			attempts += n
			mean = append(mean, point)
			m.Tasks[tasks[t]][name.Key] = interval(point, resampled[t][name.Key], n, 1)
			for b, v := range resampled[t][name.Key] {
				boot[b] = append(boot[b], v)
			}
		}
		if len(mean) == 0 {
			continue
		}
		over := make([]float64, len(boot))
		for b, v := range boot {
			over[b] = stat.Mean(v, nil)
		}
		m.Mean[name.Key] = interval(stat.Mean(mean, nil), over, attempts, len(mean))
	}
}

// interval is the middle 95 % of the resamples; where there are none, the value itself.
func interval(point float64, resamples []float64, attempts, tasks int) Value {
	v := Value{Value: point, Low: point, High: point, Attempts: attempts, Tasks: tasks}
	x := present(resamples)
	if len(x) == 0 {
		return v
	}
	sort.Float64s(x)
	v.Low, v.High = stat.Quantile(0.025, stat.LinInterp, x, nil), stat.Quantile(0.975, stat.LinInterp, x, nil)
	return v
}

// hasCurve says whether an item has windows that can all be used.
func hasCurve(it Item) bool {
	if len(it.Windows) < 2 {
		return false
	}
	for _, w := range it.Windows {
		if len(w) != len(it.Embedding) || floats.HasNaN(w) || math.IsInf(floats.Norm(w, math.Inf(1)), 0) {
			return false
		}
	}
	return true
}

// toOwnEnd are the distances of windows to the last one.
func toOwnEnd(windows [][]float64) []float64 {
	d := make([]float64, len(windows))
	for i, w := range windows {
		d[i] = floats.Distance(w, windows[len(windows)-1], 2)
	}
	return d
}

func nearness(windows [][]float64, c srpo.Clustering) []float64 {
	out := make([]float64, len(windows))
	for i, w := range windows {
		out[i] = -nearest(c, w)
	}
	return out
}

// lasts are the last values of the progress curves, NaN where there is none.
func lasts(curves []Curve) []float64 {
	out := make([]float64, len(curves))
	for i, c := range curves {
		if out[i] = math.NaN(); len(c.Progress) > 0 {
			out[i] = c.Progress[len(c.Progress)-1]
		}
	}
	return out
}

func present(x []float64) []float64 {
	var out []float64
	for _, v := range x {
		if !math.IsNaN(v) {
			out = append(out, v)
		}
	}
	return out
}

func zeroed(x []float64) []float64 {
	out := slices.Clone(x)
	for i, v := range out {
		if math.IsNaN(v) {
			out[i] = 0
		}
	}
	return out
}

// keep leaves out the indices whose value is NaN.
func keep(x []float64, at []int) []int {
	out := make([]int, 0, len(at))
	for _, i := range at {
		if !math.IsNaN(x[i]) {
			out = append(out, i)
		}
	}
	return out
}

func at(x []float64, index []int) []float64 {
	out := make([]float64, len(index))
	for k, i := range index {
		out[k] = x[i]
	}
	return out
}

// meanAt is the mean of those that are there.
func meanAt(x []float64, index []int) (float64, bool) {
	v := at(x, keep(x, index))
	if len(v) == 0 {
		return 0, false
	}
	return stat.Mean(v, nil), true
}
