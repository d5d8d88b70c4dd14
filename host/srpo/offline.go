package srpo

import (
	"fmt"
	"math"
	"sort"

	"gonum.org/v1/gonum/stat"
)

// Curve is the progress of one recorded trajectory: R_0 ... R_T, in [0, 1] by custom, without unit.
type Curve struct {
	ID       string // unique and not empty
	Progress []float64
}

// ProgressAdvantages is the offline variant, for recorded data from a real arm:
//
//	D_t = R_t - R_(t-1),   A_t = (D_t - mean(D)) / sqrt(var(D) + eps),   t = 1 ... T
//
// with mean and population variance over all steps of all trajectories, summed in
// ID order. Row i belongs to curves[i] and has one number fewer; a curve of one point has none.
// The error names the curve that is empty, not finite or named twice.
func ProgressAdvantages(curves []Curve, eps float64) ([][]float64, error) {
	if err := within("eps of the advantage", eps, 1e-300, 1e6, "1e-8 is a good value"); err != nil {
		return nil, err
	}
	order := make([]int, len(curves))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(a, b int) bool { return curves[order[a]].ID < curves[order[b]].ID })

	advantages := make([][]float64, len(curves))
	var all []float64
	for k, i := range order {
		c := curves[i]
		if c.ID == "" || k > 0 && curves[order[k-1]].ID == c.ID {
			return nil, fmt.Errorf("srpo: progress curve %d is called %q, which is empty or another's name; give each its own", i, c.ID)
		}
		if len(c.Progress) == 0 {
			return nil, fmt.Errorf("srpo: the progress curve of %q is empty; leave the trajectory out", c.ID)
		}
		d := make([]float64, len(c.Progress)-1)
		for t, r := range c.Progress {
			if math.IsNaN(r) || math.IsInf(r, 0) {
				return nil, fmt.Errorf("srpo: the progress curve of %q is %g at step %d; leave the trajectory out", c.ID, r, t)
			}
			if t > 0 {
				d[t-1] = r - c.Progress[t-1]
			}
		}
		advantages[i] = d
		all = append(all, d...)
	}
	if len(all) == 0 {
		return advantages, nil
	}
	m, variance := stat.PopMeanVariance(all, nil)
	for _, d := range advantages {
		for t := range d {
			d[t] = (d[t] - m) / math.Sqrt(variance+eps)
		}
	}
	return advantages, nil
}

// RegressionWeight is the weight of a step's log-likelihood in advantage-weighted regression:
//
//	w = min(exp(A / temperature), most)
//
// temperature > 0 (small trusts the advantage more), most > 0 bounds one step's say.
func RegressionWeight(advantage, temperature, most float64) float64 {
	return math.Min(math.Exp(advantage/temperature), most)
}
