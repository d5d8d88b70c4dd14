package embed

import (
	"context"
	"fmt"
	"time"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/plugins"
)

// ClipInfo describes a decoded video. It is cached, so that the video need not be decoded again.
type ClipInfo struct {
	// Hash is the hash of the frames.
	Hash   string `json:"hash"`
	Frames int    `json:"frames"`
	Height int    `json:"height"`
	Width  int    `json:"width"`
	Note   string `json:"note,omitempty"`
}

func infoOf(c media.Clip) ClipInfo {
	shape := c.Frames.Shape
	return ClipInfo{Hash: HashFrames(c.Frames), Frames: shape[0], Height: shape[1], Width: shape[2], Note: c.Note}
}

// frameBudget bounds the decoded clips that are kept in memory, in bytes.
const frameBudget = 1 << 30

// Clips decodes the videos of attempts when their frames are needed, and keeps some of them in memory.
type Clips struct {
	List     *attempts.List
	Decoder  *media.Decoder
	Cache    *Cache
	Terminal *report.Terminal
	// Source returns the clip of attempt i when it is not a video file; nil: [media.Open] reads the attempt's path.
	Source func(ctx context.Context, i int) (media.Clip, error)

	// Info describes the clip of each attempt after Scan. An attempt without frames has the zero value.
	Info []ClipInfo
	// DecoderError is why videos that need the decoder cannot be decoded at all.
	DecoderError error

	kept  map[int]plugins.Tensor
	order []int // the keys of kept, the oldest first
	bytes int   // of kept
}

// Scan finds out the length and the content of every video. What is wrong with a video becomes its attempt's Problem.
func (c *Clips) Scan(ctx context.Context) error {
	c.Info, c.kept = make([]ClipInfo, len(c.List.Attempts)), map[int]plugins.Tensor{}
	total := 0
	for _, a := range c.List.Attempts {
		if a.Video != "" && a.Problem == "" {
			total++
		}
	}
	progress := newProgress(c.Terminal, "read videos", total)
	for i := range c.List.Attempts {
		a := &c.List.Attempts[i]
		if a.Video == "" || a.Problem != "" {
			continue
		}
		if err := c.scanOne(ctx, i); err != nil {
			if ctx.Err() != nil || plugins.KindOf(err) == plugins.Canceled {
				return plugins.Errorf(plugins.Canceled, "stopped while videos were read").
					WithHint("the same command continues where it stopped")
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
		progress.done()
	}
	return nil
}

// Scanned reports whether Scan was called: without it, the embeddings were given and there are no videos.
func (c *Clips) Scanned() bool { return c.kept != nil }

func (c *Clips) scanOne(ctx context.Context, i int) error {
	var key Key
	if c.Source == nil {
		source, err := HashSource(c.List.Attempts[i].Video)
		if err != nil {
			return plugins.Errorf(plugins.Invalid, "it cannot be read: %w", err)
		}
		key = KeyOf("clip", media.ReaderVersion, source)
		if c.Cache.JSON(key, &c.Info[i]) {
			return nil
		}
	}
	clip, err := c.read(ctx, i)
	if err != nil {
		return err
	}
	c.keep(i, clip.Frames)
	c.Info[i] = infoOf(clip)
	if c.Source == nil {
		c.warn(c.Cache.PutJSON(key, c.Info[i]))
	}
	return nil
}

// warn shows the error of an entry that could not be cached. Nothing else depends on it.
func (c *Clips) warn(err error) {
	if err != nil {
		c.Terminal.Warn("%v", err)
	}
}

func (c *Clips) read(ctx context.Context, i int) (media.Clip, error) {
	if c.Source != nil {
		return c.Source(ctx, i)
	}
	return media.Open(ctx, c.List.Attempts[i].Video, c.Decoder)
}

func (c *Clips) keep(i int, t plugins.Tensor) {
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

// Frames returns the frames of attempt i, uint8 [T, H, W, 3]. It decodes the video again unless they are in memory.
func (c *Clips) Frames(ctx context.Context, i int) (plugins.Tensor, error) {
	if t, ok := c.kept[i]; ok {
		return t, nil
	}
	clip, err := c.read(ctx, i)
	if err != nil {
		return plugins.Tensor{}, err
	}
	// Embeddings of the new frames must not be cached under the hash of the old ones.
	if HashFrames(clip.Frames) != c.Info[i].Hash {
		return plugins.Tensor{}, plugins.Errorf(plugins.Invalid, "the video changed while it was in use").
			WithHint("score again when no other program writes to it")
	}
	c.keep(i, clip.Frames)
	return clip.Frames, nil
}

// Usable reports whether attempt i has frames.
func (c *Clips) Usable(i int) bool { return c.Info[i].Frames > 0 && c.List.Attempts[i].Problem == "" }

// ShortestByTask returns the number of frames of the shortest labelled clip of each task, to which clips are cut when
// they must be equally long. Clips of a single frame do not count: the others would lose everything that happens.
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

// Items returns what [audit.Measure] measures: the attempts whose embeddings could be scored. With cut, the clips are
// those of equal length, and attempts without one are left out.
func (c *Clips) Items(vectors []Vectors, scores []audit.Score, cut bool) []audit.Item {
	var out []audit.Item
	shortest := c.ShortestByTask()
	for i, a := range c.List.Attempts {
		if scores[i].Reason != "" {
			continue
		}
		v, frames := vectors[i].Whole, c.Info[i].Frames
		if cut {
			v = vectors[i].Cut
			if a.Success == nil || srpo.CheckEmbedding(v.Clip, len(v.Clip)) != "" || frames < shortest[a.Task] {
				continue
			}
			frames = shortest[a.Task]
		}
		out = append(out, audit.Item{ID: a.ID, Task: a.Task, Success: a.Success, Progress: a.Progress, Frames: frames,
			Embedding: v.Clip, Ends: v.Ends, Windows: v.Windows, Reversed: v.Reversed, Stalled: v.Stalled})
	}
	return out
}

// progress shows how much of a job is done, its speed and the time left.
type progress struct {
	term     *report.Terminal
	what     string
	n, total int
	began    time.Time
}

func newProgress(term *report.Terminal, what string, total int) *progress {
	p := &progress{term: term, what: what, total: total, began: time.Now()}
	p.show()
	return p
}

func (p *progress) done() { p.n++; p.show() }

func (p *progress) show() {
	phase := p.what
	if s := time.Since(p.began).Seconds(); p.n > 0 && s > 0.5 {
		speed := float64(p.n) / s
		left := time.Duration(float64(p.total-p.n) / speed * float64(time.Second)).Round(time.Second)
		phase = fmt.Sprintf("%s, %.3g/s, %s left,", p.what, speed, left)
	}
	p.term.Update(report.Status{Phase: phase, Done: p.n, Total: p.total})
}
