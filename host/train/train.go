// Package train runs the SRPO loop over plugins. It contains nothing heavy: no simulator, no model, no CUDA
// context.
//
// [Run] starts the plugins and makes the starting policy. Each iteration then rolls out groups of episodes,
// embeds them, rewards them by their distance to the policy's own successes, turns rewards into advantages,
// updates the policy, and commits.
package train

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Options configure [Run].
type Options struct {
	Config *config.Config
	Launch session.Launcher
	// Terminal shows progress.
	Terminal *report.Terminal
	// Version of srpo and Command line, for the manifest.
	Version string
	Command []string
	// Resume is a run folder to continue. Config must then be the configuration of that folder.
	Resume string
	// ImitateOnly ends the run after the starting policy is committed.
	ImitateOnly bool
	// Cache is the folder of the cache of embeddings of recorded episodes; empty: a temporary one.
	Cache string
	// Reader reads LeRobot data sets; nil: they are refused.
	Reader *dataset.Reader
}

// Summary is the result of a run.
type Summary struct {
	Dir     string          `json:"dir"`
	Metrics []store.Metrics `json:"metrics"`
	// Checkpoint is the policy folder of the last commit.
	Checkpoint string `json:"checkpoint"`
}

// run is one call of [Run].
type run struct {
	Options
	cfg     *config.Config
	folder  *store.Run
	session *session.Session
	state   *state
	tb      *report.TensorBoard
	last    *store.Checkpoint // the last commit
	metrics []store.Metrics
	sparse  bool // the reward reads no embeddings
	// tasks are the tasks with start states on the side of the split that is trained on. weights are theirs;
	// nil: groups get the tasks in turn.
	tasks   []env.Task
	weights map[string]float64
	status  report.Status
	// excluded is the group that the update of an iteration leaves out.
	excluded excludedGroup
	// began is set when the run has made something worth keeping: a trained policy or an episode.
	began bool
}

// Run trains a policy. However it ends, the run folder contains the last committed iteration, and Options.Resume
// continues from there.
func Run(ctx context.Context, o Options) (sum Summary, err error) {
	r := &run{Options: o, cfg: o.Config, sparse: !srpo.RewardKind(o.Config.Reward.Kind).Embeds()}
	needs := session.Needs{Policy: true, Encoder: r.encodes()}
	if err := needs.Check(r.cfg, o.Launch); err != nil {
		return sum, err
	}
	if r.cfg.Run.Checkpoint != "" && r.Resume == "" { // a resumed run has checkpoints of its own
		if err := session.RequireCheckpoint(r.cfg); err != nil {
			return sum, err
		}
	}
	if err := r.openFolder(); err != nil {
		return sum, err
	}
	sum.Dir = r.folder.Dir()
	defer func() {
		err = r.end(ctx, err)
		r.discardUnused(ctx, err)
		if err == nil || r.last != nil {
			sum.Metrics = r.metrics
			if r.last != nil {
				sum.Checkpoint = r.last.PolicyDir()
			}
		}
	}()
	defer func() {
		if r.session != nil {
			r.session.Close()
		}
	}()
	if err := r.openSession(ctx, needs); err != nil {
		return sum, err
	}
	if err := r.loadPolicy(ctx); err != nil {
		return sum, err
	}
	if o.ImitateOnly {
		return sum, nil
	}
	if err := r.evaluateStart(ctx); err != nil {
		return sum, err
	}
	if r.offline() {
		return sum, r.learnOffline(ctx)
	}
	return sum, r.iterate(ctx)
}

