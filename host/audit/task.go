package audit

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat"

	"github.com/srpo-dev/srpo/host/srpo"
)

// statistic computes one measure from a resample of a task's attempts, given by indices into its successes and
// its failures. ok is false if the resample does not allow the measure.
type statistic struct {
	name string
	// attempts is the number of attempts that take part, fewest that of the rarer label if there are two.
	attempts, fewest int
	// compared are the numbers of attempts on both sides of an AUROC; 0 for other measures.
	compared [2]int
	value    func(successes, failures []int) (v float64, ok bool)
}

// task is one task's attempts by label, and the statistics that they allow.
type task struct {
	name                            string
	successes, failures, unlabelled []Item
	// others are successes of other tasks.
	others     []Item
	statistics []statistic
}

func newTask(name string, items []Item) *task {
	t := &task{name: name}
	for _, it := range items {
		switch {
		case it.Success == nil:
			t.unlabelled = append(t.unlabelled, it)
		case *it.Success:
			t.successes = append(t.successes, it)
		default:
			t.failures = append(t.failures, it)
		}
	}
	return t
}

// thin limits successes and failures to maxMeasured each and returns a note for each list that it shortened.
func (t *task) thin() (notes []string) {
	for _, list := range []*[]Item{&t.successes, &t.failures} {
		if n := len(*list); n > maxMeasured {
			notes = append(notes, fmt.Sprintf("%s: %d of %d attempts with the same label are measured, evenly spaced",
				t.name, maxMeasured, n))
			*list = evenly(*list, maxMeasured)
		}
	}
	return notes
}

func (t *task) add(name string, attempts int, value func(successes, failures []int) (float64, bool)) {
	t.statistics = append(t.statistics, statistic{name: name, attempts: attempts, fewest: attempts, value: value})
}

// addCompared adds a measure that compares m attempts with n others.
func (t *task) addCompared(name string, m, n int, value func(successes, failures []int) (float64, bool)) {
	t.statistics = append(t.statistics, statistic{name: name, attempts: m + n, fewest: min(m, n), value: value})
}

// addAUROC adds an AUROC of m attempts and n others.
func (t *task) addAUROC(name string, m, n int, value func(successes, failures []int) (float64, bool)) {
	t.addCompared(name, m, n, value)
	t.statistics[len(t.statistics)-1].compared = [2]int{m, n}
}

// measure adds all statistics of the task, and its progress curves to curves by the attempts' IDs.
func (t *task) measure(opt MeasureOptions, curves map[string]Curve) error {
	held, err := holdOut(embeddings(t.successes), embeddings(t.failures), opt.Cluster)
	if err != nil {
		return err
	}
	var centres srpo.Clustering // of all successes
	if len(t.successes) > 0 {
		if centres, err = srpo.Cluster(embeddings(t.successes), opt.Cluster); err != nil {
			return err
		}
	}
	ofSuccesses := t.successCurves(held, curves)
	ofFailures := t.failureCurves(centres, curves)
	t.addCurveMeasures(ofSuccesses, ofFailures)
	t.addFinalProgress(finalProgress(ofSuccesses), finalProgress(ofFailures))
	if held != nil && len(t.failures) > 0 {
		t.addSeparation("auroc", held.wins())
	}
	if len(centres.Centres) > 0 {
		t.addGivenProgress(centres)
	}
	return t.addControls(held, opt)
}

// successCurves returns the curves of the successes by index; the zero Curve without windows.
func (t *task) successCurves(held *heldOut, all map[string]Curve) []Curve {
	out := make([]Curve, len(t.successes))
	for i, it := range t.successes {
		if !hasCurve(it) {
			continue
		}
		c := successCurve(it)
		if held != nil {
			c.Nearness = nearness(it.Windows, held.centres[held.fold[i]])
		}
		out[i], all[it.ID] = c, c
	}
	return out
}

// failureCurves returns the curves of the failures by index; the zero Curve without windows or without centres.
// It adds those of attempts without a label to all.
func (t *task) failureCurves(centres srpo.Clustering, all map[string]Curve) []Curve {
	out := make([]Curve, len(t.failures))
	if len(centres.Centres) == 0 {
		return out
	}
	for i, it := range append(slices.Clone(t.failures), t.unlabelled...) {
		if !hasCurve(it) {
			continue
		}
		c := failureCurve(it, centres)
		if all[it.ID] = c; i < len(out) {
			out[i] = c
		}
	}
	return out
}

func (t *task) addCurveMeasures(ofSuccesses, ofFailures []Curve) {
	t.addMean("sc", each(ofSuccesses, progressOf, SC), false)
	t.addMean("mono", each(ofSuccesses, progressOf, Mono), false)
	t.addMean("voc", each(ofSuccesses, nearnessOf, SC), false)
	t.addMean("order", each(ofSuccesses, nearnessOf, OrderAccuracy), false)
	t.addMean("failure_voc", each(ofFailures, nearnessOf, SC), true)
}

func progressOf(c Curve) []float64 { return c.Progress }
func nearnessOf(c Curve) []float64 { return c.Nearness }

