package supervise

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// The deadline of a call of many clips starts again with each progress that the plugin reports.
func TestDeadlineFollowsProgress(t *testing.T) {
	t.Parallel()
	w, _ := envWorker(t, Options{})
	_, _, err := w.Client(background)
	require.NoError(t, err)

	const limit = time.Millisecond
	working := activity{busy: []string{"EncodeWindows 8 ends"}}
	untilStopped := func(ctx context.Context) error {
		<-ctx.Done()
		return plugins.Errorf(plugins.Canceled, "%w", ctx.Err())
	}
	for name, c := range map[string]struct {
		renewals int // deadlines that pass while the plugin reports progress
		then     activity
		failed   bool
	}{
		"ends in the fifth deadline": {5, working, false},
		"makes no further progress":  {3, activity{working.busy, limit}, true},
		"does not report the call":   {0, activity{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			asked, fifth := 0, make(chan struct{})
			var cause error
			g := guard{
				proc:   w.Process(),
				failed: func(err error) { cause = err },
				activity: func(context.Context) (activity, error) {
					if asked++; asked == 5 {
						close(fifth)
					}
					if asked <= c.renewals {
						return working, nil
					}
					return c.then, nil
				},
			}
			f := untilStopped
			if !c.failed {
				f = func(context.Context) error { <-fifth; return nil }
			}
			err := g.callWithHealth(
				t.Context(),
				deadline{"EncodeWindows of 8 windows", "encode_timeout_s", limit, false},
				f,
			)
			if !c.failed {
				require.NoError(t, err)
				require.NoError(t, cause)
				return
			}
			require.Equal(t, plugins.Deadline, plugins.KindOf(err))
			require.ErrorContains(t, err, "EncodeWindows of 8 windows did not answer within 1ms")
			require.Contains(t, plugins.AsError(err).Hint, "[host] encode_timeout_s")
			require.Equal(t, err, cause, "the process is replaced")
		})
	}

	// A call that the caller cancels does not replace the process.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g := guard{proc: w.Process(), failed: func(error) { t.Error("the plugin did not fail") }}
	err = g.callWithHealth(ctx, deadline{"Encode", "encode_timeout_s", time.Hour, false}, untilStopped)
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
}

// lateTimer is a context whose deadline is over, and whose timer has not fired yet.
type lateTimer struct{ context.Context }

func (lateTimer) Deadline() (time.Time, bool) { return time.Now().Add(-time.Nanosecond), true }

// A process that passed its deadline is replaced, also when its answer arrives before the timer fires.
func TestDeadlineBeforeTheTimer(t *testing.T) {
	t.Parallel()
	w, _ := envWorker(t, Options{})
	_, _, err := w.Client(background)
	require.NoError(t, err)
	replaced := false
	g := guard{proc: w.Process(), failed: func(error) { replaced = true }}
	late := plugins.Errorf(plugins.Deadline, "the call did not answer within its deadline")
	reset := deadline{"Reset of lane 2", "reset_timeout_s", time.Second, false}
	err = g.classify(t.Context(), lateTimer{t.Context()}, reset, late)
	require.ErrorContains(t, err, "Reset of lane 2 did not answer within 1s")
	require.True(t, replaced)
	replaced = false
	_ = g.classify(lateTimer{t.Context()}, lateTimer{t.Context()}, reset, late)
	require.False(t, replaced, "the caller's deadline")
	_ = g.classify(t.Context(), t.Context(), deadline{"Act", "act_timeout_s", time.Second, false}, late)
	require.False(t, replaced, "a deadline inside the plugin, of a server that it uses")
}
