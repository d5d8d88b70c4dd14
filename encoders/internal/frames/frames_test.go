package frames

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

type goldens struct {
	Step    int
	Recipes map[string]Recipe
	Cases   []struct{ Source, Recipe, SHA256, Bytes string }
}

func readGoldens(t *testing.T) (g goldens) {
	t.Helper()
	data, err := os.ReadFile("testdata/goldens.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &g))
	for name, r := range g.Recipes {
		r.Antialias, r.Rescale, r.Mean = true, 1./255, []float64{0.485, 0.456, 0.406}
		r.Std = []float64{0.229, 0.224, 0.225}
		g.Recipes[name] = r
	}
	return g
}

// source returns a picture by its name in the goldens: "pattern HEIGHT WIDTH", or a file in testdata.
func source(t *testing.T, name string) (pixels []byte, h, w int) {
	t.Helper()
	if n, _ := fmt.Sscanf(name, "pattern %d %d", &h, &w); n == 2 {
		return pattern(h+w, h, w), h, w
	}
	f, err := os.Open(filepath.Join("testdata", name+".png"))
	require.NoError(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	require.NoError(t, err)
	h, w = img.Bounds().Dy(), img.Bounds().Dx()
	for y := range h {
		for x := range w {
			r, g, b, _ := img.At(x, y).RGBA()
			pixels = append(pixels, byte(r>>8), byte(g>>8), byte(b>>8))
		}
	}
	return pixels, h, w
}

// pattern returns the picture that make_goldens.py makes under that name, uint8 [h, w, 3].
func pattern(seed, h, w int) []byte {
	var out []byte
	for y := range h {
		for x := range w {
			for c := range 3 {
				out = append(out, byte(x*(c+3)+2*y*(c+1)+(x*y+31*seed)%97+60*((x/9+y/7+seed)%3)))
			}
		}
	}
	return out
}

// TestPublished compares byte for byte with the processors of V-JEPA 2 and DINOv2 in transformers, on
// photographs and on patterns.
func TestPublished(t *testing.T) {
	g := readGoldens(t)
	require.Len(t, g.Cases, 77)
	last, pixels, h, w := "", []byte(nil), 0, 0
	for _, c := range g.Cases {
		t.Run(c.Recipe+"/"+c.Source, func(t *testing.T) {
			if c.Source != last {
				pixels, h, w = source(t, c.Source)
				last = c.Source
			}
			got := NewTransform(g.Recipes[c.Recipe]).Resize(pixels, h, w)
			want, err := hex.DecodeString(c.Bytes)
			require.NoError(t, err)
			for i, v := range want { // photographs only: shows which bytes differ
				require.Equal(t, v, got[i*g.Step], "byte %d", i*g.Step)
			}
			sum := sha256.Sum256(got)
			require.Equal(t, c.SHA256, hex.EncodeToString(sum[:]))
		})
	}
}

// TestCrop checks that a picture that already has the right size is only cropped.
func TestCrop(t *testing.T) {
	r := readGoldens(t).Recipes["small"]
	pixels := pattern(1, 73, 90)
	got := NewTransform(r).Resize(pixels, 73, 90)
	for y := range 64 {
		require.Equal(t, pixels[((y+4)*90+13)*3:((y+4)*90+13+64)*3], got[y*64*3:(y+1)*64*3], "row %d", y)
	}
}

func TestNormalise(t *testing.T) {
	tr := NewTransform(Recipe{
		Resize: 2, Crop: 2, ResizeMode: "exact", Interpolation: "bilinear", Rescale: 1. / 255,
		Mean: []float64{0, 0.5, 1},
		Std:  []float64{1, 0.5, 0.25},
	})
	out := make([]float32, 12)
	tr.Normalise([]byte{0, 0, 0, 51, 51, 51, 102, 102, 102, 255, 255, 255}, out)
	require.InDeltaSlice(t, []float32{0, .2, .4, 1, -1, -.6, -.2, 1, -4, -3.2, -2.4, 0}, out, 1e-6)
}

func TestCheck(t *testing.T) {
	good := readGoldens(t).Recipes["dinov2"]
	require.NoError(t, good.Check())
	for name, damage := range map[string]func(*Recipe){
		"crop":          func(r *Recipe) { r.Crop = r.Resize + 1 },
		"no size":       func(r *Recipe) { r.Resize, r.Crop = 0, 0 },
		"mode":          func(r *Recipe) { r.ResizeMode = "long_side" },
		"interpolation": func(r *Recipe) { r.Interpolation = "lanczos" },
		"mean":          func(r *Recipe) { r.Mean = r.Mean[:2] },
		"std":           func(r *Recipe) { r.Std = []float64{1, 0, 1} },
		"rescale":       func(r *Recipe) { r.Rescale = 0 },
	} {
		r := good
		damage(&r)
		require.Error(t, r.Check(), name)
	}
}

// TestSample compares with NumPy's linspace(0, length-1, n, dtype=int) for clips of up to 600 frames, also
// where (length-1)/(n-1) cannot be represented exactly.
func TestSample(t *testing.T) {
	require.Equal(t, []int{0, 0, 0}, Sample(1, 3))
	require.Equal(t, []int{0, 1, 2, 0, 1}, Sample(3, 5))
	require.Equal(t, []int{0, 1, 2}, Sample(3, 3))
	require.Equal(t, []int{0}, Sample(9, 1))
	require.Equal(t, []int{0, 2, 4, 6, 9}, Sample(10, 5))
	h := sha256.New()
	for _, n := range []int{2, 3, 8, 10, 16, 32, 64} {
		for length := n; length <= 600; length++ {
			fmt.Fprintln(h, Sample(length, n))
		}
	}
	// The hash was made with:
	//   python -c "import numpy, hashlib; print(hashlib.sha256(''.join(
	//     '[' + ' '.join(map(str, numpy.linspace(0, t-1, n, dtype=int))) + ']\n'
	//     for n in (2, 3, 8, 10, 16, 32, 64) for t in range(n, 601)).encode()).hexdigest())"
	require.Equal(t, "1468cbcb22fbb26b88fcfb144d1615b835e07374834854040ef3bdb0dc3b657f", hex.EncodeToString(h.Sum(nil)))
}

func BenchmarkResize(b *testing.B) {
	for _, c := range []struct {
		name               string
		side, resize, crop int
	}{{"256 to 384", 256, 438, 384}, {"256 to 256", 256, 292, 256}, {"640 to 256", 640, 292, 256}} {
		b.Run(c.name, func(b *testing.B) {
			tr := NewTransform(Recipe{Resize: c.resize, Crop: c.crop, ResizeMode: "short_side",
				Interpolation: "bilinear",
				Antialias:     true, Rescale: 1. / 255,
				Mean: []float64{0, 0, 0}, Std: []float64{1, 1, 1}})
			pixels, out := pattern(1, c.side, c.side), make([]float32, 3*c.crop*c.crop)
			for b.Loop() {
				tr.Normalise(tr.Resize(pixels, c.side, c.side), out)
			}
		})
	}
}
