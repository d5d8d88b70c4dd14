package report

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/srpo-dev/srpo/host/store"
)

// clock is a time that tests set.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func fake(live bool, width int) (*Terminal, *bytes.Buffer, *clock) {
	var b bytes.Buffer
	c := &clock{time.Unix(1000, 0)}
	t := NewTerminal(&b)
	t.live, t.now, t.width, t.began = live, c.now, func() int { return width }, c.at
	return t, &b, c
}

// screen applies carriage returns and line erasures and returns the visible lines.
func screen(s string) []string {
	var lines []string
	for _, l := range strings.Split(s, "\n") {
		if i := strings.LastIndex(l, "\r\x1b[K"); i >= 0 {
			l = l[i+len("\r\x1b[K"):]
		}
		lines = append(lines, l)
	}
	return lines
}

func TestStatusLine(t *testing.T) {
	term, b, c := fake(true, 120)
	term.Update(Status{Iteration: 1, Iterations: 10, Phase: "rollout", Total: 64})
	for i := 1; i <= 32; i++ {
		c.at = c.at.Add(200 * time.Millisecond)
		term.Update(Status{Iteration: 1, Iterations: 10, Phase: "rollout", Done: i, Total: 64,
			EnvSteps: int64(400 * i), Successes: i / 2, Episodes: i})
	}
	seen := screen(b.String())
	require.Len(t, seen, 1)
	require.Equal(t, "1/10  rollout 32/64 ▕██████      ▏  success 50 %  2000 steps/s  2 min 01 s left", seen[0])

	term.Committed(store.Metrics{Iteration: 1, SuccessRate: 0.5, Episodes: 64, RewardMean: 0.61, KL: 0.004,
		Seconds: 12, GroupsKept: 8}, 10)
	c.at = c.at.Add(time.Second)
	term.Update(Status{Iteration: 2, Iterations: 10, Phase: "update", EnvSteps: 20000})
	term.Line("saved %s", "x")
	term.Close()
	seen = screen(b.String())
	require.Len(t, seen, 3)
	require.Equal(t, "iteration  1/10  success  50.0 %  (95 %: 38.1 % to 61.9 %)  reward 0.610  KL 0.004  groups "+
		"8/8  1 min 48 s left  12 s", seen[0])
	require.Equal(t, "saved x", seen[1])
	require.Empty(t, seen[2], "the status line is gone")

	term, b, _ = fake(true, 20)
	term.Update(Status{Iteration: 1, Iterations: 10, Phase: "rollout", Done: 3, Total: 64, Successes: 1, Episodes: 3})
	require.LessOrEqual(t, len([]rune(screen(b.String())[0])), 19, "never wider than the terminal")
}

func evaluated(iteration int, rate float64) store.Event {
	return store.Event{Type: store.Evaluated, Iteration: iteration,
		Evaluation: &store.Evaluation{SuccessRate: rate, Episodes: 50}}
}

func TestPlainLines(t *testing.T) {
	term, b, c := fake(false, 80)
	for i := range 1000 {
		c.at = c.at.Add(100 * time.Millisecond)
		term.Update(Status{Iteration: 1, Iterations: 2, Phase: "rollout", Done: i, Total: 1000,
			EnvSteps: int64(10 * i)})
	}
	term.Warn("env %s died", "tabletop")
	term.Committed(store.Metrics{Iteration: 1, SuccessRate: math.NaN(), KL: math.NaN(), EmbeddingsDropped: 2}, 2)
	term.Summary([]store.Metrics{{SuccessRate: 0.1, Episodes: 64, Seconds: 5}, {SuccessRate: 0.9, Episodes: 64,
		EnvSteps: 120000, Seconds: 5}},
		[]store.Event{evaluated(0, 0.2), {Type: store.Committed}, evaluated(1, 0.5), evaluated(2, 0.96)},
		"report: runs/a/report.html")
	out := b.String()
	require.NotContains(t, out, "\r")
	require.NotContains(t, out, "\x1b", "no colours where there is no terminal")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 3+1+1+3, "one line every half minute")
	require.Equal(t, "1/2  rollout 600/1000  100 steps/s  2 min 20 s left", lines[1])
	require.Equal(t, "warning: env tabletop died", lines[3])
	require.Contains(t, lines[4], "2 embeddings dropped")
	require.Equal(t, "success 10.0 % → 90.0 % (95 %: 80.2 % to 95.2 %)  ▂▇  in 2 iterations, 120k env steps, 10 s",
		lines[5])
	require.Equal(t, "greedy  20.0 % (95 %: 11.2 % to 33.0 %) before → 96.0 % (95 %: 86.5 % to 98.9 %) after "+
		"iteration 2, 50 episodes each", lines[6])
	require.Equal(t, "report: runs/a/report.html", lines[7])

	term, b, _ = fake(false, 80)
	term.Summary(nil, []store.Event{evaluated(0, 0.2)})
	require.Equal(t, "no iteration was committed\n", b.String())
}

func TestTerminalFromManyGoroutines(t *testing.T) {
	term, _, _ := fake(true, 100)
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 50 {
				term.Update(Status{Iteration: 1, Iterations: 2, Phase: "rollout", Done: i, Total: 50})
				term.Line("x")
			}
		}()
	}
	wg.Wait()
}

