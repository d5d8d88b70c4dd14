package srpo

import (
	"math"
	"sort"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/floats"
)

// Noise is the label of a point that belongs to no cluster.
const Noise = -1

// DBSCAN labels n points of one size. A core point has at least minPoints points, itself included, at distance
// <= eps. Core points within eps of each other share a cluster. A point within eps of a core point joins the
// first such cluster. The other points are Noise. Clusters are numbered from 0 in the order of their first core
// point, as in scikit-learn.
//
// Cost: n^2 d / 2 multiplications, by blocks through BLAS, and 4 n^2 bytes.
func DBSCAN(points [][]float64, eps float64, minPoints int) []int {
	return pairwise(points).dbscan(eps, minPoints)
}

// distances contains ||x_i - x_j|| for j < i, row by row.
type distances struct {
	n     int
	lower []float64
}

// row is ||x_i - x_j|| for all j < i.
func (d distances) row(i int) []float64 { return d.lower[i*(i-1)/2 : i*(i+1)/2] }

func (d distances) at(i, j int) float64 {
	if i == j {
		return 0
	}
	if i < j {
		i, j = j, i
	}
	return d.lower[i*(i-1)/2+j]
}

// pairwise returns all distances between points:
//
//	||x - y||^2 = ||x||^2 + ||y||^2 - 2 x.y
//
// with x.y from Gemm. The points are centred first. Where the subtraction would cancel most digits the pair is
// measured directly.
func pairwise(points [][]float64) distances {
	const block = 256         // points per side of a Gemm
	const cancellation = 1e-6 // measure directly where ||x-y||^2 is below this share of the norms
	n := len(points)
	out := distances{n: n, lower: make([]float64, n*(n-1)/2)}
	if n < 2 {
		return out
	}
	dim := len(points[0])
	centre := mean(points)
	x := make([]float64, n*dim)
	norm := make([]float64, n)
	for i, p := range points {
		xi := x[i*dim : (i+1)*dim]
		floats.SubTo(xi, p, centre)
		norm[i] = floats.Dot(xi, xi)
	}
	rows := func(from, to int) blas64.General {
		return blas64.General{Rows: to - from, Cols: dim, Stride: dim, Data: x[from*dim : to*dim]}
	}
	dots := make([]float64, block*block)
	for i0 := 0; i0 < n; i0 += block {
		i1 := min(i0+block, n)
		for j0 := 0; j0 <= i0; j0 += block {
			j1 := min(j0+block, n)
			c := blas64.General{Rows: i1 - i0, Cols: j1 - j0, Stride: j1 - j0, Data: dots}
			blas64.Gemm(blas.NoTrans, blas.Trans, 1, rows(i0, i1), rows(j0, j1), 0, c)
			for i := i0; i < i1; i++ {
				row := out.row(i)
				for j := j0; j < min(j1, i); j++ {
					sum := norm[i] + norm[j]
					squared := sum - 2*dots[(i-i0)*c.Stride+j-j0]
					if squared > cancellation*sum {
						row[j] = math.Sqrt(squared)
					} else {
						row[j] = floats.Distance(points[i], points[j], 2)
					}
				}
			}
		}
	}
	return out
}

// kth returns each point's distance to its k-th nearest other point, in increasing order. 1 <= k < n.
func (d distances) kth(k int) []float64 {
	out := make([]float64, d.n)
	nearest := make([]float64, 0, k) // the k smallest so far, increasing
	for i := range out {
		nearest = nearest[:0]
		for j := range d.n {
			if j == i {
				continue
			}
			v := d.at(i, j)
			if len(nearest) == k && v >= nearest[k-1] {
				continue
			}
			at := sort.SearchFloat64s(nearest, v)
			if len(nearest) < k {
				nearest = append(nearest, 0)
			}
			copy(nearest[at+1:], nearest[at:])
			nearest[at] = v
		}
		out[i] = nearest[k-1]
	}
	sort.Float64s(out)
	return out
}

func (d distances) dbscan(eps float64, minPoints int) []int {
	within := make([]int, d.n) // points within eps, the point itself included
	for i := range d.n {
		within[i]++
		for j, v := range d.row(i) {
			if v <= eps {
				within[i]++
				within[j]++
			}
		}
	}
	labels := make([]int, d.n)
	for i := range labels {
		labels[i] = Noise
	}
	cluster := 0
	var todo []int
	for first := range d.n {
		if labels[first] != Noise || within[first] < minPoints {
			continue
		}
		labels[first] = cluster
		todo = append(todo[:0], first)
		for len(todo) > 0 {
			i := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if within[i] < minPoints {
				continue // a border point belongs to the cluster and does not extend it
			}
			for j := range d.n {
				if labels[j] == Noise && d.at(i, j) <= eps {
					labels[j] = cluster
					todo = append(todo, j)
				}
			}
		}
		cluster++
	}
	return labels
}
