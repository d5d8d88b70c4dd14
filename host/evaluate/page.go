package evaluate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/host/report"
)

// maxTasksOnPage is the largest number of tasks that the page shows one by one.
const maxTasksOnPage = 150

// Page returns report.html. video reads a video by its path relative to the folder. The page notes a video that
// cannot be read.
func (r *Results) Page(name string, rec Record, video func(string) ([]byte, error)) report.EvalPage {
	p := report.EvalPage{Name: name, Summary: fmt.Sprintf("%s in %s · %s · seed %d", r.Policy, r.Env, r.Mode, r.Seed)}
	p.Tiles = r.tiles()
	if len(r.Dimensions) > 0 {
		p.Sections = append(p.Sections, r.dimensionSection())
	}
	p.Sections = append(p.Sections, section("By suite", r.Suites))
	if len(r.Tasks) <= maxTasksOnPage {
		p.Sections = append(p.Sections, section("By task", r.Tasks))
	}
	if len(r.Published) > 0 {
		p.Published, p.PublishedNote = r.publishedLines(), publishedNote(r.Published[0].Source)
	}
	for _, k := range r.Kinds {
		kind := report.EvalKind{Group: k.Group, Outcome: k.Outcome, Success: k.Success, Episodes: k.Episodes}
		for _, x := range k.Examples {
			data, err := video(x.Video)
			if err != nil {
				data = nil
			}
			kind.Clips = append(kind.Clips, report.EvalClip{ID: x.ID, Steps: x.Steps, GIF: data})
		}
		p.Kinds = append(p.Kinds, kind)
	}
	p.Notes = r.notes()
	if r.Shard != "" {
		p.Notes = append(p.Notes, "This is the shard "+r.Shard+" of an evaluation.")
	}
	p.Facts = append(p.Facts, [2]string{"command", strings.Join(rec.Command, " ")}, [2]string{"srpo", rec.Host},
		[2]string{"checkpoint", rec.Checkpoint})
	for _, k := range slices.Sorted(maps.Keys(rec.Identity)) {
		p.Facts = append(p.Facts, [2]string{k, rec.Identity[k]})
	}
	return p
}

// tiles returns the main numbers of the page.
func (r *Results) tiles() []report.EvalTile {
	ofScore := func(label string, s Score) report.EvalTile {
		return report.EvalTile{Label: label, Rate: s.Rate, Low: s.Low, High: s.High,
			Note: fmt.Sprintf("%d of %d", s.Successes, s.Episodes)}
	}
	tiles := []report.EvalTile{ofScore("success, weighted by episodes", r.All)}
	if t := r.Totals; t != nil {
		tiles = append(
			tiles,
			report.EvalTile{Label: "plain mean of the " + t.Of, Rate: t.Mean, Low: t.Low, High: t.High,
				Note: "unweighted"},
		)
	}
	if t := r.Split.TrainedOn; t == "train" || t == "test" {
		for _, s := range []Score{r.Split.Train, r.Split.Test} {
			if s.Episodes > 0 {
				tiles = append(tiles, ofScore(r.sideName(s.Name), s))
			}
		}
	}
	return tiles
}

func (r *Results) dimensionSection() report.EvalSection {
	out := report.EvalSection{Title: "By dimension and level"}
	for _, d := range r.Dimensions {
		out.Rates = append(out.Rates, rate(d.Score, false))
		for _, l := range d.Levels {
			if l.Name == "" {
				l.Name = "no level"
			}
			out.Rates = append(out.Rates, rate(l, true))
		}
	}
	return out
}

func section(title string, scores []Score) report.EvalSection {
	out := report.EvalSection{Title: title}
	for _, s := range scores {
		out.Rates = append(out.Rates, rate(s, false))
	}
	return out
}

func rate(s Score, nested bool) report.EvalRate {
	return report.EvalRate{Name: s.Name, Rate: s.Rate, Low: s.Low, High: s.High, Successes: s.Successes,
		Episodes: s.Episodes, MeanSteps: s.MeanSteps, Nested: nested}
}
