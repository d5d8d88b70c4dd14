// Package record rolls episodes and writes them as clips with labels, and as trajectories.
package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// Options say what [Run] is to record.
type Options struct {
	// Config names env, tasks, their settings, seed, rollout.start_states, rollout.record_every and rollout.max_steps.
	Config   *config.Config
	Launch   session.Launcher
	Terminal *report.Terminal
	Version  string
	// Dir gets clips/*.npz and labels.jsonl.
	Dir string
	// Actors take turns: expert, noise:SIGMA, fail:WAY, fail:WAY+noise:SIGMA, random, and policy or policy:greedy, for which Config names the policy and its checkpoint. Episodes of each, spread
	// over tasks and start states.
	Actors   []string
	Episodes int
	// Trajectories keeps what every camera saw before each action, proprio and actions too, to learn from or to export.
	Trajectories bool
}

// Result is what a recording came to.
type Result struct {
	Dir      string  `json:"dir"`
	Episodes int     `json:"episodes"`
	Rolled   int     `json:"rolled"`
	Seconds  float64 `json:"seconds"`
	// ByActor in the order of the actors that were asked for.
	ByActor []ActorResult `json:"by_actor"`
}

// ActorResult sums up an actor's episodes.
type ActorResult struct {
	Actor     string `json:"actor"`
	Episodes  int    `json:"episodes"`
	Successes int    `json:"successes"`
}

