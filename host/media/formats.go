package media

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"image"
	"image/draw"
	"image/gif"
	_ "image/jpeg"
	_ "image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"unicode"

	"github.com/srpo-dev/srpo/plugins"
)

// openNpy reads uint8 [T, H, W, 3].
func openNpy(path string) (Clip, error) {
	f, err := os.Open(path)
	if err != nil {
		return Clip{}, bad("it cannot be read: %w", err)
	}
	defer f.Close()
	return readNpy(bufio.NewReaderSize(f, 1<<20))
}

func readNpy(r *bufio.Reader) (Clip, error) {
	h, err := readNpyHeader(r)
	if err != nil {
		return Clip{}, err
	}
	if err := h.clip(); err != nil {
		return Clip{}, err
	}
	height, width := h.Shape[1], h.Shape[2]
	if height > 1<<16 || width > 1<<16 || height*width*3 > MaxBytes { // before memory is asked for
		return Clip{}, bad("its frames are too large: %d x %d pixels", width, height)
	}
	t := &thinner{bounds: usual}
	size := height * width * 3
	for n := range h.Shape[0] {
		if t.skips() && n < h.Shape[0]-1 {
			if _, err := r.Discard(size); err != nil {
				return Clip{}, bad("the array ends at frame %d of %d", n+1, h.Shape[0])
			}
			t.seen++
			continue
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(r, frame); err != nil {
			return Clip{}, bad("the array ends at frame %d of %d", n+1, h.Shape[0])
		}
		if err := t.add(height, width, frame); err != nil {
			return Clip{}, err
		}
	}
	return t.clip()
}

// arrayNames are the arrays of an .npz that are taken for the video, the first of them that is there.
var arrayNames = []string{"frames", "video", "images", "rgb", "arr_0"}

func openNpz(path string) (Clip, error) {
	z, err := zip.OpenReader(path)
	if err != nil {
		return Clip{}, bad("this is no .npz file: %w", err)
	}
	defer z.Close()
	arrays := map[string]*zip.File{}
	var names []string
	for _, f := range z.File {
		if name, ok := strings.CutSuffix(f.Name, ".npy"); ok {
			arrays[name] = f
			names = append(names, name)
		}
	}
	var file *zip.File
	for _, name := range arrayNames {
		if file == nil {
			file = arrays[name]
		}
	}
	switch {
	case file == nil && len(names) == 1:
		file = arrays[names[0]]
	case file == nil && len(names) == 0:
		return Clip{}, bad("the .npz file holds no array")
	case file == nil:
		return Clip{}, bad("the .npz file holds %s; the video must be called %s", strings.Join(names, ", "),
			strings.Join(arrayNames, ", "))
	}
	r, err := file.Open()
	if err != nil {
		return Clip{}, bad("the .npz file cannot be read: %w", err)
	}
	defer r.Close()
	buffered := bufio.NewReaderSize(r, 1<<20)
	clip, err := readNpy(buffered)
	if err != nil {
		return Clip{}, err
	}
	if _, err := io.Copy(io.Discard, buffered); err != nil { // the checksum is looked at in the end
		return Clip{}, bad("the .npz file is damaged: %w", err)
	}
	return clip, nil
}

// openGIF plays an animation as a viewer would: frames over each other, as their disposal says.
func openGIF(path string) (Clip, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Clip{}, bad("it cannot be read: %w", err)
	}
	if n, pixels := gifSize(data); pixels > 1<<30 {
		return Clip{}, bad("the animation is too large to be decoded: %d frames of %d million pixels together; save "+
			"it as mp4 or npz", n, pixels>>20)
	}
	g, err := gif.DecodeAll(bytes.NewReader(data))
	if err != nil {
		return Clip{}, bad("it does not decode: %w", err)
	}
	box := image.Rect(0, 0, g.Config.Width, g.Config.Height)
	canvas := image.NewRGBA(box)
	t := &thinner{bounds: usual}
	for i, frame := range g.Image {
		var before *image.RGBA
		if i < len(g.Disposal) && g.Disposal[i] == gif.DisposalPrevious {
			before = image.NewRGBA(box)
			copy(before.Pix, canvas.Pix)
		}
		draw.Draw(canvas, frame.Bounds(), frame, frame.Bounds().Min, draw.Over)
		if err := t.add(box.Dy(), box.Dx(), rgb(canvas)); err != nil {
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

// gifSize counts an animation's frames and their pixels without decoding them; whatever is broken ends the
// count.
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

// rgb copies a picture's pixels over black.
func rgb(m *image.RGBA) []byte {
	out := make([]byte, 0, m.Rect.Dx()*m.Rect.Dy()*3)
	for i := 0; i+3 < len(m.Pix); i += 4 { // colours are premultiplied: over black they are themselves
		out = append(out, m.Pix[i], m.Pix[i+1], m.Pix[i+2])
	}
	return out
}

func IsPicture(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".png", ".jpg", ".jpeg":
		return true
	}
	return false
}

// openPictures reads a folder of png and jpeg files as a video, in the order of their names, numbers by
// their value.
func openPictures(ctx context.Context, dir string) (Clip, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Clip{}, bad("the folder cannot be read: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && IsPicture(e.Name()) && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return Clip{}, bad("the folder holds no png or jpeg picture")
	}
	sort.Slice(names, func(a, b int) bool { return NaturalLess(names[a], names[b]) })
	t := &thinner{bounds: usual}
	for i, name := range names {
		if ctx.Err() != nil {
			return Clip{}, plugins.Errorf(plugins.Canceled, "stopped: %w", ctx.Err())
		}
		if t.skips() && i < len(names)-1 {
			t.seen++
			continue
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return Clip{}, bad("%s cannot be read: %w", name, err)
		}
		c, _, err := image.DecodeConfig(bufio.NewReader(f))
		if err == nil && c.Width*c.Height > MaxBytes/3 {
			err = bad("%d x %d pixels are too many", c.Width, c.Height)
		}
		var m image.Image
		if err == nil {
			if _, err = f.Seek(0, io.SeekStart); err == nil {
				m, _, err = image.Decode(bufio.NewReader(f))
			}
		}
		f.Close()
		if err != nil {
			return Clip{}, bad("%s does not decode: %w", name, err)
		}
		canvas := image.NewRGBA(image.Rect(0, 0, m.Bounds().Dx(), m.Bounds().Dy()))
		draw.Draw(canvas, canvas.Rect, m, m.Bounds().Min, draw.Over)
		if err := t.add(canvas.Rect.Dy(), canvas.Rect.Dx(), rgb(canvas)); err != nil {
			return Clip{}, err
		}
	}
	return t.clip()
}

// NaturalLess orders frame2.png before frame10.png.
func NaturalLess(a, b string) bool {
	x, y := parts(a), parts(b)
	for i := range min(len(x), len(y)) {
		if x[i] == y[i] {
			continue
		}
		if unicode.IsDigit(rune(x[i][0])) && unicode.IsDigit(rune(y[i][0])) {
			p, q := strings.TrimLeft(x[i], "0"), strings.TrimLeft(y[i], "0")
			if len(p) != len(q) {
				return len(p) < len(q)
			}
			if p != q {
				return p < q
			}
		}
		return x[i] < y[i]
	}
	if len(x) != len(y) {
		return len(x) < len(y)
	}
	return a < b
}

// parts splits a name into runs of digits and of others.
func parts(s string) []string {
	var out []string
	from := 0
	digit := func(i int) bool { return s[i] >= '0' && s[i] <= '9' }
	for i := 1; i <= len(s); i++ {
		if i == len(s) || digit(i) != digit(i-1) {
			out = append(out, s[from:i])
			from = i
		}
	}
	return slices.Clip(out)
}
