package rollout

import (
	"github.com/srpo-dev/srpo/plugins"
)

// ClipMode selects how clips are made equally long before they are encoded. A success ends early, so without it
// the length alone separates successes from failures.
type ClipMode int

// The modes.
const (
	None ClipMode = iota // the episode as it was recorded
	Cut                  // the beginning only
	Hold                 // the last frame is repeated up to the task's MaxSteps
)

// EqualLength makes clips equally long for the encoder. It does not change what [Episode.Frames] keeps.
type EqualLength struct {
	Mode ClipMode
	// Frames is the length for [Cut]: a clip keeps its first Frames frames, and a shorter one repeats its last
	// frame. 0: the length of the shortest clip of the same task in this call. Since that is known only at the
	// end, nothing is encoded before every episode is rolled out, and all clips are in memory until then.
	Frames int
}

// late reports whether no clip can be encoded before all episodes are rolled out.
func (e EqualLength) late() bool { return e.Mode == Cut && e.Frames == 0 }

// frames is the length of a clip of an episode of at most maxSteps, when it is not late; 0: its own length.
func (e EqualLength) frames(maxSteps, recordEvery int) int {
	switch e.Mode {
	case Hold:
		return 1 + maxSteps/recordEvery // Reset records frame 0
	case Cut:
		return e.Frames
	}
	return 0
}

// clip is an episode's recorded frames, with the length that the encoder gets; 0: their own.
type clip struct {
	*Episode
	frames int
}

// cutToShortest cuts each episode to the shortest of its task.
func cutToShortest(episodes []*Episode) []clip {
	shortest := map[string]int{}
	for _, e := range episodes {
		if n, ok := shortest[e.Task]; !ok || e.FrameCount < n {
			shortest[e.Task] = e.FrameCount
		}
	}
	clips := make([]clip, len(episodes))
	for i, e := range episodes {
		clips[i] = clip{e, shortest[e.Task]}
	}
	return clips
}

// fit returns frames [T, H, W, 3] as a clip of n: the first n frames, or all frames with the last one repeated. n = 0
// leaves them as they are. The result shares their data where possible.
func fit(frames plugins.Tensor, n int) plugins.Tensor {
	t := frames.Shape[0]
	if n == 0 || n == t {
		return frames
	}
	size := len(frames.Data) / t
	shape := append([]int{n}, frames.Shape[1:]...)
	if n < t {
		return plugins.Bytes(frames.Data[:n*size:n*size], shape...)
	}
	data := make([]byte, 0, n*size)
	data = append(data, frames.Data...)
	last := frames.Data[(t-1)*size:]
	for range n - t {
		data = append(data, last...)
	}
	return plugins.Bytes(data, shape...)
}
