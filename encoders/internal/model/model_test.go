//go:build cgo

package model

import (
	"bytes"
	"context"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/encoders/internal/frames"
	"github.com/srpo-dev/srpo/encoders/internal/modeltest"
	"github.com/srpo-dev/srpo/plugins"
)

// means returns the card of the fixtures.
func means() Card {
	return Card{
		Format: 1, Family: "efficientnet", Source: "fixture", SHA256: "0123456789abcdef", Dimension: 3, Frames: 1,
		Input:   Input{Name: "pixel_values", Layout: "BCHW", Height: 4, Width: 4, DType: "float32"},
		Outputs: map[string]string{"mean": "mean"}, DefaultOutput: "mean",
		Preprocess: frames.Recipe{
			Resize: 4, ResizeMode: "exact", Interpolation: "bilinear", Crop: 4, Rescale: 1,
			Mean: []float64{0, 0, 0}, Std: []float64{1, 1, 1},
		},
	}
}

// carded writes a fixture with a card to a new folder, and returns its path.
func carded(t *testing.T, fixture string, card Card) string {
	t.Helper()
	return modeltest.Carded(t, filepath.Join("testdata", fixture), card)
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, data, 0o644))
	return path
}

func open(t *testing.T, path string) *Session {
	t.Helper()
	modeltest.Environment(t, "vjepa2")
	s, err := Open(Options{Model: path, Family: "efficientnet", Provider: "cpu", Threads: 1})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// ramp returns n inputs of the fixtures. The channel means of input i are 10i, 10i+1 and 10i+2.
func ramp(n int) []float32 {
	x := make([]float32, n*48)
	for i := range x {
		x[i] = float32(10*(i/48) + i%48/16)
	}
	return x
}

func TestRun(t *testing.T) {
	for _, fixture := range []string{"means.onnx", "half.onnx"} {
		card := means()
		if fixture == "half.onnx" {
			card.Input.DType = "float16"
		}
		s := open(t, carded(t, fixture, card))
		for _, n := range []int{1, 3, 1} {
			got, err := s.Run(t.Context(), ramp(n), n)
			require.NoError(t, err)
			want := []float32{0, 1, 2, 10, 11, 12, 20, 21, 22}
			require.Equal(t, want[:3*n], got, fixture)
		}
		_, err := s.Run(t.Context(), ramp(2), 3)
		require.Error(t, err)
	}
	require.Regexp(t, `^1\.\d+\.\d+$`, Version())
}

// TestExternalWeights checks a model whose weights are in a second file.
func TestExternalWeights(t *testing.T) {
	path := carded(t, "outside.onnx", means())
	_, err := Inspect(path)
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	require.ErrorContains(t, err, "the weight file outside.onnx.data of the model")
	data, err := os.ReadFile("testdata/outside.onnx.data")
	require.NoError(t, err)
	weights := filepath.Join(filepath.Dir(path), "outside.onnx.data")
	require.NoError(t, os.WriteFile(weights, data[:100], 0o644))
	_, err = Inspect(path)
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
	require.ErrorContains(t, err, "truncated: 100 bytes instead of 192")
	require.NoError(t, os.WriteFile(weights, data, 0o644))
	got, err := open(t, path).Run(t.Context(), ramp(1), 1)
	require.NoError(t, err)
	require.Equal(t, []float32{0, 1, 2}, got)
}

// TestBadFiles checks that every unusable file gives an error that says what is wrong, with a hint.
func TestBadFiles(t *testing.T) {
	modeltest.Environment(t, "vjepa2")
	good, err := os.ReadFile(carded(t, "means.onnx", means()))
	require.NoError(t, err)
	bare, err := os.ReadFile("testdata/means.onnx")
	require.NoError(t, err)
	with := func(change func(*Card)) string {
		c := means()
		change(&c)
		return carded(t, "means.onnx", c)
	}
	unknownOperator := bytes.ReplaceAll(bare, []byte("GlobalAveragePool"), []byte("GlobalAveragePoop"))
	for _, c := range []struct {
		name, path string
		kind       plugins.ErrorKind
		message    string
	}{
		{"missing", filepath.Join(t.TempDir(), "no.onnx"), plugins.NotFound, "there is no model file"},
		{"folder", t.TempDir(), plugins.Invalid, "is not a file"},
		{"empty", write(t, "a.onnx", nil), plugins.Corrupt, "is not an ONNX model"},
		{"text", write(t, "a.onnx", []byte("version https://git-lfs.github.com/spec/v1\n")), plugins.Corrupt, ""},
		{"pickle", write(t, "a.onnx", []byte("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")), plugins.Corrupt, ""},
		{"zip", write(t, "a.onnx", []byte("PK\x03\x04-\x00\x00\x00\x00\x00")), plugins.Corrupt, "is not an ONNX model"},
		{"truncated in the weights", write(t, "a.onnx", good[:len(bare)/2]), plugins.Corrupt, "is truncated"},
		{"truncated in the metadata", write(t, "a.onnx", good[:len(good)-9]), plugins.Corrupt, "is truncated"},
		{"no card", write(t, "a.onnx", bare), plugins.Mismatch, "lacks the model card"},
		{"invalid JSON", write(t, "a.onnx", append(bare, modeltest.Metadata(CardKey, "{")...)), plugins.Corrupt,
			"the model card in"},
		{"newer card", with(func(c *Card) { c.Format = 2 }), plugins.Mismatch, "format 2"},
		{"another family", with(func(c *Card) { c.Family = "vjepa2" }), plugins.Mismatch,
			"of the family vjepa2 (fixture), not efficientnet"},
		{"layout", with(func(c *Card) { c.Frames = 8 }), plugins.Corrupt, `layout "BCHW" for clips of 8 frames`},
		{"type", with(func(c *Card) { c.Input.DType = "bfloat16" }), plugins.Corrupt, "bfloat16"},
		{"size", with(func(c *Card) { c.Input.Width = 5 }), plugins.Corrupt, "4 x 5"},
		{"input", with(func(c *Card) { c.Input.Name = "x" }), plugins.Corrupt, `no input "x", only [pixel_values]`},
		{"output", with(func(c *Card) { c.Outputs["mean"] = "y" }), plugins.Corrupt, `no output "y"`},
		{"default", with(func(c *Card) { c.DefaultOutput = "cls" }), plugins.Corrupt, "default_output"},
		{"preprocess", with(func(c *Card) { c.Preprocess.Std = nil }), plugins.Corrupt, "preprocess: "},
		{"dimension", with(func(c *Card) { c.Dimension = 0 }), plugins.Corrupt, "dimension 0"},
		{"frames", with(func(c *Card) { c.Frames = 0 }), plugins.Corrupt, "0 frames"},
		{"unknown operator", write(t, "a.onnx", append(unknownOperator, good[len(bare):]...)), plugins.Corrupt,
			"cannot be loaded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(Options{Model: c.path, Family: "efficientnet", Provider: "cpu", Threads: 1})
			e := plugins.AsError(err)
			require.NotNil(t, e)
			require.Equal(t, c.kind, e.Kind, err)
			require.Contains(t, e.Message, c.message)
			require.NotEmpty(t, e.Hint)
			require.NotContains(t, e.Message, "EOF")
		})
	}
	_, err = Open(Options{Model: write(t, "a.onnx", good), Family: "efficientnet", Output: "cls", Provider: "cpu"})
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))

	// A card with another dimension than the graph is detected in the first run.
	_, err = open(t, with(func(c *Card) { c.Dimension = 4 })).Run(t.Context(), ramp(1), 1)
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
}

