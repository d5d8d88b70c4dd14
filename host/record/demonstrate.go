package record

import (
	"context"
	"os"
	"path/filepath"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// DemonstrateOptions say what [Demonstrate] is to write.
type DemonstrateOptions struct {
	// Config names env, tasks, their settings, seed, [imitate] demos and noise, and rollout.start_states and max_steps.
	Config   *config.Config
	Launch   session.Launcher
	Terminal *report.Terminal
	// Dir gets the trajectories.
	Dir string
	// Check may refuse what the trajectories will hold, before anything is rolled; nil: nothing is refused.
	Check func(dataset.Space) error
}

// DemonstrateResult is what the demonstrations came to; Steps are env steps of those that were written.
type DemonstrateResult struct{ Episodes, Failed, Steps int }

// Demonstrate writes the demonstrations that `srpo imitate` would train on, with every camera, as a folder of trajectories: those of the env's expert, the same start
// states, seeds and noise. Failed ones are left out; it is an error when all fail.
func Demonstrate(ctx context.Context, o DemonstrateOptions) (DemonstrateResult, error) {
	var out DemonstrateResult
	if err := (session.Needs{}).Check(o.Config, o.Launch); err != nil {
		return out, err
	}
	s, err := session.Open(ctx, o.Config, o.Launch, session.Needs{}, filepath.Join(o.Dir, "plugins"), func(ev supervise.Event) {
		if ev.What == "died" || ev.What == "replaced" {
			o.Terminal.Warn("%s %s: %s", ev.Plugin, ev.What, ev.Cause)
		}
	})
	if err != nil {
		return out, err
	}
	defer s.Close()
	if !s.Sched.EnvSpec.Expert {
		return out, plugins.Errorf(plugins.Invalid, "%s has no expert to demonstrate", s.Sched.EnvName).WithHint("srpo record --actor policy --trajectories records a policy, and srpo data export writes that")
	}
	if o.Config.Imitate.Demos == 0 {
		return out, plugins.Errorf(plugins.Invalid, "no demonstration is asked for").WithPlace("%s", o.Config.Origin("imitate.demos")).WithHint("--set imitate.demos=50")
	}
	var cameras []string
	for _, c := range s.Sched.EnvSpec.Cameras {
		cameras = append(cameras, c.Name)
	}
	space := s.Space(cameras)
	if o.Check != nil {
		if err := o.Check(space); err != nil {
			return out, err
		}
	}
	r := &recording{dir: o.Dir}
	text, err := dataset.EncodeSpace(space, 1)
	if err == nil {
		err = r.save(dataset.Dir, dataset.SpaceFile, text)
	}
	if err != nil {
		return out, err
	}
	tasks, err := s.TasksOn(o.Config.Rollout.StartStates)
	if err != nil {
		return out, err
	}
	plan := s.DemonstrationPlan(tasks, cameras)
	n := 0
	for d, err := range s.Sched.Demonstrations(ctx, plan) {
		if err != nil {
			return out, err
		}
		task := plan.Trials[n].Task.ID
		n++
		if d.Success {
			out.Episodes, out.Steps = out.Episodes+1, out.Steps+d.Actions.Shape[0]
			if err := dataset.Save(d.ID, task, d, r.save); err != nil {
				return out, err
			}
		} else {
			out.Failed++
		}
		o.Terminal.Update(report.Status{Phase: "demonstrate", Done: n, Total: len(plan.Trials), EnvSteps: int64(out.Steps), Successes: out.Episodes, Episodes: n})
	}
	if out.Episodes == 0 {
		return out, plugins.Errorf(plugins.Invalid, "the env's expert failed in all %d demonstrations", out.Failed).WithHint("other start states (another seed), or less noise: --set imitate.noise=0")
	}
	return out, nil
}

// DemonstrationsFolder makes a folder for [Demonstrate] beside the one that the data set will be; remove it when that is written.
func DemonstrationsFolder(out string) (string, error) {
	parent := filepath.Dir(filepath.Clean(out))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", store.DiskError("make", parent, err)
	}
	dir, err := os.MkdirTemp(parent, ".tmp-"+filepath.Base(out)+"-demos-")
	return dir, store.DiskError("make", parent, err)
}
