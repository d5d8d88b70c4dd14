package train

import (
	"context"
	"math"
	"strconv"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// update passes the advantages to the policy. Without any signal (all groups dropped, or all rewards equal)
// there is no update.
func (r *run) update(ctx context.Context, it *result) error {
	c := r.cfg.Update
	u := policy.Update{
		Temperature: r.cfg.Rollout.Temperature,
		Seed:        rollout.Seed(r.cfg.Run.Seed, "update", it.iteration),
		Hyperparameters: policy.Hyperparameters{ClipLow: c.ClipLow, ClipHigh: c.ClipHigh, ClipDual: c.ClipDual,
			KLBeta: c.KLBeta, Epochs: c.Epochs, MiniBatch: c.MiniBatch},
	}
	for _, s := range it.samples {
		a := s.Advantage
		if !a.Masked && a.Value != 0 && !r.excluded.contains(it.iteration, strconv.Itoa(s.Group)) {
			u.Trajectories = append(u.Trajectories,
				policy.Advantage{Trajectory: s.ID, Values: []float64{a.Value}, Steps: s.Steps})
		}
	}
	sched := r.session.Sched
	p, incarnation, err := sched.ActingPolicy(ctx)
	if err != nil {
		return err
	}
	it.updated = len(u.Trajectories) > 0
	if it.updated {
		it.next.UpdateID++
		u.ID = it.next.UpdateID
		it.stats, err = p.Update(ctx, u, func(done float64) {
			r.status.Phase, r.status.Done, r.status.Total = "update", int(100*done), 100
			r.Terminal.Update(r.status)
		})
		if err == nil {
			if err = checkStatistics(it.stats); err != nil {
				err = plugins.AsError(err).WithPlace("%s, Update %d", sched.PolicyName, u.ID)
			}
		}
		if plugins.KindOf(err) == plugins.Diverged { // reported by the policy, or found in its statistics
			// The weights cannot be trusted any more, so the process must go.
			sched.Policy.Failed(incarnation, err)
			return &divergedUpdate{err, groupToExclude(it)}
		}
	}
	if err == nil {
		err = p.Forget(ctx, nil)
	}
	return r.orPolicyLost(err)
}

// orPolicyLost returns err as an error of a lost policy when a call cost the policy its process.
func (r *run) orPolicyLost(err error) error {
	if k := plugins.KindOf(err); k == plugins.Unavailable || k == plugins.Deadline {
		return rollout.PolicyLost(r.session.Sched.PolicyName, err)
	}
	return err
}

// groupToExclude returns the group with the episode whose actions were the least likely per step: there the
// ratio of the new to the old probability is the most extreme, and an update overflows first. For a policy
// without log-probabilities it is the group with the largest advantage. Empty: no episode has an advantage.
func groupToExclude(it *result) string {
	unlikeliness := func(s sample) float64 {
		if s.LogProb == 0 || s.Steps == 0 {
			return 0
		}
		return math.Abs(s.LogProb) / float64(s.Steps)
	}
	hasLogProbs := false
	for _, s := range it.samples {
		hasLogProbs = hasLogProbs || unlikeliness(s) > 0
	}
	group, worst := "", math.Inf(-1)
	for _, s := range it.samples { // in the order of ids, so that the first of equal ones is chosen each time
		if s.Advantage.Masked || s.Advantage.Value == 0 {
			continue
		}
		v := math.Abs(s.Advantage.Value)
		if hasLogProbs {
			v = unlikeliness(s)
		}
		if v > worst {
			group, worst = strconv.Itoa(s.Group), v
		}
	}
	return group
}

// checkStatistics refuses statistics that no healthy update has.
func checkStatistics(st policy.Statistics) error {
	for _, s := range []struct {
		name  string
		value float64
	}{
		{"loss", st.Loss}, {"kl", st.KL}, {"clip_fraction", st.ClipFraction}, {"grad_norm", st.GradNorm},
		{"entropy", st.Entropy}, {"first_ratio", st.FirstRatio},
	} {
		if math.IsNaN(s.value) || math.IsInf(s.value, 0) {
			return plugins.Errorf(plugins.Diverged, "the update's %s is %v", s.name, s.value).
				WithHint("lower the learning rate; the run is as it was before this iteration")
		}
	}
	return nil
}

// checkLoss refuses an imitation that ended with a loss that is not finite, before its result is committed.
func checkLoss(loss float64, policyName string) error {
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return plugins.Errorf(plugins.Diverged, "the loss of imitation is %v", loss).WithPlace("%s", policyName).
			WithHint("lower the policy's learning rate of imitation; nothing of it is committed")
	}
	return nil
}