// TestCancel checks that a run ends when its context ends, also while it waits for another run, and that
// the session stays usable.
func TestCancel(t *testing.T) {
	s := open(t, carded(t, "endless.onnx", means()))
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		running, waiting := make(chan error, 1), make(chan error, 1)
		go func() { _, err := s.Run(ctx, ramp(1), 1); running <- err }()
		for !s.Busy() {
			runtime.Gosched()
		}
		limited, stop := context.WithTimeout(t.Context(), time.Millisecond)
		go func() { _, err := s.Run(limited, ramp(1), 1); waiting <- err }()
		require.Equal(t, plugins.Deadline, plugins.KindOf(<-waiting))
		stop()
		cancel()
		err := <-running
		require.Equal(t, plugins.Canceled, plugins.KindOf(err), err)
		require.ErrorIs(t, err, context.Canceled)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := s.Run(ctx, ramp(1), 1)
	require.Equal(t, plugins.Deadline, plugins.KindOf(err))
	_, err = s.Run(ctx, ramp(1), 1)
	require.Equal(t, plugins.Deadline, plugins.KindOf(err), "before it begins")
}

func TestMemory(t *testing.T) {
	f := &File{Path: "big.onnx", Bytes: 4_000_000_000}
	err := checkMemory(f, 5000, true, 0, 0)
	require.Equal(t, plugins.Exhausted, plugins.KindOf(err))
	require.ErrorContains(t, err, "needs about 6000 MB to load, more than the limit of 5000 MB")

	half := &File{Path: "half.onnx", Bytes: 2_000_000_000, HalfBytes: 2_000_000_000}
	require.ErrorContains(t,
		checkMemory(half, 5000, true, 0, 0), "needs about 8000 MB", "a CPU computes in single precision")
	small := &File{Path: "small.onnx", Bytes: 10_000_000} // 4096 clips of 16 frames of 256 px
	err = checkMemory(small, 40_000, true, 4096, 16*3*256*256)
	require.Equal(t, plugins.Exhausted, plugins.KindOf(err))
	require.ErrorContains(t, err, "needs about 15 MB to load and 103079 MB for pictures in batches of 4096, "+
		"more than the limit of 40000 MB")
	require.Contains(t, plugins.AsError(err).Hint, "lower the setting batch")
	require.NoError(t, checkMemory(small, 40_000, true, 16, 16*3*256*256))
	require.Contains(t, plugins.AsError(checkMemory(f, 5000, true, 1, 16*3*256*256)).Hint, "use a smaller model")

	inside, err := Inspect("testdata/half.onnx")
	require.NoError(t, err)
	require.Equal(t, int64(48*2), inside.HalfBytes)
	inside, err = Inspect("testdata/outside.onnx")
	require.NoError(t, err)
	require.Zero(t, inside.HalfBytes)

	root := t.TempDir()
	before, group := meminfo, cgroup
	meminfo, cgroup = filepath.Join(root, "meminfo"), root
	t.Cleanup(func() { meminfo, cgroup = before, group })
	put := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	put("meminfo", "MemTotal: 32000000 kB\nMemAvailable:   10000000 kB\n")
	require.NoError(t, checkMemory(f, 9000, true, 0, 0))
	require.NoError(t, checkMemory(half, 5000, false, 0, 0), "a GPU does not")
	put("meminfo", "MemTotal: 32000000 kB\nMemAvailable:   5000000 kB\n")
	require.ErrorContains(t, checkMemory(f, 0, true, 0, 0), "the machine has only 5120 MB free")
	put("meminfo", "MemTotal: 32000000 kB\nMemAvailable:   20000000 kB\n")
	put("memory.max", "4000000000\n")
	put("memory.current", "1000000000\n")
	require.ErrorContains(t, checkMemory(f, 0, true, 0, 0), "the container has only 3000 MB free")
	put("memory.max", "max\n")
	require.NoError(t, checkMemory(f, 0, true, 0, 0))
	require.NoError(t, os.Remove(filepath.Join(root, "meminfo")))
	require.NoError(t, checkMemory(f, 0, true, 0, 0), "unknown")
}

