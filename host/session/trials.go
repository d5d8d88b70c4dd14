package session

import (
	"slices"
	"sort"

	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Space is what the numbers of a session's trajectories mean.
func (s *Session) Space(cameras []string) dataset.Space {
	e := s.Sched.EnvSpec
	return dataset.Space{Env: s.EnvInfo.Name, Action: e.Action, Proprio: e.Proprio, Cameras: cameras, RecordCamera: e.RecordCamera}
}

// TrajectoryCameras are those that a run's trajectories hold: the policy's, and the recording camera for other policies.
func (s *Session) TrajectoryCameras() []string {
	out := slices.Clone(s.PolicyCameras)
	if c := s.Sched.EnvSpec.RecordCamera; c != "" && !slices.Contains(out, c) {
		out = append(out, c)
	}
	return out
}

// Groups is the number of groups an iteration; where the configuration leaves it open, as many as the env's speed suggests.
func (s *Session) Groups() int {
	switch n := s.Config.Rollout.Groups; {
	case n > 0:
		return n
	case s.EnvInfo.MaxLanes > 1:
		return 16
	}
	return 4
}

// ExtraGroups is how many groups an iteration may roll beyond groups().
func (s *Session) ExtraGroups() int {
	if n := s.Config.Rollout.ExtraGroups; n >= 0 {
		return n
	}
	return (s.Groups() + 1) / 2
}

// Rules are the parts of a rollout that training and evaluation share.
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

// Trials lists an evaluation's episodes: n of them spread evenly over tasks and start states, each start state once before any is used twice; n = 0: each
// start state of the side once. Of more than n tasks a sample is taken, see sampleTasks.
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
		// in an order by seed, so that a part of them is a fair sample
		sort.SliceStable(states, func(a, b int) bool {
			return rollout.Seed(s.Config.Run.Seed, "trial order", t.ID, states[a]) < rollout.Seed(s.Config.Run.Seed, "trial order", t.ID, states[b])
		})
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
		if n <= total && tr.Repeat > 0 { // tasks with fewer start states are through; nothing is rolled twice while there is something else
			continue
		}
		out = append(out, tr)
	}
	return out
}

// sampleTasks picks n of the tasks on a side, if there are more, by seed: as many of each dimension, or suite where there are no dimensions, as of any other. They
// stay in the env's order.
func (s *Session) sampleTasks(side string, n int) []env.Task {
	tasks := slices.DeleteFunc(slices.Clone(s.Tasks), func(t env.Task) bool { states := s.StartStates(t, side); return states != nil && len(states) == 0 })
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
	picked := map[string]bool{}
	for k := 0; len(picked) < n; k++ {
		for _, name := range names {
			if k < len(strata[name]) && len(picked) < n {
				picked[strata[name][k]] = true
			}
		}
	}
	return slices.DeleteFunc(tasks, func(t env.Task) bool { return !picked[t.ID] })
}

// DemonstrationPlan is [imitate] demos demonstrations of each task, seen through some cameras.
func (s *Session) DemonstrationPlan(tasks []env.Task, cameras []string) rollout.DemoPlan {
	c := s.Config
	plan := rollout.DemoPlan{Seed: c.Run.Seed, Noise: float32(c.Imitate.Noise), Observe: cameras, MaxSteps: c.Rollout.MaxSteps}
	for _, t := range tasks {
		states := s.StartStates(t, c.Rollout.StartStates)
		for k := range c.Imitate.Demos {
			// spread over the start states, each once before any is used twice
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
