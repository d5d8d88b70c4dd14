package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

const (
	labelsFile = "labels.jsonl"
	recordFile = "record.json"
)

// Label is a line of labels.jsonl.
type Label struct {
	ID      string `json:"id"`
	Task    string `json:"task"`
	Success bool   `json:"success"`
	// Video is the path of the clip relative to the folder: uint8 [T, H, W, 3], the array "frames".
	Video    string   `json:"video"`
	Progress *float64 `json:"progress,omitempty"`
	Furthest *float64 `json:"furthest,omitempty"`
	// Actor, StartState, Steps and RecordEvery describe how the episode was made. Steps are env steps.
	Actor       string `json:"actor"`
	StartState  int    `json:"start_state"`
	Steps       int    `json:"steps"`
	RecordEvery int    `json:"record_every"`
}

// folder is the folder of a recording.
type folder struct {
	dir      string
	labels   *os.File
	recorded map[string]Label // by the id of an episode
}

// identity returns everything that the episodes depend on, by name. It also finds the policy's weights.
func (r *recording) identity() (map[string]string, error) {
	c := r.Config
	identity := map[string]string{"env": c.Run.Env, "seed": fmt.Sprint(c.Run.Seed),
		"record_every": fmt.Sprint(c.Rollout.RecordEvery), "max_steps": fmt.Sprint(c.Rollout.MaxSteps)}
	if side := c.Rollout.StartStates; side != "all" { // seed and fraction determine which start states are on a side
		identity["start_states"], identity["train_fraction"] = side, fmt.Sprint(c.Rollout.TrainFraction)
	}
	if r.Trajectories {
		identity["trajectories"] = "true"
	}
	addSettings := func(prefix string) {
		for _, v := range c.Values() {
			if strings.HasPrefix(v.Key, prefix) {
				identity[v.Key] = fmt.Sprint(v.Value)
			}
		}
	}
	addSettings("env.")
	if !r.policyActs() {
		if c.Run.Checkpoint != "" {
			return nil, plugins.Errorf(plugins.Invalid, "a checkpoint is given, and no policy acts").
				WithPlace("%s", c.Origin("run.checkpoint")).WithHint("use --actor policy")
		}
		return identity, nil
	}
	addSettings("policy.")
	identity["policy"], identity["temperature"] = c.Run.Policy, fmt.Sprint(c.Rollout.Temperature)
	identity["checkpoint"] = "none"
	if c.Run.Checkpoint != "" {
		weights, sum, err := session.FindPolicyAndHash(c, c.Run.Checkpoint, r.Terminal)
		if err != nil {
			return nil, err
		}
		r.weights, identity["checkpoint"] = weights, sum
	}
	return identity, nil
}

// open creates the folder, or opens one with the same recording, and reads its labels.
func (r *recording) open() error {
	identity, err := r.identity()
	if err != nil {
		return err
	}
	want, err := json.MarshalIndent(identity, "", "  ")
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%w", err)
	}
	want = append(want, '\n')
	path := filepath.Join(r.dir, recordFile)
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if entries, err := os.ReadDir(r.dir); err == nil && len(entries) > 0 {
			return plugins.Errorf(plugins.Invalid, "the folder contains %s and no recording", entries[0].Name()).
				WithPlace("--out %s", r.Dir).WithHint("give a folder that is empty or does not exist")
		}
	case err != nil:
		return store.DiskError("read", path, err)
	case !bytes.Equal(have, want):
		return plugins.Errorf(plugins.Mismatch, "the folder contains another recording; nothing was changed").
			WithPlace("--out %s", r.Dir).WithHint("give another --out").
			WithDetail("in the folder: " + string(have) + "now: " + string(want))
	}
	if err := os.MkdirAll(filepath.Join(r.dir, attempts.ClipsDir), 0o755); err != nil {
		return store.DiskError("make", r.dir, err)
	}
	if have == nil {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			return store.DiskError("write", path, err)
		}
	}
	return r.openLabels()
}

// openLabels reads the labels whose clips exist, and opens the file to add more. The other lines are removed, because
// their episodes are recorded again.
func (f *folder) openLabels() error {
	path := filepath.Join(f.dir, labelsFile)
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return store.DiskError("read", path, err)
	}
	f.recorded = map[string]Label{}
	var kept []byte
	n := 0
	for line := range bytes.Lines(old) {
		if n++; !bytes.HasSuffix(line, []byte("\n")) {
			break // a crash left it incomplete
		}
		var l Label
		if err := json.Unmarshal(line, &l); err != nil {
			return plugins.Errorf(plugins.Corrupt, "%w", err).WithPlace("%s:%d", path, n).
				WithHint("remove the line to have its episode recorded again")
		}
		if _, err := os.Stat(filepath.Join(f.dir, filepath.FromSlash(l.Video))); err == nil {
			f.recorded[l.ID] = l
			kept = append(kept, line...)
		}
	}
	if !bytes.Equal(kept, old) {
		if err := store.WriteFile(f.dir, labelsFile, kept); err != nil {
			return err
		}
	}
	f.labels, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	return store.DiskError("open", path, err)
}

// save writes a file of a subfolder: all of it or nothing.
func (f *folder) save(subfolder, name string, data []byte) error {
	dir := filepath.Join(f.dir, subfolder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return store.DiskError("make", dir, err)
	}
	return store.WriteFile(dir, name, data)
}

// saveEpisode writes a clip and a trajectory, and then the label.
func (f *folder) saveEpisode(t rollout.Take, e rollout.Episode, every int) error {
	name := store.FileName(e.ID)
	var npz bytes.Buffer
	if err := media.EncodeNPZ(&npz, "frames", e.Frames); err != nil {
		return plugins.AsError(err).WithPlace("episode %s", e.ID)
	}
	if err := f.save(attempts.ClipsDir, name+".npz", npz.Bytes()); err != nil {
		return err
	}
	if e.Trajectory != nil {
		if err := dataset.Save(e.ID, e.Task, *e.Trajectory, f.save); err != nil {
			return err
		}
	}
	line, err := json.Marshal(Label{ID: e.ID, Task: e.Task, Success: e.Success,
		Video: attempts.ClipsDir + "/" + name + ".npz", Progress: e.Progress, Furthest: e.Furthest,
		Actor: t.Actor.String(), StartState: e.StartState, Steps: e.Steps, RecordEvery: every})
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%w", err)
	}
	_, err = f.labels.Write(append(line, '\n'))
	return store.DiskError("write", filepath.Join(f.dir, labelsFile), err)
}
