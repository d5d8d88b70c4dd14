package media

import (
	"image"
	"image/color"
	"image/gif"
	"io"
	"sort"

	"github.com/srpo-dev/srpo/plugins"
)

// GIF says how a clip becomes an animated GIF; zero values take the defaults.
type GIF struct {
	// MaxSide bounds width and height, pixels, by averaging whole blocks; 160.
	MaxSide int
	// MaxFrames bounds the frames, taken evenly, the first and the last always; 60.
	MaxFrames int
	// DelayMS is a frame's time; by default a clip takes about four seconds, 50 to 200 ms a frame. The last frame stays a second longer.
	DelayMS int
}

// colors is the number of colours of a clip's palette; one more stands for "as in the frame before".
const colors = 255

// EncodeGIF writes frames, uint8 [T, H, W, 3] with T >= 1. The palette is made for the whole clip, so that a still background stays still, and a frame
// holds only what changed.
func EncodeGIF(w io.Writer, frames plugins.Tensor, o GIF) error {
	if err := frames.Check("video", plugins.Uint8, -1, -1, -1, 3); err != nil {
		return err
	}
	t, h, wd := frames.Shape[0], frames.Shape[1], frames.Shape[2]
	if t == 0 || h == 0 || wd == 0 {
		return plugins.Errorf(plugins.Corrupt, "video has no pixels: shape %v", frames.Shape)
	}
	if o.MaxSide <= 0 {
		o.MaxSide = 160
	}
	if o.MaxFrames <= 0 {
		o.MaxFrames = 60
	}
	block := (max(h, wd) + o.MaxSide - 1) / o.MaxSide
	n := min(t, o.MaxFrames)
	clip := make([][]byte, n)
	var sh, sw int
	for i := range clip {
		at := 0
		if n > 1 {
			at = (i*(t-1) + (n-1)/2) / (n - 1)
		}
		clip[i], sh, sw = shrink(frames.Data[at*h*wd*3:(at+1)*h*wd*3], h, wd, block)
	}
	if sh > 65535 || sw > 65535 {
		return plugins.Errorf(plugins.Corrupt, "video of %d by %d pixels does not fit a GIF", sh, sw)
	}
	if o.DelayMS <= 0 {
		o.DelayMS = min(200, max(50, 4000/n))
	}
	pal := newPalette(clip)
	transparent := uint8(len(pal.colors))
	table := append(append(color.Palette{}, pal.colors...), color.RGBA{})
	out := &gif.GIF{Config: image.Config{ColorModel: table, Width: sw, Height: sh}}
	var before []uint8
	for i, f := range clip {
		index := make([]uint8, sh*sw)
		for p := range index {
			index[p] = pal.index(f[3*p], f[3*p+1], f[3*p+2])
		}
		box := image.Rect(0, 0, sw, sh)
		if i > 0 {
			box = changed(before, index, sh, sw)
		}
		img := image.NewPaletted(box, table)
		for y := box.Min.Y; y < box.Max.Y; y++ {
			row := img.Pix[(y-box.Min.Y)*img.Stride:]
			for x := box.Min.X; x < box.Max.X; x++ {
				v := index[y*sw+x]
				if i > 0 && v == before[y*sw+x] {
					v = transparent
				}
				row[x-box.Min.X] = v
			}
		}
		delay := (o.DelayMS + 5) / 10
		if i == n-1 {
			delay += 100
		}
		out.Image, out.Delay, out.Disposal = append(out.Image, img), append(out.Delay, delay), append(out.Disposal, gif.DisposalNone)
		before = index
	}
	return gif.EncodeAll(w, out)
}

// changed is the smallest rectangle that holds every pixel that differs, one pixel when none does.
func changed(a, b []uint8, h, w int) image.Rectangle {
	box := image.Rectangle{}
	for y := range h {
		for x := range w {
			if a[y*w+x] != b[y*w+x] {
				box = box.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	if box.Empty() {
		return image.Rect(0, 0, 1, 1)
	}
	return box
}

// shrink averages blocks of n by n pixels; the last ones may be smaller.
func shrink(f []byte, h, w, n int) (out []byte, sh, sw int) {
	if n == 1 {
		return f, h, w
	}
	sh, sw = (h+n-1)/n, (w+n-1)/n
	out = make([]byte, sh*sw*3)
	for y := range sh {
		for x := range sw {
			var sum [3]int
			count := 0
			for yy := y * n; yy < min(h, (y+1)*n); yy++ {
				for xx := x * n; xx < min(w, (x+1)*n); xx++ {
					for c := range sum {
						sum[c] += int(f[(yy*w+xx)*3+c])
					}
					count++
				}
			}
			for c := range sum {
				out[(y*sw+x)*3+c] = byte((sum[c] + count/2) / count)
			}
		}
	}
	return out, sh, sw
}

// palette maps colours, taken to six bits a channel, to the nearest of at most 255.
type palette struct {
	colors color.Palette
	// near caches, by colour of six bits a channel, the index plus one.
	near []uint16
}

// bin is a colour that occurs, with its mean and how often.
type bin struct {
	mean  [3]float64
	count float64
}

// newPalette cuts the space of the clip's colours at the mean of the widest spread, again and again, and moves the colours found to the means of what
// they stand for (Lloyd's algorithm).
func newPalette(clip [][]byte) *palette {
	sums := make([][4]uint64, 1<<18)
	for _, f := range clip {
		for i := 0; i+2 < len(f); i += 3 {
			s := &sums[code(f[i], f[i+1], f[i+2])]
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
		centres = refine(bins, cut(bins))
	}
	p := &palette{near: make([]uint16, 1<<18)}
	for _, c := range centres {
		p.colors = append(p.colors, color.RGBA{byte(c[0] + 0.5), byte(c[1] + 0.5), byte(c[2] + 0.5), 255})
	}
	return p
}

func code(r, g, b byte) int { return int(r>>2)<<12 | int(g>>2)<<6 | int(b>>2) }

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

// cut splits the widest box until there are as many as colours.
func cut(bins []bin) [][3]float64 {
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

// index is the palette's entry for a colour.
func (p *palette) index(r, g, b byte) uint8 {
	k := code(r, g, b)
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
