package media

import (
	"image/color"
	"sort"
)

// colors is the number of colours of a clip's palette. The 256th entry means "unchanged since the previous frame".
const colors = 255

// palette maps colours, reduced to six bits per channel, to the nearest of at most 255.
type palette struct {
	colors color.Palette
	// near caches the index plus one, by the colour with six bits per channel.
	near []uint16
}

// bin is the mean and the count of the pixels that share a colour of six bits per channel.
type bin struct {
	mean  [3]float64
	count float64
}

// newPalette splits the colours of the clip repeatedly at the mean of the axis with the widest spread, and then moves
// each resulting colour to the mean of the pixels that it represents (Lloyd's algorithm).
func newPalette(clip [][]byte) *palette {
	sums := make([][4]uint64, 1<<18)
	for _, f := range clip {
		for i := 0; i+2 < len(f); i += 3 {
			s := &sums[colourCode(f[i], f[i+1], f[i+2])]
			s[0] += uint64(f[i])
			s[1] += uint64(f[i+1])
			s[2] += uint64(f[i+2])
			s[3]++
		}
	}
	var bins []bin
	for _, s := range sums {
		if s[3] > 0 {
			n := float64(s[3])
			bins = append(bins, bin{[3]float64{float64(s[0]) / n, float64(s[1]) / n, float64(s[2]) / n}, n})
		}
	}
	var centres [][3]float64
	if len(bins) <= colors {
		for _, b := range bins {
			centres = append(centres, b.mean)
		}
	} else {
		centres = refine(bins, medianCut(bins))
	}
	p := &palette{near: make([]uint16, 1<<18)}
	for _, c := range centres {
		p.colors = append(p.colors, color.RGBA{byte(c[0] + 0.5), byte(c[1] + 0.5), byte(c[2] + 0.5), 255})
	}
	return p
}

func colourCode(r, g, b byte) int { return int(r>>2)<<12 | int(g>>2)<<6 | int(b>>2) }

// box is a set of bins with its sum of squared distances from the mean, and the axis on which it is widest.
type box struct {
	bins   []bin
	spread float64
	axis   int
	mean   [3]float64
}

func newBox(bins []bin) box {
	b := box{bins: bins}
	var n float64
	var sq [3]float64
	for _, x := range bins {
		n += x.count
		for c := range x.mean {
			b.mean[c] += x.count * x.mean[c]
			sq[c] += x.count * x.mean[c] * x.mean[c]
		}
	}
	widest := -1.0
	for c := range b.mean {
		b.mean[c] /= n
		v := sq[c] - n*b.mean[c]*b.mean[c]
		if v > widest {
			widest, b.axis = v, c
		}
	}
	if len(bins) > 1 {
		b.spread = max(widest, 1e-9)
	}
	return b
}

// medianCut splits the box with the widest spread until there is one per colour.
func medianCut(bins []bin) [][3]float64 {
	boxes := []box{newBox(bins)}
	for len(boxes) < colors {
		at := 0
		for i := range boxes {
			if boxes[i].spread > boxes[at].spread {
				at = i
			}
		}
		b := boxes[at]
		if b.spread == 0 {
			break
		}
		sort.SliceStable(b.bins, func(i, j int) bool { return b.bins[i].mean[b.axis] < b.bins[j].mean[b.axis] })
		split := sort.Search(len(b.bins), func(i int) bool { return b.bins[i].mean[b.axis] > b.mean[b.axis] })
		split = min(max(split, 1), len(b.bins)-1)
		boxes[at] = newBox(b.bins[:split])
		boxes = append(boxes, newBox(b.bins[split:]))
	}
	centres := make([][3]float64, len(boxes))
	for i, b := range boxes {
		centres[i] = b.mean
	}
	return centres
}

func refine(bins []bin, centres [][3]float64) [][3]float64 {
	const rounds = 2
	for range rounds {
		sum := make([][4]float64, len(centres))
		for _, b := range bins {
			i := nearest(centres, b.mean)
			for c := range b.mean {
				sum[i][c] += b.count * b.mean[c]
			}
			sum[i][3] += b.count
		}
		for i, s := range sum {
			if s[3] > 0 {
				centres[i] = [3]float64{s[0] / s[3], s[1] / s[3], s[2] / s[3]}
			}
		}
	}
	return centres
}

func nearest(centres [][3]float64, m [3]float64) int {
	best, least := 0, 1e18
	for i, c := range centres {
		d0, d1, d2 := c[0]-m[0], c[1]-m[1], c[2]-m[2]
		if d := d0*d0 + d1*d1 + d2*d2; d < least {
			best, least = i, d
		}
	}
	return best
}

// index returns the palette's entry for a colour.
func (p *palette) index(r, g, b byte) uint8 {
	k := colourCode(r, g, b)
	if p.near[k] == 0 {
		best, least := 0, 1<<30
		for i, c := range p.colors {
			c := c.(color.RGBA)
			d0, d1, d2 := int(c.R)-int(r), int(c.G)-int(g), int(c.B)-int(b)
			if d := d0*d0 + d1*d1 + d2*d2; d < least {
				best, least = i, d
			}
		}
		p.near[k] = uint16(best) + 1
	}
	return uint8(p.near[k] - 1)
}
