// Package embed turns clips into embeddings with an encoder plugin, and caches them by content, encoder and settings.
package embed

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// Variants are an attempt's embeddings by one encoder; a missing one is nil.
type Variants struct {
	Clip    []float64
	Ends    []int
	Windows [][]float64
	// Cut to the shortest clip of the task.
	cutClip             []float64
	cutEnds             []int
	cutWindows          [][]float64
	reversed, stalled   []float64
	cutBack, cutStalled []float64
	Problem             string
}

// Embedder embeds clips with one encoder, through the cache.
type Embedder struct {
	*session.Encoder
	Identity string
	Clips    *Clips
	Cache    *Cache
	failures int // in a row
}

// frameWiseWindows and windows are the numbers of growing windows of a curve: where windows share the work of the clip, and where each is a clip of its own.
const (
	frameWiseWindows = 32
	windows          = 8
)

func Start(ctx context.Context, super *supervise.Supervisor, cfg *config.Config, launch session.Launcher, name string, c *Clips) (*Embedder, error) {
	e, err := session.StartEncoder(ctx, super, cfg, launch, name)
	if err != nil {
		return nil, err
	}
	return &Embedder{Encoder: e, Identity: Identity(e.Info, e.Record.Hash, e.Settings, e.Spec), Clips: c, Cache: c.Cache}, nil
}

// job is one thing to embed: how it is named in the cache, and the clip.
type job struct {
	op   string
	make func(frames plugins.Tensor) plugins.Tensor
}

func (e *Embedder) key(i int, op string) Key {
	return KeyOf("vectors", e.Identity, e.Clips.Info[i].Hash, op)
}

// callBytes bounds the clips of one call, so that they fit a message where they do not fit the shared memory.
const callBytes = 96 << 20

