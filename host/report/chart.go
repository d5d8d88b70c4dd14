package report

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
)

// hues is the number of series colours in chart.css.
const hues = 6

// series is a curve. low and high are its band, nil without one. NaN is a gap.
type series struct {
	name      string
	hue       int
	x, y      []float64
	low, high []float64
	// marks draws open circles without a line, for evaluations.
	marks bool
}

// chart is a drawing of curves over one x axis.
type chart struct {
	title, xLabel string
	// percent shows y from 0 to 100 %. Otherwise the range of y is that of the data, extended to zero if
	// zero is near.
	percent bool
	// whole restricts the ticks of x to integers.
	whole bool
	// maxY sets the range of y to [0, maxY], so that charts can be compared; 0 takes the range of the data.
	maxY          float64
	width, height float64
	series        []series
}

const (
	left, right, top, bottom = 50.0, 14.0, 42.0, 40.0
	maxPoints                = 400
)

// standalone returns a drawing as an SVG file.
func standalone(width, height float64, body string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]g %[2]g" `+
		`width="%[1]g" height="%[2]g" role="img">`+
		`<style>%[3]s</style><rect width="%[1]g" height="%[2]g" rx="8" style="fill:var(--bg)"/>%[4]s</svg>`,
		width, height, chartStyle, body)
}

// inline returns a drawing for a page that contains the style.
func inline(width, height float64, label, body string) string {
	return fmt.Sprintf(`<svg viewBox="0 0 %g %g" role="img" aria-label="%s">%s</svg>`, width, height,
		html.EscapeString(label), body)
}

func (c chart) inline() string { return inline(c.width, c.height, c.title, c.draw()) }

// draw returns the chart's elements, from 0,0 to width,height.
func (c chart) draw() string {
	var b strings.Builder
	drawTitle(&b, c.title)
	x0, x1, y0, y1 := c.limits()
	if math.IsNaN(x0) {
		drawNoData(&b, c.width, c.height)
		return b.String()
	}
	px := func(x float64) float64 { return left + (x-x0)/(x1-x0)*(c.width-left-right) }
	py := func(y float64) float64 {
		return c.height - bottom - (min(max(y, y0), y1)-y0)/(y1-y0)*(c.height-top-bottom)
	}
	for _, t := range ticks(y0, y1, c.rows(), false) {
		label := short(t)
		if c.percent {
			label = short(math.Round(1000*t)/10) + " %"
		}
		drawGridLine(&b, c.width, py(t), label)
	}
	for _, t := range ticks(x0, x1, max(2, int((c.width-left-right)/75)), c.whole) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%s</text>`, px(t), c.height-bottom+18, short(t))
	}
	drawXAxis(&b, c.width, c.height, c.xLabel)
	for _, s := range c.series {
		s.thin().drawBand(&b, px, py)
	}
	for _, s := range c.series {
		s = s.thin()
		if !s.marks {
			s.drawLine(&b, px, py)
		}
		c.drawPoints(&b, s, px, py)
	}
	c.legend(&b)
	return b.String()
}

func drawTitle(b *strings.Builder, title string) {
	fmt.Fprintf(b, `<text class="t" x="%g" y="20">%s</text>`, left-38, html.EscapeString(title))
}

func drawNoData(b *strings.Builder, width, height float64) {
	fmt.Fprintf(b, `<text x="%g" y="%g" text-anchor="middle">no data yet</text>`, width/2, height/2)
}

func drawGridLine(b *strings.Builder, width, y float64, label string) {
	fmt.Fprintf(b, `<line class="g" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/>`, left, width-right, y, y)
	fmt.Fprintf(b, `<text x="%g" y="%.1f" text-anchor="end">%s</text>`, left-7, y+4, label)
}

func drawXAxis(b *strings.Builder, width, height float64, label string) {
	y := height - bottom
	fmt.Fprintf(b, `<line class="a" x1="%g" x2="%g" y1="%g" y2="%g"/>`, left, width-right, y, y)
	fmt.Fprintf(b, `<text x="%g" y="%g" text-anchor="middle">%s</text>`, (left+width-right)/2, height-5,
		html.EscapeString(label))
}

func drawCircle(b *strings.Builder, hue int, x, y float64) {
	fmt.Fprintf(b, `<circle class="c%d" style="fill:var(--card);stroke-width:2" cx="%.1f" cy="%.1f" r="3.6"/>`,
		hue%hues, x, y)
}

// drawBand fills the area between low and high.
func (s series) drawBand(b *strings.Builder, px, py func(float64) float64) {
	for _, run := range s.band() {
		fmt.Fprintf(b, `<path class="b f%d" d="`, s.hue%hues)
		for i, j := range run {
			b.WriteString(point(i == 0, px(s.x[j]), py(s.high[j])))
		}
		for _, j := range slices.Backward(run) {
			b.WriteString(point(false, px(s.x[j]), py(s.low[j])))
		}
		b.WriteString(`Z"/>`)
	}
}

