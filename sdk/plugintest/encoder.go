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
	t := &encoderTest{Encoder: e, a: clip(1, 12, 64, 64), b: clip(2, 20, 48, 80)}
	return []Check{
		info(e, plugins.Encoder),
		{
			"Describe returns the length of the vector",
			func(ctx context.Context) error { return t.describe(ctx, settings) },
		},
		{"different clips get different vectors, the same clip the same", t.configured(t.vectors)},
		{"a vector does not depend on the batch", t.configured(t.batch)},
		{"clips of one frame and of odd sizes are encoded", t.configured(func(ctx context.Context) error {
			_, err := t.encode(ctx, clip(3, 1, 64, 64), clip(4, 3, 33, 57))
			return err
		})},
		{"windows equal the clip cut at their ends", t.configured(t.windows)},
	}
}

// encoderTest holds what the checks of an encoder share: its spec once it is configured, and two clips, uint8
// [T, H, W, 3].
type encoderTest struct {
	encoder.Encoder
	spec encoder.Spec
	a, b plugins.Tensor
}

// configured skips a check of an encoder that could not be configured.
func (t *encoderTest) configured(check func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if t.spec.Dimension == 0 {
			return Skip("the encoder was not configured")
		}
		return check(ctx)
	}
}

func (t *encoderTest) describe(ctx context.Context, settings map[string]any) error {
	s, err := resolve(ctx, t.Encoder, settings)
	if err != nil {
		return err
	}
	if err := t.Configure(ctx, plugins.Config{Settings: s, Seed: 1, WorldSize: 1}); err != nil {
		return err
	}
	t.spec, err = t.Describe(ctx)
	return err
}

// encode returns the vectors of clips, checked for their length and for finite numbers.
func (t *encoderTest) encode(ctx context.Context, clips ...plugins.Tensor) ([][]float32, error) {
	out, err := t.Encode(ctx, clips)
	if err != nil {
		return nil, err
	}
	for i, v := range out {
		if len(v) != t.spec.Dimension {
			return nil, wants("return vectors of the length in Describe",
				"vector %d has %d numbers, Describe has %d", i, len(v), t.spec.Dimension)
		}
		for j, x := range v {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return nil, wants("return finite numbers for an ordinary clip", "vector %d has %v at %d", i, x, j)
			}
		}
	}
	return out, nil
}

func (t *encoderTest) vectors(ctx context.Context) error {
	var got [3][][]float32
	for i, c := range []plugins.Tensor{t.a, t.b, t.a} {
		var err error
		if got[i], err = t.encode(ctx, c); err != nil {
			return err
		}
	}
	if !reflect.DeepEqual(got[0], got[2]) {
		return wants("run the network in inference mode, so that a vector depends on the clip alone",
			"the same clip gave two different vectors")
	}
	if reflect.DeepEqual(got[0], got[1]) {
		return wants("read the frames", "two different clips gave the same vector")
	}
	return nil
}

func (t *encoderTest) batch(ctx context.Context) error {
	one, err := t.encode(ctx, t.a)
	if err != nil {
		return err
	}
	two, err := t.encode(ctx, t.b, t.a)
	if err != nil {
		return err
	}
	return near(one[0], two[1], "alone and in a batch")
}

func (t *encoderTest) windows(ctx context.Context) error {
	w, ok := t.Encoder.(encoder.Windower)
	if !ok {
		return Skip("no EncodeWindows")
	}
	ends := []int{1, 5, 12}
	got, err := w.EncodeWindows(ctx, t.a, ends)
	if err != nil {
		return err
	}
	frame := len(t.a.Data) / t.a.Shape[0]
	for i, end := range ends {
		want, err := t.encode(ctx, plugins.Bytes(t.a.Data[:end*frame], end, 64, 64, 3))
		if err != nil {
			return err
		}
		if err := near(want[0], got[i], "window and cut clip"); err != nil {
			return err
		}
	}
	return nil
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
