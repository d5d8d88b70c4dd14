package session

import (
	"slices"
	"sort"

	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Space describes what the numbers of the session's trajectories mean.
func (s *Session) Space(cameras []string) dataset.Space {
	e := s.Sched.EnvSpec
	return dataset.Space{Env: s.EnvInfo.Name, Action: e.Action, Proprio: e.Proprio, Cameras: cameras,
		RecordCamera: e.RecordCamera}
}

// TrajectoryCameras returns the cameras of a run's trajectories: those of the policy, and the recording camera,
// which other policies may read.
func (s *Session) TrajectoryCameras() []string {
	out := slices.Clone(s.PolicyCameras)
	if c := s.Sched.EnvSpec.RecordCamera; c != "" && !slices.Contains(out, c) {
		out = append(out, c)
	}
	return out
}

// Groups returns the number of groups per iteration. The default depends on the env: more when one process has
// many lanes.
func (s *Session) Groups() int {
	switch n := s.Config.Rollout.Groups; {
	case n > 0:
		return n
	case s.EnvInfo.MaxLanes > 1:
		return 16
	}
	return 4
}

// ExtraGroups returns how many groups an iteration may roll out in addition to [Session.Groups].
func (s *Session) ExtraGroups() int {
	if n := s.Config.Rollout.ExtraGroups; n >= 0 {
		return n
	}
	return (s.Groups() + 1) / 2
}

// Rules returns the rules that training and evaluation share. encode embeds the episodes; record records their
// frames.
func (s *Session) Rules(encode, record bool) rollout.Rules {
	c := s.Config.Rollout
	r := rollout.Rules{Observe: s.PolicyCameras, MaxSteps: c.MaxSteps, Temperature: c.Temperature, Encode: encode}
	if encode || record {
		r.RecordCamera, r.RecordEvery = s.Sched.EnvSpec.RecordCamera, c.RecordEvery
	}
	switch c.EqualLength {
	case "cut":
		r.EqualLength.Mode = rollout.Cut
	case "hold":
		r.EqualLength.Mode = rollout.Hold
	}
	return r
}

// Trials returns the n trials of an evaluation, spread evenly over the tasks of a side and their start states.
// No start state is repeated before all are used. With n = 0 each start state is used once. With fewer trials
// than tasks, the tasks are a sample, see sampleTasks.
func (s *Session) Trials(side string, n int) []rollout.Trial {
	var byTask [][]rollout.Trial
	total := 0
	for _, t := range s.sampleTasks(side, n) {
		states := slices.Clone(s.StartStates(t, side))
		if states == nil {
			states = make([]int, t.StartStates)
			for i := range states {
				states[i] = i
			}
		}
		// The order depends on the seed, so that any part of the list is a fair sample.
		key := func(state int) uint64 { return rollout.Seed(s.Config.Run.Seed, "trial order", t.ID, state) }
		sort.SliceStable(states, func(a, b int) bool { return key(states[a]) < key(states[b]) })
		var list []rollout.Trial
		for _, st := range states {
			list = append(list, rollout.Trial{Task: t, StartState: st})
		}
		byTask = append(byTask, list)
		total += len(list)
	}
	if n == 0 {
		n = total
	}
	if total == 0 {
		return nil
	}
	var out []rollout.Trial
	for i := 0; len(out) < n; i++ {
		list := byTask[i%len(byTask)]
		k := i / len(byTask)
		tr := list[k%len(list)]
		tr.Repeat = k / len(list)
		if n <= total && tr.Repeat > 0 { // this task has no unused start state, and other tasks have
			continue
		}
		out = append(out, tr)
	}
	return out
}

// sampleTasks returns n tasks of a side, all of them when there are fewer. The sample depends on the seed and
// contains equally many tasks of each dimension, or of each suite for tasks without dimensions. It is in the
// env's order.
func (s *Session) sampleTasks(side string, n int) []env.Task {
	tasks := slices.DeleteFunc(slices.Clone(s.Tasks),
		func(t env.Task) bool { states := s.StartStates(t, side); return states != nil && len(states) == 0 })
	if n == 0 || n >= len(tasks) {
		return tasks
	}
	strata := map[string][]string{}
	var names []string
	for _, t := range tasks {
		name := t.Tags["dimension"]
		if name == "" {
			name = t.Suite
		}
		if strata[name] == nil {
			names = append(names, name)
		}
		strata[name] = append(strata[name], t.ID)
	}
	key := func(id string) uint64 { return rollout.Seed(s.Config.Run.Seed, "trial task", id) }
	for _, ids := range strata {
		sort.Slice(ids, func(a, b int) bool { return key(ids[a]) < key(ids[b]) })
	}
	chosen := map[string]bool{}
	for k := 0; len(chosen) < n; k++ {
		for _, name := range names {
			if k < len(strata[name]) && len(chosen) < n {
				chosen[strata[name][k]] = true
			}
		}
	}
	return slices.DeleteFunc(tasks, func(t env.Task) bool { return !chosen[t.ID] })
}

// DemonstrationPlan plans imitate.demos demonstrations of each task with the given cameras.
func (s *Session) DemonstrationPlan(tasks []env.Task, cameras []string) rollout.DemoPlan {
	c := s.Config
	plan := rollout.DemoPlan{Seed: c.Run.Seed, Noise: float32(c.Imitate.Noise), Observe: cameras,
		MaxSteps: c.Rollout.MaxSteps}
	for _, t := range tasks {
		states := s.StartStates(t, c.Rollout.StartStates)
		for k := range c.Imitate.Demos {
			// Spread over the start states, none of which is repeated before all are used.
			n := t.StartStates
			if states != nil {
				n = len(states)
			}
			at := (int(rollout.Seed(c.Run.Seed, "demonstration", t.ID)%uint64(n)) + k) % n
			if states != nil {
				at = states[at]
			}
			plan.Trials = append(plan.Trials, rollout.Trial{Task: t, StartState: at, Repeat: k / n})
		}
	}
	return plan
}
