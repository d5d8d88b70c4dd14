// Package audit scores attempts that nobody trains on and measures the quality of the scores: how well they separate
// successes from failures, how well they order time and progress, and whether they pass controls with a known answer.
//
// All functions compute on embeddings, and the same input gives the same output on every machine. Random numbers
// (bootstrap, random vectors) come from a seed.
package audit

import (
	"fmt"
	"slices"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/srpo"
)

// Score is the result for one attempt.
type Score struct {
	ID   string `json:"id"`
	Task string `json:"task"`
	// Success is the given label; nil if there is none.
	Success *bool `json:"success"`
	// Reward is 1 for a success and 0 <= reward < 1 otherwise; 0 if Dropped.
	Reward float64 `json:"reward"`
	// Distance is the distance to the nearest centre of the task's successes, in the units of the embedding, and
	// Centre the index of that centre. A success is first removed from its own centre. Both are nil if nothing
	// was measured.
	Distance *float64 `json:"distance"`
	Centre   *int     `json:"centre"`
	// Dropped reports that the attempt could not be scored, and Reason why.
	Dropped bool   `json:"dropped"`
	Reason  string `json:"reason,omitempty"`
	// Note is a remark that does not affect the score, for example how a clip was shortened.
	Note string `json:"note,omitempty"`
	// Frames is the length of the clip that was embedded; 0 if the embedding was given.
	Frames int `json:"frames,omitempty"`
	// Progress and Video are copied from the attempt.
	Progress *float64 `json:"progress,omitempty"`
	Video    string   `json:"video,omitempty"`
}

// Task describes how the attempts at one task were scored.
type Task struct {
	Name       string `json:"task"`
	Attempts   int    `json:"attempts"`
	Successes  int    `json:"successes"`
	Failures   int    `json:"failures"`
	Unlabelled int    `json:"unlabelled"`
	Dropped    int    `json:"dropped"`
	// Measured is the number of failures and unlabelled attempts that have a distance.
	Measured int `json:"measured"`
	// Unusable is the number of embeddings that cannot be used, those of successes included.
	Unusable int `json:"unusable"`
	// References is the number of reference embeddings. They were clustered into Centres with Sizes members each;
	// Noise of them are in no cluster.
	References int   `json:"references"`
	Centres    int   `json:"centres"`
	Sizes      []int `json:"sizes"`
	Noise      int   `json:"noise"`
	// MeanDistance and StdDistance are taken over the failures, in the units of the embedding.
	MeanDistance float64 `json:"mean_distance"`
	StdDistance  float64 `json:"std_distance"`
	// Reward is the reward kind that was used. If it differs from the requested kind, Notes give the reason.
	Reward string   `json:"reward"`
	Notes  []string `json:"notes,omitempty"`
}

// Scores contains the scores in the order of the attempts, and the tasks in the order of their names.
type Scores struct {
	Attempts []Score `json:"attempts"`
	Tasks    []Task  `json:"tasks"`
}

// Scored is the result for the embeddings of one encoder.
type Scored struct {
	// Encoder and EncoderVersion are empty if embeddings were given. Dimension is the length of an embedding.
	Encoder        string `json:"encoder"`
	EncoderVersion string `json:"encoder_version,omitempty"`
	// EncoderPlugin is the name of the plugin if Encoder is a name that the caller gave it. EncoderModel
	// identifies the weights, if the encoder has any.
	EncoderPlugin string `json:"encoder_plugin,omitempty"`
	EncoderModel  string `json:"encoder_model,omitempty"`
	Dimension     int    `json:"dimension"`
	Scores
	Metrics Metrics `json:"metrics"`
	// Curves is present if it was requested.
	Curves []Curve `json:"curves,omitempty"`
}

// Metrics are the measures of the reward's quality, on clips as they are and on clips of equal length.
type Metrics struct {
	Measured
	EqualLength *EqualLength `json:"equal_length,omitempty"`
	Bootstrap   int          `json:"bootstrap"`
	Seed        uint64       `json:"seed"`
	// Definitions explains each measure, by its key.
	Definitions map[string]string `json:"definitions"`
}

// EqualLength contains the measures on clips that were cut to the shortest labelled clip of their task. Frames is
// that length by task.
type EqualLength struct {
	Frames map[string]int `json:"frames"`
	Measured
}

