package report

import (
	"encoding/base64"
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

// RewardPage is what the page of `srpo reward` shows.
type RewardPage struct {
	Title string
	// Reward, Cluster and References are the options that the scores were made with.
	Reward, Cluster, References string
	// Encoders have scored the same attempts, one after the other.
	Encoders []audit.Scored
	// Clips are attempts to look at, with a video each.
	Clips []RewardClip
	// Fooled has, for each encoder, the failures that it takes for successes.
	Fooled   []Fooled
	Warnings []string
	Command  string
	Version  string
	// Now is written on the page; the zero time leaves it out.
	Now time.Time
}

// RewardClip is an attempt that is shown.
type RewardClip struct {
	// Mark stands for it in the curves: S1, F3.
	Mark, ID string
	// GIF shows its frames and, beside them, its curves.
	GIF []byte
}

// Fooled are the failures that an encoder puts nearer to the centres than at least one success of their
// task: Count of the Failures with a distance.
type Fooled struct {
	Encoder  string `json:"encoder"`
	Count    int    `json:"count"`
	Failures int    `json:"failures"`
	// Indices of the attempts, the nearest first, and their IDs; Clips show the first of them.
	Indices []int        `json:"-"`
	IDs     []string     `json:"ids"`
	Clips   []RewardClip `json:"-"`
}

// WhoFools finds the failures that fool an encoder.
func WhoFools(s audit.Scored) Fooled {
	f := Fooled{Encoder: s.Encoder}
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

// Chosen are attempts whose curves are drawn.
type Chosen struct {
	// Mark is S1, S2, ... for successes, F1, F2, ... for failures.
	Mark string
	// Index in the attempts.
	Index   int
	Success bool
}

// ChooseCurves takes at most 3 successes and 5 failures among the attempts with a curve, from the task that
// has most of both where one has enough. Successes are spread over the list, failures from the most reward
// to the least.
func ChooseCurves(s audit.Scored) []Chosen {
	const successes, failures = 3, 5
	curve := map[string]bool{}
	for _, c := range s.Curves {
		curve[c.ID] = len(c.Progress) > 1
	}
	byTask := map[string][2][]int{}
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
	best, most := all, 0
	for _, t := range s.Tasks {
		if x := byTask[t.Name]; len(x[0]) >= successes && len(x[1]) >= failures && len(x[0])+len(x[1]) > most {
			best, most = x, len(x[0])+len(x[1])
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

// CurvesSVG draws an encoder's curves of the chosen attempts, successes beside failures, as a file of its
// own: above the progress of the paper's figure, every curve from its own least to its own most, and below
// the distance to the success centres, held out, all on one scale.
func CurvesSVG(s audit.Scored, chosen []Chosen) string {
	return standalone(2*panelWidth, 2*panelHeight, curvesBody(s, chosen))
}

func curvesBody(s audit.Scored, chosen []Chosen) string {
	curve := map[string]audit.Curve{}
	for _, c := range s.Curves {
		curve[c.ID] = c
	}
	far := 0.0
	panel := func(title string, success, progress bool) chart {
		c := chart{title: title, xLabel: "frame", percent: progress, whole: true, width: panelWidth,
			height: panelHeight}
		for _, x := range chosen {
			k, ok := curve[s.Attempts[x.Index].ID]
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
					far = max(far, v)
				}
				line.x, line.y = append(line.x, float64(end)), append(line.y, v)
			}
			c.series = append(c.series, line)
		}
		return c
	}
	name := s.Encoder
	if name == "" {
		name = "as given"
	}
	var b strings.Builder
	panels := []chart{panel(name+": progress of successes", true, true), panel("progress of failures", false,
		true), panel("distance of successes", true, false),
		panel("distance of failures", false, false)}
	for i, c := range panels {
		if i >= 2 {
			c.most = far
		}
		fmt.Fprintf(&b, `<g transform="translate(%g %g)">%s</g>`, float64(i%2)*panelWidth,
			float64(i/2)*panelHeight, c.draw())
	}
	return b.String()
}

// distances draws every attempt of a task as a dot at its distance.
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
		fmt.Fprintf(&b, `<line class="g" x1="%.1f" x2="%.1f" y1="32" y2="122"/><text x="%.1f" y="138" text-anchor="middle">%s</text>`, px(t), px(t), px(t), short(t))
	}
	fill := []string{"var(--good)", "var(--bad)", "var(--soft)"}
	for k, list := range rows {
		y := 32 + row*(float64(k)+0.5)
		fmt.Fprintf(&b, `<text x="%g" y="%.1f" text-anchor="end">%s</text>`, from-10, y+4, labels[k])
		for i, a := range list {
			if i >= 400 {
				break
			}
			// dots of one distance stand above each other a little
			dy := float64(i%5-2) * 3.2
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3.4" style="fill:%s;fill-opacity:.55"><title>%s: distance %.4g, reward %.3f</title></circle>`, px(*a.Distance), y+dy, fill[k],
				html.EscapeString(a.ID), *a.Distance, a.Reward)
		}
	}
	return inline(width, height, task, b.String())
}

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

