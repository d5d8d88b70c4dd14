package train

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// fakeSet has one success per element of tasks and instructions.
type fakeSet struct {
	dataset.Set
	env                 string
	tasks, instructions []string
}

func (s fakeSet) Space() dataset.Space { return dataset.Space{Env: s.env} }

func (s fakeSet) Episodes() []dataset.Episode {
	yes, out := true, make([]dataset.Episode, len(s.tasks))
	for i := range out {
		out[i] = dataset.Episode{Task: s.tasks[i], Instruction: s.instructions[i], Success: &yes}
	}
	return out
}

func TestEpisodesOfTheRunsTasks(t *testing.T) {
	one := env.Task{ID: "t/one", Instruction: "put the block"}
	variant := env.Task{ID: "t/one/dark", Instruction: "put the block"}
	two := env.Task{ID: "t/two", Instruction: "put two blocks"}
	lerobot := func(instructions ...string) fakeSet {
		return fakeSet{tasks: instructions, instructions: instructions}
	}
	recorded := func(env string, instruction string, tasks ...string) fakeSet {
		s := fakeSet{env: env, tasks: tasks}
		for range tasks {
			s.instructions = append(s.instructions, instruction)
		}
		return s
	}
	for name, x := range map[string]struct {
		set      fakeSet
		episodes []int
		warning  string
		error    string
	}{
		"by instruction": {lerobot("put the block", "put two blocks", "Put  the Block"), []int{0, 2},
			"left out: 1 episode of other tasks", ""},
		"another instruction of the env": {
			set: lerobot("put two blocks"), error: "its episodes are of other tasks: t/two",
		},
		"instructions of elsewhere": {lerobot("fold the shirt", ""), []int{0, 1},
			"set: no instruction is that of a task of env fake: all 2 episodes are taken", ""},
		"own, by id": {recorded("fake", "put the block", "t/one", "t/one/dark"), []int{0},
			"left out: 1 episode of other tasks", ""},
		"own, other tasks": {set: recorded("fake", "put the block", "t/one/dark"),
			error: "its episodes are of other tasks: t/one/dark"},
		"recorded in another env": {recorded("other", "put the block", "x/y"), []int{0}, "", ""},
	} {
		var out bytes.Buffer
		r := &run{Options: Options{Terminal: report.NewTerminal(&out)}, cfg: &config.Config{}, tasks: []env.Task{one},
			session: &session.Session{EnvTasks: []env.Task{one, variant, two}, EnvInfo: plugins.Info{Name: "fake"},
				Sched: &rollout.Scheduler{EnvName: "env fake"}}}
		episodes, err := r.episodesOfTasks(x.set, "set")
		if x.error != "" {
			require.ErrorContains(t, err, x.error, name)
			require.NotEmpty(t, plugins.AsError(err).Hint, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, x.episodes, episodes, name)
		if require.Contains(t, out.String(), x.warning, name); x.warning == "" {
			require.Empty(t, out.String(), name)
		}
	}
}
