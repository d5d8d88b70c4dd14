package srpo

import (
	"fmt"
	"sort"
)

// Rollout is one attempt at one task, the input of ScoreBatch.
type Rollout struct {
	// ID names the rollout. It is not empty, and unique in the batch. Sums run in the order of IDs. (siiRL
	// names a rollout by task and trial, so that the rollouts of one prompt share one video and one reward; a
	// repeated ID is an error here.)
	ID string
	// Task is the task whose successes share clusters.
	Task string
	// Group names the M rollouts that are compared with each other: one task, or one task and start state. Groups of
	// different tasks never mix.
	Group string
	// ReferenceOnly excludes the rollout from training: its group was dropped. It is scored, and a success is a
	// reference like any other, but it has no advantage.
	ReferenceOnly bool
	// Success is the environment's verdict.
	Success bool
	// Unlabelled: there is no verdict, and Success is false. The rollout is rewarded like a failure. It does
	// not change another rollout's reward, neither as a reference nor through the failures' mean and spread.
	Unlabelled bool
	// Embedding is h_i = W(o_0:T), one vector for the whole trajectory.
	Embedding []float64
	// Progress is the environment's own measure in [0, 1], higher is better; nil: it has none. Only Diagnose and the
	// reward Progress, which is a control, use it.
	Progress *float64
}

// Score is the result of ScoreBatch for one rollout.
type Score struct {
	// Reward g_i: exactly 1 for a success, [0, 1) for a failure.
	Reward float64
	// Distance d_i to the nearest centre, in the units of the embedding. For a success that is itself a reference the
	// distance is held out: its share is first removed from its centre. It is valid where Centre >= 0, otherwise 0.
	Distance float64
	// Centre is the index of the nearest centre of the task, -1 where no distance was measured.
	Centre int
	// Dropped marks a failure whose embedding is unusable. No update may use it.
	Dropped bool
	// Reason is why the embedding is unusable; empty: it is usable.
	Reason string
}

// Scored is a rollout with its score.
type Scored struct {
	Rollout
	Score
}

// orderByID returns indices 0..n-1 in the order of their IDs. An ID that is empty or repeated is an error.
func orderByID(what string, n int, id func(i int) string) ([]int, error) {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(a, b int) bool { return id(order[a]) < id(order[b]) })
	for k, i := range order {
		if id(i) == "" {
			return nil, fmt.Errorf("srpo: %s %d has no ID; give each a unique ID", what, i)
		}
		if k > 0 && id(order[k-1]) == id(i) {
			return nil, fmt.Errorf("srpo: two %ss have the ID %q; build it from task, group and episode", what, id(i))
		}
	}
	return order, nil
}

// embeddingSize is the most frequent size of the batch's embeddings, the larger of two that are equally
// frequent, and 0 when there are none.
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

// byTask groups indices by the task of their rollout, in their order. The task names are sorted.
func byTask(order []int, task func(i int) string) (names []string, members map[string][]int) {
	members = map[string][]int{}
	for _, i := range order {
		t := task(i)
		if members[t] == nil {
			names = append(names, t)
		}
		members[t] = append(members[t], i)
	}
	sort.Strings(names)
	return names, members
}