func TestKindOfTerminal(t *testing.T) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminal: %v", err)
	}
	defer pty.Close()
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	term := NewTerminal(pty)
	require.True(t, term.live)
	require.Equal(t, "\x1b[1mx\x1b[0m", term.paint("1", "x"))
	t.Setenv("NO_COLOR", "1")
	term = NewTerminal(pty)
	require.True(t, term.live)
	require.Equal(t, "x", term.paint("1", "x"))
	t.Setenv("TERM", "dumb")
	require.False(t, NewTerminal(pty).live)
}

func TestSparkline(t *testing.T) {
	require.Equal(t, "▁▃▅▆█", Sparkline([]float64{0, 0.25, 0.5, 0.75, 1}, 40))
	require.Equal(t, "▁ █", Sparkline([]float64{-1, math.NaN(), 7}, 40))
	require.Len(t, []rune(Sparkline(make([]float64, 1000), 40)), 40)
	require.Empty(t, Sparkline(nil, 40))
}

// scalarsOf decodes an event file and checks its checksums.
func scalarsOf(t *testing.T, data []byte) (versions int, values map[int64]map[string]float32) {
	t.Helper()
	values = map[int64]map[string]float32{}
	for len(data) > 0 {
		n := binary.LittleEndian.Uint64(data)
		require.Equal(t, masked(data[:8]), binary.LittleEndian.Uint32(data[8:]))
		rec := data[12 : 12+n]
		require.Equal(t, masked(rec), binary.LittleEndian.Uint32(data[12+n:]))
		data = data[16+n:]
		step := int64(0)
		fields(t, rec, func(num protowire.Number, v []byte, u uint64) {
			switch num {
			case 2:
				step = int64(u)
			case 3:
				require.Equal(t, "brain.Event:2", string(v))
				versions++
			case 5:
				fields(t, v, func(_ protowire.Number, v []byte, _ uint64) {
					tag := ""
					fields(t, v, func(num protowire.Number, v []byte, u uint64) {
						if num == 1 {
							tag = string(v)
							return
						}
						if values[step] == nil {
							values[step] = map[string]float32{}
						}
						values[step][tag] = math.Float32frombits(uint32(u))
					})
				})
			}
		})
	}
	return versions, values
}

func fields(t *testing.T, b []byte, f func(protowire.Number, []byte, uint64)) {
	t.Helper()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		require.Positive(t, n)
		b = b[n:]
		var v []byte
		var u uint64
		switch typ {
		case protowire.BytesType:
			v, n = protowire.ConsumeBytes(b)
		case protowire.Fixed32Type:
			var x uint32
			x, n = protowire.ConsumeFixed32(b)
			u = uint64(x)
		case protowire.Fixed64Type:
			u, n = protowire.ConsumeFixed64(b)
		default:
			u, n = protowire.ConsumeVarint(b)
		}
		require.Positive(t, n)
		b = b[n:]
		f(num, v, u)
	}
}

func TestTensorBoard(t *testing.T) {
	// RFC 3720 B.4: CRC-32C of 32 zero bytes is 0x8a9136aa; masked by hand.
	c := uint32(0x8a9136aa)
	require.Equal(t, (c>>15|c<<17)+0xa282ead8, masked(make([]byte, 32)))

	dir := filepath.Join(t.TempDir(), "tb")
	begin := time.Unix(1700000000, 500e6)
	tb, err := OpenTensorBoard(dir, begin, nil)
	require.NoError(t, err)
	one := store.Metrics{Iteration: 1, SuccessRate: 0.25, KL: math.NaN(),
		SecondsByPhase: map[string]float64{"rollout": 2}, Extra: map[string]float64{"entropy": 1.5}}
	require.NoError(t, tb.Add(one, begin))
	require.NoError(t, tb.Add(store.Metrics{Iteration: 2, SuccessRate: 0.5}, begin))
	require.NoError(t, tb.Close())
	// The run is resumed after iteration 1.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "events.out.tfevents.1.other"), nil, 0o644))
	tb, err = OpenTensorBoard(dir, begin, []store.Metrics{one})
	require.NoError(t, err)
	require.NoError(t, tb.Add(store.Metrics{Iteration: 2, SuccessRate: 0.75}, begin))
	require.NoError(t, tb.Close())
	files, err := filepath.Glob(filepath.Join(dir, "*.srpo"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.FileExists(t, filepath.Join(dir, "events.out.tfevents.1.other"))
	data, err := os.ReadFile(files[0])
	require.NoError(t, err)
	leave(t, filepath.Base(files[0]), data)
	versions, values := scalarsOf(t, data)
	require.Equal(t, 1, versions)
	require.Equal(t, float32(0.25), values[1]["rollout/success_rate"])
	require.Equal(t, float32(0.75), values[2]["rollout/success_rate"])
	require.Equal(t, float32(1.5), values[1]["extra/entropy"])
	require.Equal(t, float32(2), values[1]["seconds/rollout"])
	require.NotContains(t, values[1], "update/kl")
	require.Len(t, values, 2)

	_, err = OpenTensorBoard(files[0], begin, nil)
	require.Error(t, err)
}