// taskMeasures are the measures of one task, a column for each of the page's.
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

type fooledView struct {
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
	Hue           int // of its curve beside the frames
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
	Fooled                                    []fooledView
	Tasks                                     []audit.Task
	Several                                   bool
	Scores                                    []scoreRow
	MoreScores                                int
	Warnings                                  []string
	Notes                                     []string
	Equal                                     string
	Bootstrap                                 int
}

// mostTasks bounds the tasks that are shown one by one.
const mostTasks = 12

// mostRows bounds the page's table of attempts; results.json has them all.
const mostRows = 500

// RewardHTML writes the page: one file without any outside resource.
func RewardHTML(w io.Writer, p RewardPage) error {
	if len(p.Encoders) == 0 {
		return plugins.Errorf(plugins.Internal, "a page without scores")
	}
	first := p.Encoders[0]
	v := rewardView{Style: template.CSS(style + pageStyle + rewardStyle), Title: p.Title, Command: p.Command,
		Version: p.Version, Warnings: p.Warnings, Tasks: first.Tasks,
		Several: len(p.Encoders) > 1, Bootstrap: first.Metrics.Bootstrap}
	if !p.Now.IsZero() {
		v.Written = p.Now.UTC().Format("2006-01-02 15:04 UTC")
	}
	v.summary(p)
	v.measures(p)
	for n, s := range p.Encoders {
		e := encoderView{Name: s.Encoder, Version: s.EncoderVersion, Hue: n % hues}
		if e.Name == "" {
			e.Name = "as given"
		}
		if picked := ChooseCurves(first); len(picked) > 0 && len(s.Curves) > 0 { // the same attempts for all encoders
			e.Curves = template.HTML(inline(2*panelWidth, 2*panelHeight, "progress curves, "+e.Name,
				curvesBody(s, picked)))
		}
		for i, t := range s.Tasks {
			if i == mostTasks {
				e.MoreTasks = len(s.Tasks) - i
				break
			}
			e.Distances = append(e.Distances, template.HTML(distances(s, t.Name)))
		}
		v.Encoders = append(v.Encoders, e)
		v.Notes = append(v.Notes, s.Metrics.Notes...)
	}
	v.Clips = clipViews(p.Clips, first)
	for i, f := range p.Fooled {
		name := f.Encoder
		if name == "" {
			name = "as given"
		}
		v.Fooled = append(v.Fooled, fooledView{name, f.Count, f.Failures, clipViews(f.Clips, p.Encoders[i])})
	}
	v.scores(p)
	if err := rewardPage.Execute(w, v); err != nil {
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
	tasks := fmt.Sprintf("%d tasks", len(first.Tasks))
	if len(first.Tasks) == 1 {
		tasks = "1 task"
	}
	v.Tiles = []tile{
		{"attempts", fmt.Sprint(attempts), tasks},
		{"labels", fmt.Sprintf("%d / %d", successes, failures), fmt.Sprintf("successes / failures, %d unlabelled",
			unlabelled)},
		{"not usable", fmt.Sprint(dropped), "videos or embeddings, reasons below"},
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
			v.Tiles = append(v.Tiles, tile{label, "–", "needs 2 successes and a failure of one task"})
			continue
		}
		note := fmt.Sprintf("95 %%: %.3f to %.3f, centres held out", m.Low, m.High)
		if m.Low <= 0.5 {
			note += "; cannot be told from chance"
		}
		v.Tiles = append(v.Tiles, tile{label, fmt.Sprintf("%.3f", m.Value), note})
	}
}

func (v *rewardView) measures(p RewardPage) {
	var columns []audit.Measured
	var frames []string
	for _, s := range p.Encoders {
		name := s.Encoder
		if name == "" {
			name = "as given"
		}
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
		v.Equal = "Equal length: every clip of a task is cut to its shortest labelled one, frames: " +
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
			case len(v.ByTask) == mostTasks:
				v.MoreTasks++
			default:
				v.ByTask = append(v.ByTask, x)
			}
		}
	}
}

