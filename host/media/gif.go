package media

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"io"
	"os"
	"slices"

	"github.com/srpo-dev/srpo/plugins"
)

// openGIF composes the frames of an animation as a viewer does, following the disposal method of each. A frame counts
// as long as a browser shows it.
func openGIF(path string) (Clip, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Clip{}, invalid("it cannot be read: %w", err)
	}
	if n, pixels := gifSize(data); pixels > 1<<30 {
		return Clip{}, invalid(
			"the animation is too large to be decoded: %d frames of %d million pixels together; save "+
				"it as mp4 or npz",
			n,
			pixels>>20,
		)
	}
	g, err := gif.DecodeAll(bytes.NewReader(data))
	if err != nil {
		return Clip{}, invalid("it does not decode: %w", err)
	}
	box := image.Rect(0, 0, g.Config.Width, g.Config.Height)
	canvas := image.NewRGBA(box)
	t := &frameSampler{bounds: defaultBounds}
	ticks, tick := countTicks(gifDelays(g, bytes.Contains(data, heldLast)))
	if slices.ContainsFunc(ticks, func(n int) bool { return n != 1 }) {
		t.rate = 1 / tick
	}
	for i, frame := range g.Image {
		var before *image.RGBA
		if i < len(g.Disposal) && g.Disposal[i] == gif.DisposalPrevious {
			before = image.NewRGBA(box)
			copy(before.Pix, canvas.Pix)
		}
		draw.Draw(canvas, frame.Bounds(), frame, frame.Bounds().Min, draw.Over)
		if err := t.addFor(ticks[i], box.Dy(), box.Dx(), rgb(canvas)); err != nil {
			return Clip{}, err
		}
		switch {
		case before != nil:
			canvas = before
		case i < len(g.Disposal) && g.Disposal[i] == gif.DisposalBackground:
			draw.Draw(canvas, frame.Bounds(), image.Transparent, image.Point{}, draw.Src)
		}
	}
	return t.clip()
}

// holdLast is how much longer the last frame of our own animations is shown, in hundredths of a second, and heldLast
// the comment block that marks them: the time is for the eye and does not count.
const holdLast = 100

var heldLast = []byte("\x21\xfe\x0fsrpo: last held\x00")

// gifDelays returns how long each frame is shown, in seconds.
func gifDelays(g *gif.GIF, held bool) []float64 {
	delays := make([]float64, len(g.Image))
	for i := range delays {
		delay := 0
		if i < len(g.Delay) {
			delay = g.Delay[i]
		}
		if held && i == len(delays)-1 {
			delay -= holdLast
		}
		if delay <= 1 { // browsers show a tenth of a second then
			delay = 10
		}
		delays[i] = float64(delay) / 100
	}
	return delays
}

// gifSize counts the frames of an animation and their pixels without decoding them. The count stops at the first
// damaged block.
func gifSize(d []byte) (frames, pixels int) {
	at := 13
	if len(d) < at {
		return 0, 0
	}
	table := func(flags byte) int {
		if flags&0x80 == 0 {
			return 0
		}
		return 3 << (flags&7 + 1)
	}
	at += table(d[10])
	blocks := func() {
		for at < len(d) && d[at] != 0 {
			at += 1 + int(d[at])
		}
		at++
	}
	for at < len(d) {
		switch d[at] {
		case 0x21:
			at += 2
			blocks()
		case 0x2c:
			if at+10 > len(d) {
				return frames, pixels
			}
			frames++
			pixels += (int(d[at+5]) | int(d[at+6])<<8) * (int(d[at+7]) | int(d[at+8])<<8)
			at += 10 + table(d[at+9]) + 1
			blocks()
		default:
			return frames, pixels
		}
	}
	return frames, pixels
}

// rgb returns the pixels of a picture over a black background.
func rgb(m *image.RGBA) []byte {
	out := make([]byte, 0, m.Rect.Dx()*m.Rect.Dy()*3)
	for i := 0; i+3 < len(m.Pix); i += 4 { // colours are premultiplied: over black they are themselves
		out = append(out, m.Pix[i], m.Pix[i+1], m.Pix[i+2])
	}
	return out
}

// GIF configures how a clip becomes an animated GIF. Zero values stand for the defaults.
type GIF struct {
	// MaxSide bounds width and height in pixels, by averaging whole blocks; default 160.
	MaxSide int
	// MaxFrames bounds the number of frames. They are evenly spaced and include the first and the last; default 60.
	MaxFrames int
	// DelayMS is the duration of a frame. By default a clip takes about four seconds, with 50 to 200 ms per
	// frame. The last frame stays a second longer.
	DelayMS int
}

// EncodeGIF writes frames, uint8 [T, H, W, 3] with T >= 1. One palette serves the whole clip, so that a still
// background stays still, and each frame contains only the area that changed.
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
			box = changedArea(before, index, sh, sw)
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
			delay += holdLast
		}
		out.Image, out.Delay, out.Disposal = append(out.Image, img), append(out.Delay, delay), append(out.Disposal,
			gif.DisposalNone)
		before = index
	}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, out); err != nil {
		return err
	}
	end := b.Len() - 1 // before the trailer
	for _, part := range [][]byte{b.Bytes()[:end], heldLast, b.Bytes()[end:]} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// changedArea returns the smallest rectangle with every pixel that differs, and one pixel when none does.
func changedArea(a, b []uint8, h, w int) image.Rectangle {
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

// shrink averages blocks of n by n pixels. The last block of a row or column may be smaller.
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
