package supervise

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// A call of many clips has its deadline anew with each headway that the plugin notes, and ends when there is none.
func TestDeadlineFollowsHeadway(t *testing.T) {
	t.Parallel()
	w, _ := envWorker(t, Options{})
	_, _, err := w.Client(background)
	require.NoError(t, err)

	const limit = time.Millisecond
	working := account{busy: []string{"EncodeWindows 8 ends"}}
	untilStopped := func(ctx context.Context) error {
		<-ctx.Done()
		return plugins.Errorf(plugins.Canceled, "%w", ctx.Err())
	}
	for name, c := range map[string]struct {
		headways int // deadlines that pass while the plugin notes headway
		then     account
		failed   bool
	}{
		"ends in the fifth deadline": {5, working, false},
		"comes to a halt":            {3, account{working.busy, limit}, true},
		"knows nothing of the call":  {0, account{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			asked, fifth := 0, make(chan struct{})
			var cause error
			g := guard{proc: w.Process(), failed: func(err error) { cause = err }, account: func(context.Context) (account, error) {
				if asked++; asked == 5 {
					close(fifth)
				}
				if asked <= c.headways {
					return working, nil
				}
				return c.then, nil
			}}
			f := untilStopped
			if !c.failed {
				f = func(context.Context) error { <-fifth; return nil }
			}
			err := g.watched(t.Context(), "EncodeWindows of 8 windows", "encode_timeout_s", limit, f)
			if !c.failed {
				require.NoError(t, err)
				require.NoError(t, cause)
				return
			}
			require.Equal(t, plugins.Deadline, plugins.KindOf(err))
			require.ErrorContains(t, err, "EncodeWindows of 8 windows did not answer within 1ms")
			require.Contains(t, plugins.AsError(err).Hint, "[host] encode_timeout_s")
			require.Equal(t, err, cause, "it costs the process")
		})
	}

	// The caller's own end is not the plugin's fault.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g := guard{proc: w.Process(), failed: func(error) { t.Error("the plugin is to blame for nothing") }}
	require.Equal(t, plugins.Canceled, plugins.KindOf(g.watched(ctx, "Encode", "encode_timeout_s", time.Hour, untilStopped)))
}

// lateTimer is a context whose deadline is over and whose timer has not run yet.
type lateTimer struct{ context.Context }

func (lateTimer) Deadline() (time.Time, bool) { return time.Now().Add(-time.Nanosecond), true }

// A process that let its deadline pass is replaced, also when its answer comes before the timer.
func TestDeadlineBeforeTheTimer(t *testing.T) {
	t.Parallel()
	w, _ := envWorker(t, Options{})
	_, _, err := w.Client(background)
	require.NoError(t, err)
	replaced := false
	g := guard{proc: w.Process(), failed: func(error) { replaced = true }}
	late := plugins.Errorf(plugins.Deadline, "the call did not answer within its deadline")
	err = g.judge(t.Context(), lateTimer{t.Context()}, "Reset of lane 2", "reset_timeout_s", time.Second, false, late)
	require.ErrorContains(t, err, "Reset of lane 2 did not answer within 1s")
	require.True(t, replaced)
	replaced = false
	_ = g.judge(lateTimer{t.Context()}, lateTimer{t.Context()}, "Reset of lane 2", "reset_timeout_s", time.Second, false, late) // the caller's own deadline
	require.False(t, replaced)
	_ = g.judge(t.Context(), t.Context(), "Act", "act_timeout_s", time.Second, false, late) // the plugin's own, of a server that it asks
	require.False(t, replaced)
}
