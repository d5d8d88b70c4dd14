package tiny

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func random(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

func dot(a, b []float32) float64 {
	var s float64
	for i := range a {
		s += float64(a[i]) * float64(b[i])
	}
	return s
}

// checkGradient compares g with central differences of f by the entries of x (at most 80, drawn by r).
func checkGradient(t *testing.T, r *rand.Rand, what string, f func() float64, x, g []float32, h float32,
	tolerance float64) {
	t.Helper()
	var scale float64
	for _, v := range g {
		scale = max(scale, math.Abs(float64(v)))
	}
	require.Positive(t, scale, "%s has no gradient at all", what)
	for k := range min(len(x), 80) {
		i := k
		if len(x) > 80 {
			i = r.IntN(len(x))
		}
		old := x[i]
		x[i] = old + h
		up := f()
		x[i] = old - h
		down := f()
		x[i] = old
		want := (up - down) / (2 * float64(h))
		require.InDelta(t, want, float64(g[i]), tolerance*scale, "%s, entry %d", what, i)
	}
}

func TestLinearGradient(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	l := linear{in: 5, out: 3, w: 2, b: 17}
	p, x, c := random(r, 20), random(r, 4*5), random(r, 4*3)
	y, g, dx := make([]float32, 12), make([]float32, 20), make([]float32, 20)
	loss := func() float64 { l.forward(p, x, y, 4); return dot(y, c) }
	l.backward(p, g, x, c, dx, 4)
	require.Zero(t, g[0], "parameters of another layer")
	checkGradient(t, r, "weights", loss, p, g, 0.1, 1e-4)
	checkGradient(t, r, "input", loss, x, dx, 0.1, 1e-4)
}

func TestConvGradient(t *testing.T) {
	for _, c := range []conv{
		{h: 7, w: 9, in: 2, out: 3, kernel: 3, stride: 1},
		{h: 8, w: 8, in: 2, out: 3, kernel: 3, stride: 2},
		{h: 8, w: 12, in: 3, out: 2, kernel: 4, stride: 4},
		{h: 6, w: 5, in: 1, out: 2, kernel: 5, stride: 2},
		{h: 5, w: 5, in: 2, out: 2, kernel: 2, stride: 3}, // some pixels are never read
		{h: 16, w: 16, in: 1, out: 1, kernel: 1, stride: 1},
	} {
		r := rand.New(rand.NewPCG(2, 1))
		c.bias = c.out * c.fan()
		p, x, d := random(r, c.bias+c.out), random(r, c.h*c.w*c.in), random(r, c.positions()*c.out)
		y, g, dx := make([]float32, len(d)), make([]float32, len(p)), make([]float32, len(x))
		cols, dcols := make([]float32, c.positions()*c.fan()), make([]float32, c.positions()*c.fan())
		loss := func() float64 { c.forward(p, x, y, cols); return dot(y, d) }
		loss()
		c.backward(p, g, x, d, dx, cols, dcols)
		checkGradient(t, r, "weights", loss, p, g, 0.1, 1e-4)
		checkGradient(t, r, "input", loss, x, dx, 0.1, 1e-4)
	}
}

// TestConvValue compares forward with the definition of a convolution.
func TestConvValue(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	c := conv{h: 7, w: 6, in: 2, out: 3, kernel: 3, stride: 2}
	c.bias = c.out * c.fan()
	p, x := random(r, c.bias+c.out), random(r, c.h*c.w*c.in)
	y := make([]float32, c.positions()*c.out)
	c.forward(p, x, y, make([]float32, c.positions()*c.fan()))
	require.Equal(t, []int{4, 3}, []int{c.outH(), c.outW()})
	for oy := range 4 {
		for ox := range 3 {
			for o := range 3 {
				want := float64(p[c.bias+o])
				for ky := range 3 {
					for kx := range 3 {
						iy, ix := oy*2-1+ky, ox*2-0+kx // 7 rows need 1 above, 6 columns 1 at the right
						if iy < 0 || iy >= 7 || ix < 0 || ix >= 6 {
							continue
						}
						for ci := range 2 {
							want += float64(p[((o*3+ky)*3+kx)*2+ci]) * float64(x[(iy*6+ix)*2+ci])
						}
					}
				}
				require.InDelta(t, want, float64(y[(oy*3+ox)*3+o]), 1e-5)
			}
		}
	}
}

func TestSpatialSoftmaxGradient(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 1))
	const h, w, c = 4, 5, 3
	x, d := random(r, h*w*c), random(r, 2*c)
	y, prob, dx := make([]float32, 2*c), make([]float32, h*w*c), make([]float32, h*w*c)
	loss := func() float64 { spatialSoftmax(x, y, prob, h, w, c); return dot(y, d) }
	loss()
	spatialSoftmaxBackward(y, d, prob, dx, h, w, c)
	checkGradient(t, r, "input", loss, x, dx, 0.02, 2e-3)

	clear(x)
	x[(1*w+4)*c] = 50 // one bright pixel: the expectation is its position
	loss()
	require.InDeltaSlice(t, []float64{1, 2.0/3 - 1}, []float64{float64(y[0]), float64(y[1])}, 1e-6)
	require.InDelta(t, 0, float64(y[2]), 1e-6, "a flat channel gives the middle")
}

