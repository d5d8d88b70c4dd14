// Package frozen is what the encoders that run an ONNX file share: settings, which frames go through the network, and how its outputs become one vector a
// clip. A network that sees whole clips (V-JEPA 2) embeds each; one that sees frames (DINOv2, EfficientNet) embeds each frame once, and a clip's vector is
// the mean over its frames.
package frozen

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/srpo-dev/srpo/encoders/internal/frames"
	"github.com/srpo-dev/srpo/encoders/internal/model"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// Network is what one encoder is.
type Network struct {
	Name, Version, Doc string
	// Family is what a model file's card must say.
	Family string
	// FrameWise says that the network sees single frames; a model file that contradicts it is refused.
	FrameWise bool
	// Made is the variable with the path of the model file that the package made when it was installed; empty: the setting model must be given.
	Made string
	// Poolings are the outputs that can be chosen from by the setting pooling; empty: there is no choice.
	Poolings []string
}

// Encoder implements [encoder.Encoder] and [encoder.Windower]. Its methods may be called at the same time.
type Encoder struct {
	network  Network
	settings []plugins.Setting

	session   *model.Session
	transform *frames.Transform
	batch     int
	frames    int // frame-wise: at most so many of a clip; 0: all
}

// fromCard is the pooling that the model card names.
const fromCard = "card"

// New makes an encoder that is not configured.
func New(n Network) *Encoder {
	e := &Encoder{network: n}
	add := func(name string, value any, doc string) *plugins.Setting {
		e.settings = append(e.settings, plugins.Setting{Name: name, Default: value, Doc: doc})
		return &e.settings[len(e.settings)-1]
	}
	doc := "path of the model file (.onnx); srpo encoder export " + n.Name + " makes it from a checkpoint"
	if n.Made != "" {
		doc = "path of another model file (.onnx) of the same family; empty: the one that the installation made"
	}
	add("model", "", doc)
	add("library", "", "path of the libonnxruntime to use, 1.24.1 or newer (for a GPU that of the package onnxruntime-gpu); empty: the one in the plugin's environment")
	add("provider", "auto", "where the network runs: cpu, cuda, or auto: CUDA where it works, else the CPU").Choices = []string{"auto", "cpu", "cuda"}
	add("threads", int64(0), "threads of one run on the CPU; 0: one a core").Min = plugins.Bound(0)
	s := add("batch", int64(0), "clips a run of the network; 0: 1 on the CPU, 4 on a GPU")
	if n.FrameWise {
		s.Doc = "frames a run of the network; 0: 8 on the CPU, 32 on a GPU"
	}
	s.Min, s.Max = plugins.Bound(0), plugins.Bound(4096)
	add("memory_mb", int64(0), "most memory that the model and the pictures of a batch may take, 10^6 bytes: what would take more is refused before it is loaded, and on a GPU ONNX Runtime takes no more; "+
		"0: what is free").Min = plugins.Bound(0)
	if len(n.Poolings) > 0 {
		add("pooling", fromCard, "which vector of a frame is averaged over the clip; card: the one that the model file names").Choices = append([]string{fromCard}, n.Poolings...)
	}
	if n.FrameWise {
		add("frames", int64(0), "embed at most this many frames of a clip, evenly spaced, first and last included; 0: all").Min = plugins.Bound(0)
	}
	return e
}

// Info implements [plugins.Plugin].
func (e *Encoder) Info(context.Context) (plugins.Info, error) {
	i := plugins.Info{Name: e.network.Name, Kind: plugins.Encoder, Version: e.network.Version, Doc: e.network.Doc, Settings: e.settings,
		Versions: map[string]string{"go": runtime.Version()}}
	if v := model.Version(); v != "" {
		i.Versions["onnxruntime"] = v
	}
	return i, nil
}

