package embed

import (
	"bytes"

	"github.com/srpo-dev/srpo/plugins"
)

// windowEnds returns the ends of at most n growing windows over a number of frames. They are evenly spaced, and
// the last one is the number of frames.
func windowEnds(frames, n int) []int {
	n = min(n, frames)
	ends := make([]int, n)
	for k := range ends {
		ends[k] = (k + 1) * frames / n
	}
	return ends
}

// The functions below take a clip, uint8 [T, H, W, 3], and return another one.

// first returns the first n frames.
func first(clip plugins.Tensor, n int) plugins.Tensor {
	size := len(clip.Data) / clip.Shape[0]
	return plugins.Bytes(clip.Data[:n*size:n*size], append([]int{n}, clip.Shape[1:]...)...)
}

// reversed plays the clip backwards.
func reversed(clip plugins.Tensor) plugins.Tensor {
	size := len(clip.Data) / clip.Shape[0]
	data := make([]byte, 0, len(clip.Data))
	for k := clip.Shape[0] - 1; k >= 0; k-- {
		data = append(data, clip.Data[k*size:(k+1)*size]...)
	}
	return plugins.Bytes(data, clip.Shape...)
}

// stalled repeats the middle frame to the end of the clip.
func stalled(clip plugins.Tensor) plugins.Tensor {
	size := len(clip.Data) / clip.Shape[0]
	half := (clip.Shape[0] + 1) / 2
	data := append(make([]byte, 0, len(clip.Data)), clip.Data[:half*size]...)
	for range clip.Shape[0] - half {
		data = append(data, clip.Data[(half-1)*size:half*size]...)
	}
	return plugins.Bytes(data, clip.Shape...)
}

// stillFrames is enough for encoders that sample frames: more of the same frame would not change their embedding.
const stillFrames = 16

// FirstFrameStill repeats the first frame: a clip in which nothing happens.
func FirstFrameStill(clip plugins.Tensor) plugins.Tensor {
	size := len(clip.Data) / clip.Shape[0]
	return plugins.Bytes(
		bytes.Repeat(clip.Data[:size], stillFrames),
		append([]int{stillFrames}, clip.Shape[1:]...)...)
}
