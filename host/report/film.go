package report

import (
	"bytes"
	"math"

	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/plugins"
)

// Line is a curve to draw beside frames.
type Line struct {
	// Ends are increasing numbers of frames; Values has a number from 0 to 1 for each.
	Ends   []int
	Values []float64
}

// filmHues are the series colours of chart.css as RGB.
var filmHues = [hues][3]byte{{0x25, 0x63, 0xeb}, {0xe8, 0x59, 0x0c}, {0x0b, 0x8f, 0x6a}, {0x8b, 0x3f, 0xd9},
	{0xb7, 0x79, 0x1f}, {0xc2, 0x25, 0x5c}}

const (
	cellSide   = 128 // side of the frame, and of the plot beside it, in pixels
	filmFrames = 48
)

// canvas is an RGB picture.
type canvas struct {
	w, h int
	pix  []byte
}

func newCanvas(w, h int) *canvas {
	return &canvas{w, h, bytes.Repeat([]byte{255}, w*h*3)}
}

// mix blends a colour into a pixel; share 1 replaces it.
func (c *canvas) mix(x, y int, colour [3]byte, share float64) {
	if x < 0 || y < 0 || x >= c.w || y >= c.h || share <= 0 {
		return
	}
	p := c.pix[3*(y*c.w+x):]
	for k, v := range colour {
		p[k] = byte(math.Round(float64(p[k]) + (float64(v)-float64(p[k]))*min(share, 1)))
	}
}

func (c *canvas) rect(x0, y0, x1, y1 int, colour [3]byte) {
	for y := y0; y < y1; y++ {
		for x := x0; x < x1; x++ {
			c.mix(x, y, colour, 1)
		}
	}
}

// segment draws an antialiased line.
func (c *canvas) segment(ax, ay, bx, by, width float64, colour [3]byte) {
	r := width/2 + 1
	for y := int(math.Floor(min(ay, by) - r)); y <= int(math.Ceil(max(ay, by)+r)); y++ {
		for x := int(math.Floor(min(ax, bx) - r)); x <= int(math.Ceil(max(ax, bx)+r)); x++ {
			dx, dy := bx-ax, by-ay
			t := 0.0
			if l := dx*dx + dy*dy; l > 0 {
				t = min(max(((float64(x)-ax)*dx+(float64(y)-ay)*dy)/l, 0), 1)
			}
			d := math.Hypot(float64(x)-ax-t*dx, float64(y)-ay-t*dy)
			c.mix(x, y, colour, width/2+0.5-d)
		}
	}
}

// picture draws a frame, uint8 [h, w, 3], into a square, keeping its aspect ratio.
func (c *canvas) picture(x0, y0, side int, frame []byte, h, w int) {
	scale := float64(side) / float64(max(h, w))
	ph, pw := max(1, int(float64(h)*scale)), max(1, int(float64(w)*scale))
	oy, ox := y0+(side-ph)/2, x0+(side-pw)/2
	c.rect(x0, y0, x0+side, y0+side, [3]byte{})
	for y := range ph {
		fromY, toY := y*h/ph, max(y*h/ph+1, (y+1)*h/ph)
		for x := range pw {
			fromX, toX := x*w/pw, max(x*w/pw+1, (x+1)*w/pw)
			var sum [3]int
			for yy := fromY; yy < toY; yy++ {
				for xx := fromX; xx < toX; xx++ {
					p := frame[3*(yy*w+xx):]
					sum[0] += int(p[0])
					sum[1] += int(p[1])
					sum[2] += int(p[2])
				}
			}
			n := (toY - fromY) * (toX - fromX)
			c.mix(ox+x, oy+y, [3]byte{byte(sum[0] / n), byte(sum[1] / n), byte(sum[2] / n)}, 1)
		}
	}
}

// plot draws the curves of t frames up to frame now. frame is the colour of the border.
func (c *canvas) plot(x0, y0, side int, lines []Line, now float64, t int, frame [3]byte) {
	const margin = 8
	px := func(end float64) float64 { return float64(x0+margin) + end/float64(t)*float64(side-2*margin) }
	py := func(v float64) float64 { return float64(y0+side-margin) - v*float64(side-2*margin) }
	for _, v := range []float64{0, 0.25, 0.5, 0.75, 1} {
		c.segment(px(0), py(v), px(float64(t)), py(v), 1, [3]byte{226, 230, 235})
	}
	c.segment(px(now), py(0), px(now), py(1), 1, [3]byte{190, 196, 204})
	for n, l := range lines {
		hue := filmHues[n%hues]
		var lastX, lastY float64
		have := false
		for i, end := range l.Ends {
			x, y := float64(end), l.Values[i]
			if x > now {
				if have { // interpolate at frame now
					before := float64(l.Ends[i-1])
					share := (now - before) / (x - before)
					y = l.Values[i-1] + share*(y-l.Values[i-1])
					x = now
				} else {
					break
				}
			}
			if have {
				c.segment(lastX, lastY, px(x), py(y), 2, hue)
			}
			lastX, lastY, have = px(x), py(y), true
			if x >= now {
				break
			}
		}
		if have {
			c.segment(lastX, lastY, lastX, lastY, 7, hue)
		}
	}
	c.rect(x0, y0, x0+side, y0+2, frame)
	c.rect(x0, y0+side-2, x0+side, y0+side, frame)
}

// Film is an attempt's frames, uint8 [T, H, W, 3], and its curves. The curve of encoder n has the n-th colour.
type Film struct {
	Frames  plugins.Tensor
	Lines   []Line
	Success bool
}

func (f Film) edge() [3]byte {
	if f.Success {
		return filmHues[2]
	}
	return [3]byte{0xc9, 0x2a, 0x2a}
}

// draw paints picture k of n.
func (f Film) draw(c *canvas, x, y, k, n int) {
	t, h, w := f.Frames.Shape[0], f.Frames.Shape[1], f.Frames.Shape[2]
	at := 0
	if n > 1 {
		at = (k*(t-1) + (n-1)/2) / (n - 1)
	}
	size := h * w * 3
	c.picture(x, y, cellSide, f.Frames.Data[at*size:(at+1)*size], h, w)
	c.plot(x+cellSide, y, cellSide, f.Lines, float64(at+1), t, f.edge())
	c.rect(x, y, x+cellSide, y+2, f.edge())
	c.rect(x, y+cellSide-2, x+cellSide, y+cellSide, f.edge())
}

// FilmGIF returns an animation of films in rows of the given number of columns: the frames, and beside them
// the curve up to the frame. All films take the same time. The error is Corrupt for frames of another
// shape.
func FilmGIF(films []Film, columns int) ([]byte, error) {
	n := 1
	for _, f := range films {
		if err := f.Frames.Check("video", plugins.Uint8, -1, -1, -1, 3); err != nil {
			return nil, err
		}
		n = max(n, min(f.Frames.Shape[0], filmFrames))
	}
	columns = max(1, min(columns, len(films)))
	rows := (len(films) + columns - 1) / columns
	const gap = 4
	w, h := columns*(2*cellSide+gap)-gap, max(rows, 1)*(cellSide+gap)-gap
	data := make([]byte, 0, n*w*h*3)
	for k := range n {
		c := newCanvas(w, h)
		for i, f := range films {
			f.draw(c, i%columns*(2*cellSide+gap), i/columns*(cellSide+gap), k, n)
		}
		data = append(data, c.pix...)
	}
	var b bytes.Buffer
	err := media.EncodeGIF(&b, plugins.Bytes(data, n, h, w, 3), media.GIF{MaxSide: max(w, h), MaxFrames: n})
	return b.Bytes(), err
}
