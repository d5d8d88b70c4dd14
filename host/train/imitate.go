package train

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// teacher is a source of demonstrations.
type teacher struct {
	name           string // in messages
	demonstrations iter.Seq2[policy.Demonstration, error]
	total          int
	close          func()

	// What was seen so far: demonstrations, those that failed, those that failed without an action, and the env
	// steps of the others.
	seen, failed, idle, steps int
}

// imitate trains the policy on the successful demonstrations of the env's expert, or of imitate.data.
func (r *run) imitate(ctx context.Context) error {
	client, err := r.imitator(ctx)
	if err != nil {
		return err
	}
	t, err := r.openTeacher(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	start := time.Now()
	r.status = report.Status{Iterations: r.cfg.Run.Iterations, Phase: "imitate"}
	var lastLoss float64
	r.state.UpdateID++
	request := policy.Imitate{ID: r.state.UpdateID, Seed: rollout.Seed(r.cfg.Run.Seed, "imitate"),
		Steps: r.cfg.Imitate.Steps}
	err = client.Imitate(ctx, request, r.successesOf(t), func(done, loss float64) {
		lastLoss = loss
		r.status.Done, r.status.Total = int(1000*done), 1000
		r.Terminal.Update(r.status)
	})
	if err != nil {
		return err
	}
	if err := checkLoss(lastLoss, r.session.Sched.PolicyName); err != nil {
		return err
	}
	if t.failed > 0 {
		r.Terminal.Warn("%s failed in %d demonstrations, which were left out", t.name, t.failed)
	}
	if r.cfg.Imitate.Data == "" {
		r.state.EnvSteps += int64(t.steps)
	}
	took := time.Since(start).Seconds()
	r.event(store.Event{Type: store.Imitated,
		Message: fmt.Sprintf("%d steps of demonstrations, last loss %.4g", t.steps, lastLoss),
		Data:    map[string]any{"demo_steps": t.steps, "loss": lastLoss, "failed": t.failed, "seconds": took}})
	r.Terminal.Line("imitated %d steps of demonstrations in %.1f s, last loss %.4g", t.steps, took, lastLoss)
	return nil
}

// imitator returns the policy, if it can learn from the demonstrations that the configuration asks for.
func (r *run) imitator(ctx context.Context) (policy.Imitator, error) {
	s := r.session.Sched
	if !s.PolicySpec.CanImitate {
		return nil, plugins.Errorf(plugins.Invalid, "%s cannot learn from demonstrations, and no checkpoint is given",
			s.PolicyName).WithHint("give a trained policy: --checkpoint FOLDER")
	}
	if !s.EnvSpec.Expert && r.cfg.Imitate.Data == "" {
		return nil, plugins.Errorf(plugins.Invalid,
			"%s has no expert to demonstrate, and no checkpoint is given", s.EnvName).
			WithHint("give a trained policy, --checkpoint FOLDER, or recorded demonstrations, --data FOLDER, or " +
				"start from " +
				"fresh weights: --set imitate.demos=0")
	}
	client, _, err := s.Policy.Client(ctx)
	if err != nil {
		return nil, err
	}
	imitator, ok := client.(policy.Imitator)
	if !ok {
		return nil, plugins.Errorf(plugins.Unsupported, "%s cannot learn from demonstrations", s.PolicyName).
			WithHint("give a trained policy: --checkpoint FOLDER")
	}
	return imitator, nil
}

func (r *run) openTeacher(ctx context.Context) (*teacher, error) {
	c := r.cfg.Imitate
	if c.Data == "" {
		r.Terminal.Line("no checkpoint given: first imitating %s of the env's expert per task",
			report.Count(c.Demos, "demonstration"))
		return &teacher{name: "the env's expert", demonstrations: r.expertDemonstrations(ctx),
			total: len(r.tasks) * c.Demos, close: func() {}}, nil
	}
	set, episodes, err := r.openData(ctx, c.Data, r.cfg.Origin("imitate.data"))
	if err != nil {
		return nil, err
	}
	if episodes, err = r.successesIn(set, episodes); err != nil {
		set.Close()
		return nil, err
	}
	r.Terminal.Line("imitating %s of %s (%s)", report.Count(len(episodes), "episode"), c.Data, set.Form())
	return &teacher{name: c.Data, demonstrations: r.recorded(ctx, set, episodes, nil), total: len(episodes),
		close: func() { set.Close() }}, nil
}

// successesOf yields the successful demonstrations of a teacher. It ends with an error when there are none.
func (r *run) successesOf(t *teacher) iter.Seq2[policy.Demonstration, error] {
	return func(yield func(policy.Demonstration, error) bool) {
		for d, err := range t.demonstrations {
			if err == nil {
				t.seen++
				if !d.Success {
					t.failed++
					if d.Actions.Shape[0] == 0 {
						t.idle++
					}
					continue
				}
				r.began = true
				t.steps += d.Actions.Shape[0]
				// For the many tasks of a benchmark this takes longer than the training.
				r.Terminal.Update(report.Status{Iterations: r.cfg.Run.Iterations, Phase: "demonstrate", Done: t.seen,
					Total: t.total, EnvSteps: int64(t.steps), Successes: t.seen - t.failed, Episodes: t.seen})
			}
			if !yield(d, err) {
				return
			}
		}
		if t.steps == 0 {
			if err := r.noSuccess(t); err != nil {
				yield(policy.Demonstration{}, err)
			}
		}
	}
}

// noSuccess is the error of a teacher without a successful demonstration.
func (r *run) noSuccess(t *teacher) error {
	if t.failed == 0 || t.idle < t.failed {
		return plugins.Errorf(plugins.Invalid, "%s failed in all %d demonstrations", t.name, t.failed).
			WithHint("use other start states (another seed), or less noise: --set imitate.noise=0")
	}
	in, tasks := "all "+report.Count(t.failed, "demonstration"), "any of the tasks, such as "+r.tasks[0].ID
	if t.failed == 1 {
		in, tasks = "the only demonstration", r.tasks[0].ID
	}
	return plugins.Errorf(plugins.Invalid,
		"%s gave up before its first action in %s: it does not know %s", t.name, in, tasks).
		WithPlace("%s", r.session.Sched.EnvName).
		WithHint("choose tasks that it knows, --task PATTERN (`srpo plugin list %s` lists them), or give a "+
			"trained policy, "+
			"--checkpoint FOLDER, or recorded demonstrations, --data FOLDER", r.cfg.Run.Env)
}

// expertDemonstrations yields the demonstrations of the env's expert for every task, with the policy's cameras
// and the recording camera.
func (r *run) expertDemonstrations(ctx context.Context) iter.Seq2[policy.Demonstration, error] {
	s := r.session
	cameras := s.PolicyCameras
	if c := s.Sched.EnvSpec.RecordCamera; c != "" && !slices.Contains(cameras, c) {
		cameras = append([]string{c}, cameras...)
	}
	return s.Sched.Demonstrations(ctx, s.DemonstrationPlan(r.tasks, cameras))
}
