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

// A process that is stopped during a call is killed for its silence, long before the deadline of the call.
func TestStoppedProcessIsKilled(t *testing.T) {
	t.Parallel()
	w, ev := envWorker(t, Options{Restarts: 1, Silence: 2 * time.Second, Deadlines: Deadlines{Reset: time.Hour}})
	c, _, err := w.Client(background)
	require.NoError(t, err)
	require.Eventually(
		t,
		func() bool { return w.Process().heartbeat.beats.Load() > 0 },
		10*time.Second,
		time.Millisecond,
	)
	pid := w.Process().PID()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	require.Eventually(t, func() bool { // each thread stops when it next runs
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
	require.ErrorContains(
		t,
		err,
		"env toy: the process sent no heartbeat for 2s in Reset of lane 3: it was stopped, or its interpreter is "+
			"blocked",
	)
	require.Contains(t, plugins.AsError(err).Hint, "[host] silence_timeout_s")
	c, inc, err := w.Client(background)
	require.NoError(t, err)
	require.EqualValues(t, 2, inc)
	require.True(t, gone(pid))
	_, err = c.Reset(background, env.Reset{Task: "a"})
	require.NoError(t, err)
	for _, e := range ev.list {
		if e.What == "died" || e.What == "replaced" {
			require.Contains(t, e.Cause, "no heartbeat for 2s")
		}
	}
}

// Silence between calls is normal. A process that never sent a heartbeat has only its deadlines.
func TestSilenceOutsideOfCalls(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	p := &heartbeat{r: r, w: w, interval: time.Millisecond, silence: 5 * time.Millisecond}
	exited, silent := make(chan struct{}), make(chan struct{})
	p.watch(exited, func(time.Duration) { close(silent) })
	p.calls.Add(1)
	select {
	case <-silent:
		t.Fatal("it never sent a heartbeat")
	case <-time.After(50 * time.Millisecond):
	}
	p.calls.Add(-1)
	_, err = w.Write([]byte{1})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return p.beats.Load() == 1 }, 10*time.Second, time.Millisecond)
	select {
	case <-silent:
		t.Fatal("there is no call")
	case <-time.After(50 * time.Millisecond):
	}
	p.loading.Add(1)
	require.Equal(t, 25*time.Millisecond, p.timeout(), "libraries are being loaded")
	p.loading.Add(-1)
	p.calls.Add(1)
	<-silent
	require.EqualValues(t, 5*time.Millisecond, p.killedAfter.Load())
	close(exited)
	p.close()
}

// A call that passes its deadline continues while the process is working, up to its patience. It ends when
// the process waits, and when the plugin sends no heartbeats.
func TestSlowIsNotHung(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		plugin, task, message string
		patience              float64
	}{
		"slow":                                   {"good", "work:2s", "", 60},
		"waits for something that never happens": {"good", "hang", "Reset of lane 0 did not answer within 1s", 60},
		"works forever": {"good", "work:1h",
			"Reset of lane 0 did not answer within 2s, 2 times its deadline, though it was working", 2},
		"slow, without heartbeats": {"no heartbeat", "work:1h",
			"Reset of lane 0 did not answer within 1s", 60},
		"no patience": {"good", "work:1h", "Reset of lane 0 did not answer within 1s", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := supervisor(
				t,
				Options{Backoff: time.Millisecond, Patience: c.patience, Deadlines: Deadlines{Reset: time.Second}},
			)
			w := NewEnv(s, launch(t, c.plugin), configure)
			e, _, err := w.Client(background)
			require.NoError(t, err)
			if c.plugin == "good" {
				require.Eventually(
					t,
					func() bool { return w.Process().heartbeat.beats.Load() > 0 },
					10*time.Second,
					time.Millisecond,
				)
			}
			_, err = e.Reset(background, env.Reset{Task: c.task})
			if c.message == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, plugins.Deadline, plugins.KindOf(err))
			require.ErrorContains(t, err, c.message)
			require.NotContains(t, err.Error()[len("env toy: "+c.message):], "working")
		})
	}
}

func TestIsWorking(t *testing.T) {
	sample := func(cpuTime time.Duration, waiting bool) usage {
		return usage{cpuTime: cpuTime, waiting: waiting, known: true}
	}
	require.True(t, isWorking(sample(0, false), sample(60*time.Millisecond, false), time.Second))
	require.False(
		t,
		isWorking(sample(time.Hour, false), sample(time.Hour+40*time.Millisecond, false), time.Second),
		"only heartbeats and gRPC",
	)
	require.True(t, isWorking(sample(0, true), sample(0, true), time.Second), "a busy machine, or a slow disk")
	require.False(t, isWorking(sample(0, true), sample(0, false), time.Second))
	require.False(t, isWorking(usage{}, sample(time.Hour, true), time.Second), "unknown")
	self := usageOf(syscall.Getpgrp())
	require.True(t, self.known && self.cpuTime > 0)
	require.False(t, usageOf(-1).known)
}