// openSession starts the plugins, completes the manifest and chooses the tasks.
func (r *run) openSession(ctx context.Context, needs session.Needs) (err error) {
	started := time.Now()
	r.status = report.Status{Iterations: r.cfg.Run.Iterations, Phase: "start plugins"}
	r.Terminal.Update(r.status)
	logs := filepath.Join(r.folder.Dir(), "plugins")
	if r.session, err = session.Open(ctx, r.cfg, r.Launch, needs, logs, r.onPlugin); err != nil {
		return err
	}
	s := r.session
	if !s.Sched.PolicySpec.Trainable && !r.ImitateOnly && !r.offline() {
		return plugins.Errorf(plugins.Unsupported, "the policy cannot be trained").
			WithPlace("%s", s.Sched.PolicyName).
			WithHint("measure it with srpo eval, or train another one: --policy NAME")
	}
	s.Sched.OnFault = r.onFault
	if err := r.completeManifest(); err != nil {
		return err
	}
	for _, warning := range s.UnavailableWarnings() {
		r.Terminal.Warn("%s", warning)
	}
	if r.tasks, err = s.TasksOn(r.cfg.Rollout.StartStates); err != nil {
		return err
	}
	if r.weights, err = s.TaskWeights(r.tasks); err != nil {
		return err
	}
	r.Terminal.Line("%s: %s, %d lanes · policy %s (%s parameters) · reward %s%s · ready in %.1f s", s.Sched.EnvName,
		report.Count(len(s.Tasks), "task"), s.Lanes, r.cfg.Run.Policy,
		report.Thousands(s.Sched.PolicySpec.Parameters), r.cfg.Reward.Kind, r.encoderNote(),
		time.Since(started).Seconds())
	return nil
}

// encoderNote describes what the reward reads.
func (r *run) encoderNote() string {
	switch srpo.RewardKind(r.cfg.Reward.Kind) {
	case srpo.Binary:
		return " (0 or 1, no encoder)"
	case srpo.Progress:
		return " (the env's own, no encoder)"
	}
	if r.session.Sched.Encoder == nil { // imitation only
		return ", encoder " + r.cfg.Run.Encoder
	}
	return fmt.Sprintf(", encoder %s (%d numbers)", r.cfg.Run.Encoder, r.session.Sched.EncoderSpec.Dimension)
}

// loadPolicy makes the starting policy of a new run, or loads the last commit of a resumed one.
func (r *run) loadPolicy(ctx context.Context) error {
	if r.last == nil {
		return r.startingPolicy(ctx)
	}
	if err := r.session.UseWeights(ctx, r.last.PolicyDir()); err != nil {
		return err
	}
	return r.reload(ctx)
}

// evaluateStart evaluates the starting policy once it is committed. A run that resumes from iteration 0 repeats it,
// because resuming cut off the earlier result.
func (r *run) evaluateStart(ctx context.Context) error {
	if r.last.Iteration > 0 || r.cfg.Run.EvalEvery == 0 {
		return nil
	}
	r.began = true
	return r.withRecovery(ctx, 0, func() error {
		return r.evaluate(ctx, &store.Metrics{Extra: map[string]float64{}, SecondsByPhase: map[string]float64{}})
	})
}

// iterate runs the iterations that are left.
func (r *run) iterate(ctx context.Context) error {
	total := r.cfg.Run.Iterations
	if r.Resume != "" && r.last.Iteration >= total {
		r.Terminal.Line("all %d iterations are done; for more: srpo run --resume %s --iterations %d", total,
			r.folder.Dir(), r.last.Iteration+total)
	}
	for i := r.last.Iteration + 1; i <= total; i++ {
		if r.solved() {
			msg := fmt.Sprintf(
				"solved: in %s in a row every group succeeded above keep_high (%g); %d more would not "+
					"change the policy",
				report.Count(r.state.Solved, "iteration"),
				r.cfg.Rollout.KeepHigh,
				total-i+1,
			)
			r.event(store.Event{Type: store.Solved, Iteration: i - 1, Message: msg})
			r.Terminal.Line("%s (run.solved_after = 0 continues)", msg)
			break
		}
		if err := r.withRecovery(ctx, i, func() error { return r.iteration(ctx, i) }); err != nil {
			return err
		}
	}
	return nil
}

// solved reports whether the last run.solved_after iterations left nothing to learn.
func (r *run) solved() bool {
	n := r.cfg.Run.SolvedAfter
	return n > 0 && r.state.Solved >= n
}