func TestReluGradient(t *testing.T) {
	y, dy := []float32{-1, 2, 0, 3}, []float32{1, 2, 3, 4}
	relu(y)
	reluBackward(y, dy)
	require.Equal(t, []float32{0, 2, 0, 3}, y)
	require.Equal(t, []float32{0, 2, 0, 4}, dy)
}

func TestHeadGradients(t *testing.T) {
	for name, h := range map[string]head{
		"gaussian":       gaussian{3, 2, 0.3},
		"chunk gaussian": chunkGaussian{gaussian{3, 2, 0.3}},
		"tokens":         tokens{3, 2, 5},
	} {
		t.Run(name, func(t *testing.T) {
			const elements, temperature = 6, 1.3
			r := rand.New(rand.NewPCG(5, 1))
			out, ref := random(r, h.outputs()), random(r, h.outputs())
			sample := make([]float32, elements)
			h.sample(out, r, temperature, false, sample)
			weights, lp := make([]float64, elements), make([]float64, elements)
			for i := range weights {
				weights[i] = r.NormFloat64()
			}
			sum := func() (s float64) {
				for i, v := range lp {
					s += weights[i] * v
				}
				return s
			}
			g := make([]float32, len(out))
			h.logProbBackward(out, sample, temperature, weights, g)
			checkGradient(t, r, "log-probability",
				func() float64 { h.logProb(out, sample, temperature, lp); return sum() }, out, g, 1e-2, 1e-3)
			clear(g)
			h.divergenceBackward(out, ref, temperature, weights, g)
			checkGradient(t, r, "divergence",
				func() float64 { h.divergence(out, ref, temperature, lp); return sum() }, out, g, 1e-2, 1e-3)
			h.divergence(out, out, temperature, lp)
			require.InDeltaSlice(t, make([]float64, elements), lp, 1e-12)

			clear(g)
			target, weight := []float32{-0.9, 0.3, 0, 1, -1, 0.5}, []float32{1, 1, 0, 1, 1, 1}
			h.imitationLoss(out, target, weight, 0.5, g)
			checkGradient(t, r, "imitation",
				func() float64 {
					return 0.5 * h.imitationLoss(out, target, weight, 0.5,
						make([]float32, len(out)))
				}, out, g, 1e-2, 1e-3)
		})
	}
}

