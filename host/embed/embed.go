// Package embed turns clips into embeddings with an encoder plugin, and caches them by content, encoder and settings.
package embed

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// Depth is how much of an attempt is embedded.
type Depth int

const (
	// ClipOnly embeds the clip.
	ClipOnly Depth = iota
	// WithWindows also embeds growing windows of the clip.
	WithWindows
	// WithControls also embeds clips that a good reward must tell from a success, and everything cut to equal length.
	WithControls
)

// Vectors are the embeddings of one attempt by one encoder.
type Vectors struct {
	// Whole are the embeddings of the clip itself, Cut those of the clip cut to the shortest clip of its task.
	Whole, Cut Views
	// Problem is why the attempt could not be embedded; empty: it could.
	Problem string
}

// Views are the embeddings of a clip and of clips made from it. Those that were not asked for are nil.
type Views struct {
	Clip []float64
	// Windows are the embeddings of the first Ends[k] frames.
	Ends    []int
	Windows [][]float64
	// Reversed is the clip played backwards, Stalled the clip that stops at its middle.
	Reversed, Stalled []float64
}

// Embedder embeds clips with one encoder. It takes from the cache what was embedded before.
type Embedder struct {
	*session.Encoder
	Clips    *Clips
	identity string
	failures int // in a row
}

// New returns an embedder for an encoder that runs.
func New(e *session.Encoder, c *Clips) *Embedder {
	return &Embedder{Encoder: e, Clips: c, identity: Identity(e.Info, e.Record.Hash, e.Settings, e.Spec)}
}

// Start starts an encoder and returns an embedder for it.
func Start(ctx context.Context, super *supervise.Supervisor, cfg *config.Config, launch session.Launcher, name string,
	c *Clips) (*Embedder, error) {
	e, err := session.StartEncoder(ctx, super, cfg, launch, name)
	if err != nil {
		return nil, err
	}
	return New(e, c), nil
}

const (
	// frameWiseWindows is the number of growing windows of a curve when they share the work of the clip, and
	// defaultWindows when each window is a clip of its own.
	frameWiseWindows = 32
	defaultWindows   = 8
	// maxFailures is how many attempts in a row may fail before the encoder is given up.
	maxFailures = 3
	// maxCallBytes bounds the clips of one call, so that they fit a message when they do not fit the shared memory.
	maxCallBytes = 96 << 20
	// callTries is how often a call is made that costs the encoder its process.
	callTries = 2
)

// EmbedAll embeds every attempt that has frames. grid is the number of windows; 0: the encoder decides.
func (e *Embedder) EmbedAll(ctx context.Context, depth Depth, grid int) ([]Vectors, error) {
	list := e.Clips.List.Attempts
	out := make([]Vectors, len(list))
	shortest := e.Clips.ShortestByTask()
	total := 0
	for i := range list {
		if e.Clips.Usable(i) {
			total++
		}
	}
	progress := newProgress(e.Clips.Terminal, "embed with "+strings.TrimPrefix(e.Label, "encoder "), total)
	for i := range list {
		if !e.Clips.Usable(i) {
			continue
		}
		v, err := e.embedOne(ctx, i, depth, grid, shortest[list[i].Task])
		switch kind := plugins.KindOf(err); {
		case err == nil:
			e.failures = 0
		case ctx.Err() != nil || kind == plugins.Canceled:
			return nil, plugins.Errorf(plugins.Canceled, "stopped at %d of %d attempts", progress.n, total).
				WithHint("the same command continues where it stopped")
		default:
			if kind != plugins.Invalid {
				e.failures++
			}
			if e.failures >= maxFailures || kind == plugins.Unsupported {
				return nil, err
			}
			if _, _, gone := e.Worker.Client(ctx); gone != nil {
				return nil, gone
			}
			v = Vectors{Problem: plugins.AsError(err).Error()}
		}
		out[i] = v
		progress.done()
	}
	return out, nil
}

// embedOne embeds attempt i. shortest is the number of frames of the shortest clip of its task.
func (e *Embedder) embedOne(ctx context.Context, i int, depth Depth, grid, shortest int) (Vectors, error) {
	frames := e.Clips.Info[i].Frames
	cut := 0
	if depth == WithControls {
		cut = min(shortest, frames)
	}
	v, err := e.embedClips(ctx, i, depth, cut)
	if err != nil || depth < WithWindows || frames < 2 {
		return v, err
	}
	err = e.embedWindows(ctx, i, grid, cut, &v)
	return v, err
}

