package rollout

import (
	"context"
	"errors"
	"fmt"

	"github.com/srpo-dev/srpo/plugins"
)

// ErrPolicyLost is in the chain of the error that is returned when the policy's process died or had to be given up: everything that it recorded is gone.
// All lanes have stopped by then. Load the last checkpoint and call again; the same seeds give the same results.
var ErrPolicyLost = errors.New("the policy's process is lost")

func policyLost(name string, cause error) error {
	e := plugins.AsError(cause)
	return (&plugins.Error{Kind: plugins.Unavailable, Message: "the policy's process is lost: " + e.Message, Place: e.Place, Hint: e.Hint, Detail: e.Detail,
		Err: fmt.Errorf("%w: %w", ErrPolicyLost, cause)}).WithPlace("%s", name)
}

// maxInvalidShare is the share of the episodes of a call that may end with numbers of the policy's that cannot be used. Beyond it (and beyond one episode) it is the
// policy that is broken, and not an episode that is odd.
const maxInvalidShare = 0.2

// tooManyInvalid is the error of a call with too many such episodes, nil when there are not.
func tooManyInvalid(n, of int, last *plugins.Error) error {
	if n < 2 || float64(n) <= maxInvalidShare*float64(of) {
		return nil
	}
	return (&plugins.Error{Kind: last.Kind, Message: fmt.Sprintf("%s; so ended %d of %d episodes", last.Message, n, of), Place: last.Place, Hint: last.Hint, Detail: last.Detail, Err: last})
}

// stopped describes the end of the caller's own context.
func stopped(ctx context.Context) error {
	kind := plugins.Canceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = plugins.Deadline
	}
	return plugins.Errorf(kind, "stopped: %w", context.Cause(ctx))
}

// gaveUp is the error of an episode whose retries are spent: its own failures, and beside them the times when it was lost with a process, which may have been
// another episode's fault and are counted apart.
func gaveUp(place, episode string, failures, losses int, cause error) error {
	words := fmt.Sprintf("failed %d times", failures)
	switch {
	case losses > 0 && failures == 0:
		words = fmt.Sprintf("lost with its process %d times", losses)
	case losses == 1:
		words += " and was lost with its process once"
	case losses > 1:
		words += fmt.Sprintf(" and was lost with its process %d times", losses)
	}
	e := plugins.AsError(cause)
	hint := e.Hint
	if hint == "" {
		hint = "see the plugin's own log; the episode can be rolled alone with its task, start state and seed"
	}
	return (&plugins.Error{Kind: e.Kind, Message: words + ", the last time with: " + e.Message, Place: e.Place, Hint: hint,
		Detail: e.Detail, Err: cause}).WithPlace("%s, episode %s", place, episode)
}