// measureRows have a line for each measure that a column has, and a cell for each column.
func measureRows(columns []audit.Measured, pick func(audit.Measured) audit.Measures) (measures,
	controls []measureRow) {
	for _, n := range audit.Names {
		row := measureRow{Title: n.Title, Doc: n.Doc}
		there := false
		for _, m := range columns {
			x, ok := pick(m)[n.Key]
			there = there || ok
			if !ok {
				row.Cells = append(row.Cells, measureCell{Text: "–"})
				continue
			}
			row.Cells = append(row.Cells, measureCell{fmt.Sprintf("%.3f", x.Value),
				fmt.Sprintf("%.3f to %.3f", x.Low, x.High), judge(n, x)})
		}
		switch {
		case !there:
		case n.Control:
			controls = append(controls, row)
		default:
			measures = append(measures, row)
		}
	}
	return measures, controls
}

// judge colours a measure: good where it is surely above what a blind reward has, bad where it is not, and
// nothing for what is there to be compared with.
func judge(n audit.Name, x audit.Value) string {
	switch n.Key {
	case "auroc", "voc", "order", "progress_rank", "progress_order", "reversed_auroc", "stalled_auroc", "other_auroc":
		if x.Low > n.Blind {
			return "good"
		}
		return "bad"
	case "length_auroc":
		if x.Low > 0.5 || x.High < 0.5 {
			return "bad" // length alone tells success from failure
		}
	}
	return ""
}

