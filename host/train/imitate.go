package train

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// imitate makes the policy by supervised learning on the env's expert.
func (r *run) imitate(ctx context.Context) error {
	s, c := r.session, r.cfg.Imitate
	if !s.Sched.PolicySpec.CanImitate {
		return plugins.Errorf(plugins.Invalid, "%s cannot learn from demonstrations, and no checkpoint is given", s.Sched.PolicyName).WithHint("give a trained policy: --checkpoint FOLDER")
	}
	if !s.Sched.EnvSpec.Expert && c.Data == "" {
		return plugins.Errorf(plugins.Invalid, "%s has no expert to demonstrate, and no checkpoint is given", s.Sched.EnvName).
			WithHint("give a trained policy, --checkpoint FOLDER, or recorded demonstrations, --data FOLDER, or start from fresh weights: --set imitate.demos=0")
	}
	client, _, err := s.Sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	im, ok := client.(policy.Imitator)
	if !ok {
		return plugins.Errorf(plugins.Unsupported, "%s cannot learn from demonstrations", s.Sched.PolicyName).WithHint("give a trained policy: --checkpoint FOLDER")
	}
	source, whose, total := r.demonstrations(ctx), "the env's expert", len(r.tasks)*c.Demos
	if c.Data == "" {
		r.Terminal.Line("no checkpoint given: imitating %s a task of the env's expert first", report.Count(c.Demos, "demonstration"))
	} else {
		set, picked, err := r.openData(ctx, c.Data, r.cfg.Origin("imitate.data"))
		if err != nil {
			return err
		}
		defer set.Close()
		if picked, err = r.successes(set, picked); err != nil {
			return err
		}
		source, whose, total = r.recorded(ctx, set, picked, nil), c.Data, len(picked)
		r.Terminal.Line("imitating %s of %s (%s)", report.Count(len(picked), "episode"), c.Data, set.Form())
	}
	start := time.Now()
	r.status = report.Status{Iterations: r.cfg.Run.Iterations, Phase: "imitate"}
	steps, seen, failed, idle := 0, 0, 0, 0
	demos := func(yield func(policy.Demonstration, error) bool) {
		for d, err := range source {
			if err == nil && !d.Success {
				// an expert that fails has nothing to teach
				seen++
				failed++
				if d.Actions.Shape[0] == 0 {
					idle++
				}
				continue
			}
			if err == nil {
				seen++
				r.began = true
				steps += d.Actions.Shape[0]
				// Of many tasks, as of a benchmark's variants, this takes longer than the learning.
				r.Terminal.Update(report.Status{Iterations: r.cfg.Run.Iterations, Phase: "demonstrate", Done: seen, Total: total, EnvSteps: int64(steps), Successes: seen - failed, Episodes: seen})
			}
			if !yield(d, err) {
				return
			}
		}
		switch {
		case steps == 0 && failed > 0 && idle == failed:
			in, tasks := "all "+report.Count(failed, "demonstration"), "any of the tasks, such as "+r.tasks[0].ID
			if failed == 1 {
				in, tasks = "the only demonstration", r.tasks[0].ID
			}
			e := plugins.Errorf(plugins.Invalid, "%s gave up before its first action in %s: it does not know %s", whose, in, tasks).WithPlace("%s", s.Sched.EnvName)
			yield(policy.Demonstration{}, e.WithHint("choose tasks that it knows, --task PATTERN (`srpo plugin list %s` says what there is), or give a trained policy, --checkpoint FOLDER, or recorded demonstrations, --data FOLDER",
				r.cfg.Run.Env))
		case steps == 0:
			yield(policy.Demonstration{}, plugins.Errorf(plugins.Invalid, "%s failed in all %d demonstrations", whose, failed).
				WithHint("other start states (another seed), or less noise: --set imitate.noise=0"))
		}
	}
	var last float64
	r.state.UpdateID++
	err = im.Imitate(ctx, policy.Imitate{ID: r.state.UpdateID, Seed: rollout.Seed(r.cfg.Run.Seed, "imitate"), Steps: c.Steps}, demos, func(done, loss float64) {
		last = loss
		r.status.Done, r.status.Total = int(1000*done), 1000
		r.Terminal.Update(r.status)
	})
	if err != nil {
		return err
	}
	if err := finiteLoss(last, s.Sched.PolicyName); err != nil {
		return err
	}
	if failed > 0 {
		r.Terminal.Warn("%s failed in %d demonstrations, which were left out", whose, failed)
	}
	if c.Data == "" {
		r.state.EnvSteps += int64(steps)
	}
	took := time.Since(start).Seconds()
	r.event(store.Event{Type: store.Imitated, Message: fmt.Sprintf("%d steps of demonstrations, last loss %.4g", steps, last),
		Data: map[string]any{"demo_steps": steps, "loss": last, "failed": failed, "seconds": took}})
	r.Terminal.Line("imitated %d steps of demonstrations in %.1f s, last loss %.4g", steps, took, last)
	return nil
}

// demonstrations yields the expert's episodes for every task.
func (r *run) demonstrations(ctx context.Context) func(yield func(policy.Demonstration, error) bool) {
	s := r.session
	cameras := s.PolicyCameras
	if cam := s.Sched.EnvSpec.RecordCamera; cam != "" && !slices.Contains(cameras, cam) {
		cameras = append([]string{cam}, cameras...)
	}
	return s.Sched.Demonstrations(ctx, s.DemonstrationPlan(r.tasks, cameras))
}
