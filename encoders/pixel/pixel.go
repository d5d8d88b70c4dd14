// Package pixel is the simplest encoder: the frames of a clip, shrunk, without a network. The Euclidean
// distance of two vectors is a distance between pictures.
//
// It needs no weights and no installation. Where the camera does not move it works well, so it is the
// baseline that a world model has to beat.
package pixel

import (
	"context"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// Values of the setting pool: how the vectors of the frames become one vector.
const (
	poolMean          = "mean"
	poolLast          = "last"
	poolFirstLastMean = "first_last_mean"
)

// Pixel implements [encoder.Encoder] and [encoder.Windower]. Create it with [New]. It keeps no state
// between calls, which may be concurrent.
type Pixel struct {
	size, frames, first int
	gray                bool
	pool                string
}

// New returns an encoder with the default settings.
func New() encoder.Encoder { return &Pixel{size: 32, pool: poolMean} }

var settings = []plugins.Setting{
	{Name: "size", Default: int64(32), Min: plugins.Bound(1), Max: plugins.Bound(256),
		Doc: "each frame is averaged over areas to size x size pixels"},
	{Name: "gray", Default: false,
		Doc: "use luma (ITU-R BT.601) instead of red, green and blue: a third of the vector's length"},
	{Name: "pool", Default: poolMean, Choices: []string{poolMean, poolLast, poolFirstLastMean},
		Doc: "the mean over the frames; the last frame; or the first frame, the last frame and the mean, concatenated"},
	{Name: "frames", Default: int64(0), Min: plugins.Bound(0),
		Doc: "average this many evenly spaced frames, including the first and the last (1: only the first); " +
			"0, or for a shorter clip: all frames"},
	{Name: "first", Default: int64(0), Min: plugins.Bound(0),
		Doc: "use at most this many frames from the beginning of the clip, which hides the clip's length; " +
			"0: the whole clip"},
}

// Info implements [plugins.Plugin].
func (p *Pixel) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: "pixel", Kind: plugins.Encoder, Version: "1", Settings: settings,
		Doc:      "Shrunk frames, averaged over the clip; pure Go, no weights.",
		Versions: map[string]string{"go": runtime.Version()}}, nil
}

// Configure implements [plugins.Plugin].
func (p *Pixel) Configure(_ context.Context, c plugins.Config) error {
	s, err := plugins.Resolve(settings, c.Settings)
	if err != nil {
		return err
	}
	p.size, p.gray, p.pool = s.Int("size"), s.Bool("gray"), s.String("pool")
	p.frames, p.first = s.Int("frames"), s.Int("first")
	return nil
}

// Describe implements [encoder.Encoder].
func (p *Pixel) Describe(context.Context) (encoder.Spec, error) {
	return encoder.Spec{Dimension: p.dimension(), Frames: p.frames, Height: p.size, Width: p.size, FrameWise: true}, nil
}

func (p *Pixel) channels() int {
	if p.gray {
		return 1
	}
	return 3
}

// frameLength returns the length of a frame's vector.
func (p *Pixel) frameLength() int { return p.size * p.size * p.channels() }

// dimension returns the length of a clip's vector.
func (p *Pixel) dimension() int {
	if p.pool == poolFirstLastMean {
		return 3 * p.frameLength()
	}
	return p.frameLength()
}

// Encode implements [encoder.Encoder]. A clip's vector does not depend on the other clips. Its values are
// from 0 to 1, in the order row, column, channel. A clip that is not uint8 [T, H, W, 3] with T, H and W of
// at least 1 gets a row of NaN.
func (p *Pixel) Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error) {
	rows := make([][]float32, len(clips))
	var next atomic.Int64
	var wait sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(clips)) {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(clips) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				rows[i] = p.nanRow()
				if usable(clips[i]) {
					rows[i] = p.windows(ctx, clips[i], []int{clips[i].Shape[0]})[0]
				}
			}
		})
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return nil, stopped(err)
	}
	return rows, nil
}

// EncodeWindows implements [encoder.Windower]. It returns the same bits as Encode for clip[:end], for each
// end, and shrinks every frame once. An end outside 1 to T is an error of kind Invalid. A clip that cannot
// be embedded gets rows of NaN.
func (p *Pixel) EncodeWindows(ctx context.Context, clip plugins.Tensor, ends []int) ([][]float32, error) {
	if !usable(clip) {
		rows := make([][]float32, len(ends))
		for i := range rows {
			rows[i] = p.nanRow()
		}
		return rows, nil
	}
	for _, end := range ends {
		if end < 1 || end > clip.Shape[0] {
			return nil, plugins.Errorf(plugins.Invalid,
				"a clip of %d frames has no window that ends at %d", clip.Shape[0], end).
				WithHint("an end is from 1 to the number of frames")
		}
	}
	rows := p.windows(ctx, clip, ends)
	if err := ctx.Err(); err != nil {
		return nil, stopped(err)
	}
	return rows, nil
}

