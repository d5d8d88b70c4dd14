package rollout

import (
	"github.com/srpo-dev/srpo/plugins"
)

// ClipMode says how clips are made equally long before they are encoded. A success ends early, so that without it length alone tells successes from
// failures (algorithm.md 4).
type ClipMode int

// The modes.
const (
	None ClipMode = iota // the episode as it was recorded
	Cut                  // the beginning only
	Hold                 // the last frame is repeated up to the task's most steps
)

// EqualLength makes clips equally long for the encoder; what [Episode.Frames] keeps is not touched by it.
type EqualLength struct {
	Mode ClipMode
	// Frames is the length for [Cut]: clips keep their first Frames frames, and a shorter one repeats its last frame up to it. 0: the length of the shortest
	// clip of the same task in this call; since that is known only at the end, nothing is encoded before every episode is rolled, and all clips are held
	// in memory until then.
	Frames int
}

// late says that no clip can be encoded before all are rolled.
func (e EqualLength) late() bool { return e.Mode == Cut && e.Frames == 0 }

// frames is the length that a clip of an episode of at most maxSteps gets when it is not late; 0: its own.
func (e EqualLength) frames(maxSteps, recordEvery int) int {
	switch e.Mode {
	case Hold:
		return 1 + maxSteps/recordEvery // frame 0 is recorded by Reset
	case Cut:
		return e.Frames
	}
	return 0
}

// clip is what the encoder gets of an episode: its recorded frames, made frames long; 0: as they are.
type clip struct {
	*Episode
	frames int
}

// atShortest cuts each episode to the shortest of its task.
func atShortest(episodes []*Episode) []clip {
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

// fit returns frames [T, H, W, 3] as a clip of n: their first n, or all of them and the last one repeated. n = 0 leaves them as they are. The data is shared where possible.
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
