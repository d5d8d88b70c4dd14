// Package evaluate measures a policy: it rolls the trials of an evaluation, sums the episodes up by suite, dimension,
// level and task, joins the shards of one evaluation, and compares two evaluations of the same episodes.
//
// [Run] starts plugins. Everything else reads the folders that it wrote.
package evaluate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// Options say what [Run] is to measure.
type Options struct {
	// Config names env, policy, tasks, their settings, the seed of the split, and in Run.Checkpoint what to evaluate. Run.Out is not read.
	Config *config.Config
	Launch session.Launcher
	// Terminal shows progress.
	Terminal *report.Terminal
	// Version of srpo and Command line, for the record.
	Version string
	Command []string
	// Dir is the evaluation's folder; empty: [DefaultDir].
	Dir string
	// States is "all", "train" or "test": the side of the split, the very split of a run with the same seed, train_fraction and split.
	States string
	// Episodes to roll, spread over tasks and start states; 0: each start state of each task once.
	Episodes int
	// Sample draws actions at rollout.temperature; otherwise the policy is greedy.
	Sample bool
	// Videos is how many episodes of each kind of outcome, the first ones in the order of trials, are saved as GIFs. Config.Run.KeepClips keeps frames for srpo
	// reward.
	Videos int
	// Shard is which part of the trials to roll: every Shards-th of them, from the Shard-th on, counted from 1. Shards 0: all of them.
	Shard, Shards int
}

// evaluation is one call of Evaluate.
type evaluation struct {
	Options
	cfg    *config.Config
	dir    string
	fresh  bool   // the folder was not there before
	weight string // the policy's folder; empty: it holds its own weights
	ident  map[string]string
	record Record
	log    *episodeLog
	lock   *os.File
	sess   *session.Session
	tasks  []Task
	byTask map[string]Task
	index  map[string]int // of a trial among all shards', by id
	side   map[string]string
	have   map[string]rollout.Episode
	lines  map[string]Episode
	clips  map[string][]Episode // the saved videos' episodes, by kind, in the order of trials
	failed error                // the first failure to write
}

// DefaultDir is where an evaluation goes by default: runs/NAME-eval, NAME being the run's name and the iteration, with the side of the split, "sampled" and the
// shard where they are not the usual ones.
func DefaultDir(checkpoint, states string, sample bool, shard, shards int) string {
	name := filepath.Base(filepath.Clean(checkpoint))
	if run, ok := session.RunOf(checkpoint); ok {
		name = filepath.Base(run)
	}
	if c := filepath.Dir(session.PolicyFolder(checkpoint)); c != "." {
		if n, err := strconv.Atoi(filepath.Base(c)); err == nil {
			name += fmt.Sprintf("-%06d", n)
		}
	}
	name += "-eval"
	if states != "" && states != "all" {
		name += "-" + states
	}
	if sample {
		name += "-sampled"
	}
	if shards > 0 {
		name += fmt.Sprintf("-shard-%d-of-%d", shard, shards)
	}
	return filepath.Join("runs", name)
}

