package report

import (
	"fmt"
	"html/template"
	"io"
	"time"

	"github.com/srpo-dev/srpo/plugins"
)

// EvalPage is the content of an evaluation's page.
type EvalPage struct {
	Name, Summary string
	Tiles         []EvalTile
	Sections      []EvalSection
	// Published is a table of published results with its header. The first row after the header is this
	// evaluation. PublishedNote gives the sources.
	Published     [][]string
	PublishedNote string
	Kinds         []EvalKind
	Notes         []string
	// Facts are names and values.
	Facts [][2]string
	// MaxVideoBytes limits the size of all videos together; 0 means 24 MiB.
	MaxVideoBytes int
	// Now is the date on the page; the zero time omits it.
	Now time.Time
}

// EvalTile is a highlighted rate. Rates are between 0 and 1.
type EvalTile struct {
	Label, Note     string
	Rate, Low, High float64
}

// EvalSection is a list of rates, drawn as points with their intervals.
type EvalSection struct {
	Title string
	Rates []EvalRate
}

// EvalRate is a line of a section. A Nested line is part of the line before it that is not nested.
type EvalRate struct {
	Name                string
	Rate, Low, High     float64
	Successes, Episodes int
	MeanSteps           float64
	Nested              bool
}

// EvalKind is one way in which episodes ended, with examples.
type EvalKind struct {
	Group, Outcome string
	Success        bool
	Episodes       int
	Clips          []EvalClip
}

// EvalClip is the video of an episode. GIF is nil if it cannot be read.
type EvalClip struct {
	ID    string
	Steps int
	GIF   []byte
}

// evalView is the data of the template.
type evalView struct {
	EvalPage
	Style   template.CSS
	Written string
	Clips   []evalClip
	// Omitted is the number of videos that did not fit into the page.
	Omitted int
}

type evalClip struct {
	EvalClip
	Kind   EvalKind
	Source template.URL
}

// Write writes the page as one file that needs no other resource.
func (p EvalPage) Write(w io.Writer) error {
	v := evalView{EvalPage: p, Style: styles(evalStyle), Written: date(p.Now)}
	free := p.MaxVideoBytes
	if free <= 0 {
		free = 24 << 20
	}
	for _, kind := range p.Kinds {
		for _, c := range kind.Clips {
			clip := evalClip{EvalClip: c, Kind: kind}
			switch {
			case len(c.GIF) > free:
				v.Omitted++
			case len(c.GIF) > 0:
				free -= len(c.GIF)
				clip.Source = gifURL(c.GIF)
			}
			v.Clips = append(v.Clips, clip)
		}
	}
	if err := templates.ExecuteTemplate(w, "eval.html", v); err != nil {
		return plugins.Errorf(plugins.Internal, "the report cannot be written: %w", err)
	}
	return nil
}

// Draw draws the rate and its interval on a scale from 0 to 100 %.
func (r EvalRate) Draw() template.HTML {
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
	body += fmt.Sprintf(`<line class="l c%d" x1="%.1f" x2="%.1f" y1="9" y2="9" style="opacity:.55"/>`, hue,
		x(r.Low), x(r.High))
	body += fmt.Sprintf(`<circle class="f%d" cx="%.1f" cy="9" r="4"/>`, hue, x(r.Rate))
	return template.HTML(inline(width, height, fmt.Sprintf("%s: %s", r.Name, percent(r.Rate)), body))
}
