package evaluate

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// MergeFolders joins the shards of one evaluation into a new folder, see [Merge]. version and command are for
// the record.
func MergeFolders(folders []string, out, version string, command []string) (*Results, error) {
	if out == "" {
		return nil, plugins.Errorf(plugins.Invalid, "no folder to merge into").WithPlace("--out").
			WithHint("give one: --out FOLDER")
	}
	var shards []*Folder
	for _, dir := range folders {
		f, err := OpenFolder(dir)
		if err != nil {
			return nil, err
		}
		shards = append(shards, f)
	}
	merged, err := Merge(shards)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(out)
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", out)
	}
	if err := checkVacant(dir, out); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, VideosDir), 0o755); err != nil {
		return nil, store.DiskError("make", dir, err)
	}
	merged.Dir, merged.Host, merged.Command = dir, version, command
	merged.Created = time.Now().UTC().Truncate(time.Millisecond)
	videos, err := mergeVideos(merged, shards)
	if err != nil {
		return nil, err
	}
	config, err := os.ReadFile(filepath.Join(shards[0].Dir, "srpo.toml"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, store.DiskError("read", shards[0].Dir, err)
	}
	if err := writeRecord(dir, merged.Record, config, merged.Tasks, merged.Episodes); err != nil {
		return nil, err
	}
	r := Summarize(merged.Record, merged.Tasks, merged.Episodes, videos)
	r.Dir = dir
	return r, writeResults(dir, merged.Record, r)
}

// mergeVideos copies as many videos of each kind of outcome as the shard with the most of them has: the first
// ones in the order of trials, as without shards. It returns their names by the ids of the episodes.
func mergeVideos(merged *Folder, shards []*Folder) (map[string]string, error) {
	byID := map[string]Task{}
	for _, t := range merged.Tasks {
		byID[t.ID] = t
	}
	kind := func(e Episode) string { return GroupOf(byID[e.Task]) + "\x00" + e.Outcome() }
	path, limit := map[string]string{}, map[string]int{}
	for _, s := range shards {
		names, n := s.Videos(), map[string]int{}
		for _, e := range s.Episodes {
			if name := names[e.ID]; name != "" {
				path[e.ID] = filepath.Join(s.Dir, filepath.FromSlash(name))
				n[kind(e)]++
				limit[kind(e)] = max(limit[kind(e)], n[kind(e)])
			}
		}
	}
	names, copied := map[string]string{}, map[string]int{}
	for _, e := range merged.Episodes {
		if path[e.ID] == "" || copied[kind(e)] == limit[kind(e)] {
			continue
		}
		copied[kind(e)]++
		data, err := os.ReadFile(path[e.ID])
		if err != nil {
			return nil, store.DiskError("read", path[e.ID], err)
		}
		names[e.ID] = VideoName(e)
		if err := store.WriteFile(merged.Dir, names[e.ID], data); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// Merge joins the shards of one evaluation. Every episode must be in exactly one of them, and their identities
// must agree except for the shard. The result equals the evaluation without shards.
func Merge(shards []*Folder) (*Folder, error) {
	if len(shards) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "no folders to merge").
			WithHint("name the folders of all shards: --merge FOLDER FOLDER")
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
		if err := checkSameEvaluation(first, s); err != nil {
			return nil, err
		}
		for _, e := range s.Episodes {
			if other := from[e.Index]; other != nil {
				return nil, plugins.Errorf(plugins.Invalid, "episode %s is in %s and in %s", e.ID, other.Dir, s.Dir).
					WithHint("name each shard once")
			}
			from[e.Index] = s
			out.Episodes = append(out.Episodes, e)
		}
	}
	if missing := out.Trials - len(out.Episodes); missing > 0 {
		var names []string
		for _, s := range shards {
			names = append(names, orNothing(s.Identity["shard"]))
		}
		slices.Sort(names)
		return nil, plugins.Errorf(plugins.Invalid,
			"%d of %d episodes are in none of the folders, which are the shards %s",
			missing, out.Trials, strings.Join(names, ", ")).
			WithHint("name all shards")
	}
	sort.Slice(out.Episodes, func(a, b int) bool { return out.Episodes[a].Index < out.Episodes[b].Index })
	return out, nil
}

// checkSameEvaluation returns an error unless s is a complete shard of the evaluation that first is a shard of.
// The same plugins on another machine have the same identity.
func checkSameEvaluation(first, s *Folder) error {
	const hint = "evaluate all shards with the same command except for --shard and --out"
	if d := firstDifference(first.Identity, s.Identity, func(name string) bool { return name == "shard" }); d != "" {
		return plugins.Errorf(plugins.Mismatch, "the folders are not of one evaluation: %s is %s in %s, %s in %s", d,
			orNothing(first.Identity[d]), first.Dir, orNothing(s.Identity[d]), s.Dir).WithHint(hint)
	}
	if s.Trials != first.Trials {
		return plugins.Errorf(plugins.Mismatch,
			"%s is of %d episodes, %s of %d", first.Dir, first.Trials, s.Dir, s.Trials).
			WithHint(hint)
	}
	return s.Whole()
}