// Label is a line of labels.jsonl.
type Label struct {
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

// Run rolls episodes without a policy and writes their frames as clips with labels, as `srpo reward` and the training of a world model take them. Stopped
// at any time, the same call goes on where it was. A folder that holds a recording of something else is refused.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
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
	r := &recording{Options: o, dir: dir, have: map[string]Label{}, acts: slices.ContainsFunc(actors, func(a rollout.Actor) bool { return a.Policy })}
	if err := (session.Needs{Policy: r.acts}).Check(o.Config, o.Launch); err != nil {
		return nil, err
	}
	_, there := os.Stat(dir)
	if err := r.open(); err != nil {
		return nil, err
	}
	defer func() {
		_ = r.labels.Close()
		if errors.Is(there, fs.ErrNotExist) && len(r.have) == 0 && !r.kept && ctx.Err() == nil && session.IsUserError(err, dir) {
			_ = os.RemoveAll(dir) // nothing was recorded, and the mistake says itself
		}
	}()
	session, err := session.Open(ctx, o.Config, o.Launch, session.Needs{Policy: r.acts}, filepath.Join(dir, "plugins"), func(ev supervise.Event) {
		if ev.What == "died" || ev.What == "replaced" {
			o.Terminal.Warn("%s %s: %s", ev.Plugin, ev.What, ev.Cause)
		}
	})
	if err != nil {
		return nil, err
	}
	defer session.Close()
	if err := r.prepare(ctx, session); err != nil {
		return nil, err
	}
	plan := rollout.RecordPlan{Observe: r.cameras, Seed: o.Config.Run.Seed, Every: o.Config.Rollout.RecordEvery, MaxSteps: o.Config.Rollout.MaxSteps}
	out := &Result{Dir: o.Dir}
	for range actors {
		out.ByActor = append(out.ByActor, ActorResult{})
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
	policy, todo := map[rollout.Actor][]rollout.Trial{}, 0
	side := o.Config.Rollout.StartStates
	if _, err := session.TasksOn(side); err != nil {
		return nil, err
	}
	for _, trial := range session.Trials(side, o.Episodes) {
		for _, a := range actors {
			take := rollout.Take{Trial: trial, Actor: a}
			if label, ok := r.have[take.ID()]; ok {
				count(a, label.Success)
				continue
			}
			if a.Policy {
				policy[a] = append(policy[a], trial)
				todo++
				continue
			}
			plan.Takes = append(plan.Takes, take)
			todo++
		}
	}
	total := out.Episodes + todo
	if out.Episodes > 0 {
		o.Terminal.Line("going on in %s: %d of %d episodes are there", o.Dir, out.Episodes, total)
	}
	steps := int64(0)
	keep := func(t rollout.Take, e rollout.Episode) error {
		if err := r.keep(t, e); err != nil {
			return err
		}
		out.Rolled++
		steps += int64(e.Steps)
		count(t.Actor, e.Success)
		o.Terminal.Update(report.Status{Phase: "record", Done: out.Episodes, Total: total, EnvSteps: steps, Successes: out.successes(), Episodes: out.Episodes})
		return nil
	}
	err = session.Sched.Record(ctx, plan, keep)
	for _, a := range actors {
		if err == nil && len(policy[a]) > 0 {
			err = r.act(ctx, session, a, policy[a], keep)
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, plugins.Errorf(plugins.Canceled, "stopped after %d of %d episodes, which are kept in %s", out.Episodes, total, o.Dir).WithHint("the same command goes on")
		}
		return nil, err
	}
	out.Seconds = time.Since(began).Seconds()
	return out, nil
}

func (r *Result) successes() int {
	n := 0
	for _, a := range r.ByActor {
		n += a.Successes
	}
	return n
}

// recording is one call of Record.
type recording struct {
	Options
	dir     string
	labels  *os.File
	have    map[string]Label
	acts    bool     // a policy acts
	weights string   // its folder; empty: its own
	cameras []string // that trajectories hold; nil: none are kept
	kept    bool     // an episode was rolled
}

// prepare loads the policy, and says once what the trajectories' numbers mean.
func (r *recording) prepare(ctx context.Context, s *session.Session) error {
	if r.acts {
		p, _, err := s.Sched.Policy.Client(ctx)
		if err != nil {
			return err
		}
		if r.weights != "" && s.Published == "" {
			if _, err := p.Load(ctx, r.weights); err != nil {
				return plugins.AsError(err).WithPlace("%s, checkpoint %s", r.Config.Origin("run.checkpoint"), r.Config.Run.Checkpoint)
			}
			if err := s.UseWeights(ctx, r.weights); err != nil {
				return err
			}
		} else if err := s.UseCurrentPolicy(ctx); err != nil {
			return err
		}
	}
	if !r.Trajectories {
		return nil
	}
	for _, c := range s.Sched.EnvSpec.Cameras {
		r.cameras = append(r.cameras, c.Name)
	}
	text, err := dataset.EncodeSpace(s.Space(r.cameras), r.Config.Rollout.RecordEvery)
	if err != nil {
		return err
	}
	return r.save(dataset.Dir, dataset.SpaceFile, text)
}

// save writes a file of a folder of the recording, all of it or nothing.
func (r *recording) save(folder, name string, data []byte) error {
	dir := filepath.Join(r.dir, folder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return store.DiskError("make", dir, err)
	}
	path := filepath.Join(dir, name)
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return store.DiskError("write", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return store.DiskError("write", path, err)
}

// act rolls a policy's episodes. A policy whose process is lost comes back with the same weights, and with it the episodes that were in flight.
func (r *recording) act(ctx context.Context, s *session.Session, a rollout.Actor, trials []rollout.Trial, keep func(rollout.Take, rollout.Episode) error) error {
	e := rollout.Evaluation{Rules: s.Rules(false, true), Name: a.String(), Seed: r.Config.Run.Seed, Trials: trials, Have: map[string]rollout.Episode{}}
	e.Greedy, e.KeepTrajectory, e.AlsoObserve = a.Greedy, r.Trajectories, r.cameras
	takes := map[string]rollout.Take{}
	for _, t := range trials {
		take := rollout.Take{Trial: t, Actor: a}
		takes[take.ID()] = take
	}
	rolling, stop := context.WithCancel(ctx)
	defer stop()
	var failed error
	e.OnFrames = func(ep rollout.Episode) {
		if failed == nil {
			if failed = keep(takes[ep.ID], ep); failed != nil {
				stop()
				return
			}
			ep.Frames, ep.Trajectory = plugins.Tensor{}, nil
			e.Have[ep.ID] = ep
		}
	}
	for len(e.Have) < len(trials) {
		have := e
		have.Have = maps.Clone(e.Have)
		_, _, err := s.Sched.Evaluate(rolling, have)
		switch {
		case failed != nil:
			return failed
		case errors.Is(err, rollout.ErrPolicyLost) && ctx.Err() == nil:
			r.Terminal.Warn("%v; it goes on with a new one", err)
			if err := s.UseCurrentPolicy(ctx); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	return nil
}

// open makes the folder, or opens one with the same recording, and reads the labels that are there.
func (r *recording) open() error {
	c := r.Config
	identity := map[string]string{"env": c.Run.Env, "seed": fmt.Sprint(c.Run.Seed), "record_every": fmt.Sprint(c.Rollout.RecordEvery), "max_steps": fmt.Sprint(c.Rollout.MaxSteps)}
	if side := c.Rollout.StartStates; side != "all" { // which of them are on a side follows from seed and fraction
		identity["start_states"], identity["train_fraction"] = side, fmt.Sprint(c.Rollout.TrainFraction)
	}
	for _, v := range c.Values() {
		if strings.HasPrefix(v.Key, "env.") {
			identity[v.Key] = fmt.Sprint(v.Value)
		}
	}
	if r.Trajectories {
		identity["trajectories"] = "true"
	}
	if r.acts {
		identity["policy"], identity["temperature"] = c.Run.Policy, fmt.Sprint(c.Rollout.Temperature)
		for _, v := range c.Values() {
			if strings.HasPrefix(v.Key, "policy.") {
				identity[v.Key] = fmt.Sprint(v.Value)
			}
		}
		identity["checkpoint"] = "none"
		if c.Run.Checkpoint != "" {
			var sum string
			var err error
			if r.weights, sum, err = session.FindPolicyAndHash(c, c.Run.Checkpoint, r.Terminal); err != nil {
				return err
			}
			identity["checkpoint"] = sum
		}
	} else if c.Run.Checkpoint != "" {
		return plugins.Errorf(plugins.Invalid, "a checkpoint is given, and no policy acts").WithPlace("%s", c.Origin("run.checkpoint")).WithHint("--actor policy")
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
		return store.DiskError("read", path, err)
	case !bytes.Equal(have, want):
		return plugins.Errorf(plugins.Mismatch, "the folder holds a recording of something else; nothing was changed").WithPlace("--out %s", r.Dir).
			WithHint("give another --out").WithDetail("there: " + string(have) + "now: " + string(want))
	}
	if err := os.MkdirAll(filepath.Join(r.dir, "clips"), 0o755); err != nil {
		return store.DiskError("make", r.dir, err)
	}
	if have == nil {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			return store.DiskError("write", path, err)
		}
	}
	path = filepath.Join(r.dir, labelsFile)
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return store.DiskError("read", path, err)
	}
	var kept []byte
	n := 0
	for line := range bytes.Lines(old) {
		if n++; !bytes.HasSuffix(line, []byte("\n")) {
			break // a last line without its end was cut off by a crash, and is written again
		}
		var l Label
		if err := json.Unmarshal(line, &l); err != nil {
			return plugins.Errorf(plugins.Corrupt, "%w", err).WithPlace("%s:%d", path, n).WithHint("remove the line to have its episode recorded again")
		}
		// The line of a clip that was removed goes, as its episode is recorded again.
		if _, err := os.Stat(filepath.Join(r.dir, filepath.FromSlash(l.Video))); err == nil {
			r.have[l.ID] = l
			kept = append(kept, line...)
		}
	}
	if !bytes.Equal(kept, old) {
		if err := os.WriteFile(path+".new", kept, 0o644); err != nil {
			return store.DiskError("write", path, err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return store.DiskError("write", path, err)
		}
	}
	r.labels, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	return store.DiskError("open", path, err)
}

// keep writes a clip and a trajectory, and then the label.
func (r *recording) keep(t rollout.Take, e rollout.Episode) error {
	r.kept = true
	name := store.FileName(e.ID)
	label := Label{ID: e.ID, Task: e.Task, Success: e.Success, Video: attempts.ClipsDir + "/" + name + ".npz", Progress: e.Progress, Furthest: e.Furthest,
		Actor: t.Actor.String(), StartState: e.StartState, Steps: e.Steps, RecordEvery: r.Config.Rollout.RecordEvery}
	var npz bytes.Buffer
	if err := media.EncodeNPZ(&npz, "frames", e.Frames); err != nil {
		return plugins.AsError(err).WithPlace("episode %s", e.ID)
	}
	if err := r.save(attempts.ClipsDir, name+".npz", npz.Bytes()); err != nil {
		return err
	}
	if e.Trajectory != nil {
		if err := dataset.Save(e.ID, e.Task, *e.Trajectory, r.save); err != nil {
			return err
		}
	}
	line, err := json.Marshal(label)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%w", err)
	}
	_, err = r.labels.Write(append(line, '\n'))
	return store.DiskError("write", filepath.Join(r.dir, labelsFile), err)
}
