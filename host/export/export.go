// Package export copies the policy of a checkpoint out of a run folder.
package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// Options say what [Policy] is to copy.
type Options struct {
	// From is a run folder, or one of its checkpoints. Iteration picks one of a run's checkpoints; below 0: the newest good one, or with Best the one with the
	// highest success rate.
	From      string
	Iteration int
	Best      bool
	// To is a folder that does not exist, or is empty.
	To       string
	Terminal *report.Terminal
}

// Result is what was copied.
type Result struct {
	To        string `json:"to"`
	From      string `json:"from"`
	Iteration int    `json:"iteration"`
	// SuccessRate of the checkpoint, where one is known.
	SuccessRate *float64 `json:"success_rate,omitempty"`
	Files       int      `json:"files"`
	Bytes       int64    `json:"bytes"`
	// Published says that the folder holds the policy's published format, and LeftOut which files of training are not in it.
	Published bool     `json:"published"`
	LeftOut   []string `json:"left_out,omitempty"`
}

// private are what a policy keeps for training beside the files of a published format (policies/openvla).
var private = []string{"srpo_state", session.SavedStateFile}

// Policy copies the policy of a committed checkpoint, comparing each byte with its checksum. Of a folder in a published format it leaves out what only
// training needs. The folder gets its name when all of it is there; stopped or failed, nothing is left. Errors: NotFound without such a checkpoint, Corrupt for
// a damaged one, Invalid for a destination that holds something.
func Policy(ctx context.Context, o Options) (*Result, error) {
	c, err := o.checkpoint()
	if err != nil {
		return nil, err
	}
	out := &Result{To: o.To, From: c.Dir, Iteration: c.Iteration, SuccessRate: c.Score}
	const inside = "policy/"
	var names []string
	weights := false
	for name := range c.Files {
		rest, ok := strings.CutPrefix(name, inside)
		if !ok {
			continue
		}
		names = append(names, rest)
		out.Published = out.Published || rest == session.PublishedConfigFile
		weights = weights || !strings.Contains(rest, "/") && strings.HasSuffix(rest, ".safetensors")
	}
	slices.Sort(names)
	if out.Published {
		if !weights {
			return nil, plugins.Errorf(plugins.Unsupported, "the checkpoint holds an adapter and no whole weights").WithPlace("%s", c.PolicyDir()).
				WithHint("take its lora_adapter folder, which peft puts on the model that it was trained from, or go on with whole weights: srpo run --resume RUN --iterations N --set policy.NAME.save_merged=true")
		}
		names = slices.DeleteFunc(names, func(n string) bool {
			drop := slices.Contains(private, strings.SplitN(n, "/", 2)[0])
			if drop {
				out.LeftOut = append(out.LeftOut, n)
			}
			return drop
		})
	}
	if len(names) == 0 {
		return nil, plugins.Errorf(plugins.Corrupt, "the checkpoint holds no policy").WithPlace("%s", c.Dir).WithHint("use another one")
	}
	to, err := filepath.Abs(o.To)
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--to %s", o.To)
	}
	entries, err := os.ReadDir(to)
	switch {
	case err == nil && len(entries) > 0:
		return nil, plugins.Errorf(plugins.Invalid, "the folder is not empty: it holds %s", entries[0].Name()).WithPlace("--to %s", o.To).WithHint("give a folder that is empty or does not exist; nothing is overwritten")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--to %s", o.To).WithHint("give a folder that is empty or does not exist")
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return nil, store.DiskError("make", filepath.Dir(to), err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(to), ".tmp-export-")
	if err != nil {
		return nil, store.DiskError("make a folder beside", to, err)
	}
	defer os.RemoveAll(tmp)
	total := int64(0)
	for _, n := range names {
		total += c.Files[inside+n].Size
	}
	for _, n := range names {
		want := c.Files[inside+n]
		if err := copyVerified(ctx, filepath.Join(c.PolicyDir(), filepath.FromSlash(n)), filepath.Join(tmp, filepath.FromSlash(n)), want); err != nil {
			return nil, err
		}
		out.Files++
		out.Bytes += want.Size
		o.Terminal.Update(report.Status{Phase: "copy, MB", Done: int(out.Bytes / 1e6), Total: int(total / 1e6)})
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, store.DiskError("write", tmp, err)
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, store.DiskError("replace", to, err)
	}
	if err := os.Rename(tmp, to); err != nil {
		return nil, store.DiskError("write", to, err)
	}
	return out, nil
}

// checkpoint finds the one to export, every byte of it as it was committed.
func (o Options) checkpoint() (*store.Checkpoint, error) {
	info, err := os.Stat(o.From)
	if err != nil || !info.IsDir() {
		return nil, plugins.Errorf(plugins.NotFound, "there is no folder %s", o.From).WithHint("give a run folder, such as runs/NAME, or one of its checkpoints")
	}
	if _, err := os.Stat(filepath.Join(o.From, "MANIFEST")); err == nil {
		if o.Iteration >= 0 || o.Best {
			return nil, plugins.Errorf(plugins.Invalid, "%s is a checkpoint already", o.From).WithPlace("--checkpoint").WithHint("leave --checkpoint and --best out, or give the run folder")
		}
		return store.OpenCheckpoint(o.From)
	}
	list := store.Checkpoints(o.From)
	switch {
	case o.Best && o.Iteration >= 0:
		return nil, plugins.Errorf(plugins.Invalid, "--best and --checkpoint exclude each other").WithHint("give one of them")
	case o.Best:
		return store.Best(o.From)
	case o.Iteration >= 0 && !slices.Contains(list, o.Iteration):
		e := plugins.Errorf(plugins.NotFound, "the run has no checkpoint of iteration %d", o.Iteration).WithPlace("--checkpoint")
		if len(list) == 0 {
			return nil, e.WithHint("give a run folder with checkpoints")
		}
		return nil, e.WithHint("it has %s", strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ", "), "[]"))
	case o.Iteration >= 0:
		return store.OpenCheckpoint(filepath.Join(o.From, "checkpoints", fmt.Sprintf("%06d", o.Iteration)))
	}
	c, damaged, err := store.Latest(o.From)
	for _, w := range damaged {
		o.Terminal.Warn("%v", w)
	}
	if plugins.KindOf(err) == plugins.NotFound {
		return nil, plugins.Errorf(plugins.NotFound, "%s holds no checkpoint of a run", o.From).WithHint("give a run folder, such as runs/NAME, or one of its checkpoints")
	}
	return c, err
}

// copyVerified copies a file and compares what it read with its checksum.
func copyVerified(ctx context.Context, from, to string, want store.File) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return store.DiskError("make", filepath.Dir(to), err)
	}
	in, err := os.Open(from)
	if err != nil {
		return store.DiskError("read", from, err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return store.DiskError("write", to, err)
	}
	defer out.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), stoppable{ctx, in})
	if ctx.Err() != nil {
		return plugins.Errorf(plugins.Canceled, "stopped; nothing was exported").WithHint("the same command begins anew")
	}
	if err == nil {
		err = errors.Join(out.Sync(), out.Close())
	}
	if err != nil {
		return store.DiskError("write", to, err)
	}
	if n != want.Size || hex.EncodeToString(sum.Sum(nil)) != want.SHA256 {
		return plugins.Errorf(plugins.Corrupt, "the file's bytes are not those that were committed (SHA-256 differs)").WithPlace("%s", from).WithHint("use another checkpoint")
	}
	return nil
}

// stoppable ends a copy with its context.
type stoppable struct {
	ctx context.Context
	r   io.Reader
}

func (s stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}
