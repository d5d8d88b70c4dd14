package rollout

import (
	"context"
	"errors"
	"fmt"

	"github.com/srpo-dev/srpo/plugins"
)

// ErrPolicyLost is in the chain of an error when the policy's process died or had to be replaced, and with it
// everything that the policy recorded. All lanes have stopped when it is returned. Load the last checkpoint and
// call again: the same seeds give the same results.
var ErrPolicyLost = errors.New("the policy's process is lost")

// PolicyLost returns an error of the named policy with [ErrPolicyLost] and cause in its chain.
func PolicyLost(name string, cause error) error {
	e := plugins.AsError(cause)
	lost := &plugins.Error{
		Kind: plugins.Unavailable, Message: "the policy's process is lost: " + e.Message,
		Place: e.Place, Hint: e.Hint, Detail: e.Detail,
		Err: fmt.Errorf("%w: %w", ErrPolicyLost, cause),
	}
	return lost.WithPlace("%s", name)
}

// maxInvalidShare is the largest share of a call's episodes that may be invalid. Above it, and above one episode, the
// policy is broken rather than single episodes.
const maxInvalidShare = 0.2

// tooManyInvalid returns the error of a call with too many invalid episodes, nil when there are not too many.
func tooManyInvalid(n, of int, last *plugins.Error) error {
	if n < 2 || float64(n) <= maxInvalidShare*float64(of) {
		return nil
	}
	return &plugins.Error{
		Kind: last.Kind, Message: fmt.Sprintf("%s; %d of %d episodes ended like this", last.Message, n, of),
		Place: last.Place, Hint: last.Hint, Detail: last.Detail, Err: last,
	}
}

// stopped describes the end of the caller's own context.
func stopped(ctx context.Context) error {
	kind := plugins.Canceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = plugins.Deadline
	}
	return plugins.Errorf(kind, "stopped: %w", context.Cause(ctx))
}

// retriesSpent is the error of an episode that failed too often. faults are its own failures. losses, which another
// episode may have caused, are the times when it was lost with its process.
func retriesSpent(place, episode string, faults, losses int, cause error) error {
	message := fmt.Sprintf("failed %d times", faults)
	switch {
	case losses > 0 && faults == 0:
		message = fmt.Sprintf("lost with its process %d times", losses)
	case losses == 1:
		message += " and was lost with its process once"
	case losses > 1:
		message += fmt.Sprintf(" and was lost with its process %d times", losses)
	}
	e := plugins.AsError(cause)
	hint := e.Hint
	if hint == "" {
		hint = "see the plugin's own log; to reproduce, roll out this task, start state and seed alone"
	}
	spent := &plugins.Error{
		Kind: e.Kind, Message: message + ", the last time with: " + e.Message,
		Place: e.Place, Hint: hint, Detail: e.Detail, Err: cause,
	}
	return spent.WithPlace("%s, episode %s", place, episode)
}
