package host

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// RecordOptions say what [Record] is to record.
type RecordOptions struct {
	// Config names env, tasks, their settings, seed, rollout.record_every and rollout.max_steps.
	Config   *config.Config
	Launch   Launcher
	Terminal *report.Terminal
	Version  string
	// Dir gets clips/*.npz and labels.jsonl.
	Dir string
	// Actors take turns: expert, noise:SIGMA, fail:WAY, fail:WAY+noise:SIGMA, random. Episodes of each, spread over tasks and start states.
	Actors   []string
	Episodes int
}

// Recorded is what a recording came to.
type Recorded struct {
	Dir      string  `json:"dir"`
	Episodes int     `json:"episodes"`
	Rolled   int     `json:"rolled"`
	Seconds  float64 `json:"seconds"`
	// ByActor in the order of the actors that were asked for.
	ByActor []RecordedActor `json:"by_actor"`
}

// RecordedActor sums up an actor's episodes.
type RecordedActor struct {
	Actor     string `json:"actor"`
	Episodes  int    `json:"episodes"`
	Successes int    `json:"successes"`
}

// RecordLabel is a line of labels.jsonl.
type RecordLabel struct {
	ID      string `json:"id"`
	Task    string `json:"task"`
	Success bool   `json:"success"`
	// Video is the clip's path within the folder: uint8 [T, H, W, 3], the array "frames".
	Video    string   `json:"video"`
	Progress *float64 `json:"progress,omitempty"`
	Furthest *float64 `json:"furthest,omitempty"`
	// Actor, StartState, Steps and RecordEvery say how it came about; steps are env steps.
	Actor       string `json:"actor"`
	StartState  int    `json:"start_state"`
	Steps       int    `json:"steps"`
	RecordEvery int    `json:"record_every"`
}

const (
	labelsFile = "labels.jsonl"
	recordFile = "record.json"
)

// Record rolls episodes without a policy and writes their frames as clips with labels, as `srpo reward` and the training of a world model take them. Stopped
// at any time, the same call goes on where it was. A folder that holds a recording of something else is refused.
func Record(ctx context.Context, o RecordOptions) (*Recorded, error) {
	began := time.Now()
	actors := make([]rollout.Actor, len(o.Actors))
	for i, text := range o.Actors {
		var err error
		if actors[i], err = rollout.ParseActor(text); err != nil {
			return nil, plugins.AsError(err).WithPlace("--actor")
		}
		for _, before := range actors[:i] {
			if before == actors[i] {
				return nil, plugins.Errorf(plugins.Invalid, "%s is given twice", actors[i]).WithPlace("--actor").WithHint("raise --episodes instead")
			}
		}
	}
	if len(actors) == 0 || o.Episodes < 1 {
		return nil, plugins.Errorf(plugins.Invalid, "%d actors, %d episodes", len(actors), o.Episodes).WithPlace("--actor, --episodes").WithHint("--actor expert --episodes 100")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", o.Dir)
	}
	r := &recording{RecordOptions: o, dir: dir, have: map[string]RecordLabel{}}
	if err := r.open(); err != nil {
		return nil, err
	}
	defer r.labels.Close()
	session, err := Open(ctx, o.Config, o.Launch, Needs{}, filepath.Join(dir, "plugins"), func(ev supervise.Event) {
		if ev.What == "died" || ev.What == "replaced" {
			o.Terminal.Warn("%s %s: %s", ev.Plugin, ev.What, ev.Cause)
		}
	})
	if err != nil {
		return nil, err
	}
	defer session.Close()
	plan := rollout.RecordPlan{Seed: o.Config.Run.Seed, Every: o.Config.Rollout.RecordEvery, MaxSteps: o.Config.Rollout.MaxSteps}
	out := &Recorded{Dir: o.Dir}
	for range actors {
		out.ByActor = append(out.ByActor, RecordedActor{})
	}
	index := map[rollout.Actor]int{}
	count := func(a rollout.Actor, success bool) {
		out.Episodes++
		by := &out.ByActor[index[a]]
		by.Episodes++
		if success {
			by.Successes++
		}
	}
	for i, a := range actors {
		index[a], out.ByActor[i].Actor = i, a.String()
	}
	for _, trial := range session.trials("all", o.Episodes) {
		for _, a := range actors {
			take := rollout.Take{Trial: trial, Actor: a}
			if label, ok := r.have[take.ID()]; ok {
				count(a, label.Success)
				continue
			}
			plan.Takes = append(plan.Takes, take)
		}
	}
	total := out.Episodes + len(plan.Takes)
	if out.Episodes > 0 {
		o.Terminal.Line("going on in %s: %d of %d episodes are there", o.Dir, out.Episodes, total)
	}
	steps := int64(0)
	err = session.Sched.Record(ctx, plan, func(t rollout.Take, e rollout.Episode) error {
		if err := r.keep(t, e); err != nil {
			return err
		}
		out.Rolled++
		steps += int64(e.Steps)
		count(t.Actor, e.Success)
		o.Terminal.Update(report.Status{Phase: "record", Done: out.Episodes, Total: total, EnvSteps: steps, Successes: out.successes(), Episodes: out.Episodes})
		return nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, plugins.Errorf(plugins.Canceled, "stopped after %d of %d episodes, which are kept in %s", out.Episodes, total, o.Dir).WithHint("the same command goes on")
		}
		return nil, err
	}
	out.Seconds = time.Since(began).Seconds()
	return out, nil
}

