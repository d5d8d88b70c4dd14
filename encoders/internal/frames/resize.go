package frames

import "math"

// precision is the number of fractional bits of a weight, as in Pillow: sums of 255 times a weight stay below 2^31.
const precision = 22

// taps are the weights of one pixel of the output, from a pixel of the input on.
type taps struct {
	from    int
	weights []int32
}

// bilinear is a triangle of half-width 1.
func bilinear(x float64) float64 { return max(0, 1-math.Abs(x)) }

// bicubic is Keys' kernel with a = -0.5, which Pillow uses, and torch where it antialiases.
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

// resample gives the taps of pixels first to first+n of a side of in pixels that is made out pixels long. With antialias, the kernel is as much wider as
// the picture gets smaller.
func resample(in, out, first, n int, kernel func(float64) float64, support float64, antialias bool) []taps {
	scale := float64(in) / float64(out)
	wide := 1.0
	if antialias {
		wide = max(1, scale)
	}
	support *= wide
	all := make([]taps, n)
	for i := range all {
		center := (float64(first+i) + 0.5) * scale
		from := max(0, int(center-support+0.5))
		to := min(in, int(center+support+0.5))
		w := make([]float64, to-from)
		sum := 0.0
		for j := range w {
			w[j] = kernel((float64(from+j) - center + 0.5) / wide)
			sum += w[j]
		}
		all[i] = taps{from, make([]int32, len(w))}
		for j := range w {
			all[i].weights[j] = int32(math.Round(w[j] / sum * (1 << precision)))
		}
	}
	return all
}

// clip8 rounds a sum to a byte.
func clip8(sum int32) byte { return byte(min(max(sum>>precision, 0), 255)) }

// plan says how pictures of one size become the cropped picture.
type plan struct {
	width         int    // of the input
	rows, columns []taps // of the crop; nil where the side keeps its length
	top, left     int    // of the crop in the resized picture
	side          int
	// firstRow and lastRow bound the rows of the input that the crop looks at.
	firstRow, lastRow int
}

// run resizes uint8 [H, W, 3] and writes the crop, [side, side, 3]. line is for scratch and returned for the next call.
func (p *plan) run(pixels, out, scratch []byte) []byte {
	n := p.side * 3
	if need := (p.lastRow - p.firstRow) * n; cap(scratch) < need {
		scratch = make([]byte, need)
	}
	lines := scratch[:(p.lastRow-p.firstRow)*n]
	for y := p.firstRow; y < p.lastRow; y++ { // along x, for the rows that will be looked at
		row, to := pixels[y*p.width*3:(y+1)*p.width*3], lines[(y-p.firstRow)*n:(y-p.firstRow+1)*n]
		if p.columns == nil {
			copy(to, row[p.left*3:(p.left+p.side)*3])
			continue
		}
		for x, t := range p.columns {
			r, g, b := int32(1<<(precision-1)), int32(1<<(precision-1)), int32(1<<(precision-1))
			from := row[t.from*3 : (t.from+len(t.weights))*3]
			for j, w := range t.weights {
				px := from[3*j : 3*j+3 : 3*j+3]
				r += w * int32(px[0])
				g += w * int32(px[1])
				b += w * int32(px[2])
			}
			to[3*x], to[3*x+1], to[3*x+2] = clip8(r), clip8(g), clip8(b)
		}
	}
	if p.rows == nil {
		copy(out, lines[(p.top-p.firstRow)*n:])
		return scratch
	}
	sums := make([]int32, n)
	for y, t := range p.rows {
		for i := range sums {
			sums[i] = 1 << (precision - 1)
		}
		for j, w := range t.weights {
			line := lines[(t.from+j-p.firstRow)*n : (t.from+j-p.firstRow+1)*n]
			for i, v := range line {
				sums[i] += w * int32(v)
			}
		}
		to := out[y*n : (y+1)*n]
		for i, s := range sums {
			to[i] = clip8(s)
		}
	}
	return scratch
}
