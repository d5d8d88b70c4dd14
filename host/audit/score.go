// Package audit scores attempts that nobody trains on, and measures whether the score is any good: how well
// it tells success from failure, how well it orders time and progress, and how it takes the controls that a
// good reward must see through.
//
// Every function here is arithmetic on embeddings: the same input gives the same output, whatever the
// machine. Random numbers (bootstrap, random vectors) come from a seed.
package audit

import (
	"fmt"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/srpo"
)

// Score is what an attempt got.
type Score struct {
	ID   string `json:"id"`
	Task string `json:"task"`
	// Success is the label that it came with; null: none.
	Success *bool `json:"success"`
	// Reward is 1 for a success and 0 <= reward < 1 for anything else; 0 where Dropped.
	Reward float64 `json:"reward"`
	// Distance to the nearest centre of the task's successes, in the units of the embedding (a success's
	// own share is first taken out of its centre), and the centre's number; null where none was measured.
	Distance *float64 `json:"distance"`
	Centre   *int     `json:"centre"`
	// Dropped: the attempt could not be scored, for the Reason. A success without a usable embedding has a
	// Reason too, and keeps its reward of 1.
	Dropped bool   `json:"dropped"`
	Reason  string `json:"reason,omitempty"`
	// Note is worth knowing and no obstacle: how a clip was shortened, for example.
	Note string `json:"note,omitempty"`
	// Frames of the clip that was embedded; 0 where the embedding was given.
	Frames int `json:"frames,omitempty"`
	// Steps, Progress and Video are what the attempt came with.
	Progress *float64 `json:"progress,omitempty"`
	Video    string   `json:"video,omitempty"`
}

// Task says how a task's attempts were scored.
type Task struct {
	Name       string `json:"task"`
	Attempts   int    `json:"attempts"`
	Successes  int    `json:"successes"`
	Failures   int    `json:"failures"`
	Unlabelled int    `json:"unlabelled"`
	Dropped    int    `json:"dropped"`
	// Unusable counts embeddings that could not be used, those of successes among them.
	Unusable int `json:"unusable"`
	// References were clustered into Centres of Sizes members each; Noise of them belong to none.
	References int   `json:"references"`
	Centres    int   `json:"centres"`
	Sizes      []int `json:"sizes"`
	Noise      int   `json:"noise"`
	// MeanDistance and StdDistance are over the failures, in the units of the embedding.
	MeanDistance float64 `json:"mean_distance"`
	StdDistance  float64 `json:"std_distance"`
	// Reward is the form that was used; it differs from the one asked for where Notes say why.
	Reward string   `json:"reward"`
	Notes  []string `json:"notes,omitempty"`
}

// Scores are a list's scores in the order of the input, and its tasks in the order of their names.
type Scores struct {
	Attempts []Score `json:"attempts"`
	Tasks    []Task  `json:"tasks"`
}

// Scored is all that one encoder's embeddings gave.
type Scored struct {
	// Encoder's name and version, empty where embeddings were given; Dimension is the length of its vectors.
	Encoder        string `json:"encoder"`
	EncoderVersion string `json:"encoder_version,omitempty"`
	// EncoderPlugin is the plugin where Encoder is a name that the caller gave it; EncoderModel says which
	// weights, where it has some.
	EncoderPlugin string `json:"encoder_plugin,omitempty"`
	EncoderModel  string `json:"encoder_model,omitempty"`
	Dimension     int    `json:"dimension"`
	Scores
	Metrics Metrics `json:"metrics"`
	// Curves are here when they were asked for.
	Curves []Curve `json:"curves,omitempty"`
}

// Metrics say whether the reward is any good: on clips as they are, and cut to the shortest of each task.
type Metrics struct {
	Measured
	EqualLength *EqualLength `json:"equal_length,omitempty"`
	Bootstrap   int          `json:"bootstrap"`
	Seed        uint64       `json:"seed"`
	// Definitions say what each measure is, by its name.
	Definitions map[string]string `json:"definitions"`
}

// EqualLength are the measures on clips cut to the shortest labelled one of their task, of so many Frames.
type EqualLength struct {
	Frames map[string]int `json:"frames"`
	Measured
}

// Reward scores attempts by their embeddings, one for each attempt (nil: it has none, and list[i].Problem
// says why). It is srpo.ScoreBatch on one batch: attempts without a label are paid as failures and change
// nobody else's reward. With references "demos" the attempts marked so are the references; with "memory"
// they count beside the others. Errors: those of srpo.ScoreBatch, which name the option that is wrong.
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
		// there are no earlier iterations here: what is remembered is in the batch
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
	for i, s := range scored.Scores {
		a := list[i]
		o := Score{ID: a.ID, Task: a.Task, Success: a.Success, Reward: s.Reward, Dropped: s.Dropped,
			Reason: s.Reason, Progress: a.Progress, Video: a.Video}
		if s.Centre >= 0 {
			o.Distance, o.Centre = &s.Distance, &s.Centre
		}
		if a.Problem != "" && len(embeddings[i]) == 0 {
			o.Reason = a.Problem
		}
		out.Attempts[i] = o
	}
	for _, t := range scored.Tasks {
		task := Task{Name: t.Task, Attempts: t.Successes + t.Failures + t.Unlabelled, Successes: t.Successes,
			Failures: t.Failures, Unlabelled: t.Unlabelled,
			Dropped: t.Dropped, Unusable: t.Unusable, References: t.References, Centres: t.Clusters,
			Sizes: t.Sizes, Noise: t.Noise, MeanDistance: t.MeanDistance,
			StdDistance: t.StdDistance, Reward: string(t.Kind), Notes: t.Notes}
		if task.Sizes == nil {
			task.Sizes = []int{}
		}
		if task.Attempts == 1 {
			task.Notes = append(task.Notes, "it is the task's only attempt, so there is nothing to compare it with")
		}
		if t.Repeated > 0 {
			task.Notes = append(task.Notes, fmt.Sprintf("%d attempts have the very embedding of another one; "+
				"attempts that share a video share a reward", t.Repeated))
		}
		out.Tasks = append(out.Tasks, task)
	}
	return out, nil
}

// Rollouts are attempts as host/srpo takes them.
func Rollouts(list []attempts.Attempt, embeddings [][]float64) []srpo.Rollout {
	out := make([]srpo.Rollout, len(list))
	for i, a := range list {
		out[i] = srpo.Rollout{ID: a.ID, Task: a.Task, Success: a.Success != nil && *a.Success,
			Unlabelled: a.Success == nil, Embedding: embeddings[i], Progress: a.Progress}
	}
	return out
}
