// Package frozen implements the encoders that run an ONNX file. It has their settings, selects the frames
// that go through the network, and turns its outputs into one vector per clip. A network that sees whole
// clips (V-JEPA 2) embeds each clip. A network that sees single frames (DINOv2, EfficientNet) embeds each
// frame once, and the vector of a clip is the mean over its frames.
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

// Network describes the network of one encoder.
type Network struct {
	Name, Version, Doc string
	// Family must equal the family in the card of the model file.
	Family string
	// FrameWise reports that the network sees single frames. A model file that contradicts it is refused.
	FrameWise bool
	// ModelEnv is the environment variable with the path of the model file that the installation of the
	// package made. If it is empty, the setting model is required.
	ModelEnv string
	// Poolings are the choices of the setting pooling. If it is empty, there is no such setting.
	Poolings []string
}

// Encoder implements [encoder.Encoder] and [encoder.Windower]. Its methods may be called concurrently.
type Encoder struct {
	network  Network
	settings []plugins.Setting

	session   *model.Session
	transform *frames.Transform
	batch     int
	frames    int // frame-wise: maximum number of frames per clip; 0: all
}

// fromCard is the value of the setting pooling that selects the default output of the model card.
const fromCard = "card"

// New returns an encoder that is not yet configured.
func New(n Network) *Encoder {
	return &Encoder{network: n, settings: settings(n)}
}

// settings returns the settings that an encoder of this network has.
func settings(n Network) []plugins.Setting {
	model := plugins.Setting{Name: "model", Default: "",
		Doc: "path of the model file (.onnx); srpo encoder export " + n.Name + " makes one from a checkpoint"}
	if n.ModelEnv != "" {
		model.Doc = "path of another model file (.onnx) of the same family; empty: the one that the installation made"
	}
	batch := plugins.Setting{Name: "batch", Default: int64(0), Min: plugins.Bound(0), Max: plugins.Bound(4096),
		Doc: "clips per run of the network; 0: 1 on the CPU, 4 on a GPU"}
	if n.FrameWise {
		batch.Doc = "frames per run of the network; 0: 8 on the CPU, 32 on a GPU"
	}
	all := []plugins.Setting{
		model,
		{Name: "library", Default: "",
			Doc: "path of the libonnxruntime to use, 1.24.1 or newer (for a GPU, the one of the package " +
				"onnxruntime-gpu); empty: the one in the plugin's environment"},
		{Name: "provider", Default: "auto", Choices: []string{"auto", "cpu", "cuda"},
			Doc: "where the network runs: cpu, cuda, or auto (CUDA if it works, otherwise the CPU)"},
		{Name: "threads", Default: int64(0), Min: plugins.Bound(0),
			Doc: "threads of one run on the CPU; 0: one per core"},
		batch,
		{Name: "memory_mb", Default: int64(0), Min: plugins.Bound(0),
			Doc: "maximum memory of the model and the pictures of a batch, in 10^6 bytes: a model that needs more " +
				"is refused before it is loaded, and on a GPU ONNX Runtime allocates no more; 0: the free memory"},
	}
	if len(n.Poolings) > 0 {
		all = append(all, plugins.Setting{Name: "pooling", Default: fromCard,
			Choices: append([]string{fromCard}, n.Poolings...),
			Doc:     "which vector of a frame is averaged over the clip; card: the default of the model file"})
	}
	if n.FrameWise {
		all = append(all, plugins.Setting{Name: "frames", Default: int64(0), Min: plugins.Bound(0),
			Doc: "embed at most this many frames of a clip, evenly spaced, including the first and the last; 0: all"})
	}
	return all
}

// Info implements [plugins.Plugin].
func (e *Encoder) Info(context.Context) (plugins.Info, error) {
	i := plugins.Info{Name: e.network.Name, Kind: plugins.Encoder, Version: e.network.Version, Doc: e.network.Doc,
		Settings: e.settings, Versions: map[string]string{"go": runtime.Version()}}
	if v := model.Version(); v != "" {
		i.Versions["onnxruntime"] = v
	}
	return i, nil
}