// Configure implements [plugins.Plugin]: it loads the network.
func (e *Encoder) Configure(_ context.Context, c plugins.Config) error {
	s, err := plugins.Resolve(e.settings, c.Settings)
	if err != nil {
		return err
	}
	n := e.network
	path := s.String("model")
	if path == "" && n.Made != "" {
		if path = os.Getenv(n.Made); path == "" {
			return plugins.Errorf(plugins.NotFound, "the model that the installation makes is not there: the plugin was started without its environment").
				WithHint("start it by srpo, or give a model file in the setting model")
		}
	}
	if path == "" {
		return plugins.Errorf(plugins.Invalid, "the encoder %s has no model: it comes without weights", n.Name).WithPlace("setting model").
			WithHint("make a model file from a checkpoint, srpo encoder export %s --model CHECKPOINT, and give it: --set encoder.%[1]s.model=FILE.onnx; without a download: --encoder pixel", n.Name)
	}
	o := model.Options{Model: path, Family: n.Family, Library: s.String("library"), Provider: s.String("provider"), Threads: s.Int("threads"), Batch: s.Int("batch"), MemoryMB: s.Int("memory_mb")}
	if p := s.String("pooling"); p != fromCard {
		o.Output = p
	}
	session, err := model.Open(o)
	if err != nil {
		return err
	}
	card := session.Card()
	if (card.Input.Layout == "BCHW") != n.FrameWise {
		session.Close()
		return plugins.Errorf(plugins.Mismatch, "%s takes %s, which the encoder %s does not", path, card.Input.Layout, n.Name).WithHint("make the model file anew")
	}
	if e.session != nil {
		e.session.Close()
	}
	e.session, e.transform, e.frames, e.batch = session, frames.NewTransform(card.Preprocess), s.Int("frames"), s.Int("batch")
	if e.batch == 0 {
		e.batch = defaultBatch(n.FrameWise, session.Provider())
	}
	fmt.Fprintf(os.Stderr, "%s on %s, ONNX Runtime %s\n", card, session.Provider(), model.Version())
	return nil
}

func defaultBatch(frameWise bool, provider string) int {
	switch {
	case provider == "cpu" && frameWise:
		return 8
	case provider == "cpu":
		return 1
	case frameWise:
		return 32
	}
	return 4
}

// Describe implements [encoder.Encoder].
func (e *Encoder) Describe(context.Context) (encoder.Spec, error) {
	if e.session == nil {
		return encoder.Spec{}, plugins.Errorf(plugins.Invalid, "Describe before Configure")
	}
	c := e.session.Card()
	spec := encoder.Spec{Dimension: c.Dimension, Frames: c.Frames, Height: c.Input.Height, Width: c.Input.Width, Batch: e.batch, FrameWise: e.network.FrameWise,
		Model: fmt.Sprintf("%s, %s, %s", c.Hash(), e.session.Output(), e.session.Provider())}
	if spec.FrameWise { // the host counts in clips, which are many frames
		spec.Frames, spec.Batch = e.frames, 0
	}
	return spec, nil
}

// Encode implements [encoder.Encoder]. A clip that is not uint8 [T, H, W, 3] with T, H and W of 1 or more gets NaN throughout.
func (e *Encoder) Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error) {
	if e.session == nil {
		return nil, plugins.Errorf(plugins.Invalid, "Encode before Configure")
	}
	rows := make([][]float32, len(clips))
	var windows []window
	for i, c := range clips {
		if !usable(c) {
			rows[i] = e.unusable()
			continue
		}
		windows = append(windows, window{newPictures(e.transform, c, false), c.Shape[0], &rows[i]})
	}
	return rows, e.embed(ctx, windows)
}

