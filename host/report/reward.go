package report

import (
	"fmt"
	"html"
	"html/template"
	"io"
	"math"
	"sort"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/plugins"
)

// RewardPage is the content of the page of `srpo reward`.
type RewardPage struct {
	Title string
	// Reward, Cluster and References are the options of the scores.
	Reward, Cluster, References string
	// Encoders are the results of each encoder for the same attempts.
	Encoders []audit.Scored
	// Clips are attempts to show as videos.
	Clips []RewardClip
	// FalseSuccesses are those of each encoder.
	FalseSuccesses []FalseSuccesses
	Warnings       []string
	Command        string
	Version        string
	// Now is the date on the page; the zero time omits it.
	Now time.Time
}

// RewardClip is an attempt to show.
type RewardClip struct {
	// Mark is the name of the attempt in the curves, for example S1 or F3.
	Mark, ID string
	// GIF shows the frames and, beside them, the curves.
	GIF []byte
}

// FalseSuccesses are the failures that an encoder puts closer to the centres than at least one success of
// their task: Count of the Failures that have a distance.
type FalseSuccesses struct {
	Encoder  string `json:"encoder"`
	Count    int    `json:"count"`
	Failures int    `json:"failures"`
	// Indices are those of the attempts, the closest first, IDs their IDs. Clips show the first of them.
	Indices []int        `json:"-"`
	IDs     []string     `json:"ids"`
	Clips   []RewardClip `json:"-"`
}

// FindFalseSuccesses returns the failures that an encoder scores like successes.
func FindFalseSuccesses(s audit.Scored) FalseSuccesses {
	f := FalseSuccesses{Encoder: s.Encoder}
	farthest := map[string]float64{}
	for _, a := range s.Attempts {
		if a.Success != nil && *a.Success && a.Distance != nil {
			farthest[a.Task] = max(farthest[a.Task], *a.Distance)
		}
	}
	for i, a := range s.Attempts {
		if a.Success == nil || *a.Success || a.Distance == nil {
			continue
		}
		f.Failures++
		if d, ok := farthest[a.Task]; ok && *a.Distance <= d {
			f.Indices = append(f.Indices, i)
		}
	}
	f.Count = len(f.Indices)
	share := func(i int) float64 { return *s.Attempts[i].Distance / farthest[s.Attempts[i].Task] }
	sort.SliceStable(f.Indices, func(a, b int) bool { return share(f.Indices[a]) < share(f.Indices[b]) })
	f.IDs = make([]string, f.Count)
	for k, i := range f.Indices {
		f.IDs[k] = s.Attempts[i].ID
	}
	return f
}

// Chosen is an attempt whose curve is drawn.
type Chosen struct {
	// Mark is S1, S2, ... for successes and F1, F2, ... for failures.
	Mark string
	// Index is that of the attempt.
	Index   int
	Success bool
}

// ChooseCurves returns at most 3 successes and 5 failures with a curve, from the task with the most
// attempts if it has enough of both, otherwise from all tasks. Successes are spread over the list, failures
// over their rewards from the highest to the lowest.
func ChooseCurves(s audit.Scored) []Chosen {
	const successes, failures = 3, 5
	curve := map[string]bool{}
	for _, c := range s.Curves {
		curve[c.ID] = len(c.Progress) > 1
	}
	byTask := map[string][2][]int{} // indices of successes and of failures
	var all [2][]int
	for i, a := range s.Attempts {
		if !curve[a.ID] || a.Success == nil {
			continue
		}
		side := 1
		if *a.Success {
			side = 0
		}
		t := byTask[a.Task]
		t[side] = append(t[side], i)
		byTask[a.Task], all[side] = t, append(all[side], i)
	}
	best, largest := all, 0
	for _, t := range s.Tasks {
		x := byTask[t.Name]
		if n := len(x[0]) + len(x[1]); len(x[0]) >= successes && len(x[1]) >= failures && n > largest {
			best, largest = x, n
		}
	}
	sort.SliceStable(best[1],
		func(a, b int) bool { return s.Attempts[best[1][a]].Reward > s.Attempts[best[1][b]].Reward })
	var out []Chosen
	for side, n := range []int{successes, failures} {
		list := best[side]
		n = min(n, len(list))
		for k := range n {
			at := 0
			if n > 1 {
				at = k * (len(list) - 1) / (n - 1)
			}
			out = append(out, Chosen{fmt.Sprintf("%s%d", []string{"S", "F"}[side], k+1), list[at], side == 0})
		}
	}
	return out
}

