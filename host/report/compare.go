package report

import (
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/srpo-dev/srpo/host/stats"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// Group is a set of runs with the same settings and different seeds.
type Group struct {
	Label string
	Runs  []*store.Record
}

// Comparison compares the success rates of groups. Each run is one observation, so intervals are over seeds
// and not over episodes.
type Comparison struct {
	Title string
	// Evaluated reports that the rates are those of evaluations instead of training episodes.
	Evaluated bool
	Curves    []Curve
	// Differences compare the first group with each other group.
	Differences []Difference
}

// Curve is a group's mean over its seeds.
type Curve struct {
	Label string
	Seeds int
	// Rates are by iteration, for the Iterations of at least one run.
	Iterations []float64
	Rates      []stats.Interval
	// RatesBySteps are by EnvSteps, a grid over the steps that all runs of the group cover. The rates of
	// each run are interpolated linearly.
	EnvSteps     []float64
	RatesBySteps []stats.Interval
	// Final is the mean over the last iterations of each run: a tenth of them, but at least five or half of
	// them if there are fewer than ten. Of evaluations it is the last tenth, at least one. Mean is over all
	// iterations.
	Final, Mean stats.Interval

	// Greedy are the mean rates of the runs' evaluations, if the curve is that of training episodes.
	Greedy []Greedy

	finals, means map[uint64]float64
	runs          []points
	evaluations   []points
}

// Greedy is the mean rate over the runs with an evaluation after an iteration.
type Greedy struct{ Iteration, EnvSteps, Rate float64 }

// Difference is the success rate of the first group minus that of the second, from -1 to 1.
type Difference struct {
	First, Second, What string
	stats.Interval
	// Paired reports that both groups have the same seeds, and the interval is over the differences per seed.
	// Otherwise it is Welch's.
	Paired bool
}

// points are the success rates of one run.
type points struct {
	seed                   uint64
	iteration, steps, rate []float64
}

// Compare compares groups of runs by the rates of their training episodes or, with evaluated, of their
// evaluations. The error is Invalid if a run has no rate or a group no run.
func Compare(title string, groups []Group, evaluated bool) (*Comparison, error) {
	c := &Comparison{Title: title, Evaluated: evaluated}
	if len(groups) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "there are no runs to compare").
			WithHint("give at least one group of run folders")
	}
	for _, g := range groups {
		curve := Curve{Label: g.Label, finals: map[uint64]float64{}, means: map[uint64]float64{}}
		for i, rec := range g.Runs {
			p := pointsOf(rec, evaluated)
			if len(p.rate) == 0 {
				what := "iteration"
				if evaluated {
					what = "evaluation"
				}
				return nil, plugins.Errorf(plugins.Invalid, "the run has no %s", what).WithPlace("%s", rec.Dir).
					WithHint("leave it out, or continue it with --resume")
			}
			if rec.Manifest == nil {
				p.seed = uint64(i)
			}
			curve.runs = append(curve.runs, p)
			if !evaluated {
				curve.evaluations = append(curve.evaluations, pointsOf(rec, true))
			}
		}
		if len(curve.runs) == 0 {
			return nil, plugins.Errorf(plugins.Invalid, "group %q has no runs", g.Label).
				WithHint("give the folders of its runs")
		}
		curve.fill(evaluated)
		c.Curves = append(c.Curves, curve)
	}
	first := c.Curves[0]
	for _, other := range c.Curves[1:] {
		c.Differences = append(c.Differences, difference(first, other, "at the end",
			func(c Curve) map[uint64]float64 { return c.finals }),
			difference(first, other, "mean over the iterations", func(c Curve) map[uint64]float64 { return c.means }))
		lo, hi := commonSteps(append(append([]points{}, first.runs...), other.runs...))
		if hi > lo {
			at := func(c Curve) map[uint64]float64 {
				out := map[uint64]float64{}
				for _, p := range c.runs {
					sum := 0.0
					grid := span(lo, hi, 101)
					for _, x := range grid {
						sum += interpolate(p.steps, p.rate, x)
					}
					out[p.seed] = sum / float64(len(grid))
				}
				return out
			}
			c.Differences = append(c.Differences, difference(first, other,
				fmt.Sprintf("mean over env steps %s to %s", short(lo), short(hi)), at))
		}
	}
	return c, nil
}

