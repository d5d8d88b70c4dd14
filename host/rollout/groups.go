package rollout

import "fmt"

// sampler decides which groups are rolled out, and which of them are kept (dynamic sampling, as in DAPO, arXiv
// 2503.14476).
//
// Groups 0 to Groups-1 begin. Each complete group that is outside of [KeepLow, KeepHigh] lets the group with
// the next id begin, within the budget. So the ids that were rolled out in the end are 0 to n-1 with the
// smallest n for which Groups of them are kept, or all Groups+ExtraGroups of the budget. This does not depend
// on the order in which groups complete: the last id began because n-Groups others were dropped, so every
// shorter prefix has fewer kept groups.
type sampler struct {
	plan    Plan
	groups  []Group // that have begun, by id
	open    []int   // episodes of each that are not rolled out yet
	invalid []int   // invalid episodes of each
}

// begin returns the episodes of the groups that may begin now.
func (s *sampler) begin() []*job {
	dropped := 0
	for g := range s.groups {
		if s.open[g] == 0 && !s.groups[g].Kept {
			dropped++
		}
	}
	var jobs []*job
	for g := len(s.groups); g < s.plan.Groups+min(dropped, s.plan.ExtraGroups); g++ {
		s.groups = append(s.groups, Group{ID: g, Task: s.plan.task(g).ID})
		s.invalid = append(s.invalid, 0)
		s.open = append(s.open, s.plan.GroupSize)
		jobs = append(jobs, s.plan.group(g)...)
	}
	return jobs
}

// rolled counts an episode, and returns its group when the group is now complete.
func (s *sampler) rolled(e *Episode) *Group {
	g := &s.groups[e.Group]
	if e.Success {
		g.Successes++
	}
	if e.Invalid != nil {
		s.invalid[e.Group]++
	}
	if s.open[e.Group]--; s.open[e.Group] > 0 {
		return nil
	}
	n := s.plan.GroupSize - s.invalid[e.Group]
	rate := float64(g.Successes) / float64(max(n, 1))
	switch {
	case n == 0:
		g.Reason = "all of its episodes are invalid"
	case rate < s.plan.KeepLow:
		g.Reason = fmt.Sprintf("success rate %.3g is below %.3g", rate, s.plan.KeepLow)
	case rate > s.plan.KeepHigh:
		g.Reason = fmt.Sprintf("success rate %.3g is above %.3g", rate, s.plan.KeepHigh)
	default:
		g.Kept = true
	}
	return g
}
