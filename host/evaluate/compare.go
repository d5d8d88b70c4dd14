package evaluate

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/srpo-dev/srpo/host/stats"
	"github.com/srpo-dev/srpo/plugins"
)

// Paired is the difference between two evaluations over the same episodes of a group.
type Paired struct {
	Name string `json:"name"`
	stats.Pairs
	RateA float64 `json:"rate_a"`
	RateB float64 `json:"rate_b"`
	// Difference is RateB - RateA with its 95 % interval.
	Diff float64 `json:"difference"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// P is McNemar's exact two-sided one; nil for a mean of groups.
	P *float64 `json:"p,omitempty"`
}

func (p *Paired) close() {
	n := float64(max(1, p.N()))
	p.RateA, p.RateB = float64(p.Both+p.OnlyA)/n, float64(p.Both+p.OnlyB)/n
	p.Diff, p.Low, p.High = p.Difference()
	v := p.McNemar()
	p.P = &v
}

// Comparison is `srpo eval --compare A B`.
type Comparison struct {
	A string `json:"a"`
	B string `json:"b"`
	// Method says how the intervals were made.
	Method string   `json:"method"`
	All    Paired   `json:"all"`
	Groups []Paired `json:"groups,omitempty"`
	// PlainMean is the plain mean over the groups ("dimensions" or "suites"), each counting the same.
	Of        string  `json:"of,omitempty"`
	PlainMean *Paired `json:"plain_mean,omitempty"`
}

const method = "paired by episode (same task, start state and seed): Newcombe's interval for paired proportions (1998, method 10) and McNemar's exact test; the plain mean " +
	"combines the groups' intervals by squaring and adding (MOVER). Episodes of one task count as independent; policies of several training seeds need several runs"

// policyOwn are the parts of an identity in which compared evaluations may differ: the policy, and how it acted.
func policyOwn(name string) bool {
	return name == "checkpoint" || name == "policy" || name == "policy plugin" || name == "actions" || strings.HasPrefix(name, "policy.")
}

// Compare takes the difference of two evaluations. It refuses those whose episodes are not the same, and names the first difference.
func Compare(a, b *Folder) (*Comparison, error) {
	differ := func(format string, args ...any) error {
		return plugins.Errorf(plugins.Mismatch, "the two evaluations are not of the same episodes: "+format, args...).WithPlace("%s and %s", a.Dir, b.Dir).
			WithHint("evaluate both policies with the same env, tasks, seed and settings")
	}
	for _, f := range []*Folder{a, b} {
		if err := f.Whole(); err != nil {
			return nil, err
		}
	}
	for i := range min(len(a.Episodes), len(b.Episodes)) {
		x, y := a.Episodes[i], b.Episodes[i]
		if x.ID != y.ID {
			return nil, differ("episode %d is %s in the one, %s in the other", i+1, x.ID, y.ID)
		}
		if x.Seed != y.Seed {
			return nil, differ("%s has the seed %d in the one, %d in the other", x.ID, x.Seed, y.Seed)
		}
	}
	if len(a.Episodes) != len(b.Episodes) {
		longer, at := a, len(b.Episodes)
		if len(b.Episodes) > len(a.Episodes) {
			longer, at = b, len(a.Episodes)
		}
		return nil, differ("%s is in %s only", longer.Episodes[at].ID, longer.Dir)
	}
	if d := firstDifference(a.Identity, b.Identity, policyOwn); d != "" {
		return nil, differ("%s is %s in the one, %s in the other", d, orNothing(a.Identity[d]), orNothing(b.Identity[d]))
	}

	c := &Comparison{A: a.Dir, B: b.Dir, Method: method, All: Paired{Name: "all"}}
	byID := map[string]Task{}
	for _, t := range a.Tasks {
		byID[t.ID] = t
	}
	groups, at := []Paired{}, map[string]int{}
	for i, x := range a.Episodes {
		y := b.Episodes[i]
		c.All.Add(x.Success, y.Success)
		t := byID[x.Task]
		if t.Dimension() != "" {
			c.Of = "dimensions"
		}
		g := GroupOf(t)
		k, ok := at[g]
		if !ok {
			k = len(groups)
			at[g], groups = k, append(groups, Paired{Name: g})
		}
		groups[k].Add(x.Success, y.Success)
	}
	c.All.close()
	if len(groups) < 2 {
		c.Of = ""
		return c, nil
	}
	if c.Of == "" {
		c.Of = "suites"
	}
	mean := &Paired{Name: "plain mean of the " + c.Of}
	var below, above float64
	for i := range groups {
		g := &groups[i]
		g.close()
		mean.RateA, mean.RateB, mean.Diff = mean.RateA+g.RateA, mean.RateB+g.RateB, mean.Diff+g.Diff
		below += (g.Diff - g.Low) * (g.Diff - g.Low)
		above += (g.High - g.Diff) * (g.High - g.Diff)
		mean.Both, mean.OnlyA, mean.OnlyB, mean.Neither = mean.Both+g.Both, mean.OnlyA+g.OnlyA, mean.OnlyB+g.OnlyB, mean.Neither+g.Neither
	}
	k := float64(len(groups))
	mean.RateA, mean.RateB, mean.Diff = mean.RateA/k, mean.RateB/k, mean.Diff/k
	mean.Low, mean.High = max(-1, mean.Diff-math.Sqrt(below)/k), min(1, mean.Diff+math.Sqrt(above)/k)
	c.Groups, c.PlainMean = groups, mean
	return c, nil
}

// Table writes a comparison in points of percent.
func (c *Comparison) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "A: %s\nB: %s\n\n", c.A, c.B)
	fmt.Fprintf(t, "\tA\tB\tB - A\t95 %%\tONLY A\tONLY B\tEPISODES\tP\n")
	row := func(p Paired) {
		prob := ""
		if p.P != nil {
			prob = fmt.Sprintf("%.2g", *p.P)
		}
		fmt.Fprintf(t, "%s\t%.1f %%\t%.1f %%\t%+.1f\t%+.1f to %+.1f\t%d\t%d\t%d\t%s\n", p.Name, 100*p.RateA, 100*p.RateB, 100*p.Diff, 100*p.Low, 100*p.High, p.OnlyA, p.OnlyB, p.N(), prob)
	}
	for _, g := range c.Groups {
		row(g)
	}
	if c.PlainMean != nil {
		row(*c.PlainMean)
	}
	row(c.All)
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n%s.\n", c.Verdict(), method)
	return err
}

// Verdict says in one sentence who is ahead, and whether the episodes suffice to say so.
func (c *Comparison) Verdict() string {
	d := c.All
	switch {
	case d.Low > 0:
		return fmt.Sprintf("B is ahead of A by %.1f points (95 %%: %.1f to %.1f).", 100*d.Diff, 100*d.Low, 100*d.High)
	case d.High < 0:
		return fmt.Sprintf("A is ahead of B by %.1f points (95 %%: %.1f to %.1f).", -100*d.Diff, -100*d.High, -100*d.Low)
	}
	return fmt.Sprintf("No difference shown: B - A is %+.1f points (95 %%: %+.1f to %+.1f).", 100*d.Diff, 100*d.Low, 100*d.High)
}
