package train

import (
	"context"
	"strconv"
	"time"

	"github.com/srpo-dev/srpo/host/internal/fault"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// sample is an episode of an iteration with its score and its advantage.
type sample struct {
	rollout.Episode
	// Scored is what the reward reads of the episode, and its score.
	Scored srpo.Scored
	// Advantage is masked for an episode of a dropped group.
	Advantage srpo.Advantage
}

func rolloutsOf(samples []sample) []srpo.Rollout {
	out := make([]srpo.Rollout, len(samples))
	for k, s := range samples {
		out[k] = s.Scored.Rollout
	}
	return out
}

func scoredOf(samples []sample) []srpo.Scored {
	out := make([]srpo.Scored, len(samples))
	for k, s := range samples {
		out[k] = s.Scored
	}
	return out
}

// result is what an iteration computes before it commits.
type result struct {
	iteration int
	start     time.Time
	seconds   map[string]float64 // by phase

	rolled    *rollout.Result
	samples   []sample // the episodes of all groups, in the order of groups and of their index
	tasks     []srpo.TaskSummary
	diagnosis srpo.Diagnostics
	groups    []srpo.GroupSummary // of kept groups
	stats     policy.Statistics
	updated   bool
	// next is the state after the iteration.
	next state
}

// iteration is one round of SRPO (arXiv 2511.15605, section 3). The steps are numbered as in its algorithm.
func (r *run) iteration(ctx context.Context, i int) error {
	it := &result{iteration: i, start: time.Now(), seconds: map[string]float64{}, next: *r.state}

	// 1. Roll out groups of M episodes per task, and embed each episode as it ends: h_i = W(o_0:T).
	if err := r.rollOut(ctx, it); err != nil {
		return err
	}
	fault.Point("phase rolled out")

	// 2. Cluster the embeddings of the successes, 3. measure the distance of each failure to the nearest centre, and
	// 4. reward it by that distance.
	rewarding := time.Now()
	if err := r.reward(it); err != nil {
		return err
	}

	// 5. Compute the advantages within each kept group.
	if err := r.computeAdvantages(it); err != nil {
		return err
	}
	it.seconds["reward"] = time.Since(rewarding).Seconds()
	fault.Point("phase rewarded")

	// 6. Update the policy: PPO's clipped objective with a KL penalty to the starting policy.
	updating := time.Now()
	if err := r.update(ctx, it); err != nil {
		return err
	}
	it.seconds["update"] = time.Since(updating).Seconds()
	fault.Point("phase updated")

	// 7. Commit the policy, the state of the host, the metrics and the events together.
	return r.record(ctx, it)
}

// rollOut rolls out and embeds the episodes of an iteration, and saves the clips and trajectories that are kept.
func (r *run) rollOut(ctx context.Context, it *result) error {
	s, plan := r.session, r.plan(it.iteration)
	clips := r.saveClips(&plan, it.iteration)
	r.status = report.Status{Iteration: it.iteration, Iterations: r.cfg.Run.Iterations, Phase: "rollout",
		EnvSteps: r.state.EnvSteps}
	s.Sched.Progress = func(p rollout.Progress) {
		st := r.status
		st.Done, st.Total, st.Successes, st.Episodes = p.Episodes, p.Total, p.Successes, p.Episodes
		st.EnvSteps = r.state.EnvSteps + int64(p.EnvSteps)
		r.Terminal.Update(st)
	}
	rolled, err := s.Sched.Run(ctx, plan)
	if saved := clips.close(); err == nil {
		err = saved
	}
	if err != nil {
		return err
	}
	it.rolled = rolled
	it.seconds["rollout"], it.seconds["encode"] = rolled.Timing.Wall, rolled.Timing.Encode
	for _, g := range rolled.Groups {
		for _, e := range g.Episodes {
			it.samples = append(it.samples, sample{Episode: e, Scored: srpo.Scored{Rollout: toRollout(e, g.Kept)}})
		}
	}
	return nil
}

// plan returns what an iteration rolls out.
func (r *run) plan(i int) rollout.Plan {
	s, c, keep := r.session, r.cfg.Rollout, r.cfg.Run
	frames := keep.Videos > 0 || keep.KeepClips != "none" || keep.KeepTrajectories != "none"
	p := rollout.Plan{Rules: s.Rules(!r.sparse, frames), Seed: r.cfg.Run.Seed, Iteration: i, Groups: s.Groups(),
		GroupSize: c.GroupSize, KeepLow: c.KeepLow, KeepHigh: c.KeepHigh, ExtraGroups: s.ExtraGroups()}
	p.Record = true
	if c.GroupBy == "start" {
		p.GroupBy = rollout.ByStart
	}
	if r.weights != nil {
		p.Order = rollout.Drawn
	}
	for _, t := range r.tasks {
		p.Tasks = append(p.Tasks,
			rollout.PlanTask{Task: t, States: s.StartStates(t, c.StartStates), Weight: r.weights[t.ID]})
	}
	if keep.Videos > 0 {
		// All members of the first groups, so that successes can be shown beside failures of the same task.
		enough := (4*keep.Videos + c.GroupSize - 1) / c.GroupSize
		p.KeepFrames = func(e rollout.Episode) bool { return e.Group < enough }
	}
	return p
}

// toRollout returns what the reward reads of an episode. A success of a dropped group is a reference like any other.
func toRollout(e rollout.Episode, kept bool) srpo.Rollout {
	x := srpo.Rollout{ID: e.ID, Task: e.Task, Group: strconv.Itoa(e.Group), ReferenceOnly: !kept, Success: e.Success,
		Progress: e.Progress}
	if e.Embedding != nil {
		x.Embedding = make([]float64, len(e.Embedding))
		for j, v := range e.Embedding {
			x.Embedding[j] = float64(v)
		}
	}
	return x
}

// reward scores all episodes.
func (r *run) reward(it *result) error {
	known := srpo.Known{Memory: r.state.memory, Demos: r.state.Demos, Anchors: r.state.Anchors,
		ReferenceDistances: r.state.ReferenceDistances}
	dimension := r.session.Sched.EncoderSpec.Dimension
	batch, err := srpo.ScoreBatch(rolloutsOf(it.samples), known, r.cfg.RewardOptions(dimension))
	if err != nil {
		return err
	}
	it.tasks = batch.Tasks
	for k, s := range batch.Rollouts {
		it.samples[k].Scored = s
	}
	it.diagnosis, err = srpo.Diagnose(batch.Rollouts)
	return err
}

// computeAdvantages compares the episodes of each kept group.
func (r *run) computeAdvantages(it *result) error {
	opt := srpo.DefaultAdvantageOptions()
	opt.RewardWeight, opt.Eps = r.cfg.Reward.Weight, r.cfg.Reward.Eps
	advantages, groups, err := srpo.Advantages(scoredOf(it.samples), opt)
	if err != nil {
		return err
	}
	it.groups = groups
	for k, a := range advantages {
		it.samples[k].Advantage = a
	}
	return nil
}

// record ends an iteration: it logs what happened, saves what the run keeps, makes the new state the current one,
// evaluates the policy when an evaluation is due, and commits.
func (r *run) record(ctx context.Context, it *result) error {
	r.logIteration(it)
	it.next.EnvSteps += int64(it.rolled.EnvSteps)
	for _, t := range it.tasks {
		if t.ReferenceDistance > 0 && it.next.ReferenceDistances[t.Task] == 0 {
			it.next.ReferenceDistances[t.Task] = t.ReferenceDistance
		}
	}
	m := r.metricsOf(it)
	if err := r.audit(it, &m); err != nil {
		return err
	}
	if err := r.saveEmbeddings(it); err != nil {
		return err
	}
	if err := r.saveVideos(it); err != nil {
		return err
	}
	it.next.memory.Remember(it.iteration, r.session.Sched.EncoderSpec.Dimension, rolloutsOf(it.samples))
	if it.next.Solved++; it.updated || !allSolved(it.rolled, r.cfg.Rollout.KeepHigh) {
		it.next.Solved = 0
	}
	r.state = &it.next
	return r.finish(ctx, m, it.start, func(m store.Metrics) { r.Terminal.Committed(m, r.cfg.Run.Iterations) })
}

// finish evaluates the policy when an evaluation is due, commits, and shows the metrics.
func (r *run) finish(ctx context.Context, m store.Metrics, start time.Time, show func(store.Metrics)) error {
	i := m.Iteration
	if n := r.cfg.Run.EvalEvery; n > 0 && (i%n == 0 || i == r.cfg.Run.Iterations || r.solved()) {
		if err := r.evaluate(ctx, &m); err != nil {
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
	show(m)
	if r.tb != nil {
		if err := r.tb.Add(m, time.Now()); err != nil {
			return err
		}
	}
	return report.WriteRun(r.folder)
}

// allSolved reports whether the success rate of every group is 1 or above the largest rate at which groups are kept.
func allSolved(rolled *rollout.Result, high float64) bool {
	for _, g := range rolled.Groups {
		if rate := float64(g.Successes) / float64(max(1, len(g.Episodes))); rate <= high && rate < 1 {
			return false
		}
	}
	return true
}