// EncodeWindows implements [encoder.Windower]: what Encode returns for clip[:end], for each end. A frame-wise network sees each frame once; one that sees
// clips runs once a window, and only the preparation of frames is shared. An end outside 1 to T is Invalid; a clip that cannot be embedded gives rows of NaN.
func (e *Encoder) EncodeWindows(ctx context.Context, clip plugins.Tensor, ends []int) ([][]float32, error) {
	if e.session == nil {
		return nil, plugins.Errorf(plugins.Invalid, "EncodeWindows before Configure")
	}
	rows := make([][]float32, len(ends))
	if !usable(clip) {
		for i := range rows {
			rows[i] = e.unusable()
		}
		return rows, nil
	}
	all := newPictures(e.transform, clip, len(ends) > 1 && !e.network.FrameWise)
	windows := make([]window, len(ends))
	for i, end := range ends {
		if end < 1 || end > clip.Shape[0] {
			return nil, plugins.Errorf(plugins.Invalid, "a clip of %d frames has no window that ends at %d", clip.Shape[0], end).WithHint("ends are 1 to the number of frames")
		}
		windows[i] = window{all, end, &rows[i]}
	}
	return rows, e.embed(ctx, windows)
}

// window is the first frames of a clip, and where its vector goes.
type window struct {
	*pictures
	end int
	row *[]float32
}

func (e *Encoder) embed(ctx context.Context, windows []window) error {
	if e.network.FrameWise {
		return e.frameWise(ctx, windows)
	}
	count := e.session.Card().Frames
	side := e.transform.Side()
	return e.run(ctx, len(windows), func(i int, to []float32) {
		w, size := windows[i], 3*side*side
		chosen := frames.Sample(w.end, count)
		together(ctx, min(w.end, count), func(j int) { e.transform.Normalise(w.picture(chosen[j]), to[j*size:(j+1)*size]) })
		for j := w.end; j < count; j++ { // a clip that is shorter begins again
			copy(to[j*size:(j+1)*size], to[(j-w.end)*size:])
		}
	}, func(i int, vector []float32) { *windows[i].row = slices.Clone(vector) })
}

// frameWise embeds windows as means over frames. Windows of one clip share its frames; sums run over the frames in order, in float64, so that a
// window's mean is the same number whichever windows are asked for.
func (e *Encoder) frameWise(ctx context.Context, windows []window) error {
	type item struct {
		*pictures
		t int
	}
	var items []item
	for from := 0; from < len(windows); {
		to := from + 1
		for to < len(windows) && windows[to].pictures == windows[from].pictures {
			to++
		}
		wanted := map[int]bool{}
		for _, w := range windows[from:to] {
			for _, t := range e.chosen(w.end) {
				wanted[t] = true
			}
		}
		for t := range windows[from].length {
			if wanted[t] {
				items = append(items, item{windows[from].pictures, t})
			}
		}
		from = to
	}
	// As soon as the last frame of a clip is embedded its windows are summed, and its vectors are forgotten.
	vectors := map[int][]float32{}
	done := 0
	return e.run(ctx, len(items), func(i int, to []float32) {
		e.transform.Normalise(items[i].picture(items[i].t), to)
	}, func(i int, vector []float32) {
		clip := items[i].pictures
		vectors[items[i].t] = slices.Clone(vector)
		if i+1 < len(items) && items[i+1].pictures == clip {
			return
		}
		from := done
		for done < len(windows) && windows[done].pictures == clip {
			done++
		}
		e.means(windows[from:done], vectors)
		clear(vectors)
	})
}

// means gives each window of one clip the mean over its frames. With all frames, a window's sum continues that of the next shorter one.
func (e *Encoder) means(windows []window, vectors map[int][]float32) {
	order := make([]int, len(windows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return windows[a].end - windows[b].end })
	sum := make([]float64, e.session.Card().Dimension)
	next := 0
	for _, i := range order {
		chosen := e.chosen(windows[i].end)
		if e.frames > 0 {
			clear(sum)
			next = 0
		}
		for ; next < len(chosen); next++ {
			for k, x := range vectors[chosen[next]] {
				sum[k] += float64(x)
			}
		}
		row := make([]float32, len(sum))
		for k, x := range sum {
			row[k] = float32(x / float64(len(chosen)))
		}
		*windows[i].row = row
	}
}

