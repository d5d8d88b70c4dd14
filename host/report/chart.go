package report

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// style holds the colours of charts and pages, for light and dark. Charts use them by class, so that one
// drawing serves both.
const style = `
:root{--bg:#ffffff;--card:#ffffff;--edge:#e3e6ea;--ink:#1b2127;--soft:#5c6873;--grid:#eceff2;--s0:#2563eb;--s1:#e8590c;--s2:#0b8f6a;--s3:#8b3fd9;--s4:#b7791f;--s5:#c2255c;--good:#0b8f6a;--bad:#c92a2a;--page:#f5f6f8}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--card:#1b2027;--edge:#2d343d;--ink:#e8ebee;--soft:#9aa5b1;--grid:#262c34;--s0:#74a7ff;--s1:#ff9a57;--s2:#4fd1a5;--s3:#c79bff;--s4:#f0c05a;--s5:#ff85ad;--good:#4fd1a5;--bad:#ff8a80;--page:#0f1216}}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--soft)}
svg text.t{font-size:14px;font-weight:600;fill:var(--ink)}svg text.k{fill:var(--ink)}
.g{stroke:var(--grid);stroke-width:1}.a{stroke:var(--edge);stroke-width:1}
.l{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}.b{stroke:none;opacity:.16}.h{fill:transparent}.h:hover{fill:var(--soft);opacity:.5}
.c0{stroke:var(--s0)}.c1{stroke:var(--s1)}.c2{stroke:var(--s2)}.c3{stroke:var(--s3)}.c4{stroke:var(--s4)}.c5{stroke:var(--s5)}
.f0{fill:var(--s0)}.f1{fill:var(--s1)}.f2{fill:var(--s2)}.f3{fill:var(--s3)}.f4{fill:var(--s4)}.f5{fill:var(--s5)}
`

// hues is the number of series colours in style.
const hues = 6

// series is a curve; low and high are its band, nil: none. Points that are NaN are gaps.
type series struct {
	name      string
	hue       int
	x, y      []float64
	low, high []float64
	// marks draws open circles only (evaluations), without a line between.
	marks bool
}

// chart is a drawing of curves over one x axis.
type chart struct {
	title, xLabel string
	// percent shows y as 0 to 100 %; otherwise y's range is that of the data, from zero when it is near.
	percent bool
	// whole says that x counts things.
	whole bool
	// most fixes y's range from 0 to it, so that charts can be compared; 0: it is that of the data.
	most          float64
	width, height float64
	series        []series
}

const (
	left, right, top, bottom = 50.0, 14.0, 42.0, 40.0
	mostPoints               = 400
)

// standalone is a drawing as a file of its own.
func standalone(width, height float64, body string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img"><style>%s</style><rect width="%g" height="%g" rx="8" style="fill:var(--bg)"/>%s</svg>`,
		width, height, width, height, style, width, height, body)
}

// inline is a drawing inside a page that has the style.
func inline(width, height float64, label, body string) string {
	return fmt.Sprintf(`<svg viewBox="0 0 %g %g" role="img" aria-label="%s">%s</svg>`, width, height,
		html.EscapeString(label), body)
}

func (c chart) inline() string { return inline(c.width, c.height, c.title, c.draw()) }

