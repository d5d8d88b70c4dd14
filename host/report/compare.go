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

// Group is several runs of the same settings, one a seed.
type Group struct {
	Label string
	Runs  []*store.Record
}

// Comparison of groups by their success rates. Each run is one observation: intervals are over seeds, not
// over episodes.
type Comparison struct {
	Title string
	// Evaluated says that the rates are those of evaluations, not of the training episodes.
	Evaluated bool
	Curves    []Curve
	// Differences compare every later group with the first.
	Differences []Difference
}

// Curve is a group's mean over its seeds.
type Curve struct {
	Label string
	Seeds int
	// Iterations and Rates are by iteration, where at least one run has it.
	Iterations []float64
	Rates      []stats.Interval
	// EnvSteps and RatesBySteps are on a common grid over the steps that every run of the group covers,
	// runs interpolated linearly.
	EnvSteps     []float64
	RatesBySteps []stats.Interval
	// Final is the mean over the last iterations of each run (a tenth of them, or five where there are ten
	// or more, as one of a few episodes says little; of evaluations a tenth, at least one), Mean over all
	// iterations.
	Final, Mean stats.Interval

	// Greedy is the mean rate of the runs' evaluations, where the curve is that of training episodes.
	Greedy []Greedy

	finals, means map[uint64]float64
	runs          []points
	evaluations   []points
}

// Greedy is the mean over the runs that have an evaluation after an iteration.
type Greedy struct{ Iteration, EnvSteps, Rate float64 }

// Difference is first group minus second, in success rate from -1 to 1.
type Difference struct {
	First, Second, What string
	stats.Interval
	// Paired says that both groups have the same seeds and the interval is over the differences by seed;
	// otherwise it is Welch's.
	Paired bool
}

// points of one run.
type points struct {
	seed                   uint64
	iteration, steps, rate []float64
}

// Compare reads the groups' curves. With evaluated, the rates of evaluations count instead of the training
// episodes'. Error: Invalid when a group has no run with a point.
func Compare(title string, groups []Group, evaluated bool) (*Comparison, error) {
	c := &Comparison{Title: title, Evaluated: evaluated}
	if len(groups) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "there are no runs to compare").WithHint("give at least one " +
			"group of run folders")
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
				return nil, plugins.Errorf(plugins.Invalid, "the run has no %s", what).WithPlace("%s",
					rec.Dir).WithHint("leave it out, or let it run further")
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
			return nil, plugins.Errorf(plugins.Invalid, "group %q has no runs",
				g.Label).WithHint("give the folders of its runs")
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
			return // A curve goes on to the right.
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

// fill makes the means over seeds.
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
		if _, taken := c.finals[p.seed]; taken { // Two runs of one seed are two observations all the same.
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
		c.Rates = append(c.Rates, stats.MeanInterval(byIteration[it]))
	}
	c.Final, c.Mean = stats.MeanInterval(finals), stats.MeanInterval(means)
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
		c.RatesBySteps = append(c.RatesBySteps, stats.MeanInterval(v))
	}
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// commonSteps is the range of env steps that every run covers; high < low when there is none.
func commonSteps(runs []points) (low, high float64) {
	low, high = math.Inf(-1), math.Inf(1)
	for _, p := range runs {
		low, high = max(low, p.steps[0]), min(high, p.steps[len(p.steps)-1])
	}
	return low, high
}

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

// interpolate gives y at x, where xs ascend; beyond the ends the end's value.
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
		d.Paired, d.Interval = true, stats.MeanInterval(diffs)
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
	d.Interval = stats.DifferenceInterval(la, lb)
	return d
}

// Verdict says in one sentence who is ahead, and whether the seeds suffice to say so.
func (d Difference) Verdict() string {
	ahead, behind, by, lo, hi := d.First, d.Second, d.Mean, d.Low, d.High
	if by < 0 {
		ahead, behind, by, lo, hi = behind, ahead, -by, -hi, -lo
	}
	s := fmt.Sprintf("%s: %s is ahead of %s by %.1f points", d.What, ahead, behind, 100*by)
	if by == 0 {
		s = fmt.Sprintf("%s: %s and %s are equal", d.What, ahead, behind)
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
		s += ": not enough to tell them apart"
	}
	return s
}

