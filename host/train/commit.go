package train

import (
	"context"
	"fmt"
	"time"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/stats"
	"github.com/srpo-dev/srpo/host/store"
)

// evaluate rolls out greedy episodes on the side of the split that is not trained on, and adds the result to m.
func (r *run) evaluate(ctx context.Context, m *store.Metrics) error {
	s, start, i := r.session, time.Now(), m.Iteration
	side := session.EvaluationSide(r.cfg.Rollout.StartStates)
	rules := s.Rules(false, false)
	rules.Greedy = true
	e := rollout.Evaluation{Rules: rules, Name: fmt.Sprintf("eval/%06d", i), Seed: r.cfg.Run.Seed,
		Trials: s.Trials(side, r.cfg.Run.EvalEpisodes)}
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
	ev := store.Evaluation{EnvSteps: r.state.EnvSteps, Episodes: len(episodes), StartStates: side,
		ByTask: map[string]float64{}}
	n := map[string]float64{}
	for _, ep := range episodes {
		n[ep.Task]++
		if ep.Invalid != nil {
			r.Terminal.Warn("%v; the episode counts as a failure", ep.Invalid)
		}
		if ep.Success {
			ev.SuccessRate++
			ev.ByTask[ep.Task]++
		}
	}
	ev.SuccessRate /= float64(max(1, len(episodes)))
	for t := range n {
		ev.ByTask[t] /= n[t]
	}
	m.SecondsByPhase["eval"] = time.Since(start).Seconds()
	m.Extra["eval_success_rate"], m.Extra["eval_episodes"] = ev.SuccessRate, float64(len(episodes))
	r.event(store.Event{Type: store.Evaluated, Iteration: i, Evaluation: &ev})
	low, high := stats.Wilson(ev.SuccessRate, len(episodes))
	r.Terminal.Line(
		"evaluation after iteration %d: %.0f %% of %d greedy episodes on %s start states (95 %%: %.0f to %.0f)",
		i,
		100*ev.SuccessRate,
		len(episodes),
		side,
		100*low,
		100*high,
	)
	return nil
}

// commit makes the policy, the state of the host, the metrics and the events durable in one step.
func (r *run) commit(ctx context.Context, i int, m *store.Metrics) error {
	pending, err := r.folder.Begin(i)
	if err != nil {
		return err
	}
	defer pending.Abort()
	p, _, err := r.session.Sched.ActingPolicy(ctx)
	if err != nil {
		return err
	}
	if err := p.Save(ctx, pending.PolicyDir()); err != nil {
		return r.orPolicyLost(err)
	}
	if err := r.state.write(pending); err != nil {
		return err
	}
	r.event(store.Event{Type: store.Committed, Iteration: i})
	if err := pending.Commit(m); err != nil {
		return err
	}
	r.last = r.folder.Committed()
	return r.session.UseWeights(ctx, r.last.PolicyDir())
}
