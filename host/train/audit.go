package train

import (
	"fmt"
	"math"

	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

const (
	// auditBootstrap is the number of resamples of a run's audit.
	auditBootstrap = 300
	// minOutcomesForWarning is the smallest number of successes and of failures, in tasks that have both, for
	// which a run warns about its reward.
	minOutcomesForWarning = 5
)

// audit measures every few iterations whether the reward distinguishes successes from failures of the iteration, and
// warns if it does not. The result depends on the iteration's episodes and the run's seed only.
func (r *run) audit(it *result, m *store.Metrics) error {
	n := r.cfg.Report.AuditEvery
	if n == 0 || it.iteration%n != 0 || r.sparse {
		return nil
	}
	var items []audit.Item
	for k, s := range it.samples {
		if s.Scored.Reason == "" {
			items = append(items, audit.Item{ID: s.ID, Task: s.Task, Success: &it.samples[k].Success,
				Progress: finiteOrNil(s.Progress), Frames: s.FrameCount, Embedding: s.Scored.Embedding})
		}
	}
	measured, err := audit.Measure(items, audit.MeasureOptions{Cluster: r.cfg.RewardOptions(0).Cluster,
		Seed: rollout.Seed(r.cfg.Run.Seed, "audit", it.iteration), Bootstrap: auditBootstrap,
		BootstrapOnly: true})
	if err != nil {
		return plugins.Errorf(plugins.Internal, "the audit of iteration %d: %w", it.iteration, err)
	}
	m.Extra["audit_dropped_share"] = float64(len(it.samples)-len(items)) / float64(max(1, len(it.samples)))
	m.Extra["audit_clusters"] = float64(m.Clusters)
	for _, name := range []string{"auroc", "progress_order", "progress_rank"} {
		if v, ok := measured.Mean[name]; ok {
			key := "audit_" + name
			m.Extra[key], m.Extra[key+"_low"], m.Extra[key+"_high"] = v.Value, v.Low, v.High
		}
	}
	if v, ok := measured.Mean["length_auroc"]; ok {
		m.Extra["audit_length_auroc"] = v.Value
	}
	r.warnIfUninformative(it.iteration, items, measured)
	return nil
}

// warnIfUninformative warns when the reward cannot be distinguished from chance.
func (r *run) warnIfUninformative(i int, items []audit.Item, measured audit.Measured) {
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
	if !ok || v.Low > 0.5 || successes < minOutcomesForWarning || failures < minOutcomesForWarning {
		return
	}
	msg := fmt.Sprintf("the reward is not shown to tell success from failure: AUROC %.2f (95 %%: %.2f to %.2f) over "+
		"%d successes and %d failures, centres held out", v.Value, v.Low, v.High, successes, failures)
	hint := "look at the failures in report.html; try another encoder, rollout.equal_length or reward.cluster, and " +
		"compare with --reward binary"
	r.event(store.Event{Type: store.Warning, Iteration: i, Message: msg, Hint: hint})
	r.Terminal.Warn("iteration %d: %s", i, msg)
}

// finiteOrNil returns v, or nil when it is not finite.
func finiteOrNil(v *float64) *float64 {
	if v == nil || math.IsNaN(*v) || math.IsInf(*v, 0) {
		return nil
	}
	return v
}