const (
	panelWidth, panelHeight = 430.0, 230.0
)

// encoderName is the name of an encoder on the page.
func encoderName(name string) string {
	if name == "" {
		return "as given"
	}
	return name
}

// CurvesSVG draws an encoder's curves of the chosen attempts as an SVG file, successes on the left and
// failures on the right. The upper row is the progress as in the paper, each curve scaled to its own range.
// The lower row is the distance to the held-out success centres, all on one scale.
func CurvesSVG(s audit.Scored, chosen []Chosen) string {
	return standalone(2*panelWidth, 2*panelHeight, curvesBody(s, chosen))
}

func curvesBody(s audit.Scored, chosen []Chosen) string {
	curves := map[string]audit.Curve{}
	for _, c := range s.Curves {
		curves[c.ID] = c
	}
	panel := func(title string, success, progress bool) chart {
		c := chart{title: title, xLabel: "frame", percent: progress, whole: true, width: panelWidth,
			height: panelHeight}
		for _, x := range chosen {
			k, ok := curves[s.Attempts[x.Index].ID]
			if x.Success != success || !ok {
				continue
			}
			line := series{name: x.Mark, hue: len(c.series)}
			for i, end := range k.Ends {
				v := k.Progress[i]
				if !progress {
					if k.Nearness == nil {
						break
					}
					v = -k.Nearness[i]
				}
				line.x, line.y = append(line.x, float64(end)), append(line.y, v)
			}
			c.series = append(c.series, line)
		}
		return c
	}
	panels := []chart{panel(encoderName(s.Encoder)+": progress of successes", true, true),
		panel("progress of failures", false, true), panel("distance of successes", true, false),
		panel("distance of failures", false, false)}
	farthest := 0.0
	for _, c := range panels[2:] {
		for _, line := range c.series {
			for _, y := range line.y {
				farthest = max(farthest, y)
			}
		}
	}
	var b strings.Builder
	for i, c := range panels {
		if i >= 2 {
			c.maxY = farthest
		}
		fmt.Fprintf(&b, `<g transform="translate(%g %g)">%s</g>`, float64(i%2)*panelWidth,
			float64(i/2)*panelHeight, c.draw())
	}
	return b.String()
}

// maxDots limits the attempts that [distances] draws per label.
const maxDots = 400

// distances draws every attempt at a task as a dot at its distance.
func distances(s audit.Scored, task string) string {
	const width, height, row = 430.0, 150.0, 30.0
	labels := []string{"success", "failure", "unlabelled"}
	var rows [3][]audit.Score
	low, high := math.Inf(1), 0.0
	for _, a := range s.Attempts {
		if a.Task != task || a.Distance == nil {
			continue
		}
		k := 2
		if a.Success != nil {
			k = map[bool]int{true: 0, false: 1}[*a.Success]
		}
		rows[k] = append(rows[k], a)
		low, high = min(low, *a.Distance), max(high, *a.Distance)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<text class="t" x="12" y="20">%s</text>`, html.EscapeString(shorten(task, 52)))
	if math.IsInf(low, 1) {
		fmt.Fprintf(&b, `<text x="%g" y="%g" text-anchor="middle">no distance was measured</text>`, width/2, height/2)
		return inline(width, height, task, b.String())
	}
	if high == 0 {
		high = 1
	}
	const from = 84.0
	px := func(d float64) float64 { return from + d/high*(width-from-20) }
	for _, t := range ticks(0, high, 5, false) {
		x := px(t)
		fmt.Fprintf(&b, `<line class="g" x1="%.1f" x2="%.1f" y1="32" y2="122"/>`, x, x)
		fmt.Fprintf(&b, `<text x="%.1f" y="138" text-anchor="middle">%s</text>`, x, short(t))
	}
	colours := []string{"var(--good)", "var(--bad)", "var(--soft)"}
	for k, list := range rows {
		y := 32 + row*(float64(k)+0.5)
		fmt.Fprintf(&b, `<text x="%g" y="%.1f" text-anchor="end">%s</text>`, from-10, y+4, labels[k])
		for i, a := range list[:min(len(list), maxDots)] {
			dy := float64(i%5-2) * 3.2 // separates dots at the same distance
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3.4" style="fill:%s;fill-opacity:.55">`+
				`<title>%s: distance %.4g, reward %.3f</title></circle>`, px(*a.Distance), y+dy, colours[k],
				html.EscapeString(a.ID), *a.Distance, a.Reward)
		}
	}
	return inline(width, height, task, b.String())
}

