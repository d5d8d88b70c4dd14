package embed

import (
	"bytes"

	"github.com/srpo-dev/srpo/plugins"
)

// gridOf are at most n ends of growing windows over t frames, evenly spaced, t the last one.
func gridOf(t, n int) []int {
	n = min(n, t)
	ends := make([]int, n)
	for k := range ends {
		ends[k] = (k + 1) * t / n
	}
	return ends
}

func first(f plugins.Tensor, n int) plugins.Tensor {
	size := len(f.Data) / f.Shape[0]
	return plugins.Bytes(f.Data[:n*size:n*size], append([]int{n}, f.Shape[1:]...)...)
}

// reversed plays a clip backwards.
func reversed(f plugins.Tensor) plugins.Tensor {
	size := len(f.Data) / f.Shape[0]
	data := make([]byte, 0, len(f.Data))
	for k := f.Shape[0] - 1; k >= 0; k-- {
		data = append(data, f.Data[k*size:(k+1)*size]...)
	}
	return plugins.Bytes(data, f.Shape...)
}

// stalled holds the middle frame of a clip to its end.
func stalled(f plugins.Tensor) plugins.Tensor {
	size := len(f.Data) / f.Shape[0]
	half := (f.Shape[0] + 1) / 2
	data := append(make([]byte, 0, len(f.Data)), f.Data[:half*size]...)
	for range f.Shape[0] - half {
		data = append(data, f.Data[(half-1)*size:half*size]...)
	}
	return plugins.Bytes(data, f.Shape...)
}

// still holds the first frame for 16 frames: "nothing happened".
func still(f plugins.Tensor) plugins.Tensor {
	size := len(f.Data) / f.Shape[0]
	return plugins.Bytes(bytes.Repeat(f.Data[:size], 16), append([]int{16}, f.Shape[1:]...)...)
}
