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

// Split divides an env's episodes into those to train on and those to test on, by seed.
type Split struct {
	seed     uint64
	fraction float64
	// train holds the tasks on the train side when tasks are divided; nil: each task's start states are.
	train map[string]bool
}

// newSplit divides as rollout.split says. all are every task of the env, so that a task's side does not depend on which others a pattern picks; tasks are
// those picked.
func newSplit(seed uint64, c config.Rollout, all, tasks []env.Task) Split {
	s := Split{seed: seed, fraction: c.TrainFraction}
	single := !slices.ContainsFunc(tasks, func(t env.Task) bool { return t.StartStates > 1 })
	if c.Split == "start" || c.Split == "auto" && (!single || len(tasks) < 2) {
		return s
	}
	// A share of every suite and dimension, so that none is missing on a side: the tasks with the smallest hashes.
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

// By is what is divided, as rollout.split names it.
func (s Split) By() string {
	if s.train != nil {
		return "task"
	}
	return "start"
}

// Unit puts by in words.
func (s Split) Unit() string {
	if s.train != nil {
		return "tasks"
	}
	return "start states"
}

// States gives a task's start states on a side, "train" or "test"; nil for any other side: all.
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

// SideOf says on which side a start state lies.
func (s Split) SideOf(t env.Task, state int) string {
	if slices.Contains(s.States(t, "train"), state) {
		return "train"
	}
	return "test"
}

// ForManifest is the split for a manifest: both sides, unless all is used.
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

// StartStates gives the start states of a task on one side of the split; nil: all.
func (s *Session) StartStates(t env.Task, side string) []int { return s.Split.States(t, side) }

// TasksOn lists the tasks that have anything on a side of the split.
func (s *Session) TasksOn(side string) ([]env.Task, error) {
	var out []env.Task
	for _, t := range s.Tasks {
		if states := s.StartStates(t, side); states == nil || len(states) > 0 {
			out = append(out, t)
		}
	}
	if len(out) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "none of the %s is on the %s side of the split", s.Split.Unit(), side).WithPlace("%s", s.Config.Origin("rollout.split")).
			WithHint(`another rollout.train_fraction or seed, more tasks, or rollout.split = "task" for tasks of a single start state`)
	}
	return out, nil
}

// EvaluationSide is the side that evaluations use: the other one, so that they show what was not trained on.
func EvaluationSide(side string) string {
	switch side {
	case "train":
		return "test"
	case "test":
		return "train"
	}
	return "all"
}

// TaskWeights gives each task its share of its dimension's weight, as rollout.weights says; nil: there are none. Tasks of a dimension that weighs 0 get 0.
func (s *Session) TaskWeights(tasks []env.Task) (map[string]float64, error) {
	given := s.Config.Rollout.Weights
	if len(given) == 0 {
		return nil, nil
	}
	bad := func(hint, format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("%s", s.Config.Origin("rollout.weights")).WithHint("%s", hint)
	}
	count := map[string]int{}
	var names []string
	for _, t := range tasks {
		d := t.Tags["dimension"]
		if d == "" {
			return nil, bad("leave rollout.weights out, or choose other tasks", "task %s of %s has no dimension to weigh", t.ID, s.Sched.EnvName)
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
			return nil, bad(`for example ["camera=2", "noise=0.5"]`, "%q is no DIMENSION=WEIGHT with a weight of 0 or more", g)
		}
		if _, twice := weight[name]; twice {
			return nil, bad("give each once", "the dimension %q has two weights", name)
		}
		if count[name] == 0 {
			hint := fmt.Sprintf("they are of %s", strings.Join(names, ", "))
			if near := nearest.To(name, names); near != "" {
				hint = fmt.Sprintf("did you mean %q? %s", near, hint)
			}
			return nil, bad(hint, "none of the %d tasks is of a dimension %q", len(tasks), name)
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
		return nil, bad("weigh one of them more", "every dimension weighs 0")
	}
	return out, nil
}
