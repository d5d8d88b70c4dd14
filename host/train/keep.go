package train

import (
	"encoding/json"
	"fmt"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// clipWriter writes clips and trajectories while other episodes are rolled out.
type clipWriter struct {
	queue chan rollout.Episode
	done  chan error
}

// clipQueue bounds the clips that wait to be written: rollouts wait for a slow disk, and memory does not grow.
const clipQueue = 8

// saveClips makes a plan pass the frames of run.keep_clips and the trajectories of run.keep_trajectories to a writer.
// Close it when the plan is done.
func (r *run) saveClips(p *rollout.Plan, i int) *clipWriter {
	c := r.cfg.Run
	if c.KeepClips == "none" && c.KeepTrajectories == "none" {
		return nil
	}
	var space []byte
	var err error
	if c.KeepTrajectories != "none" {
		p.KeepTrajectory, p.AlsoObserve = true, r.session.TrajectoryCameras()
		space, err = dataset.EncodeSpace(r.session.Space(p.AlsoObserve), r.cfg.Rollout.RecordEvery)
	}
	w := &clipWriter{queue: make(chan rollout.Episode, clipQueue), done: make(chan error, 1)}
	p.OnFrames = func(e rollout.Episode) {
		if !c.KeepsTrajectory(e.Success) {
			e.Trajectory = nil
		}
		if c.KeepsClip(e.Success) || e.Trajectory != nil {
			w.queue <- e
		}
	}
	go func() {
		if err == nil && space != nil {
			err = r.folder.SaveInto(dataset.Dir, dataset.SpaceFile, space)
		}
		for e := range w.queue {
			if err == nil { // after the first error the queue is only emptied
				err = r.saveClip(e, i)
			}
		}
		w.done <- err
	}()
	return w
}

func (r *run) saveClip(e rollout.Episode, i int) error {
	label := attempts.Label{ID: e.ID, Task: e.Task, Success: e.Success, Progress: e.Progress, Iteration: i,
		Steps: e.Steps, RecordEvery: r.cfg.Rollout.RecordEvery}
	err := attempts.SaveClip(store.FileName(e.ID), e.Frames, label, r.folder.SaveInto)
	if err == nil && e.Trajectory != nil {
		err = dataset.Save(e.ID, e.Task, *e.Trajectory, r.folder.SaveInto)
	}
	return err
}

// close waits until all clips are written, and returns the first error.
func (w *clipWriter) close() error {
	if w == nil {
		return nil
	}
	close(w.queue)
	return <-w.done
}

// keptEmbedding is an entry of the list that run.keep_embeddings writes.
type keptEmbedding struct {
	ID        string    `json:"id"`
	Task      string    `json:"task"`
	Success   bool      `json:"success"`
	Progress  *float64  `json:"progress,omitempty"`
	Reward    float64   `json:"reward"`
	Embedding []float32 `json:"embedding"`
}

// saveEmbeddings writes an iteration's embeddings as a list that srpo reward reads.
func (r *run) saveEmbeddings(it *result) error {
	if !r.cfg.Run.KeepEmbeddings || r.sparse {
		return nil
	}
	list := struct {
		Encoder  string          `json:"encoder"`
		Attempts []keptEmbedding `json:"attempts"`
	}{Encoder: r.session.EncoderInfo.Name}
	for _, s := range it.samples {
		e := keptEmbedding{ID: s.ID, Task: s.Task, Success: s.Success, Progress: finiteOrNil(s.Progress),
			Reward: s.Scored.Reward, Embedding: s.Embedding}
		if e.Embedding == nil {
			e.Embedding = []float32{}
		}
		list.Attempts = append(list.Attempts, e)
	}
	data, err := json.Marshal(list)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "the embeddings of iteration %d: %w", it.iteration, err)
	}
	return r.folder.SaveInto(attempts.EmbeddingsDir, fmt.Sprintf("%06d.json", it.iteration), append(data, '\n'))
}
