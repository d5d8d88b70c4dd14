// Package evaluate measures a policy: it rolls out the trials of an evaluation, sums the episodes up by suite,
// dimension, level and task, joins the shards of one evaluation, and compares two evaluations of the same
// episodes.
//
// [Run] starts plugins. Everything else reads the folders that it wrote.
package evaluate

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// Options configure [Run].
type Options struct {
	// Config names the env, the policy, the tasks, their settings, the seed of the split, and in Run.Checkpoint
	// what to evaluate. Run.Out is not read. Run.KeepClips keeps frames for srpo reward.
	Config *config.Config
	Launch session.Launcher
	// Terminal shows progress.
	Terminal *report.Terminal
	// Version of srpo and Command line, for the record.
	Version string
	Command []string
	// Dir is the evaluation's folder; empty: [DefaultDir].
	Dir string
	// States is the side of the split: "all", "train" or "test". The split is that of a run with the same seed,
	// train_fraction and split.
	States string
	// Episodes is the number of episodes, spread over tasks and start states; 0: each start state of each task once.
	Episodes int
	// Sample draws actions at rollout.temperature. Otherwise the policy is greedy.
	Sample bool
	// Videos is how many episodes of each kind of outcome, the first ones in the order of trials, are saved as GIFs.
	Videos int
	// With Shards > 0 only every Shards-th trial is rolled out, beginning with trial Shard, counted from 1.
	Shard, Shards int
}

// check returns mistakes in the options, and sets the default side.
func (o *Options) check() error {
	switch {
	case o.States == "":
		o.States = "all"
	case o.States != "all" && o.States != "train" && o.States != "test":
		return plugins.Errorf(plugins.Invalid, "there is no side %q of the start states", o.States).
			WithPlace("--states").
			WithHint("use all, train or test")
	}
	if o.Episodes < 0 || o.Videos < 0 {
		return plugins.Errorf(plugins.Invalid, "a count of %d", min(o.Episodes, o.Videos)).
			WithPlace("--episodes or --videos").WithHint("use 0 or more")
	}
	if o.Shards < 0 || o.Shards > 0 && (o.Shard < 1 || o.Shard > o.Shards) {
		return plugins.Errorf(plugins.Invalid, "there is no shard %d of %d", o.Shard, o.Shards).WithPlace("--shard").
			WithHint("use I/N, from 1/N to N/N")
	}
	return nil
}

// evaluation is one call of [Run].
type evaluation struct {
	Options
	cfg     *config.Config
	dir     string
	isNew   bool   // the folder did not exist before
	weights string // the policy's folder; empty: the policy has its own weights
	folder  folder
	session *session.Session
	plan    rollout.Evaluation

	identity map[string]string
	record   Record
	tasks    []Task
	// By the id of a trial: its place among the trials of all shards, its side of the split and its repeat.
	index  map[string]int
	side   map[string]string
	repeat map[string]int

	have   map[string]rollout.Episode
	lines  map[string]Episode // of episodes.jsonl, by id
	videos *videos
}

// Run rolls out every trial once with the policy of a checkpoint, which learns nothing from it. If it is
// stopped, it continues when it is called again with the same folder. A folder with an evaluation of something
// else is refused and left unchanged.
func Run(ctx context.Context, o Options) (_ *Results, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	needs := session.Needs{Policy: true}
	if err := needs.Check(o.Config, o.Launch); err != nil {
		return nil, err
	}
	e := &evaluation{Options: o, cfg: o.Config, have: map[string]rollout.Episode{}, lines: map[string]Episode{}}
	if err := e.open(); err != nil {
		return nil, err
	}
	defer func() {
		e.folder.close()
		if e.isNew && len(e.lines) == 0 && ctx.Err() == nil && session.IsUserError(err, e.dir) {
			_ = os.RemoveAll(e.dir)
		}
	}()

	began := time.Now()
	e.session, err = session.Open(ctx, e.cfg, o.Launch, needs, filepath.Join(e.dir, "plugins"), e.onPlugin)
	if err != nil {
		return nil, e.explain(ctx, err)
	}
	defer e.session.Close()
	if err := e.checkPolicy(); err != nil {
		return nil, err
	}
	for _, warning := range e.session.UnavailableWarnings() {
		e.Terminal.Warn("%s", warning)
	}
	if err := e.planTrials(); err != nil {
		return nil, err
	}
	if err := e.claim(); err != nil {
		return nil, err
	}
	if err := e.session.LoadWeights(ctx, e.weights); err != nil {
		return nil, e.explain(ctx, err)
	}
	e.announce(time.Since(began))
	if err := e.rollOut(ctx); err != nil {
		return nil, e.explain(ctx, err)
	}
	return e.finish(time.Since(began))
}

