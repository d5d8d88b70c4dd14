package supervise

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// ranksOf returns a plugin of n processes, configured with the given seeds.
func ranksOf(t *testing.T, n int, o Options, seeds ...uint64) (*ProcessWorker[env.Env], *events) {
	t.Helper()
	var ev events
	o.OnEvent, o.Backoff = ev.add, time.Millisecond
	s := supervisor(t, o)
	one := NewEnv(s, launch(t, "good"), nil)
	return newWorker(s, launch(t, "good"), n, one.dial, func(ctx context.Context, ranks []env.Env) error {
		for rank, e := range ranks {
			c := plugins.Config{Lanes: 4}
			if rank < len(seeds) {
				c.Seed = seeds[rank]
			}
			if err := e.Configure(ctx, c); err != nil {
				return err
			}
		}
		return nil
	}), &ev
}

func TestRanksEndTogether(t *testing.T) {
	t.Parallel()
	w, ev := ranksOf(t, 3, Options{Restarts: 4})
	c, first, err := w.Client(background)
	require.NoError(t, err)
	_, err = c.Reset(background, env.Reset{Task: "a"})
	require.NoError(t, err)
	ranks := w.Process().Ranks()
	require.Equal(
		t,
		[]string{"env toy", "env toy #1", "env toy #2"},
		[]string{ranks[0].Label(), ranks[1].Label(), ranks[2].Label()},
	)

	// During a call to rank 0.
	failed := make(chan error, 1)
	go func() { _, err := c.Reset(background, env.Reset{Task: "hang"}); failed <- err }()
	require.Eventually(
		t,
		func() bool { return ranks[1].heartbeat.calls.Load() == 1 },
		10*time.Second,
		time.Millisecond,
	)
	require.NoError(t, syscall.Kill(ranks[1].PID(), syscall.SIGKILL))
	err = <-failed
	require.ErrorContains(
		t,
		err,
		"env toy: it was stopped by srpo, as env toy #1 was killed by signal 9 (killed) during Reset",
	)
	var e *plugins.Error
	require.True(t, errors.As(err, &e))
	require.Contains(t, e.Hint, "the system may have run out of memory")
	_, second, err := w.Client(background)
	require.NoError(t, err)
	require.Equal(t, first+1, second)
	for _, p := range ranks {
		require.True(t, gone(p.PID()))
	}

	// Between calls, and rank 0 itself.
	for rank := range 2 {
		ranks = w.Process().Ranks()
		require.NoError(t, syscall.Kill(ranks[rank].PID(), syscall.SIGKILL))
		for _, p := range ranks {
			<-p.Exited()
		}
		next, _, err := w.Client(background)
		require.NoError(t, err)
		_, err = next.Reset(background, env.Reset{Task: "a"})
		require.NoError(t, err)
	}
	require.NotContains(t, ev.what(), "gave up")

	ranks = w.Process().Ranks()
	w.Close()
	for _, p := range ranks {
		require.True(t, gone(p.PID()))
	}
}

func TestRankThatIsStopped(t *testing.T) {
	t.Parallel()
	w, _ := ranksOf(t, 2, Options{Restarts: 1, Silence: 3 * time.Second})
	c, _, err := w.Client(background)
	require.NoError(t, err)
	ranks := w.Process().Ranks()
	require.NoError(t, syscall.Kill(ranks[1].PID(), syscall.SIGSTOP))
	_, err = c.Reset(background, env.Reset{Task: "hang"})
	require.ErrorContains(t, err, "env toy #1: the process sent no heartbeat for 3s in Reset of lane 0")
	require.Contains(
		t,
		plugins.AsError(err).Hint,
		"env-toy-1.log; if such a silence is normal, raise [host] silence_timeout_s",
	)
	_, _, err = w.Client(background)
	require.NoError(t, err)
}

func TestRankThatRefuses(t *testing.T) {
	t.Parallel()
	w, _ := ranksOf(t, 2, Options{Restarts: 1}, 0, 13)
	_, _, err := w.Client(background)
	require.ErrorContains(t, err, "env toy #1: 13 is not a seed")
	for _, p := range w.Process().Ranks() {
		require.True(t, gone(p.PID()))
	}
}
