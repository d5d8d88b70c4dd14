package pixel

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/sdk/plugintest"
	"github.com/stretchr/testify/require"
)

func configured(t testing.TB, s plugins.Settings) encoder.Encoder {
	t.Helper()
	e := New()
	require.NoError(t, e.Configure(t.Context(), plugins.Config{Settings: s, WorldSize: 1}))
	return e
}

func noiseClip(seed uint64, t, h, w int) plugins.Tensor {
	r := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, t*h*w*3)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return plugins.Bytes(data, t, h, w, 3)
}

// TestContract runs the conformance tests over gRPC, with and without shared memory.
func TestContract(t *testing.T) { plugintest.TestEncoder(t, New, nil) }

// TestEncode checks that vectors have the length that Describe returns and do not depend on the batch.
func TestEncode(t *testing.T) {
	for _, pool := range []string{"mean", "last", "first_last_mean"} {
		for _, gray := range []bool{false, true} {
			e := configured(t, plugins.Settings{"size": int64(8), "pool": pool, "gray": gray})
			spec, err := e.Describe(t.Context())
			require.NoError(t, err)
			want := 8 * 8 * 3
			if gray {
				want = 8 * 8
			}
			if pool == "first_last_mean" {
				want *= 3
			}
			require.Equal(t, want, spec.Dimension)
			clips := []plugins.Tensor{
				noiseClip(1, 5, 16, 16), noiseClip(2, 1, 7, 31), noiseClip(3, 9, 3, 2), noiseClip(4, 2, 64, 48),
			}
			all, err := e.Encode(t.Context(), clips)
			require.NoError(t, err)
			for i, c := range clips {
				require.Len(t, all[i], want)
				one, err := e.Encode(t.Context(), []plugins.Tensor{c})
				require.NoError(t, err)
				require.Equal(t, one[0], all[i])
				for _, v := range all[i] {
					require.True(t, v >= 0 && v <= 1)
				}
			}
		}
	}
}

// TestAreaAverage compares with averages computed by hand: 3 x 2 pixels on 2 x 2 cells, where the middle
// row counts half in each cell.
func TestAreaAverage(t *testing.T) {
	e := configured(t, plugins.Settings{"size": int64(2)})
	var data []byte
	for _, v := range []byte{0, 30, 60, 90, 120, 240} {
		data = append(data, v, v/2, 255)
	}
	rows, err := e.Encode(t.Context(), []plugins.Tensor{plugins.Bytes(data, 1, 3, 2, 3)})
	require.NoError(t, err)
	want := []float64{(0 + 60*.5) / 1.5, (30 + 90*.5) / 1.5, (120 + 60*.5) / 1.5, (240 + 90*.5) / 1.5}
	for i, v := range want {
		require.InDelta(t, v/255, rows[0][3*i], 1e-6)
		require.InDelta(t, v/2/255, rows[0][3*i+1], 1e-6)
		require.InDelta(t, 1, rows[0][3*i+2], 1e-6)
	}
	// The mean of the picture is the same at any size.
	clip := noiseClip(9, 1, 13, 29)
	mean := 0.0
	for _, b := range clip.Data {
		mean += float64(b) / 255 / float64(len(clip.Data))
	}
	for _, size := range []int64{1, 5, 16, 40} {
		rows, err := configured(t, plugins.Settings{"size": size}).Encode(t.Context(), []plugins.Tensor{clip})
		require.NoError(t, err)
		got := 0.0
		for _, v := range rows[0] {
			got += float64(v) / float64(len(rows[0]))
		}
		require.InDelta(t, mean, got, 1e-6, "size %d", size)
	}
}

func TestGray(t *testing.T) {
	rows, err := configured(t, plugins.Settings{"size": int64(1), "gray": true}).Encode(
		t.Context(), []plugins.Tensor{plugins.Bytes([]byte{255, 0, 0}, 1, 1, 1, 3)},
	)
	require.NoError(t, err)
	require.InDelta(t, 0.299, rows[0][0], 1e-6)
}

// TestPools uses frames of value 10*t, which show the frames that were selected.
func TestPools(t *testing.T) {
	clip := plugins.Bytes(make([]byte, 11*3), 11, 1, 1, 3)
	for i := range clip.Data {
		clip.Data[i] = byte(i / 3 * 10)
	}
	for _, c := range []struct {
		settings plugins.Settings
		want     []float64 // red, per frame
	}{
		{plugins.Settings{}, []float64{50}},
		{plugins.Settings{"pool": "last"}, []float64{100}},
		{plugins.Settings{"pool": "last", "first": int64(4)}, []float64{30}},
		{plugins.Settings{"pool": "first_last_mean"}, []float64{0, 100, 50}},
		{plugins.Settings{"first": int64(3)}, []float64{10}},
		{plugins.Settings{"first": int64(99)}, []float64{50}},
		{plugins.Settings{"frames": int64(1)}, []float64{0}},
		{plugins.Settings{"frames": int64(4)}, []float64{(0 + 30 + 60 + 100) / 4.}},
		{plugins.Settings{"frames": int64(64)}, []float64{50}},
		{plugins.Settings{"frames": int64(2), "first": int64(4), "pool": "first_last_mean"}, []float64{0, 30, 15}},
	} {
		c.settings["size"] = int64(1)
		rows, err := configured(t, c.settings).Encode(t.Context(), []plugins.Tensor{clip})
		require.NoError(t, err)
		require.Len(t, rows[0], 3*len(c.want))
		for i, v := range c.want {
			require.InDelta(t, v/255, rows[0][3*i], 1e-6, "%v", c.settings)
		}
	}
}

