// Package record rolls out episodes and writes them as clips with labels, and as trajectories. The actors are a
// policy, the env's expert, and random actions.
package record

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// Options configure [Run].
type Options struct {
	// Config names env, tasks, their settings, seed, rollout.start_states, rollout.record_every and
	// rollout.max_steps.
	Config   *config.Config
	Launch   session.Launcher
	Terminal *report.Terminal
	Version  string
	// Dir is the folder of clips/*.npz and labels.jsonl.
	Dir string
	// Actors act in turn: expert, noise:SIGMA, fail:WAY, fail:WAY+noise:SIGMA, random, and policy or
	// policy:greedy, for which Config names the policy and its checkpoint.
	Actors []string
	// Episodes is the number of episodes per actor, spread over tasks and start states.
	Episodes int
	// Trajectories also keeps the frames of every camera before each action, proprio and actions, to learn from or to
	// export.
	Trajectories bool
}

// Result is the result of a recording.
type Result struct {
	Dir      string  `json:"dir"`
	Episodes int     `json:"episodes"`
	Rolled   int     `json:"rolled"`
	Seconds  float64 `json:"seconds"`
	// ByActor is in the order of Options.Actors.
	ByActor []ActorResult `json:"by_actor"`
}

// ActorResult counts an actor's episodes.
type ActorResult struct {
	Actor     string `json:"actor"`
	Episodes  int    `json:"episodes"`
	Successes int    `json:"successes"`
}

// recording is one call of [Run].
type recording struct {
	Options
	folder
	began   time.Time
	actors  []rollout.Actor
	weights string   // the policy's folder; empty: the policy has its own weights
	cameras []string // of the trajectories; nil: none are kept
	session *session.Session
	result  Result
	total   int   // episodes in the end
	steps   int64 // rolled out
}

// Run rolls out episodes and writes their frames as clips with labels, the form that `srpo reward` and the
// training of a world model read. If it is stopped, it continues when it is called again. A folder with another
// recording is refused.
func Run(ctx context.Context, o Options) (_ *Result, err error) {
	r := &recording{Options: o, began: time.Now(), result: Result{Dir: o.Dir}}
	if err := r.parseActors(); err != nil {
		return nil, err
	}
	if r.dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", o.Dir)
	}
	needs := session.Needs{Policy: r.policyActs()}
	if err := needs.Check(o.Config, o.Launch); err != nil {
		return nil, err
	}
	_, missing := os.Stat(r.dir)
	if err := r.open(); err != nil {
		return nil, err
	}
	defer func() {
		_ = r.labels.Close()
		unused := errors.Is(missing, fs.ErrNotExist) && len(r.recorded) == 0 && r.result.Rolled == 0
		if unused && ctx.Err() == nil && session.IsUserError(err, r.dir) {
			_ = os.RemoveAll(r.dir)
		}
	}()
	onPlugin := warnAboutPlugins(o.Terminal)
	r.session, err = session.Open(ctx, o.Config, o.Launch, needs, filepath.Join(r.dir, "plugins"), onPlugin)
	if err != nil {
		return nil, err
	}
	defer r.session.Close()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	if err := r.rollOut(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, plugins.Errorf(plugins.Canceled, "stopped after %d of %d episodes, which are kept in %s",
				r.result.Episodes, r.total, o.Dir).WithHint("the same command continues")
		}
		return nil, err
	}
	r.result.Seconds = time.Since(r.began).Seconds()
	return &r.result, nil
}

// warnAboutPlugins warns when a plugin's process is lost.
func warnAboutPlugins(term *report.Terminal) func(supervise.Event) {
	return func(e supervise.Event) {
		if e.What == "died" || e.What == "replaced" {
			term.Warn("%s %s: %s", e.Plugin, e.What, e.Cause)
		}
	}
}

func (r *recording) parseActors() error {
	for _, text := range r.Actors {
		a, err := rollout.ParseActor(text)
		if err != nil {
			return plugins.AsError(err).WithPlace("--actor")
		}
		if slices.Contains(r.actors, a) {
			return plugins.Errorf(plugins.Invalid, "%s is given twice", a).WithPlace("--actor").
				WithHint("raise --episodes instead")
		}
		r.actors = append(r.actors, a)
		r.result.ByActor = append(r.result.ByActor, ActorResult{Actor: a.String()})
	}
	if len(r.actors) == 0 || r.Episodes < 1 {
		return plugins.Errorf(plugins.Invalid, "%d actors, %d episodes", len(r.actors), r.Episodes).
			WithPlace("--actor, --episodes").WithHint("for example --actor expert --episodes 100")
	}
	return nil
}