// embed gives clips of one attempt their vectors, those of the cache without looking at a frame. A clip that the encoder refuses has NaN.
func (e *Embedder) embed(ctx context.Context, i int, jobs []job) ([][]float32, error) {
	out := make([][]float32, len(jobs))
	var missing []int
	for k, j := range jobs {
		if rows, ok := e.Cache.Vectors(e.key(i, j.op)); ok && len(rows) == 1 && len(rows[0]) == e.Spec.Dimension {
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
		var part []int
		var list []plugins.Tensor
		bytes := 0
		for _, k := range missing {
			clip := jobs[k].make(frames)
			if bytes += len(clip.Data); len(part) > 0 && (bytes > callBytes || len(part) == e.Spec.Batch) {
				break
			}
			part, list = append(part, k), append(list, clip)
		}
		missing = missing[len(part):]
		rows, err := e.call(ctx, func(c encoder.Encoder) ([][]float32, error) { return c.Encode(ctx, list) }, len(list))
		if err != nil {
			return nil, err
		}
		for n, k := range part {
			out[k] = rows[n]
			_ = e.Clips.warn(e.Cache.PutVectors(e.key(i, jobs[k].op), rows[n:n+1]))
		}
	}
	return out, nil
}

// windows embeds the attempt's growing windows. Where each costs as much as a clip, the encoder gets as many at once as it likes to get clips, and each call's
// are remembered: a world model on a CPU takes minutes for a window, and whoever stops it loses one call.
func (e *Embedder) windows(ctx context.Context, i int, ends []int) ([][]float32, error) {
	size := len(ends)
	if !e.Spec.FrameWise && e.Spec.Batch > 0 {
		size = e.Spec.Batch
	}
	var out [][]float32
	for part := range slices.Chunk(ends, size) {
		rows, err := e.windowsAtOnce(ctx, i, part)
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
	}
	return out, nil
}

func (e *Embedder) windowsAtOnce(ctx context.Context, i int, ends []int) ([][]float32, error) {
	op := fmt.Sprintf("windows %v", ends)
	if rows, ok := e.Cache.Vectors(e.key(i, op)); ok && len(rows) == len(ends) && len(rows[0]) == e.Spec.Dimension {
		return rows, nil
	}
	frames, err := e.Clips.Frames(ctx, i)
	if err != nil {
		return nil, err
	}
	rows, err := e.call(ctx, func(c encoder.Encoder) ([][]float32, error) {
		w, ok := c.(encoder.Windower)
		if !ok {
			return nil, plugins.Errorf(plugins.Unsupported, "it embeds no windows")
		}
		return w.EncodeWindows(ctx, frames, ends)
	}, len(ends))
	if err == nil {
		_ = e.Clips.warn(e.Cache.PutVectors(e.key(i, op), rows))
	}
	return rows, err
}

// call asks the encoder, and once more when its process was lost meanwhile.
func (e *Embedder) call(ctx context.Context, ask func(encoder.Encoder) ([][]float32, error), want int) ([][]float32, error) {
	for again := false; ; again = true {
		client, incarnation, err := e.Worker.Client(ctx)
		if err != nil {
			return nil, err
		}
		rows, err := ask(client)
		if err == nil && len(rows) != want {
			err = plugins.Errorf(plugins.Corrupt, "%d vectors for %d clips", len(rows), want).WithPlace("%s", e.Label)
			e.Worker.Failed(incarnation, err)
		}
		if err == nil {
			return rows, nil
		}
		if k := plugins.KindOf(err); again || k != plugins.Unavailable && k != plugins.Deadline && k != plugins.Corrupt || ctx.Err() != nil {
			return nil, err
		}
		e.Clips.Terminal.Warn("%v; trying once more", err)
	}
}

// hopeless is how many attempts in a row may cost the encoder its process before it is given up.
const hopeless = 3

// Depth is how much of an attempt is embedded.
type Depth int

// The depths: the clip; growing windows too; and the clips that a good reward must tell from a success, and all of it cut to equal length.
const (
	ClipOnly Depth = iota
	WithWindows
	WithControls
)

// EmbedAll embeds every attempt that has frames. grid is the number of windows; 0: by the encoder.
func (e *Embedder) EmbedAll(ctx context.Context, how Depth, grid int) ([]Variants, error) {
	list := e.Clips.List.Attempts
	out := make([]Variants, len(list))
	cuts := e.Clips.ShortestByTask()
	todo := 0
	for i := range list {
		if e.Clips.Usable(i) {
			todo++
		}
	}
	progress := newRate(e.Clips.Terminal, "embed with "+strings.TrimPrefix(e.Label, "encoder "), todo)
	for i := range list {
		if !e.Clips.Usable(i) {
			continue
		}
		err := e.embedOne(ctx, i, how, grid, cuts[list[i].Task], &out[i])
		switch kind := plugins.KindOf(err); {
		case err == nil:
			e.failures = 0
		case ctx.Err() != nil || kind == plugins.Canceled:
			return nil, plugins.Errorf(plugins.Canceled, "stopped at %d of %d attempts", progress.n, todo).WithHint("the same command goes on: what was done is kept")
		default:
			if kind != plugins.Invalid {
				e.failures++
			}
			if e.failures >= hopeless || kind == plugins.Unsupported {
				return nil, err
			}
			if _, _, gone := e.Worker.Client(ctx); gone != nil {
				return nil, gone
			}
			out[i] = Variants{Problem: plugins.AsError(err).Error()}
		}
		progress.done()
	}
	return out, nil
}

func (e *Embedder) embedOne(ctx context.Context, i int, how Depth, grid, cut int, v *Variants) error {
	measure := how == WithControls
	if !measure {
		cut = 0
	}
	a, t := e.Clips.List.Attempts[i], e.Clips.Info[i].Frames
	jobs := []job{{"clip", func(f plugins.Tensor) plugins.Tensor { return f }}}
	to := []*[]float64{&v.Clip}
	add := func(at *[]float64, op string, make func(plugins.Tensor) plugins.Tensor) {
		jobs, to = append(jobs, job{op, make}), append(to, at)
	}
	cut = min(cut, t)
	if measure && cut > 0 && cut < t {
		add(&v.cutClip, fmt.Sprintf("first %d", cut), func(f plugins.Tensor) plugins.Tensor { return first(f, cut) })
	}
	if measure && a.Success != nil && *a.Success && t > 1 {
		add(&v.reversed, "reversed", reversed)
		add(&v.stalled, "stalled", stalled)
		if cut > 1 && cut < t {
			add(&v.cutBack, fmt.Sprintf("first %d reversed", cut), func(f plugins.Tensor) plugins.Tensor { return reversed(first(f, cut)) })
			add(&v.cutStalled, fmt.Sprintf("first %d stalled", cut), func(f plugins.Tensor) plugins.Tensor { return stalled(first(f, cut)) })
		}
	}
	rows, err := e.embed(ctx, i, jobs)
	if err != nil {
		return err
	}
	if n := len(rows[0]); n != e.Spec.Dimension {
		return plugins.Errorf(plugins.Invalid, "%s gave a vector of %d numbers instead of %d", e.Label, n, e.Spec.Dimension)
	}
	if NotFinite(float64s(rows[0])) {
		return plugins.Errorf(plugins.Invalid, "%s gave a vector with what is not a number", e.Label)
	}
	for k, row := range rows {
		*to[k] = float64s(row)
	}
	if measure && cut == t {
		v.cutClip, v.cutBack, v.cutStalled = v.Clip, v.reversed, v.stalled
	}
	if how < WithWindows || t < 2 || NotFinite(v.Clip) {
		return nil
	}
	if grid <= 0 {
		if grid = windows; e.Spec.FrameWise {
			grid = frameWiseWindows
		}
	}
	v.Ends = gridOf(t, grid)
	switch {
	case cut < 2:
	case e.Spec.FrameWise: // as many windows of the cut clip cost nothing
		v.cutEnds = gridOf(cut, grid)
	default:
		for _, end := range v.Ends {
			if end < cut {
				v.cutEnds = append(v.cutEnds, end)
			}
		}
		v.cutEnds = append(v.cutEnds, cut)
	}
	all := append(slices.Clone(v.Ends), v.cutEnds...)
	sort.Ints(all)
	all = slices.Compact(all)
	if rows, err = e.windows(ctx, i, all); err != nil {
		return err
	}
	pick := func(ends []int) [][]float64 {
		var out [][]float64
		for _, end := range ends {
			k, _ := slices.BinarySearch(all, end)
			out = append(out, float64s(rows[k]))
		}
		return out
	}
	v.Windows, v.cutWindows = pick(v.Ends), pick(v.cutEnds)
	return nil
}

// Anchors embeds "nothing happened" for each task: the first frame of its first attempt whose frame can be embedded.
func (e *Embedder) Anchors(ctx context.Context) (map[string][]float64, error) {
	out := map[string][]float64{}
	for i, a := range e.Clips.List.Attempts {
		if out[a.Task] != nil || !e.Clips.Usable(i) {
			continue
		}
		rows, err := e.embed(ctx, i, []job{{"still", still}})
		switch {
		case err == nil && !NotFinite(float64s(rows[0])):
			out[a.Task] = float64s(rows[0])
		case ctx.Err() != nil || plugins.KindOf(err) == plugins.Canceled:
			return nil, err
		case err != nil:
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

func NotFinite(v []float64) bool {
	for _, x := range v {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return true
		}
	}
	return false
}