// Configure implements [plugins.Plugin]. It loads the network.
func (e *Encoder) Configure(_ context.Context, c plugins.Config) error {
	s, err := plugins.Resolve(e.settings, c.Settings)
	if err != nil {
		return err
	}
	path, err := e.network.modelFile(s.String("model"))
	if err != nil {
		return err
	}
	o := model.Options{
		Model: path, Family: e.network.Family, Library: s.String("library"), Provider: s.String("provider"),
		Threads: s.Int("threads"), Batch: s.Int("batch"), MemoryMB: s.Int("memory_mb"),
	}
	if p := s.String("pooling"); p != fromCard {
		o.Output = p
	}
	session, err := model.Open(o)
	if err != nil {
		return err
	}
	card := session.Card()
	if (card.Input.Layout == "BCHW") != e.network.FrameWise {
		session.Close()
		return plugins.Errorf(plugins.Mismatch, "%s has the input layout %s, which the encoder %s does not support",
			path, card.Input.Layout, e.network.Name).WithHint("export the model file again")
	}
	if e.session != nil {
		e.session.Close()
	}
	e.session, e.transform = session, frames.NewTransform(card.Preprocess)
	e.frames, e.batch = s.Int("frames"), s.Int("batch")
	if e.batch == 0 {
		e.batch = defaultBatch(e.network.FrameWise, session.Provider())
	}
	fmt.Fprintf(os.Stderr, "%s on %s, ONNX Runtime %s\n", card, session.Provider(), model.Version())
	return nil
}

// modelFile returns the path of the model file, given the value of the setting model.
func (n Network) modelFile(setting string) (string, error) {
	if setting != "" {
		return setting, nil
	}
	if n.ModelEnv == "" {
		return "", plugins.Errorf(plugins.Invalid, "the encoder %s has no model: it comes without weights", n.Name).
			WithPlace("setting model").
			WithHint("make a model file from a checkpoint with srpo encoder export %s --model CHECKPOINT, and set it "+
				"with --set encoder.%[1]s.model=FILE.onnx; without a download: --encoder pixel", n.Name)
	}
	path := os.Getenv(n.ModelEnv)
	if path == "" {
		return "", plugins.Errorf(plugins.NotFound,
			"the model of the installation was not found: the plugin was started without its environment").
			WithHint("let srpo start the plugin, or set a model file with the setting model")
	}
	return path, nil
}

// defaultBatch returns the number of clips (frame-wise: frames) per run of the network.
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
	spec := encoder.Spec{Dimension: c.Dimension, Frames: c.Frames, Height: c.Input.Height, Width: c.Input.Width,
		Batch: e.batch, FrameWise: e.network.FrameWise,
		Model: fmt.Sprintf("%s, %s, %s", c.Hash(), e.session.Output(), e.session.Provider())}
	if spec.FrameWise { // Batch counts clips, the batch of a frame-wise network counts frames
		spec.Frames, spec.Batch = e.frames, 0
	}
	return spec, nil
}

// Encode implements [encoder.Encoder]. A clip that is not uint8 [T, H, W, 3] with T, H and W of at least 1
// gets a row of NaN.
func (e *Encoder) Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error) {
	if e.session == nil {
		return nil, plugins.Errorf(plugins.Invalid, "Encode before Configure")
	}
	rows := make([][]float32, len(clips))
	var windows []window
	for i, c := range clips {
		if !usable(c) {
			rows[i] = e.nanRow()
			continue
		}
		windows = append(windows, window{newPictures(e.transform, c, false), c.Shape[0], &rows[i]})
	}
	return rows, e.embed(ctx, windows)
}

