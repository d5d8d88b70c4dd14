package host

import (
	"sort"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
)

// pick is an episode that might be saved as a video.
type pick struct {
	episode rollout.Episode
	score   srpo.Score
}

// choose takes at most n episodes: up to a third of them successes, the rest failures spread from the least to the most reward, so that one sees what the
// reward thinks of them.
func choose(failures, successes []pick, n int) []pick {
	won := min(len(successes), max((n+2)/3, n-len(failures)))
	lost := min(len(failures), n-won)
	out := append([]pick{}, successes[:won]...)
	sort.SliceStable(failures, func(a, b int) bool { return failures[a].score.Reward > failures[b].score.Reward })
	for k := range lost {
		at := 0
		if lost > 1 {
			at = k * (len(failures) - 1) / (lost - 1)
		}
		out = append(out, failures[at])
	}
	return out
}