// SVG writes both curves as one picture that fits light and dark pages.
func (c *Comparison) SVG(w io.Writer) error {
	const width, height = 1000.0, 380.0
	var b strings.Builder
	fmt.Fprintf(&b, `<text class="t" x="20" y="28" style="font-size:16px">%s</text>`,
		template.HTMLEscapeString(c.Title))
	x := 20.0
	for i, k := range c.Curves {
		label := fmt.Sprintf("%s, %d seeds", k.Label, k.Seeds)
		if k.Seeds == 1 {
			label = k.Label + ", 1 seed"
		}
		fmt.Fprintf(&b, `<line class="l c%d" x1="%.1f" x2="%.1f" y1="47" y2="47"/><text class="k" x="%.1f" y="51">%s</text>`, i%hues, x, x+16, x+22, template.HTMLEscapeString(label))
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

// legend says what is drawn.
func (c *Comparison) legend() string {
	words := "mean and 95 % t interval over seeds"
	if !slices.ContainsFunc(c.Curves, func(k Curve) bool { return k.Seeds > 1 }) {
		words = "one seed each: no interval"
	}
	if slices.ContainsFunc(c.Curves, func(k Curve) bool { return len(k.Greedy) > 0 }) {
		words += "; circles: greedy evaluations"
	}
	return words
}

// charts are the curves by iteration and by env steps, without legends.
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
				one.y, one.low, one.high = append(one.y, r.Mean), append(one.low, max(0, r.Low)),
					append(one.high, min(1, r.High))
			}
			s.c.series = append(s.c.series, one)
		}
	}
	for i, k := range c.Curves { // behind the curves, which stand in the order of the legend
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

// Markdown writes the tables of levels and differences.
func (c *Comparison) Markdown(w io.Writer) error {
	var b strings.Builder
	rates := "training episodes"
	if c.Evaluated {
		rates = "evaluations"
	}
	fmt.Fprintf(&b, "Success rate of %s, mean over seeds [95 %% t interval]:\n\n| | seeds | at the end | mean over "+
		"iterations | env steps to 50 %% | 80 %% | 95 %% |\n|---|---|---|---|---|---|---|\n", rates)
	for _, k := range c.Curves {
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %s |\n", k.Label, k.Seeds, rateString(k.Final), rateString(k.Mean), k.reach(0.5),
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

// reach says after how many env steps a run first reached a rate: the median of those that did, and how
// many did.
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

// HTML writes curves, tables and verdicts as one offline page.
func (c *Comparison) HTML(w io.Writer) error {
	one, two := c.charts()
	one.width, one.height, two.width, two.height = 600, 320, 600, 320
	for i := range c.Curves {
		one.series[i].name, two.series[i].name = c.Curves[i].Label, c.Curves[i].Label
	}
	type line struct {
		Label, Final, Mean, Half, Most, All string
		Seeds                               int
		Hue                                 int
	}
	data := struct {
		Style    template.CSS
		Title    string
		Rates    string
		Legend   string
		Charts   []template.HTML
		Lines    []line
		Verdicts []string
	}{Style: template.CSS(style + pageStyle), Title: c.Title, Rates: "training episodes", Legend: c.legend(),
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
	if err := comparePage.Execute(w, data); err != nil {
		return plugins.Errorf(plugins.Internal, "the comparison cannot be written: %w", err)
	}
	return nil
}

var comparePage = template.Must(template.New("compare").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{{.Title}} · srpo</title><style>{{.Style}}</style></head>
<body><main><header><h1>{{.Title}}</h1><span class="sub">Success rates of {{.Rates}}; {{.Legend}}.</span></header>
<div class="two">{{range .Charts}}<div class="card">{{.}}</div>{{end}}</div>
<h2>Levels</h2><div class="card wide"><table><tr><th></th><th>seeds</th><th>at the end</th><th>mean over iterations</th><th>env steps to 50 %</th><th>80 %</th><th>95 %</th></tr>
{{range .Lines}}<tr><td><svg viewBox="0 0 20 10" width="20" height="10"><line class="l c{{.Hue}}" x1="1" x2="19" y1="5" y2="5"/></svg> {{.Label}}</td><td>{{.Seeds}}</td><td class="n">{{.Final}}</td><td class="n">{{.Mean}}</td><td class="n">{{.Half}}</td><td class="n">{{.Most}}</td><td class="n">{{.All}}</td></tr>{{end}}</table></div>
{{if .Verdicts}}<h2>Differences</h2><div class="card">{{range .Verdicts}}<p style="margin:6px 0">{{.}}</p>{{end}}</div>{{end}}
<footer>At the end: the last tenth of each run's iterations, or five where that is more. Every run is one observation; where both groups have the same seeds the differences are paired, otherwise Welch's.</footer>
</main></body></html>
`))
