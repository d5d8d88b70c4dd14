package media

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// tickLength returns the usual time between two frames, in the units of the delays: the mean of the shortest common
// delays. It is the mean delay of a video with a constant frame rate, also if its timestamps are rounded or jitter. The
// shortest twentieth of the delays is not common. tick_length in decode/decode.py computes the same.
func tickLength(delays []float64) float64 {
	delays = slices.Sorted(slices.Values(delays))
	tick := delays[len(delays)/20]
	for range 20 {
		var near []float64
		for _, d := range delays {
			if d >= tick/1.5 && d <= tick*1.5 {
				near = append(near, d)
			}
		}
		before := tick
		if tick = stat.Mean(near, nil); tick == before {
			break
		}
	}
	return tick
}

// countTicks returns the number of ticks for which each frame is shown, and the length of a tick. A frame that is
// shown much shorter than a tick may have none; the last frame has at least one. count_ticks in decode/decode.py
// computes the same.
func countTicks(delays []float64) (ticks []int, tick float64) {
	if len(delays) == 0 {
		return nil, 0
	}
	tick = tickLength(delays)
	ticks = make([]int, len(delays))
	now, at := 0.0, 0
	for i, d := range delays {
		now += d
		end := int(math.Floor(now/tick + 0.5 + 1e-9))
		ticks[i], at = end-at, end
	}
	ticks[len(ticks)-1] = max(1, ticks[len(ticks)-1])
	return ticks, tick
}
