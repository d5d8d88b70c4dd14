package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/stats"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// go test ./host/report -args -pages DIR writes the pages of made-up runs into DIR for inspection.
var pages = flag.String("pages", "", "folder for the pages of made-up runs")

// madeUp writes a run folder with n iterations of made-up numbers. The success rate follows a logistic curve;
// pace is its slope.
func madeUp(t *testing.T, dir string, seed uint64, n int, pace float64, videos bool) string {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	var text bytes.Buffer
	c, err := config.Load(config.Input{Set: []string{"run.iterations=" + fmt.Sprint(n), "update.kl_beta=0.02",
		fmt.Sprintf("run.seed=%d", seed)}})
	require.NoError(t, err)
	_, err = c.ResolvePlugin(plugins.Policy, "tiny", []plugins.Setting{{Name: "lr", Default: 1e-3,
		Doc: "Adam's step size."}, {Name: "hidden", Default: int64(64), Doc: "Width."}})
	require.NoError(t, err)
	require.NoError(t, c.Write(&text))
	run, err := store.Create(dir, store.Manifest{Name: "tabletop-zscore", Host: "0.1.0", Go: "go1.26",
		Platform: "linux/amd64", Seed: seed, Command: []string{"srpo", "run", "--seed", fmt.Sprint(seed)},
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Tasks: []string{"tabletop/two_objects"},
		StartStates: &store.StartStates{Used: "train", TrainFraction: 0.5},
		Plugins: []store.Plugin{
			{Kind: plugins.Env, Name: "tabletop", Version: "0.1.0", Hash: "5d41402abc4b2a76b9719d911017c592",
				Versions: map[string]string{"go": "1.26"}},
			{Kind: plugins.Policy, Name: "tiny", Version: "0.1.0"}, {Kind: plugins.Encoder, Name: "pixel",
				Version: "0.1.0"},
		}}, text.Bytes())
	require.NoError(t, err)
	defer run.Close()
	require.NoError(t, run.Append(store.Event{Type: store.Started}))
	steps := int64(0)
	for i := 1; i <= n; i++ {
		p := 0.15 + 0.83/(1+math.Exp(-pace*(float64(i)-12)/3))
		episodes, wins := 64+8*r.IntN(4), 0
		for range episodes {
			if r.Float64() < p {
				wins++
			}
		}
		steps += int64(float64(episodes) * (90 - 50*p))
		if i%7 == 3 {
			require.NoError(t, run.Append(store.ErrorEvent(store.PluginFailed, i,
				plugins.Errorf(plugins.Unavailable, "the process ended: signal: killed").WithPlace("env tabletop, "+
					"lane 3").
					WithHint("its episodes were rolled again from their seeds").WithDetail("last words:\n  out of "+
					"memory"))))
			require.NoError(t, run.Append(store.Event{Type: store.EmbeddingDropped, Iteration: i,
				Message: "one embedding is not a number", Place: fmt.Sprintf("episode %d/tabletop/0/5", i)}))
		}
		if i%5 == 0 {
			require.NoError(t, run.Append(store.Event{Type: store.Evaluated, Iteration: i,
				Evaluation: &store.Evaluation{EnvSteps: steps, Episodes: 50,
					SuccessRate: math.Round(50*min(1, p+0.06)) / 50, StartStates: "test"}}))
		}
		pending, err := run.Begin(i)
		require.NoError(t, err)
		m := &store.Metrics{Iteration: i, EnvSteps: steps, Episodes: episodes,
			SuccessRate: float64(wins) / float64(episodes), RewardMean: p + 0.3*(1-p), GroupsKept: 8 - i%3,
			GroupsDropped:     i % 3,
			EmbeddingsDropped: (i % 7) / 6, Clusters: 1 + i%2, KL: 0.002 * float64(i) * (1 + 0.3*r.Float64()),
			ClipFraction: 0.08 + 0.04*r.Float64(), GradNorm: 0.6 + 0.5*r.Float64(), Seconds: 6,
			SecondsByPhase: map[string]float64{"rollout": 3 + r.Float64(), "encode": 0.8, "reward": 0.05,
				"update": 1.9}, Extra: map[string]float64{"entropy": 2 - 0.03*float64(i)}}
		if i == 6 {
			m.KL = math.NaN()
		}
		require.NoError(t, pending.Commit(m))
		if videos && (i == 1 || i%10 == 0 || i == n) {
			for k := range 6 {
				d := 0.4 + r.Float64()
				e := store.Episode{ID: fmt.Sprintf("%d/tabletop/two_objects/%d/%d", i, k/3, k), Iteration: i,
					Task: "tabletop/two_objects", Group: k / 3, Index: k,
					Instruction: "put the red block on the blue plate",
					Success:     r.Float64() < p, Reward: 0.8 * r.Float64(), Distance: &d, Steps: 40 + r.IntN(50)}
				if e.Success {
					e.Reward, e.Distance = 1, nil
				}
				_, err := run.SaveEpisode(e, disc(16, 48, r.Float64()))
				require.NoError(t, err)
			}
		}
	}
	if n > 0 {
		require.NoError(t, run.Append(store.Event{Type: store.Finished, Iteration: n}))
	}
	return dir
}

