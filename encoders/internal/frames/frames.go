// Package frames prepares the frames of a clip as a network expects them: it selects frames, then resizes,
// crops and normalises them. Resizing gives the same bytes as torchvision on uint8, which the published
// processors of V-JEPA 2 and DINOv2 use. Pillow differs from it by at most 2 of 255.
package frames

import (
	"sync"

	"github.com/srpo-dev/srpo/plugins"
)

// Recipe is the preprocessing of a network, as recorded in its model card.
type Recipe struct {
	// Resize is the length in pixels of the shorter side (ResizeMode "short_side") or of both sides (ResizeMode
	// "exact").
	Resize     int    `json:"resize"`
	ResizeMode string `json:"resize_mode"`
	// Interpolation is "bilinear" or "bicubic". Antialias widens its kernel when the picture gets smaller.
	Interpolation string `json:"interpolation"`
	Antialias     bool   `json:"antialias"`
	// Crop is the side in pixels of the square cut from the centre.
	Crop int `json:"crop"`
	// A byte x becomes (x*Rescale - Mean) / Std, with one mean and std per channel (red, green, blue).
	Rescale float64   `json:"rescale"`
	Mean    []float64 `json:"mean"`
	Std     []float64 `json:"std"`
}

// Check reports the first invalid field of the recipe, as an error of kind Corrupt.
func (r Recipe) Check() error {
	corrupt := func(format string, args ...any) error { return plugins.Errorf(plugins.Corrupt, format, args...) }
	switch {
	case r.Resize < 1 || r.Resize > 1<<14 || r.Crop < 1 || r.Crop > r.Resize:
		return corrupt("cannot crop %d pixels from pictures of %d", r.Crop, r.Resize)
	case r.ResizeMode != "short_side" && r.ResizeMode != "exact":
		return corrupt("unknown resize_mode %q", r.ResizeMode)
	case r.Interpolation != "bilinear" && r.Interpolation != "bicubic":
		return corrupt("unknown interpolation %q", r.Interpolation)
	case len(r.Mean) != 3 || len(r.Std) != 3 || r.Std[0]*r.Std[1]*r.Std[2] == 0 || r.Rescale == 0:
		return corrupt("invalid rescale %v, mean %v or std %v", r.Rescale, r.Mean, r.Std)
	}
	return nil
}

// Transform applies a recipe. It may be used by several goroutines.
type Transform struct {
	recipe Recipe
	values [3][256]float32 // the normalised value of each byte, per channel

	mu    sync.Mutex
	plans map[[2]int]*plan
}

// NewTransform returns the transform of a recipe that passes [Recipe.Check].
func NewTransform(r Recipe) *Transform {
	t := &Transform{recipe: r, plans: map[[2]int]*plan{}}
	for c := range t.values {
		for x := range t.values[c] {
			t.values[c][x] = float32((float64(x)*r.Rescale - r.Mean[c]) / r.Std[c])
		}
	}
	return t
}

// Side returns the side of the cropped picture in pixels.
func (t *Transform) Side() int { return t.recipe.Crop }

// maxPlans bounds the number of cached plans, one per picture size.
const maxPlans = 64

// plan returns the cached or new plan for pictures of height x width pixels.
func (t *Transform) plan(height, width int) *plan {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, ok := t.plans[[2]int{height, width}]; ok {
		return p
	}
	r := t.recipe
	high, wide := r.Resize, r.Resize
	if r.ResizeMode == "short_side" { // the longer side is rounded down
		if height < width {
			wide = int(float64(r.Resize) * float64(width) / float64(height))
		} else {
			high = int(float64(r.Resize) * float64(height) / float64(width))
		}
	}
	kernel, support := bilinear, 1.0
	if r.Interpolation == "bicubic" {
		kernel, support = bicubic, 2.0
	}
	p := &plan{width: width, top: (high - r.Crop) / 2, left: (wide - r.Crop) / 2, side: r.Crop}
	p.firstRow, p.lastRow = p.top, p.top+r.Crop
	if high != height {
		rows := resample(height, high, p.top, r.Crop, kernel, support, r.Antialias)
		last := rows.taps[r.Crop-1]
		p.rows, p.firstRow, p.lastRow = &rows, rows.taps[0].from, last.from+len(last.weights)
	}
	if wide != width {
		columns := resample(width, wide, p.left, r.Crop, kernel, support, r.Antialias)
		p.columns = &columns
	}
	if len(t.plans) >= maxPlans {
		clear(t.plans)
	}
	t.plans[[2]int{height, width}] = p
	return p
}

// Resize resizes and crops a frame, uint8 [height, width, 3] with both sides at least 1, to uint8 [Side,
// Side, 3].
func (t *Transform) Resize(pixels []byte, height, width int) []byte {
	out := make([]byte, t.recipe.Crop*t.recipe.Crop*3)
	t.plan(height, width).run(pixels, out)
	return out
}

// Normalise writes a picture returned by [Transform.Resize] to out as float32 [3, Side, Side].
func (t *Transform) Normalise(picture []byte, out []float32) {
	n := t.recipe.Crop * t.recipe.Crop
	for c := range t.values {
		values, to := &t.values[c], out[c*n:(c+1)*n]
		for i := range to {
			to[i] = values[picture[3*i+c]]
		}
	}
}

// Sample returns the indices of n frames of a clip with length frames. If the clip has at least n frames,
// they are evenly spaced, include the first and the last, and are rounded down like NumPy's linspace(0,
// length-1, n, dtype=int). A shorter clip is repeated from its beginning (SRPO, arXiv 2511.15605, algorithm
// 1.1).
func Sample(length, n int) []int {
	out := make([]int, n)
	if length < n {
		for i := range out {
			out[i] = i % length
		}
		return out
	}
	if n == 1 {
		return out
	}
	step := float64(length-1) / float64(n-1)
	for i := range out {
		out[i] = int(float64(i) * step)
	}
	out[n-1] = length - 1
	return out
}
