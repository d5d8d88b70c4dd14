// Package dataset reads recorded episodes to learn from: what run.keep_trajectories and `srpo record
// --trajectories` keep, and LeRobot data sets.
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

// Set is a folder of recorded episodes. Close it.
type Set interface {
	// Form is "trajectories" or "lerobot v2.1" and the like.
	Form() string
	// Episodes are all of them, in the folder's order; ids are unique.
	Episodes() []Episode
	// Space is what actions and proprio mean, as far as the folder says.
	Space() Space
	// Demonstration reads episode i: actions float32 [T, A], proprio float32 [T, P], and images uint8 [T,
	// H, W, 3] of the cameras named.
	Demonstration(ctx context.Context, i int, cameras []string) (policy.Demonstration, error)
	// Clip reads the frames of episode i that an encoder looks at, uint8 [F, H, W, 3]. Frame k is what was
	// seen after k times Every env steps.
	Clip(ctx context.Context, i int) (media.Clip, error)
	// Every is how many env steps lie between two frames of a clip.
	Every() int
	Close()
}

// Episode is what a set says of an episode without reading it.
type Episode struct {
	ID, Task, Instruction string
	// Success is the label; nil: there is none.
	Success *bool
	// Steps are actions.
	Steps int
}

// Space is what the numbers mean; empty where nobody wrote it down.
type Space struct {
	Env     string
	Action  plugins.ActionSpace
	Proprio []string
	// Cameras that trajectories hold; RecordCamera is the one of the clips.
	Cameras      []string
	RecordCamera string
}

// Options say how a LeRobot data set is read.
type Options struct {
	// Cameras are CAMERA=FEATURE; empty: by name. Wanted are the cameras that somebody will ask for, the
	// recording camera first.
	Cameras, Wanted []string
	// Action and State are features; Success is "auto", "all", "none" or a feature.
	Action, State, Success string
	// Every is how many steps lie between two frames of a clip.
	Every int
	// Reader starts the program that reads parquet and video; nil: only folders of our own can be read.
	Reader *Reader
}

// Open finds out what a folder holds. Errors: NotFound when there is no such folder, Invalid when it holds
// no episode with actions.
func Open(ctx context.Context, dir string, o Options) (Set, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, plugins.Errorf(plugins.NotFound, "there is no such folder").WithPlace("%s", dir).WithHint(hint)
	case err != nil:
		return nil, plugins.Errorf(plugins.Invalid, "cannot be read: %w", err).WithPlace("%s",
			dir).WithHint("check its permissions")
	case !info.IsDir():
		return nil, plugins.Errorf(plugins.Invalid, "this is a file").WithPlace("%s", dir).WithHint(hint)
	}
	there := func(name ...string) bool {
		_, err := os.Stat(filepath.Join(append([]string{dir}, name...)...))
		return err == nil
	}
	switch {
	case there(Dir):
		return openOwn(dir)
	case there("meta", "info.json"):
		return openLeRobot(ctx, dir, o)
	case there("manifest.json") && there("srpo.toml"), there("eval.json"):
		return nil, plugins.Errorf(plugins.Invalid, "the run folder kept no trajectories").WithPlace("%s", dir).
			WithHint("srpo run --set run.keep_trajectories=all keeps them; srpo record --actor policy --checkpoint "+
				"%s --trajectories records new ones", dir)
	case there("labels.jsonl"):
		return nil, plugins.Errorf(plugins.Invalid, "the recording holds clips and no actions").WithPlace("%s",
			dir).WithHint("record it again with --trajectories, into another folder")
	}
	return nil, plugins.Errorf(plugins.Invalid, "the folder holds no recorded episodes").WithPlace("%s",
		dir).WithHint(hint)
}

const hint = "give a run folder with run.keep_trajectories, a folder of srpo record --trajectories, or a LeRobot " +
	"data set (with meta/info.json)"
