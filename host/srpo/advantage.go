package srpo

import (
	"fmt"
	"math"
	"sort"

	"gonum.org/v1/gonum/stat"
)

// AdvantageOptions are the settings of Advantages. Start from DefaultAdvantageOptions.
type AdvantageOptions struct {
	// By says whose rewards are compared.
	By Grouping
	// Eps is added to the variance.
	Eps float64
	// RewardWeight multiplies every reward, of successes too (the reference's
	// reward_coef; the published runs state 5). The normalisation
	// cancels it except against Eps, so 1 and 5 differ only where a group's rewards are nearly equal.
	RewardWeight float64
}

// DefaultAdvantageOptions normalise over the group.
func DefaultAdvantageOptions() AdvantageOptions {
	return AdvantageOptions{By: ByGroup, Eps: 1e-8, RewardWeight: 1}
}

// Validate says which setting cannot work, and what would.
func (o AdvantageOptions) Validate() error {
	checks := []error{
		oneOf("the grouping of advantages", string(o.By), Groupings()),
		within("eps of the advantage", o.Eps, 1e-300, 1e6, "1e-8 is the default"),
		within("the reward weight", o.RewardWeight, 1e-6, 1e6, "1 is the default, the published runs state 5"),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

// Advantage is what the update gets for one rollout.
type Advantage struct {
	ID string
	// Value is A_i, without unit; 0 where Masked.
	Value float64
	// Masked: the update must leave this rollout out.
	Masked bool
}

// GroupSummary describes one group; Mean and Std (population) are those of the weighted rewards of members not dropped.
type GroupSummary struct {
	Task, Group                 string // Group is empty under ByTask
	Members, Dropped, Successes int
	Mean, Std                   float64
	// Signal is false when all rewards are equal: every advantage is 0 and the group teaches nothing.
	Signal bool
}

// Advantages normalises the rewards inside each group:
//
//	A_i = (g_i - mean) / sqrt(var + eps),   g_i = weight * reward_i
//
// with the population variance over the members that are not dropped; dropped
// ones get 0 and are masked. A lone member and a group of equal rewards get 0.
// (The reference divides by the sample std plus 1e-6, and gives a lone member its
// reward as advantage.)
//
// scores must be those of rollouts, index by index; the advantages come in the
// same order, the groups sorted by task and group. The order of rollouts changes no bit of a value.
func Advantages(rollouts []Rollout, scores []Score, opt AdvantageOptions) ([]Advantage, []GroupSummary, error) {
	if err := opt.Validate(); err != nil {
		return nil, nil, err
	}
	if len(scores) != len(rollouts) {
		return nil, nil, fmt.Errorf("srpo: %d scores for %d rollouts; pass the scores that ScoreBatch gave for these rollouts", len(scores), len(rollouts))
	}
	order, err := byID(rollouts)
	if err != nil {
		return nil, nil, err
	}
	type key struct{ task, group string }
	groups := map[key][]int{}
	var keys []key
	for _, i := range order {
		if scores[i].ID != rollouts[i].ID {
			return nil, nil, fmt.Errorf("srpo: score %d is of %q and the rollout is %q; pass the scores in the order that ScoreBatch gave them", i, scores[i].ID, rollouts[i].ID)
		}
		if math.IsNaN(scores[i].Reward) || math.IsInf(scores[i].Reward, 0) {
			return nil, nil, fmt.Errorf("srpo: the reward of %q is %g; drop the rollout or give it a number", rollouts[i].ID, scores[i].Reward)
		}
		k := key{rollouts[i].Task, rollouts[i].Group}
		if opt.By == ByTask {
			k.group = ""
		}
		if groups[k] == nil {
			keys = append(keys, k)
		}
		groups[k] = append(groups[k], i)
	}
	sort.Slice(keys, func(a, b int) bool {
		if keys[a].task != keys[b].task {
			return keys[a].task < keys[b].task
		}
		return keys[a].group < keys[b].group
	})

	advantages := make([]Advantage, len(rollouts))
	var summaries []GroupSummary
	for _, k := range keys {
		s := GroupSummary{Task: k.task, Group: k.group}
		var g []float64
		var kept []int
		for _, i := range groups[k] {
			advantages[i] = Advantage{ID: rollouts[i].ID, Masked: scores[i].Dropped}
			s.Members++
			if rollouts[i].Success {
				s.Successes++
			}
			if scores[i].Dropped {
				s.Dropped++
				continue
			}
			g = append(g, opt.RewardWeight*scores[i].Reward)
			kept = append(kept, i)
			s.Signal = s.Signal || g[len(g)-1] != g[0]
		}
		if len(g) > 0 {
			s.Mean, s.Std = stat.PopMeanStdDev(g, nil)
		}
		if s.Signal {
			for n, i := range kept {
				advantages[i].Value = (g[n] - s.Mean) / math.Sqrt(s.Std*s.Std+opt.Eps)
			}
		}
		summaries = append(summaries, s)
	}
	return advantages, summaries, nil
}

// KeepGroup says whether a group of n rollouts with so many successes is worth an
// update: low <= successes/n <= high. The published runs keep [0.1, 0.9], which
// leaves out groups that fail or succeed as a whole. An empty group is not kept.
func KeepGroup(successes, n int, low, high float64) bool {
	if n <= 0 {
		return false
	}
	rate := float64(successes) / float64(n)
	return low <= rate && rate <= high
}
