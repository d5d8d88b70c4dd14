package srpo

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/stat"
)

// Curve is the progress of one recorded trajectory: R_0 ... R_T, usually in [0, 1], without unit.
type Curve struct {
	ID       string // unique and not empty
	Progress []float64
}

// ProgressAdvantages is the offline variant, for recorded data from a real arm:
//
//	D_t = R_t - R_(t-1),   A_t = (D_t - mean(D)) / sqrt(var(D) + eps),   t = 1 ... T
//
// with mean and population variance over all steps of all trajectories, summed in the order of IDs. Row i belongs to
// curves[i] and has one number fewer. The error names a curve that is empty, not finite or not unique.
func ProgressAdvantages(curves []Curve, eps float64) ([][]float64, error) {
	if err := within("eps of the advantage", eps, 1e-300, 1e6, "1e-8 is the default"); err != nil {
		return nil, err
	}
	order, err := orderByID("progress curve", len(curves), func(i int) string { return curves[i].ID })
	if err != nil {
		return nil, err
	}
	advantages := make([][]float64, len(curves))
	var all []float64
	for _, i := range order {
		c := curves[i]
		if len(c.Progress) == 0 {
			return nil, fmt.Errorf("srpo: the progress curve of %q is empty; leave the trajectory out", c.ID)
		}
		d := make([]float64, len(c.Progress)-1)
		for t, r := range c.Progress {
			if math.IsNaN(r) || math.IsInf(r, 0) {
				return nil, fmt.Errorf(
					"srpo: the progress curve of %q is %g at step %d; leave the trajectory out", c.ID, r, t)
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

// RegressionWeight is the weight of a step's log-likelihood in advantage-weighted regression (arXiv 1910.00177):
//
//	w = min(exp(A / temperature), maxWeight)
//
// temperature > 0; a small one follows the advantage more closely. maxWeight > 0 bounds the influence of one step.
func RegressionWeight(advantage, temperature, maxWeight float64) float64 {
	return math.Min(math.Exp(advantage/temperature), maxWeight)
}
