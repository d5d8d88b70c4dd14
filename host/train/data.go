package train

import (
	"context"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// openData opens a folder of recorded episodes whose actions fit the env. It also returns the episodes of the run's
// tasks. from is the setting that names the folder.
func (r *run) openData(ctx context.Context, dir string, from config.Origin) (dataset.Set, []int, error) {
	c := r.cfg.Data
	wanted := slices.Clone(r.session.PolicyCameras)
	if camera := r.session.Sched.EnvSpec.RecordCamera; camera != "" {
		others := slices.DeleteFunc(wanted, func(x string) bool { return x == camera })
		wanted = append([]string{camera}, others...)
	}
	set, err := dataset.Open(ctx, dir, dataset.Options{Cameras: c.Cameras, RequestedCameras: wanted, Action: c.Action,
		State: c.State, Success: c.Success, RecordEvery: r.cfg.Rollout.RecordEvery, Reader: r.Reader})
	if err != nil {
		if e := plugins.AsError(err); e.Place == "" {
			return nil, nil, e.WithPlace("%s", from)
		}
		return nil, nil, err
	}
	for _, warning := range set.Warnings() {
		r.Terminal.Warn("%s: %s", dir, warning)
	}
	err = r.checkActions(set, dir)
	var episodes []int
	if err == nil {
		episodes, err = r.episodesOfTasks(set, dir)
	}
	if err != nil {
		set.Close()
		return nil, nil, err
	}
	return set, episodes, nil
}

// checkActions refuses recorded actions that are not those of the env.
func (r *run) checkActions(set dataset.Set, dir string) error {
	space, have := set.Space(), r.session.Sched.EnvSpec.Action
	if space.Action.Dim() == 0 {
		return nil
	}
	names := func(list []string) string { return strings.Join(list, ", ") }
	name := r.session.Sched.EnvName
	if n := space.Action.Dim(); n != have.Dim() {
		return plugins.Errorf(plugins.Mismatch, "its actions have %d numbers (%s), those of %s %d (%s)", n,
			names(space.Action.Names), name, have.Dim(), names(have.Names)).WithPlace("%s", dir).
			WithHint("name the env in which they were recorded: --env NAME")
	}
	if space.Env != "" && !slices.Equal(space.Action.Names, have.Names) {
		return plugins.Errorf(plugins.Mismatch,
			"its actions are %s, those of %s are %s", names(space.Action.Names), name,
			names(have.Names)).
			WithPlace("%s", dir).
			WithHint("name the env in which they were recorded: --env %s", space.Env)
	}
	return nil
}

// episodesOfTasks returns the episodes of the run's tasks. Episodes that were recorded in the run's env have the id of
// their task. Others, as in LeRobot data sets, belong to the tasks with their instruction. When the set has no task of
// the env, because it comes from elsewhere, it returns all episodes with a warning.
func (r *run) episodesOfTasks(set dataset.Set, dir string) ([]int, error) {
	sameEnv := set.Space().Env != "" && set.Space().Env == r.session.EnvInfo.Name
	key := func(id, instruction string) string {
		if sameEnv {
			return id
		}
		return normalised(instruction)
	}
	ofRun, ofEnv := map[string]bool{}, map[string]string{} // ofEnv: the first task's id
	for _, t := range r.tasks {
		ofRun[key(t.ID, t.Instruction)] = true
	}
	for _, t := range r.session.EnvTasks {
		if k := key(t.ID, t.Instruction); ofEnv[k] == "" {
			ofEnv[k] = t.ID
		}
	}
	var all, matching []int
	others := map[string]bool{} // tasks of the env
	for i, e := range set.Episodes() {
		all = append(all, i)
		k := key(e.Task, e.Instruction)
		switch id := ofEnv[k]; {
		case k == "":
		case ofRun[k]:
			matching = append(matching, i)
		case id != "":
			others[id] = true
		case sameEnv: // the env's tasks are others today
			others[e.Task] = true
		}
	}
	switch {
	case len(matching) > 0:
		if n := len(all) - len(matching); n > 0 {
			r.Terminal.Warn("left out: %s of other tasks", report.Count(n, "episode"))
		}
		return matching, nil
	case len(others) > 0:
		names := slices.Sorted(maps.Keys(others))
		return nil, plugins.Errorf(plugins.Mismatch, "its episodes are of other tasks: %s",
			strings.Join(names[:min(3, len(names))], ", ")).WithPlace("%s", dir).WithHint("--task '%s'", names[0])
	}
	r.Terminal.Warn("%s: no instruction is that of a task of %s: all %s are taken", dir,
		r.session.Sched.EnvName, report.Count(len(all), "episode"))
	return all, nil
}

// normalised returns an instruction in lower case with single spaces.
func normalised(instruction string) string {
	return strings.Join(strings.Fields(strings.ToLower(instruction)), " ")
}

// successesIn returns the successful ones of the episodes, at most imitate.demos per task when that is set.
func (r *run) successesIn(set dataset.Set, episodes []int) ([]int, error) {
	limit := math.MaxInt
	if n := r.cfg.Imitate.Demos; n > 0 && r.cfg.Chosen("imitate.demos") {
		limit = n
	}
	var out []int
	byTask := map[string]int{}
	for _, i := range episodes {
		e := set.Episodes()[i]
		if !isSuccess(e) {
			continue
		}
		task := e.Task
		if set.Space().Env == "" { // an instruction
			task = normalised(task)
		}
		if byTask[task]++; byTask[task] <= limit {
			out = append(out, i)
		}
	}
	if len(out) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "none of the %d episodes is a success", len(episodes)).
			WithPlace("%s", r.cfg.Imitate.Data).
			WithHint("record successes; for a LeRobot data set of demonstrations: --set data.success=all")
	}
	return out, nil
}