// memoryDir returns a temporary folder in memory if possible, because the tests call fsync thousands of times.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "srpo-report")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func disc(n, side int, phase float64) plugins.Tensor {
	data := make([]byte, n*side*side*3)
	for f := range n {
		a := 2*math.Pi*phase + float64(f)/6
		cx, cy := float64(side)*(0.5+0.3*math.Cos(a)), float64(side)*(0.5+0.3*math.Sin(a))
		for y := range side {
			for x := range side {
				p := data[((f*side+y)*side+x)*3:]
				p[0], p[1], p[2] = 205, byte(190+20*y/side), 170
				if math.Hypot(float64(x)-cx, float64(y)-cy) < 7 {
					p[0], p[1], p[2] = 220, 50, 40
				}
			}
		}
	}
	return plugins.Bytes(data, n, side, side, 3)
}

func leave(t *testing.T, name string, page []byte) {
	if *pages != "" {
		require.NoError(t, os.MkdirAll(*pages, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(*pages, name), page, 0o644))
	}
}

var (
	outside = regexp.MustCompile(`(?i)(src|href)\s*=\s*["']?(https?:)?//|url\(|@import|<script`)
	drawing = regexp.MustCompile(`(?s)<svg.*?</svg>`)
	badNum  = regexp.MustCompile(`="[^"]*(NaN|Inf)[^"]*"`)
)

// checkPage requires that a page refers to no other resource and that its drawings are well formed and
// without NaN.
func checkPage(t *testing.T, page string) {
	t.Helper()
	require.Empty(t, outside.FindString(page))
	require.NotContains(t, page, "ZgotmplZ")
	svgs := drawing.FindAllString(page, -1)
	require.NotEmpty(t, svgs)
	for _, s := range svgs {
		require.Empty(t, badNum.FindString(s))
		d := xml.NewDecoder(strings.NewReader(s))
		for {
			if _, err := d.Token(); err != nil {
				require.True(t, errors.Is(err, io.EOF), "%v in %.300s", err, s)
				break
			}
		}
	}
}

func TestRunPage(t *testing.T) {
	dir := madeUp(t, filepath.Join(memoryDir(t), "run"), 3, 30, 1, true)
	page, err := Render(dir, Page{Now: time.Date(2026, 1, 2, 4, 0, 0, 0, time.UTC)})
	require.NoError(t, err)
	leave(t, "run.html", page)
	text := string(page)
	checkPage(t, text)
	for _, want := range []string{"tabletop-zscore", "finished", "env tabletop", "Success rate by env steps",
		"KL to the starting policy", "Seconds by phase", "entropy", "data:image/gif;base64,",
		"signal: killed", "last words:", "its episodes were rolled again", "kl_beta", "policy.tiny",
		"30/tabletop/two_objects/1/5", "srpo run --seed 3", "last evaluation"} {
		require.Contains(t, text, want)
	}
	require.Equal(t, 24, strings.Count(text, "data:image/gif"), "iterations 1, 10, 20 and 30")
	require.Regexp(t, `kl_beta</td><td class="m changed">0.02`, text)
	require.Regexp(t, `kind</td><td class="m">zscore`, text)
	require.Less(t, len(page), 3<<20)

	rec, err := store.Read(dir)
	require.NoError(t, err)
	last := rec.Metrics[29]
	low, high := stats.Wilson(last.SuccessRate, last.Episodes)
	require.Contains(t, text, fmt.Sprintf("%s to %s of %d episodes", percent(low), percent(high), last.Episodes))

	few, err := Render(dir, Page{MaxVideos: 7})
	require.NoError(t, err)
	require.Equal(t, 7, strings.Count(string(few), "data:image/gif"))
	require.Contains(t, string(few), "17 more in the folder")
	small, err := Render(dir, Page{MaxVideoBytes: 1000})
	require.NoError(t, err)
	require.NotContains(t, string(small), "data:image/gif")
}

