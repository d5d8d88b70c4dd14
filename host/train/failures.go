package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// divergedUpdate is the error of an update whose statistics are not finite. The weights cannot be trusted after
// it, so the policy's process has been ended.
type divergedUpdate struct {
	cause error
	// group is left out when the update is tried again.
	group string
}

func (d *divergedUpdate) Error() string { return d.cause.Error() }
func (d *divergedUpdate) Unwrap() error { return d.cause }

// excludedGroup is the group that is left out of the update of an iteration, because the update diverged with it.
type excludedGroup struct {
	iteration int
	group     string
}

func (e excludedGroup) contains(iteration int, group string) bool {
	return e.group != "" && e.iteration == iteration && e.group == group
}

// withRecovery does the work of an iteration, and repeats it from the last commit when the policy's process is
// lost, and with it everything that the policy recorded. The same seeds then give the same episodes.
func (r *run) withRecovery(ctx context.Context, i int, work func() error) error {
	for {
		repeat, err := r.shouldRepeat(ctx, i, work())
		if err != nil || !repeat {
			return err
		}
	}
}

// shouldRepeat decides whether iteration i, which ended with err, is repeated: when the policy's process was
// lost, and once without the excluded group when the update diverged. It then restores the state of the last
// commit and a live policy.
func (r *run) shouldRepeat(ctx context.Context, i int, err error) (repeat bool, _ error) {
	var diverged *divergedUpdate
	switch {
	case err == nil || ctx.Err() != nil:
		return false, err
	case errors.Is(err, rollout.ErrPolicyLost):
		r.event(store.ErrorEvent(store.PluginFailed, i, err))
		r.Terminal.Warn("%v; rolling out iteration %d again from the last commit", err, i)
	case errors.As(err, &diverged) && diverged.group != "" && r.excluded.iteration != i:
		r.excluded = excludedGroup{i, diverged.group}
		r.event(store.ErrorEvent(store.Warning, i,
			fmt.Errorf("%w; tried again from the last commit without group %s", err, diverged.group)))
		r.Terminal.Warn("%v; rolling out iteration %d again from the last commit, to update without group %s", err, i,
			diverged.group)
	case errors.As(err, &diverged) && r.excluded.iteration == i:
		e := plugins.AsError(err)
		return false, plugins.Errorf(e.Kind, "%s, also without group %s", e.Message, r.excluded.group).
			WithPlace("%s", e.Place).WithHint("%s", e.Hint)
	default:
		return false, err
	}
	if r.state, err = readState(r.last); err != nil {
		return false, err
	}
	_, err = r.session.CurrentPolicy(ctx)
	return true, err
}
