//go:build cgo

package model

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/srpo-dev/srpo/plugins"
)

// Session is a loaded network. Its methods may be called at the same time; runs wait for each other, so that memory
// is that of one.
type Session struct {
	card     Card
	provider string
	output   string
	half     bool // the output's type
	session  *ort.DynamicAdvancedSession
	turn     chan struct{} // holds a token while nobody runs
}

// Open checks a model file and loads it. Errors: NotFound (no file, no library), Corrupt (cut short, not ONNX, a card
// that contradicts itself), Mismatch (another family, no card, a library that is too old), Exhausted (not enough
// memory), Unsupported (CUDA was asked for and does not work).
func Open(o Options) (*Session, error) {
	file, err := Inspect(o.Model)
	if err != nil {
		return nil, err
	}
	card, err := readCard(file, o.Family)
	if err != nil {
		return nil, err
	}
	s := &Session{card: card, output: o.Output, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	if s.output == "" {
		s.output = card.Default
	}
	name, ok := card.Outputs[s.output]
	if !ok {
		return nil, plugins.Errorf(plugins.Invalid,
			"%s has no output %q but %v", o.Model, s.output, card.OutputNames()).WithHint("choose one of them")
	}
	s.half = file.Types[name] == typeHalf
	path, err := FindLibrary(o.Library)
	if err != nil {
		return nil, err
	}
	if err := Load(path); err != nil {
		return nil, err
	}
	providers := []string{o.Provider}
	if o.Provider == "auto" {
		if providers = []string{"cuda", "cpu"}; !hasCUDA(path) { // nothing to try, and nothing to say
			providers = []string{"cpu"}
		}
	}
	if err := enoughMemory(
		file, o.MemoryMB, slices.Equal(providers, []string{"cpu"}), o.Batch, card.Elements(),
	); err != nil {
		return nil, err
	}
	for _, s.provider = range providers {
		if s.session, err = load(o, path, card.Input.Name, name, s.provider); err == nil {
			return s, nil
		}
		if s.provider != providers[len(providers)-1] {
			fmt.Fprintf(os.Stderr, "CUDA cannot be used, so the CPU is: %v\n", err)
		}
	}
	return nil, err
}

func load(o Options, path, input, output, provider string) (*ort.DynamicAdvancedSession, error) {
	internal := func(err error) error {
		return plugins.Errorf(plugins.Internal, "ONNX Runtime: %w", err).WithHint("report it with the plugin's log")
	}
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, internal(err)
	}
	defer options.Destroy()
	for _, set := range []func() error{
		func() error { return options.SetIntraOpNumThreads(o.Threads) },
		func() error { return options.SetInterOpNumThreads(1) },
		func() error { return options.SetGraphOptimizationLevel(ort.GraphOptimizationLevelEnableAll) },
		// Threads that wait do not spin: the simulators need the cores.
		func() error { return options.AddSessionConfigEntry("session.intra_op.allow_spinning", "0") },
	} {
		if err := set(); err != nil {
			return nil, internal(err)
		}
	}
	if provider == "cuda" {
		var missing []string
		if hasCUDA(path) {
			_, missing = preloadCUDA(path)
		}
		if err := appendCUDA(options, o.MemoryMB); err != nil {
			return nil, plugins.Errorf(plugins.Unsupported, "CUDA does not work here: %w", err).
				WithDetail(strings.Join(missing, "\n")).
				WithHint("set provider = \"cpu\", or give the libonnxruntime.so of the package onnxruntime-gpu in " +
					"the setting library, with CUDA's and cuDNN's libraries on LD_LIBRARY_PATH")
		}
	}
	session, err := ort.NewDynamicAdvancedSession(o.Model, []string{input}, []string{output}, options)
	if err == nil {
		return session, nil
	}
	if outOfMemory(err) {
		return nil, plugins.Errorf(plugins.Exhausted, "there is not enough memory to load %s: %w", o.Model, err).
			WithHint("use a smaller model or a machine with more memory")
	}
	if provider == "cuda" && strings.Contains(err.Error(), "CUDA") {
		return nil, plugins.Errorf(plugins.Unsupported, "CUDA does not work here: %w", err).
			WithHint("set provider = \"cpu\"")
	}
	return nil, plugins.Errorf(plugins.Corrupt, "%s cannot be loaded: %w", o.Model, err).
		WithHint("%s", remedy(o.Family))
}

// hasCUDA says whether a libonnxruntime comes with the part that runs on CUDA.
func hasCUDA(library string) bool {
	_, err := os.Stat(filepath.Join(filepath.Dir(library), "libonnxruntime_providers_cuda.so"))
	return err == nil
}

func appendCUDA(options *ort.SessionOptions, memoryMB int) error {
	c, err := ort.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer c.Destroy()
	values := map[string]string{"device_id": "0"}
	if memoryMB > 0 {
		values["gpu_mem_limit"] = fmt.Sprint(memoryMB * 1_000_000)
	}
	if err := c.Update(values); err != nil {
		return err
	}
	return options.AppendExecutionProviderCUDA(c)
}