func pointsOf(rec *store.Record, evaluated bool) points {
	var p points
	if rec.Manifest != nil {
		p.seed = rec.Manifest.Seed
	}
	add := func(iteration int, steps int64, rate float64) {
		if math.IsNaN(rate) {
			return
		}
		if n := len(p.steps); n > 0 && (p.steps[n-1] >= float64(steps) || p.iteration[n-1] >= float64(iteration)) {
			return // x must increase
		}
		p.iteration, p.steps, p.rate = append(p.iteration, float64(iteration)), append(p.steps, float64(steps)),
			append(p.rate, rate)
	}
	if evaluated {
		for _, e := range rec.Events {
			if e.Evaluation != nil {
				add(e.Iteration, e.Evaluation.EnvSteps, e.Evaluation.SuccessRate)
			}
		}
		return p
	}
	for _, m := range rec.Metrics {
		add(m.Iteration, m.EnvSteps, m.SuccessRate)
	}
	return p
}

// fill computes the means over seeds.
func (c *Curve) fill(evaluated bool) {
	c.Seeds = len(c.runs)
	byIteration := map[float64][]float64{}
	var finals, means []float64
	evaluations := map[float64][]Greedy{}
	for _, p := range c.evaluations {
		for i, it := range p.iteration {
			evaluations[it] = append(evaluations[it], Greedy{it, p.steps[i], p.rate[i]})
		}
	}
	for it, list := range evaluations {
		g := Greedy{Iteration: it}
		for _, one := range list {
			g.EnvSteps += one.EnvSteps / float64(len(list))
			g.Rate += one.Rate / float64(len(list))
		}
		c.Greedy = append(c.Greedy, g)
	}
	sort.Slice(c.Greedy, func(i, j int) bool { return c.Greedy[i].Iteration < c.Greedy[j].Iteration })
	for i := range c.runs {
		p := &c.runs[i]
		if _, ok := c.finals[p.seed]; ok { // two runs with the same seed are two observations
			p.seed = math.MaxUint64 - uint64(i)
		}
		for j, it := range p.iteration {
			byIteration[it] = append(byIteration[it], p.rate[j])
		}
		n := len(p.rate)
		last := max(1, n/10, min(5, n/2))
		if evaluated {
			last = max(1, n/10)
		}
		f, m := mean(p.rate[n-last:]), mean(p.rate)
		c.finals[p.seed], c.means[p.seed] = f, m
		finals, means = append(finals, f), append(means, m)
	}
	for it := range byIteration {
		c.Iterations = append(c.Iterations, it)
	}
	sort.Float64s(c.Iterations)
	for _, it := range c.Iterations {
		c.Rates = append(c.Rates, stats.MeanInterval(byIteration[it]).Within(0, 1))
	}
	c.Final, c.Mean = stats.MeanInterval(finals).Within(0, 1), stats.MeanInterval(means).Within(0, 1)
	lo, hi := commonSteps(c.runs)
	if hi < lo {
		return
	}
	for _, x := range span(lo, hi, 61) {
		var v []float64
		for _, p := range c.runs {
			v = append(v, interpolate(p.steps, p.rate, x))
		}
		c.EnvSteps = append(c.EnvSteps, x)
		c.RatesBySteps = append(c.RatesBySteps, stats.MeanInterval(v).Within(0, 1))
	}
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// commonSteps returns the range of env steps that every run covers; high < low if there is none.
func commonSteps(runs []points) (low, high float64) {
	low, high = math.Inf(-1), math.Inf(1)
	for _, p := range runs {
		low, high = max(low, p.steps[0]), min(high, p.steps[len(p.steps)-1])
	}
	return low, high
}

// span returns n equally spaced numbers from a to b.
func span(a, b float64, n int) []float64 {
	if a == b {
		return []float64{a}
	}
	out := make([]float64, n)
	for i := range out {
		out[i] = a + (b-a)*float64(i)/float64(n-1)
	}
	return out
}

// interpolate returns y at x, for increasing xs. Outside their range it is the value at the end.
func interpolate(xs, ys []float64, x float64) float64 {
	i := sort.SearchFloat64s(xs, x)
	switch {
	case i == 0:
		return ys[0]
	case i == len(xs):
		return ys[len(ys)-1]
	}
	t := (x - xs[i-1]) / (xs[i] - xs[i-1])
	return ys[i-1] + t*(ys[i]-ys[i-1])
}

// difference compares one number per run, by seed.
func difference(a, b Curve, what string, of func(Curve) map[uint64]float64) Difference {
	va, vb := of(a), of(b)
	d := Difference{First: a.Label, Second: b.Label, What: what}
	seeds := make([]uint64, 0, len(va))
	for s := range va {
		seeds = append(seeds, s)
	}
	sort.Slice(seeds, func(i, j int) bool { return seeds[i] < seeds[j] })
	paired := len(va) == len(vb)
	var diffs, la, lb []float64
	for _, s := range seeds {
		la = append(la, va[s])
		y, ok := vb[s]
		paired = paired && ok
		diffs = append(diffs, va[s]-y)
	}
	if paired {
		d.Paired, d.Interval = true, stats.MeanInterval(diffs).Within(-1, 1)
		return d
	}
	others := make([]uint64, 0, len(vb))
	for s := range vb {
		others = append(others, s)
	}
	sort.Slice(others, func(i, j int) bool { return others[i] < others[j] })
	for _, s := range others {
		lb = append(lb, vb[s])
	}
	d.Interval = stats.DifferenceInterval(la, lb).Within(-1, 1)
	return d
}

// Verdict returns a sentence with the better group and whether the interval of the difference excludes 0.
func (d Difference) Verdict() string {
	better, worse, by, lo, hi := d.First, d.Second, d.Mean, d.Low, d.High
	if by < 0 {
		better, worse, by, lo, hi = worse, better, -by, -hi, -lo
	}
	s := fmt.Sprintf("%s: %s is ahead of %s by %.1f points", d.What, better, worse, 100*by)
	if by == 0 {
		s = fmt.Sprintf("%s: %s and %s are equal", d.What, better, worse)
	}
	if math.IsNaN(lo) {
		return s + "; one seed gives no interval"
	}
	s += fmt.Sprintf(" (95 %%: %.1f to %.1f, %d seeds", 100*lo, 100*hi, d.N)
	if d.Paired {
		s += ", paired"
	}
	s += ")"
	if lo <= 0 && hi >= 0 {
		s += ": the difference is not significant"
	}
	return s
}

// SVG writes both charts as one picture for light and dark pages.
func (c *Comparison) SVG(w io.Writer) error {
	const width, height = 1000.0, 380.0
	var b strings.Builder
	fmt.Fprintf(&b, `<text class="t" x="20" y="28" style="font-size:16px">%s</text>`,
		template.HTMLEscapeString(c.Title))
	x := 20.0
	for i, k := range c.Curves {
		label := k.Label + ", " + Count(k.Seeds, "seed")
		fmt.Fprintf(&b, `<line class="l c%d" x1="%.1f" x2="%.1f" y1="47" y2="47"/>`, i%hues, x, x+16)
		fmt.Fprintf(&b, `<text class="k" x="%.1f" y="51">%s</text>`, x+22, template.HTMLEscapeString(label))
		x += 22 + 6.8*float64(len([]rune(label))) + 26
	}
	fmt.Fprintf(&b, `<text x="%g" y="51" text-anchor="end">%s</text>`, width-20, c.legend())
	one, two := c.charts()
	one.width, one.height, two.width, two.height = width/2-14, height-62, width/2-14, height-62
	fmt.Fprintf(&b, `<g transform="translate(8 58)">%s</g><g transform="translate(%g 58)">%s</g>`, one.draw(),
		width/2+8, two.draw())
	_, err := io.WriteString(w, standalone(width, height, b.String()))
	return err
}

// legend describes the bands and circles.
func (c *Comparison) legend() string {
	text := "mean and 95 % t interval over seeds"
	if !slices.ContainsFunc(c.Curves, func(k Curve) bool { return k.Seeds > 1 }) {
		text = "one seed each, without an interval"
	}
	if slices.ContainsFunc(c.Curves, func(k Curve) bool { return len(k.Greedy) > 0 }) {
		text += "; circles: greedy evaluations"
	}
	return text
}

// charts returns the curves by iteration and by env steps, without legends.
func (c *Comparison) charts() (byIteration, bySteps chart) {
	byIteration = chart{title: "Success rate by iteration", xLabel: "iteration", percent: true, whole: true}
	bySteps = chart{title: "Success rate by env steps", xLabel: "env steps", percent: true, whole: true}
	for i, k := range c.Curves {
		for _, s := range []struct {
			c     *chart
			x     []float64
			rates []stats.Interval
		}{{&byIteration, k.Iterations, k.Rates}, {&bySteps, k.EnvSteps, k.RatesBySteps}} {
			one := series{hue: i, x: s.x}
			for _, r := range s.rates {
				one.y, one.low, one.high = append(one.y, r.Mean), append(one.low, r.Low),
					append(one.high, r.High)
			}
			s.c.series = append(s.c.series, one)
		}
	}
	for i, k := range c.Curves { // after the curves, whose order is that of the legend
		if len(k.Greedy) == 0 {
			continue
		}
		it, steps := series{hue: i, marks: true}, series{hue: i, marks: true}
		for _, g := range k.Greedy {
			it.x, it.y = append(it.x, g.Iteration), append(it.y, g.Rate)
			steps.x, steps.y = append(steps.x, g.EnvSteps), append(steps.y, g.Rate)
		}
		byIteration.series, bySteps.series = append(byIteration.series, it), append(bySteps.series, steps)
	}
	return byIteration, bySteps
}

// Markdown writes a table of success rates and the differences.
func (c *Comparison) Markdown(w io.Writer) error {
	var b strings.Builder
	rates := "training episodes"
	if c.Evaluated {
		rates = "evaluations"
	}
	fmt.Fprintf(&b, "Success rate of %s, mean over seeds [95 %% t interval]:\n\n| | seeds | at the end | mean over "+
		"iterations | env steps to 50 %% | 80 %% | 95 %% |\n|---|---|---|---|---|---|---|\n", rates)
	for _, k := range c.Curves {
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %s |\n", k.Label, k.Seeds, rateString(k.Final),
			rateString(k.Mean), k.reach(0.5),
			k.reach(0.8), k.reach(0.95))
	}
	b.WriteString("\n")
	for _, d := range c.Differences {
		fmt.Fprintf(&b, "- %s\n", d.Verdict())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// rateString returns a rate and its interval in percent.
func rateString(i stats.Interval) string {
	if math.IsNaN(i.Low) {
		return percent(i.Mean)
	}
	return fmt.Sprintf("%.1f %% [%.1f, %.1f]", 100*i.Mean, 100*i.Low, 100*i.High)
}

// reach returns the env steps after which a run first reached a rate, as the median over the runs that did,
// and how many did if not all.
func (c Curve) reach(rate float64) string {
	var at []float64
	for _, p := range c.runs {
		for i, r := range p.rate {
			if r >= rate {
				at = append(at, p.steps[i])
				break
			}
		}
	}
	if len(at) == 0 {
		return "never"
	}
	sort.Float64s(at)
	median := (at[(len(at)-1)/2] + at[len(at)/2]) / 2
	if len(at) < c.Seeds {
		return fmt.Sprintf("%s (%d of %d)", short(median), len(at), c.Seeds)
	}
	return short(median)
}

// HTML writes curves, tables and differences as one page that needs no other resource.
func (c *Comparison) HTML(w io.Writer) error {
	one, two := c.charts()
	one.width, one.height, two.width, two.height = 600, 320, 600, 320
	for i := range c.Curves {
		one.series[i].name, two.series[i].name = c.Curves[i].Label, c.Curves[i].Label
	}
	type line struct {
		Label, Final, Mean, To50, To80, To95 string
		Seeds                                int
		Hue                                  int
	}
	data := struct {
		Style    template.CSS
		Title    string
		Rates    string
		Legend   string
		Charts   []template.HTML
		Lines    []line
		Verdicts []string
	}{Style: styles(""), Title: c.Title, Rates: "training episodes", Legend: c.legend(),
		Charts: []template.HTML{template.HTML(one.inline()), template.HTML(two.inline())}}
	if c.Evaluated {
		data.Rates = "evaluations"
	}
	for i, k := range c.Curves {
		data.Lines = append(data.Lines, line{k.Label, rateString(k.Final), rateString(k.Mean), k.reach(0.5),
			k.reach(0.8), k.reach(0.95), k.Seeds, i % hues})
	}
	for _, d := range c.Differences {
		data.Verdicts = append(data.Verdicts, d.Verdict())
	}
	if err := templates.ExecuteTemplate(w, "compare.html", data); err != nil {
		return plugins.Errorf(plugins.Internal, "the comparison cannot be written: %w", err)
	}
	return nil
}
