package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/plugins"
)

// Record is the content of a run folder, for readers. Fields of missing files are empty.
type Record struct {
	Dir      string
	Manifest *Manifest
	// Config is the resolved srpo.toml.
	Config  string
	Metrics []Metrics
	Events  []Event
	// Episodes are the saved episodes, sorted by iteration and id.
	Episodes []Episode
	// Problems describe what could not be read.
	Problems []string
}

// Read reads a run folder, also while a host writes to it. Of a damaged folder it reads what it can. The error is
// NotFound if dir is not a folder.
func Read(dir string) (*Record, error) {
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return nil, plugins.Errorf(plugins.NotFound, "there is no such run folder").
			WithPlace("%s", dir).WithHint("give the folder of a run, such as runs/NAME")
	}
	r := &Record{Dir: dir}
	if data := r.read(manifestFile, bounded.Small); data != nil {
		var m Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			r.problem(manifestFile, err)
		} else {
			r.Manifest = &m
		}
	}
	r.Config = string(r.read(configFile, bounded.Small))
	r.Metrics = readLines[Metrics](r, metricsFile)
	r.Events = readLines[Event](r, eventsFile)
	r.readEpisodes()
	return r, nil
}

func (r *Record) problem(name string, err error) {
	r.Problems = append(r.Problems, fmt.Sprintf("%s: %v", name, err))
}

// read returns the content of a file of at most maxBytes.
func (r *Record) read(name string, maxBytes int64) []byte {
	data, err := bounded.ReadFile(filepath.Join(r.Dir, name), maxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		r.problem(name, errors.New("missing"))
	} else if err != nil {
		r.problem(name, err)
	}
	return data
}

// readLines decodes every complete line of a file. A last line without a line end is being written and is ignored.
func readLines[T any](r *Record, name string) []T {
	data := r.read(name, bounded.Log)
	var values []T
	invalid := 0
	for n := 1; ; n++ {
		line, rest, complete := bytes.Cut(data, []byte("\n"))
		if !complete {
			break
		}
		data = rest
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			if invalid++; invalid == 1 {
				r.problem(name, fmt.Errorf("line %d: %w", n, err))
			}
			continue
		}
		values = append(values, v)
	}
	if invalid > 1 {
		r.problem(name, fmt.Errorf("%d lines could not be read", invalid))
	}
	return values
}

func (r *Record) readEpisodes() {
	names, _ := filepath.Glob(filepath.Join(quoteGlob(r.Dir), episodesDir, "*.json"))
	for _, name := range names {
		data, err := bounded.ReadFile(name, bounded.Small)
		var e Episode
		if err == nil {
			err = json.Unmarshal(data, &e)
		}
		if err != nil {
			r.problem(filepath.Join(episodesDir, filepath.Base(name)), err)
			continue
		}
		if e.Video != filepath.Base(e.Video) { // it may only name a file in the same folder
			e.Video = ""
		}
		r.Episodes = append(r.Episodes, e)
	}
	slices.SortStableFunc(r.Episodes, func(a, b Episode) int {
		return cmp.Or(cmp.Compare(a.Iteration, b.Iteration), cmp.Compare(a.ID, b.ID))
	})
}

// quoteGlob escapes the characters in dir that have a meaning in a glob pattern.
func quoteGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// Video returns the GIF of a saved episode. The error is NotFound if it has none.
func (r *Record) Video(e Episode) ([]byte, error) {
	if e.Video == "" {
		return nil, plugins.Errorf(plugins.NotFound, "episode %s has no video", e.ID)
	}
	return os.ReadFile(filepath.Join(r.Dir, episodesDir, e.Video))
}