// TestWindows checks that windows have the same bits as clips of that length, for any order of the ends.
func TestWindows(t *testing.T) {
	clip := noiseClip(5, 23, 12, 10)
	ends := []int{23, 1, 7, 7, 22, 2, 16}
	for _, pool := range []string{"mean", "last", "first_last_mean"} {
		for _, frames := range []int64{0, 1, 5, 40} {
			for _, first := range []int64{0, 6} {
				e := configured(t, plugins.Settings{"size": int64(4), "pool": pool, "frames": frames, "first": first})
				got, err := e.(encoder.Windower).EncodeWindows(t.Context(), clip, ends)
				require.NoError(t, err)
				require.Len(t, got, len(ends))
				for i, end := range ends {
					cut := plugins.Bytes(clip.Data[:end*12*10*3], end, 12, 10, 3)
					want, err := e.Encode(t.Context(), []plugins.Tensor{cut})
					require.NoError(t, err)
					require.Equal(t, want[0], got[i], "pool %s, frames %d, first %d, end %d", pool, frames, first, end)
				}
			}
		}
	}
}

// TestUnusableClips checks that a clip that cannot be embedded gets NaN and does not change the other clips
// of the call.
func TestUnusableClips(t *testing.T) {
	e := configured(t, plugins.Settings{"size": int64(4)})
	good := noiseClip(1, 3, 8, 8)
	bad := map[string]plugins.Tensor{
		"nothing":      {},
		"no frames":    plugins.Bytes(nil, 0, 8, 8, 3),
		"no pixels":    plugins.Bytes(nil, 2, 0, 8, 3),
		"4 channels":   plugins.Bytes(make([]byte, 8*8*4), 1, 8, 8, 4),
		"one frame":    plugins.Bytes(make([]byte, 8*8*3), 8, 8, 3),
		"float":        plugins.Floats(make([]float32, 8*8*3), 1, 8, 8, 3),
		"cut short":    plugins.Bytes(make([]byte, 100), 1, 8, 8, 3),
		"negative":     plugins.Bytes(nil, -1, 8, 8, 3),
		"out of scale": plugins.Bytes(nil, 1<<40, 8, 8, 3),
	}
	for name, clip := range bad {
		t.Run(name, func(t *testing.T) {
			rows, err := e.Encode(t.Context(), []plugins.Tensor{good, clip, good})
			require.NoError(t, err)
			require.Equal(t, rows[0], rows[2])
			require.Len(t, rows[1], 48)
			for i := range rows[1] {
				require.True(t, math.IsNaN(float64(rows[1][i])))
				require.False(t, math.IsNaN(float64(rows[0][i])))
			}
			windows, err := e.(encoder.Windower).EncodeWindows(t.Context(), clip, []int{1, 2})
			require.NoError(t, err)
			require.Len(t, windows, 2)
			require.True(t, math.IsNaN(float64(windows[1][0])))
		})
	}
	none, err := e.Encode(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestBadInput(t *testing.T) {
	clip := noiseClip(1, 3, 8, 8)
	for _, end := range []int{0, -1, 4} {
		_, err := New().(encoder.Windower).EncodeWindows(t.Context(), clip, []int{1, end})
		require.Equal(t, plugins.Invalid, plugins.KindOf(err))
		require.NotEmpty(t, plugins.AsError(err).Hint)
	}
	for _, s := range []plugins.Settings{
		{"size": int64(0)}, {"size": 2.5}, {"pool": "max"}, {"frames": int64(-1)}, {"sise": int64(8)},
	} {
		require.Equal(t, plugins.Invalid, plugins.KindOf(New().Configure(t.Context(), plugins.Config{Settings: s})))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := New().Encode(ctx, []plugins.Tensor{clip})
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
	_, err = New().(encoder.Windower).EncodeWindows(ctx, clip, []int{1})
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
}

func Example() {
	ctx := context.Background()
	e := New()
	_ = e.Configure(ctx, plugins.Config{Settings: plugins.Settings{"size": int64(1)}})
	dark, bright := make([]byte, 64*64*3), make([]byte, 64*64*3)
	for i := range bright {
		bright[i] = 255
	}
	clip := plugins.Bytes(append(dark, bright...), 2, 64, 64, 3)
	vectors, _ := e.Encode(ctx, []plugins.Tensor{clip, {}})
	fmt.Println(vectors[0], vectors[1])
	windows, _ := e.(encoder.Windower).EncodeWindows(ctx, clip, []int{1, 2})
	fmt.Println(windows)
	// Output:
	// [0.5 0.5 0.5] [NaN NaN NaN]
	// [[0 0 0] [0.5 0.5 0.5]]
}

func BenchmarkEncode(b *testing.B) {
	for _, side := range []int{64, 256} {
		b.Run(fmt.Sprintf("frames=24/side=%d", side), func(b *testing.B) {
			e, clip := configured(b, nil), noiseClip(1, 24, side, side)
			for b.Loop() {
				if _, err := e.Encode(b.Context(), []plugins.Tensor{clip}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
