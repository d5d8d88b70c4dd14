package rollout

import "context"

// Run rolls one iteration's groups, encodes their episodes meanwhile, and returns them in the order of ids.
//
// Groups whose success rate is outside of the plan's range are dropped and replaced by the next id, within the budget. Which ids are rolled is a fixed point
// that depends on nothing but the plan and the policy: the smallest prefix of ids that holds Plan.Groups kept groups, or else the whole budget; so Result
// may hold fewer kept groups than were asked for, which is no error. Episodes that are invalid (see [Episode.Invalid]) are left out of their groups; when there is
// more than one and they are more than a fifth of all, that is the error. What the policy recorded for dropped groups is forgotten.
//
// Errors are *plugins.Error values: Invalid for the plan, [ErrPolicyLost] in the chain when the policy has to be loaded again, Canceled (or Deadline) with
// ctx's own error in the chain when ctx ended, and else what an episode, naming it, or a plugin could not recover from. Every goroutine has ended when Run
// returns.
func (s *Scheduler) Run(ctx context.Context, p Plan) (*Result, error) {
	s = s.withDefaults()
	if err := s.checkPlan(p); err != nil {
		return nil, err
	}
	r, err := s.start(ctx, p.Rules)
	if err != nil {
		return nil, err
	}
	groups := sampler{plan: p}
	episodes := map[string]*Episode{}
	r.add(groups.begin())
	err = r.collect((p.Groups+p.ExtraGroups)*p.GroupSize, func(e *Episode) {
		episodes[e.ID] = e
		g := groups.rolled(e)
		if g == nil {
			return
		}
		r.add(groups.begin())
		if !g.Kept && p.Record {
			r.policy.forgetLater(ids(p.group(g.ID)))
		}
	}, func(*Episode) {})
	timing, err := r.end(err)
	if err != nil {
		return nil, err
	}

	result := &Result{Groups: groups.groups, Timing: timing}
	for g := range result.Groups {
		for _, j := range p.group(g) {
			e := episodes[j.episode.ID]
			if e.Invalid != nil {
				result.Invalid = append(result.Invalid, *e)
			} else {
				result.Groups[g].Episodes = append(result.Groups[g].Episodes, *e)
			}
			result.EnvSteps += e.Steps
		}
	}
	if err := tooManyInvalid(r.invalid, len(episodes), r.lastInvalid); err != nil {
		return nil, err
	}
	return result, nil
}

func ids(jobs []*job) []string {
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		ids[i] = j.episode.ID
	}
	return ids
}
