package report

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"image/gif"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/plugins"
)

// scoredBy returns the scores of two tasks. Some names contain HTML.
func scoredBy(encoder string) audit.Scored {
	yes, no := true, false
	s := audit.Scored{Encoder: encoder, Dimension: 4}
	for _, task := range []string{"<push>", "stack & pile"} {
		for i := range 14 {
			d, centre := 0.5*float64(i), 0
			a := audit.Score{ID: fmt.Sprintf("%s/%d", task, i), Task: task, Success: &yes, Reward: 1, Distance: &d,
				Centre: &centre, Frames: 20}
			if i >= 6 {
				a.Success, a.Reward = &no, 0.8-0.05*float64(i)
			}
			if i == 13 {
				a = audit.Score{ID: a.ID, Task: task, Success: &no, Dropped: true,
					Reason: "it does not decode: <eof>"}
			}
			s.Attempts = append(s.Attempts, a)
			if i < 13 && (task != "<push>" || i < 8) {
				s.Curves = append(s.Curves, audit.Curve{ID: a.ID, Task: task, Success: a.Success,
					Ends: []int{5, 10, 20}, Progress: []float64{0, 0.5, 1}, Nearness: []float64{-3, -2, -d}})
			}
		}
		s.Tasks = append(s.Tasks, audit.Task{Name: task, Attempts: 14, Successes: 6, Failures: 8, Centres: 2,
			Sizes: []int{4, 2}, Reward: "zscore", Notes: []string{"a note"}})
	}
	s.Metrics.Mean = audit.Measures{"auroc": {Value: 0.9, Low: 0.8, High: 1}, "voc": {Value: 0.1, Low: -0.2,
		High: 0.3}, "length_auroc": {Value: 1, Low: 1, High: 1}}
	s.Metrics.Tasks = map[string]audit.Measures{"<push>": {"auroc": {Value: 0.987, Low: 0.8, High: 1}},
		"stack & pile": {"auroc": {Value: 0.813, Low: 0.4, High: 1}}}
	s.Metrics.EqualLength = &audit.EqualLength{Frames: map[string]int{"<push>": 12},
		Measured: audit.Measured{Mean: audit.Measures{"auroc": {Value: 0.5, Low: 0.3, High: 0.7}}}}
	return s
}

func TestChooseCurves(t *testing.T) {
	s := scoredBy("pixel")
	chosen := ChooseCurves(s)
	var marks []string
	for _, c := range chosen {
		marks = append(marks, c.Mark)
		require.Equal(t, "stack & pile", s.Attempts[c.Index].Task, "the task has enough of both")
		require.Equal(t, c.Success, *s.Attempts[c.Index].Success)
	}
	require.Equal(t, []string{"S1", "S2", "S3", "F1", "F2", "F3", "F4", "F5"}, marks)
	require.Equal(t, "stack & pile/6", s.Attempts[chosen[3].Index].ID, "the failure with the highest reward first")
	require.Equal(t, "stack & pile/12", s.Attempts[chosen[7].Index].ID, "the one with the lowest reward last")
	s.Curves = s.Curves[:4]
	require.Len(t, ChooseCurves(s), 3, "only successes")
	require.Empty(t, ChooseCurves(audit.Scored{}))
}

func TestFindFalseSuccesses(t *testing.T) {
	s := scoredBy("pixel")
	require.Equal(t, FalseSuccesses{Encoder: "pixel", Failures: 14, IDs: []string{}}, FindFalseSuccesses(s))
	near, nearer := 2.4, 0.1
	s.Attempts[9].Distance, s.Attempts[14+7].Distance = &near, &nearer // the farthest success has 2.5
	require.Equal(t, []int{21, 9}, FindFalseSuccesses(s).Indices)
	require.Equal(t, 2, FindFalseSuccesses(s).Count)
	require.Equal(t, []string{"stack & pile/7", "<push>/9"}, FindFalseSuccesses(s).IDs)
}

func TestRewardPage(t *testing.T) {
	p := RewardPage{Title: "<videos>", Reward: "zscore", Cluster: "auto", References: "batch",
		Encoders: []audit.Scored{scoredBy("pixel"), scoredBy("other")},
		Clips:    []RewardClip{{Mark: "S1", ID: "stack & pile/0", GIF: []byte("GIF89a")}},
		Warnings: []string{"3 < 4"},
		FalseSuccesses: []FalseSuccesses{{Encoder: "pixel", Count: 1, Failures: 9,
			Clips: []RewardClip{{ID: "<push>/7",
				GIF: []byte("GIF89a")}}}, {Encoder: "other", Failures: 9}}, Now: time.Unix(0, 0)}
	var b bytes.Buffer
	require.NoError(t, RewardHTML(&b, p))
	page := b.String()
	for _, want := range []string{"&lt;videos&gt;", "3 &lt; 4", "&lt;push&gt;", "it does not decode: &lt;eof&gt;",
		"pixel, equal length", "frames: &lt;push&gt; 12", "other: progress of successes",
		`<b class="good">0.900</b>`, `<b class="bad">0.100</b>`, `<b class="bad">1.000</b>`, "a note", "2 of 4, 2",
		"Failures that pixel scores like successes: 1 of 9", "attempt &lt;push&gt;/7",
		"Failures that other scores like successes: 0 of 9",
		"1970-01-01",
		"<summary>stack &amp; pile</summary>", `<b class="good">0.987</b>`, `<b class="bad">0.813</b>`} {
		require.Contains(t, page, want)
	}
	for _, never := range []string{"<push>", "http://", "https://", "ZgotmplZ", "NaN", "%!"} {
		require.NotContains(t, page, never)
	}
	require.Error(t, RewardHTML(&b, RewardPage{}))

	svg := CurvesSVG(p.Encoders[0], ChooseCurves(p.Encoders[0]))
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		_, err := d.Token()
		if err != nil {
			require.Equal(t, "EOF", err.Error())
			break
		}
	}
	require.Contains(t, svg, "distance of failures")
	require.NotContains(t, svg, "NaN")
}

// The drawn part of the curve grows with the frames.
func TestFilm(t *testing.T) {
	data := make([]byte, 0, 6*8*8*3)
	for n := range 6 {
		data = append(data, bytes.Repeat([]byte{byte(40 * n)}, 8*8*3)...)
	}
	film := Film{Frames: plugins.Bytes(data, 6, 8, 8, 3), Lines: []Line{{Ends: []int{2, 4, 6},
		Values: []float64{0, 0.5, 1}}}, Success: true}
	out, err := FilmGIF([]Film{film, film, film}, 2)
	require.NoError(t, err)
	g, err := gif.DecodeAll(bytes.NewReader(out))
	require.NoError(t, err)
	require.Len(t, g.Image, 6)
	require.Equal(t, []int{2*2*cellSide + 4, 2*cellSide + 4}, []int{g.Config.Width, g.Config.Height})
	drawn := func(k int) int { // pixels of the curve's colour
		c := newCanvas(2*cellSide, cellSide)
		film.draw(c, 0, 0, k, 6)
		n := 0
		for i := 0; i < len(c.pix); i += 3 {
			if c.pix[i] == filmHues[0][0] && c.pix[i+1] == filmHues[0][1] && c.pix[i+2] == filmHues[0][2] {
				n++
			}
		}
		return n
	}
	require.Zero(t, drawn(0))
	require.Positive(t, drawn(1))
	require.Greater(t, drawn(5), drawn(3))
	_, err = FilmGIF([]Film{{Frames: plugins.Bytes([]byte{1}, 1)}}, 1)
	require.Error(t, err)
}