// each applies a measure to one part of each curve; NaN where the measure is not defined.
func each(curves []Curve, part func(Curve) []float64, measure func([]float64) (float64, bool)) []float64 {
	out := make([]float64, len(curves))
	for i, c := range curves {
		v, ok := measure(part(c))
		if !ok {
			v = math.NaN()
		}
		out[i] = v
	}
	return out
}

// addMean adds the mean of one value per success, or per failure. NaN marks a missing value.
func (t *task) addMean(name string, values []float64, ofFailures bool) {
	n := len(present(values))
	if n == 0 {
		return
	}
	t.add(name, n, func(s, f []int) (float64, bool) {
		if ofFailures {
			s = f
		}
		return meanAt(values, s)
	})
}

// addFinalProgress adds the measures that compare the final progress of successes and failures. NaN marks an
// attempt without a curve.
func (t *task) addFinalProgress(ofSuccesses, ofFailures []float64) {
	x, y := present(ofSuccesses), present(ofFailures)
	if len(x) == 0 || len(y) == 0 {
		return
	}
	k := newKernel(append(zeroNaN(ofSuccesses), zeroNaN(ofFailures)...), Bandwidth(x, y))
	t.addCompared("mmd", len(x), len(y), func(s, f []int) (float64, bool) {
		a, b := withValue(ofSuccesses, s), withValue(ofFailures, f)
		if len(a) == 0 || len(b) == 0 {
			return 0, false
		}
		for i := range b {
			b[i] += len(ofSuccesses)
		}
		return k.mmd(a, b), true
	})
	compare := func(name string, measure func(x, y []float64) (float64, bool)) {
		t.addCompared(name, len(x), len(y), func(s, f []int) (float64, bool) {
			return measure(at(ofSuccesses, withValue(ofSuccesses, s)), at(ofFailures, withValue(ofFailures, f)))
		})
	}
	compare("js", JS)
	compare("smd", SMD)
}

// addSeparation adds the mean of wins[i][j] over successes i and failures j, an AUROC.
func (t *task) addSeparation(name string, wins [][]float64) {
	t.addAUROC(name, len(t.successes), len(t.failures), func(s, f []int) (float64, bool) {
		sum := 0.0
		for _, i := range s {
			for _, j := range f {
				sum += wins[i][j]
			}
		}
		return sum / float64(len(s)*len(f)), len(s) > 0 && len(f) > 0
	})
}

// addGivenProgress adds the measures that compare closeness to the centres with the given progress of failures.
func (t *task) addGivenProgress(centres srpo.Clustering) {
	near, given := make([]float64, len(t.failures)), make([]float64, len(t.failures))
	for i, it := range t.failures {
		near[i], given[i] = -nearest(centres, it.Embedding), math.NaN()
		if it.Progress != nil {
			given[i] = *it.Progress
		}
	}
	n := len(present(given))
	if n < 2 {
		return
	}
	compare := func(name string, measure func(x, y []float64) (float64, bool)) {
		t.add(name, n, func(_, f []int) (float64, bool) {
			f = withValue(given, f)
			return measure(at(near, f), at(given, f))
		})
	}
	compare("progress_rank", srpo.Spearman)
	compare("progress_order", srpo.PairOrder)
}

func embeddings(items []Item) [][]float64 {
	out := make([][]float64, len(items))
	for i, it := range items {
		out[i] = it.Embedding
	}
	return out
}

// hasCurve reports whether an item has at least two windows, all of them usable.
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

// finalProgress returns the last value of each progress curve; NaN without a curve.
func finalProgress(curves []Curve) []float64 {
	out := make([]float64, len(curves))
	for i, c := range curves {
		if out[i] = math.NaN(); len(c.Progress) > 0 {
			out[i] = c.Progress[len(c.Progress)-1]
		}
	}
	return out
}

// present returns the values that are not NaN.
func present(x []float64) []float64 {
	var out []float64
	for _, v := range x {
		if !math.IsNaN(v) {
			out = append(out, v)
		}
	}
	return out
}

// zeroNaN returns x with 0 in the place of NaN.
func zeroNaN(x []float64) []float64 {
	out := slices.Clone(x)
	for i, v := range out {
		if math.IsNaN(v) {
			out[i] = 0
		}
	}
	return out
}

// withValue returns the indices whose value is not NaN.
func withValue(x []float64, indices []int) []int {
	out := make([]int, 0, len(indices))
	for _, i := range indices {
		if !math.IsNaN(x[i]) {
			out = append(out, i)
		}
	}
	return out
}

func at(x []float64, indices []int) []float64 {
	out := make([]float64, len(indices))
	for k, i := range indices {
		out[k] = x[i]
	}
	return out
}

// meanAt returns the mean of the values at the indices, without NaN. ok is false if no value is left.
func meanAt(x []float64, indices []int) (mean float64, ok bool) {
	v := at(x, withValue(x, indices))
	if len(v) == 0 {
		return 0, false
	}
	return stat.Mean(v, nil), true
}
