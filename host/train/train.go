// Package train runs the SRPO loop over plugins. It contains nothing heavy: no simulator, no model, no CUDA context.
//
// [Run] starts the plugins and makes the starting policy. Each iteration then rolls out groups of episodes, embeds them,
// rewards them by their distance to the policy's own successes, turns rewards into advantages, updates the policy, and
// commits.
package train

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/internal/fault"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Options say how [Run] is to be run, beside the configuration.
type Options struct {
	Config *config.Config
	Launch session.Launcher
	// Terminal shows progress.
	Terminal *report.Terminal
	// Version of srpo and Command line, for the manifest.
	Version string
	Command []string
	// Resume is a run folder to go on with; its own configuration counts, and Config must be what it resolves to.
	Resume string
	// ImitateOnly ends after the starting policy is committed.
	ImitateOnly bool
	// Cache is the folder of embeddings of recorded episodes; empty: nothing is remembered. Reader reads LeRobot data sets; nil: they are refused.
	Cache  string
	Reader *dataset.Reader
}

// Summary is what a run came to.
type Summary struct {
	Dir     string          `json:"dir"`
	Metrics []store.Metrics `json:"metrics"`
	// Checkpoint is the policy folder of the last commit.
	Checkpoint string `json:"checkpoint"`
}

// run is one call of Run.
type run struct {
	Options
	cfg     *config.Config
	folder  *store.Run
	session *session.Session
	state   *state
	tb      *report.TensorBoard
	last    *store.Checkpoint
	metrics []store.Metrics
	sparse  bool // the reward reads no embeddings
	// tasks are those with start states on the side that is trained on; weights are theirs, nil: they are taken in turn.
	tasks   []env.Task
	weights map[string]float64
	status  report.Status
	leftOut leftOut
	// began says that something was made that a person may want to look at: a policy was trained, or an episode rolled.
	began bool
}

