package report

import (
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"time"

	"github.com/srpo-dev/srpo/plugins"
)

// EvalPage is what an evaluation's page shows.
type EvalPage struct {
	Name, Summary string
	Tiles         []EvalTile
	Sections      []EvalSection
	// Beside is a table of published rows with its header, BesideWords says whose they are.
	Beside      [][]string
	BesideWords string
	Kinds       []EvalKind
	Notes       []string
	// Facts are names and values.
	Facts [][2]string
	// MaxVideoBytes bounds the videos together; 0: 24 MiB.
	MaxVideoBytes int
	// Now is written on the page; the zero time leaves it out.
	Now time.Time
}

// EvalTile is a rate that stands out. Rates are 0 to 1.
type EvalTile struct {
	Label, Note     string
	Rate, Low, High float64
}

// EvalSection is a list of rates, drawn as points with their intervals.
type EvalSection struct {
	Title string
	Rates []EvalRate
}

// EvalRate is a line of a section; Nested ones belong to the one before them.
type EvalRate struct {
	Name                string
	Rate, Low, High     float64
	Successes, Episodes int
	MeanSteps           float64
	Nested              bool
}

// EvalKind is a way in which episodes ended, with examples.
type EvalKind struct {
	Group, Outcome string
	Success        bool
	Episodes       int
	Clips          []EvalClip
}

// EvalClip is an episode's video; no GIF: it cannot be read.
type EvalClip struct {
	ID    string
	Steps int
	GIF   []byte
}

// Write writes the page without any outside resource.
func (p EvalPage) Write(w io.Writer) error {
	left := p.MaxVideoBytes
	if left <= 0 {
		left = 24 << 20
	}
	leftOut := 0
	page, err := evalPage.Clone() // its functions are this page's own
	if err != nil {
		return plugins.Errorf(plugins.Internal, "the report's template: %w", err)
	}
	err = page.Funcs(template.FuncMap{
		"percent": percent,
		"gif": func(data []byte) template.URL {
			if len(data) > left {
				leftOut++
				return ""
			}
			left -= len(data)
			return template.URL("data:image/gif;base64," + base64.StdEncoding.EncodeToString(data))
		},
		"leftOut": func() int { return leftOut },
		"dots":    func(r EvalRate) template.HTML { return template.HTML(r.draw()) },
		"written": func() string {
			if p.Now.IsZero() {
				return ""
			}
			return p.Now.UTC().Format("2006-01-02 15:04 UTC")
		},
	}).Execute(w, struct {
		EvalPage
		Style template.CSS
	}{p, template.CSS(style + pageStyle + evalStyle)})
	if err != nil {
		return plugins.Errorf(plugins.Internal, "the report cannot be written: %w", err)
	}
	return nil
}

// draw is a rate on a scale from 0 to 100 %, with its interval.
func (r EvalRate) draw() string {
	const width, height = 220.0, 18.0
	x := func(v float64) float64 { return 6 + v*(width-12) }
	body := ""
	for _, v := range []float64{0, .25, .5, .75, 1} {
		body += fmt.Sprintf(`<line class="g" x1="%.1f" x2="%.1f" y1="2" y2="16"/>`, x(v), x(v))
	}
	hue := 0
	if r.Nested {
		hue = 2
	}
	body += fmt.Sprintf(`<line class="l c%d" x1="%.1f" x2="%.1f" y1="9" y2="9" style="opacity:.55"/><circle class="f%d" cx="%.1f" cy="9" r="4"/>`, hue, x(r.Low), x(r.High), hue, x(r.Rate))
	return inline(width, height, fmt.Sprintf("%s: %s", r.Name, percent(r.Rate)), body)
}

const evalStyle = `
td.d{width:230px;padding-right:14px}td.d svg{display:block;width:220px;height:18px}tr.in td:first-child{padding-left:18px;color:var(--soft)}
table.by td,table.by th{text-align:right}table.by td:first-child,table.by th:first-child{text-align:left}table.by tr.own td{font-weight:650;color:var(--ink)}
`

var evalPage = template.Must(template.New("eval").Funcs(template.FuncMap{"percent": percent,
	"gif": func([]byte) template.URL { return "" }, "leftOut": func() int { return 0 },
	"dots": func(EvalRate) template.HTML { return "" }, "written": func() string { return "" }}).Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{{.Name}} · srpo</title><style>{{.Style}}</style></head>
<body><main>
<header><h1>{{.Name}}</h1><span class="pill">evaluation</span><span class="sub">{{.Summary}}</span></header>
<div class="tiles">{{range .Tiles}}<div class="tile"><span>{{.Label}}</span><b>{{percent .Rate}}</b><span>95 %: {{percent .Low}} to {{percent .High}}</span><span>{{.Note}}</span></div>{{end}}</div>
{{range .Notes}}<p class="hint">{{.}}</p>{{end}}
{{range .Sections}}<h2>{{.Title}}</h2><div class="card wide"><table><tr><th></th><th>0 to 100 %</th><th>success</th><th>95 %</th><th>episodes</th><th>mean steps</th></tr>
{{range .Rates}}<tr{{if .Nested}} class="in"{{end}}><td>{{.Name}}</td><td class="d">{{dots .}}</td><td class="n">{{percent .Rate}}</td><td class="n">{{percent .Low}} to {{percent .High}}</td><td class="n">{{.Successes}} of {{.Episodes}}</td><td class="n">{{printf "%.0f" .MeanSteps}}</td></tr>
{{end}}</table></div>{{end}}
{{if .Beside}}<h2>Beside published results</h2><p class="hint">{{.BesideWords}}</p><div class="card wide"><table class="by">{{range $i, $line := .Beside}}<tr{{if eq $i 1}} class="own"{{end}}>{{range $line}}{{if eq $i 0}}<th>{{.}}</th>{{else}}<td class="n">{{.}}</td>{{end}}{{end}}</tr>
{{end}}</table></div>{{end}}
<h2>How episodes ended</h2>
<div class="clips">{{range .Kinds}}{{$k := .}}{{range .Clips}}<div class="card clip{{if $k.Success}} yes{{end}}">{{$src := gif .GIF}}{{if and .GIF $src}}<img src="{{$src}}" alt="episode {{.ID}}" loading="lazy">{{else}}<div class="none">the video is not shown</div>{{end}}
<div class="w"><div class="r">{{if $k.Success}}<span class="good">success</span>{{else}}<span class="bad">failure</span>{{end}}<span>{{$k.Group}}</span></div><div>{{$k.Outcome}} · one of {{$k.Episodes}}</div><div>{{.Steps}} steps</div><div class="id m">{{.ID}}</div></div></div>{{end}}{{end}}</div>
<div class="card wide" style="margin-top:14px"><table><tr><th></th><th>ended</th><th>episodes</th></tr>{{range .Kinds}}<tr><td>{{.Group}}</td><td>{{.Outcome}}</td><td class="n">{{.Episodes}}</td></tr>{{end}}</table></div>
{{with leftOut}}<p class="hint">{{.}} more videos in the folder.</p>{{end}}
<h2>What ran</h2><div class="card"><table>{{range .Facts}}<tr><td>{{index . 0}}</td><td class="m">{{index . 1}}</td></tr>{{end}}</table></div>
<footer>Intervals are 95 %: Wilson's for rates, squared and added for plain means.{{with written}} Written {{.}}.{{end}}</footer>
</main></body></html>
`))
