package rollout

import "fmt"

// sampler decides which groups are rolled, and which of them are kept (dynamic sampling).
//
// Groups 0 to Groups-1 begin. Each one that is found to be outside of [KeepLow, KeepHigh] lets the next id begin, within the budget. Nothing is begun in
// the hope of being needed, so in the end the ids that were rolled are 0 to n-1 with the smallest n for which Groups of them are kept, or all
// Groups+ExtraGroups of the budget, whatever the order in which they came back: the last id began because n-Groups others had been dropped, so
// every shorter prefix holds fewer kept groups.
type sampler struct {
	plan   Plan
	groups []Group // begun, by id
	open   []int   // episodes of each that are still out
	invalid []int   // episodes of each that count for nothing
}

// begin returns the episodes of groups that may begin now.
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

// rolled counts an episode, and returns its group when that is now complete.
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
		g.Reason = "no episode of it can be used"
	case rate < s.plan.KeepLow:
		g.Reason = fmt.Sprintf("success rate %.3g is below %.3g", rate, s.plan.KeepLow)
	case rate > s.plan.KeepHigh:
		g.Reason = fmt.Sprintf("success rate %.3g is above %.3g", rate, s.plan.KeepHigh)
	default:
		g.Kept = true
	}
	return g
}