// drawLine draws the curve with its gaps.
func (s series) drawLine(b *strings.Builder, px, py func(float64) float64) {
	fmt.Fprintf(b, `<path class="l c%d" d="`, s.hue%hues)
	pen := false
	for i := range s.x {
		if !finite(s.y[i]) {
			pen = false
			continue
		}
		b.WriteString(point(!pen, px(s.x[i]), py(s.y[i])))
		pen = true
	}
	b.WriteString(`"/>`)
}

// drawPoints draws a circle for each mark and each point without neighbours, and a tool tip for each point.
func (c chart) drawPoints(b *strings.Builder, s series, px, py func(float64) float64) {
	for i := range s.x {
		if !finite(s.y[i]) {
			continue
		}
		x, y := px(s.x[i]), py(s.y[i])
		alone := (i == 0 || math.IsNaN(s.y[i-1])) && (i == len(s.x)-1 || math.IsNaN(s.y[i+1]))
		if s.marks || alone {
			if s.low != nil && !math.IsNaN(s.low[i]) {
				fmt.Fprintf(b, `<line class="l c%d" style="stroke-width:1.2" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`,
					s.hue%hues, x, x, py(s.low[i]), py(s.high[i]))
			}
			drawCircle(b, s.hue, x, y)
		}
		if len(s.x) <= maxPoints {
			fmt.Fprintf(b, `<circle class="h" cx="%.1f" cy="%.1f" r="7"><title>%s</title></circle>`, x, y,
				html.EscapeString(c.tip(s, i)))
		}
	}
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// tip returns the tool tip of a point.
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

// legend writes the names of the curves to the right of the title, if there is more than one curve.
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
			drawCircle(b, s.hue, x-12, 16)
		} else {
			fmt.Fprintf(b, `<line class="l c%d" x1="%.1f" x2="%.1f" y1="16" y2="16"/>`, s.hue%hues, x-20, x-6)
		}
		x -= 36
	}
}

// limits returns the ranges of both axes. x0 is NaN if there is nothing to draw.
func (c chart) limits() (x0, x1, y0, y1 float64) {
	x0, y0 = math.Inf(1), math.Inf(1)
	x1, y1 = math.Inf(-1), math.Inf(-1)
	for _, s := range c.series {
		for i := range s.x {
			if !finite(s.y[i]) {
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
	if c.maxY > 0 {
		y0, y1 = 0, c.maxY
	}
	if y0 > 0 && y0 < 0.7*y1 || y0 == y1 && y0 > 0 {
		y0 = 0
	}
	if y1 < 0 && y1 > 0.7*y0 {
		y1 = 0
	}
	switch {
	case y0 == 0 && y1 == 0:
		y1 = 1
	case y0 == y1:
		y0, y1 = y0-1, y1+1
	}
	step := tickStep(y0, y1, c.rows(), false)
	return x0, x1, math.Floor(y0/step+1e-9) * step, math.Ceil(y1/step-1e-9) * step
}

// rows returns the approximate number of intervals on the y axis.
func (c chart) rows() int { return max(2, int((c.height-top-bottom)/36)) }

// thin averages neighbours so that at most maxPoints are left.
func (s series) thin() series {
	n := (len(s.x) + maxPoints - 1) / maxPoints
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
				if finite(x) {
					sum += x
					k++
				}
			}
			out = append(out, sum/float64(k)) // 0/0 is NaN, a gap
		}
		return out
	}
	s.x, s.y, s.low, s.high = mean(s.x), mean(s.y), mean(s.low), mean(s.high)
	return s
}

