package session

import (
	"context"

	"github.com/srpo-dev/srpo/host/rollout"
)

// CallWithRetry calls a plugin and repeats a call that cost the plugin its process, up to tries calls in all.
// onRetry, if not nil, gets the error before each repetition.
func CallWithRetry[T, R any](ctx context.Context, w rollout.Worker[T], tries int, onRetry func(error),
	call func(T) (R, error)) (R, error) {
	for try := 1; ; try++ {
		client, incarnation, err := w.Client(ctx)
		if err != nil { // the process does not come back
			var none R
			return none, err
		}
		result, err := call(client)
		if err == nil {
			return result, nil
		}
		if rollout.Replaces(err) {
			w.Failed(incarnation, err)
		}
		if try == tries || ctx.Err() != nil || !rollout.Replaces(err) {
			return result, err
		}
		if onRetry != nil {
			onRetry(err)
		}
	}
}
