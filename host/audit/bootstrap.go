package audit

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"sort"

	"gonum.org/v1/gonum/stat"

	"github.com/srpo-dev/srpo/host/stats"
)

// estimate computes the values of all measures and their bootstrap intervals, for each task and for the mean over
// tasks.
func (m *Measured) estimate(tasks []*task, opt MeasureOptions) {
	points, resamples := make([]map[string]float64, len(tasks)), make([]map[string][]float64, len(tasks))
	for i, t := range tasks {
		points[i], resamples[i] = t.points(), t.bootstrap(opt)
		m.Tasks[t.name] = Measures{}
	}
	for _, name := range Names {
		var values []float64     // of the tasks that have the measure
		var means []float64      // of those tasks' values, per resample
		allowed := [][]float64{} // their resamples
		attempts, fewest := 0, 0
		below, above := 0.0, 0.0 // sums of the squared distances to the bounds of AUROCs
		for i, t := range tasks {
			v, ok := points[i][name.Key]
			if !ok {
				continue
			}
			st := t.statistic(name.Key)
			attempts += st.attempts
			fewest += st.fewest
			values, allowed = append(values, v), append(allowed, resamples[i][name.Key])
			one := interval(v, resamples[i][name.Key], st.attempts, 1)
			one.TooFew = st.fewest < FewestAttempts
			if m, n := st.compared[0], st.compared[1]; m > 0 && !opt.BootstrapOnly {
				low, high := stats.AUROC(v, m, n)
				below += (v - low) * (v - low)
				above += (high - v) * (high - v)
				one.Low, one.High = min(one.Low, low), max(one.High, high)
			}
			m.Tasks[t.name][name.Key] = one
		}
		if len(values) == 0 {
			continue
		}
		for b := range opt.Bootstrap {
			of := make([]float64, len(allowed))
			for i, r := range allowed {
				of[i] = r[b]
			}
			means = append(means, stat.Mean(of, nil))
		}
		mean := interval(stat.Mean(values, nil), means, attempts, len(values))
		if below+above > 0 {
			k := float64(len(values))
			mean.Low = max(0, min(mean.Low, mean.Value-math.Sqrt(below)/k))
			mean.High = min(1, max(mean.High, mean.Value+math.Sqrt(above)/k))
		}
		mean.TooFew = fewest < FewestAttempts
		m.Mean[name.Key] = mean
	}
}

// points computes the measures on all attempts of the task.
func (t *task) points() map[string]float64 {
	out := map[string]float64{}
	s, f := span(0, len(t.successes)), span(0, len(t.failures))
	for _, st := range t.statistics {
		if v, ok := st.value(s, f); ok && !math.IsNaN(v) {
			out[st.name] = v
		}
	}
	return out
}

// bootstrap computes the measures on resamples: attempts drawn with replacement within each label. All measures
// of the task see the same draws. A value is NaN if the draw does not allow the measure.
func (t *task) bootstrap(opt MeasureOptions) map[string][]float64 {
	out := map[string][]float64{}
	h := fnv.New64a()
	h.Write([]byte(t.name))
	rng := rand.New(rand.NewPCG(opt.Seed, h.Sum64()))
	s, f := make([]int, len(t.successes)), make([]int, len(t.failures))
	for range opt.Bootstrap {
		for i := range s {
			s[i] = rng.IntN(len(s))
		}
		for i := range f {
			f[i] = rng.IntN(len(f))
		}
		for _, st := range t.statistics {
			v, ok := st.value(s, f)
			if !ok {
				v = math.NaN()
			}
			out[st.name] = append(out[st.name], v)
		}
	}
	return out
}

// statistic returns the statistic of a measure.
func (t *task) statistic(name string) statistic {
	for _, st := range t.statistics {
		if st.name == name {
			return st
		}
	}
	return statistic{}
}

// interval returns a value with the middle 95 % of its resamples, or with itself as bounds if none is a number.
func interval(value float64, resamples []float64, attempts, tasks int) Value {
	v := Value{Value: value, Low: value, High: value, Attempts: attempts, Tasks: tasks}
	x := present(resamples)
	if len(x) == 0 {
		return v
	}
	sort.Float64s(x)
	v.Low, v.High = stat.Quantile(0.025, stat.LinInterp, x, nil), stat.Quantile(0.975, stat.LinInterp, x, nil)
	return v
}
