package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// poisoned is the error of an update whose statistics are no numbers. What the policy holds after it is not to be trusted: its process is gone when this
// error comes, and with it the weights.
type poisoned struct {
	cause error
	// group is the one that the update is tried without.
	group string
}

func (p *poisoned) Error() string { return p.cause.Error() }

func (p *poisoned) Unwrap() error { return p.cause }

// leftOut is the group that an iteration's update does without, as the update with it was poisoned.
type leftOut struct {
	iteration int
	group     string
}

// without says whether a group is left out of an iteration's update.
func (l leftOut) without(iteration int, group string) bool {
	return l.group != "" && l.iteration == iteration && l.group == group
}

// suspect is the group with the episode whose actions were the least likely, per step: the ratio of new to old probability, where an update's numbers
// overflow, is the most extreme there. Where the policy gives no probabilities it is the group with the largest advantage. Empty: there is no group.
func suspect(result *rollout.Result, advantages []srpo.Advantage, group map[string]string) string {
	unlikely := map[string]float64{}
	known := false
	for _, g := range result.Groups {
		for _, e := range g.Episodes {
			if e.LogProb != 0 && e.Steps > 0 {
				unlikely[e.ID], known = math.Abs(e.LogProb)/float64(e.Steps), true
			}
		}
	}
	best, worst := "", math.Inf(-1)
	for _, a := range advantages { // in the order of ids, so that the first of equal ones is taken each time
		if a.Masked || a.Value == 0 {
			continue
		}
		v := math.Abs(a.Value)
		if known {
			v = unlikely[a.ID]
		}
		if v > worst {
			best, worst = group[a.ID], v
		}
	}
	return best
}

// rollAgain says whether iteration i, which ended with err, is to be rolled again from the last commit: when the policy's process was lost, and, once, without
// the suspected group, when the update was poisoned. The state is then that of the commit, and the policy lives.
func (r *run) rollAgain(ctx context.Context, i int, err error) (bool, error) {
	var p *poisoned
	switch {
	case err == nil || ctx.Err() != nil:
		return false, err
	case errors.Is(err, rollout.ErrPolicyLost):
		r.event(store.ErrorEvent(store.PluginFailed, i, err))
		r.Terminal.Warn("%v; rolling iteration %d again from the last commit", err, i)
	case errors.As(err, &p) && p.group != "" && r.leftOut.iteration != i:
		r.leftOut = leftOut{i, p.group}
		r.event(store.ErrorEvent(store.Warning, i, fmt.Errorf("%w; tried again from the last commit without group %s", err, p.group)))
		r.Terminal.Warn("%v; rolling iteration %d again from the last commit, to update without group %s", err, i, p.group)
	case errors.As(err, &p) && r.leftOut.iteration == i:
		e := plugins.AsError(err)
		return false, plugins.Errorf(e.Kind, "%s, also without group %s", e.Message, r.leftOut.group).WithPlace("%s", e.Place).WithHint("%s", e.Hint)
	default:
		return false, err
	}
	if r.state, err = readState(r.last); err != nil {
		return false, err
	}
	return true, r.session.UseCurrentPolicy(ctx)
}

// finiteLoss refuses an imitation that ended with a loss that is no number, before what the policy has become is committed.
func finiteLoss(loss float64, name string) error {
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return plugins.Errorf(plugins.Diverged, "the loss of imitation is %v", loss).WithPlace("%s", name).WithHint("lower the policy's learning rate of imitation; nothing of it is committed")
	}
	return nil
}

// groupOf is the group of each episode, by id.
func groupOf(result *rollout.Result) map[string]string {
	m := map[string]string{}
	for _, g := range result.Groups {
		for _, e := range g.Episodes {
			m[e.ID] = strconv.Itoa(g.ID)
		}
	}
	return m
}

// finiteStatistics refuses statistics that no healthy update has.
func finiteStatistics(st policy.Statistics) error {
	for _, s := range []struct {
		name string
		v    float64
	}{{"loss", st.Loss}, {"kl", st.KL}, {"clip_fraction", st.ClipFraction}, {"grad_norm", st.GradNorm}, {"entropy", st.Entropy}, {"first_ratio", st.FirstRatio}} {
		if math.IsNaN(s.v) || math.IsInf(s.v, 0) {
			return plugins.Errorf(plugins.Diverged, "the update's %s is %v", s.name, s.v).WithHint("lower the learning rate; the run is as it was before this iteration")
		}
	}
	return nil
}