func TestPagesOfIncompleteRuns(t *testing.T) {
	one := madeUp(t, filepath.Join(memoryDir(t), "one"), 1, 1, 1, true)
	page, err := Render(one, Page{})
	require.NoError(t, err)
	leave(t, "one.html", page)
	checkPage(t, string(page))
	require.Contains(t, string(page), "<circle", "a single point is drawn as a circle")

	none := madeUp(t, filepath.Join(memoryDir(t), "none"), 1, 0, 1, true)
	page, err = Render(none, Page{})
	require.NoError(t, err)
	leave(t, "none.html", page)
	checkPage(t, string(page))
	require.Contains(t, string(page), "no iteration was committed yet")
	require.Contains(t, string(page), "no data yet")

	empty := t.TempDir()
	page, err = Render(empty, Page{})
	require.NoError(t, err)
	checkPage(t, string(page))
	require.Contains(t, string(page), "metrics.jsonl: missing")

	broken := madeUp(t, filepath.Join(memoryDir(t), "broken"), 1, 3, 1, true)
	videos, err := filepath.Glob(filepath.Join(broken, "episodes", "*.gif"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(videos[0]))
	require.NoError(t, os.WriteFile(filepath.Join(broken, "srpo.toml"), []byte("not toml <b>"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(broken, "manifest.json"), []byte("{"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(broken, "events.jsonl"),
		[]byte("{\"type\":\"warning\",\"message\":\"<script>alert(1)</script>\"}\nx\n"), 0o644))
	page, err = Render(broken, Page{})
	require.NoError(t, err)
	leave(t, "broken.html", page)
	checkPage(t, string(page))
	require.Contains(t, string(page), "video missing")
	require.Contains(t, string(page), "not toml &lt;b&gt;")
	require.Contains(t, string(page), "manifest.json:")

	_, err = Render(filepath.Join(empty, "nowhere"), Page{})
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))

	run, err := store.Open(one)
	require.NoError(t, err)
	require.NoError(t, WriteRun(run))
	require.NoError(t, run.Close())
	require.FileExists(t, filepath.Join(one, "report.html"))
}

func TestLongRunStaysSmall(t *testing.T) {
	rec := &store.Record{Dir: "x"}
	for i := range 3000 {
		rec.Metrics = append(rec.Metrics, store.Metrics{Iteration: i + 1, EnvSteps: int64(i * 100), Episodes: 64,
			SuccessRate: float64(i%64) / 64, SecondsByPhase: map[string]float64{"rollout": 1}})
	}
	var b bytes.Buffer
	require.NoError(t, HTML(&b, rec, Page{}))
	checkPage(t, b.String())
	require.Less(t, b.Len(), 2<<20)
}

func TestSpread(t *testing.T) {
	require.Equal(t, []int{8, 0, 4, 2, 6, 1, 3, 5, 7}, spread(9))
	for n := range 50 {
		seen := map[int]bool{}
		for _, i := range spread(n) {
			require.False(t, seen[i])
			seen[i] = true
		}
		require.Len(t, seen, n)
	}
}

func TestTicks(t *testing.T) {
	require.Equal(t, []float64{0, 20, 40, 60, 80, 100}, ticks(0, 100, 5, false))
	require.Equal(t, []float64{1, 2, 3}, ticks(1, 3, 9, true))
	for in, want := range map[float64]string{0: "0", 12345: "12.3k", 1.5e6: "1.5M", 0.004: "0.004", 2e-5: "2e-05",
		999: "999", -20000: "-20k", math.Inf(1): "–"} {
		require.Equal(t, want, short(in))
	}
}