// EncodeWindows implements [encoder.Windower]. It returns what Encode returns for clip[:end], for each end.
// A frame-wise network embeds each frame once. A network that sees clips runs once per window, and only the
// preprocessing of frames is shared. An end outside 1 to T is an error of kind Invalid. A clip that cannot
// be embedded gets rows of NaN.
func (e *Encoder) EncodeWindows(ctx context.Context, clip plugins.Tensor, ends []int) ([][]float32, error) {
	if e.session == nil {
		return nil, plugins.Errorf(plugins.Invalid, "EncodeWindows before Configure")
	}
	rows := make([][]float32, len(ends))
	if !usable(clip) {
		for i := range rows {
			rows[i] = e.nanRow()
		}
		return rows, nil
	}
	all := newPictures(e.transform, clip, len(ends) > 1 && !e.network.FrameWise)
	windows := make([]window, len(ends))
	for i, end := range ends {
		if end < 1 || end > clip.Shape[0] {
			return nil, plugins.Errorf(plugins.Invalid,
				"a clip of %d frames has no window that ends at %d", clip.Shape[0], end).
				WithHint("an end is from 1 to the number of frames")
		}
		windows[i] = window{all, end, &rows[i]}
	}
	return rows, e.embed(ctx, windows)
}

// window is the beginning of a clip, and the place for its vector.
type window struct {
	*pictures
	end int        // number of frames
	row *[]float32 // set when the window is embedded
}

// embed sets the row of each window.
func (e *Encoder) embed(ctx context.Context, windows []window) error {
	if e.network.FrameWise {
		return e.embedFrameWise(ctx, windows)
	}
	count := e.session.Card().Frames
	side := e.transform.Side()
	return e.run(ctx, len(windows), func(i int, to []float32) {
		w, size := windows[i], 3*side*side
		selected := frames.Sample(w.end, count)
		parallel(ctx, min(w.end, count), func(j int) {
			e.transform.Normalise(w.picture(selected[j]), to[j*size:(j+1)*size])
		})
		for j := w.end; j < count; j++ { // a shorter clip is repeated
			copy(to[j*size:(j+1)*size], to[(j-w.end)*size:])
		}
	}, func(i int, vector []float32) { *windows[i].row = slices.Clone(vector) })
}

// frame is one frame of a clip.
type frame struct {
	*pictures
	t int
}

