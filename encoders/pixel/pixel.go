// Package pixel is the simplest encoder: a clip's frames, made small, as they are. The L2 distance of two such
// vectors is a distance of pictures.
//
// It needs no weights and no installation, and where the camera stands still it is not a straw man; it is also the
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

// How frames become one vector.
const (
	poolMean          = "mean"
	poolLast          = "last"
	poolFirstLastMean = "first_last_mean"
)

// Pixel implements [encoder.Encoder] and [encoder.Windower]. Make one with [New]. It keeps nothing between calls,
// which may come at the same time.
type Pixel struct {
	size, frames, first int
	gray                bool
	pool                string
}

// New makes an encoder with the default settings; Configure may change them.
func New() encoder.Encoder { return &Pixel{size: 32, pool: poolMean} }

var settings = []plugins.Setting{
	{Name: "size", Default: int64(32), Min: plugins.Bound(1), Max: plugins.Bound(256),
		Doc: "each frame is area-averaged to size x size, pixels; 32 separated successes from failures on LIBERO " +
			"with an AUROC of 0.986"},
	{Name: "gray", Default: false, Doc: "luma (ITU-R BT.601) instead of red, green and blue: a third of the length"},
	{Name: "pool", Default: poolMean, Choices: []string{poolMean, poolLast, poolFirstLastMean},
		Doc: "the mean over the frames, the last frame, or first, last and mean one after the other"},
	{Name: "frames", Default: int64(0), Min: plugins.Bound(0),
		Doc: "take the mean over this many evenly spaced frames, first and last included (1: the first); 0, or a " +
			"shorter clip: all frames"},
	{Name: "first", Default: int64(0), Min: plugins.Bound(0),
		Doc: "look at the first frames only, at most this many, so that a clip's length does not show; 0: the " +
			"whole clip"},
}

// Info implements [plugins.Plugin].
func (p *Pixel) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: "pixel", Kind: plugins.Encoder, Version: "1", Settings: settings,
		Doc:      "Small frames as they are, averaged over the clip; pure Go, no weights.",
		Versions: map[string]string{"go": runtime.Version()}}, nil
}

// Configure implements [plugins.Plugin].
func (p *Pixel) Configure(_ context.Context, c plugins.Config) error {
	s, err := plugins.Resolve(settings, c.Settings)
	if err != nil {
		return err
	}
	p.size, p.gray, p.pool, p.frames, p.first = s.Int("size"), s.Bool("gray"), s.String("pool"), s.Int("frames"), s.Int("first")
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

// frameLength is the length of one frame's features.
func (p *Pixel) frameLength() int { return p.size * p.size * p.channels() }

func (p *Pixel) dimension() int {
	if p.pool == poolFirstLastMean {
		return 3 * p.frameLength()
	}
	return p.frameLength()
}

// Encode implements [encoder.Encoder]: one vector a clip, values from 0 to 1 (row, column, channel), the same
// whatever else is in the batch. A clip that is not uint8 [T, H, W, 3] with T, H and W of 1 or more gets NaN
// throughout.
func (p *Pixel) Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error) {
	rows := make([][]float32, len(clips))
	var next atomic.Int64
	var wait sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(clips)) {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(clips) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				rows[i] = p.unusable()
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

// EncodeWindows implements [encoder.Windower]: bit for bit what Encode returns for clip[:end], for each end, while
// every frame is looked at once. An end outside 1 to T is Invalid; a clip that cannot be embedded gives rows of NaN.
func (p *Pixel) EncodeWindows(ctx context.Context, clip plugins.Tensor, ends []int) ([][]float32, error) {
	if !usable(clip) {
		rows := make([][]float32, len(ends))
		for i := range rows {
			rows[i] = p.unusable()
		}
		return rows, nil
	}
	for _, end := range ends {
		if end < 1 || end > clip.Shape[0] {
			return nil, plugins.Errorf(plugins.Invalid,
				"a clip of %d frames has no window that ends at %d", clip.Shape[0], end).
				WithHint("ends are 1 to the number of frames")
		}
	}
	rows := p.windows(ctx, clip, ends)
	if err := ctx.Err(); err != nil {
		return nil, stopped(err)
	}
	return rows, nil
}

func usable(clip plugins.Tensor) bool {
	return clip.Check(
		"clip", plugins.Uint8, -1, -1, -1, 3,
	) == nil && clip.Shape[0] > 0 && clip.Shape[1] > 0 && clip.Shape[2] > 0
}

func (p *Pixel) unusable() []float32 {
	row := make([]float32, p.dimension())
	for i := range row {
		row[i] = float32(math.NaN())
	}
	return row
}

// windows embeds clip[:end] for each end. Sums run over the frames in order, in float64, so that a window's sum is
// the same number however it is reached. When ctx ends it returns early, with rows missing.
func (p *Pixel) windows(ctx context.Context, clip plugins.Tensor, ends []int) [][]float32 {
	height, width := clip.Shape[1], clip.Shape[2]
	shrink := newShrinker(height, width, p.size, p.gray)
	frame := func(t int) []byte { return clip.Data[t*height*width*3 : (t+1)*height*width*3] }

	// Windows in the order of their ends, after the cut to the first frames.
	order := make([]int, len(ends))
	length := make([]int, len(ends))
	for i, end := range ends {
		order[i], length[i] = i, end
		if p.first > 0 {
			length[i] = min(end, p.first)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return length[a] - length[b] })

	rows := make([][]float32, len(ends))
	n := p.frameLength()
	row := func(first, last, sum []float64, count int) []float32 {
		out := make([]float32, 0, p.dimension())
		put := func(v []float64, by float64) {
			for _, x := range v {
				out = append(out, float32(x/by))
			}
		}
		switch p.pool {
		case poolLast:
			put(last, 1)
		case poolFirstLastMean:
			put(first, 1)
			put(last, 1)
			put(sum, float64(count))
		default:
			put(sum, float64(count))
		}
		return out
	}

	if p.frames == 0 && p.pool != poolLast {
		first, last, sum := make([]float64, n), make([]float64, n), make([]float64, n)
		t := 0
		for _, i := range order {
			for ; t < length[i]; t++ {
				if t%64 == 0 && ctx.Err() != nil {
					return rows
				}
				shrink.frame(frame(t), last)
				if t == 0 {
					copy(first, last)
				}
				for k, x := range last {
					sum[k] += x
				}
			}
			rows[i] = row(first, last, sum, t)
		}
		return rows
	}

	seen := map[int][]float64{}
	at := func(t int) []float64 {
		if f, ok := seen[t]; ok {
			return f
		}
		f := make([]float64, n)
		shrink.frame(frame(t), f)
		seen[t] = f
		return f
	}
	for _, i := range order {
		if ctx.Err() != nil {
			return rows
		}
		count := min(p.frames, length[i])
		sum := make([]float64, n)
		for j := range count {
			if p.pool == poolLast {
				break
			}
			for k, x := range at(spaced(j, count, length[i])) {
				sum[k] += x
			}
		}
		rows[i] = row(at(0), at(length[i]-1), sum, count)
	}
	return rows
}

// spaced is the j-th of n evenly spaced frames of a clip of length t, the first and the last included, rounded down
// (NumPy's linspace(0, t-1, n) as int).
func spaced(j, n, t int) int {
	if n == 1 {
		return 0
	}
	return j * (t - 1) / (n - 1)
}

func stopped(err error) error {
	kind := plugins.Canceled
	if err == context.DeadlineExceeded {
		kind = plugins.Deadline
	}
	return plugins.Errorf(kind, "stopped: %w", err)
}
