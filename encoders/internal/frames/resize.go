package frames

import "math"

// taps are the weights of consecutive input pixels for one output pixel, starting at input pixel from.
type taps struct {
	from    int
	weights []int32
}

// bilinear is the triangle kernel of half-width 1.
func bilinear(x float64) float64 { return max(0, 1-math.Abs(x)) }

// bicubic is Keys' kernel with a = -0.5 and half-width 2. torch uses this value when it antialiases, and
// Pillow always.
func bicubic(x float64) float64 {
	const a = -0.5
	x = math.Abs(x)
	switch {
	case x < 1:
		return ((a+2)*x-(a+3))*x*x + 1
	case x < 2:
		return (((x-5)*x+8)*x - 4) * a
	}
	return 0
}

// axis resizes along one direction. It has the taps of each output pixel inside the crop.
type axis struct {
	taps      []taps
	precision uint // fractional bits of a weight
}

// resample returns the axis that resizes in pixels to out pixels, for the output pixels first to first+n-1.
// With antialias, the kernel is widened by the factor of shrinking. Weights are 16-bit integers, as in
// torch's resize of bytes; their precision is the largest at which the largest weight of all out pixels
// still fits.
func resample(in, out, first, n int, kernel func(float64) float64, support float64, antialias bool) axis {
	scale := float64(in) / float64(out)
	stretch := 1.0
	if antialias {
		stretch = max(1, scale)
	}
	support *= stretch
	all := make([]struct {
		from    int
		weights []float64
	}, out)
	largest := 0.0
	for i := range all {
		center := (float64(i) + 0.5) * scale
		from := max(0, int(center-support+0.5))
		to := min(in, int(center+support+0.5))
		w := make([]float64, to-from)
		sum := 0.0
		for j := range w {
			w[j] = kernel((float64(from+j) - center + 0.5) / stretch)
			sum += w[j]
		}
		for j := range w {
			w[j] /= sum
			largest = max(largest, w[j])
		}
		all[i].from, all[i].weights = from, w
	}
	a := axis{taps: make([]taps, n)}
	for a.precision < 22 && int(0.5+largest*float64(int(1)<<(a.precision+1))) < 1<<15 {
		a.precision++
	}
	one := float64(int(1) << a.precision)
	for i := range a.taps {
		w := all[first+i].weights
		a.taps[i] = taps{all[first+i].from, make([]int32, len(w))}
		for j := range w {
			a.taps[i].weights[j] = int32(math.Round(w[j] * one)) // half away from zero
		}
	}
	return a
}

// half is the initial value of a sum, which makes clip8 round to nearest.
func (a *axis) half() int32 { return 1 << (a.precision - 1) }

// clip8 converts a weighted sum to a byte.
func (a *axis) clip8(sum int32) byte { return byte(min(max(sum>>a.precision, 0), 255)) }

// plan resizes and crops pictures of one size.
type plan struct {
	width         int   // width of the input
	rows, columns *axis // nil if that side keeps its length
	top, left     int   // position of the crop in the resized picture
	side          int   // side of the crop
	// The crop depends on the input rows firstRow to lastRow-1.
	firstRow, lastRow int
}

// run resizes and crops pixels, uint8 [height, width, 3], and writes uint8 [side, side, 3] to out.
func (p *plan) run(pixels, out []byte) {
	n := p.side * 3
	lines := make([]byte, (p.lastRow-p.firstRow)*n)
	for y := p.firstRow; y < p.lastRow; y++ { // resize along x
		row, to := pixels[y*p.width*3:(y+1)*p.width*3], lines[(y-p.firstRow)*n:(y-p.firstRow+1)*n]
		if p.columns == nil {
			copy(to, row[p.left*3:(p.left+p.side)*3])
			continue
		}
		for x, t := range p.columns.taps {
			r, g, b := p.columns.half(), p.columns.half(), p.columns.half()
			from := row[t.from*3 : (t.from+len(t.weights))*3]
			for j, w := range t.weights {
				px := from[3*j : 3*j+3 : 3*j+3]
				r += w * int32(px[0])
				g += w * int32(px[1])
				b += w * int32(px[2])
			}
			to[3*x], to[3*x+1], to[3*x+2] = p.columns.clip8(r), p.columns.clip8(g), p.columns.clip8(b)
		}
	}
	if p.rows == nil {
		copy(out, lines)
		return
	}
	sums := make([]int32, n)
	for y, t := range p.rows.taps {
		for i := range sums {
			sums[i] = p.rows.half()
		}
		for j, w := range t.weights {
			line := lines[(t.from+j-p.firstRow)*n : (t.from+j-p.firstRow+1)*n]
			for i, v := range line {
				sums[i] += w * int32(v)
			}
		}
		to := out[y*n : (y+1)*n]
		for i, s := range sums {
			to[i] = p.rows.clip8(s)
		}
	}
}
