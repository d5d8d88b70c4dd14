package report

import (
	"bytes"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/stats"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// Page limits the content of a page.
type Page struct {
	// MaxVideos is the maximum number of rollouts shown, default 36; MaxVideoBytes limits their total size,
	// default 12 MiB.
	MaxVideos, MaxVideoBytes int
	// Now is the date on the page; the zero time omits it.
	Now time.Time
}

// WriteRun writes report.html into a run folder that is open for writing.
func WriteRun(r *store.Run) error {
	page, err := Render(r.Dir(), Page{Now: time.Now()})
	if err != nil {
		return err
	}
	return r.WriteFile("report.html", page)
}

// Render returns the page of a run folder. The run need not be finished.
func Render(dir string, p Page) ([]byte, error) {
	rec, err := store.Read(dir)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = HTML(&b, rec, p)
	return b.Bytes(), err
}

// HTML writes the page of a run as one file that needs no other resource.
func HTML(w io.Writer, rec *store.Record, p Page) error {
	if p.MaxVideos <= 0 {
		p.MaxVideos = 36
	}
	if p.MaxVideoBytes <= 0 {
		p.MaxVideoBytes = 12 << 20
	}
	v := view{Style: styles(""), Name: filepath.Base(rec.Dir), Problems: rec.Problems}
	v.Written = date(p.Now)
	settings := decodeConfig(rec.Config)
	v.head(rec, settings)
	v.charts(rec)
	v.rollouts(rec, p)
	v.Settings = settingRows(settings)
	if v.Settings == nil {
		v.RawConfig = rec.Config
	}
	v.manifest(rec.Manifest)
	v.warnings(rec.Events)
	if err := templates.ExecuteTemplate(w, "run.html", v); err != nil {
		return plugins.Errorf(plugins.Internal, "the report cannot be written: %w", err)
	}
	return nil
}

type tile struct{ Label, Value, Note string }

type row struct {
	Key, Value, Doc string
	Changed         bool
}

type rows struct {
	Name string
	Rows []row
}

type rollout struct {
	store.Episode
	Source                   template.URL
	RewardText, DistanceText string
	Missing                  string
	StepsText                string
}

type iterationRollouts struct {
	Iteration int
	Rollouts  []rollout
}

type warning struct {
	When, Type, Message, Place, Hint, Detail string
	Iteration                                int
	Bad                                      bool
}

// view is the data of the template.
type view struct {
	Style                 template.CSS
	Name, Status, Summary string
	StatusClass           string
	Written               string
	Tiles                 []tile
	Success, Small, Work  []template.HTML
	Audit                 []template.HTML
	Rollouts              []iterationRollouts
	Omitted               int
	Settings              []rows
	RawConfig             string
	Manifest              []row
	Plugins               []store.Plugin
	Warnings              []warning
	MoreWarnings          int
	Problems              []string
}

func decodeConfig(text string) map[string]any {
	var m map[string]any
	if _, err := toml.Decode(text, &m); err != nil || len(m) == 0 {
		return nil
	}
	return m
}

// head sets the title, the status and the tiles.
func (v *view) head(rec *store.Record, settings map[string]any) {
	run, _ := settings["run"].(map[string]any)
	reward, _ := settings["reward"].(map[string]any)
	var what []string
	for _, k := range []string{"env", "policy", "encoder"} {
		if s, ok := run[k].(string); ok && s != "" {
			what = append(what, k+" "+s)
		}
	}
	if s, ok := reward["kind"].(string); ok {
		what = append(what, "reward "+s)
	}
	if rec.Manifest != nil {
		if rec.Manifest.Name != "" {
			v.Name = rec.Manifest.Name
		}
		what = append(what, fmt.Sprintf("seed %d", rec.Manifest.Seed))
	}
	v.Summary = strings.Join(what, " · ")
	v.status(rec.Events)
	v.tiles(rec)
}

// status sets the status from the last event that changed it.
func (v *view) status(events []store.Event) {
	v.Status, v.StatusClass = "not finished", ""
	for _, e := range events {
		switch e.Type {
		case store.Finished:
			v.Status, v.StatusClass = "finished", "good"
		case store.Interrupted:
			v.Status, v.StatusClass = "interrupted", ""
		case store.Failed:
			v.Status, v.StatusClass = "failed: "+e.Message, "bad"
		case store.Started, store.ResumedRun:
			v.Status, v.StatusClass = "not finished", ""
		}
	}
}

// tiles sets the numbers at the top of the page.
func (v *view) tiles(rec *store.Record) {
	if len(rec.Metrics) == 0 {
		v.Tiles = []tile{{"iterations", "0", "no iteration was committed yet"}}
		return
	}
	last := rec.Metrics[len(rec.Metrics)-1]
	var seconds float64
	episodes, best := 0, 0
	for i, m := range rec.Metrics {
		if m.Seconds > 0 {
			seconds += m.Seconds
		}
		episodes += m.Episodes
		if b := rec.Metrics[best].SuccessRate; math.IsNaN(b) || m.SuccessRate > b {
			best = i
		}
	}
	low, high := stats.Wilson(last.SuccessRate, last.Episodes)
	first := rec.Metrics[0]
	v.Tiles = []tile{
		{"success, last iteration", percent(last.SuccessRate), fmt.Sprintf("95 %%: %s to %s of %d episodes",
			percent(low), percent(high), last.Episodes)},
		{"success, first iteration", percent(first.SuccessRate), fmt.Sprintf("iteration %d, %d episodes",
			first.Iteration, first.Episodes)},
		{"best iteration", percent(rec.Metrics[best].SuccessRate), fmt.Sprintf("iteration %d",
			rec.Metrics[best].Iteration)},
	}
	for i := len(rec.Events) - 1; i >= 0; i-- {
		if e := rec.Events[i].Evaluation; e != nil {
			l, h := stats.Wilson(e.SuccessRate, e.Episodes)
			note := fmt.Sprintf("95 %%: %s to %s of %d", percent(l), percent(h), e.Episodes)
			if e.StartStates != "" {
				note += ", start states: " + e.StartStates
			}
			v.Tiles = append(v.Tiles, tile{"last evaluation", percent(e.SuccessRate), note})
			break
		}
	}
	v.Tiles = append(v.Tiles,
		tile{"iterations", fmt.Sprint(len(rec.Metrics)), fmt.Sprintf("%s episodes", short(float64(episodes)))},
		tile{"env steps", short(float64(last.EnvSteps)), fmt.Sprintf("%s per second",
			short(math.Round(float64(last.EnvSteps)/seconds)))},
		tile{"time", duration(seconds), fmt.Sprintf("%s per iteration", duration(seconds/float64(len(rec.Metrics))))})
}

func percent(v float64) string {
	if math.IsNaN(v) {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*v)
}

// duration formats seconds as 12 s, 3 min 05 s or 2 h 07 min.
func duration(s float64) string {
	switch {
	case math.IsNaN(s) || math.IsInf(s, 0):
		return "–"
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	case s < 60:
		return fmt.Sprintf("%.0f s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %02d s", int(s)/60, int(s)%60)
	}
	return fmt.Sprintf("%d h %02d min", int(s)/3600, int(s)%3600/60)
}

// column returns one number per iteration.
func column(ms []store.Metrics, get func(store.Metrics) float64) []float64 {
	out := make([]float64, len(ms))
	for i, m := range ms {
		out[i] = get(m)
	}
	return out
}

func (v *view) charts(rec *store.Record) {
	ms := rec.Metrics
	iteration := column(ms, func(m store.Metrics) float64 { return float64(m.Iteration) })
	v.successCharts(rec, iteration)
	v.metricCharts(ms, iteration)
	v.auditCharts(ms)
	v.phaseChart(ms, iteration)
	v.Work = append(v.Work, template.HTML(bars("Groups", "iteration", 600, 250, iteration,
		[]string{"kept", "dropped"}, [][]float64{
			column(ms, func(m store.Metrics) float64 { return float64(m.GroupsKept) }),
			column(ms, func(m store.Metrics) float64 { return float64(m.GroupsDropped) }),
		})))
}

// successCharts draws the success rates of training and of evaluations, by iteration and by env steps.
func (v *view) successCharts(rec *store.Record, iteration []float64) {
	ms := rec.Metrics
	training := series{name: "training, 95 % band",
		y: column(ms, func(m store.Metrics) float64 { return m.SuccessRate })}
	for _, m := range ms {
		low, high := stats.Wilson(m.SuccessRate, m.Episodes)
		training.low, training.high = append(training.low, low), append(training.high, high)
	}
	evaluated := series{name: "evaluated", hue: 1, marks: true}
	var evalIterations, evalSteps []float64
	for _, e := range rec.Events {
		if e.Evaluation == nil {
			continue
		}
		low, high := stats.Wilson(e.Evaluation.SuccessRate, e.Evaluation.Episodes)
		evaluated.y = append(evaluated.y, e.Evaluation.SuccessRate)
		evaluated.low, evaluated.high = append(evaluated.low, low), append(evaluated.high, high)
		evalIterations = append(evalIterations, float64(e.Iteration))
		evalSteps = append(evalSteps, float64(e.Evaluation.EnvSteps))
	}
	draw := func(axis string, x, evalX []float64) {
		training.x, evaluated.x = x, evalX
		c := chart{title: "Success rate by " + axis, xLabel: axis, percent: true, whole: true, width: 600,
			height: 300,
			series: []series{training}}
		if len(evalX) > 0 {
			c.series = append(c.series, evaluated)
		}
		v.Success = append(v.Success, template.HTML(c.inline()))
	}
	draw("iteration", iteration, evalIterations)
	draw("env steps", column(ms, func(m store.Metrics) float64 { return float64(m.EnvSteps) }), evalSteps)
}

// maxExtra limits the charts of metrics that a policy or the host added.
const maxExtra = 12

// metricCharts draws one small chart per metric.
func (v *view) metricCharts(ms []store.Metrics, iteration []float64) {
	draw := func(title string, hue int, get func(store.Metrics) float64) {
		c := chart{title: title, xLabel: "iteration", whole: true, width: 320, height: 190,
			series: []series{{hue: hue, x: iteration, y: column(ms, get)}}}
		v.Small = append(v.Small, template.HTML(c.inline()))
	}
	draw("Mean reward", 2, func(m store.Metrics) float64 { return m.RewardMean })
	draw("KL to the starting policy", 3, func(m store.Metrics) float64 { return m.KL })
	draw("Clip fraction", 4, func(m store.Metrics) float64 { return m.ClipFraction })
	draw("Gradient norm", 5, func(m store.Metrics) float64 { return m.GradNorm })
	draw("Clusters of successes", 0, func(m store.Metrics) float64 { return float64(m.Clusters) })
	draw("Embeddings dropped", 1, func(m store.Metrics) float64 { return float64(m.EmbeddingsDropped) })
	extra := map[string]bool{}
	for _, m := range ms {
		for k := range m.Extra {
			if !strings.HasPrefix(k, "audit_") {
				extra[k] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(extra))
	for _, k := range names[:min(len(names), maxExtra)] {
		draw(k, 0, func(m store.Metrics) float64 {
			if x, ok := m.Extra[k]; ok {
				return x
			}
			return math.NaN()
		})
	}
}

// phaseChart draws the seconds of each phase: first those of [store.Phases] in their order, then all others.
func (v *view) phaseChart(ms []store.Metrics, iteration []float64) {
	used := map[string]bool{}
	for _, m := range ms {
		for p := range m.SecondsByPhase {
			used[p] = true
		}
	}
	var phases []string
	for _, p := range store.Phases {
		if used[p] {
			phases = append(phases, p)
			delete(used, p)
		}
	}
	phases = append(phases, slices.Sorted(maps.Keys(used))...)
	parts := make([][]float64, len(phases))
	for i, p := range phases {
		parts[i] = column(ms, func(m store.Metrics) float64 { return m.SecondsByPhase[p] })
	}
	v.Work = append(v.Work, template.HTML(bars("Seconds by phase", "iteration", 600, 250, iteration, phases, parts)))
}

// auditCharts draws the measures of the reward that the run computes every few iterations.
func (v *view) auditCharts(ms []store.Metrics) {
	line := func(name, key string, hue int, band bool) series {
		s := series{name: name, hue: hue}
		for _, m := range ms {
			x, ok := m.Extra[key]
			if !ok {
				continue
			}
			s.x, s.y = append(s.x, float64(m.Iteration)), append(s.y, x)
			if band {
				s.low, s.high = append(s.low, m.Extra[key+"_low"]), append(s.high, m.Extra[key+"_high"])
			}
		}
		return s
	}
	draw := func(title string, list ...series) {
		c := chart{title: title, xLabel: "iteration", whole: true, percent: true, width: 600, height: 250}
		for _, s := range list {
			if len(s.x) > 0 {
				c.series = append(c.series, s)
			}
		}
		if len(c.series) > 0 {
			v.Audit = append(v.Audit, template.HTML(c.inline()))
		}
	}
	draw("AUROC of the reward", line("reward, 95 % band", "audit_auroc", 0, true),
		line("length alone", "audit_length_auroc", 1, false))
	draw("Order of failures: agreement with the env's progress", line("share of pairs", "audit_progress_order", 2,
		true))
}

// rollouts selects the videos: of the last iteration, of the first, then of iterations spread over the
// others, until the limits are reached.
func (v *view) rollouts(rec *store.Record, p Page) {
	by := map[int][]store.Episode{}
	var its []int
	for _, e := range rec.Episodes {
		if by[e.Iteration] == nil {
			its = append(its, e.Iteration)
		}
		by[e.Iteration] = append(by[e.Iteration], e)
	}
	videos, bytes := p.MaxVideos, p.MaxVideoBytes
	var shown []iterationRollouts
	for _, i := range spread(len(its)) {
		group := iterationRollouts{Iteration: its[i]}
		for _, e := range by[its[i]] {
			if videos == 0 {
				break
			}
			data, err := rec.Video(e)
			r := rollout{Episode: e, RewardText: fmt.Sprintf("%.3f", e.Reward), DistanceText: "–",
				StepsText: fmt.Sprint(e.Steps)}
			if e.Distance != nil {
				r.DistanceText = fmt.Sprintf("%.3g", *e.Distance)
			}
			switch {
			case err != nil:
				r.Missing = "video missing"
			case len(data) > bytes:
				continue
			default:
				bytes -= len(data)
				r.Source = gifURL(data)
			}
			videos--
			group.Rollouts = append(group.Rollouts, r)
		}
		if len(group.Rollouts) > 0 {
			shown = append(shown, group)
		}
	}
	total := 0
	for _, g := range shown {
		total += len(g.Rollouts)
	}
	v.Omitted = len(rec.Episodes) - total
	sort.Slice(shown, func(i, j int) bool { return shown[i].Iteration > shown[j].Iteration })
	v.Rollouts = shown
}

// spread returns 0 to n-1 in the order last, first, middle, quarters and so on, so that every prefix is
// spread over the range.
func spread(n int) []int {
	var out []int
	taken := make([]bool, n)
	take := func(i int) {
		if i >= 0 && i < n && !taken[i] {
			taken[i] = true
			out = append(out, i)
		}
	}
	take(n - 1)
	take(0)
	for parts := 2; len(out) < n; parts *= 2 {
		for k := 1; k < parts; k += 2 {
			take(k * (n - 1) / parts)
		}
		if parts > 2*n {
			for i := range n {
				take(i)
			}
		}
	}
	return out
}

// settingRows returns the settings by section and marks those that differ from the host's defaults.
func settingRows(settings map[string]any) []rows {
	if settings == nil {
		return nil
	}
	var out []rows
	for _, s := range config.Reference() {
		table, _ := settings[s.Name].(map[string]any)
		if len(table) == 0 {
			continue
		}
		r := rows{Name: s.Name}
		known := map[string]bool{}
		for _, d := range s.Settings {
			known[d.Name] = true
			if x, ok := table[d.Name]; ok {
				r.Rows = append(r.Rows, row{Key: d.Name, Value: text(x), Doc: d.Doc,
					Changed: text(x) != text(d.Default)})
			}
		}
		for _, k := range slices.Sorted(maps.Keys(table)) {
			if !known[k] {
				r.Rows = append(r.Rows, row{Key: k, Value: text(table[k]), Changed: true})
			}
		}
		out = append(out, r)
	}
	for _, kind := range plugins.Kinds {
		byName, _ := settings[string(kind)].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(byName)) {
			table, _ := byName[name].(map[string]any)
			r := rows{Name: string(kind) + "." + name}
			for _, k := range slices.Sorted(maps.Keys(table)) {
				r.Rows = append(r.Rows, row{Key: k, Value: text(table[k])})
			}
			out = append(out, r)
		}
	}
	return out
}

// text formats the value of a setting.
func text(v any) string {
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = text(e)
		}
		return strings.Join(parts, ", ")
	case []string:
		return strings.Join(v, ", ")
	case float64:
		return fmt.Sprintf("%g", v)
	}
	return fmt.Sprint(v)
}

