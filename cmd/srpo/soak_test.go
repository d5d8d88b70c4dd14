//go:build soak

package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// usage is the resource usage of the host at one time.
type usage struct {
	at    time.Duration
	count int // restarts, or iterations
	// goroutines and open descriptors; resident memory and Go's heap, 10^6 bytes; 10^6 bytes and files in the folder.
	goroutines, descriptors int
	resident, heap, disk    float64
	files                   int
}

func measure(began time.Time, count int, folder string) usage {
	u := usage{at: time.Since(began), count: count, goroutines: runtime.NumGoroutine()}
	fds, _ := os.ReadDir("/proc/self/fd")
	u.descriptors = len(fds)
	data, _ := os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(data)); len(f) > 1 {
		pages, _ := strconv.ParseFloat(f[1], 64)
		u.resident = pages * float64(os.Getpagesize()) / 1e6
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.heap = float64(m.HeapAlloc) / 1e6
	_ = filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // it may have been removed
		}
		if info, err := d.Info(); err == nil {
			u.disk += float64(info.Size()) / 1e6
			u.files++
		}
		return nil
	})
	return u
}

// soakSeries is one part of the page.
type soakSeries struct {
	title, unit, description string
	list                     []usage
}

// TestSoak restarts plugins SRPO_SOAK_RESTARTS times (20), runs the default run for SRPO_SOAK (1m), and writes the
// host's resource usage to the page SRPO_SOAK_OUT and a figure next to it. It fails if the usage grows without limit.
func TestSoak(t *testing.T) {
	restarts, length := 20, time.Minute
	if v := os.Getenv("SRPO_SOAK_RESTARTS"); v != "" {
		n, err := strconv.Atoi(v)
		require.NoError(t, err)
		restarts = n
	}
	if v := os.Getenv("SRPO_SOAK"); v != "" {
		d, err := time.ParseDuration(v)
		require.NoError(t, err)
		length = d
	}
	parts := []soakSeries{restartPlugins(t, restarts), soakRun(t, length)}
	if page := os.Getenv("SRPO_SOAK_OUT"); page != "" {
		require.NoError(t, os.WriteFile(page, soakPage(parts), 0o644))
		require.NoError(t, os.WriteFile(strings.TrimSuffix(page, ".md")+".svg", soakDrawing(parts), 0o644))
	}
	for _, p := range parts {
		first, last := steady(p.list)
		t.Logf("%s: %d to %d goroutines, %d to %d descriptors, %.1f to %.1f MB resident, %.1f to %.1f MB of heap",
			p.title, first.goroutines, last.goroutines,
			first.descriptors, last.descriptors, first.resident, last.resident, first.heap, last.heap)
		for _, growth := range p.growth() {
			t.Errorf("%s: %s", p.title, growth)
		}
	}
}

// growth lists the resources whose usage grows without limit.
func (s soakSeries) growth() []string {
	var out []string
	first, last := steady(s.list)
	if last.goroutines > first.goroutines+5 || last.descriptors > first.descriptors+5 {
		out = append(out, fmt.Sprintf("goroutines grew from %d to %d, descriptors from %d to %d", first.goroutines,
			last.goroutines, first.descriptors, last.descriptors))
	}
	if last.resident > 1.2*first.resident+20 {
		out = append(out, fmt.Sprintf("resident memory grew from %.1f to %.1f MB", first.resident, last.resident))
	}
	if before, after := s.disk(); after > 1.5*before+0.1 {
		out = append(out, fmt.Sprintf("the folder grew by %.2f MB per %s at first, and by %.2f MB later", before,
			strings.TrimSuffix(s.unit, "s"), after))
	}
	return out
}

// soakResult summarizes the page in one sentence.
func soakResult(parts []soakSeries) string {
	var counts, growth []string
	for _, p := range parts {
		counts = append(counts, fmt.Sprintf("%d %s", p.list[len(p.list)-1].count, p.unit))
		growth = append(growth, p.growth()...)
	}
	if len(growth) == 0 {
		growth = []string{"nothing grew beyond the limits in the head of the script"}
	}
	return fmt.Sprintf("Over %s, %s.", strings.Join(counts, " and "), strings.Join(growth, "; "))
}

