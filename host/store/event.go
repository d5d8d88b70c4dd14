package store

import (
	"fmt"
	"maps"
	"time"

	"github.com/srpo-dev/srpo/plugins"
)

// EventType is the type of an [Event].
type EventType string

// The types of events.
const (
	Started        EventType = "started"         // the run started
	ResumedRun     EventType = "resumed"         // the run continues from a checkpoint
	Imitated       EventType = "imitated"        // the starting policy was trained on demonstrations
	PluginStarted  EventType = "plugin_started"  // a plugin's process is ready
	PluginFailed   EventType = "plugin_failed"   // a plugin died, hung or sent an invalid reply
	EpisodeRetried EventType = "episode_retried" // an episode is repeated from its seed
	// a group was outside keep_low to keep_high, or lost too many episodes
	GroupDropped EventType = "group_dropped"
	// an embedding was unusable and its episode, or reference, left out
	EmbeddingDropped EventType = "embedding_dropped"
	EpisodeDropped   EventType = "episode_dropped" // the policy's output in an episode was unusable
	Solved           EventType = "solved"          // the run ended early: nothing was left to learn
	Evaluated        EventType = "evaluated"       // an evaluation ended, see Event.Evaluation
	Committed        EventType = "committed"       // an iteration was committed
	Warning          EventType = "warning"         // something that a person should know
	Interrupted      EventType = "interrupted"     // the user stopped the run
	Failed           EventType = "failed"          // the run ended with an error
	Finished         EventType = "finished"        // all iterations are done
)

// Event is something that happened in a run, a line of events.jsonl.
type Event struct {
	// Time is set by [Run.Append] if it is zero.
	Time      time.Time `json:"time"`
	Type      EventType `json:"type"`
	Iteration int       `json:"iteration"`
	Message   string    `json:"message,omitempty"`
	// Place, Hint and Detail are those of a *plugins.Error.
	Place      string         `json:"place,omitempty"`
	Hint       string         `json:"hint,omitempty"`
	Detail     string         `json:"detail,omitempty"`
	Evaluation *Evaluation    `json:"evaluation,omitempty"`
	Data       map[string]any `json:"data,omitempty"`
}

// Evaluation is the result of greedy episodes without learning.
type Evaluation struct {
	// EnvSteps counts the env steps of training before the evaluation, so that a plot can share the axis of the
	// training curve.
	EnvSteps int64 `json:"env_steps"`
	Episodes int   `json:"episodes"`
	// SuccessRate is the mean over Episodes. StartStates is the side of the split that they were drawn from.
	SuccessRate float64            `json:"success_rate"`
	StartStates string             `json:"start_states,omitempty"`
	ByTask      map[string]float64 `json:"by_task,omitempty"`
}

// ErrorEvent returns an event of type t that reports err.
func ErrorEvent(t EventType, iteration int, err error) Event {
	e := plugins.AsError(err)
	return Event{Type: t, Iteration: iteration, Message: e.Message, Place: e.Place, Hint: e.Hint, Detail: e.Detail}
}

// finiteOnly returns m with each NaN or infinite number, which JSON cannot represent, replaced by its name.
func finiteOnly(m map[string]any) map[string]any {
	var result map[string]any
	for k, v := range m {
		f, ok := v.(float64)
		if !ok || finite(f) {
			continue
		}
		if result == nil {
			result = maps.Clone(m)
		}
		result[k] = fmt.Sprint(f)
	}
	if result == nil {
		return m
	}
	return result
}