// TestLibrary checks the errors of unusable libraries. Each case runs in a process of its own, because a
// process can load only one library.
func TestLibrary(t *testing.T) {
	if path := os.Getenv("ONNX_TEST_LIBRARY"); path != "" {
		err := Load(path)
		e := plugins.AsError(err)
		require.NotNil(t, e)
		require.NotEmpty(t, e.Hint)
		require.Regexp(t, os.Getenv("ONNX_TEST_WANT"), e.Kind.String()+": "+e.Message)
		return
	}
	root := t.TempDir()
	compile := func(name, code string) string {
		source, library := filepath.Join(root, name+".c"), filepath.Join(root, name)
		require.NoError(t, os.WriteFile(source, []byte(code), 0o644))
		out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", library, source).CombinedOutput()
		require.NoError(t, err, string(out))
		return library
	}
	text := filepath.Join(root, "text.so")
	require.NoError(t, os.WriteFile(text, []byte("no library"), 0o644))
	// ONNX Runtime before 1.24 returns NULL for version 24 of its API.
	old := `static const void *get(unsigned v) { return v > 23 ? 0 : ""; }
static const char *version(void) { return "1.23.2"; }
static struct { const void *(*get)(unsigned); const char *(*version)(void); } base = { get, version };
void *OrtGetApiBase(void) { return &base; }
`
	for _, c := range []struct{ path, want string }{
		{compile("libonnxruntime.so.1.23.2", old),
			`^mismatch: ONNX Runtime 1\.24\.1 or newer is needed, .* is 1\.23\.2$`},
		{compile("libonnxruntime.so", old), `^mismatch: .* is older$`},
		{compile("libother.so", "int other(void) { return 0; }\n"), `^corrupt: .*libother\.so is not libonnxruntime$`},
		{text, `^corrupt: .* cannot be loaded`},
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLibrary$")
		cmd.Env = append(os.Environ(), "ONNX_TEST_LIBRARY="+c.path, "ONNX_TEST_WANT="+c.want)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
	}
	_, err := FindLibrary(filepath.Join(root, "none.so"))
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	t.Setenv("VIRTUAL_ENV", root)
	_, err = FindLibrary("")
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	require.Contains(t, plugins.AsError(err).Hint, "srpo plugin install")
	t.Setenv("VIRTUAL_ENV", "")
	_, err = FindLibrary("")
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
}