// band returns the runs of indices over which the band can be filled.
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

// tickStep returns a round number that divides the range into about n parts.
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
		out = append(out, i*step+0) // +0 turns -0 into 0
	}
	return out
}

// short formats a number in few characters: 12k, 1.5M, 0.004.
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

// maxBars limits the bars of a chart. If there are more, neighbours are averaged.
const maxBars = 60

// bars draws one stacked bar per x. parts[i] are the heights of part i.
func bars(title, xLabel string, width, height float64, x []float64, names []string, parts [][]float64) string {
	c := chart{title: title, xLabel: xLabel, width: width, height: height, whole: true}
	var b strings.Builder
	drawTitle(&b, title)
	if len(x) == 0 || len(names) == 0 {
		drawNoData(&b, width, height)
		return inline(width, height, title, b.String())
	}
	at, means, total := averageBars(x, parts)
	step := tickStep(0, total, c.rows(), false)
	y1 := math.Ceil(total/step-1e-9) * step
	py := func(y float64) float64 { return height - bottom - y/y1*(height-top-bottom) }
	for _, t := range ticks(0, y1, c.rows(), false) {
		drawGridLine(&b, width, py(t), short(t))
	}
	slot := (width - left - right) / float64(max(len(at), 6))
	every := max(1, int(math.Ceil(float64(len(at))*55/(width-left-right))))
	for i := range at {
		y := 0.0
		bx, bw := left+slot*float64(i)+slot*0.14, slot*0.72
		for p, name := range names {
			v := means[p][i]
			if v > 0 {
				fmt.Fprintf(&b, `<rect class="f%d" x="%.1f" y="%.1f" width="%.1f" height="%.2f">`+
					`<title>%s %s, %s: %.4g</title></rect>`,
					p%hues, bx, py(y+v), bw, py(y)-py(y+v), html.EscapeString(xLabel), short(at[i]),
					html.EscapeString(name), v)
			}
			y += v
		}
		if i%every == 0 {
			fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%s</text>`, bx+bw/2, height-bottom+18,
				short(math.Floor(at[i])))
		}
	}
	drawXAxis(&b, width, height, xLabel)
	for p, name := range names {
		c.series = append(c.series, series{name: name, hue: p})
	}
	c.legend(&b)
	return inline(width, height, title, b.String())
}

// averageBars returns at most maxBars bars: their x, the mean heights of their parts, and the height of the
// highest bar (1 if all are 0).
func averageBars(x []float64, parts [][]float64) (at []float64, means [][]float64, highest float64) {
	n := (len(x) + maxBars - 1) / maxBars
	means = make([][]float64, len(parts))
	for i := 0; i < len(x); i += n {
		to := min(i+n, len(x))
		at = append(at, (x[i]+x[to-1])/2)
		height := 0.0
		for p := range parts {
			sum := 0.0
			for _, v := range parts[p][i:to] {
				if v > 0 && !math.IsInf(v, 0) {
					sum += v
				}
			}
			means[p] = append(means[p], sum/float64(to-i))
			height += sum / float64(to-i)
		}
		highest = max(highest, height)
	}
	if highest == 0 {
		highest = 1
	}
	return at, means, highest
}