// Run rolls every trial once with a checkpoint's policy, which learns nothing from it. Stopped at any time, it goes on where it was when it is called
// again with the same folder. A folder that holds an evaluation of something else is refused and left as it is.
func Run(ctx context.Context, o Options) (_ *Results, err error) {
	e := &evaluation{Options: o, cfg: o.Config, have: map[string]rollout.Episode{}, lines: map[string]Episode{}, clips: map[string][]Episode{}}
	switch {
	case e.States == "":
		e.States = "all"
	case e.States != "all" && e.States != "train" && e.States != "test":
		return nil, plugins.Errorf(plugins.Invalid, "there is no side %q of the start states", e.States).WithPlace("--states").WithHint("all, train or test")
	}
	if e.Episodes < 0 || e.Videos < 0 {
		return nil, plugins.Errorf(plugins.Invalid, "a count of %d", min(e.Episodes, e.Videos)).WithPlace("--episodes or --videos").WithHint("0 or more")
	}
	if e.Shards < 0 || e.Shards > 0 && (e.Shard < 1 || e.Shard > e.Shards) {
		return nil, plugins.Errorf(plugins.Invalid, "there is no shard %d of %d", e.Shard, e.Shards).WithPlace("--shard").WithHint("I/N, from 1/N to N/N")
	}
	if err := (session.Needs{Policy: true}).Check(e.cfg, o.Launch); err != nil {
		return nil, err
	}
	if err := e.open(); err != nil {
		return nil, err
	}
	defer func() {
		e.close()
		if e.fresh && len(e.lines) == 0 && ctx.Err() == nil && session.IsUserError(err, e.dir) {
			_ = os.RemoveAll(e.dir) // no episode, and the mistake says itself
		}
	}()

	began := time.Now()
	session, err := session.Open(ctx, e.cfg, o.Launch, session.Needs{Policy: true}, filepath.Join(e.dir, "plugins"), e.onPlugin)
	if err != nil {
		return nil, e.ended(ctx, err, 0)
	}
	defer session.Close()
	e.sess = session
	if e.weight == "" && session.Sched.PolicySpec.Trainable && e.cfg.Imitate.Demos > 0 {
		session.Close()
		return nil, plugins.Errorf(plugins.Invalid, "no policy to evaluate").
			WithHint("--checkpoint FOLDER: a run folder, one of its checkpoints, or a policy's own folder; --set imitate.demos=0: the weights that the policy's settings name")
	}
	for _, words := range session.UnavailableWarnings() {
		e.Terminal.Warn("%s", words)
	}
	if _, err := session.TasksOn(e.States); err != nil {
		return nil, err
	}
	// The split is a run's own: the same method of the session, seed and fraction.
	plan := rollout.Evaluation{Rules: session.Rules(false, e.Videos > 0 || e.cfg.Run.KeepClips != "none"), Name: "eval", Seed: e.cfg.Run.Seed, Trials: session.Trials(e.States, e.Episodes)}
	plan.Greedy = !e.Sample
	if chunk := session.Sched.PolicySpec.Chunk; plan.RecordCamera != "" && chunk > 0 && e.cfg.Run.KeepClips == "none" {
		plan.RecordEvery = chunk // the frames that the policy sees, so that videos cost no frame of their own
	}
	e.number(plan)
	all := len(plan.Trials)
	if plan.Trials = e.shard(plan.Trials); len(plan.Trials) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "nothing is left for shard %d of %d: there are %d episodes", e.Shard, e.Shards, all).WithPlace("--shard").WithHint("fewer shards")
	}
	e.record.Trials, e.record.Mine = all, len(plan.Trials)
	if err := e.claim(plan); err != nil {
		return nil, err
	}
	if err := e.load(ctx); err != nil {
		return nil, e.ended(ctx, err, len(plan.Trials))
	}
	if err := e.roll(ctx, plan, began); err != nil {
		return nil, e.ended(ctx, err, len(plan.Trials))
	}
	return e.finish(plan, time.Since(began).Seconds())
}

