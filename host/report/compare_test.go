package report

import (
	"bytes"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// runOf returns a record with the given success rates and 100 env steps per iteration.
func runOf(seed uint64, rates ...float64) *store.Record {
	r := &store.Record{Dir: fmt.Sprint("run", seed), Manifest: &store.Manifest{Seed: seed}}
	for i, p := range rates {
		r.Metrics = append(r.Metrics, store.Metrics{Iteration: i + 1, EnvSteps: int64(100 * (i + 1)), Episodes: 64,
			SuccessRate: p})
	}
	return r
}

func TestCompareByHand(t *testing.T) {
	c, err := Compare("t", []Group{
		{"zscore", []*store.Record{runOf(1, 0.2, 0.6, 1.0), runOf(2, 0.4, 0.6, 0.8)}},
		{"binary", []*store.Record{runOf(1, 0.2, 0.4, 0.6), runOf(2, 0.2, 0.4, 0.6)}},
	}, false)
	require.NoError(t, err)
	z := c.Curves[0]
	require.Equal(t, []float64{1, 2, 3}, z.Iterations)
	require.InDelta(t, 0.3, z.Rates[0].Mean, 1e-12)
	require.Equal(t, []float64{0, 1}, []float64{z.Rates[0].Low, z.Rates[0].High}, "a rate is from 0 to 100 %")
	require.InDelta(t, 0.9, z.Final.Mean, 1e-12)
	require.InDelta(t, 0.6, z.Mean.Mean, 1e-12)
	require.Equal(t, 100.0, z.EnvSteps[0])
	require.Equal(t, 300.0, z.EnvSteps[60])
	require.InDelta(t, 0.45, z.RatesBySteps[15].Mean, 1e-12, "half way from 100 to 200 steps")

	require.Len(t, c.Differences, 3)
	end := c.Differences[0]
	require.True(t, end.Paired)
	require.Equal(t, 2, end.N)
	require.InDelta(t, 0.3, end.Mean, 1e-12)
	require.InDelta(t, 12.7062*0.1, 0.3-end.Low, 1e-4, "t of one degree of freedom times std/sqrt(2)")
	require.Equal(t, 1.0, end.High, "a difference of rates is at most 100 points")
	require.Contains(t, end.Verdict(), "zscore is ahead of binary by 30.0 points")
	require.Contains(t, end.Verdict(), "the difference is not significant")

	var b bytes.Buffer
	require.NoError(t, c.Markdown(&b))
	require.Contains(t, b.String(), "| zscore | 2 | 90.0 % [0.0, 100.0]")
	require.Contains(t, b.String(), "| 200 | 300 | 300 (1 of 2) |")
	require.Contains(t, b.String(), "| 300 | never | never |")

	// Groups with different seeds are not paired. The sentence names the better group first.
	c, err = Compare("t", []Group{{"a", []*store.Record{runOf(1, 0.1), runOf(2, 0.11), runOf(3, 0.12)}},
		{"b", []*store.Record{runOf(4, 0.9), runOf(5, 0.91)}}}, false)
	require.NoError(t, err)
	require.False(t, c.Differences[0].Paired)
	require.Contains(t, c.Differences[0].Verdict(), "b is ahead of a by 79.5 points")
	require.NotContains(t, c.Differences[0].Verdict(), "not significant")

	c, err = Compare("t", []Group{{"a", []*store.Record{runOf(1, 0.1)}}, {"b", []*store.Record{runOf(1, 0.9)}}},
		false)
	require.NoError(t, err)
	require.Contains(t, c.Differences[0].Verdict(), "one seed gives no interval")
	b.Reset()
	require.NoError(t, c.SVG(&b))
	checkPage(t, b.String())
}

func TestCompareEndsOfShortRuns(t *testing.T) {
	c, err := Compare("t", []Group{{"a", []*store.Record{runOf(1, 0, 0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5)}}}, false)
	require.NoError(t, err)
	require.InDelta(t, 0.3, c.Curves[0].Final.Mean, 1e-12, "five of ten")
}

func TestCompareEvaluations(t *testing.T) {
	r := runOf(1, 0.1, 0.2)
	r.Events = []store.Event{{Type: store.Evaluated, Iteration: 2, Evaluation: &store.Evaluation{EnvSteps: 200,
		SuccessRate: 0.7, Episodes: 50}}}
	c, err := Compare("t", []Group{{"a", []*store.Record{r}}}, true)
	require.NoError(t, err)
	require.InDelta(t, 0.7, c.Curves[0].Final.Mean, 1e-12)
	require.Empty(t, c.Curves[0].Greedy, "the curve itself")

	// With training episodes they are circles: the means over the runs with evaluations.
	other := runOf(2, 0.3, 0.4)
	other.Events = []store.Event{{Type: store.Evaluated, Iteration: 0, Evaluation: &store.Evaluation{EnvSteps: 0,
		SuccessRate: 0.2, Episodes: 50}},
		{Type: store.Evaluated, Iteration: 2, Evaluation: &store.Evaluation{EnvSteps: 400, SuccessRate: 0.9,
			Episodes: 50}}}
	c, err = Compare("t", []Group{{"a", []*store.Record{r, other}}}, false)
	require.NoError(t, err)
	require.Equal(t, []Greedy{{0, 0, 0.2}, {2, 300, 0.8}}, c.Curves[0].Greedy)
	var b bytes.Buffer
	require.NoError(t, c.SVG(&b))
	checkPage(t, b.String())
	require.Contains(t, b.String(), "circles: greedy evaluations")
	require.Equal(t, 4, strings.Count(b.String(), `fill:var(--card);stroke-width:2`),
		"two by iteration and two by env steps")
	_, err = Compare("t", []Group{{"a", []*store.Record{runOf(1, 0.1)}}}, true)
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))
	require.ErrorContains(t, err, "no evaluation")
	for _, bad := range [][]Group{nil, {{"a", nil}}, {{"a", []*store.Record{runOf(1)}}},
		{{"a", []*store.Record{runOf(1, math.NaN())}}}} {
		_, err = Compare("t", bad, false)
		require.Equal(t, plugins.Invalid, plugins.KindOf(err))
		require.NotEmpty(t, plugins.AsError(err).Hint)
	}
}

func TestComparePage(t *testing.T) {
	dir := memoryDir(t)
	groups := []Group{{Label: "zscore"}, {Label: "binary (GRPO)"}}
	for g, pace := range []float64{1.2, 0.8} {
		for seed := range 5 {
			rec, err := store.Read(madeUp(t, filepath.Join(dir, fmt.Sprint(g, seed)), uint64(seed), 25, pace, false))
			require.NoError(t, err)
			groups[g].Runs = append(groups[g].Runs, rec)
		}
	}
	c, err := Compare("Tabletop from the same one-shot policy <b>", groups, false)
	require.NoError(t, err)
	var svg, page, md bytes.Buffer
	require.NoError(t, c.SVG(&svg))
	require.NoError(t, c.HTML(&page))
	require.NoError(t, c.Markdown(&md))
	leave(t, "compare.svg", svg.Bytes())
	leave(t, "compare.html", page.Bytes())
	leave(t, "compare.md", md.Bytes())
	checkPage(t, svg.String())
	checkPage(t, page.String())
	require.Contains(t, page.String(), "one-shot policy &lt;b&gt;")
	require.Contains(t, svg.String(), "prefers-color-scheme:dark")
	require.Contains(t, svg.String(), "binary (GRPO), 5 seeds")
	require.Less(t, svg.Len(), 60<<10)
}