// steady returns the maximum usage in the second quarter and in the last one. The first quarter is ignored, because
// usage grows at the start. The maximum does not depend on the phases of an iteration.
func steady(list []usage) (first, last usage) {
	n := len(list)
	return maxUsage(list[n/4 : max(n/2, n/4+1)]), maxUsage(list[min(3*n/4, n-1):])
}

// disk returns the growth of the folder per restart or iteration in 10^6 bytes, in the second quarter and in the last
// one. Logs, metrics and videos grow at a constant rate.
func (s soakSeries) disk() (before, after float64) {
	n := len(s.list)
	each := func(from, to usage) float64 { return (to.disk - from.disk) / float64(max(1, to.count-from.count)) }
	return each(s.list[n/4], s.list[n/2]), each(s.list[min(3*n/4, n-1)], s.list[n-1])
}

// maxUsage returns the maximum of goroutines, descriptors and memory.
func maxUsage(list []usage) (m usage) {
	for _, u := range list {
		m.goroutines, m.descriptors = max(m.goroutines, u.goroutines), max(m.descriptors, u.descriptors)
		m.resident, m.heap = max(m.resident, u.resident), max(m.heap, u.heap)
	}
	return m
}

// restartPlugins ends the three plugins of the default run in turn, n times in total. It stops every tenth process in a
// call and kills the others.
func restartPlugins(t *testing.T, n int) soakSeries {
	folder := t.TempDir()
	s, err := supervise.New(supervise.Options{
		LogDir: folder, ArenaBytes: 64 << 20, Restarts: n + 1, Backoff: time.Millisecond, MaxBackoff: time.Millisecond,
		Silence: time.Second,
	})
	require.NoError(t, err)
	defer s.Close()
	self, err := os.Executable()
	require.NoError(t, err)
	launch := func(kind plugins.Kind, name string) supervise.Launch {
		return supervise.Launch{Kind: kind, Name: name, Argv: []string{self, "plugin", "serve", string(kind), name}}
	}
	envs := supervise.NewEnv(s, launch(plugins.Env, "tabletop"), nil)
	policies := supervise.NewPolicy(s, launch(plugins.Policy, "tiny"), 1, nil)
	encoders := supervise.NewEncoder(s, launch(plugins.Encoder, "pixel"), nil)
	ctx := context.Background()
	calls := []func() (*supervise.Process, error){
		func() (*supervise.Process, error) {
			return callInfo(ctx, envs, func(e env.Env) plugins.Plugin { return e })
		},
		func() (*supervise.Process, error) {
			return callInfo(ctx, policies, func(p policy.Policy) plugins.Plugin { return p })
		},
		func() (*supervise.Process, error) {
			return callInfo(ctx, encoders, func(e encoder.Encoder) plugins.Plugin { return e })
		},
	}
	for _, call := range calls {
		_, err := call()
		require.NoError(t, err)
	}
	began := time.Now()
	out := soakSeries{title: "Restarts", unit: "restarts", list: []usage{measure(began, 0, folder)}}
	stopped := 0
	for i := range n {
		call := calls[i%len(calls)]
		p, err := call()
		require.NoError(t, err)
		if i%10 == 9 { // no heartbeat arrives in the next call
			stopped++
			require.NoError(t, syscall.Kill(p.PID(), syscall.SIGSTOP))
			require.Eventually(t, func() bool { // each of its threads stops when it next runs
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
				return err == nil && strings.Contains(string(stat), ") T ")
			}, time.Minute, time.Millisecond)
			_, err := call()
			require.Equal(t, plugins.Deadline, plugins.KindOf(err))
		} else {
			require.NoError(t, syscall.Kill(p.PID(), syscall.SIGKILL))
		}
		<-p.Exited()
		_, err = call()
		require.NoError(t, err)
		if (i+1)%max(1, n/100) == 0 {
			out.list = append(out.list, measure(began, i+1, folder))
		}
		if (i+1)%max(1, n/20) == 0 {
			elapsed := time.Since(began)
			t.Logf(
				"%d of %d restarts, %v left", i+1, n,
				(elapsed / time.Duration(i+1) * time.Duration(n-i-1)).Round(time.Second),
			)
		}
	}
	out.description = fmt.Sprintf("tabletop, tiny and pixel were stopped in turn, %d times in total: %d times by "+
		"SIGSTOP during a call and otherwise by SIGKILL.\nThe host restarted the plugin each time, in %.2f s on "+
		"average. "+
		"Only the logs grow on disk, by two lines per process.", n, stopped, time.Since(began).Seconds()/float64(n))
	return out
}

