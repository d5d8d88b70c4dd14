package dinov2

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/encoders/internal/frames"
	"github.com/srpo-dev/srpo/encoders/internal/model"
	"github.com/srpo-dev/srpo/encoders/internal/modeltest"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/sdk/plugintest"
)

const small = "testdata/plain-42.onnx"

// TestContract runs the conformance tests over gRPC, with and without shared memory.
func TestContract(t *testing.T) {
	modeltest.Environment(t, "dinov2")
	plugintest.TestEncoder(t, New, map[string]any{"model": small, "pooling": "patches"})
}

// TestParity compares with torch, with and without registers: the class token and the mean patch of each
// frame, alone and in batches, and their means over clips.
func TestParity(t *testing.T) {
	modeltest.Environment(t, "dinov2")
	goldens := modeltest.Goldens(t, "testdata")
	require.GreaterOrEqual(t, len(goldens), 2)
	for _, g := range goldens {
		for _, pooling := range []string{"cls", "patches"} {
			t.Run(g.Model+"/"+pooling, func(t *testing.T) {
				s, err := model.Open(model.Options{
					Model: g.Path(), Family: "dinov2", Output: pooling, Provider: "cpu", Threads: 1,
				})
				require.NoError(t, err)
				defer s.Close()
				card := s.Card()
				tr := frames.NewTransform(card.Preprocess)
				for _, c := range g.Clips {
					raw, crop, want := g.Strip(t, c.File, c.Frames), g.Strip(t, c.Crop, c.Frames), c.Embeddings[pooling]
					x, n := make([]float32, c.Frames*card.Elements()), card.Elements()
					for j := range c.Frames {
						picture := tr.Resize(
							raw.Data[j*len(raw.Data)/c.Frames:(j+1)*len(raw.Data)/c.Frames], c.Height, c.Width,
						)
						require.Equal(t, crop.Data[j*n:(j+1)*n], picture, "frame %d of %s", j, c.File)
						tr.Normalise(picture, x[j*n:(j+1)*n])
						one, err := s.Run(t.Context(), x[j*n:(j+1)*n], 1)
						require.NoError(t, err)
						require.Less(t, modeltest.Difference(t, one, want[j]), 1e-4)
					}
					all, err := s.Run(t.Context(), x, c.Frames)
					require.NoError(t, err)
					for j := range c.Frames {
						require.Less(t,
							modeltest.Difference(t, all[j*card.Dimension:(j+1)*card.Dimension], want[j]), 1e-4)
					}
					for _, batch := range []int64{1, 2, 8} {
						e := modeltest.Configured(t, New(), plugins.Settings{
							"model": g.Path(), "pooling": pooling, "batch": batch, "provider": "cpu",
						})
						got, err := e.Encode(t.Context(), []plugins.Tensor{raw})
						require.NoError(t, err)
						require.Less(t, modeltest.Difference(t, got[0], modeltest.Mean(want)), 1e-4)
					}
				}
			})
		}
	}
}

// TestPooling checks the setting pooling. Its default is the default output of the model card.
func TestPooling(t *testing.T) {
	modeltest.Environment(t, "dinov2")
	clip := modeltest.Noise(1, 3, 50, 60)
	vector := map[string][]float32{}
	for _, pooling := range []string{"card", "cls", "patches"} {
		rows, err := modeltest.Configured(t,
			New(), plugins.Settings{"model": small, "pooling": pooling}).Encode(t.Context(), []plugins.Tensor{clip})
		require.NoError(t, err)
		vector[pooling] = rows[0]
	}
	require.Equal(t, vector["cls"], vector["card"])
	require.Greater(t, modeltest.Difference(t, vector["cls"], vector["patches"]), 1e-2)
	err := New().Configure(t.Context(), plugins.Config{Settings: plugins.Settings{"model": small, "pooling": "mean"}})
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))
}

// TestWindows checks that windows have the same bits as clips of that length, for any order of the ends,
// and that Describe reports a frame-wise encoder.
func TestWindows(t *testing.T) {
	modeltest.Environment(t, "dinov2")
	clip := modeltest.Noise(5, 23, 48, 44)
	ends := []int{23, 1, 7, 7, 22, 2, 16}
	for _, maxFrames := range []int64{0, 1, 5, 40} {
		e := modeltest.Configured(t,
			New(), plugins.Settings{"model": small, "frames": maxFrames, "batch": int64(4), "provider": "cpu"})
		spec, err := e.Describe(t.Context())
		require.NoError(t, err)
		require.Regexp(t, "^[0-9a-f]{64}, cls, cpu$", spec.Model)
		spec.Model = ""
		require.Equal(
			t, encoder.Spec{Dimension: 24, Frames: int(maxFrames), Height: 42, Width: 42, FrameWise: true}, spec,
		)
		got, err := e.(encoder.Windower).EncodeWindows(t.Context(), clip, ends)
		require.NoError(t, err)
		for i, end := range ends {
			want, err := e.Encode(
				t.Context(), []plugins.Tensor{modeltest.Noise(9, 2, 40, 40), modeltest.Cut(clip, end)},
			)
			require.NoError(t, err)
			require.Equal(t, want[1], got[i], "at most %d frames, end %d", maxFrames, end)
		}
	}
}