// checkPolicy refuses a policy that must be trained and has no weights.
func (e *evaluation) checkPolicy() error {
	if e.weights != "" || !e.session.Sched.PolicySpec.Trainable || e.cfg.Imitate.Demos == 0 {
		return nil
	}
	return plugins.Errorf(plugins.Invalid, "no policy to evaluate").
		WithHint("--checkpoint FOLDER: a run folder, one of its checkpoints, or a policy's own folder; --set " +
			"imitate.demos=0: the weights that the policy's settings name")
}

// planTrials lists the trials of this shard, and numbers those of the whole evaluation.
func (e *evaluation) planTrials() error {
	s := e.session
	if _, err := s.TasksOn(e.States); err != nil {
		return err
	}
	keepsClips := e.cfg.Run.KeepClips != "none"
	e.plan = rollout.Evaluation{Rules: s.Rules(false, e.Videos > 0 || keepsClips), Name: "eval", Seed: e.cfg.Run.Seed,
		Trials: s.Trials(e.States, e.Episodes)}
	e.plan.Greedy = !e.Sample
	if chunk := s.Sched.PolicySpec.Chunk; e.plan.RecordCamera != "" && chunk > 0 && !keepsClips {
		e.plan.RecordEvery = chunk // the frames that the policy sees, so that videos need no extra frames
	}
	e.index, e.side, e.repeat = map[string]int{}, map[string]string{}, map[string]int{}
	for i, t := range e.plan.Trials {
		id := e.plan.ID(i)
		e.index[id], e.side[id], e.repeat[id] = i, s.Split.SideOf(t.Task, t.StartState), t.Repeat
	}
	byTask := map[string]Task{}
	for _, t := range s.Tasks {
		task := Task{ID: t.ID, Suite: t.Suite, Instruction: t.Instruction, Tags: t.Tags}
		e.tasks, byTask[t.ID] = append(e.tasks, task), task
	}
	e.videos = &videos{dir: e.dir, max: e.Videos, byTask: byTask, byKind: map[string][]Episode{}}
	all := len(e.plan.Trials)
	if e.plan.Trials = e.shard(e.plan.Trials); len(e.plan.Trials) == 0 {
		return plugins.Errorf(plugins.Invalid,
			"nothing is left for shard %d of %d: there are %d episodes", e.Shard, e.Shards, all).
			WithPlace("--shard").
			WithHint("use fewer shards")
	}
	e.record.Trials, e.record.Mine = all, len(e.plan.Trials)
	return nil
}

// shard returns the trials of this shard. Trials alternate between the tasks, so that each shard gets a fair
// share of all.
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

// announce shows what is about to be rolled out.
func (e *evaluation) announce(took time.Duration) {
	s, from := e.session, " with its own weights"
	if e.weights != "" {
		from = " from " + e.cfg.Run.Checkpoint
	}
	e.Terminal.Line("%s: %s, %s on %s %s, %s, %d lanes · policy %s%s · ready in %.1f s", s.Sched.EnvName,
		report.Count(len(s.Tasks), "task"), report.Count(len(e.plan.Trials), "episode"), e.States, s.Split.Unit(),
		e.identity["actions"], s.Lanes, e.cfg.Run.Policy, from, took.Seconds())
}

