package srpo

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckEmbedding(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(-1)
	for want, v := range map[string][]float64{
		"":                                      {0, 1e-30, 0},
		"is missing":                            {},
		"has the wrong size: 2 numbers, want 3": {1, 2},
		"is not a number at index 1":            {1, nan, inf},
		"is infinite at index 2":                {1, 0, inf},
		"is 2e+100 at index 0, above 1e+100":    {2e100, 0, 0},
		"is all zero":                           {0, 0, math.Copysign(0, -1)},
		"is subnormal throughout, which is as good as zero": {0, 1e-45, -1e-38},
	} {
		require.Equal(t, want, CheckEmbedding(v, 3))
	}
	require.Empty(t, CheckEmbedding([]float32{0x1p-126, 0}, 2))
}

// FuzzEmbedding checks that a vector that passes has a finite number in every place, and is not zero.
func FuzzEmbedding(f *testing.F) {
	for _, seed := range [][]float32{
		{1, 2, 3, 1e-45}, {0, 0, 0, 0}, {0, 1e-45, -1e-40, 0}, {float32(math.NaN()), 0, float32(math.Inf(1)), 0},
	} {
		data, err := binary.Append(nil, binary.LittleEndian, seed)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v := make([]float32, len(data)/4%9)
		_, err := binary.Decode(data, binary.LittleEndian, v)
		require.NoError(t, err)
		if CheckEmbedding(v, 4) != "" {
			return
		}
		require.Len(t, v, 4)
		sum, largest := 0.0, 0.0
		for _, x := range v {
			sum, largest = sum+math.Abs(float64(x)), max(largest, math.Abs(float64(x)))
		}
		require.True(t, largest >= smallestNormal && !math.IsInf(sum, 0))
	})
}