func outOfMemory(err error) bool {
	m := strings.ToLower(err.Error())
	return strings.Contains(m,
		"failed to allocate") || strings.Contains(m, "bad_alloc") || strings.Contains(m, "out of memory")
}

// Card is what the model file says of itself.
func (s *Session) Card() Card { return s.card }

// Output is which of the card's outputs the session gives.
func (s *Session) Output() string { return s.output }

// Provider is "cpu" or "cuda".
func (s *Session) Provider() string { return s.provider }

// Run embeds n clips or frames, x being [n, Card.Elements] normalised numbers in the card's layout, and returns [n,
// Dimension]. It waits for its turn, and ends soon after ctx does: Canceled or Deadline. Exhausted: not enough memory
// for so many at once.
func (s *Session) Run(ctx context.Context, x []float32, n int) ([]float32, error) {
	if n < 1 || len(x) != n*s.card.Elements() {
		return nil, plugins.Errorf(plugins.Internal, "%d numbers for %d inputs of %d", len(x), n, s.card.Elements())
	}
	if ctx.Err() != nil {
		return nil, Stopped(ctx)
	}
	select {
	case <-ctx.Done():
		return nil, Stopped(ctx)
	case <-s.turn:
	}
	defer func() { s.turn <- struct{}{} }()
	if s.session == nil {
		return nil, plugins.Errorf(plugins.Internal, "the session is closed")
	}
	input, err := s.tensor(x, n)
	if err != nil {
		return nil, plugins.Errorf(plugins.Internal, "ONNX Runtime: %w", err)
	}
	defer input.Destroy()
	options, err := ort.NewRunOptions()
	if err != nil {
		return nil, plugins.Errorf(plugins.Internal, "ONNX Runtime: %w", err)
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = options.Terminate()
	})
	outputs := []ort.Value{nil} // to be made by ONNX Runtime
	if s.half {                 // which the Go side cannot take over in this type
		shape := ort.NewShape(int64(n), int64(s.card.Dimension))
		if outputs[0], err = ort.NewCustomDataTensor(
			shape, make([]byte, 2*n*s.card.Dimension), ort.TensorElementDataTypeFloat16,
		); err != nil {
			return nil, plugins.Errorf(plugins.Internal, "ONNX Runtime: %w", err)
		}
	}
	err = s.session.RunWithOptions([]ort.Value{input}, outputs, options)
	if !stop() {
		<-ended
	}
	_ = options.Destroy()
	if outputs[0] != nil && (s.half || err == nil) {
		defer outputs[0].Destroy()
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, Stopped(ctx)
	case err != nil && outOfMemory(err):
		return nil, plugins.Errorf(plugins.Exhausted, "there is not enough memory for %d at once: %w", n, err).
			WithHint("lower the setting batch, or use a smaller model")
	case err != nil:
		return nil, plugins.Errorf(plugins.Internal, "ONNX Runtime: %w", err).
			WithHint("make the model file anew; if that does not help, report it")
	}
	return s.numbers(outputs[0], n)
}

// tensor copies x to a tensor of the model's input type.
func (s *Session) tensor(x []float32, n int) (ort.Value, error) {
	in := s.card.Input
	shape := ort.NewShape(int64(n), 3, int64(in.Height), int64(in.Width))
	if in.Layout == "BTCHW" {
		shape = ort.NewShape(int64(n), int64(s.card.Frames), 3, int64(in.Height), int64(in.Width))
	}
	if in.DType == "float32" {
		return ort.NewTensor(shape, x)
	}
	half := make([]byte, 2*len(x))
	for i, v := range x {
		binary.LittleEndian.PutUint16(half[2*i:], toHalf(v))
	}
	return ort.NewCustomDataTensor(shape, half, ort.TensorElementDataTypeFloat16)
}

// numbers copies a run's output, [n, Dimension] of either float type.
func (s *Session) numbers(v ort.Value, n int) ([]float32, error) {
	wrong := func() error {
		return plugins.Errorf(
			plugins.Corrupt, "the output %s of the model is %T %v, its card says [%d, %d] numbers", s.output, v,
			v.GetShape(), n, s.card.Dimension,
		).WithHint("%s", remedy(s.card.Family))
	}
	if !v.GetShape().Equals(ort.NewShape(int64(n), int64(s.card.Dimension))) {
		return nil, wrong()
	}
	if t, ok := v.(*ort.CustomDataTensor); ok && s.half {
		out := make([]float32, n*s.card.Dimension)
		for i := range out {
			out[i] = fromHalf(binary.LittleEndian.Uint16(t.GetData()[2*i:]))
		}
		return out, nil
	}
	if t, ok := v.(*ort.Tensor[float32]); ok {
		return append([]float32(nil), t.GetData()...), nil
	}
	return nil, wrong()
}

// Busy says whether the network runs.
func (s *Session) Busy() bool { return len(s.turn) == 0 }

// Close frees the network after the run in progress.
func (s *Session) Close() {
	<-s.turn
	defer func() { s.turn <- struct{}{} }()
	if s.session != nil {
		_ = s.session.Destroy()
		s.session = nil
	}
}
