package host

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/embeddings"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// clipInfo is what is remembered of a video, so that it need not be decoded again.
type clipInfo struct {
	// Hash is over the frames.
	Hash   string `json:"hash"`
	Frames int    `json:"frames"`
	Height int    `json:"height"`
	Width  int    `json:"width"`
	Note   string `json:"note,omitempty"`
}

// frameBudget bounds the decoded clips that are kept between two uses, bytes.
const frameBudget = 1 << 30

// clips decodes the attempts' videos, when somebody needs their frames, and remembers what it saw.
type clips struct {
	list    *attempts.List
	decoder *attempts.Decoder
	cache   *embeddings.Cache
	term    *report.Terminal

	info  []clipInfo // zero: no frames
	kept  map[int]plugins.Tensor
	order []int // of kept, the oldest first
	bytes int
	// source gives attempt i's clip where it is no video file of its own; nil: attempts.Open of its path.
	source func(ctx context.Context, i int) (attempts.Clip, error)
	// broken is why videos of some kind cannot be decoded here at all; told once.
	broken error
}

// look learns every video's length and content. What is wrong with a video becomes its attempt's Problem.
func (c *clips) look(ctx context.Context) error {
	c.info, c.kept = make([]clipInfo, len(c.list.Attempts)), map[int]plugins.Tensor{}
	todo := 0
	for _, a := range c.list.Attempts {
		if a.Video != "" && a.Problem == "" {
			todo++
		}
	}
	rate := newRate(c.term, "read videos", todo)
	for i := range c.list.Attempts {
		a := &c.list.Attempts[i]
		if a.Video == "" || a.Problem != "" {
			continue
		}
		if err := c.lookAt(ctx, i); err != nil {
			if ctx.Err() != nil || plugins.KindOf(err) == plugins.Canceled {
				return plugins.Errorf(plugins.Canceled, "stopped while videos were read").WithHint("the same command goes on: what was done is kept")
			}
			e := plugins.AsError(err)
			a.Problem = e.Message
			if e.Kind != plugins.Invalid && c.broken == nil {
				c.broken = e
				c.term.Warn("%v", e)
				if e.Hint != "" {
					c.term.Line("  try: %s", e.Hint)
				}
			}
		}
		rate.done()
	}
	return nil
}

func (c *clips) lookAt(ctx context.Context, i int) error {
	if c.source != nil {
		clip, err := c.read(ctx, i)
		if err == nil {
			c.keep(i, clip.Frames)
			shape := clip.Frames.Shape
			c.info[i] = clipInfo{Hash: embeddings.HashFrames(clip.Frames), Frames: shape[0], Height: shape[1], Width: shape[2], Note: clip.Note}
		}
		return err
	}
	source, err := embeddings.HashSource(c.list.Attempts[i].Video)
	if err != nil {
		return plugins.Errorf(plugins.Invalid, "it cannot be read: %w", err)
	}
	key := embeddings.KeyOf("clip", attempts.ReaderVersion, source)
	if c.cache.JSON(key, &c.info[i]) {
		return nil
	}
	clip, err := attempts.Open(ctx, c.list.Attempts[i].Video, c.decoder)
	if err != nil {
		return err
	}
	c.keep(i, clip.Frames)
	shape := clip.Frames.Shape
	c.info[i] = clipInfo{Hash: embeddings.HashFrames(clip.Frames), Frames: shape[0], Height: shape[1], Width: shape[2], Note: clip.Note}
	return c.warn(c.cache.PutJSON(key, c.info[i]))
}

// warn tells that something could not be kept, and goes on.
func (c *clips) warn(err error) error {
	if err != nil {
		c.term.Warn("%v", err)
	}
	return nil
}

// read gives attempt i's clip anew.
func (c *clips) read(ctx context.Context, i int) (attempts.Clip, error) {
	if c.source != nil {
		return c.source(ctx, i)
	}
	return attempts.Open(ctx, c.list.Attempts[i].Video, c.decoder)
}

func (c *clips) keep(i int, t plugins.Tensor) {
	c.kept[i] = t
	c.order = append(c.order, i)
	c.bytes += len(t.Data)
	for c.bytes > frameBudget && len(c.order) > 1 {
		old := c.order[0]
		c.order = c.order[1:]
		c.bytes -= len(c.kept[old].Data)
		delete(c.kept, old)
	}
}

