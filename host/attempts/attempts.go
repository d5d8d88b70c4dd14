// Package attempts reads attempts at tasks for `srpo reward`: from a list with embeddings or videos, from a
// folder of videos with labels, or from a run folder. What is wrong with a single attempt becomes that
// attempt's [Attempt.Problem], and the others are read all the same; what is wrong with the list is one
// error.
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
	// ID names it, unique in its [List] and never empty.
	ID, Task string
	// Success is its label; nil: it has none.
	Success *bool
	// Demo says that it is a demonstration, for references "demos".
	Demo bool
	// Progress is how far the task came, 0 to 1, where somebody measured it.
	Progress *float64
	// Embedding is the one that the list gave; nil: it is to be made from the frames.
	Embedding []float64
	// Video is the path that the frames come from; empty: there are none.
	Video string
	// Problem says why the attempt cannot be embedded; empty: nothing is known against it.
	Problem string
}

// Labelled success, labelled failure.
func (a Attempt) succeeded() bool { return a.Success != nil && *a.Success }

// List is what was read.
type List struct {
	// Source is the path that was given, Form what it was taken for: "list", "folder", "run" or "evaluation".
	Source, Form string
	Attempts     []Attempt
	// Anchors are embeddings of "nothing happened" by task, when the list gives them.
	Anchors map[string][]float64
	// Encoder names the encoder that made the embeddings, where that is known.
	Encoder string
	// Warnings are sentences for the user: what was left out, what was assumed.
	Warnings []string
}

// Read reads what a path names: a list (.json, .jsonl or .csv), a folder of videos with a labels file, or a
// run folder of `srpo run` or `srpo eval`. No video is opened yet. Errors: NotFound when there is nothing,
// Invalid with file and line for a list or labels file that cannot be used.
func Read(ctx context.Context, path string) (*List, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, plugins.Errorf(plugins.NotFound, "there is no %s",
			path).WithHint("give a list (.json, .csv), a folder of videos with labels.json or labels.csv, or a run " +
			"folder")
	case err != nil:
		return nil, plugins.Errorf(plugins.Invalid, "cannot be read: %w", err).WithPlace("%s",
			path).WithHint("check its permissions")
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

// readListFile reads a list by its extension.
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
		return nil, plugins.Errorf(plugins.Invalid, "a list ends in .json, .jsonl or .csv, not %q",
			ext).WithPlace("%s", path).
			WithHint("to score videos, put them into a folder with a labels file and give the folder")
	}
	list.Form = "list"
	videos, gone := 0, ""
	for _, r := range rows {
		a := r.attempt()
		switch {
		case r.Embedding == nil && r.Video == "":
			a.Problem = "neither an embedding nor a video is given"
		case r.Embedding != nil && r.Video != "":
			return nil, plugins.Errorf(plugins.Invalid, "attempt %q has both a video and an embedding",
				r.ID).WithPlace("%s", r.place).WithHint("leave one of the two out")
		case r.Embedding != nil:
			a.Embedding, a.Problem = r.Embedding.read(filepath.Dir(path))
		default:
			a.Video = beside(path, r.Video)
			if _, err := os.Stat(a.Video); err != nil {
				a.Problem = "the video does not exist: " + r.Video
				gone = r.Video
			} else {
				videos++
			}
		}
		list.Attempts = append(list.Attempts, a)
	}
	if videos == 0 && gone != "" && !slices.ContainsFunc(list.Attempts,
		func(a Attempt) bool { return len(a.Embedding) > 0 }) {
		return nil, plugins.Errorf(plugins.Invalid, "none of its videos is there: %s, for example",
			gone).WithPlace("%s", path).
			WithHint("paths are absolute, or relative to the folder of the list, %s", filepath.Dir(path))
	}
	return list, nil
}

// beside is a path as a file means it: relative to the file's own folder.
func beside(file, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(file), filepath.FromSlash(path))
}

// check finds what makes a whole list useless: no attempt, or names that are not unique.
func (l *List) check(path string) error {
	if len(l.Attempts) == 0 {
		return plugins.Errorf(plugins.Invalid, "there is no attempt in it").WithPlace("%s",
			path).WithHint(`give at least one: [{"id": "a", "task": "stack", "success": true, "embedding": [0.1, 0.2]}]`)
	}
	seen := map[string]bool{}
	for _, a := range l.Attempts {
		if seen[a.ID] {
			return plugins.Errorf(plugins.Invalid, "two attempts are called %q", a.ID).WithPlace("%s",
				path).WithHint("give each attempt an id of its own")
		}
		seen[a.ID] = true
	}
	return nil
}