// TestHeadDistributions draws many samples and compares their frequencies with the log-probabilities.
func TestHeadDistributions(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 1))
	k := tokens{1, 1, 4}
	out := random(r, 4)
	const n = 20000
	count := make([]float64, 4)
	s, lp := make([]float32, 1), make([]float64, 1)
	for range n {
		k.sample(out, r, 0.7, false, s)
		count[int(s[0])]++
	}
	for b := range 4 {
		s[0] = float32(b)
		k.logProb(out, s, 0.7, lp)
		require.InDelta(t, math.Exp(lp[0]), count[b]/n, 0.02)
	}
	g := gaussian{1, 1, 0.3}
	var sum, squares float64
	for range n {
		g.sample([]float32{0.5}, r, 2, false, s)
		sum, squares = sum+float64(s[0]), squares+float64(s[0]*s[0])
	}
	require.InDelta(t, 0.5, sum/n, 0.02)
	require.InDelta(t, 0.6, math.Sqrt(squares/n-sum/n*sum/n), 0.02)
	g.logProb([]float32{0.5}, []float32{0.5}, 2, lp)
	require.InDelta(t, -math.Log(0.6*math.Sqrt(2*math.Pi)), lp[0], 1e-6)
	require.InDelta(t, 0.5+math.Log(0.6*math.Sqrt(2*math.Pi)), g.entropy(nil, 2), 1e-6)
	for v, want := range map[float32]int{-1: 0, -0.51: 0, -0.49: 1, 0.1: 2, 1: 3, 3: 3, -3: 0} {
		require.Equal(t, want, k.bin(v), v)
	}
	require.InDelta(t, -0.75, float64(k.value(0)), 1e-6)
}

func TestAverage(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 1))
	for _, size := range [][2]int{{64, 64}, {128, 128}, {96, 100}, {32, 32}, {1, 1}} {
		h, w := size[0], size[1]
		src, dst := make([]byte, h*w*3), make([]byte, side*side*3)
		var in, out float64
		for i := range src {
			src[i] = byte(r.IntN(256))
			in += float64(src[i]) / float64(len(src))
		}
		resizeArea(dst, src, h, w)
		for _, v := range dst {
			out += float64(v) / float64(len(dst))
		}
		require.InDelta(t, in, out, 0.2, "%v: the mean is kept, except that halves are rounded up", size)
		if h == 128 {
			at := func(y, x int) float64 { return float64(src[(y*128+x)*3]) }
			want := (at(2, 6) + at(2, 7) + at(3, 6) + at(3, 7)) / 4
			require.InDelta(t, want, float64(dst[(1*side+3)*3]), 0.51)
		}
		for i := range src {
			src[i] = 255
		}
		resizeArea(dst, src, h, w)
		for _, v := range dst {
			require.Equal(t, byte(255), v)
		}
	}
}

func TestInstruction(t *testing.T) {
	var a, b, c [wordBuckets]float32
	hashWords("Put the red block on the plate", a[:])
	hashWords("on the plate put, the RED block!", b[:])
	hashWords("put the blue block on the plate", c[:])
	require.Equal(t, a, b)
	require.NotEqual(t, a, c)
	require.InDelta(t, 1, dot(a[:], a[:]), 1e-6)
	hashWords("", c[:])
	require.Equal(t, [wordBuckets]float32{}, c)
}

// TestChunkNoise checks that one draw shifts the whole chunk, and that its density is that of the shift.
func TestChunkNoise(t *testing.T) {
	const chunk, dim, std = 4, 2, 0.3
	g := chunkGaussian{gaussian{chunk, dim, std}}
	r := rand.New(rand.NewPCG(3, 3))
	out, sample, lp := random(r, chunk*dim), make([]float32, chunk*dim), make([]float64, chunk*dim)
	g.sample(out, r, 1, true, sample)
	require.Equal(t, out, sample)
	const draws = 4000
	var square float64
	for range draws {
		g.sample(out, r, 2, false, sample)
		for i := dim; i < len(sample); i++ {
			require.InDelta(t, sample[i%dim]-out[i%dim], sample[i]-out[i], 1e-6, "every position has the same shift")
		}
		shift := float64(sample[0] - out[0])
		square += shift * shift
		g.logProb(out, sample, 2, lp)
		require.InDelta(t, -shift*shift/2/(2*std)/(2*std)-math.Log(2*std*math.Sqrt(2*math.Pi)), lp[0], 1e-5)
		require.Equal(t, make([]float64, (chunk-1)*dim), lp[dim:], "positions after the first have probability 1")
	}
	require.InDelta(t, 2*std, math.Sqrt(square/draws), 0.02)
}
