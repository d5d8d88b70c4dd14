package plugintest

import (
	"context"
	"math"
	"math/rand"
	"reflect"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// Encoder returns the checks of an encoder that is not configured yet. The second check configures it. Run them in
// order.
func Encoder(e encoder.Encoder, settings map[string]any) []Check {
	var spec encoder.Spec
	ready := func(run func(ctx context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			if spec.Dimension == 0 {
				return Skip("the encoder was not configured")
			}
			return run(ctx)
		}
	}
	encode := func(ctx context.Context, clips ...plugins.Tensor) ([][]float32, error) {
		out, err := e.Encode(ctx, clips)
		if err != nil {
			return nil, err
		}
		for i, v := range out {
			if len(v) != spec.Dimension {
				return nil, wants("return vectors of the length in Describe",
					"vector %d has %d numbers, Describe has %d", i, len(v), spec.Dimension)
			}
			for j, x := range v {
				if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
					return nil, wants("return finite numbers for an ordinary clip", "vector %d has %v at %d", i, x, j)
				}
			}
		}
		return out, nil
	}
	a, b := clip(1, 12, 64, 64), clip(2, 20, 48, 80)
	return []Check{
		info(e, plugins.Encoder),
		{"Describe returns the length of the vector", func(ctx context.Context) error {
			s, err := resolve(ctx, e, settings)
			if err != nil {
				return err
			}
			if err := e.Configure(ctx, plugins.Config{Settings: s, Seed: 1, WorldSize: 1}); err != nil {
				return err
			}
			spec, err = e.Describe(ctx)
			return err
		}},
		{"different clips get different vectors, the same clip the same", ready(func(ctx context.Context) error {
			x, err := encode(ctx, a)
			if err != nil {
				return err
			}
			y, err := encode(ctx, b)
			if err != nil {
				return err
			}
			again, err := encode(ctx, a)
			if err != nil {
				return err
			}
			if !reflect.DeepEqual(x, again) {
				return wants("run the network in inference mode, so that a vector depends on the clip alone",
					"the same clip gave two different vectors")
			}
			if reflect.DeepEqual(x, y) {
				return wants("read the frames", "two different clips gave the same vector")
			}
			return nil
		})},
		{"a vector does not depend on the batch", ready(func(ctx context.Context) error {
			one, err := encode(ctx, a)
			if err != nil {
				return err
			}
			two, err := encode(ctx, b, a)
			if err != nil {
				return err
			}
			return near(one[0], two[1], "alone and in a batch")
		})},
		{"clips of one frame and of odd sizes are encoded", ready(func(ctx context.Context) error {
			_, err := encode(ctx, clip(3, 1, 64, 64), clip(4, 3, 33, 57))
			return err
		})},
		{"windows equal the clip cut at their ends", ready(func(ctx context.Context) error {
			w, ok := e.(encoder.Windower)
			if !ok {
				return Skip("no EncodeWindows")
			}
			ends := []int{1, 5, 12}
			got, err := w.EncodeWindows(ctx, a, ends)
			if err != nil {
				return err
			}
			frame := len(a.Data) / a.Shape[0]
			for i, end := range ends {
				want, err := encode(ctx, plugins.Bytes(a.Data[:end*frame], end, 64, 64, 3))
				if err != nil {
					return err
				}
				if err := near(want[0], got[i], "window and cut clip"); err != nil {
					return err
				}
			}
			return nil
		})},
	}
}

// near compares vectors to 1e-4 of the larger norm, as the order of summation can differ between batches.
func near(a, b []float32, what string) error {
	var d, n float64
	if len(a) != len(b) {
		return wants("return vectors of one length", "%s: %d and %d numbers", what, len(a), len(b))
	}
	for i := range a {
		d += float64(a[i]-b[i]) * float64(a[i]-b[i])
		n += math.Max(float64(a[i])*float64(a[i]), float64(b[i])*float64(b[i]))
	}
	if d = math.Sqrt(d / math.Max(n, 1e-30)); d > 1e-4 {
		return wants(
			"encode each clip independently of the others, and return one row per clip or window end, in order",
			"%s differ by %.2g of their length (1e-4 allowed)", what, d,
		)
	}
	return nil
}

// clip makes t frames of slowly changing noise, uint8 [t, h, w, 3].
func clip(seed int64, t, h, w int) plugins.Tensor {
	rng := rand.New(rand.NewSource(seed))
	data := make([]byte, t*h*w*3)
	for i := range data {
		if i < h*w*3 {
			data[i] = byte(rng.Intn(256))
		} else {
			data[i] = data[i-h*w*3] + byte(rng.Intn(9))
		}
	}
	return plugins.Bytes(data, t, h, w, 3)
}