// frames of attempt i, uint8 [T, H, W, 3], decoded again where they are not kept.
func (c *clips) frames(ctx context.Context, i int) (plugins.Tensor, error) {
	if t, ok := c.kept[i]; ok {
		return t, nil
	}
	clip, err := c.read(ctx, i)
	if err != nil {
		return plugins.Tensor{}, err
	}
	if embeddings.HashFrames(clip.Frames) != c.info[i].Hash { // not to be kept: its vectors would be remembered as those of the old frames
		return plugins.Tensor{}, plugins.Errorf(plugins.Invalid, "it has changed while it was looked at").WithHint("score again when nothing writes to it any more")
	}
	c.keep(i, clip.Frames)
	return clip.Frames, nil
}

// has says whether attempt i has frames that can be used.
func (c *clips) has(i int) bool { return c.info[i].Frames > 0 && c.list.Attempts[i].Problem == "" }

// cuts are the least numbers of frames by task: what clips are cut to when they are to be equally long. A single frame is no clip: cut to it, all others would
// lose what there is to see.
func (c *clips) cuts() map[string]int {
	out := map[string]int{}
	for i, a := range c.list.Attempts {
		if c.has(i) && a.Success != nil && c.info[i].Frames > 1 {
			if n, ok := out[a.Task]; !ok || c.info[i].Frames < n {
				out[a.Task] = c.info[i].Frames
			}
		}
	}
	return out
}

// rate shows how far something has come: done of all, a second, time left.
type rate struct {
	term  *report.Terminal
	what  string
	n, of int
	began time.Time
}

func newRate(term *report.Terminal, what string, of int) *rate {
	r := &rate{term: term, what: what, of: of, began: time.Now()}
	r.show()
	return r
}

func (r *rate) done() { r.n++; r.show() }

func (r *rate) show() {
	phase := r.what
	if s := time.Since(r.began).Seconds(); r.n > 0 && s > 0.5 {
		per := float64(r.n) / s
		phase = fmt.Sprintf("%s, %.3g/s, %s left,", r.what, per, time.Duration(float64(r.of-r.n)/per*float64(time.Second)).Round(time.Second))
	}
	r.term.Update(report.Status{Phase: phase, Done: r.n, Total: r.of})
}

// variants are an attempt's embeddings by one encoder; a missing one is nil.
type variants struct {
	clip    []float64
	ends    []int
	windows [][]float64
	// Cut to the shortest clip of the task.
	cutClip             []float64
	cutEnds             []int
	cutWindows          [][]float64
	reversed, stalled   []float64
	cutBack, cutStalled []float64
	problem             string
}

// embedder embeds clips with one encoder, through the cache.
type embedder struct {
	*startedEncoder
	identity string
	clips    *clips
	cache    *embeddings.Cache
	failures int // in a row
}

// frameWiseWindows and windows are the numbers of growing windows of a curve: where windows share the work of the clip, and where each is a clip of its own.
const (
	frameWiseWindows = 32
	windows          = 8
)

func newEmbedder(ctx context.Context, super *supervise.Supervisor, cfg *config.Config, launch Launcher, name string, c *clips) (*embedder, error) {
	e, err := startEncoder(ctx, super, cfg, launch, name)
	if err != nil {
		return nil, err
	}
	return &embedder{startedEncoder: e, identity: embeddings.Identity(e.info, e.record.Hash, e.settings, e.spec), clips: c, cache: c.cache}, nil
}

// job is one thing to embed: how it is named in the cache, and the clip.
type job struct {
	op   string
	make func(frames plugins.Tensor) plugins.Tensor
}

func (e *embedder) key(i int, op string) embeddings.Key {
	return embeddings.KeyOf("vectors", e.identity, e.clips.info[i].Hash, op)
}

// callBytes bounds the clips of one call, so that they fit a message where they do not fit the shared memory.
const callBytes = 96 << 20

