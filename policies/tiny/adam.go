package tiny

import "math"

// adam is the state of Adam (Kingma and Ba, 2015) without weight decay: first and second moments and the
// number of steps taken.
type adam struct {
	m, v  []float32
	steps int
}

func newAdam(n int) adam { return adam{m: make([]float32, n), v: make([]float32, n)} }

func (a adam) clone() adam {
	return adam{append([]float32(nil), a.m...), append([]float32(nil), a.v...), a.steps}
}

// step moves the weights w by one step against the gradient g.
func (a *adam) step(w, g []float32, lr, beta1, beta2 float64) {
	a.steps++
	t := float64(a.steps)
	rate := float32(lr / (1 - math.Pow(beta1, t)))
	root := float32(1 / math.Sqrt(1-math.Pow(beta2, t)))
	b1, b2 := float32(beta1), float32(beta2)
	for i, d := range g {
		m := b1*a.m[i] + (1-b1)*d
		v := b2*a.v[i] + (1-b2)*d*d
		a.m[i], a.v[i] = m, v
		w[i] -= rate * m / (root*float32(math.Sqrt(float64(v))) + 1e-8)
	}
}

// clipNorm scales g so that its norm is at most limit and returns the original norm; limit 0 leaves g
// unchanged.
func clipNorm(g []float32, limit float64) float64 {
	var sum float64
	for _, v := range g {
		sum += float64(v) * float64(v)
	}
	norm := math.Sqrt(sum)
	if limit > 0 && norm > limit {
		s := float32(limit / norm)
		for i := range g {
			g[i] *= s
		}
	}
	return norm
}

// sumParts adds the parts in order into parts[0] and returns it. Workers split the parameters into blocks.
func sumParts(parts [][]float32) []float32 {
	const block = 1 << 14
	sum := parts[0]
	workers((len(sum)+block-1)/block, func(_, k int) {
		from, to := k*block, min((k+1)*block, len(sum))
		for _, part := range parts[1:] {
			d := sum[from:to]
			for i, v := range part[from:to] {
				d[i] += v
			}
		}
	})
	return sum
}