// chosen are the frames of clip[:end] that count, in order.
func (e *Encoder) chosen(end int) []int {
	if n := e.frames; n > 0 && n < end {
		return frames.Sample(end, n)
	}
	all := make([]int, end)
	for t := range all {
		all[t] = t
	}
	return all
}

// run puts n items through the network, batch by batch, and prepares the next batch meanwhile. fill writes an item's numbers, got takes its vector (valid
// during the call), in order. The last batch is as long as the others, whatever stands in its rest: ONNX Runtime cuts matrices by their size, so an item's
// last bits depend on how many there are beside it, but not on what they are or where it stands among them.
func (e *Encoder) run(ctx context.Context, n int, fill func(i int, to []float32), got func(i int, vector []float32)) error {
	size, dimension := e.session.Card().Elements(), e.session.Card().Dimension
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type filled struct {
		from, n int
		data    []float32
	}
	free, ready := make(chan []float32, 2), make(chan filled)
	for range 2 {
		free <- nil
	}
	var wait sync.WaitGroup
	defer wait.Wait() // nobody looks at the caller's clips when it has returned
	defer cancel(nil)
	wait.Go(func() {
		defer close(ready)
		for from := 0; from < n; from += e.batch {
			count := min(e.batch, n-from)
			var data []float32
			select {
			case data = <-free:
			case <-ctx.Done():
				return
			}
			if data == nil {
				data = make([]float32, e.batch*size)
			}
			if !together(ctx, count, func(i int) { fill(from+i, data[i*size:(i+1)*size]) }) {
				return
			}
			select {
			case ready <- filled{from, count, data}:
			case <-ctx.Done():
				return
			}
		}
	})
	for b := range ready {
		out, err := e.session.Run(ctx, b.data, e.batch)
		if err != nil {
			return err
		}
		for i := range b.n {
			got(b.from+i, out[i*dimension:(i+1)*dimension])
		}
		encoder.ReportProgress(ctx)
		free <- b.data
	}
	if ctx.Err() != nil {
		return model.Stopped(ctx)
	}
	return nil
}

// together calls f for 0 to n-1 on all cores; false: ctx ended first.
func together(ctx context.Context, n int, f func(i int)) bool {
	var next atomic.Int64
	var wait sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wait.Wait()
	return ctx.Err() == nil
}

func usable(clip plugins.Tensor) bool {
	return clip.Check("clip", plugins.Uint8, -1, -1, -1, 3) == nil && clip.Shape[0] > 0 && clip.Shape[1] > 0 && clip.Shape[2] > 0
}

func (e *Encoder) unusable() []float32 {
	row := make([]float32, e.session.Card().Dimension)
	for i := range row {
		row[i] = float32(math.NaN())
	}
	return row
}

// keptBytes bounds the resized frames of a clip that are kept between windows.
const keptBytes = 256 << 20

// pictures are a clip's frames, resized and cropped when they are asked for.
type pictures struct {
	transform             *frames.Transform
	clip                  []byte
	length, height, width int

	mu   sync.Mutex
	kept map[int][]byte // nil: not kept
}

// newPictures takes a clip; again says that its frames are looked at more than once.
func newPictures(t *frames.Transform, clip plugins.Tensor, again bool) *pictures {
	p := &pictures{transform: t, clip: clip.Data, length: clip.Shape[0], height: clip.Shape[1], width: clip.Shape[2]}
	if again && p.length*t.Side()*t.Side()*3 <= keptBytes {
		p.kept = map[int][]byte{}
	}
	return p
}

// picture is frame t, uint8 [Side, Side, 3].
func (p *pictures) picture(t int) []byte {
	p.mu.Lock()
	out, ok := p.kept[t]
	p.mu.Unlock()
	if ok {
		return out
	}
	size := p.height * p.width * 3
	out = p.transform.Resize(p.clip[t*size:(t+1)*size], p.height, p.width)
	if p.kept != nil {
		p.mu.Lock()
		p.kept[t] = out
		p.mu.Unlock()
	}
	return out
}
