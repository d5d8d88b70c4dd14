package media

import (
	"bytes"
	"context"
	"image"
	"image/draw"
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

func IsPicture(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".png", ".jpg", ".jpeg":
		return true
	}
	return false
}

// IsStillWebP reports whether a file is a .webp picture without an animation.
func IsStillWebP(path string) bool {
	if !isWebP(path) {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [21]byte // RIFF, size, WEBP, the first block's name and size, the flags of VP8X
	if _, err := io.ReadFull(f, head[:]); err != nil || string(head[:4]) != "RIFF" || string(head[8:12]) != "WEBP" {
		return false
	}
	const animation = 2
	return string(head[12:16]) != "VP8X" || head[20]&animation == 0
}

func isWebP(name string) bool { return strings.EqualFold(filepath.Ext(name), ".webp") }

// openPictures reads a folder of png, jpeg and webp files as a video, in the order of [NaturalLess]. d decodes the
// folder if it contains webp files. Pictures are turned as their EXIF orientation says.
func openPictures(ctx context.Context, dir string, d *Decoder) (Clip, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Clip{}, invalid("the folder cannot be read: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && (IsPicture(e.Name()) || isWebP(e.Name())) && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return Clip{}, invalid("the folder contains no png or jpeg picture, and no webp")
	}
	sort.Slice(names, func(a, b int) bool { return NaturalLess(names[a], names[b]) })
	if slices.ContainsFunc(names, isWebP) {
		return d.decode(ctx, dir, names)
	}
	t := &frameSampler{bounds: defaultBounds}
	for i, name := range names {
		if ctx.Err() != nil {
			return Clip{}, plugins.Errorf(plugins.Canceled, "stopped: %w", ctx.Err())
		}
		if t.skipsNext() && i < len(names)-1 {
			t.seen++
			continue
		}
		height, width, pixels, err := readPicture(filepath.Join(dir, name))
		if err != nil {
			return Clip{}, invalid("%s does not decode: %w", name, err)
		}
		if err := t.add(height, width, pixels); err != nil {
			return Clip{}, err
		}
	}
	return t.clip()
}

// readPicture returns a picture over black, uint8 [height, width, 3].
func readPicture(path string) (height, width int, pixels []byte, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, nil, err
	}
	c, _, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return 0, 0, nil, err
	}
	if c.Width*c.Height > MaxBytes/3 {
		return 0, 0, nil, invalid("%d x %d pixels are too many", c.Width, c.Height)
	}
	m, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return 0, 0, nil, err
	}
	canvas := image.NewRGBA(image.Rect(0, 0, m.Bounds().Dx(), m.Bounds().Dy()))
	draw.Draw(canvas, canvas.Rect, m, m.Bounds().Min, draw.Over)
	height, width, pixels = upright(canvas.Rect.Dy(), canvas.Rect.Dx(), rgb(canvas), exifOrientation(data))
	return height, width, pixels, nil
}

// NaturalLess reports whether name a sorts before b when digits compare by their value: frame2.png before
// frame10.png.
func NaturalLess(a, b string) bool {
	x, y := splitDigits(a), splitDigits(b)
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

// splitDigits splits a name into runs of digits and of others.
func splitDigits(s string) []string {
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