// Reward scores attempts by their embeddings. embeddings has one element per attempt; it is nil if there is none, and
// list[i].Problem then gives the reason. Reward is [srpo.ScoreBatch] on a single batch: attempts without a label are
// rewarded as failures and do not change other rewards. With references "demos" the attempts marked as demonstrations
// are the references, with "memory" they are added to the successes. The errors are those of srpo.ScoreBatch, which
// name the invalid option.
func Reward(list []attempts.Attempt, embeddings [][]float64, anchors map[string][]float64,
	opt srpo.RewardOptions) (Scores, error) {
	rollouts := Rollouts(list, embeddings)
	known := srpo.Known{Anchors: anchors}
	switch opt.References {
	case srpo.ReferencesDemos:
		known.Demos = map[string][][]float64{}
		for i, a := range list {
			if a.Demo && len(embeddings[i]) > 0 {
				known.Demos[a.Task] = append(known.Demos[a.Task], embeddings[i])
			}
		}
	case srpo.ReferencesMemory:
		// There are no earlier iterations here, so the memory is empty.
		memory, err := srpo.NewMemory(1)
		if err != nil {
			return Scores{}, err
		}
		known.Memory = memory
	}
	scored, err := srpo.ScoreBatch(rollouts, known, opt)
	if err != nil {
		return Scores{}, err
	}
	out := Scores{Attempts: make([]Score, len(list))}
	tasks := map[string]*rewards{}
	for i, s := range scored.Rollouts {
		a := list[i]
		o := Score{ID: a.ID, Task: a.Task, Success: a.Success, Reward: s.Reward, Dropped: s.Dropped,
			Reason: s.Reason, Progress: a.Progress, Video: a.Video}
		if s.Centre >= 0 {
			o.Distance, o.Centre = new(s.Distance), new(s.Centre)
		}
		if s.Reason != "" && opt.Kind.Embeds() { // a run rewards such a success; here nothing is known about its video
			o.Reward, o.Dropped = 0, true
		}
		if tasks[a.Task] == nil {
			tasks[a.Task] = &rewards{}
		}
		tasks[a.Task].add(o)
		if a.Problem != "" && len(embeddings[i]) == 0 {
			o.Reason = a.Problem
		}
		out.Attempts[i] = o
	}
	for _, t := range scored.Tasks {
		task := Task{Name: t.Task, Attempts: t.Successes + t.Failures + t.Unlabelled, Successes: t.Successes,
			Failures: t.Failures, Unlabelled: t.Unlabelled, Dropped: tasks[t.Task].dropped,
			Measured: len(tasks[t.Task].distances), Unusable: t.Unusable,
			References: t.References, Centres: t.Clusters, Sizes: t.Sizes, Noise: t.Noise,
			MeanDistance: t.MeanDistance, StdDistance: t.StdDistance, Reward: string(t.Kind), Notes: t.Notes}
		if task.Sizes == nil {
			task.Sizes = []int{}
		}
		if task.Attempts == 1 {
			task.Notes = append(task.Notes, "the task has only one attempt, so there is nothing to compare it with")
		}
		if note := tasks[t.Task].sameReward(); note != "" {
			task.Notes = append(task.Notes, note)
		}
		if t.Repeated > 0 {
			task.Notes = append(task.Notes, fmt.Sprintf("%d with the same embedding as another attempt; "+
				"attempts that share a video share a reward", t.Repeated))
		}
		out.Tasks = append(out.Tasks, task)
	}
	return out, nil
}

// rewards are the results of the attempts at one task that are not successes, and the number of dropped attempts.
type rewards struct {
	dropped, failures  int
	distances, rewards []float64
}

func (r *rewards) add(s Score) {
	if s.Dropped {
		r.dropped++
		return
	}
	if s.Distance == nil || s.Success != nil && *s.Success {
		return
	}
	if s.Success != nil {
		r.failures++
	}
	r.distances, r.rewards = append(r.distances, *s.Distance), append(r.rewards, s.Reward)
}

// sameReward returns a note if attempts at different distances all have the same reward; "" otherwise.
func (r *rewards) sameReward() string {
	if len(r.rewards) < 2 || slices.Min(r.distances) == slices.Max(r.distances) ||
		slices.Max(r.rewards)-slices.Min(r.rewards) > 1e-9 {
		return ""
	}
	note := fmt.Sprintf("all %d attempts that are not successes have the reward %.3f, although their distances differ",
		len(r.rewards), r.rewards[0])
	if r.failures < 2 {
		return note + ": fewer than 2 failures give no scale to compare distances with; label at least 2"
	}
	return note + ": the distances of the failures have no spread to compare with"
}

// Rollouts converts attempts to the input of package srpo.
func Rollouts(list []attempts.Attempt, embeddings [][]float64) []srpo.Rollout {
	out := make([]srpo.Rollout, len(list))
	for i, a := range list {
		out[i] = srpo.Rollout{ID: a.ID, Task: a.Task, Success: a.Success != nil && *a.Success,
			Unlabelled: a.Success == nil, Embedding: embeddings[i], Progress: a.Progress}
	}
	return out
}