// shorten returns at most n characters of s.
func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

type measureCell struct {
	Text, Interval, Class string
}

type measureRow struct {
	Title, Doc string
	Cells      []measureCell
}

// taskMeasures are the measures of one task, with the columns of the page.
type taskMeasures struct {
	Name               string
	Measures, Controls []measureRow
}

type rewardClip struct {
	RewardClip
	Source           template.URL
	Success, Known   bool
	Reward, Distance string
	Note             string
}

type falseSuccessesView struct {
	Name            string
	Count, Failures int
	Clips           []rewardClip
}

type scoreRow struct {
	ID, Task, Label, Class, Remark string
	Cells                          []scoreCell
}

type scoreCell struct {
	Reward, Distance string
	Width            int // of the bar, percent
	Class            string
}

type encoderView struct {
	Name, Version string
	Curves        template.HTML
	Distances     []template.HTML
	MoreTasks     int
	Hue           int // of the curve beside the frames
}

type rewardView struct {
	Style                                     template.CSS
	Title, Summary, Written, Command, Version string
	Tiles                                     []tile
	Columns                                   []string
	Measures, Controls                        []measureRow
	ByTask                                    []taskMeasures
	MoreTasks                                 int
	Encoders                                  []encoderView
	Clips                                     []rewardClip
	FalseSuccesses                            []falseSuccessesView
	Tasks                                     []audit.Task
	Several                                   bool
	Scores                                    []scoreRow
	MoreScores                                int
	Warnings                                  []string
	Notes                                     []string
	Equal                                     string
	Bootstrap                                 int
}

// maxTasks limits the tasks that are shown in detail, maxRows the table of attempts. results.json has all
// of them.
const (
	maxTasks = 12
	maxRows  = 500
)

// RewardHTML writes the page as one file that needs no other resource.
func RewardHTML(w io.Writer, p RewardPage) error {
	if len(p.Encoders) == 0 {
		return plugins.Errorf(plugins.Internal, "the page has no scores")
	}
	first := p.Encoders[0]
	v := rewardView{Style: styles(rewardStyle), Title: p.Title, Command: p.Command,
		Version: p.Version, Warnings: p.Warnings, Tasks: first.Tasks,
		Several: len(p.Encoders) > 1, Bootstrap: first.Metrics.Bootstrap}
	v.Written = date(p.Now)
	v.summary(p)
	v.measures(p)
	for n, s := range p.Encoders {
		e := encoderView{Name: encoderName(s.Encoder), Version: s.EncoderVersion, Hue: n % hues}
		if chosen := ChooseCurves(first); len(chosen) > 0 && len(s.Curves) > 0 { // the same attempts for all encoders
			e.Curves = template.HTML(inline(2*panelWidth, 2*panelHeight, "progress curves, "+e.Name,
				curvesBody(s, chosen)))
		}
		for i, t := range s.Tasks {
			if i == maxTasks {
				e.MoreTasks = len(s.Tasks) - i
				break
			}
			e.Distances = append(e.Distances, template.HTML(distances(s, t.Name)))
		}
		v.Encoders = append(v.Encoders, e)
		v.Notes = append(v.Notes, s.Metrics.Notes...)
	}
	v.Clips = clipViews(p.Clips, first)
	for i, f := range p.FalseSuccesses {
		v.FalseSuccesses = append(v.FalseSuccesses, falseSuccessesView{encoderName(f.Encoder), f.Count, f.Failures,
			clipViews(f.Clips, p.Encoders[i])})
	}
	v.scores(p)
	if err := templates.ExecuteTemplate(w, "reward.html", v); err != nil {
		return plugins.Errorf(plugins.Internal, "the page cannot be written: %w", err)
	}
	return nil
}

