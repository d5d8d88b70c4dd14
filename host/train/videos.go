package train

import (
	"sort"

	"github.com/srpo-dev/srpo/host/store"
)

// saveVideos saves some episodes as short videos: successes, and failures from the largest to the smallest reward.
func (r *run) saveVideos(it *result) error {
	if r.cfg.Run.Videos == 0 {
		return nil
	}
	instruction := map[string]string{}
	for _, t := range r.session.Tasks {
		instruction[t.ID] = t.Instruction
	}
	var failures, successes []sample
	for _, s := range it.samples {
		switch {
		case s.Frames.IsZero():
		case s.Success:
			successes = append(successes, s)
		default:
			failures = append(failures, s)
		}
	}
	for _, e := range chooseVideos(failures, successes, r.cfg.Run.Videos) {
		meta := store.Episode{ID: e.ID, Iteration: it.iteration, Task: e.Task, Instruction: instruction[e.Task],
			Group: e.Group, Index: e.Index, StartState: e.StartState, Seed: e.Seed, Success: e.Success,
			Reward: e.Scored.Reward, Advantage: e.Advantage.Value, Steps: e.Steps,
			RecordEvery: r.cfg.Rollout.RecordEvery}
		if e.Scored.Centre >= 0 {
			meta.Distance = &e.Scored.Distance
		}
		if _, err := r.folder.SaveEpisode(meta, e.Frames); err != nil {
			return err
		}
	}
	return nil
}

// chooseVideos returns at most n episodes. About a third of them are successes. The failures are spread evenly
// from the largest to the smallest reward, to show what the reward distinguishes.
func chooseVideos(failures, successes []sample, n int) []sample {
	nSuccesses := min(len(successes), max((n+2)/3, n-len(failures)))
	nFailures := min(len(failures), n-nSuccesses)
	out := append([]sample{}, successes[:nSuccesses]...)
	sort.SliceStable(failures, func(a, b int) bool { return failures[a].Scored.Reward > failures[b].Scored.Reward })
	for k := range nFailures {
		at := 0
		if nFailures > 1 {
			at = k * (len(failures) - 1) / (nFailures - 1)
		}
		out = append(out, failures[at])
	}
	return out
}
