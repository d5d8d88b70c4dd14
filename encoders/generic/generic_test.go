package generic

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/encoders/internal/modeltest"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/sdk/plugintest"
)

// environment sets up the plugin's environment, with the model that its installation made.
func environment(t *testing.T) {
	t.Helper()
	made := modeltest.Environment(t, "generic")
	require.NotEmpty(t, made)
	t.Setenv("GENERIC_MODEL", filepath.Join(made, "efficientnet-lite0.onnx"))
}

// TestContract runs the conformance tests over gRPC, with and without shared memory.
func TestContract(t *testing.T) {
	environment(t)
	plugintest.TestEncoder(t, New, map[string]any{"frames": int64(3), "batch": int64(2), "threads": int64(1)})
}

// TestParity compares with the network's own implementation in torch, on photographs, including the
// preprocessing.
func TestParity(t *testing.T) {
	environment(t)
	g := modeltest.Goldens(t, "testdata")[0]
	c := g.Clips[0]
	clip, want := g.Strip(t, c.File, c.Frames), c.Embeddings["mean"]
	for _, batch := range []int64{0, 2} {
		e := modeltest.Configured(t, New(), plugins.Settings{"batch": batch, "threads": int64(1)})
		spec, err := e.Describe(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, spec.Model)
		spec.Model = ""
		require.Equal(t, encoder.Spec{Dimension: 1280, Height: 224, Width: 224, FrameWise: true}, spec)
		size := len(clip.Data) / c.Frames
		clips := []plugins.Tensor{clip}
		for j := range c.Frames {
			clips = append(clips, plugins.Bytes(clip.Data[j*size:(j+1)*size], 1, c.Height, c.Width, 3))
		}
		got, err := e.Encode(t.Context(), clips)
		require.NoError(t, err)
		require.Less(t, modeltest.Difference(t, got[0], modeltest.Mean(want)), 1e-4)
		for j := range c.Frames {
			require.Less(t, modeltest.Difference(t, got[j+1], want[j]), 1e-4, "photograph %d, batch %d", j, batch)
		}
		windows, err := e.(encoder.Windower).EncodeWindows(t.Context(), clip, []int{3, 1, 2})
		require.NoError(t, err)
		require.Equal(t, got[0], windows[0])
		require.Equal(t, got[1], windows[1])
		require.Less(t, modeltest.Difference(t, windows[2], modeltest.Mean(want[:2])), 1e-4)
	}
}

// TestUnusableClips checks that a clip that cannot be embedded gets NaN and does not change the other clips
// of the call.
func TestUnusableClips(t *testing.T) {
	environment(t)
	e := modeltest.Configured(t, New(), plugins.Settings{"threads": int64(1)})
	good := modeltest.Noise(1, 2, 20, 30)
	for name, clip := range map[string]plugins.Tensor{
		"nothing":    {},
		"no frames":  plugins.Bytes(nil, 0, 8, 8, 3),
		"no pixels":  plugins.Bytes(nil, 2, 0, 8, 3),
		"4 channels": plugins.Bytes(make([]byte, 8*8*4), 1, 8, 8, 4),
		"cut short":  plugins.Bytes(make([]byte, 100), 1, 8, 8, 3),
	} {
		rows, err := e.Encode(t.Context(), []plugins.Tensor{good, clip, good})
		require.NoError(t, err, name)
		require.Equal(t, rows[0], rows[2], name)
		require.Len(t, rows[1], 1280)
		for _, v := range rows[1] {
			require.True(t, v != v, name)
		}
		windows, err := e.(encoder.Windower).EncodeWindows(t.Context(), clip, []int{1, 2})
		require.NoError(t, err)
		require.Len(t, windows, 2)
		require.True(t, windows[1][0] != windows[1][0])
	}
	none, err := e.Encode(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, none)
	for _, end := range []int{0, -1, 3} {
		_, err := e.(encoder.Windower).EncodeWindows(t.Context(), good, []int{1, end})
		require.Equal(t, plugins.Invalid, plugins.KindOf(err))
	}
}

func TestErrors(t *testing.T) {
	clip := modeltest.Noise(1, 2, 20, 30)
	_, err := New().Encode(t.Context(), []plugins.Tensor{clip})
	require.ErrorContains(t, err, "before Configure")
	configure := func(s plugins.Settings) *plugins.Error {
		return plugins.AsError(New().Configure(t.Context(), plugins.Config{Settings: s}))
	}
	for _, s := range []plugins.Settings{
		{"provider": "tpu"}, {"threads": int64(-1)}, {"batch": int64(-1)}, {"modle": "x"}, {"pooling": "cls"},
	} {
		require.Equal(t, plugins.Invalid, configure(s).Kind)
	}
	t.Setenv("GENERIC_MODEL", "")
	e := configure(nil)
	require.Equal(t, plugins.NotFound, e.Kind)
	require.Contains(t, e.Hint, "setting model")

	environment(t)
	e = configure(plugins.Settings{"memory_mb": int64(10)})
	require.Equal(t, plugins.Exhausted, e.Kind)
	require.Contains(t, e.Message, "more than the limit of 10 MB")
	e = configure(plugins.Settings{"model": filepath.Join(t.TempDir(), "none.onnx")})
	require.Equal(t, plugins.NotFound, e.Kind)

	ready := modeltest.Configured(t, New(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = ready.Encode(ctx, []plugins.Tensor{clip})
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
	_, err = ready.(encoder.Windower).EncodeWindows(ctx, clip, []int{1})
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
}

// TestWeightsCannotRunCode checks that the installation reads only tensors from the pickle with the
// weights, because a pickle can contain any code.
func TestWeightsCannotRunCode(t *testing.T) {
	environment(t)
	program := `
import io, os, pickle, struct, sys
sys.path.insert(0, sys.argv[1])
import make_model
class Evil:
    def __reduce__(self):
        return (os.system, ("echo ran",))
head = pickle.dumps(make_model.MAGIC) + pickle.dumps(make_model.PROTOCOL) + pickle.dumps({"little_endian": True})
try:
    make_model.read_torch(head + pickle.dumps({"w": Evil()}))
except pickle.UnpicklingError as e:
    print("refused:", e)
for data in (b"", head[:5], pickle.dumps(7) + head):
    try:
        make_model.read_torch(data)
        print("read", data)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as e:
        print(type(e).__name__)
`
	folder, err := filepath.Abs(".")
	require.NoError(t, err)
	out, err := exec.Command(
		filepath.Join(os.Getenv("VIRTUAL_ENV"), "bin", "python"), "-I", "-B", "-c", program, folder,
	).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(
		t, "refused: posix.system is not expected in a file of weights\nEOFError\nUnpicklingError\nRuntimeError\n",
		string(out),
	)
}
