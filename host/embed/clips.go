package embed

import (
	"context"
	"fmt"
	"time"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/plugins"
)

// ClipInfo is what is remembered of a video, so that it need not be decoded again.
type ClipInfo struct {
	// Hash is over the frames.
	Hash   string `json:"hash"`
	Frames int    `json:"frames"`
	Height int    `json:"height"`
	Width  int    `json:"width"`
	Note   string `json:"note,omitempty"`
}

// frameBudget bounds the decoded clips that are kept between two uses, bytes.
const frameBudget = 1 << 30

// Clips decodes the attempts' videos, when somebody needs their frames, and remembers what it saw.
type Clips struct {
	List     *attempts.List
	Decoder  *media.Decoder
	Cache    *Cache
	Terminal *report.Terminal

	Info  []ClipInfo // zero: no frames
	Kept  map[int]plugins.Tensor
	order []int // of kept, the oldest first
	bytes int
	// Source gives attempt i's clip where it is no video file of its own; nil: attempts.Open of its path.
	Source func(ctx context.Context, i int) (media.Clip, error)
	// DecoderError is why videos of some kind cannot be decoded here at all; told once.
	DecoderError error
}

// Scan learns every video's length and content. What is wrong with a video becomes its attempt's Problem.
func (c *Clips) Scan(ctx context.Context) error {
	c.Info, c.Kept = make([]ClipInfo, len(c.List.Attempts)), map[int]plugins.Tensor{}
	todo := 0
	for _, a := range c.List.Attempts {
		if a.Video != "" && a.Problem == "" {
			todo++
		}
	}
	rate := newRate(c.Terminal, "read videos", todo)
	for i := range c.List.Attempts {
		a := &c.List.Attempts[i]
		if a.Video == "" || a.Problem != "" {
			continue
		}
		if err := c.scanOne(ctx, i); err != nil {
			if ctx.Err() != nil || plugins.KindOf(err) == plugins.Canceled {
				return plugins.Errorf(plugins.Canceled, "stopped while videos were read").WithHint("the same command goes on: what was done is kept")
			}
			e := plugins.AsError(err)
			a.Problem = e.Message
			if e.Kind != plugins.Invalid && c.DecoderError == nil {
				c.DecoderError = e
				c.Terminal.Warn("%v", e)
				if e.Hint != "" {
					c.Terminal.Line("  try: %s", e.Hint)
				}
			}
		}
		rate.done()
	}
	return nil
}

func (c *Clips) scanOne(ctx context.Context, i int) error {
	if c.Source != nil {
		clip, err := c.read(ctx, i)
		if err == nil {
			c.keep(i, clip.Frames)
			shape := clip.Frames.Shape
			c.Info[i] = ClipInfo{Hash: HashFrames(clip.Frames), Frames: shape[0], Height: shape[1], Width: shape[2], Note: clip.Note}
		}
		return err
	}
	source, err := HashSource(c.List.Attempts[i].Video)
	if err != nil {
		return plugins.Errorf(plugins.Invalid, "it cannot be read: %w", err)
	}
	key := KeyOf("clip", media.ReaderVersion, source)
	if c.Cache.JSON(key, &c.Info[i]) {
		return nil
	}
	clip, err := media.Open(ctx, c.List.Attempts[i].Video, c.Decoder)
	if err != nil {
		return err
	}
	c.keep(i, clip.Frames)
	shape := clip.Frames.Shape
	c.Info[i] = ClipInfo{Hash: HashFrames(clip.Frames), Frames: shape[0], Height: shape[1], Width: shape[2], Note: clip.Note}
	return c.warn(c.Cache.PutJSON(key, c.Info[i]))
}

// warn tells that something could not be kept, and goes on.
func (c *Clips) warn(err error) error {
	if err != nil {
		c.Terminal.Warn("%v", err)
	}
	return nil
}

// read gives attempt i's clip anew.
func (c *Clips) read(ctx context.Context, i int) (media.Clip, error) {
	if c.Source != nil {
		return c.Source(ctx, i)
	}
	return media.Open(ctx, c.List.Attempts[i].Video, c.Decoder)
}

func (c *Clips) keep(i int, t plugins.Tensor) {
	c.Kept[i] = t
	c.order = append(c.order, i)
	c.bytes += len(t.Data)
	for c.bytes > frameBudget && len(c.order) > 1 {
		old := c.order[0]
		c.order = c.order[1:]
		c.bytes -= len(c.Kept[old].Data)
		delete(c.Kept, old)
	}
}

// Frames of attempt i, uint8 [T, H, W, 3], decoded again where they are not kept.
func (c *Clips) Frames(ctx context.Context, i int) (plugins.Tensor, error) {
	if t, ok := c.Kept[i]; ok {
		return t, nil
	}
	clip, err := c.read(ctx, i)
	if err != nil {
		return plugins.Tensor{}, err
	}
	if HashFrames(clip.Frames) != c.Info[i].Hash { // not to be kept: its vectors would be remembered as those of the old frames
		return plugins.Tensor{}, plugins.Errorf(plugins.Invalid, "it has changed while it was looked at").WithHint("score again when nothing writes to it any more")
	}
	c.keep(i, clip.Frames)
	return clip.Frames, nil
}

// Usable says whether attempt i has frames that can be used.
func (c *Clips) Usable(i int) bool { return c.Info[i].Frames > 0 && c.List.Attempts[i].Problem == "" }

// ShortestByTask are the least numbers of frames by task: what clips are cut to when they are to be equally long. A single frame is no clip: cut to it, all others would
// lose what there is to see.
func (c *Clips) ShortestByTask() map[string]int {
	out := map[string]int{}
	for i, a := range c.List.Attempts {
		if c.Usable(i) && a.Success != nil && c.Info[i].Frames > 1 {
			if n, ok := out[a.Task]; !ok || c.Info[i].Frames < n {
				out[a.Task] = c.Info[i].Frames
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

// Items are what audit.Measure looks at: the labelled attempts whose embeddings could be used.
func (c *Clips) Items(v []Variants, scores []audit.Score, cut bool) []audit.Item {
	var out []audit.Item
	cuts := c.ShortestByTask()
	for i, a := range c.List.Attempts {
		if scores[i].Reason != "" {
			continue
		}
		it := audit.Item{ID: a.ID, Task: a.Task, Success: a.Success, Progress: a.Progress, Frames: c.Info[i].Frames, Embedding: v[i].Clip, Ends: v[i].Ends,
			Windows: v[i].Windows, Reversed: v[i].reversed, Stalled: v[i].stalled}
		if cut {
			if len(v[i].cutClip) == 0 || a.Success == nil || NotFinite(v[i].cutClip) || c.Info[i].Frames < cuts[a.Task] {
				continue
			}
			it.Frames, it.Embedding, it.Ends, it.Windows, it.Reversed, it.Stalled = cuts[a.Task], v[i].cutClip, v[i].cutEnds, v[i].cutWindows, v[i].cutBack, v[i].cutStalled
		}
		out = append(out, it)
	}
	return out
}