// open makes the folder, or opens one that is there, and refuses one that holds something else.
func (e *evaluation) open() error {
	checkpoint := e.cfg.Run.Checkpoint
	sum := "none: the policy holds its own weights"
	if checkpoint != "" {
		var err error
		if sum, err = e.weights(checkpoint); err != nil {
			return err
		}
	}
	mode := "greedy"
	if e.Sample {
		mode = "sampled at temperature " + strconv.FormatFloat(e.cfg.Rollout.Temperature, 'g', -1, 64)
	}
	e.ident = map[string]string{"checkpoint": sum, "env": e.cfg.Run.Env, "policy": e.cfg.Run.Policy, "seed": strconv.FormatUint(e.cfg.Run.Seed, 10), "states": e.States,
		"actions": mode, "max_steps": strconv.Itoa(e.cfg.Rollout.MaxSteps), "episodes": strconv.Itoa(e.Episodes)}
	if e.Shards > 0 {
		e.ident["shard"] = fmt.Sprintf("%d/%d", e.Shard, e.Shards)
	}
	if e.States != "all" {
		e.ident["split"] = e.cfg.Rollout.Split
		e.ident["train_fraction"] = strconv.FormatFloat(e.cfg.Rollout.TrainFraction, 'g', -1, 64)
	}
	var err error
	if e.Dir == "" && checkpoint == "" {
		checkpoint = filepath.Base(e.cfg.Run.Policy) + "-" + filepath.Base(e.cfg.Run.Env) // a name for the folder
	}
	if e.Dir == "" {
		e.Dir = DefaultDir(checkpoint, e.States, e.Sample, e.Shard, e.Shards)
	}
	if e.dir, err = filepath.Abs(e.Dir); err != nil {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", e.Dir)
	}
	old, err := e.read()
	if err != nil {
		return err
	}
	if old != nil {
		if err := e.same(old.Identity, false); err != nil {
			return err
		}
	}
	if _, err := os.Stat(e.dir); errors.Is(err, fs.ErrNotExist) {
		e.fresh = true
	}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return store.DiskError("make", e.dir, err)
	}
	return e.takeLock()
}

// number gives every trial its place in the whole evaluation and its side of the split.
func (e *evaluation) number(plan rollout.Evaluation) {
	e.index, e.side, e.byTask = map[string]int{}, map[string]string{}, map[string]Task{}
	for i, t := range plan.Trials {
		e.index[plan.ID(i)], e.side[plan.ID(i)] = i, e.sess.Split.SideOf(t.Task, t.StartState)
	}
	for _, t := range e.sess.Tasks {
		line := Task{ID: t.ID, Suite: t.Suite, Instruction: t.Instruction, Tags: t.Tags}
		e.tasks, e.byTask[t.ID] = append(e.tasks, line), line
	}
}

// shard takes every n-th trial. Trials go round the tasks, so that each shard gets a fair share of all of them.
func (e *evaluation) shard(trials []rollout.Trial) []rollout.Trial {
	if e.Shards == 0 {
		return trials
	}
	var mine []rollout.Trial
	for i := e.Shard - 1; i < len(trials); i += e.Shards {
		mine = append(mine, trials[i])
	}
	return mine
}