func isSuccess(e dataset.Episode) bool { return e.Success != nil && *e.Success }

// recorded yields episodes of a set as demonstrations with the policy's cameras. weights are by episode; nil: none.
func (r *run) recorded(
	ctx context.Context,
	set dataset.Set,
	episodes []int,
	weights map[int][]float32,
) iter.Seq2[policy.Demonstration, error] {
	return func(yield func(policy.Demonstration, error) bool) {
		for _, i := range episodes {
			d, err := set.Demonstration(ctx, i, r.session.PolicyCameras)
			if ctx.Err() != nil {
				err = plugins.Errorf(plugins.Canceled, "stopped while episodes were read")
			}
			if err == nil {
				err = r.checkDemonstration(d)
			}
			if weights != nil {
				d.Weights = weights[i]
			}
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// checkDemonstration refuses actions or proprio of another size than the env's.
func (r *run) checkDemonstration(d policy.Demonstration) error {
	s := r.session.Sched
	if dim := s.EnvSpec.Action.Dim(); len(d.Actions.Shape) != 2 || d.Actions.Shape[1] != dim {
		return plugins.Errorf(plugins.Mismatch,
			"actions are %v, those of %s have %d numbers", d.Actions.Shape, s.EnvName, dim).
			WithPlace("episode %s", d.ID).
			WithHint("name the env in which they were recorded: --env NAME")
	}
	want, have := len(s.EnvSpec.Proprio), 0
	if !d.Proprio.IsZero() {
		have = d.Proprio.Shape[1]
	}
	if !s.PolicySpec.Proprio || have == want {
		return nil
	}
	return plugins.Errorf(plugins.Mismatch,
		"its proprio has %d numbers, that of %s has %d (%s)", have, s.EnvName, want,
		strings.Join(s.EnvSpec.Proprio, ", ")).
		WithPlace("episode %s", d.ID).
		WithHint("record with this env; for a LeRobot data set name the feature: --set data.state=FEATURE")
}
