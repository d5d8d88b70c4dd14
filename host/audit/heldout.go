package audit

import (
	"math"

	"github.com/srpo-dev/srpo/host/srpo"
)

// maxFolds limits the number of folds. With at most so many successes each is left out by itself.
const maxFolds = 20

// heldOut contains distances to centres that were computed without the attempt being measured. The successes are
// dealt into folds in their order. Those of a fold are measured against the centres of all others, and failures
// against the centres of each fold.
type heldOut struct {
	// fold is the fold of each success.
	fold []int
	// centres are those of each fold: of the successes outside it.
	centres []srpo.Clustering
	// own[i] is the distance of success i; other[k][j] that of failure j to the centres of fold k.
	own   []float64
	other [][]float64
}

// holdOut returns nil for fewer than 2 successes.
func holdOut(successes, failures [][]float64, opt srpo.ClusterOptions) (*heldOut, error) {
	n := len(successes)
	if n < 2 {
		return nil, nil
	}
	folds := min(n, maxFolds)
	h := &heldOut{fold: make([]int, n), own: make([]float64, n)}
	for k := range folds {
		var rest [][]float64
		for i, s := range successes {
			if i%folds != k {
				rest = append(rest, s)
			} else {
				h.fold[i] = k
			}
		}
		c, err := srpo.Cluster(rest, opt)
		if err != nil {
			return nil, err
		}
		h.centres = append(h.centres, c)
		d := make([]float64, len(failures))
		for j, f := range failures {
			d[j] = nearest(c, f)
		}
		h.other = append(h.other, d)
	}
	for i, s := range successes {
		h.own[i] = nearest(h.centres[h.fold[i]], s)
	}
	return h, nil
}

// nearest returns the distance to the nearest centre; +Inf without centres.
func nearest(c srpo.Clustering, v []float64) float64 {
	d, j := c.Nearest(v)
	if j < 0 {
		return math.Inf(1)
	}
	return d
}

// wins returns 1 where success i is closer than failure j, 1/2 where both are equally far away, 0 otherwise. The
// mean is the AUROC.
func (h *heldOut) wins() [][]float64 {
	w := make([][]float64, len(h.own))
	for i, own := range h.own {
		w[i] = make([]float64, len(h.other[h.fold[i]]))
		for j, d := range h.other[h.fold[i]] {
			w[i][j] = win(own, d)
		}
	}
	return w
}

// win compares two distances: 1 if own is smaller, 1/2 if they are equal, 0 otherwise.
func win(own, other float64) float64 {
	switch {
	case own < other:
		return 1
	case own == other:
		return 0.5
	}
	return 0
}
