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
	"github.com/srpo-dev/srpo/plugins"
)

// DemonstrateOptions configure [Demonstrate].
type DemonstrateOptions struct {
	// Config names env, tasks, their settings, seed, [imitate] demos and noise, and rollout.start_states and
	// max_steps.
	Config   *config.Config
	Launch   session.Launcher
	Terminal *report.Terminal
	// Dir is the folder of the trajectories.
	Dir string
	// Check may refuse what the trajectories will contain before anything is rolled out; nil: nothing is refused.
	Check func(dataset.Space) error
}

// DemonstrateResult counts the demonstrations. Steps are env steps of those that were written.
type DemonstrateResult struct{ Episodes, Failed, Steps int }

// Demonstrate writes the demonstrations that `srpo imitate` would train on as a folder of trajectories with
// every camera: the env's expert with the same start states, seeds and noise. Failed ones are left out. It is
// an error when all fail.
func Demonstrate(ctx context.Context, o DemonstrateOptions) (DemonstrateResult, error) {
	var out DemonstrateResult
	var needs session.Needs
	if err := needs.Check(o.Config, o.Launch); err != nil {
		return out, err
	}
	logs := filepath.Join(o.Dir, "plugins")
	s, err := session.Open(ctx, o.Config, o.Launch, needs, logs, warnAboutPlugins(o.Terminal))
	if err != nil {
		return out, err
	}
	defer s.Close()
	if !s.Sched.EnvSpec.Expert {
		return out, plugins.Errorf(plugins.Invalid, "%s has no expert to demonstrate", s.Sched.EnvName).
			WithHint("record a policy with srpo record --actor policy --trajectories, and write it with srpo " +
				"data export")
	}
	if o.Config.Imitate.Demos == 0 {
		return out, plugins.Errorf(plugins.Invalid, "no demonstrations are asked for").
			WithPlace("%s", o.Config.Origin("imitate.demos")).WithHint("for example --set imitate.demos=50")
	}
	var cameras []string
	for _, c := range s.Sched.EnvSpec.Cameras {
		cameras = append(cameras, c.Name)
	}
	space, f := s.Space(cameras), &folder{dir: o.Dir}
	if o.Check != nil {
		if err := o.Check(space); err != nil {
			return out, err
		}
	}
	if err := f.saveSpace(space, 1); err != nil {
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
		if d.Success {
			out.Episodes, out.Steps = out.Episodes+1, out.Steps+d.Actions.Shape[0]
			if err := dataset.Save(d.ID, plan.Trials[n].Task.ID, d, f.save); err != nil {
				return out, err
			}
		} else {
			out.Failed++
		}
		n++
		o.Terminal.Update(
			report.Status{Phase: "demonstrate", Done: n, Total: len(plan.Trials), EnvSteps: int64(out.Steps),
				Successes: out.Episodes, Episodes: n},
		)
	}
	if out.Episodes == 0 {
		return out, plugins.Errorf(plugins.Invalid, "the env's expert failed in all %d demonstrations", out.Failed).
			WithHint("use other start states (another seed), or less noise: --set imitate.noise=0")
	}
	return out, nil
}

// DemonstrationsFolder creates a folder for [Demonstrate] next to the future data set out. The caller removes
// it when the data set is written.
func DemonstrationsFolder(out string) (string, error) {
	parent := filepath.Dir(filepath.Clean(out))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", store.DiskError("make", parent, err)
	}
	dir, err := os.MkdirTemp(parent, ".tmp-"+filepath.Base(out)+"-demos-")
	return dir, store.DiskError("make", parent, err)
}
