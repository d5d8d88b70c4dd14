package vjepa2

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/encoders/internal/frames"
	"github.com/srpo-dev/srpo/encoders/internal/model"
	"github.com/srpo-dev/srpo/encoders/internal/modeltest"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/sdk/plugintest"
)

const small = "testdata/patch8-16x32.onnx" // 16 frames of 32 x 32

// TestContract runs the conformance tests over gRPC, with and without shared memory.
func TestContract(t *testing.T) {
	modeltest.Environment(t, "vjepa2")
	plugintest.TestEncoder(t, New, map[string]any{"model": small})
}

// tolerance returns the accepted relative difference between a model file and torch. Half precision has 11
// bits.
func tolerance(model string) float64 {
	if ok, _ := filepath.Match("*-half.onnx", model); ok {
		return 1e-2
	}
	return 1e-4
}

// TestParity compares with torch: frames that the published preprocessing made, alone and in batches, and
// whole clips including the preprocessing.
func TestParity(t *testing.T) {
	modeltest.Environment(t, "vjepa2")
	goldens := modeltest.Goldens(t, "testdata")
	require.GreaterOrEqual(t, len(goldens), 3)
	for _, g := range goldens {
		t.Run(g.Model, func(t *testing.T) {
			s, err := model.Open(model.Options{Model: g.Path(), Family: "vjepa2", Provider: "cpu", Threads: 1})
			require.NoError(t, err)
			defer s.Close()
			card := s.Card()
			tr := frames.NewTransform(card.Preprocess)
			var all []float32
			var want [][]float32
			for _, c := range g.Clips {
				require.Equal(t, card.Frames, c.Frames)
				crop := g.Strip(t, c.Crop, c.Frames)
				raw := g.Strip(t, c.File, c.Frames)
				size := len(crop.Data) / c.Frames
				x := make([]float32, card.Elements())
				for j := range c.Frames {
					picture := tr.Resize(
						raw.Data[j*len(raw.Data)/c.Frames:(j+1)*len(raw.Data)/c.Frames], c.Height, c.Width,
					)
					require.Equal(t, crop.Data[j*size:(j+1)*size], picture, "frame %d of %s", j, c.File)
					tr.Normalise(picture, x[j*size:(j+1)*size])
				}
				all, want = append(all, x...), append(want, c.Embeddings["mean"][0])
			}
			for batch := 1; batch <= len(want); batch++ {
				for from := 0; from+batch <= len(want); from++ {
					got, err := s.Run(t.Context(), all[from*card.Elements():(from+batch)*card.Elements()], batch)
					require.NoError(t, err)
					for i := range batch {
						d := modeltest.Difference(t, got[i*card.Dimension:(i+1)*card.Dimension], want[from+i])
						require.Less(t, d, tolerance(g.Model), "clip %d in a batch of %d", from+i, batch)
					}
				}
			}

			for _, batch := range []int64{1, 2, 8} {
				e := modeltest.Configured(t,
					New(), plugins.Settings{"model": g.Path(), "batch": batch, "provider": "cpu"})
				var clips []plugins.Tensor
				for _, c := range g.Clips {
					clips = append(clips, g.Strip(t, c.File, c.Frames))
				}
				got, err := e.Encode(t.Context(), clips)
				require.NoError(t, err)
				for i := range got {
					require.Less(t,
						modeltest.Difference(t, got[i], want[i]), tolerance(g.Model), "clip %d, batch %d", i, batch)
				}
			}
		})
	}
}

// TestFrames checks which frames are used: the embedding of a clip equals that of a clip of its selected
// frames, and windows have the same bits as clips of that length.
func TestFrames(t *testing.T) {
	modeltest.Environment(t, "vjepa2")
	e := modeltest.Configured(t, New(), plugins.Settings{"model": small, "provider": "cpu", "batch": int64(2)})
	spec, err := e.Describe(t.Context())
	require.NoError(t, err)
	require.Regexp(t, "^[0-9a-f]{64}, mean, cpu$", spec.Model)
	spec.Model = ""
	require.Equal(t, encoder.Spec{Dimension: 24, Frames: 16, Height: 32, Width: 32, Batch: 2}, spec)

	clip := modeltest.Noise(1, 40, 36, 48)
	size := 36 * 48 * 3
	selected := func(order []int) plugins.Tensor {
		var data []byte
		for _, t := range order {
			data = append(data, clip.Data[t*size:(t+1)*size]...)
		}
		return plugins.Bytes(data, len(order), 36, 48, 3)
	}
	ends := []int{40, 1, 3, 16, 17, 33, 3}
	windows, err := e.(encoder.Windower).EncodeWindows(t.Context(), clip, ends)
	require.NoError(t, err)
	for i, end := range ends {
		rows, err := e.Encode(t.Context(), []plugins.Tensor{modeltest.Cut(clip, end), selected(frames.Sample(end, 16))})
		require.NoError(t, err)
		require.Equal(t, rows[0], rows[1], "end %d", end)
		require.Equal(t, rows[0], windows[i], "end %d", end)
	}
	require.Greater(t, modeltest.Difference(t, windows[1], windows[0]), 1e-3)
}

// TestNoModel checks that the error for a missing model file explains how to get one.
func TestNoModel(t *testing.T) {
	e := plugins.AsError(New().Configure(t.Context(), plugins.Config{}))
	require.Equal(t, plugins.Invalid, e.Kind)
	require.Equal(t, "setting model: the encoder vjepa2 has no model: it comes without weights", e.Error())
	require.Contains(t, e.Hint, "srpo encoder export vjepa2 --model CHECKPOINT")
	require.Contains(t, e.Hint, "--set encoder.vjepa2.model=FILE.onnx")

	modeltest.Environment(t, "vjepa2")
	other := plugins.Settings{"model": "../dinov2/testdata/plain-42.onnx"}
	e = plugins.AsError(New().Configure(t.Context(), plugins.Config{Settings: other}))
	require.Equal(t, plugins.Mismatch, e.Kind)
	require.Contains(t, e.Message, "of the family dinov2")
}