// claim completes the identity with what only the plugins know, writes it down or compares it with what is there, and reads the episodes that are there.
func (e *evaluation) claim(plan rollout.Evaluation) error {
	s := e.sess
	for _, p := range s.Plugins {
		what := p.Version
		if p.Hash != "" {
			what += " " + p.Hash
		}
		e.ident[string(p.Kind)+" plugin"] = p.Name + " " + what
	}
	for _, v := range e.cfg.Values() {
		if strings.HasPrefix(v.Key, "env.") || strings.HasPrefix(v.Key, "policy.") {
			e.ident[v.Key] = fmt.Sprint(v.Value)
		}
	}
	tasks := sha256.New()
	for _, t := range s.Tasks {
		fmt.Fprintf(tasks, "%q %d %d\n", t.ID, t.StartStates, plan.MaxSteps)
	}
	e.ident["tasks"] = fmt.Sprintf("%d (%s)", len(s.Tasks), hex.EncodeToString(tasks.Sum(nil))[:12])

	old, err := e.read()
	if err != nil {
		return err
	}
	if old != nil {
		if err := e.same(old.Identity, true); err != nil {
			return err
		}
		e.record = *old
	} else {
		split := s.Split.ForManifest(nil, e.States)
		e.record = Record{Format: Format, Created: time.Now().UTC().Truncate(time.Millisecond), Host: e.Version, Command: e.Command, Seed: e.cfg.Run.Seed,
			Checkpoint: e.cfg.Run.Checkpoint, Identity: e.ident, Plugins: s.Plugins, Trials: e.record.Trials, Mine: e.record.Mine, LeftOut: s.Unavailable,
			Split: Split{Used: e.States, By: split.By, TrainFraction: split.TrainFraction, TrainedOn: e.trainedOn()}}
		var text bytes.Buffer
		if err := e.cfg.Write(&text); err != nil {
			return err
		}
		if err := e.write("srpo.toml", text.Bytes()); err != nil {
			return err
		}
		lines, err := JSONLines(e.tasks)
		if err != nil {
			return err
		}
		if err := e.write(TasksFile, lines); err != nil {
			return err
		}
		if err := e.writeJSON(RecordFile, e.record); err != nil {
			return err
		}
	}
	trials := map[string]bool{}
	for i := range plan.Trials {
		trials[plan.ID(i)] = true
	}
	var lines []Episode
	if e.log, lines, err = openEpisodes(filepath.Join(e.dir, EpisodesFile)); err != nil {
		return err
	}
	for n, ep := range lines {
		if !trials[ep.ID] || e.have[ep.ID].ID != "" {
			return plugins.Errorf(plugins.Corrupt, "episode %q is none of this evaluation's, or is there twice", ep.ID).WithPlace("%s:%d", e.log.path, n+1).
				WithHint("give another --out")
		}
		e.have[ep.ID] = rollout.Episode{ID: ep.ID, Task: ep.Task, StartState: ep.StartState, Seed: ep.Seed, Success: ep.Success, Terminated: ep.Terminated,
			Truncated: ep.Truncated, Steps: ep.Steps, Progress: ep.Progress}
		e.lines[ep.ID] = ep
		if _, err := os.Stat(filepath.Join(e.dir, filepath.FromSlash(VideoName(ep)))); err == nil {
			kind := e.kind(ep)
			e.clips[kind] = append(e.clips[kind], ep)
		}
	}
	for _, list := range e.clips {
		sort.Slice(list, func(a, b int) bool { return list[a].Index < list[b].Index })
	}
	if len(lines) > 0 {
		e.Terminal.Line("going on in %s: %d of %d episodes are there", e.Dir, len(lines), len(plan.Trials))
	}
	return nil
}

// trainedOn is the side of this very split that the checkpoint's run trained on; "" when it belongs to no run, or to one of other tasks or another split.
func (e *evaluation) trainedOn() string {
	run, ok := session.RunOf(e.cfg.Run.Checkpoint)
	if !ok {
		return ""
	}
	rec, err := store.Read(run)
	if err != nil || rec.Manifest == nil || rec.Manifest.StartStates == nil {
		return ""
	}
	s := rec.Manifest.StartStates
	trained := map[string]bool{}
	for _, id := range rec.Manifest.Tasks {
		trained[id] = true
	}
	for _, t := range e.sess.Tasks {
		if !trained[t.ID] {
			return ""
		}
	}
	if s.Used == "all" || rec.Manifest.Seed == e.cfg.Run.Seed && s.TrainFraction == e.cfg.Rollout.TrainFraction && (s.By == "" || s.By == e.sess.Split.By()) {
		return s.Used
	}
	return ""
}

// load gives the policy its weights, those of its later incarnations too.
func (e *evaluation) load(ctx context.Context) error {
	if e.weight == "" || e.sess.Published != "" {
		return e.sess.UseCurrentPolicy(ctx)
	}
	p, _, err := e.sess.Sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	if _, err := p.Load(ctx, e.weight); err != nil {
		return plugins.AsError(err).WithPlace("%s, checkpoint %s", e.cfg.Origin("run.checkpoint"), e.cfg.Run.Checkpoint)
	}
	return e.sess.UseWeights(ctx, e.weight)
}

