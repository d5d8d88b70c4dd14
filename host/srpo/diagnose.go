package srpo

import (
	"fmt"
	"math"
	"sort"

	"gonum.org/v1/gonum/stat"
)

// Estimate is a measured number and how much it was measured on; N is 0 where it could not be, and Value then too.
type Estimate struct {
	Value float64
	N     int
}

// Diagnostics say whether the reward orders rollouts as the environment would.
// Each is measured inside every task and averaged over the tasks that have it,
// because distances of two tasks share no scale; N counts the tasks.
type Diagnostics struct {
	// AUROC of -distance, success against failure: 0.5 says nothing, 1 separates.
	// A success's distance is held out, see Score.Distance. Mind the length of
	// the clips: a success ends early, and length alone separates perfectly.
	AUROC Estimate
	// Spearman and PairOrder compare reward and Progress among the failures.
	Spearman, PairOrder Estimate
}

// Diagnose measures a scored batch. scores must be those of rollouts, index by index.
func Diagnose(rollouts []Rollout, scores []Score) (Diagnostics, error) {
	if len(scores) != len(rollouts) {
		return Diagnostics{}, fmt.Errorf("srpo: %d scores for %d rollouts; pass the scores that ScoreBatch gave for these rollouts", len(scores), len(rollouts))
	}
	order, err := byID(rollouts)
	if err != nil {
		return Diagnostics{}, err
	}
	var auroc, spearman, pairs []float64
	tasks, members := inTasks(rollouts, order)
	for _, task := range tasks {
		var success, failure, reward, progress []float64
		for _, i := range members[task] {
			r, s := rollouts[i], scores[i]
			switch {
			case s.Centre < 0 || r.Unlabelled:
			case r.Success:
				success = append(success, -s.Distance)
			default:
				failure = append(failure, -s.Distance)
			}
			if !r.Success && !r.Unlabelled && !s.Dropped && r.Progress != nil {
				reward = append(reward, s.Reward)
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

// AUROC is the chance that a success outscores a failure, a tie counting half:
//
//	P(s > f) + P(s = f)/2 = (sum of the successes' ranks - n(n+1)/2) / (n m)
//
// ok is false when one side is empty or a number is NaN.
func AUROC(success, failure []float64) (value float64, ok bool) {
	n, m := float64(len(success)), float64(len(failure))
	all := append(append([]float64(nil), success...), failure...)
	if n == 0 || m == 0 || anyNaN(all) {
		return 0, false
	}
	sum := 0.0
	for _, r := range ranks(all)[:len(success)] {
		sum += r
	}
	return (sum - n*(n+1)/2) / (n * m), true
}

// Spearman is the correlation of the ranks of x and y, ties sharing their mean rank.
// ok is false for fewer than 2 pairs, lengths that differ, a NaN, or when all x or all y are equal.
func Spearman(x, y []float64) (rho float64, ok bool) {
	if len(x) != len(y) || len(x) < 2 || anyNaN(x) || anyNaN(y) {
		return 0, false
	}
	rho = stat.Correlation(ranks(x), ranks(y), nil)
	if math.IsNaN(rho) {
		return 0, false
	}
	return rho, true
}

// PairOrder is the share of pairs with unequal y that x puts in the same order, an equal x
// counting half: 0.5 says nothing, 1 is perfect. ok is false when no pair has unequal y, lengths differ, or there is a NaN.
func PairOrder(x, y []float64) (share float64, ok bool) {
	if len(x) != len(y) || anyNaN(x) || anyNaN(y) {
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

// ranks are 1 ... n, equal values sharing the mean of theirs.
func ranks(x []float64) []float64 {
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return x[order[a]] < x[order[b]] })
	out := make([]float64, len(x))
	for from := 0; from < len(x); {
		to := from
		for to < len(x) && x[order[to]] == x[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			out[i] = float64(from+1+to) / 2
		}
		from = to
	}
	return out
}

func anyNaN(x []float64) bool {
	for _, v := range x {
		if math.IsNaN(v) {
			return true
		}
	}
	return false
}
