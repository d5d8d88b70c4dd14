package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// update hands the advantages to the policy. Without any signal (all groups dropped, or all rewards equal) there is nothing to learn from, and no update.
func (r *run) update(ctx context.Context, i int, next *state, advantages []srpo.Advantage, rollouts []srpo.Rollout, result *rollout.Result) (policy.Statistics, bool, error) {
	u := policy.Update{Temperature: r.cfg.Rollout.Temperature, Seed: rollout.Seed(r.cfg.Run.Seed, "update", i), Hyperparameters: policy.Hyperparameters{
		ClipLow: r.cfg.Update.ClipLow, ClipHigh: r.cfg.Update.ClipHigh, ClipDual: r.cfg.Update.ClipDual, KLBeta: r.cfg.Update.KLBeta, Epochs: r.cfg.Update.Epochs,
		MiniBatch: r.cfg.Update.MiniBatch}}
	steps, group := map[string]int{}, groupOf(result)
	for _, x := range rollouts {
		steps[x.ID] = x.Steps
	}
	for _, a := range advantages {
		if !a.Masked && a.Value != 0 && !r.leftOut.without(i, group[a.ID]) {
			u.Trajectories = append(u.Trajectories, policy.Advantage{Trajectory: a.ID, Values: []float64{a.Value}, Steps: steps[a.ID]})
		}
	}
	p, incarnation, err := r.session.Sched.Policy.Client(ctx)
	if err != nil {
		return policy.Statistics{}, false, err
	}
	if incarnation != r.session.Sched.PolicyIncarnation {
		return policy.Statistics{}, false, lost(errors.New("its process was restarted between rollout and update"))
	}
	var stats policy.Statistics
	if len(u.Trajectories) > 0 {
		next.UpdateID++
		u.ID = next.UpdateID
		stats, err = p.Update(ctx, u, func(done float64) {
			r.status.Phase, r.status.Done, r.status.Total = "update", int(100*done), 100
			r.Terminal.Update(r.status)
		})
		if err == nil {
			if err = finiteStatistics(stats); err != nil {
				err = plugins.AsError(err).WithPlace("%s, Update %d", r.session.Sched.PolicyName, u.ID)
			}
		}
		if plugins.KindOf(err) == plugins.Diverged { // by its own account, or by its statistics
			// what the policy holds now is not to be trusted: its process goes, and with it the weights
			r.session.Sched.Policy.Failed(incarnation, err)
			return stats, false, &poisoned{err, suspect(result, advantages, group)}
		}
	}
	if err == nil {
		err = p.Forget(ctx, nil)
	}
	if k := plugins.KindOf(err); k == plugins.Unavailable || k == plugins.Deadline {
		return stats, false, lost(err)
	}
	return stats, len(u.Trajectories) > 0, err
}

// lost says that the policy's process went away outside of a rollout.
func lost(cause error) error {
	e := plugins.AsError(cause)
	return &plugins.Error{Kind: plugins.Unavailable, Message: "the policy's process is lost: " + e.Message, Place: e.Place, Hint: e.Hint, Detail: e.Detail,
		Err: fmt.Errorf("%w: %w", rollout.ErrPolicyLost, cause)}
}