// roll rolls what is not there yet. A policy whose process is lost comes back with the same weights, and with it the episodes that were in flight.
func (e *evaluation) roll(ctx context.Context, plan rollout.Evaluation, began time.Time) error {
	s := e.sess
	total, steps, successes := len(plan.Trials), int64(0), 0
	for _, ep := range e.have {
		steps += int64(ep.Steps)
		if ep.Success {
			successes++
		}
	}
	repeat := map[string]int{}
	for i, t := range plan.Trials {
		repeat[plan.ID(i)] = t.Repeat
	}
	from := " with its own weights"
	if e.weight != "" {
		from = " from " + e.cfg.Run.Checkpoint
	}
	e.Terminal.Line("%s: %s, %s on %s %s, %s, %d lanes · policy %s%s · ready in %.1f s", s.Sched.EnvName, report.Count(len(s.Tasks), "task"),
		report.Count(total, "episode"), e.States, e.sess.Split.Unit(), e.ident["actions"], s.Lanes, e.cfg.Run.Policy, from, time.Since(began).Seconds())

	rolling, stop := context.WithCancel(ctx)
	defer stop()
	plan.OnFrames = func(ep rollout.Episode) { // before its line, so that an episode that is there has its clip and its video
		if e.failed == nil && e.cfg.Run.KeepsClip(ep.Success) {
			e.failed = e.keepClip(ep)
		}
		if e.failed == nil && e.Videos > 0 {
			e.failed = e.film(e.line(ep, repeat[ep.ID]), ep.Frames)
		}
		if e.failed != nil {
			stop()
		}
	}
	plan.OnEpisode = func(ep rollout.Episode) {
		if e.failed == nil {
			line := e.line(ep, repeat[ep.ID])
			e.lines[ep.ID] = line
			e.failed = e.log.append(line)
		}
		if e.failed != nil {
			stop()
			return
		}
		if ep.Invalid != nil {
			e.Terminal.Warn("%v; the episode counts as a failure", ep.Invalid)
		}
		e.have[ep.ID] = ep
		steps += int64(ep.Steps)
		if ep.Success {
			successes++
		}
		e.Terminal.Update(report.Status{Phase: "eval", Done: len(e.have), Total: total, EnvSteps: steps, Successes: successes, Episodes: len(e.have)})
	}
	for len(e.have) < total {
		plan.Have = map[string]rollout.Episode{}
		for id, ep := range e.have {
			plan.Have[id] = ep
		}
		_, _, err := s.Sched.Evaluate(rolling, plan)
		switch {
		case e.failed != nil:
			return e.failed
		case errors.Is(err, rollout.ErrPolicyLost) && ctx.Err() == nil:
			e.Terminal.Warn("%v; it goes on with a new one", err)
			if err := s.UseCurrentPolicy(ctx); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	e.Terminal.Update(report.Status{Phase: "eval", Done: total, Total: total, EnvSteps: steps, Successes: successes, Episodes: total})
	return e.log.sync()
}

// line is what episodes.jsonl says of an episode.
func (e *evaluation) line(ep rollout.Episode, repeat int) Episode {
	return Episode{ID: ep.ID, Index: e.index[ep.ID], Task: ep.Task, StartState: ep.StartState, Repeat: repeat, Seed: ep.Seed, Side: e.side[ep.ID], Success: ep.Success,
		Terminated: ep.Terminated, Truncated: ep.Truncated, Steps: ep.Steps, Progress: ep.Progress}
}

func (e *evaluation) kind(line Episode) string {
	return GroupOf(e.byTask[line.Task]) + "\x00" + line.Outcome()
}

// film saves an episode's video if it is among the first of its kind in the order of trials, in the place of a later one. So the videos that are there in the
// end do not depend on the order in which episodes end.
func (e *evaluation) film(line Episode, frames plugins.Tensor) error {
	kind := e.kind(line)
	clips := e.clips[kind]
	if frames.IsZero() || len(clips) >= e.Videos && line.Index > clips[len(clips)-1].Index {
		return nil
	}
	var gif bytes.Buffer
	if err := media.EncodeGIF(&gif, frames, media.GIF{}); err != nil {
		return plugins.AsError(err).WithPlace("episode %s", line.ID)
	}
	if err := os.MkdirAll(filepath.Join(e.dir, VideosDir), 0o755); err != nil {
		return store.DiskError("make", e.dir, err)
	}
	if err := e.write(VideoName(line), gif.Bytes()); err != nil {
		return err
	}
	at := sort.Search(len(clips), func(i int) bool { return clips[i].Index > line.Index })
	clips = slices.Insert(clips, at, line)
	for len(clips) > e.Videos {
		path := filepath.Join(e.dir, filepath.FromSlash(VideoName(clips[len(clips)-1])))
		if err := os.Remove(path); err != nil {
			return store.DiskError("remove", path, err)
		}
		clips = clips[:len(clips)-1]
	}
	e.clips[kind] = clips
	return nil
}

// finish writes results.json and report.html.
func (e *evaluation) finish(plan rollout.Evaluation, seconds float64) (*Results, error) {
	episodes := make([]Episode, 0, len(plan.Trials))
	for i := range plan.Trials {
		episodes = append(episodes, e.lines[plan.ID(i)])
	}
	videos := map[string]string{}
	for _, list := range e.clips {
		for _, ep := range list {
			videos[ep.ID] = VideoName(ep)
		}
	}
	r := Summarize(e.record, e.tasks, episodes, videos)
	r.Dir, r.Seconds, r.Rolled = e.dir, seconds, e.log.added
	return r, writeResults(e.dir, e.record, r)
}

// writeResults writes results.json and report.html into an evaluation's folder.
func writeResults(dir string, rec Record, r *Results) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%s: %w", ResultsFile, err)
	}
	if err := store.WriteFile(dir, ResultsFile, append(data, '\n')); err != nil {
		return err
	}
	page := r.Page(filepath.Base(dir), rec, func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, filepath.FromSlash(name))) })
	page.Now = time.Now()
	var html bytes.Buffer
	if err := page.Write(&html); err != nil {
		return err
	}
	return store.WriteFile(dir, ReportFile, html.Bytes())
}

