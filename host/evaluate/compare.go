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

// Paired is the difference of two evaluations of the same episodes of a group.
type Paired struct {
	Name string `json:"name"`
	stats.Pairs
	RateA float64 `json:"rate_a"`
	RateB float64 `json:"rate_b"`
	// Diff is RateB - RateA with its 95 % interval.
	Diff float64 `json:"difference"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// P is the p-value of McNemar's exact two-sided test; nil for a mean of groups.
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
	// Method describes how the intervals are computed.
	Method string   `json:"method"`
	All    Paired   `json:"all"`
	Groups []Paired `json:"groups,omitempty"`
	// PlainMean is the unweighted mean over the groups. Of is what they are: "dimensions" or "suites".
	Of        string  `json:"of,omitempty"`
	PlainMean *Paired `json:"plain_mean,omitempty"`
}

const method = "paired by episode (same task, start state and seed): Newcombe's interval for paired proportions " +
	"(1998, method 10) and McNemar's exact test; the plain mean " +
	"combines the groups' intervals by squaring and adding (MOVER). Episodes of one task count as independent; " +
	"policies of several training seeds need several runs"

// ofPolicy reports whether compared evaluations may differ in this part of their identities: the policy and how
// it acts.
func ofPolicy(name string) bool {
	return name == "checkpoint" || name == "policy" || name == "policy plugin" || name == "actions" ||
		strings.HasPrefix(name, "policy.")
}

// CompareFolders reads two evaluations and compares them, see [Compare].
func CompareFolders(a, b string) (*Comparison, error) {
	fa, err := OpenFolder(a)
	if err != nil {
		return nil, err
	}
	fb, err := OpenFolder(b)
	if err != nil {
		return nil, err
	}
	return Compare(fa, fb)
}

// Compare returns the paired difference of two evaluations. The error is Mismatch, with the first difference,
// unless they are of the same episodes.
func Compare(a, b *Folder) (*Comparison, error) {
	if err := checkSameEpisodes(a, b); err != nil {
		return nil, err
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
	for i := range groups {
		groups[i].close()
	}
	c.Groups, c.PlainMean = groups, meanOf("plain mean of the "+c.Of, groups)
	return c, nil
}

// meanOf returns the unweighted mean of the groups. Its interval combines those of the groups by squaring and adding.
func meanOf(name string, groups []Paired) *Paired {
	mean := &Paired{Name: name}
	var below, above float64
	for _, g := range groups {
		mean.RateA, mean.RateB, mean.Diff = mean.RateA+g.RateA, mean.RateB+g.RateB, mean.Diff+g.Diff
		below += (g.Diff - g.Low) * (g.Diff - g.Low)
		above += (g.High - g.Diff) * (g.High - g.Diff)
		mean.Both, mean.OnlyA = mean.Both+g.Both, mean.OnlyA+g.OnlyA
		mean.OnlyB, mean.Neither = mean.OnlyB+g.OnlyB, mean.Neither+g.Neither
	}
	k := float64(len(groups))
	mean.RateA, mean.RateB, mean.Diff = mean.RateA/k, mean.RateB/k, mean.Diff/k
	mean.Low, mean.High = max(-1, mean.Diff-math.Sqrt(below)/k), min(1, mean.Diff+math.Sqrt(above)/k)
	return mean
}

// checkSameEpisodes returns an error unless both evaluations are complete and of the same episodes.
func checkSameEpisodes(a, b *Folder) error {
	differ := func(format string, args ...any) error {
		return plugins.Errorf(plugins.Mismatch, "the two evaluations are not of the same episodes: "+format, args...).
			WithPlace("%s and %s", a.Dir, b.Dir).
			WithHint("evaluate both policies with the same env, tasks, seed and settings")
	}
	for _, f := range []*Folder{a, b} {
		if err := f.Whole(); err != nil {
			return err
		}
	}
	for i := range min(len(a.Episodes), len(b.Episodes)) {
		x, y := a.Episodes[i], b.Episodes[i]
		if x.ID != y.ID {
			return differ("episode %d is %s in the one, %s in the other", i+1, x.ID, y.ID)
		}
		if x.Seed != y.Seed {
			return differ("%s has the seed %d in the one, %d in the other", x.ID, x.Seed, y.Seed)
		}
	}
	if len(a.Episodes) != len(b.Episodes) {
		longer, at := a, len(b.Episodes)
		if len(b.Episodes) > len(a.Episodes) {
			longer, at = b, len(a.Episodes)
		}
		return differ("%s is in %s only", longer.Episodes[at].ID, longer.Dir)
	}
	if d := firstDifference(a.Identity, b.Identity, ofPolicy); d != "" {
		return differ("%s is %s in the one, %s in the other", d, orNothing(a.Identity[d]), orNothing(b.Identity[d]))
	}
	return nil
}

// Table writes a comparison in percentage points.
func (c *Comparison) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "A: %s\nB: %s\n\n", c.A, c.B)
	fmt.Fprintf(t, "\tA\tB\tB - A\t95 %%\tONLY A\tONLY B\tEPISODES\tP\n")
	row := func(p Paired) {
		prob := ""
		if p.P != nil {
			prob = fmt.Sprintf("%.2g", *p.P)
		}
		fmt.Fprintf(t, "%s\t%.1f %%\t%.1f %%\t%+.1f\t%+.1f to %+.1f\t%d\t%d\t%d\t%s\n", p.Name, 100*p.RateA,
			100*p.RateB, 100*p.Diff, 100*p.Low, 100*p.High, p.OnlyA, p.OnlyB, p.N(), prob)
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

// Verdict returns a sentence about which policy is ahead, if the episodes suffice to tell.
func (c *Comparison) Verdict() string {
	d := c.All
	switch {
	case d.Low > 0:
		return fmt.Sprintf("B is ahead of A by %.1f points (95 %%: %.1f to %.1f).", 100*d.Diff, 100*d.Low, 100*d.High)
	case d.High < 0:
		return fmt.Sprintf("A is ahead of B by %.1f points (95 %%: %.1f to %.1f).", -100*d.Diff, -100*d.High,
			-100*d.Low)
	}
	return fmt.Sprintf("No difference shown: B - A is %+.1f points (95 %%: %+.1f to %+.1f).", 100*d.Diff, 100*d.Low,
		100*d.High)
}