func (r *Recorded) successes() int {
	n := 0
	for _, a := range r.ByActor {
		n += a.Successes
	}
	return n
}

// recording is one call of Record.
type recording struct {
	RecordOptions
	dir    string
	labels *os.File
	have   map[string]RecordLabel
}

// open makes the folder, or opens one with the same recording, and reads the labels that are there.
func (r *recording) open() error {
	c := r.Config
	identity := map[string]string{"env": c.Run.Env, "seed": fmt.Sprint(c.Run.Seed), "record_every": fmt.Sprint(c.Rollout.RecordEvery), "max_steps": fmt.Sprint(c.Rollout.MaxSteps)}
	for _, v := range c.Values() {
		if strings.HasPrefix(v.Key, "env.") {
			identity[v.Key] = fmt.Sprint(v.Value)
		}
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
			return plugins.Errorf(plugins.Invalid, "the folder holds %s and no recording", entries[0].Name()).WithPlace("--out %s", r.Dir).WithHint("give a folder that is empty or does not exist")
		}
	case err != nil:
		return onDisk("read", path, err)
	case !bytes.Equal(have, want):
		return plugins.Errorf(plugins.Mismatch, "the folder holds a recording of something else; nothing was changed").WithPlace("--out %s", r.Dir).
			WithHint("give another --out").WithDetail("there: " + string(have) + "now: " + string(want))
	}
	if err := os.MkdirAll(filepath.Join(r.dir, "clips"), 0o755); err != nil {
		return onDisk("make", r.dir, err)
	}
	if have == nil {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			return onDisk("write", path, err)
		}
	}
	path = filepath.Join(r.dir, labelsFile)
	if r.labels, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return onDisk("open", path, err)
	}
	lines, whole := bufio.NewReader(r.labels), int64(0)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break // a last line without its end was cut off by a crash, and is written again
		}
		var l RecordLabel
		if err := json.Unmarshal(line, &l); err != nil {
			_ = r.labels.Close()
			return plugins.Errorf(plugins.Corrupt, "%w", err).WithPlace("%s:%d", path, len(r.have)+1).WithHint("remove the line to have its episode recorded again")
		}
		if _, err := os.Stat(filepath.Join(r.dir, filepath.FromSlash(l.Video))); err == nil {
			r.have[l.ID] = l
		}
		whole += int64(len(line))
	}
	if err := r.labels.Truncate(whole); err != nil {
		return onDisk("truncate", path, err)
	}
	_, err = r.labels.Seek(whole, 0)
	return onDisk("read", path, err)
}

// keep writes a clip, and then its label.
func (r *recording) keep(t rollout.Take, e rollout.Episode) error {
	clean := strings.Map(func(c rune) rune {
		if c == '_' || c == '-' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '-'
	}, e.ID)
	sum := sha256.Sum256([]byte(e.ID)) // different ids may read the same once cleaned
	label := RecordLabel{ID: e.ID, Task: e.Task, Success: e.Success, Video: fmt.Sprintf("clips/%s-%x.npz", clean[:min(len(clean), 120)], sum[:3]), Progress: e.Progress, Furthest: e.Furthest,
		Actor: t.Actor.String(), StartState: e.StartState, Steps: e.Steps, RecordEvery: r.Config.Rollout.RecordEvery}
	path := filepath.Join(r.dir, filepath.FromSlash(label.Video))
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return onDisk("write", path, err)
	}
	err = store.EncodeNPZ(f, "frames", e.Frames)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return onDisk("write", path, err)
	}
	line, err := json.Marshal(label)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%w", err)
	}
	_, err = r.labels.Write(append(line, '\n'))
	return onDisk("write", filepath.Join(r.dir, labelsFile), err)
}
