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

// Options configure [Policy].
type Options struct {
	// From is a run folder or one of its checkpoints.
	From string
	// Iteration is a checkpoint of the run; below 0: the newest good one or, with Best, the one with the
	// highest success rate.
	Iteration int
	Best      bool
	// To is a folder that does not exist, or is empty.
	To       string
	Terminal *report.Terminal
}

// Result describes an exported policy.
type Result struct {
	To        string `json:"to"`
	From      string `json:"from"`
	Iteration int    `json:"iteration"`
	// SuccessRate of the checkpoint, if it is known.
	SuccessRate *float64 `json:"success_rate,omitempty"`
	Files       int      `json:"files"`
	Bytes       int64    `json:"bytes"`
	// Published is true for a folder in the policy's published format. LeftOut are the files that only training
	// needs.
	Published bool     `json:"published"`
	LeftOut   []string `json:"left_out,omitempty"`
}

// trainingFiles are the files for training that a policy keeps in a folder of a published format (policies/openvla).
var trainingFiles = []string{"srpo_state", session.SavedStateFile}

// policyPrefix is the policy's folder in the names of a checkpoint's files.
const policyPrefix = "policy/"

// Policy copies the policy of a committed checkpoint, and compares every file with its checksum. From a folder
// in a published format it leaves out what only training needs. The new folder is renamed into place once it is
// complete; when the export fails or is stopped, nothing is left. Errors: NotFound without such a checkpoint,
// Corrupt for a damaged one, Invalid for a destination that is not empty.
func Policy(ctx context.Context, o Options) (*Result, error) {
	c, err := o.checkpoint()
	if err != nil {
		return nil, err
	}
	out := &Result{To: o.To, From: c.Dir, Iteration: c.Iteration, SuccessRate: c.Score}
	names, err := out.chooseFiles(c)
	if err != nil {
		return nil, err
	}
	to, err := checkDestination(o.To)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(to), ".tmp-export-")
	if err != nil {
		return nil, store.DiskError("make a folder beside", to, err)
	}
	defer os.RemoveAll(tmp)
	total := int64(0)
	for _, n := range names {
		total += c.Files[policyPrefix+n].Size
	}
	for _, n := range names {
		want, local := c.Files[policyPrefix+n], filepath.FromSlash(n)
		if err := copyVerified(ctx, filepath.Join(c.PolicyDir(), local), filepath.Join(tmp, local), want); err != nil {
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

// chooseFiles returns the names of the files to copy, relative to the policy's folder.
func (r *Result) chooseFiles(c *store.Checkpoint) ([]string, error) {
	var names []string
	hasWeights := false
	for name := range c.Files {
		rest, ok := strings.CutPrefix(name, policyPrefix)
		if !ok {
			continue
		}
		names = append(names, rest)
		r.Published = r.Published || rest == session.PublishedConfigFile
		hasWeights = hasWeights || !strings.Contains(rest, "/") && strings.HasSuffix(rest, ".safetensors")
	}
	slices.Sort(names)
	if r.Published {
		if !hasWeights {
			return nil, plugins.Errorf(plugins.Unsupported,
				"the checkpoint contains an adapter and no complete weights").
				WithPlace("%s", c.PolicyDir()).
				WithHint("use its lora_adapter folder, which peft applies to the model that it was trained from, " +
					"or continue " +
					"with complete weights: srpo run --resume RUN --iterations N --set policy.NAME.save_merged=true")
		}
		names = slices.DeleteFunc(names, func(n string) bool {
			top, _, _ := strings.Cut(n, "/")
			leaveOut := slices.Contains(trainingFiles, top)
			if leaveOut {
				r.LeftOut = append(r.LeftOut, n)
			}
			return leaveOut
		})
	}
	if len(names) == 0 {
		return nil, plugins.Errorf(plugins.Corrupt, "the checkpoint contains no policy").WithPlace("%s", c.Dir).
			WithHint("use another one")
	}
	return names, nil
}

// checkDestination returns the absolute path of a folder that is empty or does not exist, and creates its parent.
func checkDestination(folder string) (string, error) {
	to, err := filepath.Abs(folder)
	if err != nil {
		return "", plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", folder)
	}
	entries, err := os.ReadDir(to)
	switch {
	case err == nil && len(entries) > 0:
		return "", plugins.Errorf(plugins.Invalid, "the folder is not empty: it contains %s", entries[0].Name()).
			WithPlace("--out %s", folder).
			WithHint("give a folder that is empty or does not exist; nothing is overwritten")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", folder).
			WithHint("give a folder that is empty or does not exist")
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", store.DiskError("make", filepath.Dir(to), err)
	}
	return to, nil
}

// checkpoint finds the checkpoint to export, and verifies its files.
func (o Options) checkpoint() (*store.Checkpoint, error) {
	info, err := os.Stat(o.From)
	if err != nil || !info.IsDir() {
		return nil, plugins.Errorf(plugins.NotFound, "there is no folder %s", o.From).
			WithHint("give a run folder, such as runs/NAME, or one of its checkpoints")
	}
	if _, err := os.Stat(filepath.Join(o.From, "MANIFEST")); err == nil {
		if o.Iteration >= 0 || o.Best {
			return nil, plugins.Errorf(plugins.Invalid, "%s is a checkpoint already", o.From).
				WithPlace("--checkpoint").
				WithHint("remove --checkpoint and --best, or give the run folder")
		}
		return store.OpenCheckpoint(o.From)
	}
	list := store.Checkpoints(o.From)
	switch {
	case o.Best && o.Iteration >= 0:
		return nil, plugins.Errorf(plugins.Invalid, "--best and --checkpoint exclude each other").
			WithHint("give one of them")
	case o.Best:
		return store.Best(o.From)
	case o.Iteration >= 0 && !slices.Contains(list, o.Iteration):
		e := plugins.Errorf(plugins.NotFound, "the run has no checkpoint of iteration %d", o.Iteration).
			WithPlace("--checkpoint")
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
		return nil, plugins.Errorf(plugins.NotFound, "%s contains no checkpoint of a run", o.From).
			WithHint("give a run folder, such as runs/NAME, or one of its checkpoints")
	}
	return c, err
}

// copyVerified copies a file and compares its bytes with the checksum.
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
		return plugins.Errorf(plugins.Canceled, "stopped; nothing was exported").
			WithHint("the same command starts again")
	}
	if err == nil {
		err = errors.Join(out.Sync(), out.Close())
	}
	if err != nil {
		return store.DiskError("write", to, err)
	}
	if n != want.Size || hex.EncodeToString(sum.Sum(nil)) != want.SHA256 {
		return plugins.Errorf(plugins.Corrupt, "the file is not the one that was committed (its SHA-256 differs)").
			WithPlace("%s", from).
			WithHint("use another checkpoint")
	}
	return nil
}

// stoppable is a reader that fails when ctx ends.
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