// embed gives clips of one attempt their vectors, those of the cache without looking at a frame. A clip that the encoder refuses has NaN.
func (e *embedder) embed(ctx context.Context, i int, jobs []job) ([][]float32, error) {
	out := make([][]float32, len(jobs))
	var missing []int
	for k, j := range jobs {
		if rows, ok := e.cache.Vectors(e.key(i, j.op)); ok && len(rows) == 1 && len(rows[0]) == e.spec.Dimension {
			out[k] = rows[0]
		} else {
			missing = append(missing, k)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	frames, err := e.clips.frames(ctx, i)
	if err != nil {
		return nil, err
	}
	for len(missing) > 0 {
		var part []int
		var list []plugins.Tensor
		bytes := 0
		for _, k := range missing {
			clip := jobs[k].make(frames)
			if bytes += len(clip.Data); len(part) > 0 && (bytes > callBytes || len(part) == e.spec.Batch) {
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
			_ = e.clips.warn(e.cache.PutVectors(e.key(i, jobs[k].op), rows[n:n+1]))
		}
	}
	return out, nil
}

// windows embeds the attempt's growing windows. Where each costs as much as a clip, the encoder gets as many at once as it likes to get clips, and each call's
// are remembered: a world model on a CPU takes minutes for a window, and whoever stops it loses one call.
func (e *embedder) windows(ctx context.Context, i int, ends []int) ([][]float32, error) {
	size := len(ends)
	if !e.spec.FrameWise && e.spec.Batch > 0 {
		size = e.spec.Batch
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

func (e *embedder) windowsAtOnce(ctx context.Context, i int, ends []int) ([][]float32, error) {
	op := fmt.Sprintf("windows %v", ends)
	if rows, ok := e.cache.Vectors(e.key(i, op)); ok && len(rows) == len(ends) && len(rows[0]) == e.spec.Dimension {
		return rows, nil
	}
	frames, err := e.clips.frames(ctx, i)
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
		_ = e.clips.warn(e.cache.PutVectors(e.key(i, op), rows))
	}
	return rows, err
}

// call asks the encoder, and once more when its process was lost meanwhile.
func (e *embedder) call(ctx context.Context, ask func(encoder.Encoder) ([][]float32, error), want int) ([][]float32, error) {
	for again := false; ; again = true {
		client, incarnation, err := e.worker.Client(ctx)
		if err != nil {
			return nil, err
		}
		rows, err := ask(client)
		if err == nil && len(rows) != want {
			err = plugins.Errorf(plugins.Corrupt, "%d vectors for %d clips", len(rows), want).WithPlace("%s", e.label)
			e.worker.Failed(incarnation, err)
		}
		if err == nil {
			return rows, nil
		}
		if k := plugins.KindOf(err); again || k != plugins.Unavailable && k != plugins.Deadline && k != plugins.Corrupt || ctx.Err() != nil {
			return nil, err
		}
		e.clips.term.Warn("%v; trying once more", err)
	}
}

// hopeless is how many attempts in a row may cost the encoder its process before it is given up.
const hopeless = 3

// depth is how much of an attempt is embedded.
type depth int

// The depths: the clip; growing windows too; and the clips that a good reward must tell from a success, and all of it cut to equal length.
const (
	clipOnly depth = iota
	withWindows
	withControls
)

// all embeds every attempt that has frames. grid is the number of windows; 0: by the encoder.
func (e *embedder) all(ctx context.Context, how depth, grid int) ([]variants, error) {
	list := e.clips.list.Attempts
	out := make([]variants, len(list))
	cuts := e.clips.cuts()
	todo := 0
	for i := range list {
		if e.clips.has(i) {
			todo++
		}
	}
	progress := newRate(e.clips.term, "embed with "+strings.TrimPrefix(e.label, "encoder "), todo)
	for i := range list {
		if !e.clips.has(i) {
			continue
		}
		err := e.one(ctx, i, how, grid, cuts[list[i].Task], &out[i])
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
			if _, _, gone := e.worker.Client(ctx); gone != nil {
				return nil, gone
			}
			out[i] = variants{problem: plugins.AsError(err).Error()}
		}
		progress.done()
	}
	return out, nil
}

func (e *embedder) one(ctx context.Context, i int, how depth, grid, cut int, v *variants) error {
	measure := how == withControls
	if !measure {
		cut = 0
	}
	a, t := e.clips.list.Attempts[i], e.clips.info[i].Frames
	jobs := []job{{"clip", func(f plugins.Tensor) plugins.Tensor { return f }}}
	to := []*[]float64{&v.clip}
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
	if n := len(rows[0]); n != e.spec.Dimension {
		return plugins.Errorf(plugins.Invalid, "%s gave a vector of %d numbers instead of %d", e.label, n, e.spec.Dimension)
	}
	if notFinite(float64s(rows[0])) {
		return plugins.Errorf(plugins.Invalid, "%s gave a vector with what is not a number", e.label)
	}
	for k, row := range rows {
		*to[k] = float64s(row)
	}
	if measure && cut == t {
		v.cutClip, v.cutBack, v.cutStalled = v.clip, v.reversed, v.stalled
	}
	if how < withWindows || t < 2 || notFinite(v.clip) {
		return nil
	}
	if grid <= 0 {
		if grid = windows; e.spec.FrameWise {
			grid = frameWiseWindows
		}
	}
	v.ends = gridOf(t, grid)
	switch {
	case cut < 2:
	case e.spec.FrameWise: // as many windows of the cut clip cost nothing
		v.cutEnds = gridOf(cut, grid)
	default:
		for _, end := range v.ends {
			if end < cut {
				v.cutEnds = append(v.cutEnds, end)
			}
		}
		v.cutEnds = append(v.cutEnds, cut)
	}
	all := append(slices.Clone(v.ends), v.cutEnds...)
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
	v.windows, v.cutWindows = pick(v.ends), pick(v.cutEnds)
	return nil
}

// gridOf are at most n ends of growing windows over t frames, evenly spaced, t the last one.
func gridOf(t, n int) []int {
	n = min(n, t)
	ends := make([]int, n)
	for k := range ends {
		ends[k] = (k + 1) * t / n
	}
	return ends
}

func first(f plugins.Tensor, n int) plugins.Tensor {
	size := len(f.Data) / f.Shape[0]
	return plugins.Bytes(f.Data[:n*size:n*size], append([]int{n}, f.Shape[1:]...)...)
}

// reversed plays a clip backwards.
func reversed(f plugins.Tensor) plugins.Tensor {
	size := len(f.Data) / f.Shape[0]
	data := make([]byte, 0, len(f.Data))
	for k := f.Shape[0] - 1; k >= 0; k-- {
		data = append(data, f.Data[k*size:(k+1)*size]...)
	}
	return plugins.Bytes(data, f.Shape...)
}

// stalled holds the middle frame of a clip to its end.
func stalled(f plugins.Tensor) plugins.Tensor {
	size := len(f.Data) / f.Shape[0]
	half := (f.Shape[0] + 1) / 2
	data := append(make([]byte, 0, len(f.Data)), f.Data[:half*size]...)
	for range f.Shape[0] - half {
		data = append(data, f.Data[(half-1)*size:half*size]...)
	}
	return plugins.Bytes(data, f.Shape...)
}

// still holds the first frame for 16 frames: "nothing happened".
func still(f plugins.Tensor) plugins.Tensor {
	size := len(f.Data) / f.Shape[0]
	return plugins.Bytes(bytes.Repeat(f.Data[:size], 16), append([]int{16}, f.Shape[1:]...)...)
}

// anchors embeds "nothing happened" for each task: the first frame of its first attempt whose frame can be embedded.
func (e *embedder) anchors(ctx context.Context) (map[string][]float64, error) {
	out := map[string][]float64{}
	for i, a := range e.clips.list.Attempts {
		if out[a.Task] != nil || !e.clips.has(i) {
			continue
		}
		rows, err := e.embed(ctx, i, []job{{"still", still}})
		switch {
		case err == nil && !notFinite(float64s(rows[0])):
			out[a.Task] = float64s(rows[0])
		case ctx.Err() != nil || plugins.KindOf(err) == plugins.Canceled:
			return nil, err
		case err != nil:
			if _, _, gone := e.worker.Client(ctx); gone != nil {
				return nil, gone
			}
			e.clips.term.Warn("the first frame of %s cannot be embedded: %v", a.ID, err)
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

func notFinite(v []float64) bool {
	for _, x := range v {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return true
		}
	}
	return false
}

// items are what audit.Measure looks at: the labelled attempts whose embeddings could be used.
func (c *clips) items(v []variants, scores []audit.Score, cut bool) []audit.Item {
	var out []audit.Item
	cuts := c.cuts()
	for i, a := range c.list.Attempts {
		if scores[i].Reason != "" {
			continue
		}
		it := audit.Item{ID: a.ID, Task: a.Task, Success: a.Success, Progress: a.Progress, Frames: c.info[i].Frames, Embedding: v[i].clip, Ends: v[i].ends,
			Windows: v[i].windows, Reversed: v[i].reversed, Stalled: v[i].stalled}
		if cut {
			if len(v[i].cutClip) == 0 || a.Success == nil || notFinite(v[i].cutClip) || c.info[i].Frames < cuts[a.Task] {
				continue
			}
			it.Frames, it.Embedding, it.Ends, it.Windows, it.Reversed, it.Stalled = cuts[a.Task], v[i].cutClip, v[i].cutEnds, v[i].cutWindows, v[i].cutBack, v[i].cutStalled
		}
		out = append(out, it)
	}
	return out
}
