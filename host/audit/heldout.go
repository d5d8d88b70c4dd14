package audit

import (
	"math"

	"github.com/srpo-dev/srpo/host/srpo"
)

// mostFolds is the number of successes up to which every one is left out by itself; more are left out in so
// many parts.
const mostFolds = 20

// heldOut holds distances to centres that do not know the attempt which is measured: the successes are
// dealt into folds in their order, and those of a fold are measured against the centres of all others,
// found anew. Failures are measured against the same centres.
type heldOut struct {
	fold    []int // of each success
	centres []srpo.Clustering
	// own[i] is success i's distance, other[k][f] failure f's to the centres of fold k.
	own   []float64
	other [][]float64
}

// holdOut is nil for fewer than 2 successes.
func holdOut(successes, failures [][]float64, opt srpo.ClusterOptions) (*heldOut, error) {
	n := len(successes)
	if n < 2 {
		return nil, nil
	}
	folds := n
	if n > mostFolds {
		folds = mostFolds
	}
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

// nearest is +Inf where there is no centre, which does not happen: DBSCAN's noise alone falls back to one mean.
func nearest(c srpo.Clustering, v []float64) float64 {
	d, j := c.Nearest(v)
	if j < 0 {
		return math.Inf(1)
	}
	return d
}

// wins is 1 where success i is nearer than failure j, 1/2 where they are equal, 0 else; its mean is the AUROC.
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

// win says whether a distance is less than another.
func win(own, other float64) float64 {
	switch {
	case own < other:
		return 1
	case own == other:
		return 0.5
	}
	return 0
}
