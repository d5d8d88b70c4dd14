package train

import (
	"fmt"

	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
)

// metricsOf returns an iteration's line of metrics.
func (r *run) metricsOf(it *result) store.Metrics {
	timing, st := it.rolled.Timing, it.stats
	m := store.Metrics{Iteration: it.iteration, EnvSteps: it.next.EnvSteps, SecondsByPhase: it.seconds, KL: st.KL,
		ClipFraction: st.ClipFraction, GradNorm: st.GradNorm,
		Extra: map[string]float64{"updated": 0, "groups_without_signal": 0, "env_step_seconds": timing.Env,
			"act_seconds": timing.Policy, "policy_wait_seconds": timing.PolicyWait,
			"lane_utilisation": timing.Utilisation, "act_batch": 0, "faults": float64(timing.Faults)}}
	if n := len(it.rolled.Invalid); n > 0 {
		m.Extra["episodes_dropped"] = float64(n)
	}
	if timing.ActCalls > 0 {
		m.Extra["act_batch"] = float64(timing.ActItems) / float64(timing.ActCalls)
	}
	if it.updated {
		m.Extra["updated"], m.Extra["samples"] = 1, float64(st.Samples)
		m.Extra["loss"], m.Extra["entropy"], m.Extra["first_ratio"] = st.Loss, st.Entropy, st.FirstRatio
		for k, v := range st.Extra {
			m.Extra["policy_"+k] = v
		}
	}
	if r.excluded.iteration == it.iteration {
		m.Extra["groups_left_out"] = 1
	}
	successes := 0
	for _, g := range it.rolled.Groups {
		m.Episodes += len(g.Episodes)
		successes += g.Successes
		if g.Kept {
			m.GroupsKept++
		} else {
			m.GroupsDropped++
		}
	}
	m.SuccessRate = float64(successes) / float64(max(m.Episodes, 1))
	rewards, n := 0.0, 0
	for _, s := range it.samples {
		if !s.Scored.Dropped {
			rewards += s.Scored.Reward
			n++
		}
	}
	m.RewardMean = rewards / float64(max(n, 1))
	for _, t := range it.tasks {
		if !r.sparse { // otherwise nothing was embedded, so nothing was dropped
			m.EmbeddingsDropped += t.Unusable
		}
		m.Clusters += t.Clusters
	}
	for _, g := range it.groups {
		if !g.Signal {
			m.Extra["groups_without_signal"]++
		}
	}
	d := it.diagnosis
	for name, e := range map[string]srpo.Estimate{
		"reward_auroc": d.AUROC, "reward_spearman": d.Spearman, "reward_pair_order": d.PairOrder,
	} {
		if e.N > 0 {
			m.Extra[name] = e.Value
		}
	}
	return m
}

// logIteration writes into the event log what a user should know about an iteration.
func (r *run) logIteration(it *result) {
	log := func(kind store.EventType, message string) {
		r.event(store.Event{Type: kind, Iteration: it.iteration, Message: message})
	}
	for _, e := range it.rolled.Invalid {
		log(store.EpisodeDropped, e.Invalid.Error())
	}
	if n := len(it.rolled.Invalid); n > 0 {
		r.Terminal.Warn("iteration %d: %s dropped, because the policy's output cannot be used: %v", it.iteration,
			report.Count(n, "episode"), it.rolled.Invalid[0].Invalid)
	}
	for _, g := range it.rolled.Groups {
		if !g.Kept {
			log(store.GroupDropped, fmt.Sprintf("group %d of %s: %s", g.ID, g.Task, g.Reason))
		}
		for _, e := range g.Episodes {
			if e.EmbeddingError != "" {
				log(store.EmbeddingDropped, e.ID+": "+e.EmbeddingError)
			}
		}
	}
	for _, t := range it.tasks {
		for _, n := range t.Notes {
			log(store.Warning, t.Task+": "+n)
		}
		if t.Repeated > 0 && !r.sparse {
			msg := fmt.Sprintf("%s: %s with the same embedding as another one; rollouts that share a video share "+
				"a reward",
				t.Task, report.Count(t.Repeated, "rollout"))
			log(store.Warning, msg)
			r.Terminal.Warn("%s", msg)
		}
	}
	signal := 0
	for _, g := range it.groups {
		if g.Signal {
			signal++
		}
	}
	if signal == 0 {
		msg := "no group carries a signal, so there was no update"
		log(store.Warning, msg)
		r.Terminal.Warn("iteration %d: %s", it.iteration, msg)
	}
}
