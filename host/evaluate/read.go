package evaluate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// The files of an evaluation's folder.
const (
	RecordFile   = "eval.json"
	TasksFile    = "tasks.jsonl"
	EpisodesFile = "episodes.jsonl"
	ResultsFile  = "results.json"
	ReportFile   = "report.html"
	VideosDir    = "videos"
	// Format is the version of the folder's format. Folders of other versions are refused.
	Format = 2
)

// Record is eval.json. It describes the evaluation, so that no episodes of another one are added.
type Record struct {
	Format  int       `json:"format"`
	Created time.Time `json:"created"`
	Host    string    `json:"host"`
	Command []string  `json:"command"`
	// Checkpoint is where the policy came from. The identity contains a hash of its files.
	Checkpoint string `json:"checkpoint"`
	Seed       uint64 `json:"seed,string"`
	// Identity contains everything that an outcome depends on, by name.
	Identity map[string]string `json:"identity"`
	Plugins  []store.Plugin    `json:"plugins"`
	// Trials is the number of episodes of the whole evaluation, Mine that of this folder, which is smaller in a
	// shard.
	Trials int `json:"trials"`
	Mine   int `json:"mine"`
	// Split has no scores here.
	Split   Split          `json:"split"`
	LeftOut map[string]int `json:"left_out,omitempty"`
	// MergedFrom are the folders of the shards.
	MergedFrom []string `json:"merged_from,omitempty"`
}

// ReadRecord reads the record of a folder. Errors: NotFound for a folder without an evaluation, Corrupt, and
// Mismatch for another format.
func ReadRecord(dir string) (*Record, error) {
	path := filepath.Join(dir, RecordFile)
	data, err := bounded.ReadFile(path, bounded.Small)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, plugins.Errorf(plugins.NotFound, "the folder contains no evaluation: %s is missing", RecordFile).
			WithPlace("%s", dir).
			WithHint("give a folder that `srpo eval` wrote")
	}
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "cannot read the file: %w", err).
			WithPlace("%s", path).
			WithHint("check the folder's permissions")
	}
	rec := &Record{}
	if err := json.Unmarshal(data, rec); err != nil {
		return nil, plugins.Errorf(plugins.Corrupt, "%w", err).
			WithPlace("%s", path).
			WithHint("evaluate again with another --out")
	}
	if rec.Format != Format {
		return nil, plugins.Errorf(plugins.Mismatch,
			"the folder has format %d, this version of srpo reads %d", rec.Format, Format).
			WithPlace("%s", path).
			WithHint("use the version of srpo that made it, or evaluate again with another --out")
	}
	return rec, nil
}

// Folder is the folder of an evaluation, which may still run.
type Folder struct {
	Dir string
	Record
	// Tasks in the env's order, Episodes in the order of the evaluation.
	Tasks    []Task
	Episodes []Episode
}

// OpenFolder reads an evaluation's folder. It ignores an incomplete last line, which is just being written.
func OpenFolder(dir string) (*Folder, error) {
	rec, err := ReadRecord(dir)
	if err != nil {
		return nil, err
	}
	f := &Folder{Dir: dir, Record: *rec}
	if f.Tasks, err = readLines[Task](filepath.Join(dir, TasksFile)); err != nil {
		return nil, err
	}
	if f.Episodes, err = readLines[Episode](filepath.Join(dir, EpisodesFile)); err != nil {
		return nil, err
	}
	seen := map[string]int{}
	for i, e := range f.Episodes {
		if at, twice := seen[e.ID]; twice {
			return nil, plugins.Errorf(plugins.Corrupt, "episode %q is listed twice, also in line %d", e.ID, at+1).
				WithPlace("%s:%d", filepath.Join(dir, EpisodesFile), i+1).
				WithHint("evaluate again with another --out")
		}
		seen[e.ID] = i
	}
	sort.Slice(f.Episodes, func(a, b int) bool { return f.Episodes[a].Index < f.Episodes[b].Index })
	return f, nil
}

// Whole returns an error unless the folder contains all of its episodes.
func (f *Folder) Whole() error {
	if len(f.Episodes) == f.Mine {
		return nil
	}
	return plugins.Errorf(plugins.Invalid, "the evaluation has %d of its %d episodes", len(f.Episodes), f.Mine).
		WithPlace("%s", f.Dir).
		WithHint("finish it with the command that began it: %s", strings.Join(f.Command, " "))
}

// Videos returns the paths of the videos that exist, relative to the folder, by the ids of their episodes.
func (f *Folder) Videos() map[string]string {
	out := map[string]string{}
	for _, e := range f.Episodes {
		name := VideoName(e)
		if _, err := os.Stat(filepath.Join(f.Dir, filepath.FromSlash(name))); err == nil {
			out[e.ID] = name
		}
	}
	return out
}

// VideoName returns the path of an episode's video relative to the folder. The video need not exist.
func VideoName(e Episode) string {
	clean := strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, e.Task)
	outcome := "failure"
	if e.Success {
		outcome = "success"
	}
	return fmt.Sprintf("%s/%06d-%s-%d-%s.gif", VideosDir, e.Index, clean[:min(len(clean), 100)], e.StartState,
		outcome)
}

// readLines reads a file of JSON lines. A file that does not exist has none.
func readLines[T any](path string) ([]T, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "cannot read the file: %w", err).
			WithPlace("%s", path).
			WithHint("check the folder's permissions")
	}
	defer file.Close()
	list, _, err := Lines[T](file, path)
	return list, err
}

// Lines reads JSON lines up to the last complete one, and returns the number of bytes of these lines. path is
// for errors.
func Lines[T any](from io.Reader, path string) (list []T, whole int64, err error) {
	for r := bufio.NewReader(from); ; {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return list, whole, nil
		}
		if err != nil {
			return nil, 0, plugins.Errorf(plugins.Invalid, "cannot read the file: %w", err).
				WithPlace("%s", path).
				WithHint("check the disk")
		}
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			return nil, 0, plugins.Errorf(plugins.Corrupt, "%w", err).WithPlace("%s:%d", path, len(list)+1).
				WithHint("remove the line to have its episode rolled out again, or give another --out")
		}
		list = append(list, v)
		whole += int64(len(line))
	}
}

// JSONLines returns the values as JSON, one per line.
func JSONLines[T any](list []T) ([]byte, error) {
	var b bytes.Buffer
	for _, v := range list {
		line, err := json.Marshal(v)
		if err != nil {
			return nil, plugins.Errorf(plugins.Internal, "%w", err)
		}
		b.Write(append(line, '\n'))
	}
	return b.Bytes(), nil
}