// policyActs reports whether one of the actors is the policy.
func (r *recording) policyActs() bool {
	return slices.ContainsFunc(r.actors, func(a rollout.Actor) bool { return a.Policy })
}

// prepare loads the policy, and writes what the numbers of the trajectories mean.
func (r *recording) prepare(ctx context.Context) error {
	s := r.session
	if r.policyActs() {
		if err := s.LoadWeights(ctx, r.weights); err != nil {
			return err
		}
	}
	if !r.Trajectories {
		return nil
	}
	for _, c := range s.Sched.EnvSpec.Cameras {
		r.cameras = append(r.cameras, c.Name)
	}
	return r.saveSpace(s.Space(r.cameras), r.Config.Rollout.RecordEvery)
}

// saveSpace writes what the numbers of the trajectories mean.
func (f *folder) saveSpace(space dataset.Space, every int) error {
	text, err := dataset.EncodeSpace(space, every)
	if err != nil {
		return err
	}
	return f.save(dataset.Dir, dataset.SpaceFile, text)
}

// rollOut records the episodes that the folder does not contain.
func (r *recording) rollOut(ctx context.Context) error {
	c := r.Config
	side := c.Rollout.StartStates
	if _, err := r.session.TasksOn(side); err != nil {
		return err
	}
	plan := rollout.RecordPlan{Observe: r.cameras, Seed: c.Run.Seed, Every: c.Rollout.RecordEvery,
		MaxSteps: c.Rollout.MaxSteps}
	ofPolicy := make([][]rollout.Trial, len(r.actors))
	for _, trial := range r.session.Trials(side, r.Episodes) {
		for i, a := range r.actors {
			take := rollout.Take{Trial: trial, Actor: a}
			r.total++
			if label, ok := r.recorded[take.ID()]; ok {
				r.count(a, label.Success)
			} else if a.Policy {
				ofPolicy[i] = append(ofPolicy[i], trial)
			} else {
				plan.Takes = append(plan.Takes, take)
			}
		}
	}
	if n := r.result.Episodes; n > 0 {
		r.Terminal.Line("continuing in %s: %d of %d episodes are done", r.Dir, n, r.total)
	}
	if err := r.session.Sched.Record(ctx, plan, r.keep); err != nil {
		return err
	}
	for i, trials := range ofPolicy {
		if len(trials) > 0 {
			if err := r.recordPolicy(ctx, r.actors[i], trials); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordPolicy records episodes of the policy.
func (r *recording) recordPolicy(ctx context.Context, a rollout.Actor, trials []rollout.Trial) error {
	e := rollout.Evaluation{Rules: r.session.Rules(false, true), Name: a.String(), Seed: r.Config.Run.Seed,
		Trials: trials}
	e.Greedy, e.KeepTrajectory, e.AlsoObserve = a.Greedy, r.Trajectories, r.cameras
	takes := map[string]rollout.Take{}
	for _, t := range trials {
		take := rollout.Take{Trial: t, Actor: a}
		takes[take.ID()] = take
	}
	keep := func(ep rollout.Episode) error { return r.keep(takes[ep.ID], ep) }
	warn := func(err error) { r.Terminal.Warn("%v; continuing with a new one", err) }
	return r.session.EvaluateAll(ctx, e, keep, nil, warn)
}

// keep writes an episode and counts it.
func (r *recording) keep(t rollout.Take, e rollout.Episode) error {
	r.result.Rolled++
	if err := r.saveEpisode(t, e, r.Config.Rollout.RecordEvery); err != nil {
		return err
	}
	r.steps += int64(e.Steps)
	r.count(t.Actor, e.Success)
	successes := 0
	for _, a := range r.result.ByActor {
		successes += a.Successes
	}
	r.Terminal.Update(report.Status{Phase: "record", Done: r.result.Episodes, Total: r.total, EnvSteps: r.steps,
		Successes: successes, Episodes: r.result.Episodes})
	return nil
}

func (r *recording) count(a rollout.Actor, success bool) {
	r.result.Episodes++
	by := &r.result.ByActor[slices.Index(r.actors, a)]
	by.Episodes++
	if success {
		by.Successes++
	}
}
