package host

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/srpo-dev/srpo/host/score"
	"github.com/srpo-dev/srpo/plugins"
)

// CompareEvals takes the paired difference of two evaluations of the same episodes, and refuses others, see [score.Compare].
func CompareEvals(a, b string) (*score.Comparison, error) {
	fa, err := score.Open(a)
	if err != nil {
		return nil, err
	}
	fb, err := score.Open(b)
	if err != nil {
		return nil, err
	}
	return score.Compare(fa, fb)
}

// MergeEvals joins the shards of one evaluation into a new folder, see [score.Merge]. version and command are for the record.
func MergeEvals(folders []string, out, version string, command []string) (*score.Results, error) {
	if out == "" {
		return nil, plugins.Errorf(plugins.Invalid, "no folder to merge into").WithPlace("--out").WithHint("--out FOLDER")
	}
	var shards []*score.Folder
	for _, dir := range folders {
		f, err := score.Open(dir)
		if err != nil {
			return nil, err
		}
		shards = append(shards, f)
	}
	merged, err := score.Merge(shards)
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
	if err := os.MkdirAll(filepath.Join(dir, score.VideosDir), 0o755); err != nil {
		return nil, DiskError("make", dir, err)
	}
	merged.Dir, merged.Created, merged.Host, merged.Command = dir, time.Now().UTC().Truncate(time.Millisecond), version, command
	videos, err := mergeVideos(merged, shards)
	if err != nil {
		return nil, err
	}
	config, err := os.ReadFile(filepath.Join(shards[0].Dir, "srpo.toml"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, DiskError("read", shards[0].Dir, err)
	}
	tasks, err := score.JSONLines(merged.Tasks)
	if err != nil {
		return nil, err
	}
	episodes, err := score.JSONLines(merged.Episodes)
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
	}{{"srpo.toml", config}, {score.TasksFile, tasks}, {score.EpisodesFile, episodes}, {score.RecordFile, append(rec, '\n')}} {
		if err := WriteFile(dir, file.name, file.data); err != nil {
			return nil, err
		}
	}
	r := score.Sum(merged.Record, merged.Tasks, merged.Episodes, videos)
	r.Dir = dir
	return r, writeResults(dir, merged.Record, r)
}

// mergeVideos copies, of each kind of outcome, as many videos as a shard has at most: the first ones in the order of trials, as in one piece.
func mergeVideos(merged *score.Folder, shards []*score.Folder) (map[string]string, error) {
	byID := map[string]score.Task{}
	for _, t := range merged.Tasks {
		byID[t.ID] = t
	}
	kind := func(e score.Episode) string { return score.GroupOf(byID[e.Task]) + "\x00" + e.Outcome() }
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
			return nil, DiskError("read", path, err)
		}
		videos[e.ID] = score.VideoName(e)
		if err := WriteFile(merged.Dir, videos[e.ID], data); err != nil {
			return nil, err
		}
	}
	return videos, nil
}