// clipJob is one clip to embed. op names it in the cache, and make makes it from the frames of the attempt.
type clipJob struct {
	op   string
	make func(frames plugins.Tensor) plugins.Tensor
	to   *[]float64
}

// embedClips embeds attempt i, its first cut frames, and the controls made from both. cut 0: no frames are cut.
func (e *Embedder) embedClips(ctx context.Context, i int, depth Depth, cut int) (v Vectors, err error) {
	a, frames := e.Clips.List.Attempts[i], e.Clips.Info[i].Frames
	jobs := []clipJob{{"clip", func(f plugins.Tensor) plugins.Tensor { return f }, &v.Whole.Clip}}
	if cut > 0 && cut < frames {
		first := func(f plugins.Tensor) plugins.Tensor { return first(f, cut) }
		jobs = append(jobs, clipJob{fmt.Sprintf("first %d", cut), first, &v.Cut.Clip})
	}
	if depth == WithControls && a.Success != nil && *a.Success && frames > 1 {
		jobs = append(jobs, clipJob{"reversed", reversed, &v.Whole.Reversed},
			clipJob{"stalled", stalled, &v.Whole.Stalled})
		if cut > 1 && cut < frames {
			cutReversed := func(f plugins.Tensor) plugins.Tensor { return reversed(first(f, cut)) }
			cutStalled := func(f plugins.Tensor) plugins.Tensor { return stalled(first(f, cut)) }
			jobs = append(jobs, clipJob{fmt.Sprintf("first %d reversed", cut), cutReversed, &v.Cut.Reversed},
				clipJob{fmt.Sprintf("first %d stalled", cut), cutStalled, &v.Cut.Stalled})
		}
	}
	rows, err := e.encode(ctx, i, jobs)
	if err != nil {
		return v, err
	}
	if why := srpo.CheckEmbedding(rows[0], e.Spec.Dimension); why != "" {
		return v, plugins.Errorf(plugins.Invalid, "the embedding by %s %s", e.Label, why)
	}
	for k, row := range rows {
		*jobs[k].to = float64s(row)
	}
	if cut == frames {
		v.Cut = v.Whole
	}
	return v, nil
}

// embedWindows embeds the growing windows of attempt i and those of its first cut frames.
func (e *Embedder) embedWindows(ctx context.Context, i, grid, cut int, v *Vectors) error {
	if grid <= 0 {
		if grid = defaultWindows; e.Spec.FrameWise {
			grid = frameWiseWindows
		}
	}
	v.Whole.Ends = windowEnds(e.Clips.Info[i].Frames, grid)
	v.Cut.Ends = nil
	switch {
	case cut < 2:
	case e.Spec.FrameWise: // the cut clip can have as many windows without more work
		v.Cut.Ends = windowEnds(cut, grid)
	default:
		for _, end := range v.Whole.Ends {
			if end < cut {
				v.Cut.Ends = append(v.Cut.Ends, end)
			}
		}
		v.Cut.Ends = append(v.Cut.Ends, cut)
	}
	all := append(slices.Clone(v.Whole.Ends), v.Cut.Ends...)
	sort.Ints(all)
	all = slices.Compact(all)
	rows, err := e.windows(ctx, i, all)
	if err != nil {
		return err
	}
	rowsAt := func(ends []int) [][]float64 {
		var out [][]float64
		for _, end := range ends {
			k, _ := slices.BinarySearch(all, end)
			out = append(out, float64s(rows[k]))
		}
		return out
	}
	v.Whole.Windows, v.Cut.Windows = rowsAt(v.Whole.Ends), rowsAt(v.Cut.Ends)
	return nil
}

func (e *Embedder) key(i int, op string) Key {
	return KeyOf("vectors", e.identity, e.Clips.Info[i].Hash, op)
}