// callInfo starts the plugin if it does not run, and calls Info.
func callInfo[T any](
	ctx context.Context, w *supervise.ProcessWorker[T], plugin func(T) plugins.Plugin,
) (*supervise.Process, error) {
	c, _, err := w.Client(ctx)
	if err == nil {
		_, err = plugin(c).Info(ctx)
	}
	return w.Process(), err
}

// soakRun runs `srpo run` with the defaults in this process, and ends it by SIGINT after the given time.
func soakRun(t *testing.T, length time.Duration) soakSeries {
	folder := filepath.Join(t.TempDir(), "run")
	t.Setenv("SRPO_CACHE", t.TempDir())
	var output safeBuffer
	done := make(chan int, 1)
	began := time.Now()
	go func() {
		done <- Main(
			[]string{
				"run", "--out", folder, "--iterations", "1000000", "--set", "run.solved_after=0",
			}, &output, &output,
		)
	}()
	iterations := func() int {
		data, _ := os.ReadFile(filepath.Join(folder, "metrics.jsonl"))
		return bytes.Count(data, []byte("\n"))
	}
	out := soakSeries{title: "Default run", unit: "iterations"}
	tick := time.NewTicker(max(length/240, 500*time.Millisecond))
	defer tick.Stop()
	logged := began
	for over := false; !over; {
		select {
		case code := <-done:
			t.Fatalf("the run ended with %d:\n%s", code, output.String())
		case <-tick.C:
			if n := iterations(); n > 0 {
				out.list = append(out.list, measure(began, n, folder))
			}
			if time.Since(logged) >= length/24 && len(out.list) > 0 {
				logged = time.Now()
				u := out.list[len(out.list)-1]
				t.Logf("%d iterations, %d goroutines, %d descriptors, %.0f MB resident, %.1f MB on disk; %v left",
					u.count, u.goroutines, u.descriptors, u.resident, u.disk,
					max(0, length-time.Since(began)).Round(time.Second))
			}
			over = time.Since(began) > length && len(out.list) > 8
		}
	}
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGINT))
	require.Equal(t, 130, <-done, output.String())
	kept, err := os.ReadDir(filepath.Join(folder, "checkpoints"))
	require.NoError(t, err)
	require.LessOrEqual(t, len(kept), config.Default().Run.Keep+1, "the newest ones and the best one")
	out.description = fmt.Sprintf("`srpo run` with its defaults (tabletop, tiny, pixel) for %v, %d iterations, with "+
		"`solved_after` off. Metrics, events, the\nreport and the videos grow on disk; the newest 3 checkpoints and "+
		"the best one are kept.", length, iterations())
	return out
}