// embedFrameWise sets the row of each window to the mean over its frames. Windows of the same clip must be consecutive.
// They share the vectors of its frames.
func (e *Encoder) embedFrameWise(ctx context.Context, windows []window) error {
	items := e.neededFrames(windows)
	vectors := map[int][]float32{} // of the current clip, by frame
	done := 0                      // windows that have their row
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

// neededFrames returns the frames that the windows select, each frame once, in the order of clips and time.
func (e *Encoder) neededFrames(windows []window) []frame {
	var items []frame
	for from := 0; from < len(windows); {
		clip, to := windows[from].pictures, from
		needed := map[int]bool{}
		for ; to < len(windows) && windows[to].pictures == clip; to++ {
			for _, t := range e.selected(windows[to].end) {
				needed[t] = true
			}
		}
		for t := range clip.length {
			if needed[t] {
				items = append(items, frame{clip, t})
			}
		}
		from = to
	}
	return items
}

// means sets the row of each window of one clip to the mean over its frames. Sums are float64 and run over
// the frames in order, so the mean of a window does not depend on the other windows. If all frames are
// used, the sum of a window continues the sum of the next shorter window.
func (e *Encoder) means(windows []window, vectors map[int][]float32) {
	order := make([]int, len(windows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return windows[a].end - windows[b].end })
	sum := make([]float64, e.session.Card().Dimension)
	next := 0
	for _, i := range order {
		selected := e.selected(windows[i].end)
		if e.frames > 0 {
			clear(sum)
			next = 0
		}
		for ; next < len(selected); next++ {
			for k, x := range vectors[selected[next]] {
				sum[k] += float64(x)
			}
		}
		row := make([]float32, len(sum))
		for k, x := range sum {
			row[k] = float32(x / float64(len(selected)))
		}
		*windows[i].row = row
	}
}

// selected returns the frames of clip[:end] to embed, in order.
func (e *Encoder) selected(end int) []int {
	if n := e.frames; n > 0 && n < end {
		return frames.Sample(end, n)
	}
	all := make([]int, end)
	for t := range all {
		all[t] = t
	}
	return all
}

// batch is the input of one run of the network.
type batch struct {
	first, count int // items first to first+count-1
	data         []float32
}

// run embeds n items batch by batch, and prepares the next batch while the network runs. fill writes the input of an
// item. collect receives the vector of each item in order; the vector is valid during the call.
//
// The last batch is padded to full size: ONNX Runtime divides matrices by their size, so the last bits of a vector
// depend on the size of the batch, but not on the values of the other items or on the item's position.
func (e *Encoder) run(ctx context.Context, n int, fill func(i int, to []float32),
	collect func(i int, vector []float32)) error {
	dimension := e.session.Card().Dimension
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	buffers, ready := make(chan []float32, 2), make(chan batch)
	for range cap(buffers) {
		buffers <- nil // allocated when it is used
	}
	var wait sync.WaitGroup
	defer wait.Wait() // fill reads the clips of the caller, so it must not run after the return
	defer cancel(nil)
	wait.Go(func() {
		defer close(ready)
		e.prepare(ctx, n, fill, buffers, ready)
	})
	for b := range ready {
		out, err := e.session.Run(ctx, b.data, e.batch)
		if err != nil {
			return err
		}
		for i := range b.count {
			collect(b.first+i, out[i*dimension:(i+1)*dimension])
		}
		encoder.ReportProgress(ctx)
		buffers <- b.data
	}
	if ctx.Err() != nil {
		return model.Stopped(ctx)
	}
	return nil
}

// prepare fills batches of items in buffers and sends them to ready, until all n items are sent or ctx ends.
func (e *Encoder) prepare(ctx context.Context, n int, fill func(i int, to []float32), buffers <-chan []float32,
	ready chan<- batch) {
	size := e.session.Card().Elements()
	for first := 0; first < n; first += e.batch {
		b := batch{first: first, count: min(e.batch, n-first)}
		select {
		case b.data = <-buffers:
		case <-ctx.Done():
			return
		}
		if b.data == nil {
			b.data = make([]float32, e.batch*size)
		}
		if !parallel(ctx, b.count, func(i int) { fill(first+i, b.data[i*size:(i+1)*size]) }) {
			return
		}
		select {
		case ready <- b:
		case <-ctx.Done():
			return
		}
	}
}

// parallel calls f for 0 to n-1 on all cores. It returns false if ctx ended.
func parallel(ctx context.Context, n int, f func(i int)) bool {
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

// usable reports whether clip is uint8 [T, H, W, 3] with T, H and W of at least 1.
func usable(clip plugins.Tensor) bool {
	return clip.Check("clip", plugins.Uint8, -1, -1, -1, 3) == nil &&
		clip.Shape[0] > 0 && clip.Shape[1] > 0 && clip.Shape[2] > 0
}

// nanRow returns the row of a clip that cannot be embedded.
func (e *Encoder) nanRow() []float32 {
	row := make([]float32, e.session.Card().Dimension)
	for i := range row {
		row[i] = float32(math.NaN())
	}
	return row
}

// maxCacheBytes bounds the resized frames of a clip that are cached between windows.
const maxCacheBytes = 256 << 20

// pictures are the frames of a clip, resized and cropped on demand.
type pictures struct {
	transform             *frames.Transform
	clip                  []byte
	length, height, width int

	mu    sync.Mutex
	cache map[int][]byte // by frame; nil: no cache
}

// newPictures returns the pictures of a clip. reuse reports that frames are needed more than once.
func newPictures(t *frames.Transform, clip plugins.Tensor, reuse bool) *pictures {
	p := &pictures{transform: t, clip: clip.Data, length: clip.Shape[0], height: clip.Shape[1], width: clip.Shape[2]}
	if reuse && p.length*t.Side()*t.Side()*3 <= maxCacheBytes {
		p.cache = map[int][]byte{}
	}
	return p
}

// picture returns frame t as uint8 [Side, Side, 3].
func (p *pictures) picture(t int) []byte {
	p.mu.Lock()
	out, ok := p.cache[t]
	p.mu.Unlock()
	if ok {
		return out
	}
	size := p.height * p.width * 3
	out = p.transform.Resize(p.clip[t*size:(t+1)*size], p.height, p.width)
	if p.cache != nil {
		p.mu.Lock()
		p.cache[t] = out
		p.mu.Unlock()
	}
	return out
}
