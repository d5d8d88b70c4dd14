package tiny

import "math"

// adam is Adam (Kingma and Ba, 2015) without weight decay: first and second moments and the number of steps made.
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

// clip scales g down to norm at most and returns the norm it had; most 0 leaves it.
func clip(g []float32, most float64) float64 {
	var sum float64
	for _, v := range g {
		sum += float64(v) * float64(v)
	}
	norm := math.Sqrt(sum)
	if most > 0 && norm > most {
		s := float32(most / norm)
		for i := range g {
			g[i] *= s
		}
	}
	return norm
}

// total adds the parts in their order into the first, a stretch of parameters at a time.
func total(parts [][]float32) []float32 {
	const stretch = 1 << 14
	sum := parts[0]
	workers((len(sum)+stretch-1)/stretch, func(_, k int) {
		from, to := k*stretch, min((k+1)*stretch, len(sum))
		for _, part := range parts[1:] {
			d := sum[from:to]
			for i, v := range part[from:to] {
				d[i] += v
			}
		}
	})
	return sum
}
