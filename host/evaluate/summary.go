package evaluate

import (
	"slices"
	"sort"
)

// Summarize computes the results of an evaluation. The episodes may be in any order. videos are the names of
// the videos by the ids of their episodes.
func Summarize(rec Record, tasks []Task, episodes []Episode, videos map[string]string) *Results {
	r := &Results{Checkpoint: rec.Checkpoint, Env: rec.Identity["env"], Policy: rec.Identity["policy"],
		States: rec.Identity["states"], Mode: rec.Identity["actions"], Shard: rec.Identity["shard"], Seed: rec.Seed,
		Split: rec.Split, LeftOut: rec.LeftOut, Suites: []Score{}, Tasks: []Score{}, Kinds: []Kind{}}
	r.All.Name, r.Split.Train, r.Split.Test = "all", Score{Name: "train"}, Score{Name: "test"}
	byID := map[string]Task{}
	for _, t := range tasks {
		byID[t.ID] = t
	}
	s := sums{tasks: map[string]*Score{}, suites: map[string]*Score{}, dimensions: map[string]*Score{},
		levels: map[level]*Score{}, kinds: map[[2]string]*Kind{}}
	episodes = slices.Clone(episodes)
	sort.Slice(episodes, func(a, b int) bool { return episodes[a].Index < episodes[b].Index })
	for _, e := range episodes {
		r.EnvSteps += int64(e.Steps)
		if e.Repeat > 0 {
			r.Repeats++
		}
		r.All.add(e)
		switch e.Side {
		case "train":
			r.Split.Train.add(e)
		case "test":
			r.Split.Test.add(e)
		}
		s.add(e, byID[e.Task], videos[e.ID])
	}
	r.All.close()
	r.Split.Train.close()
	r.Split.Test.close()
	for _, t := range tasks {
		take(s.tasks, t.ID, &r.Tasks)
		take(s.suites, t.Suite, &r.Suites)
		if g, ok := s.takeDimension(t.Dimension()); ok {
			r.Dimensions = append(r.Dimensions, g)
		}
	}
	r.Totals = r.totals()
	r.Kinds = append(r.Kinds, s.kindsInOrder(tasks)...)
	r.Published = publishedFor(r)
	return r
}

// level is a level of a dimension.
type level struct{ dimension, level string }

// sums adds up episodes.
type sums struct {
	tasks, suites, dimensions map[string]*Score
	levels                    map[level]*Score
	kinds                     map[[2]string]*Kind // by group and outcome
}

// add adds an episode of a task. video is empty for an episode without one.
func (s *sums) add(e Episode, t Task, video string) {
	at(s.tasks, t.ID, t.ID).add(e)
	at(s.suites, t.Suite, t.Suite).add(e)
	if d := t.Dimension(); d != "" {
		at(s.dimensions, d, d).add(e)
		at(s.levels, level{d, t.Level()}, t.Level()).add(e)
	}
	key := [2]string{GroupOf(t), e.Outcome()}
	k := s.kinds[key]
	if k == nil {
		k = &Kind{Group: key[0], Outcome: key[1], Success: e.Success}
		s.kinds[key] = k
	}
	k.Episodes++
	if video != "" {
		k.Examples = append(k.Examples, Example{ID: e.ID, Steps: e.Steps, Video: video})
	}
}

// takeDimension returns a dimension with its levels, once.
func (s *sums) takeDimension(name string) (g Group, ok bool) {
	d := s.dimensions[name]
	if d == nil {
		return g, false
	}
	delete(s.dimensions, name)
	d.close()
	g.Score = *d
	for l, score := range s.levels {
		if l.dimension == name {
			score.close()
			g.Levels = append(g.Levels, *score)
		}
	}
	sort.Slice(g.Levels, func(a, b int) bool { return before(g.Levels[a].Name, g.Levels[b].Name) })
	return g, true
}

// kindsInOrder returns the kinds in the env's order of groups, failures before successes.
func (s *sums) kindsInOrder(tasks []Task) []Kind {
	var groups []string
	for _, t := range tasks {
		if g := GroupOf(t); !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	var out []Kind
	for _, g := range groups {
		var kinds []Kind
		for _, k := range s.kinds {
			if k.Group == g {
				kinds = append(kinds, *k)
			}
		}
		sort.Slice(kinds, func(a, b int) bool {
			if kinds[a].Success != kinds[b].Success {
				return kinds[b].Success
			}
			return kinds[a].Outcome < kinds[b].Outcome
		})
		out = append(out, kinds...)
	}
	return out
}

// totals returns the means over the dimensions, or over the suites; nil when there are not several.
func (r *Results) totals() *Totals {
	switch {
	case len(r.Dimensions) > 1:
		list := make([]Score, len(r.Dimensions))
		for i, d := range r.Dimensions {
			list[i] = d.Score
		}
		return plainMean("dimensions", list, r.All)
	case len(r.Suites) > 1:
		return plainMean("suites", r.Suites, r.All)
	}
	return nil
}

// GroupOf returns the group of a task in comparisons and reports: its dimension, or its suite when it has none.
func GroupOf(t Task) string {
	if d := t.Dimension(); d != "" {
		return d
	}
	return t.Suite
}

// before orders levels: L2 before L10, and tasks without a level last.
func before(a, b string) bool {
	switch {
	case a == "" || b == "":
		return b == "" && a != ""
	case len(a) != len(b):
		return len(a) < len(b)
	}
	return a < b
}

// at returns the score of a key, which it creates with a name.
func at[K comparable](m map[K]*Score, key K, name string) *Score {
	if m[key] == nil {
		m[key] = &Score{Name: name}
	}
	return m[key]
}

// take moves a score from the map to the list, if it is still there.
func take(from map[string]*Score, name string, to *[]Score) {
	if s := from[name]; s != nil {
		s.close()
		*to = append(*to, *s)
		delete(from, name)
	}
}