// rollOut rolls out the episodes that the folder does not contain.
func (e *evaluation) rollOut(ctx context.Context) error {
	total, steps, successes := len(e.plan.Trials), int64(0), 0
	count := func(ep rollout.Episode) {
		steps += int64(ep.Steps)
		if ep.Success {
			successes++
		}
	}
	for _, ep := range e.have {
		count(ep)
	}
	show := func() {
		e.Terminal.Update(report.Status{Phase: "eval", Done: len(e.have), Total: total, EnvSteps: steps,
			Successes: successes, Episodes: len(e.have)})
	}
	// Clips and videos come before the line of the episode, so that an episode with a line has both.
	onFrames := func(ep rollout.Episode) error {
		if e.cfg.Run.KeepsClip(ep.Success) {
			if err := e.saveClip(ep); err != nil {
				return err
			}
		}
		if e.Videos > 0 {
			return e.videos.add(e.line(ep), ep.Frames)
		}
		return nil
	}
	onEpisode := func(ep rollout.Episode) error {
		line := e.line(ep)
		e.lines[ep.ID] = line
		if err := e.folder.log.append(line); err != nil {
			return err
		}
		if ep.Invalid != nil {
			e.Terminal.Warn("%v; the episode counts as a failure", ep.Invalid)
		}
		e.have[ep.ID] = ep
		count(ep)
		show()
		return nil
	}
	warn := func(err error) { e.Terminal.Warn("%v; continuing with a new one", err) }
	e.plan.Have = e.have
	if err := e.session.EvaluateAll(ctx, e.plan, onFrames, onEpisode, warn); err != nil {
		return err
	}
	show()
	return e.folder.log.sync()
}

// line returns the line of episodes.jsonl of an episode.
func (e *evaluation) line(ep rollout.Episode) Episode {
	return Episode{ID: ep.ID, Index: e.index[ep.ID], Task: ep.Task, StartState: ep.StartState,
		Repeat: e.repeat[ep.ID], Seed: ep.Seed, Side: e.side[ep.ID], Success: ep.Success, Terminated: ep.Terminated,
		Truncated: ep.Truncated, Steps: ep.Steps, Progress: ep.Progress}
}

// finish writes results.json and report.html.
func (e *evaluation) finish(took time.Duration) (*Results, error) {
	episodes := make([]Episode, 0, len(e.plan.Trials))
	for i := range e.plan.Trials {
		episodes = append(episodes, e.lines[e.plan.ID(i)])
	}
	r := Summarize(e.record, e.tasks, episodes, e.videos.names())
	r.Dir, r.Seconds, r.Rolled = e.dir, took.Seconds(), e.folder.log.added
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
	read := func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, filepath.FromSlash(name))) }
	page := r.Page(filepath.Base(dir), rec, read)
	page.Now = time.Now()
	var html bytes.Buffer
	if err := page.Write(&html); err != nil {
		return err
	}
	return store.WriteFile(dir, ReportFile, html.Bytes())
}

// explain replaces the error of a stopped evaluation by one that tells how to continue.
func (e *evaluation) explain(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if e.folder.log == nil {
		return plugins.Errorf(plugins.Canceled, "stopped before the first episode").
			WithHint("the same command starts again")
	}
	_ = e.folder.log.sync()
	return plugins.Errorf(plugins.Canceled, "stopped after %d of %d episodes, which are kept in %s", len(e.have),
		len(e.plan.Trials), e.Dir).WithHint("the same command with --out %s continues", e.Dir)
}

func (e *evaluation) onPlugin(ev supervise.Event) {
	switch ev.What {
	case "died", "replaced", "gave up":
		e.Terminal.Warn("%s %s: %s", ev.Plugin, ev.What, ev.Cause)
	case "restarting":
		e.Terminal.Line("%s is restarted in %.1f s", ev.Plugin, ev.Seconds)
	}
}
