package supervise

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

var background = context.Background()

func configure(ctx context.Context, e env.Env) error {
	return e.Configure(ctx, plugins.Config{Lanes: 4})
}

func envWorker(t *testing.T, o Options) (*ProcessWorker[env.Env], *events) {
	t.Helper()
	var ev events
	o.OnEvent = ev.add
	if o.Backoff == 0 {
		o.Backoff = time.Millisecond
	}
	w := NewEnv(supervisor(t, o), launch(t, "good"), configure)
	return w, &ev
}

type events struct {
	mu   sync.Mutex
	list []Event
}

func (e *events) add(v Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, v)
}

func (e *events) what() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, v := range e.list {
		out = append(out, v.What)
	}
	return out
}

func TestCrashInCall(t *testing.T) {
	t.Parallel()
	w, ev := envWorker(t, Options{Restarts: 3, ArenaBytes: 1 << 16})
	c, first, err := w.Client(background)
	require.NoError(t, err)
	_, err = c.Reset(background, env.Reset{Task: "a"})
	require.NoError(t, err)
	require.EqualValues(t, 1, first)

	for _, how := range []struct{ task, message, detail string }{
		{"exit", "env toy: it exited with status 5 during Reset of lane 0", "mj_step: Nan in qacc"},
		{"panic", "env toy: it exited with status 2 during Reset of lane 0", "simulator fault"},
		{"kill", "env toy: it was killed by signal 9 (killed) during Reset of lane 0", ""},
	} {
		c, before, err := w.Client(background)
		require.NoError(t, err)
		pid := w.Process().PID()
		_, err = c.Reset(background, env.Reset{Task: how.task})
		var e *plugins.Error
		require.True(t, errors.As(err, &e))
		require.Equal(t, plugins.Unavailable, e.Kind)
		require.Contains(t, e.Error(), how.message)
		require.Contains(t, e.Detail, how.detail)
		require.NotEmpty(t, e.Hint)
		next, now, err := w.Client(background)
		require.NoError(t, err)
		require.Equal(t, before+1, now)
		require.True(t, gone(pid))
		_, err = next.Reset(background, env.Reset{Task: "a"})
		require.NoError(t, err)
		_, err = c.Reset(background, env.Reset{Task: "a"})
		require.Equal(t, plugins.Unavailable, plugins.KindOf(err), "the old client stays dead")
		_, still, err := w.Client(background)
		require.NoError(t, err)
		require.Equal(t, now, still, "a report on the old process does not affect the new one")
	}
	require.Equal(t, []string{"started", "ready", "died", "restarting", "started", "ready"}, ev.what()[:6])
}

func TestBudget(t *testing.T) {
	t.Parallel()
	w, ev := envWorker(t, Options{Restarts: 2, Backoff: 4 * time.Millisecond})
	for range 3 {
		c, _, err := w.Client(background)
		require.NoError(t, err)
		_, err = c.Reset(background, env.Reset{Task: "exit"})
		require.Equal(t, plugins.Unavailable, plugins.KindOf(err))
	}
	_, _, err := w.Client(background)
	require.ErrorContains(t, err, "gave up after 2 restarts in this run")
	require.ErrorContains(t, err, "exited with status 5")
	e := plugins.AsError(err)
	require.Contains(t, e.Detail, "mj_step: Nan in qacc")
	require.Contains(t, e.Hint, "[host] restarts")
	_, _, again := w.Client(background)
	require.Equal(t, err, again)
	require.Equal(t, "gave up", ev.what()[len(ev.what())-1])
	var waits []float64
	for _, e := range ev.list {
		if e.What == "restarting" {
			waits = append(waits, e.Seconds)
		}
	}
	require.Equal(t, []float64{0.004, 0.008}, waits)
}

func TestBudgetWithinAWindow(t *testing.T) {
	t.Parallel()
	w, _ := envWorker(t, Options{Restarts: 1, Window: time.Nanosecond})
	for range 2 { // each restart is outside the window of the previous one
		c, _, err := w.Client(background)
		require.NoError(t, err)
		_, err = c.Reset(background, env.Reset{Task: "exit"})
		require.Equal(t, plugins.Unavailable, plugins.KindOf(err))
	}
	_, _, err := w.Client(background)
	require.NoError(t, err)
}

func TestBackoffGrows(t *testing.T) {
	o := Options{Backoff: 4 * time.Millisecond, MaxBackoff: 10 * time.Millisecond}
	for n, want := range []time.Duration{4, 8, 10, 10, 10} {
		require.Equal(t, want*time.Millisecond, o.backoff(n))
	}
	require.Equal(t, 10*time.Millisecond, o.backoff(1000000))
}

func TestDeathBetweenCalls(t *testing.T) {
	t.Parallel()
	w, ev := envWorker(t, Options{Restarts: 1})
	c, _, err := w.Client(background)
	require.NoError(t, err)
	_, err = c.Reset(background, env.Reset{Task: "soon"})
	require.NoError(t, err)
	require.Eventually(
		t,
		func() bool { l := ev.what(); return l[len(l)-1] == "died" },
		5*time.Second,
		5*time.Millisecond,
	)
	c, inc, err := w.Client(background)
	require.NoError(t, err)
	require.EqualValues(t, 2, inc)
	_, err = c.Reset(background, env.Reset{Task: "a"})
	require.NoError(t, err)
}

