package train

import (
	"fmt"

	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// auditBootstrap is the number of resamples of a run's own audit.
const auditBootstrap = 300

// enoughForWarning is how many successes and failures of tasks that have both must be there before a run doubts its reward.
const enoughForWarning = 5

// audit measures, every few iterations, whether the reward tells success from failure among the iteration's episodes, and warns when it does not. It depends
// on nothing but them and the run's seed.
func (r *run) audit(i int, result *rollout.Result, rollouts []srpo.Rollout, scored srpo.Scored, m *store.Metrics) error {
	n := r.cfg.Report.AuditEvery
	if n == 0 || i%n != 0 || r.sparse {
		return nil
	}
	var items []audit.Item
	var frames []int
	for _, g := range result.Groups {
		for _, e := range g.Episodes {
			frames = append(frames, e.FrameCount)
		}
	}
	unusable := 0
	for k, x := range rollouts {
		if scored.Scores[k].Reason != "" {
			unusable++
			continue
		}
		items = append(items, audit.Item{ID: x.ID, Task: x.Task, Success: &rollouts[k].Success, Progress: finiteOrNil(x.Progress), Frames: frames[k], Embedding: x.Embedding})
	}
	measured, err := audit.Measure(items, audit.MeasureOptions{Cluster: r.cfg.RewardOptions(0).Cluster, Seed: rollout.Seed(r.cfg.Run.Seed, "audit", i), Bootstrap: auditBootstrap})
	if err != nil {
		return plugins.Errorf(plugins.Internal, "the audit of iteration %d: %w", i, err)
	}
	m.Extra["audit_dropped_share"] = float64(unusable) / float64(max(1, len(rollouts)))
	m.Extra["audit_clusters"] = float64(m.Clusters)
	for _, name := range []string{"auroc", "progress_order", "progress_rank"} {
		if v, ok := measured.Mean[name]; ok {
			m.Extra["audit_"+name], m.Extra["audit_"+name+"_low"], m.Extra["audit_"+name+"_high"] = v.Value, v.Low, v.High
		}
	}
	if v, ok := measured.Mean["length_auroc"]; ok {
		m.Extra["audit_length_auroc"] = v.Value
	}
	r.doubt(i, items, measured)
	return nil
}

// doubt warns when the reward cannot be told from chance.
func (r *run) doubt(i int, items []audit.Item, measured audit.Measured) {
	v, ok := measured.Mean["auroc"]
	successes, failures := 0, 0
	for _, it := range items {
		if _, has := measured.Tasks[it.Task]["auroc"]; !has {
			continue
		}
		if *it.Success {
			successes++
		} else {
			failures++
		}
	}
	if !ok || v.Low > 0.5 || successes < enoughForWarning || failures < enoughForWarning {
		return
	}
	msg := fmt.Sprintf("the reward is not shown to tell success from failure: AUROC %.2f (95 %%: %.2f to %.2f) over %d successes and %d failures, centres held out", v.Value, v.Low, v.High, successes, failures)
	hint := "look at the failures in report.html; try another encoder, rollout.equal_length or reward.cluster, and compare with --reward binary"
	r.event(store.Event{Type: store.Warning, Iteration: i, Message: msg, Hint: hint})
	r.Terminal.Warn("iteration %d: %s", i, msg)
}
