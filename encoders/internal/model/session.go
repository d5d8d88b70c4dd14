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

// Session is a loaded network. Its methods may be called concurrently. Runs wait for each other, which bounds the
// memory.
type Session struct {
	card     Card
	provider string
	output   string // key of card.Outputs
	half     bool   // the output is float16
	session  *ort.DynamicAdvancedSession
	turn     chan struct{} // has one token unless the network runs
}

// Open checks a model file and loads it. Errors: NotFound (no file or no library), Invalid (no such output), Corrupt
// (truncated, not ONNX, or an inconsistent card), Mismatch (no card, another family, or a library that is too old),
// Exhausted (not enough memory) and Unsupported (CUDA is required and does not work).
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
		s.output = card.DefaultOutput
	}
	output, ok := card.Outputs[s.output]
	if !ok {
		return nil, plugins.Errorf(plugins.Invalid, "%s has no output %q, only %v",
			o.Model, s.output, card.OutputNames()).WithHint("choose one of them")
	}
	s.half = file.Types[output] == typeHalf
	library, err := FindLibrary(o.Library)
	if err != nil {
		return nil, err
	}
	if err := Load(library); err != nil {
		return nil, err
	}
	providers := []string{o.Provider}
	if o.Provider == "auto" {
		providers = []string{"cuda", "cpu"}
		if !hasCUDA(library) {
			providers = []string{"cpu"}
		}
	}
	cpuOnly := slices.Equal(providers, []string{"cpu"})
	if err := checkMemory(file, o.MemoryMB, cpuOnly, o.Batch, card.Elements()); err != nil {
		return nil, err
	}
	for _, s.provider = range providers {
		if s.session, err = load(o, library, card.Input.Name, output, s.provider); err == nil {
			return s, nil
		}
		if s.provider != providers[len(providers)-1] {
			fmt.Fprintf(os.Stderr, "CUDA cannot be used, so the network runs on the CPU: %v\n", err)
		}
	}
	return nil, err
}

// load loads a model with the given input and output on one provider.
func load(o Options, library, input, output, provider string) (*ort.DynamicAdvancedSession, error) {
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, internal(err)
	}
	defer options.Destroy()
	for _, set := range []func() error{
		func() error { return options.SetIntraOpNumThreads(o.Threads) },
		func() error { return options.SetInterOpNumThreads(1) },
		func() error { return options.SetGraphOptimizationLevel(ort.GraphOptimizationLevelEnableAll) },
		// Idle threads must not spin, because the simulators need the cores.
		func() error { return options.AddSessionConfigEntry("session.intra_op.allow_spinning", "0") },
	} {
		if err := set(); err != nil {
			return nil, internal(err)
		}
	}
	if provider == "cuda" {
		var failures []string
		if hasCUDA(library) {
			_, failures = preloadCUDA(library)
		}
		if err := appendCUDA(options, o.MemoryMB); err != nil {
			return nil, plugins.Errorf(plugins.Unsupported, "CUDA does not work here: %w", err).
				WithDetail(strings.Join(failures, "\n")).
				WithHint("set provider = \"cpu\", or set the setting library to the libonnxruntime.so of the package " +
					"onnxruntime-gpu, with the libraries of CUDA and cuDNN on LD_LIBRARY_PATH")
		}
	}
	session, err := ort.NewDynamicAdvancedSession(o.Model, []string{input}, []string{output}, options)
	switch {
	case err == nil:
		return session, nil
	case outOfMemory(err):
		return nil, plugins.Errorf(plugins.Exhausted, "there is not enough memory to load %s: %w", o.Model, err).
			WithHint("use a smaller model or a machine with more memory")
	case provider == "cuda" && strings.Contains(err.Error(), "CUDA"):
		return nil, plugins.Errorf(plugins.Unsupported, "CUDA does not work here: %w", err).
			WithHint("set provider = \"cpu\"")
	}
	return nil, plugins.Errorf(plugins.Corrupt, "%s cannot be loaded: %w", o.Model, err).
		WithHint("%s", remedy(o.Family))
}

