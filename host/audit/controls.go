package audit

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/floats"
)

// addControls adds the measures with a known answer: scores that must not separate successes from failures
// (length, random vectors, time), and changed successes that a good reward must tell from the originals.
func (t *task) addControls(held *heldOut, opt MeasureOptions) error {
	t.addLengthControl()
	if err := t.addRandomControl(opt); err != nil {
		return fmt.Errorf("random vectors: %w", err)
	}
	t.addTimeControl()
	if held == nil {
		return nil
	}
	t.addChangedControl("reversed_auroc", held, func(it Item) []float64 { return it.Reversed })
	t.addChangedControl("stalled_auroc", held, func(it Item) []float64 { return it.Stalled })
	t.addOtherTaskControl(held)
	return nil
}

// addLengthControl scores attempts by the length of their clips alone, if all lengths are known.
func (t *task) addLengthControl() {
	if len(t.successes) == 0 || len(t.failures) == 0 {
		return
	}
	for _, list := range [][]Item{t.successes, t.failures} {
		for _, it := range list {
			if it.Frames <= 0 {
				return
			}
		}
	}
	wins := make([][]float64, len(t.successes))
	for i, a := range t.successes {
		for _, b := range t.failures {
			wins[i] = append(wins[i], win(float64(a.Frames), float64(b.Frames)))
		}
	}
	t.addSeparation("length_auroc", wins)
}

// addRandomControl replaces all embeddings by random vectors.
func (t *task) addRandomControl(opt MeasureOptions) error {
	whole := func(items []Item) [][]float64 {
		out := make([][]float64, len(items))
		for i, it := range items {
			v := randomWindows(it, opt.Seed)
			out[i] = v[len(v)-1]
		}
		return out
	}
	held, err := holdOut(whole(t.successes), whole(t.failures), opt.Cluster)
	if err != nil {
		return err
	}
	if held != nil && len(t.failures) > 0 {
		t.addSeparation("random_auroc", held.wins())
	}
	curves := make([]Curve, len(t.successes))
	for i, it := range t.successes {
		curves[i].Progress = Progress(toOwnEnd(randomWindows(it, opt.Seed)))
	}
	t.addMean("random_sc", each(curves, progressOf, SC), false)
	t.addMean("random_mono", each(curves, progressOf, Mono), false)
	return nil
}

// randomWindows draws a standard normal vector per window of an attempt, from the seed and the attempt's ID.
func randomWindows(it Item, seed uint64) [][]float64 {
	h := fnv.New64a()
	h.Write([]byte(it.ID))
	rng := rand.New(rand.NewPCG(seed, h.Sum64()))
	out := make([][]float64, windows(it))
	for i := range out {
		out[i] = make([]float64, len(it.Embedding))
		for j := range out[i] {
			out[i][j] = rng.NormFloat64()
		}
	}
	return out
}

// windows returns the number of an attempt's windows; 1, the whole clip, without a curve.
func windows(it Item) int {
	if hasCurve(it) {
		return len(it.Windows)
	}
	return 1
}

// addTimeControl replaces all progress curves by t/T. The rank measures get t, which has the same order.
func (t *task) addTimeControl() {
	curves := make([]Curve, len(t.successes))
	for i, it := range t.successes {
		curves[i].Progress = index(windows(it))
	}
	t.addMean("time_sc", each(curves, progressOf, SC), false)
	t.addMean("time_mono", each(curves, progressOf, Mono), false)
	if len(t.successes) == 0 || len(t.failures) == 0 || windows(t.successes[0]) < 2 {
		return
	}
	wins := make([][]float64, len(t.successes))
	for i := range wins {
		wins[i] = make([]float64, len(t.failures))
		for j := range wins[i] {
			wins[i][j] = 0.5 // the final t/T is 1 on both sides
		}
	}
	t.addSeparation("time_auroc", wins)
}

// addChangedControl compares successes with changed successes. Each changed success is measured against centres
// that were computed without the original.
func (t *task) addChangedControl(name string, held *heldOut, changed func(Item) []float64) {
	var usable []int
	for i, it := range t.successes {
		if v := changed(it); len(v) == len(it.Embedding) && len(v) > 0 && !floats.HasNaN(v) {
			usable = append(usable, i)
		}
	}
	if len(usable) < 2 {
		return
	}
	// wins[i][j] compares success i with changed success j; NaN if one of them is not usable.
	wins := make([][]float64, len(t.successes))
	for i := range wins {
		wins[i] = make([]float64, len(t.successes))
		for j := range wins[i] {
			wins[i][j] = math.NaN()
		}
	}
	for _, j := range usable {
		d := nearest(held.centres[held.fold[j]], changed(t.successes[j]))
		for _, i := range usable {
			wins[i][j] = win(held.own[i], d)
		}
	}
	t.addAUROC(name, len(usable), len(usable), func(s, _ []int) (float64, bool) {
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

// addOtherTaskControl compares successes with those of other tasks.
func (t *task) addOtherTaskControl(held *heldOut) {
	if len(t.others) == 0 || len(t.others[0].Embedding) != len(t.successes[0].Embedding) {
		return
	}
	share := make([]float64, len(t.successes)) // of other tasks' successes that are farther away
	for i := range t.successes {
		for _, o := range t.others {
			share[i] += win(held.own[i], nearest(held.centres[held.fold[i]], o.Embedding)) / float64(len(t.others))
		}
	}
	t.addAUROC("other_auroc", len(t.successes), len(t.others),
		func(s, _ []int) (float64, bool) { return meanAt(share, s) })
}