func (v *rewardView) summary(p RewardPage) {
	var names []string
	for _, s := range p.Encoders {
		if s.Encoder != "" {
			names = append(names, fmt.Sprintf("%s (%d numbers)", s.Encoder, s.Dimension))
		} else {
			names = append(names, fmt.Sprintf("embeddings as given (%d numbers)", s.Dimension))
		}
	}
	v.Summary = fmt.Sprintf("encoder %s · reward %s · clustering %s · references %s", strings.Join(names, ", "),
		p.Reward, p.Cluster, p.References)
	first := p.Encoders[0]
	attempts, successes, failures, unlabelled, dropped, centres := 0, 0, 0, 0, 0, 0
	for _, t := range first.Tasks {
		attempts += t.Attempts
		successes += t.Successes
		failures += t.Failures
		unlabelled += t.Unlabelled
		dropped += t.Unusable
		centres += t.Centres
	}
	v.Tiles = []tile{
		{"attempts", fmt.Sprint(attempts), Count(len(first.Tasks), "task")},
		{"labels", fmt.Sprintf("%d / %d", successes, failures), fmt.Sprintf("successes / failures, %d unlabelled",
			unlabelled)},
		{"not usable", fmt.Sprint(dropped), "videos or embeddings; reasons below"},
		{"centres", fmt.Sprint(centres), "of successes, over all tasks"},
	}
	for _, s := range p.Encoders {
		if len(v.Tiles) >= 8 {
			break
		}
		label := "AUROC"
		if s.Encoder != "" {
			label += ", " + s.Encoder
		}
		m, ok := s.Metrics.Mean["auroc"]
		if !ok {
			v.Tiles = append(v.Tiles, tile{label, "–", "needs 2 successes and 1 failure of a task"})
			continue
		}
		note := fmt.Sprintf("95 %%: %s, centres held out", m.Interval())
		switch {
		case m.TooFew:
			note = fmt.Sprintf("too few to tell: fewer than %d successes or failures", audit.FewestAttempts)
		case m.Low <= 0.5:
			note += "; not better than chance"
		}
		v.Tiles = append(v.Tiles, tile{label, fmt.Sprintf("%.3f", m.Value), note})
	}
}

func (v *rewardView) measures(p RewardPage) {
	var columns []audit.Measured
	var frames []string
	for _, s := range p.Encoders {
		name := encoderName(s.Encoder)
		columns, v.Columns = append(columns, s.Metrics.Measured), append(v.Columns, name)
		if e := s.Metrics.EqualLength; e != nil {
			columns, v.Columns = append(columns, e.Measured), append(v.Columns, name+", equal length")
			if len(frames) == 0 {
				for t, n := range e.Frames {
					frames = append(frames, fmt.Sprintf("%s %d", t, n))
				}
			}
		}
	}
	if len(frames) > 0 {
		sort.Strings(frames)
		if len(frames) > 8 {
			frames = append(frames[:8], "…")
		}
		v.Equal = "Equal length: the clips of a task are cut to the shortest labelled one; frames: " +
			strings.Join(frames, ", ") + "."
	}
	v.Measures, v.Controls = measureRows(columns, func(m audit.Measured) audit.Measures { return m.Mean })
	if tasks := p.Encoders[0].Tasks; len(tasks) > 1 {
		for _, t := range tasks {
			x := taskMeasures{Name: t.Name}
			x.Measures, x.Controls = measureRows(columns,
				func(m audit.Measured) audit.Measures { return m.Tasks[t.Name] })
			switch {
			case len(x.Measures)+len(x.Controls) == 0:
			case len(v.ByTask) == maxTasks:
				v.MoreTasks++
			default:
				v.ByTask = append(v.ByTask, x)
			}
		}
	}
}

