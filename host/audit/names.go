package audit

import (
	"fmt"
	"math"
)

// Name describes a measure.
type Name struct {
	Key   string `json:"key"`
	Title string `json:"title"`
	Doc   string `json:"doc"`
	// Control marks a control: a reward or a change of the attempts with a known answer.
	Control bool `json:"control,omitempty"`
	// Blind is the expected value of a reward that carries no signal; NaN if there is no such value.
	Blind float64 `json:"-"`
}

// Names lists all measures in the order in which they are shown.
var Names = []Name{
	{"sc", "SC", "Spearman correlation of frame index and progress, for successes measured against the end of their " +
		"own video", false, math.NaN()},
	{"mono", "Mono", "share of steps with more progress than the step before, for the same curves", false,
		math.NaN()},
	{"mmd", "MMD", "maximum mean discrepancy between the final progress of successes and of failures (RBF kernel, " +
		"bandwidth: median distance; square root of the biased estimate)", false, 0},
	{"js", "JS", fmt.Sprintf("Jensen-Shannon divergence between the final progress of successes and of failures, in "+
		"nats, at most 0.693 (%d equal bins from 0 to 1)", Bins), false, 0},
	{"smd", "SMD", "mean final progress of successes minus that of failures, in pooled standard deviations",
		false, 0},
	{"auroc", "AUROC", "probability that a success is closer to the held-out centres than a failure", false, 0.5},
	{"voc", "VOC", "Spearman correlation of frame index and closeness to the held-out centres, for successes",
		false, 0},
	{"order", "order accuracy", "share of pairs of frames of a success that closeness to the held-out centres puts " +
		"in the right order", false, 0.5},
	{"failure_voc", "VOC of failures", "Spearman correlation of frame index and closeness to the centres, for " +
		"failures",
		false, 0},
	{"progress_rank", "rank with progress", "Spearman correlation of closeness to the centres and the given " +
		"progress, for failures", false, 0},
	{"progress_order", "order with progress", "share of pairs of failures that closeness to the centres and the " +
		"given progress put in the same order", false, 0.5},
	{"length_auroc", "length alone: AUROC", "AUROC of a score that only prefers short clips; 0.5 for clips of equal " +
		"length", true, 0.5},
	{"random_auroc", "random vectors: AUROC", "AUROC of random embeddings; expected near 0.5", true, 0.5},
	{"random_sc", "random vectors: SC", "SC of progress curves of random embeddings", true, 0},
	{"random_mono", "random vectors: Mono", "Mono of progress curves of random embeddings", true, 0.5},
	{"time_auroc", "time only: AUROC", "AUROC of the final value of the progress t/T, which is 1 for every clip; " +
		"always 0.5", true, 0.5},
	{"time_sc", "time only: SC", "SC of the progress t/T; always 1, so a high SC alone proves nothing", true, 1},
	{"time_mono", "time only: Mono", "Mono of the progress t/T; always 1, so a high Mono alone proves nothing",
		true, 1},
	{"reversed_auroc", "reversed: told apart", "probability that a success is closer than a success played " +
		"backwards; 0.5 if the reward cannot tell them apart", true, 0.5},
	{"stalled_auroc", "stalled: told apart", "probability that a success is closer than a success that stops half " +
		"way; 0.5 if the reward cannot tell them apart", true, 0.5},
	{"other_auroc", "other task: told apart", "probability that a success is closer than a success of another task; " +
		"0.5 if the reward cannot tell them apart", true, 0.5},
}

// Definitions returns the meaning of each measure by its key.
func Definitions() map[string]string {
	out := map[string]string{}
	for _, n := range Names {
		out[n.Key] = n.Doc
	}
	return out
}