// usable reports whether clip is uint8 [T, H, W, 3] with T, H and W of at least 1.
func usable(clip plugins.Tensor) bool {
	return clip.Check("clip", plugins.Uint8, -1, -1, -1, 3) == nil &&
		clip.Shape[0] > 0 && clip.Shape[1] > 0 && clip.Shape[2] > 0
}

// nanRow returns the row of a clip that cannot be embedded.
func (p *Pixel) nanRow() []float32 {
	row := make([]float32, p.dimension())
	for i := range row {
		row[i] = float32(math.NaN())
	}
	return row
}

// windows embeds clip[:end] for each end. Sums are float64 and run over the frames in order, so the vector of a
// window does not depend on the other windows. If ctx ends, windows returns early with rows missing.
func (p *Pixel) windows(ctx context.Context, clip plugins.Tensor, ends []int) [][]float32 {
	height, width := clip.Shape[1], clip.Shape[2]
	w := &windows{
		Pixel: p, pixels: clip.Data, frameSize: height * width * 3,
		shrinker: newShrinker(height, width, p.size, p.gray),
		order:    make([]int, len(ends)), length: make([]int, len(ends)), rows: make([][]float32, len(ends)),
	}
	for i, end := range ends {
		w.order[i], w.length[i] = i, end
		if p.first > 0 {
			w.length[i] = min(end, p.first)
		}
	}
	slices.SortStableFunc(w.order, func(a, b int) int { return w.length[a] - w.length[b] })
	if p.frames == 0 && p.pool != poolLast {
		w.embedAllFrames(ctx)
	} else {
		w.embedSelectedFrames(ctx)
	}
	return w.rows
}

// windows is the work of [Pixel.windows] on one clip.
type windows struct {
	*Pixel
	pixels    []byte
	frameSize int // bytes
	shrinker  *shrinker
	order     []int // indices of windows, sorted by length
	length    []int // frames of each window
	rows      [][]float32
}

// shrink writes the vector of frame t to out.
func (w *windows) shrink(t int, out []float64) {
	w.shrinker.frame(w.pixels[t*w.frameSize:(t+1)*w.frameSize], out)
}

// embedAllFrames sets the rows of windows that use all their frames. The sum of a window continues the sum of the next
// shorter window.
func (w *windows) embedAllFrames(ctx context.Context) {
	n := w.frameLength()
	first, last, sum := make([]float64, n), make([]float64, n), make([]float64, n)
	t := 0
	for _, i := range w.order {
		for ; t < w.length[i]; t++ {
			if t%64 == 0 && ctx.Err() != nil {
				return
			}
			w.shrink(t, last)
			if t == 0 {
				copy(first, last)
			}
			for k, x := range last {
				sum[k] += x
			}
		}
		w.rows[i] = w.row(first, last, sum, t)
	}
}

// embedSelectedFrames sets the rows of windows that use a part of their frames. Windows share the vectors of frames.
func (w *windows) embedSelectedFrames(ctx context.Context) {
	n := w.frameLength()
	vectors := map[int][]float64{} // by frame
	vector := func(t int) []float64 {
		v, ok := vectors[t]
		if !ok {
			v = make([]float64, n)
			w.shrink(t, v)
			vectors[t] = v
		}
		return v
	}
	for _, i := range w.order {
		if ctx.Err() != nil {
			return
		}
		length := w.length[i]
		count := min(w.frames, length)
		sum := make([]float64, n)
		if w.pool != poolLast {
			for j := range count {
				for k, x := range vector(spaced(j, count, length)) {
					sum[k] += x
				}
			}
		}
		w.rows[i] = w.row(vector(0), vector(length-1), sum, count)
	}
}

// row pools the vectors of the first and the last frame and the sum over count frames.
func (p *Pixel) row(first, last, sum []float64, count int) []float32 {
	out := make([]float32, 0, p.dimension())
	add := func(v []float64, divisor float64) {
		for _, x := range v {
			out = append(out, float32(x/divisor))
		}
	}
	switch p.pool {
	case poolLast:
		add(last, 1)
	case poolFirstLastMean:
		add(first, 1)
		add(last, 1)
		add(sum, float64(count))
	default:
		add(sum, float64(count))
	}
	return out
}

// spaced returns the j-th of n evenly spaced frames of a clip with length frames, including the first and
// the last. It rounds down, like NumPy's linspace(0, length-1, n, dtype=int).
func spaced(j, n, length int) int {
	if n == 1 {
		return 0
	}
	return j * (length - 1) / (n - 1)
}

// stopped returns the error of a call whose context ended.
func stopped(err error) error {
	kind := plugins.Canceled
	if err == context.DeadlineExceeded {
		kind = plugins.Deadline
	}
	return plugins.Errorf(kind, "stopped: %w", err)
}
