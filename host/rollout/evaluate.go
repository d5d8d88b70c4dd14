package rollout

import (
	"context"
	"fmt"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Trial is an episode of an evaluation.
type Trial struct {
	Task       env.Task
	StartState int
	// Repeat tells trials of one start state apart.
	Repeat int
}

// Evaluation is a list of trials, each rolled exactly once.
type Evaluation struct {
	Rules
	// Name begins the trials' ids, e.g. "eval/000010": what is unique in the run. It is not in the seeds, so that two policies meet the same episodes.
	Name string
	Seed uint64
	// Trials in the order in which the result has them; no two may be the same.
	Trials []Trial
	// Have holds episodes that are there already, by id: they are not rolled again.
	Have map[string]Episode
	// OnEpisode, when set, is called with each episode that was rolled, in the order of completion and never twice at a time, with what the result will have
	// (but for frames that do not fit in the end). An episode is complete when it is embedded too, if it is to be.
	OnEpisode func(Episode)
}

// ID is "<name>/<task>/<start state>/<repeat>", the name of trial i.
func (e Evaluation) ID(i int) string {
	t := e.Trials[i]
	return fmt.Sprintf("%s/%s/%d/%d", e.Name, t.Task.ID, t.StartState, t.Repeat)
}

// Evaluate rolls each trial once and returns the episodes in the order of the list, those that were there already among them. Faults are survived, and
// errors returned, as by [Scheduler.Run]; what was finished before an error went to OnEpisode. A trial that is invalid (see [Episode.Invalid]) is a failure; when
// there is more than one and they are more than a fifth, that is the error.
func (s *Scheduler) Evaluate(ctx context.Context, e Evaluation) ([]Episode, Timing, error) {
	s = s.withDefaults()
	jobs, err := s.trials(e)
	if err != nil {
		return nil, Timing{}, err
	}
	r, err := s.start(ctx, e.Rules)
	if err != nil {
		return nil, Timing{}, err
	}
	rolled := map[int]*Episode{}
	r.add(jobs)
	err = r.collect(len(jobs), func(*Episode) {}, func(ep *Episode) {
		rolled[ep.Index] = ep
		if e.OnEpisode != nil {
			e.OnEpisode(*ep)
		}
	})
	timing, err := r.end(err)
	if err != nil {
		return nil, timing, err
	}

	episodes := make([]Episode, len(e.Trials))
	for i := range episodes {
		if ep, ok := rolled[i]; ok {
			episodes[i] = *ep
		} else {
			episodes[i] = e.Have[e.ID(i)]
		}
	}
	return episodes, timing, nil
}

// trials checks an evaluation and lists what is to be rolled.
func (s *Scheduler) trials(e Evaluation) ([]*job, error) {
	if err := s.checkRules(e.Rules); err != nil {
		return nil, err
	}
	var jobs []*job
	seen := map[string]bool{}
	for i, t := range e.Trials {
		if err := checkTask(t.Task, e.Rules); err != nil {
			return nil, err
		}
		if err := checkState(t.Task, t.StartState); err != nil {
			return nil, err
		}
		id := e.ID(i)
		if seen[id] {
			return nil, plugins.Errorf(plugins.Invalid, "trial %s is listed twice", id).WithHint("give repeated trials different Repeat numbers")
		}
		seen[id] = true
		if _, ok := e.Have[id]; ok {
			continue
		}
		jobs = append(jobs, &job{task: t.Task, episode: Episode{ID: id, Index: i, Task: t.Task.ID, StartState: t.StartState,
			Seed: Seed(e.Seed, "trial", t.Task.ID, t.StartState, t.Repeat)}})
	}
	return jobs, nil
}
