// Package attempts reads attempts at tasks for `srpo reward`: from a list with embeddings or videos, from a
// folder of videos with labels, or from a run folder. A problem with a single attempt is reported in
// [Attempt.Problem], and the others are read. A problem with the list is an error.
package attempts

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// Attempt is one attempt at a task.
type Attempt struct {
	// ID is unique in the [List] and not empty.
	ID, Task string
	// Success is the label; nil if there is none.
	Success *bool
	// Demo marks a demonstration, for references "demos".
	Demo bool
	// Progress is a measured progress from 0 to 1; nil if there is none.
	Progress *float64
	// Embedding is the one in the list; nil if it must be computed from the frames.
	Embedding []float64
	// Video is the path of the frames; "" if there are none.
	Video string
	// Problem is the reason why the attempt cannot be embedded; "" if none is known.
	Problem string
}

// List is a list of attempts.
type List struct {
	// Source is the given path. Form is how it was read: "list", "folder", "run" or "evaluation".
	Source, Form string
	Attempts     []Attempt
	// Anchors are embeddings of doing nothing by task, if the list contains them.
	Anchors map[string][]float64
	// Encoder is the name of the encoder of the embeddings, if it is known.
	Encoder string
	// Warnings state what was left out or assumed.
	Warnings []string
}

// Read reads a list (.json, .jsonl or .csv), a folder of videos with a labels file, or the run folder of
// `srpo run` or `srpo eval`. It opens no video. The error is NotFound if the path does not exist, and
// Invalid with file and line if a list or labels file cannot be used.
func Read(ctx context.Context, path string) (*List, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, plugins.Errorf(plugins.NotFound, "there is no %s", path).
			WithHint("give a list (.json, .csv), a folder of videos with labels.json or labels.csv, or a run folder")
	case err != nil:
		return nil, plugins.Errorf(plugins.Invalid, "cannot be read: %w", err).WithPlace("%s", path).
			WithHint("check its permissions")
	}
	var list *List
	if info.IsDir() {
		list, err = readFolder(path)
	} else {
		list, err = readListFile(path)
	}
	if err != nil {
		return nil, err
	}
	list.Source = path
	if err := list.check(path); err != nil {
		return nil, err
	}
	return list, ctx.Err()
}

// readListFile reads a list in the format of its extension.
func readListFile(path string) (*List, error) {
	var list *List
	var rows []entry
	var err error
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".json", ".jsonl", ".csv":
		if list, rows, err = readEntries(path); err != nil {
			return nil, err
		}
	default:
		return nil, plugins.Errorf(plugins.Invalid, "the name of a list must end in .json, .jsonl or .csv, not %q",
			ext).
			WithPlace("%s", path).
			WithHint("to score videos, put them into a folder with a labels file and give the folder")
	}
	list.Form = "list"
	videos, missing := 0, ""
	for _, r := range rows {
		a := r.attempt()
		switch {
		case r.Embedding == nil && r.Video == "":
			a.Problem = "it has neither an embedding nor a video"
		case r.Embedding != nil && r.Video != "":
			return nil, plugins.Errorf(plugins.Invalid, "attempt %q has both a video and an embedding", r.ID).
				WithPlace("%s", r.place).WithHint("remove one of the two")
		case r.Embedding != nil:
			a.Embedding, a.Problem = r.Embedding.read(filepath.Dir(path))
		default:
			var err error
			if a.Video, err = findFile(relativeTo(path, r.Video)); err != nil {
				a.Problem = "the video does not exist: " + r.Video
				missing = r.Video
			} else {
				videos++
			}
		}
		list.Attempts = append(list.Attempts, a)
	}
	if videos == 0 && missing != "" && !slices.ContainsFunc(list.Attempts,
		func(a Attempt) bool { return len(a.Embedding) > 0 }) {
		return nil, plugins.Errorf(plugins.Invalid, "none of its videos exists: %s, for example", missing).
			WithPlace("%s", path).WithHint("give paths that are absolute or relative to the folder of the list, %s",
			filepath.Dir(path))
	}
	return list, nil
}

// relativeTo resolves a path in a file. A relative path starts at the folder of the file.
func relativeTo(file, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(file), filepath.FromSlash(path))
}

// check requires at least one attempt and unique IDs.
func (l *List) check(path string) error {
	if len(l.Attempts) == 0 {
		return plugins.Errorf(plugins.Invalid, "it contains no attempt").WithPlace("%s", path).
			WithHint(`give at least one: [{"id": "a", "task": "stack", "success": true, "embedding": [0.1, 0.2]}]`)
	}
	seen := map[string]bool{}
	for _, a := range l.Attempts {
		if seen[a.ID] {
			return plugins.Errorf(plugins.Invalid, "two attempts have the id %q", a.ID).WithPlace("%s", path).
				WithHint("give each attempt a different id")
		}
		seen[a.ID] = true
	}
	return nil
}