// clipViews are clips with what an encoder made of them.
func clipViews(clips []RewardClip, s audit.Scored) (out []rewardClip) {
	byID := map[string]audit.Score{}
	for _, a := range s.Attempts {
		byID[a.ID] = a
	}
	for _, c := range clips {
		a := byID[c.ID]
		x := rewardClip{RewardClip: c, Source: template.URL("data:image/gif;base64," +
			base64.StdEncoding.EncodeToString(c.GIF)), Known: a.Success != nil,
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
		if i == mostRows {
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

const rewardStyle = `
.wideclips{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,290px),1fr));gap:14px}
.wideclips .clip img{aspect-ratio:auto;background:var(--card);image-rendering:auto}
td.v b{font-variant-numeric:tabular-nums}td.v span{display:block;font-size:12px;color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}
table.ms td{vertical-align:middle}table.ms td:first-child{color:var(--ink)}table.ms td:first-child span{display:block;font-size:12px;color:var(--soft);white-space:normal;max-width:440px}
.bar{background:var(--grid);border-radius:4px;height:8px;width:90px;display:inline-block;vertical-align:middle;margin-right:8px;overflow:hidden}.bar i{display:block;height:8px;background:var(--s0)}
.bar i.good{background:var(--good)}.bar i.bad{background:var(--s1)}
.key{font-size:12.5px;color:var(--soft);margin:6px 2px 0}
td.nw{white-space:nowrap}
details.card{margin-bottom:10px}details.card summary{cursor:pointer}
.few{grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr))}
`

var rewardPage = template.Must(template.New("reward").Parse(`{{define "measure"}}<tr><td>{{.Title}}<span>{{.Doc}}</span></td>{{range .Cells}}<td class="v"><b class="{{.Class}}">{{.Text}}</b><span>{{.Interval}}</span></td>{{end}}</tr>
{{end}}{{define "clip"}}<div class="card clip{{if .Success}} yes{{end}}"><img src="{{.Source}}" alt="attempt {{.ID}}" loading="lazy">
<div class="w"><div class="r"><span>{{.Mark}} {{if not .Known}}unlabelled{{else if .Success}}<span class="good">success</span>{{else}}<span class="bad">failure</span>{{end}}</span><span>reward {{.Reward}}</span></div><div>distance {{.Distance}}{{if .Note}} · {{.Note}}{{end}}</div><div class="id m">{{.ID}}</div></div></div>{{end}}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{{.Title}} · srpo reward</title><style>{{.Style}}</style></head>
<body><main>
<header><h1>{{.Title}}</h1><span class="pill">srpo reward</span><span class="sub">{{.Summary}}</span></header>
<div class="tiles">{{range .Tiles}}<div class="tile"><span>{{.Label}}</span><b>{{.Value}}</b><span>{{.Note}}</span></div>{{end}}</div>
{{if .Warnings}}<h2>Warnings</h2><div class="card">{{range .Warnings}}<div>{{.}}</div>{{end}}</div>{{end}}
{{if .Measures}}<h2>Is the reward any good</h2><div class="card wide"><table class="ms"><tr><th>measure</th>{{range .Columns}}<th>{{.}}</th>{{end}}</tr>
{{range .Measures}}{{template "measure" .}}{{end}}</table></div>
<p class="key">Means over tasks; below each value its 95 % bootstrap interval ({{.Bootstrap}} resamples of attempts within each task). Green: surely better than a reward that sees nothing; red: not. SC and Mono compare a success with its own end, which a growing window must come near to: see the controls. {{.Equal}}</p>{{end}}
{{if .Controls}}<h2>Controls that a good reward must see through</h2><div class="card wide"><table class="ms"><tr><th>control</th>{{range .Columns}}<th>{{.}}</th>{{end}}</tr>
{{range .Controls}}{{template "measure" .}}{{end}}</table></div>{{end}}
{{if .ByTask}}<h2>Task by task</h2>{{range .ByTask}}<details class="card wide"><summary>{{.Name}}</summary><table class="ms"><tr><th>measure</th>{{range $.Columns}}<th>{{.}}</th>{{end}}</tr>
{{range .Measures}}{{template "measure" .}}{{end}}{{range .Controls}}{{template "measure" .}}{{end}}</table></details>{{end}}{{if .MoreTasks}}<p class="hint">and {{.MoreTasks}} more tasks in results.json</p>{{end}}{{end}}
{{range .Encoders}}{{if .Curves}}<h2>Progress over time: {{.Name}}</h2><div class="card">{{.Curves}}</div>
<p class="key">Progress, above: of a success its nearness to the end of its own video, of a failure to the nearest success centre, each curve from its least (0 %) to its most (100 %): a failure too has its 100 %. Distance, below: to the nearest centre of successes, a success measured against the others, all on one scale; 0 is a centre.</p>{{end}}{{end}}
{{if .Clips}}<h2>The same attempts, with their progress</h2>{{if .Several}}<p class="key" style="margin:0 2px 10px">{{range $i, $e := .Encoders}}<span style="color:var(--s{{$e.Hue}})">●</span> {{$e.Name}} &nbsp; {{end}}</p>{{end}}<div class="wideclips">{{range .Clips}}{{template "clip" .}}{{end}}</div>{{end}}
{{range .Fooled}}<h2>Failures that fool {{.Name}}: {{.Count}} of {{.Failures}}</h2>{{if .Clips}}<div class="wideclips">{{range .Clips}}{{template "clip" .}}{{end}}</div>{{end}}{{end}}
{{if .Fooled}}<p class="key">Failures that lie nearer to the centres than at least one success of their task (which is measured with its own share taken out), the nearest first.</p>{{end}}
{{range .Encoders}}<h2>Distances: {{.Name}}</h2><div class="two few">{{range .Distances}}<div class="card">{{.}}</div>{{end}}</div>{{if .MoreTasks}}<p class="hint">and {{.MoreTasks}} more tasks in results.json</p>{{end}}{{end}}
<p class="key">Distance to the nearest centre of the task's successes, in the units of the embedding. A success is measured with its own share taken out of its centre.</p>
<h2>Tasks</h2><div class="card wide"><table><tr><th>task</th><th>successes</th><th>failures</th><th>unlabelled</th><th>not usable</th><th>centres</th><th>reward</th><th></th></tr>
{{range .Tasks}}<tr><td>{{.Name}}</td><td class="n">{{.Successes}}</td><td class="n">{{.Failures}}</td><td class="n">{{.Unlabelled}}</td><td class="n">{{.Unusable}}</td><td class="n">{{.Centres}}{{if gt .Centres 1}} of {{range $i, $n := .Sizes}}{{if $i}}, {{end}}{{$n}}{{end}}{{end}}</td><td>{{.Reward}}</td><td>{{range .Notes}}<div>{{.}}</div>{{end}}</td></tr>{{end}}</table></div>
<h2>Attempts</h2><div class="card wide"><table><tr><th>attempt</th><th>task</th><th>label</th>{{range .Encoders}}<th>reward{{if $.Several}}, {{.Name}}{{end}}</th><th>distance</th>{{end}}<th></th></tr>
{{range .Scores}}<tr><td class="m">{{.ID}}</td><td>{{.Task}}</td><td class="{{.Class}}">{{.Label}}</td>{{range .Cells}}<td class="n nw"><span class="bar"><i class="{{.Class}}" style="width:{{.Width}}%"></i></span>{{.Reward}}</td><td class="n">{{.Distance}}</td>{{end}}<td>{{.Remark}}</td></tr>{{end}}</table>{{if .MoreScores}}<p class="hint">and {{.MoreScores}} more in results.json</p>{{end}}</div>
{{range .Notes}}<p class="hint">{{.}}</p>{{end}}
<footer>{{if .Command}}<span class="m">{{.Command}}</span><br>{{end}}{{if .Version}}srpo {{.Version}}. {{end}}{{if .Written}}Written {{.Written}}.{{end}}</footer>
</main></body></html>
`))
