package srpo

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/floats"
)

// Clustering is the set C = {c_j} of centres, with details of how it was found.
type Clustering struct {
	// Centres, each the mean of its members in the space of the embeddings.
	Centres [][]float64
	// Sizes are the numbers of members of each centre.
	Sizes []int
	// Labels[i] is the index of the centre of point i, or Noise.
	Labels []int
	// Eps is DBSCAN's radius: in units of the embedding for auto, in standard deviations for reference, otherwise 0.
	Eps float64
	// Fallback is why all points have one mean as their centre; empty: they do not.
	Fallback string
}

// Cluster finds the centres of the points, n finite vectors of one size:
//
//	auto       DBSCAN on plain Euclidean distance with eps from the data, see autoEps. Fewer than 4 points cannot form
//	           two modes of two, and have one mean.
//	reference  exactly siiRL 0.2.0: standardise each dimension, DBSCAN with eps 0.5 and min 2, centres transformed
//	           back; without a cluster, the mean of all points. In 1408 standardised dimensions points lie some 50
//	           apart, so it always returns the mean there.
//	mean       one centre, the mean of all points.
//	nearest    every point is a centre.
//
// DBSCAN's noise has no centre. Points of different sizes are an error.
func Cluster(points [][]float64, opt ClusterOptions) (Clustering, error) {
	if err := opt.Validate(); err != nil {
		return Clustering{}, err
	}
	for i, p := range points {
		if why := checkNumbers(p, len(points[0])); why != "" {
			return Clustering{}, fmt.Errorf("srpo: cluster: point %d %s; leave such points out", i, why)
		}
	}
	if len(points) == 0 {
		return Clustering{}, nil
	}
	switch opt.Kind {
	case ClusterAuto:
		return clusterAuto(points, opt), nil
	case ClusterReference:
		return clusterReference(points, opt), nil
	case ClusterNearest:
		labels := make([]int, len(points))
		for i := range labels {
			labels[i] = i
		}
		return centresOf(points, labels), nil
	default: // ClusterMean
		return oneMean(points, ""), nil
	}
}

func clusterAuto(points [][]float64, opt ClusterOptions) Clustering {
	n := len(points)
	if n < 4 {
		return oneMean(points, fmt.Sprintf("%d references cannot form two modes", n))
	}
	minPoints := opt.MinPoints
	if minPoints == 0 {
		minPoints = max(2, int(math.Round(math.Log(float64(n)))))
	}
	minPoints = min(max(minPoints, 2), n)
	d := pairwise(points)
	eps := autoEps(d.kth(minPoints-1), opt)
	c := centresOf(points, d.dbscan(eps, minPoints))
	c.Eps = eps
	return c
}

// autoEps takes DBSCAN's radius from the sorted k-distances q_1 <= ... <= q_n, k = minPoints-1:
//
//	eps = slack * q_m,   m = n, or the first m >= n - n/4 with q_(m+1) > outlierRatio * q_m
//
// In a uniform cloud the largest k-distance is about the radius at which the whole cloud is connected, so one
// mode stays one, and two modes with a wider gap stay separate. A few far points would widen the radius for
// all: a jump in the last quarter excludes them. Distances are not standardised, because dividing each of 1408
// dimensions by its spread over a few points makes all distances alike. The result scales with the points, and
// does not change when they are shifted.
func autoEps(q []float64, opt ClusterOptions) float64 {
	n := len(q)
	m := n - 1
	for j := max(n-1-n/4, 0); j+1 < n; j++ {
		if q[j+1] > opt.OutlierRatio*q[j] {
			m = j
			break
		}
	}
	return opt.Slack * q[m]
}

func clusterReference(points [][]float64, opt ClusterOptions) Clustering {
	scaled := standardise(points)
	labels := DBSCAN(scaled, opt.ReferenceEps, opt.ReferenceMinPoints)
	c := centresOf(points, labels) // equals the mean of the standardised members, transformed back
	if len(c.Centres) == 0 {
		c = oneMean(points, fmt.Sprintf("no %d references lie within %g standard deviations",
			opt.ReferenceMinPoints, opt.ReferenceEps))
	}
	c.Eps = opt.ReferenceEps
	return c
}

// standardise returns (x - mean)/std by dimension, with the population std. As in scikit-learn's StandardScaler, a
// dimension that is constant up to rounding, var <= n*ulp*var + (n*mean*ulp)^2, is only centred.
func standardise(points [][]float64) [][]float64 {
	const ulp = 0x1p-52
	n := float64(len(points))
	centre := mean(points)
	scale := make([]float64, len(centre))
	for j, m := range centre {
		var sum, rest float64
		for _, p := range points {
			d := p[j] - m
			sum += d * d
			rest += d
		}
		variance := (sum - rest*rest/n) / n
		scale[j] = 1
		if bound := n * m * ulp; variance > n*ulp*variance+bound*bound {
			scale[j] = math.Sqrt(variance)
		}
	}
	out := make([][]float64, len(points))
	for i, p := range points {
		out[i] = make([]float64, len(p))
		floats.SubTo(out[i], p, centre)
		floats.Div(out[i], scale)
	}
	return out
}

func mean(points [][]float64) []float64 {
	m := make([]float64, len(points[0]))
	for _, p := range points {
		floats.Add(m, p)
	}
	floats.Scale(1/float64(len(points)), m)
	return m
}

func oneMean(points [][]float64, fallback string) Clustering {
	c := centresOf(points, make([]int, len(points)))
	c.Fallback = fallback
	return c
}

// centresOf returns the means of the points that share a label.
func centresOf(points [][]float64, labels []int) Clustering {
	c := Clustering{Labels: labels}
	members := map[int][][]float64{}
	for i, l := range labels {
		if l != Noise {
			members[l] = append(members[l], points[i])
		}
	}
	for l := range len(members) {
		c.Centres = append(c.Centres, mean(members[l]))
		c.Sizes = append(c.Sizes, len(members[l]))
	}
	return c
}

// Nearest returns d = min_j ||h - c_j||_2 and its j; 0 and -1 without a centre.
func (c Clustering) Nearest(h []float64) (d float64, j int) {
	return c.nearest(h, Noise, 1)
}

// NearestHeldOut is Nearest for point i of the clustering itself, with the point excluded from the mean of its
// centre. With m members in its centre c,
//
//	c' = c + (c - h)/(m-1),   ||h - c'|| = m/(m-1) * ||h - c||
//
// and a centre without another member is ignored. The labels do not change.
func (c Clustering) NearestHeldOut(h []float64, i int) (d float64, j int) {
	own := c.Labels[i]
	if own == Noise {
		return c.Nearest(h)
	}
	m := float64(c.Sizes[own])
	return c.nearest(h, own, m/(m-1)) // +Inf for a lone member
}

func (c Clustering) nearest(h []float64, own int, stretch float64) (d float64, j int) {
	d, j = math.Inf(1), -1
	for k, centre := range c.Centres {
		if k == own && math.IsInf(stretch, 1) {
			continue
		}
		dk := floats.Distance(h, centre, 2)
		if k == own {
			dk *= stretch
		}
		if dk < d {
			d, j = dk, k
		}
	}
	if j < 0 {
		return 0, -1
	}
	return d, j
}
