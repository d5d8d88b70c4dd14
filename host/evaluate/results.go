package evaluate

import (
	"fmt"
	"math"

	"github.com/srpo-dev/srpo/host/stats"
)

// Task is a line of tasks.jsonl: a task of an evaluation, in the env's order.
type Task struct {
	ID          string            `json:"id"`
	Suite       string            `json:"suite"`
	Instruction string            `json:"instruction,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
}

// Dimension returns what a variant changes ("camera"); empty when the env names no dimension.
func (t Task) Dimension() string { return t.Tags["dimension"] }

// Level returns how hard a variant is ("L3"); empty when the env names no level.
func (t Task) Level() string { return t.Tags["level"] }

// Episode is a line of episodes.jsonl.
type Episode struct {
	ID string `json:"id"`
	// Index is the episode's place in the whole evaluation, including all shards.
	Index      int    `json:"index"`
	Task       string `json:"task"`
	StartState int    `json:"start_state"`
	Repeat     int    `json:"repeat"`
	Seed       uint64 `json:"seed,string"`
	// Side of the split by seed: "train" or "test".
	Side       string `json:"side,omitempty"`
	Success    bool   `json:"success"`
	Terminated bool   `json:"terminated"`
	Truncated  bool   `json:"truncated"`
	// Steps are env steps. Progress is the env's own measure at the end, 0 to 1; nil: it has none.
	Steps    int      `json:"steps"`
	Progress *float64 `json:"progress,omitempty"`
}

// Outcome returns the kind of outcome, which distinguishes the kinds of failure in a report.
func (e Episode) Outcome() string {
	switch {
	case e.Success:
		return "success"
	case e.Terminated:
		return "ended by the env without success"
	case e.Progress == nil:
		return "out of steps"
	}
	quarter := int(4 * min(max(*e.Progress, 0), 0.99)) // an edited file may contain any number
	return "out of steps, progress " + [...]string{"below 25 %", "25 to 50 %", "50 to 75 %", "75 % and more"}[quarter]
}

// Score is a success rate with its Wilson 95 % interval.
type Score struct {
	Name      string  `json:"name"`
	Episodes  int     `json:"episodes"`
	Successes int     `json:"successes"`
	Rate      float64 `json:"success_rate"`
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
	// MeanSteps is the mean number of env steps over all episodes.
	MeanSteps float64 `json:"mean_steps"`
}

func (s *Score) add(e Episode) {
	s.Episodes++
	s.MeanSteps += float64(e.Steps)
	if e.Success {
		s.Successes++
	}
}

func (s *Score) close() {
	n := float64(max(1, s.Episodes))
	s.Rate = float64(s.Successes) / n
	s.MeanSteps /= n
	s.Low, s.High = stats.Wilson(s.Rate, s.Episodes)
}

func (s Score) String() string {
	return fmt.Sprintf("%.1f %% [%.1f, %.1f]", 100*s.Rate, 100*s.Low, 100*s.High)
}

// Group is a dimension with its levels.
type Group struct {
	Score
	// Levels are in ascending order. Episodes without a level have the name "".
	Levels []Score `json:"levels,omitempty"`
}

// Totals are the two means of several groups. Published tables use both.
type Totals struct {
	// Of is what the groups are: "dimensions" or "suites".
	Of string `json:"of"`
	// Mean is the unweighted mean of the groups' rates. Its interval combines the groups' Wilson intervals by
	// squaring and adding (MOVER, Zou and Donner 2008, https://doi.org/10.1002/sim.3095).
	Mean float64 `json:"plain_mean"`
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Weighted is the success rate over all episodes.
	Weighted Score `json:"weighted"`
}

// Split relates the episodes to those that the policy was trained on.
type Split struct {
	// Used is the side that was evaluated: "all", "train" or "test". By is what is divided: "start" (the start
	// states of each task) or "task".
	Used          string  `json:"used"`
	By            string  `json:"by"`
	TrainFraction float64 `json:"train_fraction"`
	// TrainedOn is the side that the checkpoint's run trained on; empty when the checkpoint belongs to no run,
	// or to a run with another split.
	TrainedOn string `json:"trained_on,omitempty"`
	// Train and Test score the episodes of each side.
	Train Score `json:"train"`
	Test  Score `json:"test"`
}

// Kind counts the episodes of a group with the same outcome.
type Kind struct {
	Group    string `json:"group"`
	Outcome  string `json:"outcome"`
	Success  bool   `json:"success"`
	Episodes int    `json:"episodes"`
	// Examples are the first episodes that have a video.
	Examples []Example `json:"examples,omitempty"`
}

// Example is an episode with its video, a path relative to the evaluation's folder.
type Example struct {
	ID    string `json:"id"`
	Steps int    `json:"steps"`
	Video string `json:"video"`
}

// Results is results.json.
type Results struct {
	Dir        string `json:"dir"`
	Checkpoint string `json:"checkpoint"`
	Env        string `json:"env"`
	Policy     string `json:"policy"`
	// States is the side of the split. Mode is "greedy", or describes how actions were sampled.
	States string `json:"states"`
	Mode   string `json:"mode"`
	Seed   uint64 `json:"seed,string"`
	// Shard is "I/N" for a part of an evaluation.
	Shard string `json:"shard,omitempty"`
	// All is over all episodes. Suites, Dimensions and Tasks are in the env's order.
	All        Score       `json:"all"`
	Suites     []Score     `json:"suites"`
	Dimensions []Group     `json:"dimensions,omitempty"`
	Totals     *Totals     `json:"totals,omitempty"`
	Split      Split       `json:"split"`
	Kinds      []Kind      `json:"kinds"`
	Published  []Published `json:"published,omitempty"`
	// LeftOut counts the matching tasks that cannot run here, by the reason.
	LeftOut map[string]int `json:"left_out,omitempty"`
	Tasks   []Score        `json:"tasks"`
	// Repeats is the number of episodes from a start state that another episode had before.
	Repeats int `json:"repeats,omitempty"`
	// EnvSteps are those of all episodes. Seconds and Rolled are of the last call only, which continues a
	// stopped evaluation.
	EnvSteps int64   `json:"env_steps"`
	Seconds  float64 `json:"seconds"`
	Rolled   int     `json:"rolled"`
}

// plainMean returns the unweighted mean of the groups' rates. Its interval combines theirs by squaring and adding.
func plainMean(of string, groups []Score, all Score) *Totals {
	t := &Totals{Of: of, Weighted: all}
	t.Weighted.Name = "weighted"
	var below, above float64
	for _, g := range groups {
		t.Mean += g.Rate
		below += (g.Rate - g.Low) * (g.Rate - g.Low)
		above += (g.High - g.Rate) * (g.High - g.Rate)
	}
	k := float64(len(groups))
	t.Mean /= k
	t.Low, t.High = max(0, t.Mean-math.Sqrt(below)/k), min(1, t.Mean+math.Sqrt(above)/k)
	return t
}
