package score

import (
	"slices"
	"sort"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// Merge joins the shards of one evaluation: every episode must be there exactly once, and everything that their outcomes depend on must agree. The result is
// what the evaluation would have been in one piece.
func Merge(shards []*Folder) (*Folder, error) {
	if len(shards) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "no folders to merge").WithHint("--merge FOLDER, once for each shard")
	}
	first := shards[0]
	out := &Folder{Record: first.Record, Tasks: first.Tasks}
	out.MergedFrom, out.Mine, out.Identity = nil, out.Trials, map[string]string{}
	for name, v := range first.Identity {
		if name != "shard" {
			out.Identity[name] = v
		}
	}
	from := map[int]*Folder{}
	for _, s := range shards {
		out.MergedFrom = append(out.MergedFrom, s.Dir)
		// Plugins of the same version on another machine are the same plugins; the lock's hash is in their identity.
		if d := firstDifference(first.Identity, s.Identity, func(name string) bool { return name == "shard" }); d != "" {
			return nil, plugins.Errorf(plugins.Mismatch, "the folders are not of one evaluation: %s is %s in %s, %s in %s", d, orNothing(first.Identity[d]), first.Dir,
				orNothing(s.Identity[d]), s.Dir).WithHint("evaluate all shards with the same command but for --shard and --out")
		}
		if s.Trials != first.Trials {
			return nil, plugins.Errorf(plugins.Mismatch, "%s is of %d episodes, %s of %d", first.Dir, first.Trials, s.Dir, s.Trials).
				WithHint("evaluate all shards with the same command but for --shard and --out")
		}
		if err := s.Whole(); err != nil {
			return nil, err
		}
		for _, e := range s.Episodes {
			if other := from[e.Index]; other != nil {
				return nil, plugins.Errorf(plugins.Invalid, "episode %s is in %s and in %s", e.ID, other.Dir, s.Dir).WithHint("name each shard once")
			}
			from[e.Index] = s
			out.Episodes = append(out.Episodes, e)
		}
	}
	if missing := out.Trials - len(out.Episodes); missing > 0 {
		var have []string
		for _, s := range shards {
			have = append(have, orNothing(s.Identity["shard"]))
		}
		slices.Sort(have)
		return nil, plugins.Errorf(plugins.Invalid, "%d of %d episodes are in none of the folders, which are the shards %s", missing, out.Trials, strings.Join(have, ", ")).
			WithHint("name all shards")
	}
	sort.Slice(out.Episodes, func(a, b int) bool { return out.Episodes[a].Index < out.Episodes[b].Index })
	return out, nil
}