// safeBuffer is a buffer for concurrent use.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// soakPage returns the page of results.
func soakPage(parts []soakSeries) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b,
		"# Long runs\n\n**Question.** Do memory, goroutines, open file descriptors or the run folder grow without "+
			"limit in a long run?\n\n**Result.** %s\n\n"+
			"Made by `bash docs/results/soak.sh` on %s with %s on %d cores%s, with the default seed. Measured:\n"+
			"goroutines, open file descriptors, resident memory and heap of the host's process, and the size of its "+
			"folder.\n\n"+
			"![goroutines, descriptors, memory and disk over time](soak.svg)\n", soakResult(parts),
		time.Now().UTC().Format("2006-01-02"), runtime.Version(), runtime.NumCPU(), os.Getenv("SRPO_SOAK_COMMIT"))
	row := func(u usage) {
		fmt.Fprintf(
			&b, "| %s | %d | %d | %d | %.1f | %.1f | %.1f | %d |\n", u.at.Round(time.Second), u.count, u.goroutines,
			u.descriptors, u.resident, u.heap, u.disk, u.files,
		)
	}
	for _, p := range parts {
		first, last := steady(p.list)
		before, after := p.disk()
		fmt.Fprintf(&b,
			"\n## %s\n\n%s\n\nMaximum in the second quarter and in the last quarter: %d and %d goroutines, %d and %d "+
				"descriptors, %.1f and %.1f MB\nresident, %.1f and %.1f MB of heap. "+
				"Growth of the folder in the same quarters: %.4f and %.4f MB per %s.\n\n",
			p.title, p.description, first.goroutines, last.goroutines, first.descriptors, last.descriptors,
			first.resident,
			last.resident, first.heap, last.heap, before, after, strings.TrimSuffix(p.unit, "s"))
		fmt.Fprintf(
			&b,
			"| after | %s | goroutines | descriptors | resident, MB | heap, MB | disk, MB | files |\n| ---: | "+
				"---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
			p.unit,
		)
		rows := min(12, len(p.list))
		for i := range rows {
			row(p.list[i*(len(p.list)-1)/max(rows-1, 1)])
		}
	}
	b.WriteString("\n## Limits\n\nHours do not show what grows over weeks. Only the built-in plugins ran, on a CPU.\n")
	return b.Bytes()
}

// soakDrawing returns an SVG figure with a row per part and a column per resource.
func soakDrawing(parts []soakSeries) []byte {
	const w, h, left, above = 250, 110, 46, 40
	columns := []struct {
		name string
		of   func(usage) float64
	}{
		{"goroutines", func(u usage) float64 { return float64(u.goroutines) }}, {
			"descriptors", func(u usage) float64 { return float64(u.descriptors) },
		},
		{
			"resident, MB", func(u usage) float64 { return u.resident },
		}, {"disk, MB", func(u usage) float64 { return u.disk }},
	}
	var b bytes.Buffer
	fmt.Fprintf(&b,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "+
			"font-size=\"11\" fill=\"#444\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
		len(columns)*(w+left)+20, len(parts)*(h+above+24)+10)
	for r, p := range parts {
		y := r*(h+above+24) + above
		fmt.Fprintf(
			&b, "<text x=\"%d\" y=\"%d\" font-weight=\"bold\">%s, %v</text>\n", left, y-22, p.title,
			p.list[len(p.list)-1].at.Round(time.Second),
		)
		for c, column := range columns {
			x := c*(w+left) + left
			top := 1e-9
			for _, u := range p.list {
				top = max(top, column.of(u))
			}
			fmt.Fprintf(&b,
				"<text x=\"%d\" y=\"%d\">%s</text><text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.3g</text><text "+
					"x=\"%d\" y=\"%d\" text-anchor=\"end\">0</text>\n<path d=\"M%d %dv%dh%d\" fill=\"none\" "+
					"stroke=\"#bbb\"/>\n<polyline fill=\"none\" stroke=\"#2563a8\" stroke-width=\"1.3\" points=\"",
				x, y-6, column.name, x-4, y+9, top, x-4, y+h, x, y, h, w)
			end := p.list[len(p.list)-1].at.Seconds()
			for _, u := range p.list {
				fmt.Fprintf(&b, "%.1f,%.1f ", float64(x)+w*u.at.Seconds()/end, float64(y)+h*(1-column.of(u)/top))
			}
			b.WriteString("\"/>\n")
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
