package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/plugins"
)

// Record is a run folder as a reader sees it. What is missing is empty.
type Record struct {
	Dir      string
	Manifest *Manifest
	// Config is srpo.toml as resolved.
	Config  string
	Metrics []Metrics
	Events  []Event
	// Episodes are those saved, by iteration and id.
	Episodes []Episode
	// Problems says what could not be read.
	Problems []string
}

// Read reads a run folder, also while a host writes it, and as much as there is of a damaged one. Error: NotFound when dir is no folder.
func Read(dir string) (*Record, error) {
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return nil, plugins.Errorf(plugins.NotFound, "there is no such run folder").WithPlace("%s", dir).WithHint("give the folder of a run, such as runs/NAME")
	}
	r := &Record{Dir: dir}
	problem := func(name string, err error) {
		r.Problems = append(r.Problems, fmt.Sprintf("%s: %v", name, err))
	}
	read := func(name string, most int64) []byte {
		data, err := bounded.ReadFile(filepath.Join(dir, name), most)
		if errors.Is(err, fs.ErrNotExist) {
			problem(name, errors.New("missing"))
		} else if err != nil {
			problem(name, err)
		}
		return data
	}
	if data := read(manifestFile, bounded.Small); data != nil {
		var m Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			problem(manifestFile, err)
		} else {
			r.Manifest = &m
		}
	}
	r.Config = string(read(configFile, bounded.Small))
	eachLine(read(metricsFile, bounded.Log), func(line []byte) error {
		var m Metrics
		if err := json.Unmarshal(line, &m); err != nil {
			return err
		}
		r.Metrics = append(r.Metrics, m)
		return nil
	}, func(err error) { problem(metricsFile, err) })
	eachLine(read(eventsFile, bounded.Log), func(line []byte) error {
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		r.Events = append(r.Events, e)
		return nil
	}, func(err error) { problem(eventsFile, err) })
	names, _ := filepath.Glob(filepath.Join(globQuote(dir), episodesDir, "*.json"))
	for _, name := range names {
		data, err := bounded.ReadFile(name, bounded.Small)
		var e Episode
		if err == nil {
			err = json.Unmarshal(data, &e)
		}
		if err != nil {
			problem(filepath.Join(episodesDir, filepath.Base(name)), err)
			continue
		}
		if e.Video != filepath.Base(e.Video) { // A record names a file beside it, nothing else.
			e.Video = ""
		}
		r.Episodes = append(r.Episodes, e)
	}
	sort.SliceStable(r.Episodes, func(i, j int) bool {
		a, b := r.Episodes[i], r.Episodes[j]
		if a.Iteration != b.Iteration {
			return a.Iteration < b.Iteration
		}
		return a.ID < b.ID
	})
	return r, nil
}

// globQuote keeps a folder's own brackets and stars from being read as a pattern.
func globQuote(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// eachLine gives every whole line to take; a last line without its end is one that is just being written.
func eachLine(data []byte, take func([]byte) error, problem func(error)) {
	bad := 0
	for n := 1; ; n++ {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			break
		}
		if err := take(data[:i]); err != nil {
			if bad++; bad == 1 {
				problem(fmt.Errorf("line %d: %w", n, err))
			}
		}
		data = data[i+1:]
	}
	if bad > 1 {
		problem(fmt.Errorf("%d lines could not be read", bad))
	}
}

// Video returns the GIF of a saved episode.
func (r *Record) Video(e Episode) ([]byte, error) {
	if e.Video == "" {
		return nil, plugins.Errorf(plugins.NotFound, "episode %s has no video", e.ID)
	}
	return os.ReadFile(filepath.Join(r.Dir, episodesDir, e.Video))
}
