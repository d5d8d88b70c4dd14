package evaluate

import (
	"encoding/json"
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

// CompareFolders takes the paired difference of two evaluations of the same episodes, and refuses others, see [Compare].
func CompareFolders(a, b string) (*Comparison, error) {
	fa, err := OpenFolder(a)
	if err != nil {
		return nil, err
	}
	fb, err := OpenFolder(b)
	if err != nil {
		return nil, err
	}
	return Compare(fa, fb)
}

// MergeFolders joins the shards of one evaluation into a new folder, see [Merge]. version and command are for the record.
func MergeFolders(folders []string, out, version string, command []string) (*Results, error) {
	if out == "" {
		return nil, plugins.Errorf(plugins.Invalid, "no folder to merge into").WithPlace("--out").WithHint("--out FOLDER")
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
	if err := vacant(dir, out); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, VideosDir), 0o755); err != nil {
		return nil, store.DiskError("make", dir, err)
	}
	merged.Dir, merged.Created, merged.Host, merged.Command = dir, time.Now().UTC().Truncate(time.Millisecond), version, command
	videos, err := mergeVideos(merged, shards)
	if err != nil {
		return nil, err
	}
	config, err := os.ReadFile(filepath.Join(shards[0].Dir, "srpo.toml"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, store.DiskError("read", shards[0].Dir, err)
	}
	tasks, err := JSONLines(merged.Tasks)
	if err != nil {
		return nil, err
	}
	episodes, err := JSONLines(merged.Episodes)
	if err != nil {
		return nil, err
	}
	rec, err := json.MarshalIndent(merged.Record, "", "  ")
	if err != nil {
		return nil, plugins.Errorf(plugins.Internal, "%w", err)
	}
	// The record comes last: without it the folder is none of an evaluation.
	for _, file := range []struct {
		name string
		data []byte
	}{{"srpo.toml", config}, {TasksFile, tasks}, {EpisodesFile, episodes}, {RecordFile, append(rec, '\n')}} {
		if err := store.WriteFile(dir, file.name, file.data); err != nil {
			return nil, err
		}
	}
	r := Summarize(merged.Record, merged.Tasks, merged.Episodes, videos)
	r.Dir = dir
	return r, writeResults(dir, merged.Record, r)
}

// mergeVideos copies, of each kind of outcome, as many videos as a shard has at most: the first ones in the order of trials, as in one piece.
func mergeVideos(merged *Folder, shards []*Folder) (map[string]string, error) {
	byID := map[string]Task{}
	for _, t := range merged.Tasks {
		byID[t.ID] = t
	}
	kind := func(e Episode) string { return GroupOf(byID[e.Task]) + "\x00" + e.Outcome() }
	from, most := map[string]string{}, map[string]int{}
	for _, s := range shards {
		have, n := s.Videos(), map[string]int{}
		for _, e := range s.Episodes {
			if name := have[e.ID]; name != "" {
				from[e.ID] = filepath.Join(s.Dir, filepath.FromSlash(name))
				n[kind(e)]++
				most[kind(e)] = max(most[kind(e)], n[kind(e)])
			}
		}
	}
	videos, taken := map[string]string{}, map[string]int{}
	for _, e := range merged.Episodes {
		path := from[e.ID]
		if path == "" || taken[kind(e)] == most[kind(e)] {
			continue
		}
		taken[kind(e)]++
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, store.DiskError("read", path, err)
		}
		videos[e.ID] = VideoName(e)
		if err := store.WriteFile(merged.Dir, videos[e.ID], data); err != nil {
			return nil, err
		}
	}
	return videos, nil
}

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
