// Package dataset reads recorded episodes to learn from: the trajectories of run.keep_trajectories and
// `srpo record --trajectories`, and LeRobot data sets.
package dataset

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Set is a folder of recorded episodes. Close must be called after use.
type Set interface {
	// Form is "trajectories" or, for example, "LeRobot v2.1".
	Form() string
	// Episodes returns all episodes in the order of the folder. IDs are unique.
	Episodes() []Episode
	// Warnings describes the episodes and features that were left out or split, a sentence each.
	Warnings() []string
	// Space describes actions and proprio, as far as the folder does.
	Space() Space
	// Demonstration reads episode i: actions float32 [T, A], proprio float32 [T, P], and the images uint8
	// [T, H, W, 3] of the given cameras.
	Demonstration(ctx context.Context, i int, cameras []string) (policy.Demonstration, error)
	// Clip reads the frames of episode i for an encoder, uint8 [F, H, W, 3]. Frame k was recorded after k
	// times RecordEvery env steps.
	Clip(ctx context.Context, i int) (media.Clip, error)
	// RecordEvery is the number of env steps between two frames of a clip.
	RecordEvery() int
	Close()
}

// Episode describes an episode without its arrays.
type Episode struct {
	ID, Task, Instruction string
	// Success is the label; nil if there is none. In a LeRobot data set, Task is the instruction.
	Success *bool
	// Steps is the number of actions.
	Steps int
}

// Space describes the arrays of episodes. Fields that are not known are empty.
type Space struct {
	Env     string
	Action  plugins.ActionSpace
	Proprio []string
	// Cameras are those of the trajectories; RecordCamera is that of the clips.
	Cameras      []string
	RecordCamera string
}

// Options are the settings for LeRobot data sets.
type Options struct {
	// Cameras are CAMERA=FEATURE; without them, features are matched by name. RequestedCameras are the cameras that
	// will be requested, the recording camera first.
	Cameras, RequestedCameras []string
	// Action and State are names of features. Success is "auto", "all", "none" or the name of a feature.
	Action, State, Success string
	// RecordEvery is the number of steps between two frames of a clip.
	RecordEvery int
	// Reader starts the program that reads parquet and video. If it is nil, LeRobot data sets cannot be read.
	Reader *Reader
}

// Open opens a folder of trajectories or a LeRobot data set. The error is NotFound if the folder does not
// exist, and Invalid if it contains no episode with actions.
func Open(ctx context.Context, dir string, o Options) (Set, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, plugins.Errorf(plugins.NotFound, "there is no such folder").WithPlace("%s", dir).WithHint(hint)
	case err != nil:
		return nil, plugins.Errorf(plugins.Invalid, "cannot be read: %w", err).WithPlace("%s", dir).
			WithHint("check its permissions")
	case !info.IsDir():
		return nil, plugins.Errorf(plugins.Invalid, "this is a file").WithPlace("%s", dir).WithHint(hint)
	}
	has := func(name ...string) bool {
		_, err := os.Stat(filepath.Join(append([]string{dir}, name...)...))
		return err == nil
	}
	switch {
	case has(Dir):
		return openTrajectories(dir)
	case has("meta", "info.json"):
		return openLeRobot(ctx, dir, o)
	case has("manifest.json") && has("srpo.toml"), has("eval.json"):
		return nil, plugins.Errorf(plugins.Invalid, "the run folder has no trajectories").WithPlace("%s", dir).
			WithHint("srpo run --set run.keep_trajectories=all keeps them; srpo record --actor policy --checkpoint "+
				"%s --trajectories records new ones", dir)
	case has("labels.jsonl"):
		return nil, plugins.Errorf(plugins.Invalid, "the recording has clips but no actions").WithPlace("%s", dir).
			WithHint("record it again with --trajectories, into another folder")
	}
	return nil, plugins.Errorf(plugins.Invalid, "the folder contains no recorded episodes").
		WithPlace("%s", dir).WithHint(hint)
}

const hint = "give a run folder with run.keep_trajectories, a folder of srpo record --trajectories, or a LeRobot " +
	"data set (with meta/info.json)"
