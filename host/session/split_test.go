package session

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/plugins/env"
)

// dimensional returns n tasks with a single start state in each of two suites and three dimensions.
func dimensional(n int) (all []env.Task) {
	for _, suite := range []string{"a", "b"} {
		for _, d := range []string{"camera", "noise", "light"} {
			for i := range n {
				all = append(
					all,
					env.Task{ID: fmt.Sprintf("%s/%s/%d", suite, d, i), Suite: suite, StartStates: 1, MaxSteps: 9,
						Tags: map[string]string{"dimension": d}},
				)
			}
		}
	}
	return all
}

func session(t *testing.T, all, tasks []env.Task, set ...string) *Session {
	t.Helper()
	cfg, err := config.Load(config.Input{Set: append([]string{"run.seed=3"}, set...)})
	require.NoError(t, err)
	return &Session{Config: cfg, Tasks: tasks, Sched: &rollout.Scheduler{EnvName: "env fake"},
		Split: newSplit(cfg.Run.Seed, cfg.Rollout, all, tasks)}
}

// The hint about a misspelt variant names variants that match its other parts.
func TestNearTasks(t *testing.T) {
	all := dimensional(10)
	require.Contains(t, nearTasks("b/noise/nope*", all),
		"there are 60 tasks, for example b/noise/0, b/noise/1, b/noise/2; ")
	require.Contains(t, nearTasks("*/LIGHT/x", all), "for example a/light/0, a/light/1, a/light/2; ")
	require.Contains(t, nearTasks("x/y", all), "for example a/")
}

func TestSplitByTask(t *testing.T) {
	all := dimensional(10)
	s := session(t, all, all, "rollout.train_fraction=0.3")
	require.Equal(t, "task", s.Split.By())
	count := map[string]int{}
	for _, task := range all {
		train, test := s.StartStates(task, "train"), s.StartStates(task, "test")
		require.Equal(t, 1, len(train)+len(test), "every variant is on one side")
		require.Nil(t, s.StartStates(task, "all"))
		require.Equal(t, map[bool]string{true: "train", false: "test"}[len(train) == 1], s.Split.SideOf(task, 0))
		count[task.Suite+task.Tags["dimension"]] += len(train)
	}
	for key, n := range count {
		require.Equal(t, 3, n, "a share of every suite and dimension: %s", key)
	}
	require.Len(t, count, 6)

	// The side of a task depends on the seed, but not on which tasks are chosen.
	some := session(t, all, all[5:9], "rollout.train_fraction=0.3")
	for _, task := range some.Tasks {
		require.Equal(t, s.StartStates(task, "train"), some.StartStates(task, "train"))
	}
	other, differ := session(t, all, all, "rollout.train_fraction=0.3", "run.seed=4"), 0
	for _, task := range all {
		if len(other.StartStates(task, "train")) != len(s.StartStates(task, "train")) {
			differ++
		}
	}
	require.NotZero(t, differ)

	r := s.Split.ForManifest(all, "train")
	require.Len(t, r.TrainTasks, 18)
	require.Len(t, r.TestTasks, 42)
	require.Empty(t, r.Train)

	// Start states are divided when a task has several.
	several := append([]env.Task{{ID: "c", StartStates: 5, MaxSteps: 9}}, all[:3]...)
	require.Equal(t, "start", session(t, several, several).Split.By())
	s = session(t, all[:1], all[:1])
	require.Equal(t, "start", s.Split.By(), "one task cannot be divided")
	_, err := s.TasksOn("test")
	require.ErrorContains(t, err, "none of the start states is on the test side")
	require.Empty(t, s.Trials("test", 0))
}