// TestCUDA checks that a library without CUDA is an error for provider cuda, and falls back to the CPU for
// provider auto.
func TestCUDA(t *testing.T) {
	modeltest.Environment(t, "vjepa2")
	path := carded(t, "means.onnx", means())
	_, err := Open(Options{Model: path, Family: "efficientnet", Provider: "cuda"})
	require.Equal(t, plugins.Unsupported, plugins.KindOf(err), err)
	require.Contains(t, plugins.AsError(err).Hint, "onnxruntime-gpu")
	s, err := Open(Options{Model: path, Family: "efficientnet", Provider: "auto"})
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, "cpu", s.Provider())
}

// TestPreload checks that libraries of Python packages are loaded in any order of their dependencies.
func TestPreload(t *testing.T) {
	site := t.TempDir()
	put := func(folder, name, code string, flags ...string) {
		dir := filepath.Join(site, "nvidia", folder, "lib")
		require.NoError(t, os.MkdirAll(dir, 0o755))
		source := filepath.Join(t.TempDir(), "x.c")
		require.NoError(t, os.WriteFile(source, []byte(code), 0o644))
		args := append(
			[]string{"-shared", "-fPIC", "-Wl,-soname," + name, "-o", filepath.Join(dir, name), source}, flags...)
		out, err := exec.Command("gcc", args...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	put("zz", "libsrpotestbase.so.1", "int srpo_test_base(void) { return 1; }\n")
	put("aa", "libsrpotestneeds.so.1",
		"int srpo_test_base(void); int srpo_test_needs(void) { return srpo_test_base(); }\n",
		filepath.Join(site, "nvidia", "zz", "lib", "libsrpotestbase.so.1"))
	put(
		"aa", "libsrpotestlost.so.1",
		"int srpo_test_nowhere(void); int srpo_test_lost(void) { return srpo_test_nowhere(); }\n",
	)
	loaded, failures := preloadCUDA(filepath.Join(site, "onnxruntime", "capi", "libonnxruntime.so"))
	require.Equal(t, 2, loaded)
	require.Len(t, failures, 1)
	require.Contains(t, failures[0], "srpo_test_nowhere")
	loaded, failures = preloadCUDA(filepath.Join(t.TempDir(), "onnxruntime", "capi", "libonnxruntime.so"))
	require.Zero(t, loaded)
	require.Empty(t, failures)
}

func TestHalf(t *testing.T) {
	for h := range 1 << 16 { // every float16
		x := fromHalf(uint16(h))
		if math.IsNaN(float64(x)) {
			require.Equal(t, uint16(0x7e00), toHalf(x)&0x7fff)
			continue
		}
		require.Equal(t, uint16(h), toHalf(x))
	}
	inf := float32(math.Inf(1))
	for _, c := range []struct{ x, want float32 }{
		{1, 1}, {-2.5, -2.5}, {1 + 1./2048, 1}, {1 + 3./2048, 1 + 2./1024}, {65519, 65504}, {65520, inf}, {1e30, inf},
		{-1e30, -inf}, {1. / (1 << 24), 1. / (1 << 24)}, {1. / (1 << 25), 0}, {1.5 / (1 << 24), 2. / (1 << 24)},
		{6.1e-5, 6.1e-5}, {0.1, 0.099975586},
	} {
		require.InDelta(t, c.want, fromHalf(toHalf(c.x)), math.Abs(float64(c.want))*1e-3+1e-12, "%v", c.x)
	}
	require.Equal(t, float32(1), fromHalf(toHalf(1+1./2048)), "ties go to even")
	require.Equal(t, float32(1+2./1024), fromHalf(toHalf(1+3./2048)))
}