// draw returns the chart's elements, from 0,0 to width,height.
func (c chart) draw() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<text class="t" x="%g" y="20">%s</text>`, left-38, html.EscapeString(c.title))
	x0, x1, y0, y1 := c.limits()
	if math.IsNaN(x0) {
		fmt.Fprintf(&b, `<text x="%g" y="%g" text-anchor="middle">no data yet</text>`, c.width/2, c.height/2)
		return b.String()
	}
	px := func(x float64) float64 { return left + (x-x0)/(x1-x0)*(c.width-left-right) }
	py := func(y float64) float64 { return c.height - bottom - (y-y0)/(y1-y0)*(c.height-top-bottom) }
	for _, t := range ticks(y0, y1, c.rows(), false) {
		label := short(t)
		if c.percent {
			label = short(math.Round(1000*t)/10) + " %"
		}
		fmt.Fprintf(&b, `<line class="g" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`, left, c.width-right, py(t), py(t), left-7, py(t)+4, label)
	}
	for _, t := range ticks(x0, x1, max(2, int((c.width-left-right)/75)), c.whole) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%s</text>`, px(t), c.height-bottom+18, short(t))
	}
	fmt.Fprintf(&b, `<line class="a" x1="%g" x2="%g" y1="%g" y2="%g"/>`, left, c.width-right, c.height-bottom,
		c.height-bottom)
	fmt.Fprintf(&b, `<text x="%g" y="%g" text-anchor="middle">%s</text>`, (left+c.width-right)/2, c.height-5,
		html.EscapeString(c.xLabel))
	for _, s := range c.series {
		s = s.thin()
		for _, run := range s.band() {
			b.WriteString(`<path class="b f` + strconv.Itoa(s.hue%hues) + `" d="`)
			for i, j := range run {
				b.WriteString(point(i == 0, px(s.x[j]), py(min(max(s.high[j], y0), y1))))
			}
			for i := len(run) - 1; i >= 0; i-- {
				b.WriteString(point(false, px(s.x[run[i]]), py(min(max(s.low[run[i]], y0), y1))))
			}
			b.WriteString(`Z"/>`)
		}
	}
	for _, s := range c.series {
		s = s.thin()
		dots := s.marks || len(s.x) == 1
		if !s.marks {
			fmt.Fprintf(&b, `<path class="l c%d" d="`, s.hue%hues)
			pen := false
			for i := range s.x {
				if math.IsNaN(s.y[i]) || math.IsInf(s.y[i], 0) {
					pen = false
					continue
				}
				b.WriteString(point(!pen, px(s.x[i]), py(min(max(s.y[i], y0), y1))))
				pen = true
			}
			b.WriteString(`"/>`)
		}
		for i := range s.x {
			if math.IsNaN(s.y[i]) || math.IsInf(s.y[i], 0) {
				continue
			}
			x, y := px(s.x[i]), py(min(max(s.y[i], y0), y1))
			lone := dots || (i == 0 || math.IsNaN(s.y[i-1])) && (i == len(s.x)-1 || math.IsNaN(s.y[i+1]))
			if lone {
				if s.low != nil && !math.IsNaN(s.low[i]) {
					fmt.Fprintf(&b, `<line class="l c%d" style="stroke-width:1.2" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, s.hue%hues, x, x, py(s.low[i]), py(s.high[i]))
				}
				fmt.Fprintf(&b, `<circle class="c%d" style="fill:var(--card);stroke-width:2" cx="%.1f" cy="%.1f" r="3.6"/>`, s.hue%hues, x, y)
			}
			if len(s.x) <= mostPoints {
				fmt.Fprintf(&b, `<circle class="h" cx="%.1f" cy="%.1f" r="7"><title>%s</title></circle>`, x, y,
					html.EscapeString(c.tip(s, i)))
			}
		}
	}
	c.legend(&b)
	return b.String()
}

// tip is what is shown over a point.
func (c chart) tip(s series, i int) string {
	value := func(v float64) string {
		if c.percent {
			return fmt.Sprintf("%.1f %%", 100*v)
		}
		return fmt.Sprintf("%.4g", v)
	}
	t := fmt.Sprintf("%s %s: %s", c.xLabel, strconv.FormatFloat(s.x[i], 'f', -1, 64), value(s.y[i]))
	if s.low != nil && !math.IsNaN(s.low[i]) {
		t += fmt.Sprintf(" (%s to %s)", value(s.low[i]), value(s.high[i]))
	}
	if s.name != "" {
		t = s.name + ", " + t
	}
	return t
}

// legend stands at the right of the title, when there is more than one curve and they have names.
func (c chart) legend(b *strings.Builder) {
	if len(c.series) < 2 || c.series[0].name == "" {
		return
	}
	x := c.width - right
	for i := len(c.series) - 1; i >= 0; i-- {
		s := c.series[i]
		if s.name == "" {
			continue
		}
		x -= 6.6 * float64(len([]rune(s.name)))
		fmt.Fprintf(b, `<text class="k" x="%.1f" y="20">%s</text>`, x, html.EscapeString(s.name))
		if s.marks {
			fmt.Fprintf(b, `<circle class="c%d" style="fill:var(--card);stroke-width:2" cx="%.1f" cy="16" r="3.6"/>`, s.hue%hues, x-12)
		} else {
			fmt.Fprintf(b, `<line class="l c%d" x1="%.1f" x2="%.1f" y1="16" y2="16"/>`, s.hue%hues, x-20, x-6)
		}
		x -= 36
	}
}

// limits gives the ranges of both axes, NaN when there is nothing to draw.
func (c chart) limits() (x0, x1, y0, y1 float64) {
	x0, y0 = math.Inf(1), math.Inf(1)
	x1, y1 = math.Inf(-1), math.Inf(-1)
	for _, s := range c.series {
		for i := range s.x {
			if math.IsNaN(s.y[i]) || math.IsInf(s.y[i], 0) {
				continue
			}
			x0, x1 = min(x0, s.x[i]), max(x1, s.x[i])
			y0, y1 = min(y0, s.y[i]), max(y1, s.y[i])
			if s.low != nil && !math.IsNaN(s.low[i]) {
				y0, y1 = min(y0, s.low[i]), max(y1, s.high[i])
			}
		}
	}
	if x0 > x1 {
		return math.NaN(), 0, 0, 0
	}
	if x0 == x1 {
		room := max(1, math.Abs(x0)/10)
		x0, x1 = x0-room, x1+room
	}
	if c.percent {
		return x0, x1, 0, 1
	}
	if c.most > 0 {
		y0, y1 = 0, c.most
	}
	if y0 > 0 && y0 < 0.7*y1 || y0 == y1 && y0 > 0 {
		y0 = 0
	}
	if y1 < 0 && y1 > 0.7*y0 {
		y1 = 0
	}
	switch {
	case y0 == 0 && y1 == 0: // A count of nothing.
		y1 = 1
	case y0 == y1:
		y0, y1 = y0-1, y1+1
	}
	step := tickStep(y0, y1, c.rows(), false)
	return x0, x1, math.Floor(y0/step+1e-9) * step, math.Ceil(y1/step-1e-9) * step
}

// rows is about how many parts the y axis has.
func (c chart) rows() int { return max(2, int((c.height-top-bottom)/36)) }

// thin averages neighbours until no more than mostPoints are left.
func (s series) thin() series {
	n := (len(s.x) + mostPoints - 1) / mostPoints
	if n <= 1 || s.marks {
		return s
	}
	mean := func(v []float64) []float64 {
		if v == nil {
			return nil
		}
		var out []float64
		for i := 0; i < len(v); i += n {
			sum, k := 0.0, 0
			for _, x := range v[i:min(i+n, len(v))] {
				if !math.IsNaN(x) && !math.IsInf(x, 0) {
					sum += x
					k++
				}
			}
			out = append(out, sum/float64(k)) // 0/0 is NaN: a gap.
		}
		return out
	}
	s.x, s.y, s.low, s.high = mean(s.x), mean(s.y), mean(s.low), mean(s.high)
	return s
}

// band gives the stretches of indices over which the band can be filled.
func (s series) band() [][]int {
	if s.low == nil || s.marks {
		return nil
	}
	var runs [][]int
	open := false
	for i := range s.x {
		if math.IsNaN(s.y[i]) || math.IsNaN(s.low[i]) || math.IsNaN(s.high[i]) {
			open = false
			continue
		}
		if !open {
			runs = append(runs, nil)
			open = true
		}
		runs[len(runs)-1] = append(runs[len(runs)-1], i)
	}
	return runs
}

func point(move bool, x, y float64) string {
	if move {
		return fmt.Sprintf("M%.1f %.1f", x, y)
	}
	return fmt.Sprintf("L%.1f %.1f", x, y)
}

// tickStep is a round number that divides the range into about n parts.
func tickStep(a, b float64, n int, whole bool) float64 {
	raw := (b - a) / float64(n)
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	step := 10 * unit
	for _, m := range []float64{1, 2, 2.5, 5} {
		if m*unit >= raw*0.999 {
			step = m * unit
			break
		}
	}
	if whole {
		step = max(1, math.Ceil(step))
	}
	return step
}

func ticks(a, b float64, n int, whole bool) []float64 {
	step := tickStep(a, b, n, whole)
	var out []float64
	for i := math.Ceil(a/step - 1e-9); i*step <= b+step*1e-9 && len(out) < 100; i++ {
		out = append(out, i*step+0) // +0 turns -0 into 0.
	}
	return out
}

// short prints a number in few characters: 12k, 1.5M, 0.004.
func short(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if math.Abs(v) >= u.size {
			if u.name == "k" {
				u.size = 1e3
			}
			return strconv.FormatFloat(math.Round(v/u.size*10)/10, 'f', -1, 64) + u.name
		}
	}
	if s := strconv.FormatFloat(v, 'g', 4, 64); !strings.Contains(s, "e") {
		return s
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

// bars draws one stacked bar for each x; parts[i] are the heights of part i.
func bars(title, xLabel string, width, height float64, x []float64, names []string, parts [][]float64) string {
	c := chart{title: title, xLabel: xLabel, width: width, height: height, whole: true}
	var b strings.Builder
	fmt.Fprintf(&b, `<text class="t" x="%g" y="20">%s</text>`, left-38, html.EscapeString(title))
	if len(x) == 0 || len(names) == 0 {
		fmt.Fprintf(&b, `<text x="%g" y="%g" text-anchor="middle">no data yet</text>`, width/2, height/2)
		return inline(width, height, title, b.String())
	}
	// At most 60 bars: more are averaged.
	n := (len(x) + 59) / 60
	total := 0.0
	var at []float64
	sums := make([][]float64, len(names))
	for i := 0; i < len(x); i += n {
		to := min(i+n, len(x))
		at = append(at, (x[i]+x[to-1])/2)
		whole := 0.0
		for p := range names {
			sum := 0.0
			for _, v := range parts[p][i:to] {
				if v > 0 && !math.IsInf(v, 0) {
					sum += v
				}
			}
			sum /= float64(to - i)
			sums[p] = append(sums[p], sum)
			whole += sum
		}
		total = max(total, whole)
	}
	if total == 0 {
		total = 1
	}
	step := tickStep(0, total, c.rows(), false)
	y1 := math.Ceil(total/step-1e-9) * step
	py := func(y float64) float64 { return height - bottom - y/y1*(height-top-bottom) }
	for _, t := range ticks(0, y1, c.rows(), false) {
		fmt.Fprintf(&b, `<line class="g" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`, left, width-right, py(t), py(t), left-7, py(t)+4, short(t))
	}
	slot := (width - left - right) / float64(max(len(at), 6))
	every := max(1, int(math.Ceil(float64(len(at))*55/(width-left-right))))
	for i := range at {
		y := 0.0
		bx, bw := left+slot*float64(i)+slot*0.14, slot*0.72
		for p, name := range names {
			v := sums[p][i]
			if v > 0 {
				fmt.Fprintf(&b, `<rect class="f%d" x="%.1f" y="%.1f" width="%.1f" height="%.2f"><title>%s %s, %s: %.4g</title></rect>`, p%hues, bx, py(y+v), bw, py(y)-py(y+v),
					html.EscapeString(xLabel), short(at[i]), html.EscapeString(name), v)
			}
			y += v
		}
		if i%every == 0 {
			fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%s</text>`, bx+bw/2, height-bottom+18,
				short(math.Floor(at[i])))
		}
	}
	fmt.Fprintf(&b, `<line class="a" x1="%g" x2="%g" y1="%g" y2="%g"/>`, left, width-right, height-bottom,
		height-bottom)
	fmt.Fprintf(&b, `<text x="%g" y="%g" text-anchor="middle">%s</text>`, (left+width-right)/2, height-5,
		html.EscapeString(xLabel))
	for p, name := range names {
		c.series = append(c.series, series{name: name, hue: p})
	}
	if len(names) > 1 {
		c.legend(&b)
	}
	return inline(width, height, title, b.String())
}
