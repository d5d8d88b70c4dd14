package train

import (
	"sort"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
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

// saveVideos keeps some episodes as short videos: failures with the most and the least reward, and successes.
func (r *run) saveVideos(i int, result *rollout.Result, scores []srpo.Score, advantages []srpo.Advantage) error {
	if r.cfg.Run.Videos == 0 {
		return nil
	}
	instruction := map[string]string{}
	for _, t := range r.session.Tasks {
		instruction[t.ID] = t.Instruction
	}
	adv := map[string]float64{}
	for _, a := range advantages {
		adv[a.ID] = a.Value
	}
	var failures, successes []pick
	k := 0
	for _, g := range result.Groups {
		for _, e := range g.Episodes {
			s := scores[k]
			k++
			switch {
			case e.Frames.IsZero():
			case e.Success:
				successes = append(successes, pick{e, s})
			default:
				failures = append(failures, pick{e, s})
			}
		}
	}
	for _, p := range choose(failures, successes, r.cfg.Run.Videos) {
		e := p.episode
		meta := store.Episode{ID: e.ID, Iteration: i, Task: e.Task, Instruction: instruction[e.Task], Group: e.Group, Index: e.Index, StartState: e.StartState,
			Seed: e.Seed, Success: e.Success, Reward: p.score.Reward, Advantage: adv[e.ID], Steps: e.Steps, RecordEvery: r.cfg.Rollout.RecordEvery}
		if p.score.Centre >= 0 {
			d := p.score.Distance
			meta.Distance = &d
		}
		if _, err := r.folder.SaveEpisode(meta, e.Frames); err != nil {
			return err
		}
	}
	return nil
}
