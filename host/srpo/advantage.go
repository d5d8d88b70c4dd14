package srpo

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// AdvantageOptions are the settings of Advantages. Start from DefaultAdvantageOptions.
type AdvantageOptions struct {
	// Eps is added to the variance.
	Eps float64
	// RewardWeight multiplies every reward, of successes too (siiRL's reward_coef; the published runs use 5). The
	// normalisation cancels it up to Eps, so 1 and 5 differ only where a group's rewards are nearly equal.
	RewardWeight float64
}

// DefaultAdvantageOptions returns the defaults.
func DefaultAdvantageOptions() AdvantageOptions {
	return AdvantageOptions{Eps: 1e-8, RewardWeight: 1}
}

// Validate returns an error that names the first invalid setting and its range.
func (o AdvantageOptions) Validate() error {
	return cmp.Or(
		within("eps of the advantage", o.Eps, 1e-300, 1e6, "1e-8 is the default"),
		within("the reward weight", o.RewardWeight, 1e-6, 1e6, "1 is the default, the published runs use 5"),
	)
}

// Advantage is the input of the update for one rollout.
type Advantage struct {
	// Value is A_i, without unit; 0 where Masked.
	Value float64
	// Masked: the update must leave this rollout out.
	Masked bool
}

// GroupSummary describes one group. Mean and Std (population) are those of the weighted rewards of members that
// are not dropped.
type GroupSummary struct {
	Task, Group                 string
	Members, Dropped, Successes int
	Mean, Std                   float64
	// Signal is false when all rewards are equal. Then every advantage is 0, and the update learns nothing from
	// the group.
	Signal bool
}

// Advantages normalises the rewards inside each group:
//
//	A_i = (g_i - mean) / sqrt(var + eps),   g_i = weight * reward_i
//
// with the population variance over the members that are not dropped. Dropped members get 0 and are masked, and
// so are rollouts that are ReferenceOnly, which belong to no group here. A lone member and a group of equal
// rewards get 0. (siiRL divides by the sample standard deviation plus 1e-6, and gives a lone member its reward
// as advantage.)
//
// The advantages come in the order of the rollouts, the groups sorted by task and group. The order of the
// rollouts changes no bit of a value.
func Advantages(rollouts []Scored, opt AdvantageOptions) ([]Advantage, []GroupSummary, error) {
	if err := opt.Validate(); err != nil {
		return nil, nil, err
	}
	order, err := orderByID("rollout", len(rollouts), func(i int) string { return rollouts[i].ID })
	if err != nil {
		return nil, nil, err
	}
	type key struct{ task, group string }
	groups := map[key][]int{}
	var keys []key
	advantages := make([]Advantage, len(rollouts))
	for _, i := range order {
		r := rollouts[i]
		if r.ReferenceOnly {
			advantages[i].Masked = true
			continue
		}
		if math.IsNaN(r.Reward) || math.IsInf(r.Reward, 0) {
			return nil, nil, fmt.Errorf("srpo: the reward of %q is %g; drop the rollout or give it a number",
				r.ID, r.Reward)
		}
		k := key{r.Task, r.Group}
		if groups[k] == nil {
			keys = append(keys, k)
		}
		groups[k] = append(groups[k], i)
	}
	slices.SortFunc(
		keys,
		func(a, b key) int { return cmp.Or(cmp.Compare(a.task, b.task), cmp.Compare(a.group, b.group)) },
	)

	var summaries []GroupSummary
	for _, k := range keys {
		s := normalise(groups[k], rollouts, advantages, opt)
		s.Task, s.Group = k.task, k.group
		summaries = append(summaries, s)
	}
	return advantages, summaries, nil
}

// normalise sets the advantages of one group's members, which are in the order of IDs.
func normalise(members []int, rollouts []Scored, advantages []Advantage, opt AdvantageOptions) GroupSummary {
	s := GroupSummary{Members: len(members)}
	var g []float64
	var kept []int
	for _, i := range members {
		if rollouts[i].Success {
			s.Successes++
		}
		if rollouts[i].Dropped {
			s.Dropped++
			advantages[i].Masked = true
			continue
		}
		g = append(g, opt.RewardWeight*rollouts[i].Reward)
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
	return s
}
