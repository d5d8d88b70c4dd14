// Package host runs the SRPO loop over plugins and owns nothing heavy: no simulator, no model, no CUDA context.
//
// [Run] is the whole of it, top to bottom: start the plugins, make the starting policy, and then for each iteration roll out groups of episodes, embed
// them, reward them by their distance to the policy's own successes, turn rewards into advantages, update the policy, and commit.
package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Options say how [Run] is to be run, beside the configuration.
type Options struct {
	Config *config.Config
	Launch Launcher
	// Terminal shows progress.
	Terminal *report.Terminal
	// Version of srpo and Command line, for the manifest.
	Version string
	Command []string
	// Resume is a run folder to go on with; its own configuration counts, and Config must be what it resolves to.
	Resume string
	// ImitateOnly ends after the starting policy is committed.
	ImitateOnly bool
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
	session *Session
	state   *state
	tb      *report.TensorBoard
	last    *store.Checkpoint
	metrics []store.Metrics
	sparse  bool // the reward reads no embeddings
	status  report.Status
}

// Run trains a policy. Whatever ends it, the run folder holds the last committed iteration, from which Options.Resume goes on.
func Run(ctx context.Context, o Options) (sum Summary, err error) {
	r := &run{Options: o, cfg: o.Config, sparse: o.Config.Reward.Kind == string(srpo.Binary)}
	if err := r.openFolder(); err != nil {
		return sum, err
	}
	sum.Dir = r.folder.Dir()
	defer func() {
		if err = r.end(ctx, err); err == nil || r.last != nil {
			sum.Metrics = r.metrics
			if r.last != nil {
				sum.Checkpoint = r.last.PolicyDir()
			}
		}
	}()

	started := time.Now()
	r.status = report.Status{Iterations: r.cfg.Run.Iterations, Phase: "start plugins"}
	r.Terminal.Update(r.status)
	r.session, err = Open(ctx, r.cfg, o.Launch, Needs{Policy: true, Encoder: !r.sparse && !o.ImitateOnly}, filepath.Join(r.folder.Dir(), "plugins"), r.onPlugin)
	if err != nil {
		return sum, err
	}
	defer r.session.Close()
	r.session.Sched.OnFault = r.onFault
	if err := r.record(); err != nil {
		return sum, err
	}
	s := r.session
	r.Terminal.Line("%s: %s, %d lanes · policy %s (%s parameters) · reward %s%s · ready in %.1f s", s.Sched.EnvName, count(len(s.Tasks), "task"), s.Lanes,
		r.cfg.Run.Policy, thousands(s.Sched.PolicySpec.Parameters), r.cfg.Reward.Kind, r.encoderWords(), time.Since(started).Seconds())

	if r.last == nil {
		if err := r.startingPolicy(ctx); err != nil {
			return sum, err
		}
	} else if err := s.useWeights(ctx, r.last.PolicyDir()); err != nil {
		return sum, err
	} else if err := r.reload(ctx); err != nil {
		return sum, err
	}
	if o.ImitateOnly {
		return sum, nil
	}
	for i := r.last.Iteration + 1; i <= r.cfg.Run.Iterations; i++ {
		for {
			err := r.iteration(ctx, i)
			if errors.Is(err, rollout.ErrPolicyLost) && ctx.Err() == nil {
				// Everything the policy recorded in this iteration is gone: from the last commit on, the same seeds give the same episodes.
				r.event(store.ErrorEvent(store.PluginFailed, i, err))
				r.Terminal.Warn("%v; rolling iteration %d again from the last commit", err, i)
				if r.state, err = readState(r.last); err != nil {
					return sum, err
				}
				if err := s.policyAlive(ctx); err != nil {
					return sum, err
				}
				continue
			}
			if err != nil {
				return sum, err
			}
			break
		}
	}
	return sum, nil
}

