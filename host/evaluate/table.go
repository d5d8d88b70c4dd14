package evaluate

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// maxTaskRows is the largest number of tasks that a table lists. results.json contains all tasks.
const maxTaskRows = 20

// columns returns the names by which published rows are compared, and the scores of this evaluation: dimensions
// if there are any, otherwise suites.
func (r *Results) columns() (names []string, own map[string]Score) {
	own = map[string]Score{}
	for _, d := range r.Dimensions {
		own[d.Name] = d.Score
	}
	if len(r.Dimensions) > 0 {
		return PlusDimensions, own
	}
	for _, s := range r.Suites {
		own[s.Name] = s
	}
	return LiberoSuites, own
}

// Table writes the success rates with their intervals, and then published ones.
func (r *Results) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\tSUCCESS\t95 %%\tEPISODES\tMEAN STEPS\n")
	row := func(name string, s Score) {
		fmt.Fprintf(t, "%s\t%.1f %%\t%.1f to %.1f\t%d of %d\t%.0f\n", name, 100*s.Rate, 100*s.Low, 100*s.High,
			s.Successes, s.Episodes, s.MeanSteps)
	}
	if len(r.Tasks) <= maxTaskRows {
		for _, s := range r.Tasks {
			row(s.Name, s)
		}
	}
	if len(r.Suites) > 1 || len(r.Tasks) > 1 {
		for _, s := range r.Suites {
			if s.Name != "" {
				row("suite "+s.Name, s)
			}
		}
	}
	for _, d := range r.Dimensions {
		row("dimension "+d.Name, d.Score)
		for _, l := range d.Levels {
			if l.Name == "" {
				l.Name = "no level"
			}
			row("  "+l.Name, l)
		}
	}
	if r.Totals != nil {
		fmt.Fprintf(t, "plain mean of %d %s\t%.1f %%\t%.1f to %.1f\t\t\n", r.groups(), r.Totals.Of, 100*r.Totals.Mean,
			100*r.Totals.Low, 100*r.Totals.High)
		row("weighted by episodes", r.Totals.Weighted)
	} else if len(r.Tasks) > 1 {
		row("all", r.All)
	}
	if r.Split.Train.Episodes > 0 && r.Split.Test.Episodes > 0 && r.Split.TrainedOn != "" &&
		r.Split.TrainedOn != "all" {
		for _, s := range []Score{r.Split.Train, r.Split.Test} {
			row(r.sideName(s.Name), s)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, note := range r.notes() {
		fmt.Fprintln(w, note)
	}
	return r.publishedTable(w)
}

func (r *Results) groups() int {
	if r.Totals.Of == "dimensions" {
		return len(r.Dimensions)
	}
	return len(r.Suites)
}

// notes returns sentences that belong to the results.
func (r *Results) notes() []string {
	var out []string
	for _, note := range []string{r.splitNote(), r.repeatNote()} {
		if note != "" {
			out = append(out, note+".")
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(r.LeftOut)) {
		out = append(out, fmt.Sprintf("%d tasks are left out: %s.", r.LeftOut[reason], reason))
	}
	return out
}

// sideName returns the name of a side of the split with its role in the policy's training.
func (r *Results) sideName(side string) string {
	switch {
	case side == r.Split.TrainedOn:
		return "side " + side + ", trained on"
	case r.Split.TrainedOn == "train" || r.Split.TrainedOn == "test":
		return "side " + side + ", held out"
	}
	return "side " + side
}

// splitNote returns a sentence about the relation of the episodes to the training, without its period; empty:
// none is known.
func (r *Results) splitNote() string {
	what := "start states"
	if r.Split.By == "task" {
		what = "tasks"
	}
	switch {
	case r.Split.TrainedOn == "":
		return ""
	case r.Split.TrainedOn == "all":
		return "The policy was trained on these " + what + " (as in the published runs)"
	case r.Split.Used == "all":
		return fmt.Sprintf("The policy was trained on the %s side of the %s, split by seed with train fraction %g",
			r.Split.TrainedOn, what, r.Split.TrainFraction)
	case r.Split.Used == r.Split.TrainedOn:
		return "The policy was trained on these " + what
	}
	return "These " + what + " were held out from training"
}

// repeatNote returns a warning about repeated start states, from which a greedy policy may repeat itself;
// empty: there are none.
func (r *Results) repeatNote() string {
	if r.Repeats == 0 || r.Mode != "greedy" {
		return ""
	}
	return fmt.Sprintf(
		"%d of the %d episodes repeat a start state, and a greedy policy may repeat itself there: the intervals "+
			"are too narrow",
		r.Repeats,
		r.All.Episodes,
	)
}

// publishedTable writes the row of this evaluation and published rows with the same columns.
func (r *Results) publishedTable(w io.Writer) error {
	if len(r.Published) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%s\n", publishedNote(r.Published[0].Source))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, line := range r.publishedLines() {
		fmt.Fprintln(t, strings.Join(line, "\t")+"\t")
	}
	return t.Flush()
}

func publishedNote(source string) string {
	return "Published by others (" + source + "), not measured by srpo: other weights on other machines; success " +
		"in %, means over the printed columns."
}

// publishedLines returns the table with its header. The row after the header is that of this evaluation.
func (r *Results) publishedLines() [][]string {
	names, own := r.columns()
	weighted := r.Published[0].Weighted != nil
	head := []string{""}
	mine := []string{"this evaluation"}
	for _, n := range names {
		head = append(head, strings.TrimPrefix(n, "libero_"))
		if s, ok := own[n]; ok {
			mine = append(mine, fmt.Sprintf("%.1f", 100*s.Rate))
		} else {
			mine = append(mine, "–")
		}
	}
	head = append(head, "plain mean")
	// A mean over some of the columns cannot be compared with theirs. The published means are weighted by the
	// benchmark's counts, which a sample need not have.
	mean, total := "–", "–"
	if len(own) == len(names) && r.Totals != nil {
		mean, total = fmt.Sprintf("%.1f", 100*r.Totals.Mean), fmt.Sprintf("%.1f",
			100*plusWeighted(func(d string) float64 { return own[d].Rate }))
	}
	mine = append(mine, mean)
	if weighted {
		head, mine = append(head, "weighted"), append(mine, total)
	}
	lines := [][]string{head, mine}
	for _, p := range r.Published {
		line := []string{p.Name}
		for _, n := range names {
			line = append(line, fmt.Sprintf("%.1f", 100*p.Rates[n]))
		}
		line = append(line, fmt.Sprintf("%.1f", 100*p.Mean))
		if weighted {
			line = append(line, fmt.Sprintf("%.1f", 100**p.Weighted))
		}
		lines = append(lines, line)
	}
	return lines
}