// Every start state of a side is used once before any is repeated, also when tasks have different numbers of them.
func TestTrialsAreExact(t *testing.T) {
	tasks := []env.Task{{ID: "a", StartStates: 1}, {ID: "b", StartStates: 7}, {ID: "c", StartStates: 3}}
	s := session(t, tasks, tasks)
	for _, side := range []string{"all", "train", "test"} {
		want := map[string]bool{}
		for _, task := range tasks {
			states := s.StartStates(task, side)
			if side == "all" {
				states = []int{0, 1, 2, 3, 4, 5, 6}[:task.StartStates]
			}
			for _, state := range states {
				want[fmt.Sprint(task.ID, state)] = true
			}
		}
		got := map[string]bool{}
		for _, tr := range s.Trials(side, 0) {
			key := fmt.Sprint(tr.Task.ID, tr.StartState)
			require.False(t, got[key], "%s twice", key)
			require.Zero(t, tr.Repeat)
			got[key] = true
		}
		require.Equal(t, want, got)
	}
	for n := 1; n <= 11; n++ {
		for _, tr := range s.Trials("all", n) {
			require.Zero(t, tr.Repeat, "%d of 11: %s %d twice", n, tr.Task.ID, tr.StartState)
		}
	}
	seen := map[string]bool{}
	for _, tr := range s.Trials("all", 33) {
		key := fmt.Sprint(tr.Task.ID, tr.StartState, tr.Repeat)
		require.False(t, seen[key], "%s twice", key)
		seen[key] = true
	}
	require.Len(t, seen, 33)
}

// The trials of a large benchmark are listed quickly, each id once.
func TestTrialsOfABenchmark(t *testing.T) {
	all := dimensional(1700)
	s := session(t, all, all)
	trials := s.Trials("all", 0)
	require.Len(t, trials, 10200)
	seen := map[string]bool{}
	for _, tr := range trials {
		require.False(t, seen[tr.Task.ID])
		seen[tr.Task.ID] = true
	}
	require.Len(t, seen, 10200)
}

// With fewer episodes than tasks, the tasks are a sample that depends on the seed, with equally many of each
// dimension.
func TestTrialsAreSampled(t *testing.T) {
	all := dimensional(20)
	s := session(t, all, all)
	count, seen := map[string]int{}, map[string]bool{}
	for _, tr := range s.Trials("all", 31) {
		require.False(t, seen[tr.Task.ID])
		seen[tr.Task.ID] = true
		count[tr.Task.Tags["dimension"]]++
	}
	require.Equal(t, map[string]int{"camera": 11, "noise": 10, "light": 10}, count)
	require.Equal(t, s.Trials("all", 31), s.Trials("all", 31))
	for _, tr := range s.Trials("all", 30) {
		require.True(t, seen[tr.Task.ID], "a smaller sample is part of a larger one")
	}
	require.NotEqual(t, s.Trials("all", 30), session(t, all, all, "run.seed=4").Trials("all", 30))
	for _, tr := range s.Trials("test", 7) {
		require.Equal(t, []int{0}, s.StartStates(tr.Task, "test"))
	}
}

func TestWeights(t *testing.T) {
	all := append(
		dimensional(4),
		env.Task{ID: "b/light/x", Suite: "b", StartStates: 1, MaxSteps: 9,
			Tags: map[string]string{"dimension": "light"}},
	)
	s := session(t, all, all, `rollout.weights=["camera=6", "noise=0"]`)
	weights, err := s.TaskWeights(all)
	require.NoError(t, err)
	sum := map[string]float64{}
	for _, task := range all {
		sum[task.Tags["dimension"]] += weights[task.ID]
	}
	require.InDelta(t, 6, sum["camera"], 1e-12)
	require.InDelta(t, 1, sum["light"], 1e-12, "independent of the number of variants")
	require.Zero(t, sum["noise"])

	for given, message := range map[string]string{
		`["camra=1"]`:                        "has the dimension \"camra\"",
		`["camera"]`:                         "is not DIMENSION=WEIGHT",
		`["camera=-1"]`:                      "is not DIMENSION=WEIGHT",
		`["camera=1", "camera=2"]`:           "has two weights",
		`["camera=0", "noise=0", "light=0"]`: "every dimension has the weight 0",
	} {
		_, err := session(t, all, all, "rollout.weights="+given).TaskWeights(all)
		require.ErrorContains(t, err, message)
	}
	_, err = s.TaskWeights([]env.Task{{ID: "tabletop/one_block"}})
	require.ErrorContains(t, err, "has no dimension to weigh")
	none, err := session(t, all, all).TaskWeights(all)
	require.NoError(t, err)
	require.Nil(t, none)
}