// measureRows returns a row for each measure that a column has, with a cell per column.
func measureRows(columns []audit.Measured,
	of func(audit.Measured) audit.Measures) (measures, controls []measureRow) {
	for _, n := range audit.Names {
		row := measureRow{Title: n.Title, Doc: n.Doc}
		found := false
		for _, m := range columns {
			x, ok := of(m)[n.Key]
			found = found || ok
			if !ok {
				row.Cells = append(row.Cells, measureCell{Text: "–"})
				continue
			}
			row.Cells = append(row.Cells, measureCell{fmt.Sprintf("%.3f", x.Value),
				x.Interval(), valueClass(n, x)})
		}
		switch {
		case !found:
		case n.Control:
			controls = append(controls, row)
		default:
			measures = append(measures, row)
		}
	}
	return measures, controls
}

// valueClass returns the CSS class of a value: "few" if it rests on too few attempts, "good" if its interval is above
// the value of a reward without signal, "bad" if not, and "" for measures that only serve for comparison.
func valueClass(n audit.Name, x audit.Value) string {
	if x.TooFew {
		return "few"
	}
	switch n.Key {
	case "auroc", "voc", "order", "progress_rank", "progress_order", "reversed_auroc", "stalled_auroc", "other_auroc":
		if x.Low > n.Blind {
			return "good"
		}
		return "bad"
	case "length_auroc":
		if x.Low > 0.5 || x.High < 0.5 {
			return "bad" // length alone separates successes from failures
		}
	}
	return ""
}

// clipViews returns clips with the scores of an encoder.
func clipViews(clips []RewardClip, s audit.Scored) (out []rewardClip) {
	byID := map[string]audit.Score{}
	for _, a := range s.Attempts {
		byID[a.ID] = a
	}
	for _, c := range clips {
		a := byID[c.ID]
		x := rewardClip{RewardClip: c, Source: gifURL(c.GIF), Known: a.Success != nil,
			Success: a.Success != nil && *a.Success, Reward: fmt.Sprintf("%.3f", a.Reward), Distance: "–",
			Note: a.Note}
		if a.Distance != nil {
			x.Distance = fmt.Sprintf("%.4g", *a.Distance)
		}
		out = append(out, x)
	}
	return out
}

func (v *rewardView) scores(p RewardPage) {
	first := p.Encoders[0]
	for i, a := range first.Attempts {
		if i == maxRows {
			v.MoreScores = len(first.Attempts) - i
			break
		}
		row := scoreRow{ID: a.ID, Task: a.Task, Label: "unlabelled", Remark: a.Reason}
		if a.Success != nil {
			row.Label, row.Class = "failure", "bad"
			if *a.Success {
				row.Label, row.Class = "success", "good"
			}
		}
		if row.Remark == "" {
			row.Remark = a.Note
		}
		for _, s := range p.Encoders {
			x := s.Attempts[i]
			c := scoreCell{Reward: fmt.Sprintf("%.3f", x.Reward), Distance: "–",
				Width: int(math.Round(100 * x.Reward)), Class: row.Class}
			if x.Dropped {
				c.Reward, c.Width = "dropped", 0
			}
			if x.Distance != nil {
				c.Distance = fmt.Sprintf("%.4g", *x.Distance)
			}
			row.Cells = append(row.Cells, c)
		}
		v.Scores = append(v.Scores, row)
	}
}