// internal returns the error for an unexpected failure of ONNX Runtime.
func internal(err error) error {
	return plugins.Errorf(plugins.Internal, "ONNX Runtime: %w", err).WithHint("report it with the plugin's log")
}

// hasCUDA reports whether a libonnxruntime comes with its CUDA provider.
func hasCUDA(library string) bool {
	_, err := os.Stat(filepath.Join(filepath.Dir(library), "libonnxruntime_providers_cuda.so"))
	return err == nil
}

// appendCUDA adds the first GPU, with a limit of memoryMB (in 10^6 bytes; 0: none) for ONNX Runtime's arena.
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
	message := strings.ToLower(err.Error())
	for _, part := range []string{"failed to allocate", "bad_alloc", "out of memory"} {
		if strings.Contains(message, part) {
			return true
		}
	}
	return false
}

// Card returns the card of the model file.
func (s *Session) Card() Card { return s.card }

// Output returns the key in Card.Outputs of the output that Run returns.
func (s *Session) Output() string { return s.output }

// Provider returns "cpu" or "cuda".
func (s *Session) Provider() string { return s.provider }

// Run embeds n clips or frames. x is [n, Card.Elements], normalised, in the layout of the card; the result is
// [n, Dimension]. Run waits for other runs, and ends soon after ctx ends. Errors: Canceled or Deadline (ctx ended),
// Exhausted (not enough memory for n at once), Corrupt (the output contradicts the card) and Internal.
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
		return nil, internal(err)
	}
	defer input.Destroy()
	output, err := s.runTensor(ctx, input, n)
	if output != nil {
		defer output.Destroy()
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, Stopped(ctx)
	case err != nil && outOfMemory(err):
		return nil, plugins.Errorf(plugins.Exhausted, "there is not enough memory for %d inputs at once: %w", n, err).
			WithHint("lower the setting batch, or use a smaller model")
	case err != nil:
		return nil, plugins.Errorf(plugins.Internal, "ONNX Runtime: %w", err).
			WithHint("export the model file again; if that does not help, report the error")
	}
	return s.numbers(output, n)
}

// runTensor runs the network until it is done or ctx ends. The output may be set together with an error.
func (s *Session) runTensor(ctx context.Context, input ort.Value, n int) (output ort.Value, err error) {
	outputs := []ort.Value{nil} // ONNX Runtime allocates nil outputs
	if s.half {                 // onnxruntime_go cannot convert an allocated float16 output
		shape := ort.NewShape(int64(n), int64(s.card.Dimension))
		data := make([]byte, 2*n*s.card.Dimension)
		if outputs[0], err = ort.NewCustomDataTensor(shape, data, ort.TensorElementDataTypeFloat16); err != nil {
			return nil, err
		}
	}
	options, err := ort.NewRunOptions()
	if err != nil {
		return outputs[0], err
	}
	defer options.Destroy()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = options.Terminate()
	})
	err = s.session.RunWithOptions([]ort.Value{input}, outputs, options)
	if !stop() {
		<-ended // Terminate must not run after Destroy
	}
	if err != nil && !s.half {
		return nil, err
	}
	return outputs[0], err
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

// numbers copies the output of a run, [n, Dimension], float32 or float16.
func (s *Session) numbers(v ort.Value, n int) ([]float32, error) {
	wrong := func() error {
		return plugins.Errorf(plugins.Corrupt, "the output %s of the model is %T %v, but its card specifies [%d, %d]",
			s.output, v, v.GetShape(), n, s.card.Dimension).WithHint("%s", remedy(s.card.Family))
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

// Busy reports whether the network runs.
func (s *Session) Busy() bool { return len(s.turn) == 0 }

// Close frees the network after the current run.
func (s *Session) Close() {
	<-s.turn
	defer func() { s.turn <- struct{}{} }()
	if s.session != nil {
		_ = s.session.Destroy()
		s.session = nil
	}
}
