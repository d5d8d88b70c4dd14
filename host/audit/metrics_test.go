package audit

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/srpo"
)

// The goldens were computed with SciPy and scikit-learn by testdata/make_goldens.py.
func TestMeasuresAgreeWithSciPy(t *testing.T) {
	data, err := os.ReadFile("testdata/goldens.json")
	require.NoError(t, err)
	var file struct {
		Samples []struct {
			X, Y                       []float64
			Sigma, MMD, JS, SMD, AUROC float64
		}
		Curves []struct {
			Curve           []float64
			SC, Mono, Order float64
		}
	}
	require.NoError(t, json.Unmarshal(data, &file))
	require.Len(t, file.Samples, 6)
	require.Greater(t, len(file.Curves), 12)
	near := func(want float64) func(float64, bool) {
		return func(got float64, ok bool) {
			t.Helper()
			require.True(t, ok)
			require.InDelta(t, want, got, 1e-9)
		}
	}
	for _, s := range file.Samples {
		require.InDelta(t, s.Sigma, Bandwidth(s.X, s.Y), 1e-12)
		near(s.MMD)(MMD(s.X, s.Y))
		near(s.JS)(JS(s.X, s.Y))
		near(s.SMD)(SMD(s.X, s.Y))
		near(s.AUROC)(srpo.AUROC(s.X, s.Y))
	}
	for _, c := range file.Curves {
		near(c.SC)(SC(c.Curve))
		near(c.Mono)(Mono(c.Curve))
		near(c.Order)(OrderAccuracy(c.Curve))
	}
}

func TestProgress(t *testing.T) {
	require.Equal(t, []float64{0, 0.5, 1, 0.75}, Progress([]float64{4, 2, 0, 1}))
	require.Equal(t, []float64{0, 0, 0}, Progress([]float64{3, 3, 3}))
	require.Empty(t, Progress(nil))
}

func TestMeasuresOfTooFewValues(t *testing.T) {
	for name, ok := range map[string]bool{
		"mmd": second(MMD(nil, []float64{1})), "js": second(JS([]float64{1}, nil)),
		"smd":                second(SMD([]float64{1}, []float64{1, 2})),
		"smd without spread": second(SMD([]float64{1, 1}, []float64{0, 0})), "sc": second(SC([]float64{1})),
		"sc of a constant": second(SC([]float64{1, 1})),
		"mono":             second(Mono([]float64{1})), "order": second(OrderAccuracy(nil)),
	} {
		require.False(t, ok, name)
	}
	v, ok := MMD([]float64{1, 1}, []float64{1})
	require.True(t, ok)
	require.Zero(t, v)
}

func second[T any](_ T, ok bool) bool { return ok }

func TestPropertiesOfMeasures(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	draw := func(n int) []float64 {
		out := make([]float64, n)
		for i := range out {
			out[i] = rng.Float64()
		}
		return out
	}
	for range 200 {
		x, y := draw(2+rng.IntN(30)), draw(2+rng.IntN(30))
		mmd, _ := MMD(x, y)
		back, _ := MMD(y, x)
		require.InDelta(t, mmd, back, 1e-12, "it is symmetric")
		require.True(t, mmd >= 0 && mmd < math.Sqrt2)
		js, _ := JS(x, y)
		other, _ := JS(y, x)
		require.InDelta(t, js, other, 1e-12)
		require.True(t, js >= 0 && js <= math.Ln2+1e-12)
		same, _ := JS(x, x)
		require.Zero(t, same)
		smd, _ := SMD(x, y)
		opposite, _ := SMD(y, x)
		require.InDelta(t, smd, -opposite, 1e-12)

		// Rank correlation and order accuracy depend on the order alone. Reversing the curve reverses them.
		sc, _ := SC(x)
		order, _ := OrderAccuracy(x)
		grown, reversed := make([]float64, len(x)), make([]float64, len(x))
		for i, v := range x {
			grown[i], reversed[len(x)-1-i] = math.Exp(3*v), v
		}
		a, _ := SC(grown)
		require.InDelta(t, sc, a, 1e-12)
		b, _ := SC(reversed)
		require.InDelta(t, -sc, b, 1e-12)
		c, _ := OrderAccuracy(reversed)
		require.InDelta(t, 1-order, c, 1e-12)
		p := Progress(x)
		require.InDelta(t, 1, p[argmin(x)], 0)
	}
	far, ok := JS([]float64{0, 0.01, 0.02}, []float64{0.9, 1})
	require.True(t, ok)
	require.InDelta(t, math.Ln2, far, 1e-12, "the maximum")
}

func argmin(x []float64) int {
	at := 0
	for i, v := range x {
		if v < x[at] {
			at = i
		}
	}
	return at
}
