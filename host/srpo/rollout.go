package srpo

import (
	"fmt"
	"sort"
)

// Rollout is one attempt at one task, as ScoreBatch needs it.
type Rollout struct {
	// ID names the rollout, unique in the batch and never empty. Sums run in ID
	// order. (The reference keys a rollout by task and trial, so the rollouts of one
	// prompt share one video and one reward; a repeated ID is an error here.)
	ID string
	// Task is what the success clusters are shared over.
	Task string
	// Group names the prompt (task, or task and start state) whose M rollouts are
	// compared with each other. Groups of different tasks never mix.
	Group string
	// Success is the environment's verdict.
	Success bool
	// Unlabelled says that there is no verdict (Success is then false): the rollout is paid as a
	// failure, and changes nobody else's reward, neither as a reference nor by the failures' mean and spread.
	Unlabelled bool
	// Embedding is h_i = W(o_0:T), one vector for the whole trajectory.
	Embedding []float64
	// Steps is the number of environment steps done; it is carried, not used.
	Steps int
	// Progress is the environment's own measure in [0, 1], higher is better, or nil
	// where the environment has none. It is used by Diagnose, and by no reward but the control Progress.
	Progress *float64
}

// Score is what ScoreBatch says about one rollout.
type Score struct {
	ID string
	// Reward g_i: exactly 1 for a success, [0, 1) for a failure.
	Reward float64
	// Distance d_i to the nearest centre, in the units of the embedding. For a success that is
	// itself a reference the distance is held out: its own share is first taken out
	// of its centre. Meaningful only where Centre >= 0, otherwise 0.
	Distance float64
	// Centre is the index of the nearest centre of the task, -1 where no distance was measured.
	Centre int
	// Dropped marks a failure that no update may use, because its embedding is unusable.
	Dropped bool
	// Reason says what is wrong with the embedding, empty where nothing is.
	Reason string
}

// byID gives the indices of rollouts in ID order.
func byID(rollouts []Rollout) ([]int, error) {
	order := make([]int, len(rollouts))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(a, b int) bool { return rollouts[order[a]].ID < rollouts[order[b]].ID })
	for k, i := range order {
		if rollouts[i].ID == "" {
			return nil, fmt.Errorf("srpo: rollout %d of the batch has no ID; give every rollout a name of its own", i)
		}
		if k > 0 && rollouts[order[k-1]].ID == rollouts[i].ID {
			return nil, fmt.Errorf("srpo: two rollouts are called %q; name a rollout by task, group and episode so that the rollouts of one prompt are not taken for each other", rollouts[i].ID)
		}
	}
	return order, nil
}

// embeddingSize is the size that most embeddings of the batch have (the larger
// one of two that are equally frequent), 0 if there are none.
func embeddingSize(rollouts []Rollout) int {
	count := map[int]int{}
	for _, r := range rollouts {
		if len(r.Embedding) > 0 {
			count[len(r.Embedding)]++
		}
	}
	size := 0
	for n, c := range count {
		if c > count[size] || c == count[size] && n > size {
			size = n
		}
	}
	return size
}

// inTasks splits indices by task, keeping their order, and gives the task names sorted.
func inTasks(rollouts []Rollout, order []int) (names []string, members map[string][]int) {
	members = map[string][]int{}
	for _, i := range order {
		task := rollouts[i].Task
		if members[task] == nil {
			names = append(names, task)
		}
		members[task] = append(members[task], i)
	}
	sort.Strings(names)
	return names, members
}
