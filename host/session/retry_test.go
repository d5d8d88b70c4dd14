package session

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// worker is a plugin that is its own client. It counts the reports of lost processes.
type worker struct{ failed int }

func (w *worker) Client(context.Context) (*worker, uint64, error) { return w, 1, nil }
func (w *worker) Failed(uint64, error)                            { w.failed++ }

func TestCallWithRetry(t *testing.T) {
	lost := plugins.Errorf(plugins.Unavailable, "lost")
	for _, c := range []struct {
		errs                 []error // of the calls, in order
		calls, failed, warns int
		err                  error
	}{
		{[]error{nil}, 1, 0, 0, nil},
		{[]error{lost, nil}, 2, 1, 1, nil},
		{[]error{lost, lost, lost, nil}, 3, 3, 2, lost},
		{[]error{plugins.Errorf(plugins.Invalid, "no")}, 1, 0, 0, plugins.Errorf(plugins.Invalid, "no")},
	} {
		w, calls, warns := &worker{}, 0, 0
		_, err := CallWithRetry(t.Context(), w, 3, func(error) { warns++ }, func(*worker) (int, error) {
			calls++
			return 0, c.errs[calls-1]
		})
		require.Equal(t, c.err, err)
		require.Equal(t, []int{c.calls, c.failed, c.warns}, []int{calls, w.failed, warns})
	}
}