// encode returns one embedding per clip of attempt i. It decodes no frame when all of them are in the cache. A
// clip that the encoder refuses has an embedding of NaN.
func (e *Embedder) encode(ctx context.Context, i int, jobs []clipJob) ([][]float32, error) {
	out := make([][]float32, len(jobs))
	var missing []int
	for k, j := range jobs {
		rows, ok := e.Clips.Cache.Vectors(e.key(i, j.op))
		if ok && len(rows) == 1 && len(rows[0]) == e.Spec.Dimension {
			out[k] = rows[0]
		} else {
			missing = append(missing, k)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	frames, err := e.Clips.Frames(ctx, i)
	if err != nil {
		return nil, err
	}
	for len(missing) > 0 {
		var clips []plugins.Tensor
		bytes := 0
		for _, k := range missing {
			clip := jobs[k].make(frames)
			bytes += len(clip.Data)
			if len(clips) > 0 && (bytes > maxCallBytes || len(clips) == e.Spec.Batch) {
				break
			}
			clips = append(clips, clip)
		}
		rows, err := e.call(ctx, len(clips),
			func(c encoder.Encoder) ([][]float32, error) { return c.Encode(ctx, clips) })
		if err != nil {
			return nil, err
		}
		for n, row := range rows {
			k := missing[n]
			out[k] = row
			e.Clips.warn(e.Clips.Cache.PutVectors(e.key(i, jobs[k].op), rows[n:n+1]))
		}
		missing = missing[len(clips):]
	}
	return out, nil
}

// windows embeds growing windows of attempt i. When each window costs as much as a clip, one call has as many
// windows as the encoder's batch, and the embeddings of each call are cached. A world model on a CPU needs
// minutes per window, so that stopping it then loses one call only.
func (e *Embedder) windows(ctx context.Context, i int, ends []int) ([][]float32, error) {
	size := len(ends)
	if !e.Spec.FrameWise && e.Spec.Batch > 0 {
		size = e.Spec.Batch
	}
	var out [][]float32
	for part := range slices.Chunk(ends, size) {
		rows, err := e.windowsOfCall(ctx, i, part)
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
	}
	return out, nil
}

func (e *Embedder) windowsOfCall(ctx context.Context, i int, ends []int) ([][]float32, error) {
	key := e.key(i, fmt.Sprintf("windows %v", ends))
	if rows, ok := e.Clips.Cache.Vectors(key); ok && len(rows) == len(ends) && len(rows[0]) == e.Spec.Dimension {
		return rows, nil
	}
	frames, err := e.Clips.Frames(ctx, i)
	if err != nil {
		return nil, err
	}
	rows, err := e.call(ctx, len(ends), func(c encoder.Encoder) ([][]float32, error) {
		w, ok := c.(encoder.Windower)
		if !ok {
			return nil, plugins.Errorf(plugins.Unsupported, "the encoder cannot embed windows")
		}
		return w.EncodeWindows(ctx, frames, ends)
	})
	if err == nil {
		e.Clips.warn(e.Clips.Cache.PutVectors(key, rows))
	}
	return rows, err
}

// call makes a call that returns n embeddings, and repeats it once when the encoder's process was lost.
func (e *Embedder) call(
	ctx context.Context,
	n int,
	encode func(encoder.Encoder) ([][]float32, error),
) ([][]float32, error) {
	warn := func(err error) { e.Clips.Terminal.Warn("%v; trying once more", err) }
	return session.CallWithRetry(ctx, e.Worker, callTries, warn, func(c encoder.Encoder) ([][]float32, error) {
		rows, err := encode(c)
		if err == nil && len(rows) != n {
			err = plugins.Errorf(plugins.Corrupt, "%d embeddings for %d clips", len(rows), n).WithPlace("%s", e.Label)
		}
		return rows, err
	})
}

// Anchors returns the embedding of "nothing happened" for each task: the first frame of the first attempt whose first
// frame can be embedded, repeated.
func (e *Embedder) Anchors(ctx context.Context) (map[string][]float64, error) {
	out := map[string][]float64{}
	for i, a := range e.Clips.List.Attempts {
		if out[a.Task] != nil || !e.Clips.Usable(i) {
			continue
		}
		rows, err := e.encode(ctx, i, []clipJob{{op: "still", make: FirstFrameStill}})
		switch {
		case err == nil:
			if srpo.CheckEmbedding(rows[0], e.Spec.Dimension) == "" {
				out[a.Task] = float64s(rows[0])
			}
		case ctx.Err() != nil || plugins.KindOf(err) == plugins.Canceled:
			return nil, err
		default:
			if _, _, gone := e.Worker.Client(ctx); gone != nil {
				return nil, gone
			}
			e.Clips.Terminal.Warn("the first frame of %s cannot be embedded: %v", a.ID, err)
		}
	}
	return out, nil
}

func float64s(v []float32) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}
