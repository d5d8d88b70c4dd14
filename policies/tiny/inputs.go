package tiny

import (
	"hash/fnv"
	"math"
	"strings"
	"unicode"
)

// wordBuckets is the number of buckets that the words of an instruction are hashed into.
const wordBuckets = 32

// hashWords writes the hashed bag of words of s to x [wordBuckets]: every lower-case word adds +1 or -1
// to two buckets, and the result is scaled to length 1. The order of words does not matter. Words that
// share both buckets cannot be told apart, which is rare for the vocabulary of instructions.
func hashWords(s string, x []float32) {
	clear(x)
	var norm float64
	separator := func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }
	for _, w := range strings.FieldsFunc(strings.ToLower(s), separator) {
		h := fnv.New64a()
		h.Write([]byte(w))
		v := h.Sum64()
		for range 2 {
			x[v%wordBuckets] += float32(int(v>>32&1)*2 - 1)
			v = v>>33 | v<<31
		}
	}
	for _, v := range x {
		norm += float64(v * v)
	}
	if norm > 0 {
		for i := range x {
			x[i] /= float32(math.Sqrt(norm))
		}
	}
}

// clockBases writes Gaussian radial bases of step/horizon to x. Their centres are evenly spaced over 0 to
// 1 and their width equals that spacing. Steps beyond the horizon count as the horizon.
func clockBases(step, horizon float64, x []float32) {
	if len(x) == 0 {
		return
	}
	at := min(max(step/horizon, 0), 1) * float64(max(len(x)-1, 1))
	for i := range x {
		d := at - float64(i)
		x[i] = float32(math.Exp(-0.5 * d * d))
	}
}

// resizeArea resizes src [h, w, 3] to dst [side, side, 3] by the mean over the area of each target pixel,
// rounded to a byte. It does not keep the aspect ratio.
func resizeArea(dst, src []byte, h, w int) {
	if h == side && w == side {
		copy(dst, src)
		return
	}
	row := make([]float32, w*3)
	for y := range side {
		clear(row)
		overlaps(y, h, func(i int, share float32) {
			for j, v := range src[i*w*3 : (i+1)*w*3] {
				row[j] += share * float32(v)
			}
		})
		for x := range side {
			var sum [3]float32
			overlaps(x, w, func(i int, share float32) {
				for c := range sum {
					sum[c] += share * row[i*3+c]
				}
			})
			for c, v := range sum {
				dst[(y*side+x)*3+c] = byte(min(v+0.5, 255))
			}
		}
	}
}

// overlaps calls f with each of the n source cells that target cell i of side covers, and the share of
// the target cell that it fills. The shares sum to 1.
func overlaps(i, n int, f func(cell int, share float32)) {
	from, to := i*n, (i+1)*n // in units of 1/side source cells
	for c := from / side; c*side < to; c++ {
		f(c, float32(min(to, (c+1)*side)-max(from, c*side))/float32(n))
	}
}

// shiftImage shifts src [side, side, 3] by (dy, dx) pixels into dst, repeating the border, and multiplies
// the values by gain.
func shiftImage(dst, src []byte, dy, dx int, gain float32) {
	for y := range side {
		sy := min(max(y-dy, 0), side-1)
		for x := range side {
			sx := min(max(x-dx, 0), side-1)
			for c := range 3 {
				dst[(y*side+x)*3+c] = byte(min(float32(src[(sy*side+sx)*3+c])*gain+0.5, 255))
			}
		}
	}
}
