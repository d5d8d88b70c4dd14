package tiny

import (
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// maxRows is the maximum number of rows of a batch. gonum's Gemm sums over k in blocks of 64 when a
// product has four or more blocks of 64x64, and at once when it has fewer, so the rounding of a row could
// depend on the number of rows. With at most 64 rows a batch is one block and this cannot happen.
//
// Every layer stores its sizes and the indices of its weights in the network's flat parameter vector p.
// Gradients are added to a vector g of the same layout. Matrices are row-major; the items of a batch are
// rows.
const maxRows = 64

// matrix returns a view of data as a row-major matrix.
func matrix(data []float32, rows, cols int) blas32.General {
	return blas32.General{Rows: rows, Cols: cols, Stride: cols, Data: data[:rows*cols]}
}

// linear is y = x Wᵀ + b with W [out, in].
type linear struct {
	in, out int
	w, b    int
}

// forward computes y [n, out] from x [n, in].
func (l linear) forward(p, x, y []float32, n int) {
	for i := range n {
		copy(y[i*l.out:(i+1)*l.out], p[l.b:l.b+l.out])
	}
	blas32.Gemm(blas.NoTrans, blas.Trans, 1, matrix(x, n, l.in), matrix(p[l.w:], l.out, l.in), 1, matrix(y, n, l.out))
}

// backward adds the gradients of W and b to g and writes dx, unless it is nil.
func (l linear) backward(p, g, x, dy, dx []float32, n int) {
	blas32.Gemm(
		blas.Trans,
		blas.NoTrans,
		1,
		matrix(dy, n, l.out),
		matrix(x, n, l.in),
		1,
		matrix(g[l.w:], l.out, l.in),
	)
	addRows(g[l.b:l.b+l.out], dy, n)
	if dx != nil {
		blas32.Gemm(
			blas.NoTrans,
			blas.NoTrans,
			1,
			matrix(dy, n, l.out),
			matrix(p[l.w:], l.out, l.in),
			0,
			matrix(dx, n, l.in),
		)
	}
}

// addRows adds n rows of len(sum) values to sum.
func addRows(sum, rows []float32, n int) {
	for i := range n {
		for j, v := range rows[i*len(sum) : (i+1)*len(sum)] {
			sum[j] += v
		}
	}
}

// conv is a convolution over [h, w, in] with square kernels. Zero padding makes the output ceil(h/stride)
// x ceil(w/stride) x out; with an odd padding the extra row and column are at the far side. W is [out,
// kernel*kernel*in].
type conv struct {
	h, w, in       int
	out            int
	kernel, stride int
	weight, bias   int
}

func (c conv) outH() int { return (c.h + c.stride - 1) / c.stride }
func (c conv) outW() int { return (c.w + c.stride - 1) / c.stride }

// positions is the number of output pixels, fan the number of inputs of each.
func (c conv) positions() int { return c.outH() * c.outW() }
func (c conv) fan() int       { return c.kernel * c.kernel * c.in }

// padding returns the rows (or columns) of zeros before the input.
func padding(size, out, kernel, stride int) int { return max((out-1)*stride+kernel-size, 0) / 2 }

// rows calls f for every run of consecutive inputs under a kernel row: n values at input index x belong
// at index col of the im2col matrix.
func (c conv) rows(f func(col, x, n int)) {
	oh, ow := c.outH(), c.outW()
	top, left := padding(c.h, oh, c.kernel, c.stride), padding(c.w, ow, c.kernel, c.stride)
	for oy := range oh {
		for ox := range ow {
			col := (oy*ow + ox) * c.fan()
			x0 := ox*c.stride - left
			from, to := max(0, -x0), min(c.kernel, c.w-x0)
			for ky := range c.kernel {
				y := oy*c.stride - top + ky
				if y < 0 || y >= c.h || from >= to {
					continue
				}
				f(col+(ky*c.kernel+from)*c.in, (y*c.w+x0+from)*c.in, (to-from)*c.in)
			}
		}
	}
}

// columns writes the im2col matrix [positions, fan] of one image x [h, w, in].
func (c conv) columns(x, cols []float32) {
	clear(cols[:c.positions()*c.fan()])
	c.rows(func(col, i, n int) { copy(cols[col:col+n], x[i:i+n]) })
}

// tile is the number of im2col rows in one Gemm, small enough that gonum starts no goroutines.
const tile = 128

// forward computes y [outH, outW, out] of one image x [h, w, in]; cols is scratch space of positions*fan.
func (c conv) forward(p, x, y, cols []float32) {
	c.columns(x, cols)
	n, k := c.positions(), c.fan()
	for i := range n {
		copy(y[i*c.out:(i+1)*c.out], p[c.bias:c.bias+c.out])
	}
	w := matrix(p[c.weight:], c.out, k)
	for i := 0; i < n; i += tile {
		m := min(tile, n-i)
		blas32.Gemm(blas.NoTrans, blas.Trans, 1, matrix(cols[i*k:], m, k), w, 1, matrix(y[i*c.out:], m, c.out))
	}
}

// backward adds the gradients of one image to g and writes dx, unless it is nil. cols and dcols are scratch.
func (c conv) backward(p, g, x, dy, dx, cols, dcols []float32) {
	c.columns(x, cols)
	n, k := c.positions(), c.fan()
	blas32.Gemm(
		blas.Trans,
		blas.NoTrans,
		1,
		matrix(dy, n, c.out),
		matrix(cols, n, k),
		1,
		matrix(g[c.weight:], c.out, k),
	)
	addRows(g[c.bias:c.bias+c.out], dy, n)
	if dx == nil {
		return
	}
	w := matrix(p[c.weight:], c.out, k)
	for i := 0; i < n; i += tile {
		m := min(tile, n-i)
		blas32.Gemm(blas.NoTrans, blas.NoTrans, 1, matrix(dy[i*c.out:], m, c.out), w, 0, matrix(dcols[i*k:], m, k))
	}
	clear(dx[:c.h*c.w*c.in])
	c.rows(func(col, i, n int) {
		d := dx[i : i+n]
		for j, v := range dcols[col : col+n] {
			d[j] += v
		}
	})
}

// relu clamps y at 0 in place.
func relu(y []float32) {
	for i, v := range y {
		if v < 0 {
			y[i] = 0
		}
	}
}

// reluBackward clears dy where the clamped y is 0.
func reluBackward(y, dy []float32) {
	for i, v := range y {
		if v <= 0 {
			dy[i] = 0
		}
	}
}

// spatialSoftmax computes, for each channel of x [h, w, c], the expected column and row (each in -1 to 1)
// under softmax(x) over the pixels: y [c, 2]. prob [h, w, c] keeps the softmax for the backward pass. See
// Levine et al., End-to-End Training of Deep Visuomotor Policies, 2016, section 4.
func spatialSoftmax(x, y, prob []float32, h, w, c int) {
	for ch := range c {
		top := float32(math.Inf(-1))
		for i := ch; i < h*w*c; i += c {
			top = max(top, x[i])
		}
		var sum, sx, sy float64
		for r := range h {
			for q := range w {
				i := (r*w+q)*c + ch
				e := math.Exp(float64(x[i] - top))
				prob[i] = float32(e)
				sum += e
				sx += e * coordinate(q, w)
				sy += e * coordinate(r, h)
			}
		}
		for i := ch; i < h*w*c; i += c {
			prob[i] /= float32(sum)
		}
		y[2*ch], y[2*ch+1] = float32(sx/sum), float32(sy/sum)
	}
}

// spatialSoftmaxBackward adds the gradient to dx: dx = prob * ((column - y0)*dy0 + (row - y1)*dy1).
func spatialSoftmaxBackward(y, dy, prob, dx []float32, h, w, c int) {
	for r := range h {
		for q := range w {
			cx, cy := float32(coordinate(q, w)), float32(coordinate(r, h))
			i := (r*w + q) * c
			for ch := range c {
				dx[i+ch] += prob[i+ch] * ((cx-y[2*ch])*dy[2*ch] + (cy-y[2*ch+1])*dy[2*ch+1])
			}
		}
	}
}

// coordinate maps pixel i of n to -1 to 1.
func coordinate(i, n int) float64 {
	if n < 2 {
		return 0
	}
	return 2*float64(i)/float64(n-1) - 1
}
