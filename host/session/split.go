package session

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Split divides the episodes of an env into a side to train on and a side to test on. It depends on the seed.
type Split struct {
	seed     uint64
	fraction float64
	// train contains the tasks of the train side when tasks are divided; nil: the start states of each task are
	// divided.
	train map[string]bool
}

// newSplit returns the split that rollout.split describes. all are all tasks of the env, so that the side of a
// task does not depend on which tasks are chosen. tasks are the chosen ones.
func newSplit(seed uint64, c config.Rollout, all, tasks []env.Task) Split {
	s := Split{seed: seed, fraction: c.TrainFraction}
	single := !slices.ContainsFunc(tasks, func(t env.Task) bool { return t.StartStates > 1 })
	if c.Split == "start" || c.Split == "auto" && (!single || len(tasks) < 2) {
		return s
	}
	// Every suite and dimension gives the tasks with the smallest hashes, so that none is missing on a side.
	strata := map[string][]string{}
	for _, t := range all {
		key := t.Suite + "\x00" + t.Tags["dimension"]
		strata[key] = append(strata[key], t.ID)
	}
	s.train = map[string]bool{}
	for _, ids := range strata {
		sort.Slice(ids, func(a, b int) bool { return s.key(ids[a]) < s.key(ids[b]) })
		k := int(math.Round(c.TrainFraction * float64(len(ids))))
		if len(ids) > 1 {
			k = max(1, min(len(ids)-1, k))
		}
		for _, id := range ids[:k] {
			s.train[id] = true
		}
	}
	return s
}

func (s Split) key(id string) uint64 { return rollout.Seed(s.seed, "split task", id) }

// By returns what is divided, as rollout.split names it: "task" or "start".
func (s Split) By() string {
	if s.train != nil {
		return "task"
	}
	return "start"
}

// Unit returns what is divided, for messages.
func (s Split) Unit() string {
	if s.train != nil {
		return "tasks"
	}
	return "start states"
}

// States returns the start states of a task on the side "train" or "test". It returns nil for any other side: all.
func (s Split) States(t env.Task, side string) []int {
	if side != "train" && side != "test" {
		return nil
	}
	if s.train == nil {
		train, test := rollout.Split(s.seed, t, s.fraction)
		if side == "train" {
			return train
		}
		return test
	}
	states := []int{}
	if s.train[t.ID] == (side == "train") {
		for i := range t.StartStates {
			states = append(states, i)
		}
	}
	return states
}

// SideOf returns the side of a start state.
func (s Split) SideOf(t env.Task, state int) string {
	if slices.Contains(s.States(t, "train"), state) {
		return "train"
	}
	return "test"
}

// ForManifest returns the split as a manifest contains it: with both sides, unless all of it is used.
func (s Split) ForManifest(tasks []env.Task, side string) *store.StartStates {
	r := &store.StartStates{Used: side, TrainFraction: s.fraction, By: s.By()}
	if side != "train" && side != "test" {
		return r
	}
	if s.train != nil {
		for _, t := range tasks {
			if s.train[t.ID] {
				r.TrainTasks = append(r.TrainTasks, t.ID)
			} else {
				r.TestTasks = append(r.TestTasks, t.ID)
			}
		}
		return r
	}
	r.Train, r.Test = map[string][]int{}, map[string][]int{}
	for _, t := range tasks {
		r.Train[t.ID], r.Test[t.ID] = s.States(t, "train"), s.States(t, "test")
	}
	return r
}

// StartStates returns the start states of a task on a side of the split; nil: all.
func (s *Session) StartStates(t env.Task, side string) []int { return s.Split.States(t, side) }

// TasksOn returns the tasks with start states on a side of the split. It is an error when there are none.
func (s *Session) TasksOn(side string) ([]env.Task, error) {
	var out []env.Task
	for _, t := range s.Tasks {
		if states := s.StartStates(t, side); states == nil || len(states) > 0 {
			out = append(out, t)
		}
	}
	if len(out) == 0 {
		return nil, plugins.Errorf(plugins.Invalid,
			"none of the %s is on the %s side of the split", s.Split.Unit(), side).
			WithPlace("%s", s.Config.Origin("rollout.split")).
			WithHint(`use another rollout.train_fraction or seed, more tasks, or rollout.split = "task" for ` +
				`tasks of a single start state`)
	}
	return out, nil
}

// EvaluationSide returns the side that a run which trains on side evaluates on: the one that it does not train on.
func EvaluationSide(side string) string {
	switch side {
	case "train":
		return "test"
	case "test":
		return "train"
	}
	return "all"
}

// TaskWeights divides the weight that rollout.weights gives a dimension among its tasks. It returns nil without
// rollout.weights.
func (s *Session) TaskWeights(tasks []env.Task) (map[string]float64, error) {
	given := s.Config.Rollout.Weights
	if len(given) == 0 {
		return nil, nil
	}
	bad := func(hint, format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).
			WithPlace("%s", s.Config.Origin("rollout.weights")).
			WithHint("%s", hint)
	}
	count := map[string]int{}
	var names []string
	for _, t := range tasks {
		d := t.Tags["dimension"]
		if d == "" {
			return nil, bad("remove rollout.weights, or choose other tasks",
				"task %s of %s has no dimension to weigh", t.ID, s.Sched.EnvName)
		}
		if count[d] == 0 {
			names = append(names, d)
		}
		count[d]++
	}
	weight := map[string]float64{}
	for _, g := range given {
		name, text, ok := strings.Cut(g, "=")
		w, err := strconv.ParseFloat(text, 64)
		if !ok || err != nil || !(w >= 0) || math.IsInf(w, 0) {
			return nil, bad(
				`for example ["camera=2", "noise=0.5"]`,
				"%q is not DIMENSION=WEIGHT with a weight of 0 or more",
				g,
			)
		}
		if _, twice := weight[name]; twice {
			return nil, bad("give each dimension once", "the dimension %q has two weights", name)
		}
		if count[name] == 0 {
			hint := fmt.Sprintf("the dimensions are %s", strings.Join(names, ", "))
			if near := nearest.To(name, names); near != "" {
				hint = fmt.Sprintf("did you mean %q? %s", near, hint)
			}
			return nil, bad(hint, "none of the %d tasks has the dimension %q", len(tasks), name)
		}
		weight[name] = w
	}
	out, total := map[string]float64{}, 0.0
	for _, t := range tasks {
		d := t.Tags["dimension"]
		w, ok := weight[d]
		if !ok {
			w = 1
		}
		out[t.ID] = w / float64(count[d])
		total += w
	}
	if total == 0 {
		return nil, bad("give one of them a larger weight", "every dimension has the weight 0")
	}
	return out, nil
}