func TestDeadlineReplacesTheProcess(t *testing.T) {
	t.Parallel()
	w, _ := envWorker(t, Options{Restarts: 1, Deadlines: Deadlines{Reset: 3 * time.Second}})
	c, _, err := w.Client(background)
	require.NoError(t, err)
	pid := w.Process().PID()
	_, err = c.Reset(background, env.Reset{Lane: 2, Task: "hang"})
	require.Equal(t, plugins.Deadline, plugins.KindOf(err), err)
	require.ErrorContains(
		t,
		err,
		"env toy: Reset of lane 2 did not answer within 3s (it reports that it is busy with",
	)
	require.Contains(t, plugins.AsError(err).Hint, "[host] reset_timeout_s")
	requireGone(t, pid)
	_, inc, err := w.Client(background)
	require.NoError(t, err)
	require.EqualValues(t, 2, inc)

	// The caller's deadline or cancellation does not replace the process.
	c, _, err = w.Client(background)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	_, err = c.Reset(ctx, env.Reset{Lane: 2, Task: "hang"})
	require.Equal(t, plugins.Deadline, plugins.KindOf(err), err)
	_, inc, err = w.Client(background)
	require.NoError(t, err)
	require.EqualValues(t, 2, inc)
}

func TestAnswersThatCostTheProcess(t *testing.T) {
	t.Parallel()
	w, _ := envWorker(t, Options{Restarts: 3})
	c, _, err := w.Client(background)
	require.NoError(t, err)
	_, err = c.Reset(background, env.Reset{Task: "refuse"})
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	require.Equal(t, "try another", plugins.AsError(err).Hint)
	_, inc, err := w.Client(background)
	require.NoError(t, err)
	require.EqualValues(t, 1, inc, "a refusal costs nothing")
	_, err = c.Reset(background, env.Reset{Task: "corrupt"})
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err), err)
	_, inc, err = w.Client(background)
	require.NoError(t, err)
	require.EqualValues(t, 2, inc)
}

func TestFirstStartIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	s := supervisor(t, Options{Restarts: 5, Backoff: time.Millisecond})
	var tries atomic.Int64
	for _, c := range []struct {
		seed uint64
		kind plugins.ErrorKind
	}{{13, plugins.Invalid}, {14, plugins.Unavailable}} {
		tries.Store(0)
		w := NewEnv(s, launch(t, "good"), func(ctx context.Context, e env.Env) error {
			tries.Add(1)
			return e.Configure(ctx, plugins.Config{Lanes: 1, Seed: c.seed})
		})
		_, _, err := w.Client(background)
		require.Equal(t, c.kind, plugins.KindOf(err), err)
		_, _, again := w.Client(background)
		require.Equal(t, err, again)
		require.EqualValues(t, 1, tries.Load())
		if c.seed == 14 {
			require.ErrorContains(t, err, "it exited with status 4 during Configure")
			require.Contains(t, plugins.AsError(err).Detail, "dying while being configured")
		}
	}
	requireNoProcess(t, s)
}

func TestRestartThatFailsSpendsTheBudget(t *testing.T) {
	t.Parallel()
	s := supervisor(t, Options{Restarts: 3, Backoff: time.Millisecond})
	var tries atomic.Int64
	w := NewEnv(s, launch(t, "good"), func(ctx context.Context, e env.Env) error {
		if n := tries.Add(1); n == 2 || n == 3 { // the first two restarts die in Configure
			return e.Configure(ctx, plugins.Config{Lanes: 1, Seed: 14})
		}
		return configure(ctx, e)
	})
	c, _, err := w.Client(background)
	require.NoError(t, err)
	_, err = c.Reset(background, env.Reset{Task: "exit"})
	require.Error(t, err)
	_, _, err = w.Client(background)
	require.NoError(t, err)
	require.EqualValues(t, 4, tries.Load())
}

func TestOneStartForAll(t *testing.T) {
	t.Parallel()
	s := supervisor(t, Options{Restarts: 1})
	var tries atomic.Int64
	w := NewEnv(
		s,
		launch(t, "good"),
		func(ctx context.Context, e env.Env) error { tries.Add(1); return configure(ctx, e) },
	)
	impatient, cancel := context.WithTimeout(background, time.Millisecond)
	defer cancel()
	_, _, err := w.Client(impatient) // does not cancel the start
	require.Equal(t, plugins.Deadline, plugins.KindOf(err))
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, inc, err := w.Client(background)
			if err != nil || inc != 1 {
				t.Errorf("incarnation %d, %v", inc, err)
			}
		}()
	}
	wg.Wait()
	require.EqualValues(t, 1, tries.Load())
	for range 3 { // several calls fail together
		w.Failed(1, errors.New("test"))
	}
	_, inc, err := w.Client(background)
	require.NoError(t, err)
	require.EqualValues(t, 2, inc)
	w.Failed(1, errors.New("late"))
	_, inc, err = w.Client(background)
	require.NoError(t, err)
	require.EqualValues(t, 2, inc)
}

func TestCloseDuringStart(t *testing.T) {
	t.Parallel()
	s := supervisor(t, Options{})
	w := NewEnv(s, launch(t, "hangs"), nil)
	done := make(chan error, 1)
	go func() { _, _, err := w.Client(background); done <- err }()
	time.Sleep(100 * time.Millisecond)
	s.Close()
	require.Equal(t, plugins.Canceled, plugins.KindOf(<-done))
	_, _, err := w.Client(background)
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
	requireNoProcess(t, s)
}

func TestShares(t *testing.T) {
	for _, c := range []struct {
		lanes, most int
		want        []int
	}{{4, 1, []int{1, 1, 1, 1}}, {4, 0, []int{1, 1, 1, 1}}, {7, 4, []int{3, 4}}, {64, 64, []int{64}}, {0, 3, []int{}}} {
		require.Equal(t, c.want, SplitLanes(c.lanes, c.most))
	}
}
