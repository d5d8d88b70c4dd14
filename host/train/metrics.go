package train

import (
	"fmt"

	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// metrics gathers an iteration's line.
func metrics(i int, result *rollout.Result, scored srpo.Scored, d srpo.Diagnostics, groups []srpo.GroupSummary, stats policy.Statistics, updated bool, seconds map[string]float64) store.Metrics {
	m := store.Metrics{Iteration: i, SecondsByPhase: seconds, KL: stats.KL, ClipFraction: stats.ClipFraction, GradNorm: stats.GradNorm,
		Extra: map[string]float64{"updated": 0, "groups_without_signal": 0, "env_step_seconds": result.Timing.Env, "act_seconds": result.Timing.Policy,
			"policy_wait_seconds": result.Timing.PolicyWait, "lane_utilisation": result.Timing.Utilisation, "act_batch": 0, "faults": float64(result.Timing.Faults)}}
	if n := len(result.Invalid); n > 0 {
		m.Extra["episodes_dropped"] = float64(n)
	}
	if result.Timing.ActCalls > 0 {
		m.Extra["act_batch"] = float64(result.Timing.ActItems) / float64(result.Timing.ActCalls)
	}
	if updated {
		m.Extra["updated"], m.Extra["loss"], m.Extra["entropy"], m.Extra["first_ratio"], m.Extra["samples"] = 1, stats.Loss, stats.Entropy, stats.FirstRatio, float64(stats.Samples)
		for k, v := range stats.Extra {
			m.Extra["policy_"+k] = v
		}
	}
	successes, reward, scores := 0, 0.0, 0
	for _, g := range result.Groups {
		m.Episodes += len(g.Episodes)
		successes += g.Successes
		if g.Kept {
			m.GroupsKept++
		} else {
			m.GroupsDropped++
		}
	}
	for _, s := range scored.Scores {
		if !s.Dropped {
			reward += s.Reward
			scores++
		}
	}
	m.SuccessRate = float64(successes) / float64(max(m.Episodes, 1))
	m.RewardMean = reward / float64(max(scores, 1))
	for _, t := range scored.Tasks {
		m.EmbeddingsDropped += t.Unusable
		m.Clusters += t.Clusters
	}
	for _, g := range groups {
		if !g.Signal {
			m.Extra["groups_without_signal"]++
		}
	}
	for name, e := range map[string]srpo.Estimate{"reward_auroc": d.AUROC, "reward_spearman": d.Spearman, "reward_pair_order": d.PairOrder} {
		if e.N > 0 {
			m.Extra[name] = e.Value
		}
	}
	return m
}

// words writes what a person should know of an iteration into the event log.
func (r *run) words(i int, result *rollout.Result, scored srpo.Scored, groups []srpo.GroupSummary) {
	for _, e := range result.Invalid {
		r.event(store.Event{Type: store.EpisodeDropped, Iteration: i, Message: e.Invalid.Error()})
	}
	if n := len(result.Invalid); n > 0 {
		r.Terminal.Warn("iteration %d: %s dropped, as what the policy said in it cannot be used: %v", i, report.Count(n, "episode"), result.Invalid[0].Invalid)
	}
	for _, g := range result.Groups {
		if !g.Kept {
			r.event(store.Event{Type: store.GroupDropped, Iteration: i, Message: fmt.Sprintf("group %d of %s: %s", g.ID, g.Task, g.Reason)})
		}
		for _, e := range g.Episodes {
			if e.EmbeddingError != "" {
				r.event(store.Event{Type: store.Dropped, Iteration: i, Message: e.ID + ": " + e.EmbeddingError})
			}
		}
	}
	for _, t := range scored.Tasks {
		for _, n := range t.Notes {
			r.event(store.Event{Type: store.Warning, Iteration: i, Message: t.Task + ": " + n})
		}
		if t.Repeated > 0 && !r.sparse {
			msg := fmt.Sprintf("%s: %d rollouts have the very embedding of another one; rollouts that share a video share a reward, and SRPO becomes GRPO", t.Task, t.Repeated)
			r.event(store.Event{Type: store.Warning, Iteration: i, Message: msg})
			r.Terminal.Warn("%s", msg)
		}
	}
	signal := 0
	for _, g := range groups {
		if g.Signal {
			signal++
		}
	}
	if signal == 0 {
		msg := "no group carries a signal, so there was no update"
		r.event(store.Event{Type: store.Warning, Iteration: i, Message: msg})
		r.Terminal.Warn("iteration %d: %s", i, msg)
	}
}

func (r *run) encoderWords() string {
	switch srpo.RewardKind(r.cfg.Reward.Kind) {
	case srpo.Binary:
		return " (0 or 1, no encoder)"
	case srpo.Progress:
		return " (the env's own, no encoder)"
	}
	if r.session.Sched.Encoder == nil { // imitation only
		return ", encoder " + r.cfg.Run.Encoder
	}
	return fmt.Sprintf(", encoder %s (%d numbers)", r.cfg.Run.Encoder, r.session.Sched.EncoderSpec.Dimension)
}