// ended says how far an evaluation came that did not end.
func (e *evaluation) ended(ctx context.Context, err error, total int) error {
	if ctx.Err() == nil {
		return err
	}
	if e.log != nil {
		_ = e.log.sync()
	}
	if total == 0 {
		return plugins.Errorf(plugins.Canceled, "stopped before the first episode").WithHint("the same command starts again")
	}
	return plugins.Errorf(plugins.Canceled, "stopped after %d of %d episodes, which are kept in %s", len(e.have), total, e.Dir).WithHint("the same command with --out %s goes on", e.Dir)
}

func (e *evaluation) onPlugin(ev supervise.Event) {
	switch ev.What {
	case "died", "replaced", "gave up":
		e.Terminal.Warn("%s %s: %s", ev.Plugin, ev.What, ev.Cause)
	case "restarting":
		e.Terminal.Line("%s is restarted in %.1f s", ev.Plugin, ev.Seconds)
	}
}

// keepClip writes an evaluated episode's clip.
func (e *evaluation) keepClip(ep rollout.Episode) error {
	if err := os.MkdirAll(filepath.Join(e.dir, attempts.ClipsDir), 0o755); err != nil {
		return store.DiskError("make", e.dir, err)
	}
	label := attempts.Label{ID: ep.ID, Task: ep.Task, Success: ep.Success, Progress: ep.Progress, Steps: ep.Steps, RecordEvery: e.cfg.Rollout.RecordEvery}
	return attempts.SaveClip(store.FileName(ep.ID), ep.Frames, label, func(folder, name string, data []byte) error {
		return e.write(folder+"/"+name, data)
	})
}
