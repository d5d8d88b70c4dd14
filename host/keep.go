package host

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

func finiteOrNil(v *float64) *float64 {
	if v == nil || math.IsNaN(*v) || math.IsInf(*v, 0) {
		return nil
	}
	return v
}

// space is what the numbers of a session's trajectories mean.
func (s *Session) space(cameras []string) dataset.Space {
	e := s.Sched.EnvSpec
	return dataset.Space{Env: s.EnvInfo.Name, Action: e.Action, Proprio: e.Proprio, Cameras: cameras, RecordCamera: e.RecordCamera}
}

// trajectoryCameras are those that a run's trajectories hold: the policy's, and the recording camera for other policies.
func (s *Session) trajectoryCameras() []string {
	out := slices.Clone(s.observe)
	if c := s.Sched.EnvSpec.RecordCamera; c != "" && !slices.Contains(out, c) {
		out = append(out, c)
	}
	return out
}

// clipKeeper writes clips while others are rolled.
type clipKeeper struct {
	todo chan rollout.Episode
	done chan error
}

// clipsWaiting bounds the clips that wait to be written: rollouts wait for a slow disk, memory does not grow.
const clipsWaiting = 8

// keepClips makes a plan hand over the frames that run.keep_clips wants, and the trajectories of run.keep_trajectories. Close what it returns when the plan is
// rolled.
func (r *run) keepClips(p *rollout.Plan, i int) *clipKeeper {
	keep, whole := r.cfg.Run.KeepClips, r.cfg.Run.KeepTrajectories
	if keep == "none" && whole == "none" {
		return nil
	}
	var space []byte
	var unwritable error
	if whole != "none" {
		p.KeepTrajectory, p.AlsoObserve = true, r.session.trajectoryCameras()
		space, unwritable = dataset.EncodeSpace(r.session.space(p.AlsoObserve), r.cfg.Rollout.RecordEvery)
	}
	k := &clipKeeper{todo: make(chan rollout.Episode, clipsWaiting), done: make(chan error, 1)}
	p.OnFrames = func(e rollout.Episode) {
		if !r.cfg.Run.KeepsTrajectory(e.Success) {
			e.Trajectory = nil
		}
		if r.cfg.Run.KeepsClip(e.Success) || e.Trajectory != nil {
			k.todo <- e
		}
	}
	go func() {
		failed := unwritable
		if space != nil && failed == nil {
			failed = r.folder.SaveInto(dataset.Dir, dataset.SpaceFile, space)
		}
		for e := range k.todo {
			if failed != nil {
				continue // the first failure counts; the others are waited for
			}
			label := attempts.Label{ID: e.ID, Task: e.Task, Success: e.Success, Progress: e.Progress, Iteration: i, Steps: e.Steps, RecordEvery: r.cfg.Rollout.RecordEvery}
			err := attempts.SaveClip(store.FileName(e.ID), e.Frames, label, r.folder.SaveInto)
			if err == nil && e.Trajectory != nil {
				err = dataset.Save(e.ID, e.Task, *e.Trajectory, r.folder.SaveInto)
			}
			failed = err
		}
		k.done <- failed
	}()
	return k
}

// close waits until all clips are written.
func (k *clipKeeper) close() error {
	if k == nil {
		return nil
	}
	close(k.todo)
	return <-k.done
}

// keepClip writes an evaluated episode's clip.
func (e *evaluation) keepClip(ep rollout.Episode) error {
	if err := os.MkdirAll(filepath.Join(e.dir, attempts.ClipsDir), 0o755); err != nil {
		return DiskError("make", e.dir, err)
	}
	label := attempts.Label{ID: ep.ID, Task: ep.Task, Success: ep.Success, Progress: ep.Progress, Steps: ep.Steps, RecordEvery: e.cfg.Rollout.RecordEvery}
	return attempts.SaveClip(store.FileName(ep.ID), ep.Frames, label, func(folder, name string, data []byte) error {
		return e.write(folder+"/"+name, data)
	})
}

// keptEmbedding is a line of the list that run.keep_embeddings writes.
type keptEmbedding struct {
	ID        string    `json:"id"`
	Task      string    `json:"task"`
	Success   bool      `json:"success"`
	Progress  *float64  `json:"progress,omitempty"`
	Reward    float64   `json:"reward"`
	Embedding []float32 `json:"embedding"`
}

// keepEmbeddings writes an iteration's embeddings as a list that srpo reward reads.
func (r *run) keepEmbeddings(i int, rollouts []srpo.Rollout, scores []srpo.Score) error {
	if !r.cfg.Run.KeepEmbeddings || r.sparse {
		return nil
	}
	list := struct {
		Encoder  string          `json:"encoder"`
		Attempts []keptEmbedding `json:"attempts"`
	}{Encoder: r.session.EncoderInfo.Name}
	for k, x := range rollouts {
		e := keptEmbedding{ID: x.ID, Task: x.Task, Success: x.Success, Progress: finiteOrNil(x.Progress), Reward: scores[k].Reward, Embedding: make([]float32, len(x.Embedding))}
		for j, v := range x.Embedding {
			e.Embedding[j] = float32(v)
		}
		list.Attempts = append(list.Attempts, e)
	}
	data, err := json.Marshal(list)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "the embeddings of iteration %d: %w", i, err)
	}
	return r.folder.SaveInto(attempts.EmbeddingsDir, fmt.Sprintf("%06d.json", i), append(data, '\n'))
}

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
