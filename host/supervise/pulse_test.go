package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// A process that is stopped in a call is noticed by its silence, though the call may take two minutes.
func TestStoppedProcessIsHeard(t *testing.T) {
	t.Parallel()
	w, ev := envWorker(t, Options{Restarts: 1, Silence: 2 * time.Second, Deadlines: Deadlines{Reset: time.Hour}})
	c, _, err := w.Client(background)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.Process().pulse.beats.Load() > 0 }, 10*time.Second, time.Millisecond)
	pid := w.Process().PID()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	require.Eventually(t, func() bool { // each of its threads stops when it next runs
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, path := range threads {
			if stat, err := os.ReadFile(path); err != nil || !strings.Contains(string(stat), ") T ") {
				return false
			}
		}
		return len(threads) > 0
	}, 10*time.Second, time.Millisecond)
	_, err = c.Reset(background, env.Reset{Task: "a", Lane: 3})
	require.Equal(t, plugins.Deadline, plugins.KindOf(err))
	require.ErrorContains(t, err, "env toy: the process gave no sign of life for 2s in Reset of lane 3: it was stopped, or something holds its interpreter")
	require.Contains(t, plugins.AsError(err).Hint, "[host] silence_timeout_s")
	c, inc, err := w.Client(background)
	require.NoError(t, err)
	require.EqualValues(t, 2, inc)
	require.True(t, gone(pid))
	_, err = c.Reset(background, env.Reset{Task: "a"})
	require.NoError(t, err)
	for _, e := range ev.list {
		if e.What == "died" || e.What == "replaced" {
			require.Contains(t, e.Cause, "no sign of life for 2s")
		}
	}
}

// Silence between calls is nobody's fault, and one that never beat is judged by deadlines alone.
func TestSilenceOutsideOfCalls(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	p := &pulse{r: r, w: w, every: time.Millisecond, silence: 5 * time.Millisecond}
	exited, silent := make(chan struct{}), make(chan struct{})
	p.listen(exited, func(time.Duration) { close(silent) })
	p.calls.Add(1)
	select {
	case <-silent:
		t.Fatal("it never beat")
	case <-time.After(50 * time.Millisecond):
	}
	p.calls.Add(-1)
	_, err = w.Write([]byte{1})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return p.beats.Load() == 1 }, 10*time.Second, time.Millisecond)
	select {
	case <-silent:
		t.Fatal("nothing was asked of it")
	case <-time.After(50 * time.Millisecond):
	}
	p.slow.Add(1)
	require.Equal(t, 25*time.Millisecond, p.allowed(), "libraries are being loaded")
	p.slow.Add(-1)
	p.calls.Add(1)
	<-silent
	require.EqualValues(t, 5*time.Millisecond, p.over.Load())
	close(exited)
	p.close()
}

// A call whose deadline passes goes on while the process is at work, up to so many deadlines; one that waits ends, and so does one of a plugin without a heart.
func TestSlowIsNotHung(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		plugin, task, words string
		patience            float64
	}{
		"slow":                       {"good", "work:2s", "", 60},
		"waits for what never comes": {"good", "hang", "Reset of lane 0 did not answer within 1s", 60},
		"works for ever":             {"good", "work:1h", "Reset of lane 0 did not answer within 2s, 2 times its deadline, though it was at work", 2},
		"slow, without a heart":      {"heartless", "work:1h", "Reset of lane 0 did not answer within 1s", 60},
		"no patience":                {"good", "work:1h", "Reset of lane 0 did not answer within 1s", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := supervisor(t, Options{Backoff: time.Millisecond, Patience: c.patience, Deadlines: Deadlines{Reset: time.Second}})
			w := NewEnv(s, launch(t, c.plugin), configure)
			e, _, err := w.Client(background)
			require.NoError(t, err)
			if c.plugin == "good" {
				require.Eventually(t, func() bool { return w.Process().pulse.beats.Load() > 0 }, 10*time.Second, time.Millisecond)
			}
			_, err = e.Reset(background, env.Reset{Task: c.task})
			if c.words == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, plugins.Deadline, plugins.KindOf(err))
			require.ErrorContains(t, err, c.words)
			require.NotContains(t, err.Error()[len("env toy: "+c.words):], "at work")
		})
	}
}

func TestAtWork(t *testing.T) {
	second := func(spent time.Duration, wants bool) effort { return effort{spent: spent, wants: wants, known: true} }
	require.True(t, atWork(second(0, false), second(60*time.Millisecond, false), time.Second))
	require.False(t, atWork(second(time.Hour, false), second(time.Hour+40*time.Millisecond, false), time.Second), "heart and gRPC alone")
	require.True(t, atWork(second(0, true), second(0, true), time.Second), "a starved machine, or a slow disk")
	require.False(t, atWork(second(0, true), second(0, false), time.Second))
	require.False(t, atWork(effort{}, second(time.Hour, true), time.Second), "not known")
	self := effortOf(syscall.Getpgrp())
	require.True(t, self.known && self.spent > 0)
	require.False(t, effortOf(-1).known)
}
