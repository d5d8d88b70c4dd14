package session

import (
	"context"
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// chooseTasks chooses the tasks that a pattern of run.task matches; without patterns, the env's first task that
// can run.
func (s *Session) chooseTasks(ctx context.Context, e env.Env, label string) error {
	var all []env.Task
	s.Unavailable = map[string]int{}
	for t, err := range e.Tasks(ctx) {
		if err != nil {
			return plugins.AsError(err).WithPlace("%s", label)
		}
		all = append(all, t)
	}
	s.EnvTasks = all
	patterns := s.Config.Run.Task
	matches := make([]bool, len(patterns)) // by pattern
	for _, t := range all {
		matched := len(patterns) == 0 && len(s.Tasks) == 0
		for i, p := range patterns {
			if Match(p, t.ID) {
				matches[i], matched = true, true
			}
		}
		if !matched {
			continue
		}
		if t.Unavailable != "" {
			if len(patterns) > 0 {
				s.Unavailable[t.Unavailable]++
			}
			continue
		}
		s.Tasks = append(s.Tasks, t)
	}
	for i, p := range patterns {
		if !matches[i] {
			return plugins.Errorf(plugins.NotFound, "no task of %s matches %q", label, p).
				WithPlace("%s", s.Config.Origin("run.task")).
				WithHint("%s", nearTasks(p, all))
		}
	}
	if len(s.Tasks) == 0 {
		return s.noTaskError(all, label)
	}
	s.Split = newSplit(s.Config.Run.Seed, s.Config.Rollout, all, s.Tasks)
	return nil
}

// noTaskError returns the error of a session without tasks that can run. The most frequent reason comes first.
func (s *Session) noTaskError(all []env.Task, label string) error {
	n, reasons := 0, make([]string, 0, len(s.Unavailable))
	for reason, k := range s.Unavailable {
		n += k
		reasons = append(reasons, reason)
	}
	if n == 0 { // no pattern was given
		n = len(all)
		for _, t := range all {
			if len(reasons) == 0 {
				reasons = append(reasons, t.Unavailable)
			}
		}
	}
	if n == 0 {
		return plugins.Errorf(plugins.NotFound, "the env has no tasks").WithPlace("%s", label)
	}
	sort.Slice(reasons, func(a, b int) bool {
		if x, y := s.Unavailable[reasons[a]], s.Unavailable[reasons[b]]; x != y {
			return x > y
		}
		return reasons[a] < reasons[b]
	})
	e := plugins.Errorf(plugins.NotFound, "none of the %d tasks that match can run here", n).
		WithPlace("%s", label).
		WithHint("%s", reasons[0])
	if len(reasons) > 1 {
		e = e.WithDetail(strings.Join(reasons, "\n"))
	}
	return e
}

// UnavailableWarnings returns a sentence for each reason why matching tasks are left out.
func (s *Session) UnavailableWarnings() []string {
	var out []string
	for reason, n := range s.Unavailable {
		out = append(out,
			fmt.Sprintf("%s left out, because they cannot run here: %s", report.Count(n, "matching task"), reason))
	}
	sort.Strings(out)
	return out
}

// Match reports whether a task's id matches a pattern. In a pattern * stands for any characters including / and
// ? for one character.
func Match(pattern, id string) bool {
	// In path.Match a * does not match slashes, so they are replaced by another character.
	const slash = "\x00"
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", slash), strings.ReplaceAll(id, "/", slash))
	return err == nil && ok
}

// nearTasks returns a hint with tasks that the user may have meant.
func nearTasks(pattern string, all []env.Task) string {
	ids := make([]string, len(all))
	for i, t := range all {
		ids[i] = t.ID
	}
	words := strings.FieldsFunc(strings.ToLower(pattern),
		func(r rune) bool { return strings.ContainsRune("*?/[]", r) })
	var near []string
	best := 1 // words of the pattern in the ids in near
	for _, id := range ids {
		n := 0
		for _, word := range words {
			if strings.Contains(strings.ToLower(id), word) {
				n++
			}
		}
		switch {
		case n > best:
			near, best = []string{id}, n
		case n == best && len(near) < 3:
			near = append(near, id)
		}
	}
	if len(near) == 0 {
		if n := nearest.To(pattern, ids); n != "" {
			near = []string{n}
		} else {
			near = ids[:min(3, len(ids))]
		}
	}
	return fmt.Sprintf(
		"there are %d tasks, for example %s; * matches anything; `srpo plugin list NAME --tasks` prints them",
		len(all),
		strings.Join(near, ", "),
	)
}
