package frames

import "math"

// taps are the weights of one pixel of the output, from a pixel of the input on.
type taps struct {
	from    int
	weights []int32
}

// bilinear is a triangle of half-width 1.
func bilinear(x float64) float64 { return max(0, 1-math.Abs(x)) }

// bicubic is Keys' kernel with a = -0.5, which torch uses where it antialiases, and Pillow.
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

// axis is one direction of a resize: the taps of each pixel of the output that is wanted.
type axis struct {
	taps      []taps
	precision uint // fractional bits of a weight
}

// resample is the axis that makes a side of in pixels out pixels long, of which pixels first to first+n are wanted. With antialias, the kernel is as much
// wider as the picture gets smaller. Weights have 16 bits, as torch has them where it resizes bytes: as many of them after the point as the largest
// weight of the whole side leaves.
func resample(in, out, first, n int, kernel func(float64) float64, support float64, antialias bool) axis {
	scale := float64(in) / float64(out)
	wide := 1.0
	if antialias {
		wide = max(1, scale)
	}
	support *= wide
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
			w[j] = kernel((float64(from+j) - center + 0.5) / wide)
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

// half is what sums begin with, so that they are rounded.
func (a *axis) half() int32 { return 1 << (a.precision - 1) }

// clip8 turns a sum into a byte.
func (a *axis) clip8(sum int32) byte { return byte(min(max(sum>>a.precision, 0), 255)) }

// plan says how pictures of one size become the cropped picture.
type plan struct {
	width         int   // of the input
	rows, columns *axis // of the crop; nil where the side keeps its length
	top, left     int   // of the crop in the resized picture
	side          int
	// firstRow and lastRow bound the rows of the input that the crop looks at.
	firstRow, lastRow int
}

// run resizes uint8 [H, W, 3] and writes the crop, [side, side, 3].
func (p *plan) run(pixels, out []byte) {
	n := p.side * 3
	lines := make([]byte, (p.lastRow-p.firstRow)*n)
	for y := p.firstRow; y < p.lastRow; y++ { // along x, for the rows that will be looked at
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
