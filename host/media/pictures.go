package media

import (
	"bufio"
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

// openPictures reads a folder of png and jpeg files as a video, in the order of [NaturalLess].
func openPictures(ctx context.Context, dir string) (Clip, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Clip{}, invalid("the folder cannot be read: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && IsPicture(e.Name()) && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return Clip{}, invalid("the folder contains no png or jpeg picture")
	}
	sort.Slice(names, func(a, b int) bool { return NaturalLess(names[a], names[b]) })
	t := &frameSampler{bounds: defaultBounds}
	for i, name := range names {
		if ctx.Err() != nil {
			return Clip{}, plugins.Errorf(plugins.Canceled, "stopped: %w", ctx.Err())
		}
		if t.skipsNext() && i < len(names)-1 {
			t.seen++
			continue
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return Clip{}, invalid("%s cannot be read: %w", name, err)
		}
		c, _, err := image.DecodeConfig(bufio.NewReader(f))
		if err == nil && c.Width*c.Height > MaxBytes/3 {
			err = invalid("%d x %d pixels are too many", c.Width, c.Height)
		}
		var m image.Image
		if err == nil {
			if _, err = f.Seek(0, io.SeekStart); err == nil {
				m, _, err = image.Decode(bufio.NewReader(f))
			}
		}
		f.Close()
		if err != nil {
			return Clip{}, invalid("%s does not decode: %w", name, err)
		}
		canvas := image.NewRGBA(image.Rect(0, 0, m.Bounds().Dx(), m.Bounds().Dy()))
		draw.Draw(canvas, canvas.Rect, m, m.Bounds().Min, draw.Over)
		if err := t.add(canvas.Rect.Dy(), canvas.Rect.Dx(), rgb(canvas)); err != nil {
			return Clip{}, err
		}
	}
	return t.clip()
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
