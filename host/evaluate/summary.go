package evaluate

import (
	"slices"
	"sort"
)

// Summarize computes the results of an evaluation. The episodes may be in any order. videos are the names of
// the videos by the ids of their episodes.
func Summarize(rec Record, tasks []Task, episodes []Episode, videos map[string]string) *Results {
	r := &Results{
		Checkpoint: rec.Checkpoint,
		Env:        rec.Identity["env"],
		Policy:     rec.Identity["policy"],
		States:     rec.Identity["states"],
		Mode:       rec.Identity["actions"],
		Shard:      rec.Identity["shard"],
		Seed:       rec.Seed,
		Split:      rec.Split,
		LeftOut:    rec.LeftOut,
		Suites:     []Score{},
		Tasks:      []Score{},
		Kinds:      []Kind{},
	}
	episodes = append([]Episode(nil), episodes...)
	sort.Slice(episodes, func(a, b int) bool { return episodes[a].Index < episodes[b].Index })
	byID := map[string]Task{}
	for _, t := range tasks {
		byID[t.ID] = t
	}
	type level struct{ dimension, level string }
	task, suite, dimension, levels := map[string]*Score{}, map[string]*Score{}, map[string]*Score{}, map[level]*Score{}
	kinds := map[[2]string]*Kind{}
	r.All.Name, r.Split.Train, r.Split.Test = "all", Score{Name: "train"}, Score{Name: "test"}
	for _, e := range episodes {
		t := byID[e.Task]
		r.EnvSteps += int64(e.Steps)
		if e.Repeat > 0 {
			r.Repeats++
		}
		r.All.add(e)
		at(task, t.ID, t.ID).add(e)
		at(suite, t.Suite, t.Suite).add(e)
		if d := t.Dimension(); d != "" {
			at(dimension, d, d).add(e)
			at(levels, level{d, t.Level()}, t.Level()).add(e)
		}
		switch e.Side {
		case "train":
			r.Split.Train.add(e)
		case "test":
			r.Split.Test.add(e)
		}
		group := GroupOf(t)
		k := kinds[[2]string{group, e.Outcome()}]
		if k == nil {
			k = &Kind{Group: group, Outcome: e.Outcome(), Success: e.Success}
			kinds[[2]string{group, e.Outcome()}] = k
		}
		k.Episodes++
		if v := videos[e.ID]; v != "" {
			k.Examples = append(k.Examples, Example{ID: e.ID, Steps: e.Steps, Video: v})
		}
	}
	r.All.close()
	r.Split.Train.close()
	r.Split.Test.close()
	var groups []string // of kinds, in the env's order
	for _, t := range tasks {
		take(task, t.ID, &r.Tasks)
		take(suite, t.Suite, &r.Suites)
		if g := GroupOf(t); !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
		if s := dimension[t.Dimension()]; s != nil {
			delete(dimension, t.Dimension())
			s.close()
			g := Group{Score: *s}
			for l, score := range levels {
				if l.dimension == s.Name {
					score.close()
					g.Levels = append(g.Levels, *score)
				}
			}
			sort.Slice(g.Levels, func(a, b int) bool { return before(g.Levels[a].Name, g.Levels[b].Name) })
			r.Dimensions = append(r.Dimensions, g)
		}
	}
	switch {
	case len(r.Dimensions) > 1:
		list := make([]Score, len(r.Dimensions))
		for i, d := range r.Dimensions {
			list[i] = d.Score
		}
		r.Totals = plainMean("dimensions", list, r.All)
	case len(r.Suites) > 1:
		r.Totals = plainMean("suites", r.Suites, r.All)
	}
	for _, g := range groups {
		var of []Kind
		for _, k := range kinds {
			if k.Group == g {
				of = append(of, *k)
			}
		}
		sort.Slice(of, func(a, b int) bool {
			if of[a].Success != of[b].Success {
				return of[b].Success
			}
			return of[a].Outcome < of[b].Outcome
		})
		r.Kinds = append(r.Kinds, of...)
	}
	r.Published = publishedFor(r)
	return r
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
