package srpo

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat"
)

// Estimate is a measured number and the size of its sample. N and Value are 0 where it could not be measured.
type Estimate struct {
	Value float64
	N     int
}

// Diagnostics measure whether the reward orders rollouts as the environment would. Each is measured inside
// every task and averaged over the tasks that have it, because distances of two tasks have no common scale. N
// counts the tasks.
type Diagnostics struct {
	// AUROC of -distance, success against failure: 0.5 is chance, 1 separates them. A success's distance is
	// held out, see Score.Distance. The length of the clips matters: a success ends early, so length alone
	// separates perfectly.
	AUROC Estimate
	// Spearman and PairOrder compare reward and Progress among the failures.
	Spearman, PairOrder Estimate
}

// Diagnose measures a scored batch.
func Diagnose(rollouts []Scored) (Diagnostics, error) {
	order, err := orderByID("rollout", len(rollouts), func(i int) string { return rollouts[i].ID })
	if err != nil {
		return Diagnostics{}, err
	}
	var auroc, spearman, pairs []float64
	tasks, members := byTask(order, func(i int) string { return rollouts[i].Task })
	for _, task := range tasks {
		var success, failure, reward, progress []float64
		for _, i := range members[task] {
			r := rollouts[i]
			switch {
			case r.Centre < 0 || r.Unlabelled:
			case r.Success:
				success = append(success, -r.Distance)
			default:
				failure = append(failure, -r.Distance)
			}
			if !r.Success && !r.Unlabelled && !r.Dropped && r.Progress != nil {
				reward = append(reward, r.Reward)
				progress = append(progress, *r.Progress)
			}
		}
		if v, ok := AUROC(success, failure); ok {
			auroc = append(auroc, v)
		}
		if v, ok := Spearman(reward, progress); ok {
			spearman = append(spearman, v)
		}
		if v, ok := PairOrder(reward, progress); ok {
			pairs = append(pairs, v)
		}
	}
	return Diagnostics{AUROC: meanOf(auroc), Spearman: meanOf(spearman), PairOrder: meanOf(pairs)}, nil
}

func meanOf(values []float64) Estimate {
	if len(values) == 0 {
		return Estimate{}
	}
	return Estimate{Value: stat.Mean(values, nil), N: len(values)}
}

// AUROC is the probability that a success outscores a failure, where a tie counts half:
//
//	P(s > f) + P(s = f)/2 = (sum of the successes' ranks - n(n+1)/2) / (n m)
//
// ok is false when one side is empty or a number is NaN.
func AUROC(success, failure []float64) (value float64, ok bool) {
	n, m := float64(len(success)), float64(len(failure))
	all := slices.Concat(success, failure)
	if n == 0 || m == 0 || floats.HasNaN(all) {
		return 0, false
	}
	sum := floats.Sum(ranks(all)[:len(success)])
	return (sum - n*(n+1)/2) / (n * m), true
}

// Spearman is the correlation of the ranks of x and y, where equal values share their mean rank. ok is false
// for fewer than 2 pairs, different lengths or a NaN, and when all x or all y are equal.
func Spearman(x, y []float64) (rho float64, ok bool) {
	if len(x) != len(y) || len(x) < 2 || floats.HasNaN(x) || floats.HasNaN(y) {
		return 0, false
	}
	rho = stat.Correlation(ranks(x), ranks(y), nil)
	if math.IsNaN(rho) {
		return 0, false
	}
	return rho, true
}

// PairOrder is the share of pairs with different y that x orders like y, where an equal x counts half: 0.5 is
// chance, 1 is perfect. ok is false when no pair has different y, for different lengths, and for a NaN.
func PairOrder(x, y []float64) (share float64, ok bool) {
	if len(x) != len(y) || floats.HasNaN(x) || floats.HasNaN(y) {
		return 0, false
	}
	right, pairs := 0.0, 0.0
	for i := range x {
		for j := range i {
			switch {
			case y[i] == y[j]:
				continue
			case x[i] == x[j]:
				right += 0.5
			case (x[i] > x[j]) == (y[i] > y[j]):
				right++
			}
			pairs++
		}
	}
	if pairs == 0 {
		return 0, false
	}
	return right / pairs, true
}

// ranks are 1 ... n. Equal values share their mean rank.
func ranks(x []float64) []float64 {
	sorted, order := slices.Clone(x), make([]int, len(x))
	floats.ArgsortStable(sorted, order)
	out := make([]float64, len(x))
	for from := 0; from < len(x); {
		to := from
		for to < len(x) && sorted[to] == sorted[from] {
			to++
		}
		for _, i := range order[from:to] {
			out[i] = float64(from+1+to) / 2
		}
		from = to
	}
	return out
}