// Run trains a policy. Whatever ends it, the run folder holds the last committed iteration, from which Options.Resume goes on.
func Run(ctx context.Context, o Options) (sum Summary, err error) {
	r := &run{Options: o, cfg: o.Config, sparse: !srpo.RewardKind(o.Config.Reward.Kind).Embeds()}
	needs := session.Needs{Policy: true, Encoder: r.encodes()}
	if err := needs.Check(r.cfg, o.Launch); err != nil {
		return sum, err
	}
	if r.cfg.Run.Checkpoint != "" && r.Resume == "" { // a run that goes on has its own
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
		r.forget(ctx, err)
		if err == nil || r.last != nil {
			sum.Metrics = r.metrics
			if r.last != nil {
				sum.Checkpoint = r.last.PolicyDir()
			}
		}
	}()

	started := time.Now()
	r.status = report.Status{Iterations: r.cfg.Run.Iterations, Phase: "start plugins"}
	r.Terminal.Update(r.status)
	r.session, err = session.Open(ctx, r.cfg, o.Launch, needs, filepath.Join(r.folder.Dir(), "plugins"), r.onPlugin)
	if err != nil {
		return sum, err
	}
	defer r.session.Close()
	if !r.session.Sched.PolicySpec.Trainable && !o.ImitateOnly && !r.offline() {
		return sum, plugins.Errorf(plugins.Unsupported, "the policy cannot be trained").WithPlace("%s", r.session.Sched.PolicyName).
			WithHint("srpo eval measures it; train another one: --policy NAME")
	}
	r.session.Sched.OnFault = r.onFault
	if err := r.record(); err != nil {
		return sum, err
	}
	s := r.session
	for _, words := range s.UnavailableWarnings() {
		r.Terminal.Warn("%s", words)
	}
	if r.tasks, err = s.TasksOn(r.cfg.Rollout.StartStates); err != nil {
		return sum, err
	}
	if r.weights, err = s.TaskWeights(r.tasks); err != nil {
		return sum, err
	}
	r.Terminal.Line("%s: %s, %d lanes · policy %s (%s parameters) · reward %s%s · ready in %.1f s", s.Sched.EnvName, report.Count(len(s.Tasks), "task"), s.Lanes,
		r.cfg.Run.Policy, report.Thousands(s.Sched.PolicySpec.Parameters), r.cfg.Reward.Kind, r.encoderWords(), time.Since(started).Seconds())

	if r.last == nil {
		if err := r.startingPolicy(ctx); err != nil {
			return sum, err
		}
	} else if err := s.UseWeights(ctx, r.last.PolicyDir()); err != nil {
		return sum, err
	} else if err := r.reload(ctx); err != nil {
		return sum, err
	}
	if o.ImitateOnly {
		return sum, nil
	}
	if r.last.Iteration == 0 && r.cfg.Run.EvalEvery > 0 { // once the starting policy cannot be lost any more; a run that goes on from there has cut this off
		r.began = true
		if err := r.persist(ctx, 0, func() error {
			return r.evaluate(ctx, 0, &store.Metrics{Extra: map[string]float64{}}, map[string]float64{})
		}); err != nil {
			return sum, err
		}
	}
	if r.offline() {
		return sum, r.learnOffline(ctx)
	}
	if r.Resume != "" && r.last.Iteration >= r.cfg.Run.Iterations {
		r.Terminal.Line("all %d iterations are done; more: srpo run --resume %s --iterations %d", r.cfg.Run.Iterations, r.folder.Dir(), r.last.Iteration+r.cfg.Run.Iterations)
	}
	for i := r.last.Iteration + 1; i <= r.cfg.Run.Iterations; i++ {
		if r.solved() {
			msg := fmt.Sprintf("solved: in %s in a row every group succeeded above keep_high (%g); %d more would not change the policy",
				report.Count(r.state.Solved, "iteration"), r.cfg.Rollout.KeepHigh, r.cfg.Run.Iterations-i+1)
			r.event(store.Event{Type: store.Solved, Iteration: i - 1, Message: msg})
			r.Terminal.Line("%s (run.solved_after = 0 goes on)", msg)
			break
		}
		if err := r.persist(ctx, i, func() error { return r.iteration(ctx, i) }); err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// persist does an iteration's work until it is done or cannot be. Where the policy is lost, so is everything that it recorded: from the last commit on, the same seeds
// give the same episodes.
func (r *run) persist(ctx context.Context, i int, work func() error) error {
	for {
		again, err := r.rollAgain(ctx, i, work())
		if err != nil || !again {
			return err
		}
	}
}

// iteration is one round of SRPO (arXiv 2511.15605, section 3; the steps are numbered as in its algorithm).
func (r *run) iteration(ctx context.Context, i int) error {
	s, start := r.session, time.Now()
	seconds := map[string]float64{}

	// 1. Roll out groups of M episodes of each task, embedding each as it ends: h_i = W(o_0:T).
	plan := r.plan(i)
	clips := r.keepClips(&plan, i)
	r.status = report.Status{Iteration: i, Iterations: r.cfg.Run.Iterations, Phase: "rollout", EnvSteps: r.state.EnvSteps}
	s.Sched.Progress = func(p rollout.Progress) {
		st := r.status
		st.Done, st.Total, st.EnvSteps, st.Successes, st.Episodes = p.Episodes, p.Total, r.state.EnvSteps+int64(p.EnvSteps), p.Successes, p.Episodes
		r.Terminal.Update(st)
	}
	result, err := s.Sched.Run(ctx, plan)
	if kept := clips.close(); err == nil {
		err = kept
	}
	if err != nil {
		return err
	}
	seconds["rollout"], seconds["encode"] = result.Timing.Wall, result.Timing.Encode
	fault.Point("phase rolled out")

	// 2. Cluster the successes' embeddings, 3. measure each failure's distance to the nearest centre, 4. reward it.
	at := time.Now()
	rollouts := toRollouts(result)
	scored, err := srpo.ScoreBatch(rollouts, r.known(), r.cfg.RewardOptions(s.Sched.EncoderSpec.Dimension))
	if err != nil {
		return err
	}
	diagnosis, err := srpo.Diagnose(rollouts, scored.Scores)
	if err != nil {
		return err
	}

	// 5. Advantages within each kept group.
	kept, keptScores := keptOnly(result, rollouts, scored.Scores)
	advantages, groups, err := srpo.Advantages(kept, keptScores, r.advantageOptions())
	if err != nil {
		return err
	}
	seconds["reward"] = time.Since(at).Seconds()
	fault.Point("phase rewarded")

	// 6. Update the policy: PPO's clipped objective with KL to the starting policy.
	at = time.Now()
	next := *r.state
	stats, updated, err := r.update(ctx, i, &next, advantages, kept, result)
	if err != nil {
		return err
	}
	seconds["update"] = time.Since(at).Seconds()
	fault.Point("phase updated")

	// 7. Commit policy, host state, metrics and events together.
	r.words(i, result, scored, groups)
	next.EnvSteps += int64(result.EnvSteps)
	for _, t := range scored.Tasks {
		if t.Yardstick > 0 && next.Yardsticks[t.Task] == 0 {
			next.Yardsticks[t.Task] = t.Yardstick
		}
	}
	m := metrics(i, result, scored, diagnosis, groups, stats, updated, seconds)
	if r.sparse { // nothing was encoded, so nothing was dropped
		m.EmbeddingsDropped = 0
	}
	m.EnvSteps = next.EnvSteps
	if r.leftOut.iteration == i {
		m.Extra["groups_left_out"] = 1
	}
	if err := r.audit(i, result, rollouts, scored, &m); err != nil {
		return err
	}
	if err := r.keepEmbeddings(i, rollouts, scored.Scores); err != nil {
		return err
	}
	if err := r.saveVideos(i, result, scored.Scores, advantages); err != nil {
		return err
	}
	next.memory.Remember(i, s.Sched.EncoderSpec.Dimension, rollouts)
	if next.Solved++; updated || !allSolved(result, r.cfg.Rollout.KeepHigh) {
		next.Solved = 0
	}
	r.state = &next
	if n := r.cfg.Run.EvalEvery; n > 0 && (i%n == 0 || i == r.cfg.Run.Iterations || r.solved()) {
		if err := r.evaluate(ctx, i, &m, seconds); err != nil {
			return err
		}
	}
	r.status.Phase, r.status.Done, r.status.Total = "commit", 0, 0
	r.Terminal.Update(r.status)
	m.Seconds = time.Since(start).Seconds()
	if err := r.commit(ctx, i, &m); err != nil {
		return err
	}
	fault.Point("phase committed")
	r.metrics = append(r.metrics, m)
	r.Terminal.Committed(m, r.cfg.Run.Iterations)
	if r.tb != nil {
		if err := r.tb.Add(m, time.Now()); err != nil {
			return err
		}
	}
	return report.WriteRun(r.folder)
}

// solved says whether run.solved_after iterations in a row had nothing left to teach.
func (r *run) solved() bool {
	n := r.cfg.Run.SolvedAfter
	return n > 0 && r.state.Solved >= n
}

// allSolved says whether every group's success rate is above the most at which it is kept, or 1.
func allSolved(result *rollout.Result, high float64) bool {
	for _, g := range result.Groups {
		if rate := float64(g.Successes) / float64(max(1, len(g.Episodes))); rate <= high && rate < 1 {
			return false
		}
	}
	return true
}

// plan is an iteration's rollouts.
func (r *run) plan(i int) rollout.Plan {
	s, c := r.session, r.cfg.Rollout
	p := rollout.Plan{Rules: s.Rules(!r.sparse, r.cfg.Run.Videos > 0 || r.cfg.Run.KeepClips != "none" || r.cfg.Run.KeepTrajectories != "none"), Seed: r.cfg.Run.Seed, Iteration: i, Groups: s.Groups(), GroupSize: c.GroupSize,
		KeepLow: c.KeepLow, KeepHigh: c.KeepHigh, ExtraGroups: s.ExtraGroups()}
	p.Record = true
	if c.GroupBy == "start" {
		p.GroupBy = rollout.ByStart
	}
	if r.weights != nil {
		p.Order = rollout.Drawn
	}
	for _, t := range r.tasks {
		p.Tasks = append(p.Tasks, rollout.PlanTask{Task: t, States: s.StartStates(t, c.StartStates), Weight: r.weights[t.ID]})
	}
	if r.cfg.Run.Videos > 0 {
		// every member of the first groups, so that successes can be shown beside failures of the same task
		enough := (4*r.cfg.Run.Videos + c.GroupSize - 1) / c.GroupSize
		p.KeepFrames = func(e rollout.Episode) bool { return e.Group < enough }
	}
	return p
}

func (r *run) advantageOptions() srpo.AdvantageOptions {
	o := srpo.DefaultAdvantageOptions()
	o.RewardWeight, o.Eps = r.cfg.Reward.Weight, r.cfg.Reward.Eps
	return o
}

func (r *run) known() srpo.Known {
	return srpo.Known{Memory: r.state.memory, Demos: r.state.Demos, Anchors: r.state.Anchors, Yardsticks: r.state.Yardsticks}
}

// toRollouts lists all episodes, those of dropped groups too: their successes are references like any other.
func toRollouts(result *rollout.Result) []srpo.Rollout {
	var out []srpo.Rollout
	for _, g := range result.Groups {
		for _, e := range g.Episodes {
			x := srpo.Rollout{ID: e.ID, Task: e.Task, Group: strconv.Itoa(g.ID), Success: e.Success, Steps: e.Steps, Progress: e.Progress}
			if e.Embedding != nil {
				x.Embedding = make([]float64, len(e.Embedding))
				for j, v := range e.Embedding {
					x.Embedding[j] = float64(v)
				}
			}
			out = append(out, x)
		}
	}
	return out
}

// keptOnly leaves out the rollouts of dropped groups.
func keptOnly(result *rollout.Result, rollouts []srpo.Rollout, scores []srpo.Score) (kept []srpo.Rollout, keptScores []srpo.Score) {
	i := 0
	for _, g := range result.Groups {
		for range g.Episodes {
			if g.Kept {
				kept, keptScores = append(kept, rollouts[i]), append(keptScores, scores[i])
			}
			i++
		}
	}
	return kept, keptScores
}