// iteration is one round of SRPO (arXiv 2511.15605, section 3; the steps are numbered as in its algorithm).
func (r *run) iteration(ctx context.Context, i int) error {
	s, start := r.session, time.Now()
	seconds := map[string]float64{}

	// 1. Roll out groups of M episodes of each task, embedding each as it ends: h_i = W(o_0:T).
	plan := r.plan(i)
	r.status = report.Status{Iteration: i, Iterations: r.cfg.Run.Iterations, Phase: "rollout", EnvSteps: r.state.EnvSteps}
	s.Sched.Progress = func(p rollout.Progress) {
		st := r.status
		st.Done, st.Total, st.EnvSteps, st.Successes, st.Episodes = p.Episodes, p.Total, r.state.EnvSteps+int64(p.EnvSteps), p.Successes, p.Episodes
		r.Terminal.Update(st)
	}
	result, err := s.Sched.Run(ctx, plan)
	if err != nil {
		return err
	}
	seconds["rollout"], seconds["encode"] = result.Timing.Wall, result.Timing.Encode

	// 2. Cluster the successes' embeddings, 3. measure each failure's distance to the nearest centre, 4. reward it.
	at := time.Now()
	rollouts := toRollouts(result)
	scored, err := srpo.ScoreBatch(rollouts, r.known(), r.rewardOptions())
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

	// 6. Update the policy: PPO's clipped objective with KL to the starting policy.
	at = time.Now()
	next := *r.state
	stats, updated, err := r.update(ctx, i, &next, advantages, kept)
	if err != nil {
		return err
	}
	seconds["update"] = time.Since(at).Seconds()

	// 7. Commit policy, host state, metrics and events together.
	r.words(i, result, scored, groups)
	next.EnvSteps += int64(result.EnvSteps)
	for _, t := range scored.Tasks {
		if t.Yardstick > 0 && next.Yardsticks[t.Task] == 0 {
			next.Yardsticks[t.Task] = t.Yardstick
		}
	}
	m := metrics(i, result, scored, diagnosis, groups, stats, updated, seconds)
	m.EnvSteps = next.EnvSteps
	if err := r.saveVideos(i, result, scored.Scores, advantages); err != nil {
		return err
	}
	next.memory.Remember(i, s.Sched.EncoderSpec.Dimension, rollouts)
	r.state = &next
	if n := r.cfg.Run.EvalEvery; n > 0 && (i%n == 0 || i == r.cfg.Run.Iterations) {
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
	r.metrics = append(r.metrics, m)
	r.Terminal.Committed(m, r.cfg.Run.Iterations)
	if r.tb != nil {
		if err := r.tb.Add(m, time.Now()); err != nil {
			return err
		}
	}
	return report.WriteRun(r.folder)
}

// plan is an iteration's rollouts.
func (r *run) plan(i int) rollout.Plan {
	s, c := r.session, r.cfg.Rollout
	p := rollout.Plan{Rules: s.rules(!r.sparse, r.cfg.Run.Videos > 0), Seed: r.cfg.Run.Seed, Iteration: i, Groups: s.groups(), GroupSize: c.GroupSize,
		KeepLow: c.KeepLow, KeepHigh: c.KeepHigh, ExtraGroups: c.ExtraGroups}
	p.Record = true
	if c.GroupBy == "start" {
		p.GroupBy = rollout.ByStart
	}
	for _, t := range s.Tasks {
		p.Tasks = append(p.Tasks, rollout.PlanTask{Task: t, States: s.states(t, c.StartStates)})
	}
	if r.cfg.Run.Videos > 0 {
		// every member of the first groups, so that successes can be shown beside failures of the same task
		enough := (4*r.cfg.Run.Videos + c.GroupSize - 1) / c.GroupSize
		p.KeepFrames = func(e rollout.Episode) bool { return e.Group < enough }
	}
	return p
}

func (r *run) rewardOptions() srpo.RewardOptions {
	o := srpo.DefaultRewardOptions()
	c := r.cfg.Reward
	o.Kind, o.References, o.Cluster.Kind, o.Alpha = srpo.RewardKind(c.Kind), srpo.ReferenceKind(c.References), srpo.ClusterKind(c.Cluster), c.Alpha
	o.Dim = r.session.Sched.EncoderSpec.Dimension
	return o
}

func (r *run) advantageOptions() srpo.AdvantageOptions {
	o := srpo.DefaultAdvantageOptions()
	o.RewardWeight = r.cfg.Reward.Weight
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

// update hands the advantages to the policy. Without any signal (all groups dropped, or all rewards equal) there is nothing to learn from, and no update.
func (r *run) update(ctx context.Context, i int, next *state, advantages []srpo.Advantage, rollouts []srpo.Rollout) (policy.Statistics, bool, error) {
	u := policy.Update{Temperature: r.cfg.Rollout.Temperature, Seed: rollout.Seed(r.cfg.Run.Seed, "update", i), Hyperparameters: policy.Hyperparameters{
		ClipLow: r.cfg.Update.ClipLow, ClipHigh: r.cfg.Update.ClipHigh, ClipDual: r.cfg.Update.ClipDual, KLBeta: r.cfg.Update.KLBeta, Epochs: r.cfg.Update.Epochs,
		MiniBatch: r.cfg.Update.MiniBatch}}
	steps := map[string]int{}
	for _, x := range rollouts {
		steps[x.ID] = x.Steps
	}
	for _, a := range advantages {
		if !a.Masked && a.Value != 0 {
			u.Trajectories = append(u.Trajectories, policy.Advantage{Trajectory: a.ID, Values: []float64{a.Value}, Steps: steps[a.ID]})
		}
	}
	p, incarnation, err := r.session.Sched.Policy.Client(ctx)
	if err != nil {
		return policy.Statistics{}, false, err
	}
	if incarnation != r.session.Sched.PolicyIncarnation {
		return policy.Statistics{}, false, lost(errors.New("its process was restarted between rollout and update"))
	}
	var stats policy.Statistics
	if len(u.Trajectories) > 0 {
		next.UpdateID++
		u.ID = next.UpdateID
		stats, err = p.Update(ctx, u, func(done float64) {
			r.status.Phase, r.status.Done, r.status.Total = "update", int(100*done), 100
			r.Terminal.Update(r.status)
		})
		if err == nil {
			if err = finiteStatistics(stats); err != nil {
				// what the policy holds now is not to be trusted: its process goes, and with it the weights
				r.session.Sched.Policy.Failed(incarnation, err)
				return stats, false, err
			}
		}
	}
	if err == nil {
		err = p.Forget(ctx, nil)
	}
	if k := plugins.KindOf(err); k == plugins.Unavailable || k == plugins.Deadline {
		return stats, false, lost(err)
	}
	return stats, len(u.Trajectories) > 0, err
}

// lost says that the policy's process went away outside of a rollout.
func lost(cause error) error {
	e := plugins.AsError(cause)
	return &plugins.Error{Kind: plugins.Unavailable, Message: "the policy's process is lost: " + e.Message, Place: e.Place, Hint: e.Hint, Detail: e.Detail,
		Err: fmt.Errorf("%w: %w", rollout.ErrPolicyLost, cause)}
}

// metrics gathers an iteration's line.
func metrics(i int, result *rollout.Result, scored srpo.Scored, d srpo.Diagnostics, groups []srpo.GroupSummary, stats policy.Statistics, updated bool, seconds map[string]float64) store.Metrics {
	m := store.Metrics{Iteration: i, SecondsByPhase: seconds, KL: stats.KL, ClipFraction: stats.ClipFraction, GradNorm: stats.GradNorm,
		Extra: map[string]float64{"updated": 0, "groups_without_signal": 0, "env_step_seconds": result.Timing.Env, "act_seconds": result.Timing.Policy,
			"policy_wait_seconds": result.Timing.PolicyWait, "lane_utilisation": result.Timing.Utilisation, "act_batch": 0, "faults": float64(result.Timing.Faults)}}
	if result.Timing.ActCalls > 0 {
		m.Extra["act_batch"] = float64(result.Timing.ActItems) / float64(result.Timing.ActCalls)
	}
	if updated {
		m.Extra["updated"], m.Extra["loss"], m.Extra["entropy"], m.Extra["first_ratio"], m.Extra["samples"] = 1, stats.Loss, stats.Entropy, stats.FirstRatio, float64(stats.Samples)
		for k, v := range stats.Extra {
			m.Extra["policy_"+k] = v
		}
	}
	successes, reward, scores := 0, 0.0, 0
	for _, g := range result.Groups {
		m.Episodes += len(g.Episodes)
		successes += g.Successes
		if g.Kept {
			m.GroupsKept++
		} else {
			m.GroupsDropped++
		}
	}
	for _, s := range scored.Scores {
		if !s.Dropped {
			reward += s.Reward
			scores++
		}
	}
	m.SuccessRate = float64(successes) / float64(max(m.Episodes, 1))
	m.RewardMean = reward / float64(max(scores, 1))
	for _, t := range scored.Tasks {
		m.EmbeddingsDropped += t.Unusable
		m.Clusters += t.Clusters
	}
	for _, g := range groups {
		if !g.Signal {
			m.Extra["groups_without_signal"]++
		}
	}
	for name, e := range map[string]srpo.Estimate{"reward_auroc": d.AUROC, "reward_spearman": d.Spearman, "reward_pair_order": d.PairOrder} {
		if e.N > 0 {
			m.Extra[name] = e.Value
		}
	}
	return m
}

// words writes what a person should know of an iteration into the event log.
func (r *run) words(i int, result *rollout.Result, scored srpo.Scored, groups []srpo.GroupSummary) {
	for _, g := range result.Groups {
		if !g.Kept {
			r.event(store.Event{Type: store.GroupDropped, Iteration: i, Message: fmt.Sprintf("group %d of %s: %s", g.ID, g.Task, g.Reason)})
		}
		for _, e := range g.Episodes {
			if e.EmbeddingError != "" {
				r.event(store.Event{Type: store.Dropped, Iteration: i, Message: e.ID + ": " + e.EmbeddingError})
			}
		}
	}
	for _, t := range scored.Tasks {
		for _, n := range t.Notes {
			r.event(store.Event{Type: store.Warning, Iteration: i, Message: t.Task + ": " + n})
		}
		if t.Repeated > 0 && !r.sparse {
			msg := fmt.Sprintf("%s: %d rollouts have the very embedding of another one; rollouts that share a video share a reward, and SRPO becomes GRPO", t.Task, t.Repeated)
			r.event(store.Event{Type: store.Warning, Iteration: i, Message: msg})
			r.Terminal.Warn("%s", msg)
		}
	}
	signal := 0
	for _, g := range groups {
		if g.Signal {
			signal++
		}
	}
	if signal == 0 {
		msg := "no group carries a signal, so there was no update"
		r.event(store.Event{Type: store.Warning, Iteration: i, Message: msg})
		r.Terminal.Warn("iteration %d: %s", i, msg)
	}
}

// saveVideos keeps some episodes as short videos: failures with the most and the least reward, and successes.
func (r *run) saveVideos(i int, result *rollout.Result, scores []srpo.Score, advantages []srpo.Advantage) error {
	if r.cfg.Run.Videos == 0 {
		return nil
	}
	instruction := map[string]string{}
	for _, t := range r.session.Tasks {
		instruction[t.ID] = t.Instruction
	}
	adv := map[string]float64{}
	for _, a := range advantages {
		adv[a.ID] = a.Value
	}
	var failures, successes []pick
	k := 0
	for _, g := range result.Groups {
		for _, e := range g.Episodes {
			s := scores[k]
			k++
			switch {
			case e.Frames.IsZero():
			case e.Success:
				successes = append(successes, pick{e, s})
			default:
				failures = append(failures, pick{e, s})
			}
		}
	}
	for _, p := range choose(failures, successes, r.cfg.Run.Videos) {
		e := p.episode
		meta := store.Episode{ID: e.ID, Iteration: i, Task: e.Task, Instruction: instruction[e.Task], Group: e.Group, Index: e.Index, StartState: e.StartState,
			Seed: e.Seed, Success: e.Success, Reward: p.score.Reward, Advantage: adv[e.ID], Steps: e.Steps, RecordEvery: r.cfg.Rollout.RecordEvery}
		if p.score.Centre >= 0 {
			d := p.score.Distance
			meta.Distance = &d
		}
		if _, err := r.folder.SaveEpisode(meta, e.Frames); err != nil {
			return err
		}
	}
	return nil
}

// startingPolicy loads run.checkpoint, or trains the policy on demonstrations of the env's expert, and commits the result as iteration 0.
func (r *run) startingPolicy(ctx context.Context) error {
	s := r.session
	state, err := newState()
	if err != nil {
		return err
	}
	r.state = state
	if folder := r.cfg.Run.Checkpoint; folder != "" {
		if folder, err = filepath.Abs(folder); err != nil {
			return err
		}
		p, _, err := s.Sched.Policy.Client(ctx)
		if err != nil {
			return err
		}
		if state.UpdateID, err = p.Load(ctx, PolicyFolder(folder)); err != nil {
			return plugins.AsError(err).WithPlace("%s, checkpoint %s", r.cfg.Origin("run.checkpoint"), folder)
		}
		r.Terminal.Line("starting policy: %s", folder)
	} else if r.cfg.Imitate.Demos == 0 {
		r.Terminal.Line("no checkpoint and no demonstrations: starting from the policy's fresh weights")
	} else if err := r.imitate(ctx); err != nil {
		return err
	}
	if !r.sparse && !r.ImitateOnly {
		if err := r.references(ctx); err != nil {
			return err
		}
	}
	seconds := map[string]float64{}
	m := store.Metrics{SecondsByPhase: seconds, Extra: map[string]float64{}}
	if r.cfg.Run.EvalEvery > 0 && !r.ImitateOnly {
		if err := r.evaluate(ctx, 0, &m, seconds); err != nil {
			return err
		}
	}
	return r.commit(ctx, 0, nil)
}

// PolicyFolder returns the policy's own folder inside a checkpoint or a run folder; any other folder is returned as it is.
func PolicyFolder(folder string) string {
	if c, _, err := store.Latest(folder); err == nil && c != nil {
		return c.PolicyDir()
	}
	if c, err := store.OpenCheckpoint(folder); err == nil {
		return c.PolicyDir()
	}
	return folder
}

// imitate makes the policy by supervised learning on the env's expert.
func (r *run) imitate(ctx context.Context) error {
	s, c := r.session, r.cfg.Imitate
	if !s.Sched.PolicySpec.CanImitate {
		return plugins.Errorf(plugins.Invalid, "%s cannot learn from demonstrations, and no checkpoint is given", s.Sched.PolicyName).WithHint("give a trained policy: --checkpoint FOLDER")
	}
	if !s.Sched.EnvSpec.Expert {
		return plugins.Errorf(plugins.Invalid, "%s has no expert to demonstrate, and no checkpoint is given", s.Sched.EnvName).WithHint("give a trained policy: --checkpoint FOLDER")
	}
	client, _, err := s.Sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	im, ok := client.(policy.Imitator)
	if !ok {
		return plugins.Errorf(plugins.Unsupported, "%s cannot learn from demonstrations", s.Sched.PolicyName).WithHint("give a trained policy: --checkpoint FOLDER")
	}
	r.Terminal.Line("no checkpoint given: imitating %s a task of the env's expert first", count(c.Demos, "demonstration"))
	start := time.Now()
	r.status = report.Status{Iterations: r.cfg.Run.Iterations, Phase: "imitate"}
	steps, failed := 0, 0
	demos := func(yield func(policy.Demonstration, error) bool) {
		for d, err := range r.demonstrations(ctx) {
			if err == nil && !d.Success {
				// an expert that fails has nothing to teach
				failed++
				continue
			}
			if err == nil {
				steps += d.Actions.Shape[0]
			}
			if !yield(d, err) {
				return
			}
		}
		if steps == 0 {
			yield(policy.Demonstration{}, plugins.Errorf(plugins.Invalid, "the env's expert failed in all %d demonstrations", failed).
				WithHint("other start states (another seed), or less noise: --set imitate.noise=0"))
		}
	}
	var last float64
	err = im.Imitate(ctx, policy.Imitate{Seed: rollout.Seed(r.cfg.Run.Seed, "imitate"), Steps: c.Steps}, demos, func(done, loss float64) {
		last = loss
		r.status.Done, r.status.Total = int(1000*done), 1000
		r.Terminal.Update(r.status)
	})
	if err != nil {
		return err
	}
	if failed > 0 {
		r.Terminal.Warn("the env's expert failed in %d demonstrations, which were left out", failed)
	}
	r.state.EnvSteps += int64(steps)
	took := time.Since(start).Seconds()
	r.event(store.Event{Type: store.Imitated, Message: fmt.Sprintf("%d steps of demonstrations, last loss %.4g", steps, last),
		Data: map[string]any{"demo_steps": steps, "loss": last, "failed": failed, "seconds": took}})
	r.Terminal.Line("imitated %d steps of demonstrations in %.1f s, last loss %.4g", steps, took, last)
	return nil
}

// demonstrations yields the expert's episodes for every task.
func (r *run) demonstrations(ctx context.Context) func(yield func(policy.Demonstration, error) bool) {
	s := r.session
	plan := rollout.DemoPlan{Seed: r.cfg.Run.Seed, Noise: float32(r.cfg.Imitate.Noise), Observe: s.observe, MaxSteps: r.cfg.Rollout.MaxSteps, EnvName: s.Sched.EnvName}
	if cam := s.Sched.EnvSpec.RecordCamera; cam != "" && !contains(plan.Observe, cam) {
		plan.Observe = append([]string{cam}, plan.Observe...)
	}
	for _, t := range s.Tasks {
		states := s.states(t, r.cfg.Rollout.StartStates)
		for k := range r.cfg.Imitate.Demos {
			// spread over the start states, each once before any is used twice
			n := t.StartStates
			if states != nil {
				n = len(states)
			}
			at := (int(rollout.Seed(r.cfg.Run.Seed, "demonstration", t.ID)%uint64(n)) + k) % n
			if states != nil {
				at = states[at]
			}
			plan.Trials = append(plan.Trials, rollout.Trial{Task: t, StartState: at, Repeat: k / n})
		}
	}
	return rollout.Demonstrations(ctx, s.Sched.Envs[0].Worker, s.Sched.EnvSpec, plan)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// references embeds what some rewards measure against: "nothing happened" for anchored, demonstrations for references = "demos".
func (r *run) references(ctx context.Context) error {
	s := r.session
	enc, _, err := s.Sched.Encoder.Client(ctx)
	if err != nil {
		return err
	}
	embed := func(clip plugins.Tensor) ([]float64, error) {
		v, err := enc.Encode(ctx, []plugins.Tensor{clip})
		if err != nil {
			return nil, err
		}
		out := make([]float64, len(v[0]))
		for i, x := range v[0] {
			out[i] = float64(x)
		}
		return out, nil
	}
	rules := s.rules(true, true)
	if r.cfg.Reward.Kind == string(srpo.Anchored) {
		r.state.Anchors = map[string][]float64{}
		for _, t := range s.Tasks {
			client, _, err := s.Sched.Envs[0].Worker.Client(ctx)
			if err != nil {
				return err
			}
			tr, err := client.Reset(ctx, env.Reset{Task: t.ID, Seed: rollout.Seed(r.cfg.Run.Seed, "anchor", t.ID), Render: env.Render{Record: rules.RecordCamera, RecordEvery: rules.RecordEvery}})
			if err != nil {
				return plugins.AsError(err).WithPlace("%s, task %s", s.Sched.EnvName, t.ID)
			}
			if tr.Recorded.IsZero() {
				return plugins.Errorf(plugins.Corrupt, "Reset recorded no frame").WithPlace("%s, task %s", s.Sched.EnvName, t.ID)
			}
			// held still; encoders sample frames, so that 16 of them stand for any number
			clip := plugins.Bytes(bytes.Repeat(tr.Recorded.Data, 16), append([]int{16}, tr.Recorded.Shape[1:]...)...)
			if r.state.Anchors[t.ID], err = embed(clip); err != nil {
				return err
			}
		}
	}
	if r.cfg.Reward.References == string(srpo.ReferencesDemos) {
		if !s.Sched.EnvSpec.Expert {
			return plugins.Errorf(plugins.Invalid, "%s has no expert, so there are no demonstrations to refer to", s.Sched.EnvName).
				WithPlace("%s", r.cfg.Origin("reward.references")).WithHint(`use references = "batch" or "memory"`)
		}
		r.state.Demos = map[string][][]float64{}
		demos := r.demonstrations(ctx)
		k := 0
		for d, err := range demos {
			if err != nil {
				return err
			}
			task := s.Tasks[k/max(1, r.cfg.Imitate.Demos)].ID
			k++
			if !d.Success {
				continue
			}
			frames := d.Images[rules.RecordCamera]
			size := len(frames.Data) / frames.Shape[0]
			var clip []byte
			n := 0
			for f := 0; f < frames.Shape[0]; f += rules.RecordEvery {
				clip = append(clip, frames.Data[f*size:(f+1)*size]...)
				n++
			}
			v, err := embed(plugins.Bytes(clip, append([]int{n}, frames.Shape[1:]...)...))
			if err != nil {
				return err
			}
			r.state.Demos[task] = append(r.state.Demos[task], v)
		}
	}
	return nil
}

// evaluate rolls greedy episodes on the side of the split that is not trained on.
func (r *run) evaluate(ctx context.Context, i int, m *store.Metrics, seconds map[string]float64) error {
	s, at := r.session, time.Now()
	side := evalSide(r.cfg.Rollout.StartStates)
	rules := s.rules(false, false)
	rules.Greedy = true
	e := rollout.Evaluation{Rules: rules, Name: fmt.Sprintf("eval/%06d", i), Seed: r.cfg.Run.Seed, Trials: s.trials(side, r.cfg.Run.EvalEpisodes)}
	r.status.Phase, r.status.Iteration, r.status.Successes, r.status.Episodes = "eval", i, 0, 0
	s.Sched.Progress = func(p rollout.Progress) {
		st := r.status
		st.Done, st.Total, st.Successes, st.Episodes = p.Episodes, p.Total, p.Successes, p.Episodes
		r.Terminal.Update(st)
	}
	episodes, _, err := s.Sched.Evaluate(ctx, e)
	if err != nil {
		return err
	}
	ev := store.Evaluation{EnvSteps: r.state.EnvSteps, Episodes: len(episodes), StartStates: side, ByTask: map[string]float64{}}
	n := map[string]float64{}
	for _, ep := range episodes {
		n[ep.Task]++
		if ep.Success {
			ev.SuccessRate++
			ev.ByTask[ep.Task]++
		}
	}
	ev.SuccessRate /= float64(max(1, len(episodes)))
	for _, t := range sortedKeys(n) {
		ev.ByTask[t] /= n[t]
	}
	seconds["eval"] = time.Since(at).Seconds()
	m.Extra["eval_success_rate"], m.Extra["eval_episodes"] = ev.SuccessRate, float64(len(episodes))
	r.event(store.Event{Type: store.Evaluated, Iteration: i, Evaluation: &ev})
	lo, hi := report.Wilson(ev.SuccessRate, len(episodes))
	r.Terminal.Line("evaluation after iteration %d: %.0f %% of %d greedy episodes on %s start states (95 %%: %.0f to %.0f)", i, 100*ev.SuccessRate, len(episodes), side, 100*lo, 100*hi)
	return nil
}

// commit makes policy, host state, metrics and events durable in one step.
func (r *run) commit(ctx context.Context, i int, m *store.Metrics) error {
	pending, err := r.folder.Begin(i)
	if err != nil {
		return err
	}
	defer pending.Abort()
	p, incarnation, err := r.session.Sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	if r.session.Sched.PolicyIncarnation != 0 && incarnation != r.session.Sched.PolicyIncarnation {
		return lost(errors.New("its process was restarted before its state was saved"))
	}
	if err := p.Save(ctx, pending.PolicyDir()); err != nil {
		if k := plugins.KindOf(err); k == plugins.Unavailable || k == plugins.Deadline {
			return lost(err)
		}
		return err
	}
	if err := r.state.write(pending); err != nil {
		return err
	}
	if err := pending.Commit(m); err != nil {
		return err
	}
	if r.last, _, err = r.folder.Latest(); err != nil {
		return err
	}
	return r.session.useWeights(ctx, r.last.PolicyDir())
}

// reload reads the host's state of the last commit, and makes sure that the policy has its weights.
func (r *run) reload(ctx context.Context) (err error) {
	if r.state, err = readState(r.last); err != nil {
		return err
	}
	p, incarnation, err := r.session.Sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	r.session.Sched.PolicyIncarnation = incarnation
	_, err = p.Load(ctx, r.last.PolicyDir())
	return err
}

// openFolder creates the run folder, or opens it to go on.
func (r *run) openFolder() (err error) {
	if r.Resume != "" {
		if r.folder, err = store.Open(r.Resume); err != nil {
			return err
		}
		var warnings []error
		if r.last, warnings, err = r.folder.Resume(); err != nil {
			r.folder.Close()
			return err
		}
		for _, w := range warnings {
			r.Terminal.Warn("%v", w)
		}
		rec, err := store.Read(r.folder.Dir())
		if err != nil {
			return err
		}
		r.metrics = rec.Metrics
		at := 0
		if r.last != nil {
			at = r.last.Iteration
		}
		if err := r.folder.UpdateManifest(func(m *store.Manifest) {
			m.Resumed = append(m.Resumed, store.Resumed{Time: time.Now(), Iteration: at, Command: r.Command, Host: r.Version})
		}); err != nil {
			return err
		}
		r.event(store.Event{Type: store.ResumedRun, Iteration: at, Message: fmt.Sprintf("after iteration %d", at)})
		r.Terminal.Line("resuming %s after iteration %d", r.folder.Dir(), at)
	} else {
		dir := r.cfg.Run.Out
		if dir == "" {
			dir = filepath.Join("runs", r.name())
		}
		var text bytes.Buffer
		if err := r.cfg.Write(&text); err != nil {
			return err
		}
		m := store.Manifest{Name: filepath.Base(dir), Created: time.Now(), Host: r.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
			Machine: map[string]string{"cores": strconv.Itoa(runtime.NumCPU())}, Command: r.Command, Seed: r.cfg.Run.Seed}
		if r.folder, err = store.Create(dir, m, text.Bytes()); err != nil {
			return err
		}
		r.event(store.Event{Type: store.Started})
		r.Terminal.Line("run folder: %s", dir)
	}
	r.folder.Keep = r.cfg.Run.Keep
	if r.cfg.Run.TensorBoard {
		r.tb, err = report.OpenTensorBoard(filepath.Join(r.folder.Dir(), "tensorboard"), r.folder.Manifest().Created, r.metrics)
	}
	return err
}

// name of a run that was not given one.
func (r *run) name() string {
	if r.cfg.Run.Name != "" {
		return r.cfg.Run.Name
	}
	return fmt.Sprintf("%s-%s-%s-%s", filepath.Base(r.cfg.Run.Env), filepath.Base(r.cfg.Run.Policy), r.cfg.Reward.Kind, time.Now().Format("0102-150405"))
}

// record completes the manifest with what only the plugins know, and writes the resolved configuration with their settings.
func (r *run) record() error {
	s := r.session
	var text bytes.Buffer
	if err := r.cfg.Write(&text); err != nil {
		return err
	}
	if r.Resume == "" {
		if err := r.folder.WriteFile("srpo.toml", text.Bytes()); err != nil {
			return err
		}
	}
	side := r.cfg.Rollout.StartStates
	split := &store.StartStates{Used: side, TrainFraction: r.cfg.Rollout.TrainFraction}
	if side != "all" {
		split.Train, split.Test = map[string][]int{}, map[string][]int{}
		for _, t := range s.Tasks {
			split.Train[t.ID], split.Test[t.ID] = s.states(t, "train"), s.states(t, "test")
		}
	}
	return r.folder.UpdateManifest(func(m *store.Manifest) {
		m.Plugins, m.StartStates, m.Checkpoint = s.Plugins, split, r.cfg.Run.Checkpoint
		m.Tasks = nil
		for _, t := range s.Tasks {
			m.Tasks = append(m.Tasks, t.ID)
		}
	})
}

// end writes the last words of a run and closes its folder.
func (r *run) end(ctx context.Context, err error) error {
	at := 0
	if r.last != nil {
		at = r.last.Iteration
	}
	switch {
	case err == nil:
		r.event(store.Event{Type: store.Finished, Iteration: at})
	case ctx.Err() != nil:
		r.event(store.Event{Type: store.Interrupted, Iteration: at})
		e := plugins.Errorf(plugins.Canceled, "stopped after iteration %d of %d, which is committed", at, r.cfg.Run.Iterations)
		if r.last == nil {
			e = plugins.Errorf(plugins.Canceled, "stopped before anything was committed")
		}
		err = e.WithHint("srpo run --resume %s", r.folder.Dir())
	default:
		r.event(store.ErrorEvent(store.Failed, at, err))
		e := plugins.AsError(err)
		if r.last != nil && e.Hint == "" {
			e = e.WithHint("iteration %d is committed: srpo run --resume %s", at, r.folder.Dir())
		}
		err = e
	}
	if r.tb != nil {
		_ = r.tb.Close()
	}
	if werr := report.WriteRun(r.folder); err == nil {
		err = werr
	}
	if cerr := r.folder.Close(); err == nil {
		err = cerr
	}
	return err
}

// event appends to the event log. A log that cannot be written shows at the next commit, which fails with the cause.
func (r *run) event(e store.Event) {
	_ = r.folder.Append(e)
}

// onPlugin logs what happens to plugins' processes.
func (r *run) onPlugin(e supervise.Event) {
	switch e.What {
	case "ready":
		r.event(store.Event{Type: store.PluginStarted, Message: fmt.Sprintf("%s is ready (process %d, %.2f s)", e.Plugin, e.PID, e.Seconds)})
	case "died", "replaced", "gave up":
		r.event(store.Event{Type: store.PluginFailed, Message: fmt.Sprintf("%s %s: %s", e.Plugin, e.What, e.Cause)})
		r.Terminal.Warn("%s %s: %s", e.Plugin, e.What, e.Cause)
	case "restarting":
		r.Terminal.Line("%s is restarted in %.1f s", e.Plugin, e.Seconds)
	}
}

func (r *run) onFault(f rollout.Fault) {
	e := store.ErrorEvent(store.EpisodeRetried, r.status.Iteration, f.Err)
	e.Message = f.Episode + ": " + e.Message
	r.event(e)
}

func (r *run) encoderWords() string {
	if r.sparse {
		return " (0 or 1, no encoder)"
	}
	return fmt.Sprintf(", encoder %s (%d numbers)", r.cfg.Run.Encoder, r.session.Sched.EncoderSpec.Dimension)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// thousands writes 119000 as 119k.
func thousands(n int) string {
	switch {
	case n >= 10_000_000:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 10_000:
		return fmt.Sprintf("%dk", n/1_000)
	}
	return strconv.Itoa(n)
}
