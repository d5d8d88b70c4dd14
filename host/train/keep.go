package train

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/srpo-dev/srpo/host/attempts"
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
		p.KeepTrajectory, p.AlsoObserve = true, r.session.TrajectoryCameras()
		space, unwritable = dataset.EncodeSpace(r.session.Space(p.AlsoObserve), r.cfg.Rollout.RecordEvery)
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
