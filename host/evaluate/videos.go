package evaluate

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// videos are the saved videos of an evaluation.
type videos struct {
	dir    string
	max    int // of each kind
	byTask map[string]Task
	// byKind are the episodes with a video, by kind, in the order of trials.
	byKind map[string][]Episode
}

// kind distinguishes episodes by the group of their task and by their outcome.
func (v *videos) kind(e Episode) string {
	return GroupOf(v.byTask[e.Task]) + "\x00" + e.Outcome()
}

// have lists an episode whose video exists.
func (v *videos) have(e Episode) {
	list := v.byKind[v.kind(e)]
	at := sort.Search(len(list), func(i int) bool { return list[i].Index >= e.Index })
	if at < len(list) && list[at].Index == e.Index { // rolled out again after the policy was lost
		return
	}
	v.byKind[v.kind(e)] = slices.Insert(list, at, e)
}

// add saves an episode's video if it is among the first of its kind in the order of trials, and removes a later
// one. So the videos that remain do not depend on the order in which episodes end.
func (v *videos) add(e Episode, frames plugins.Tensor) error {
	kind := v.kind(e)
	list := v.byKind[kind]
	if frames.IsZero() || len(list) >= v.max && e.Index > list[len(list)-1].Index {
		return nil
	}
	var gif bytes.Buffer
	if err := media.EncodeGIF(&gif, frames, media.GIF{}); err != nil {
		return plugins.AsError(err).WithPlace("episode %s", e.ID)
	}
	if err := os.MkdirAll(filepath.Join(v.dir, VideosDir), 0o755); err != nil {
		return store.DiskError("make", v.dir, err)
	}
	if err := store.WriteFile(v.dir, VideoName(e), gif.Bytes()); err != nil {
		return err
	}
	v.have(e)
	for len(v.byKind[kind]) > v.max {
		list := v.byKind[kind]
		last := list[len(list)-1]
		path := filepath.Join(v.dir, filepath.FromSlash(VideoName(last)))
		if err := os.Remove(path); err != nil {
			return store.DiskError("remove", path, err)
		}
		v.byKind[kind] = list[:len(list)-1]
	}
	return nil
}

// names returns the file names of the videos by the ids of their episodes.
func (v *videos) names() map[string]string {
	out := map[string]string{}
	for _, list := range v.byKind {
		for _, e := range list {
			out[e.ID] = VideoName(e)
		}
	}
	return out
}

// saveClip writes an episode's clip for srpo reward.
func (e *evaluation) saveClip(ep rollout.Episode) error {
	if err := os.MkdirAll(filepath.Join(e.dir, attempts.ClipsDir), 0o755); err != nil {
		return store.DiskError("make", e.dir, err)
	}
	label := attempts.Label{ID: ep.ID, Task: ep.Task, Success: ep.Success, Progress: ep.Progress, Steps: ep.Steps,
		RecordEvery: e.cfg.Rollout.RecordEvery}
	return attempts.SaveClip(store.FileName(ep.ID), ep.Frames, label, func(folder, name string, data []byte) error {
		return store.WriteFile(e.dir, folder+"/"+name, data)
	})
}