func (v *view) manifest(m *store.Manifest) {
	if m == nil {
		return
	}
	add := func(k, value string) {
		if value != "" {
			v.Manifest = append(v.Manifest, row{Key: k, Value: value})
		}
	}
	add("command", strings.Join(m.Command, " "))
	for _, r := range m.Resumed {
		add("resumed", fmt.Sprintf("from iteration %d, %s: %s", r.Iteration,
			r.Time.UTC().Format("2006-01-02 15:04"), strings.Join(r.Command, " ")))
	}
	if !m.Created.IsZero() {
		add("created", m.Created.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	add("srpo", m.Host)
	add("go", m.Go)
	add("platform", m.Platform)
	for _, k := range slices.Sorted(maps.Keys(m.Machine)) {
		add(k, m.Machine[k])
	}
	add("seed", fmt.Sprint(m.Seed))
	add("starting checkpoint", m.Checkpoint)
	add("checkpoint hash", m.CheckpointHash)
	if n := len(m.Tasks); n > 0 {
		shown := strings.Join(m.Tasks[:min(n, 20)], ", ")
		if n > 20 {
			shown += fmt.Sprintf(" and %d more", n-20)
		}
		add(fmt.Sprintf("tasks (%d)", n), shown)
	}
	if s := m.StartStates; s != nil {
		train, test := 0, 0
		for _, l := range s.Train {
			train += len(l)
		}
		for _, l := range s.Test {
			test += len(l)
		}
		split := fmt.Sprintf("%s; train fraction %g", s.Used, s.TrainFraction)
		if train+test > 0 {
			split += fmt.Sprintf(" (%d train, %d test)", train, test)
		}
		if n := len(s.TrainTasks) + len(s.TestTasks); n > 0 {
			split += fmt.Sprintf(", by task (%d train, %d test)", len(s.TrainTasks), len(s.TestTasks))
		}
		add("start states", split)
	}
	v.Plugins = m.Plugins
}

// maxWarnings limits the list on the page.
const maxWarnings = 200

func (v *view) warnings(events []store.Event) {
	for _, e := range events {
		bad := e.Type == store.Failed || e.Type == store.PluginFailed
		if !bad && e.Type != store.Warning && e.Type != store.EpisodeRetried && e.Type != store.EmbeddingDropped &&
			e.Type != store.EpisodeDropped {
			continue
		}
		if len(v.Warnings) == maxWarnings {
			v.MoreWarnings++
			continue
		}
		w := warning{Type: strings.ReplaceAll(string(e.Type), "_", " "), Message: e.Message, Place: e.Place,
			Hint: e.Hint, Detail: e.Detail, Iteration: e.Iteration, Bad: bad}
		if !e.Time.IsZero() {
			w.When = e.Time.UTC().Format("01-02 15:04:05")
		}
		v.Warnings = append(v.Warnings, w)
	}
}
