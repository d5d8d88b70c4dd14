package scoring

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/plugins"
)

// Table writes, for each encoder, one line per task and one line per attempt, and then the measures.
func (r *Result) Table(w io.Writer) error {
	all := r.Encoders
	if len(all) == 0 {
		all = []audit.Scored{r.Scored}
	}
	var b bytes.Buffer
	for _, s := range all {
		if len(all) > 1 {
			fmt.Fprintf(&b, "encoder %s\n", s.Encoder)
		}
		taskTable(&b, s.Tasks)
		fmt.Fprintln(&b)
		attemptTable(&b, s.Attempts)
		fmt.Fprintln(&b)
	}
	measureTable(&b, all)
	if _, err := w.Write(b.Bytes()); err != nil {
		return plugins.Errorf(plugins.Exhausted, "%w", err)
	}
	return nil
}

func taskTable(w io.Writer, tasks []audit.Task) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "task\tattempts\tsuccesses\tfailures\tunlabelled\tdropped\tcentres\tmean distance")
	for _, x := range tasks {
		centres := strconv.Itoa(x.Centres)
		if x.Centres > 1 {
			sizes := make([]string, len(x.Sizes))
			for i, n := range x.Sizes {
				sizes[i] = strconv.Itoa(n)
			}
			centres += " of " + strings.Join(sizes, ", ")
		}
		distance := "-"
		if x.Measured > 0 {
			distance = fmt.Sprintf("%.4g", x.MeanDistance)
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", x.Name, x.Attempts, x.Successes, x.Failures, x.Unlabelled,
			x.Dropped, centres, distance)
	}
	_ = t.Flush()
	for _, x := range tasks {
		for _, n := range x.Notes {
			fmt.Fprintf(w, "%s: %s\n", x.Name, n)
		}
	}
}

func attemptTable(w io.Writer, attempts []audit.Score) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "id\ttask\tlabel\treward\tdistance\tcentre\tremark")
	for _, a := range attempts {
		label := "unlabelled"
		if a.Success != nil {
			label = map[bool]string{true: "success", false: "failure"}[*a.Success]
		}
		reward, distance, centre := fmt.Sprintf("%.3f", a.Reward), "-", "-"
		if a.Dropped {
			reward = "dropped"
		}
		if a.Distance != nil {
			distance, centre = fmt.Sprintf("%.4g", *a.Distance), strconv.Itoa(*a.Centre)
		}
		remark := "-"
		if a.Reason != "" {
			remark = a.Reason
		} else if a.Note != "" {
			remark = a.Note
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.ID, a.Task, label, reward, distance, centre, remark)
	}
	_ = t.Flush()
}

// measureTable writes one line per measure, with a column for each encoder and length of clips.
func measureTable(w io.Writer, all []audit.Scored) {
	type column struct {
		title string
		m     audit.Measures
	}
	var columns []column
	for _, s := range all {
		name := s.Encoder
		if name == "" {
			name = "as given"
		}
		columns = append(columns, column{name, s.Metrics.Mean})
		if e := s.Metrics.EqualLength; e != nil {
			columns = append(columns, column{name + ", equal length", e.Mean})
		}
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprint(t, "is the reward any good")
	for _, c := range columns {
		fmt.Fprintf(t, "\t%s", c.title)
	}
	fmt.Fprintln(t)
	rows := 0
	for _, n := range audit.Names {
		cells, known := "", false
		for _, c := range columns {
			if v, ok := c.m[n.Key]; ok {
				cells, known = cells+fmt.Sprintf("\t%.3f (%s)", v.Value, v.Interval()), true
			} else {
				cells += "\t-"
			}
		}
		if known {
			rows++
			fmt.Fprintf(t, "%s%s\n", n.Title, cells)
		}
	}
	if rows > 0 {
		_ = t.Flush()
		fmt.Fprintf(w, "means over tasks, with intervals of 95 %%; centres held out; too few to tell: fewer than %d "+
			"attempts per label\n", audit.FewestAttempts)
	}
}
