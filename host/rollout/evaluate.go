package rollout

import (
	"context"
	"fmt"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Trial is an episode to roll out: a task and a start state.
type Trial struct {
	Task       env.Task
	StartState int
	// Repeat distinguishes trials of one start state.
	Repeat int
}

// id is "<name>/<task>/<start state>/<repeat>".
func (t Trial) id(name string) string {
	return fmt.Sprintf("%s/%s/%d/%d", name, t.Task.ID, t.StartState, t.Repeat)
}

// job returns the trial as number i of a list.
func (t Trial) job(i int, id string, a Actor, seed uint64) *job {
	e := Episode{ID: id, Index: i, Task: t.Task.ID, StartState: t.StartState, Seed: seed}
	return &job{task: t.Task, actor: a, episode: e}
}

// Evaluation is a list of trials, each rolled out once.
type Evaluation struct {
	Rules
	// Name begins the trials' ids, e.g. "eval/000010". It must be unique in the run. Seeds do not depend on it,
	// so that two policies meet the same episodes.
	Name string
	Seed uint64
	// Trials in the order of the result, without duplicates.
	Trials []Trial
	// Have contains finished episodes by id: they are not rolled out again.
	Have map[string]Episode
	// OnEpisode, when set, is called with each episode that was rolled out, and embedded where that is asked
	// for, in the order of completion and never concurrently. It gets what the result contains, except for
	// frames that do not fit in the end.
	OnEpisode func(Episode)
}

// ID is "<name>/<task>/<start state>/<repeat>", the id of trial i.
func (e Evaluation) ID(i int) string { return e.Trials[i].id(e.Name) }

// Evaluate rolls out each trial once and returns the episodes in the order of the list, including those of
// Have. Faults are survived, and errors returned, as by [Scheduler.Run]; OnEpisode gets what was finished
// before an error. An invalid trial (see [Episode.Invalid]) is a failure. It is an error when there is more
// than one and they are more than a fifth.
func (s *Scheduler) Evaluate(ctx context.Context, e Evaluation) ([]Episode, Timing, error) {
	s = s.withDefaults()
	jobs, err := s.trials(e)
	if err != nil {
		return nil, Timing{}, err
	}
	x, err := s.start(ctx, e.Rules, true)
	if err != nil {
		return nil, Timing{}, err
	}
	rolled := map[int]*Episode{}
	x.add(jobs)
	err = x.collect(len(jobs), handlers{finished: func(ep *Episode) {
		rolled[ep.Index] = ep
		if e.OnEpisode != nil {
			e.OnEpisode(*ep)
		}
	}})
	timing, err := x.end(err)
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

// trials checks an evaluation and lists the episodes that Have does not contain.
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
			return nil, plugins.Errorf(plugins.Invalid, "trial %s is listed twice", id).
				WithHint("give repeated trials different Repeat numbers")
		}
		seen[id] = true
		if _, ok := e.Have[id]; ok {
			continue
		}
		seed := Seed(e.Seed, "trial", t.Task.ID, t.StartState, t.Repeat)
		jobs = append(jobs, t.job(i, id, Actor{Policy: true, Greedy: e.Greedy}, seed))
	}
	return jobs, nil
}
