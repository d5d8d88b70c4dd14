package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/plugins"
)

const (
	policyDir     = "policy"
	sumsFile      = "MANIFEST"
	pendingPrefix = ".tmp-"
	trashPrefix   = ".trash-"
	asidePrefix   = "set-aside-"
)

// Checkpoint is the committed state after an iteration.
type Checkpoint struct {
	Iteration int
	// Dir is the checkpoint's folder.
	Dir string
	// Score is the success rate by which the best checkpoint is chosen; nil: unknown.
	Score *float64
	// MetricsBytes and EventsBytes are the lengths of metrics.jsonl and events.jsonl at the commit.
	MetricsBytes, EventsBytes int64
	// Files are its files by slash-separated path.
	Files map[string]File
}

// File is the size and checksum of one file of a checkpoint.
type File struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// PolicyDir returns the folder to pass to policy.Load.
func (c *Checkpoint) PolicyDir() string { return filepath.Join(c.Dir, policyDir) }

// ReadFile reads a file that [Pending.WriteFile] wrote.
func (c *Checkpoint) ReadFile(name string) ([]byte, error) {
	f, ok := c.Files[name]
	if !ok {
		return nil, plugins.Errorf(plugins.NotFound, "the checkpoint has no file %q", name).WithPlace("%s", c.Dir)
	}
	data, err := bounded.ReadFile(filepath.Join(c.Dir, filepath.FromSlash(name)), f.Size)
	if err != nil {
		return nil, damaged(filepath.Join(c.Dir, name), err.Error())
	}
	return data, nil
}

// sums is the content of a checkpoint's MANIFEST: this object on the first line, its SHA-256 on the second.
type sums struct {
	Format       int             `json:"format"`
	Iteration    int             `json:"iteration"`
	Created      time.Time       `json:"created"`
	Score        *float64        `json:"success_rate,omitempty"`
	MetricsBytes int64           `json:"metrics_bytes"`
	EventsBytes  int64           `json:"events_bytes"`
	Files        map[string]File `json:"files"`
}

// folderName returns the name of the folder of an iteration's checkpoint.
func folderName(iteration int) string { return fmt.Sprintf("%06d", iteration) }

// iterationDir returns the folder of an iteration's checkpoint in the run folder dir.
func iterationDir(dir string, iteration int) string {
	return filepath.Join(dir, checkpointsDir, folderName(iteration))
}

func (r *Run) checkpointDir(iteration int) string { return iterationDir(r.dir, iteration) }

// Checkpoints returns the iterations that have a checkpoint, ascending, without verifying them.
func (r *Run) Checkpoints() []int { return Checkpoints(r.dir) }

// Checkpoints is [Run.Checkpoints] for a folder that is not open for writing.
func Checkpoints(dir string) []int {
	entries, _ := os.ReadDir(filepath.Join(dir, checkpointsDir))
	var list []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n >= 0 && len(e.Name()) == 6 && e.IsDir() {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// Committed returns the newest checkpoint if this process committed it or resumed from it, and nil otherwise. It reads
// no files.
func (r *Run) Committed() *Checkpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.verified
}

// Best returns the verified checkpoint of a run folder with the highest success rate, and of equal ones the newest. The
// error is NotFound if there is none.
func Best(dir string) (*Checkpoint, error) {
	var best *Checkpoint
	for _, it := range Checkpoints(dir) {
		c, err := readSums(iterationDir(dir, it))
		if err != nil || c.Score == nil || best != nil && *c.Score < *best.Score {
			continue
		}
		if c, err = OpenCheckpoint(c.Dir); err == nil {
			best = c
		}
	}
	if best == nil {
		return nil, plugins.Errorf(plugins.NotFound, "no undamaged checkpoint has a success rate").
			WithPlace("%s", dir).WithHint("run at least one iteration")
	}
	return best, nil
}

// Latest returns the newest checkpoint whose files all match their checksums. The errors of newer, damaged ones are
// returned as warnings. Errors: NotFound if there is no checkpoint, Corrupt if all are damaged.
func (r *Run) Latest() (c *Checkpoint, warnings []error, err error) { return Latest(r.dir) }

// Latest is [Run.Latest] for a folder that is not open for writing.
func Latest(dir string) (c *Checkpoint, warnings []error, err error) {
	for _, iteration := range slices.Backward(Checkpoints(dir)) {
		c, err := openIteration(dir, iteration)
		if err == nil {
			return c, warnings, nil
		}
		warnings = append(warnings, err)
	}
	if len(warnings) > 0 {
		return nil, warnings, plugins.Errorf(
			plugins.Corrupt, "every checkpoint is damaged; the newest: %v", warnings[0],
		).
			WithPlace("%s", dir).
			WithHint("restore a folder under %s from a backup, or start a new run", filepath.Join(dir, checkpointsDir))
	}
	return nil, nil, plugins.Errorf(plugins.NotFound, "the run has no checkpoint yet").
		WithPlace("%s", dir).WithHint("start it again with a new --out")
}

// OpenCheckpoint reads a checkpoint's folder and compares every file with its checksum. If a file differs, the error
// has kind Corrupt and the file as its place.
func OpenCheckpoint(dir string) (*Checkpoint, error) {
	c, err := readSums(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Files)) {
		want := c.Files[name]
		path := filepath.Join(dir, filepath.FromSlash(name))
		got, err := hash(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, damaged(path, "the file is missing")
		case err != nil:
			return nil, damaged(path, err.Error())
		case got.Size != want.Size:
			return nil, damaged(path, fmt.Sprintf("the file has %d bytes, %d were committed", got.Size, want.Size))
		case got.SHA256 != want.SHA256:
			return nil, damaged(path, changed)
		}
	}
	return c, nil
}

// openIteration is [OpenCheckpoint] for a checkpoint of the run folder dir. It also checks that the checkpoint belongs
// to the iteration.
func openIteration(dir string, iteration int) (*Checkpoint, error) {
	c, err := OpenCheckpoint(iterationDir(dir, iteration))
	if err == nil && c.Iteration != iteration {
		return nil, damaged(
			c.Dir, fmt.Sprintf("the folder was copied or renamed: it contains iteration %d", c.Iteration),
		)
	}
	return c, err
}

// changed is the message about a file whose checksum differs.
const changed = "the file was changed after the commit (SHA-256 differs)"

func damaged(path, why string) error {
	return plugins.Errorf(plugins.Corrupt, "%s", why).WithPlace("%s", path).
		WithHint("the checkpoint is damaged: use an earlier one, or restore the file from a backup")
}

// readSums reads a checkpoint's MANIFEST and verifies that file, but not the files that it lists.
func readSums(dir string) (*Checkpoint, error) {
	path := filepath.Join(dir, sumsFile)
	data, err := bounded.ReadFile(path, bounded.Small)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged(path, "the file is missing")
	}
	if err != nil {
		return nil, damaged(path, err.Error())
	}
	text, sum, _ := bytes.Cut(data, []byte("\n"))
	if want := sha256.Sum256(text); hex.EncodeToString(want[:])+"\n" != string(sum) {
		return nil, damaged(path, changed)
	}
	var s sums
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, damaged(path, err.Error())
	}
	if s.Format != FormatVersion {
		return nil, plugins.Errorf(plugins.Mismatch,
			"the checkpoint has format %d, this srpo reads %d", s.Format, FormatVersion).
			WithPlace("%s", path).WithHint("use the srpo that made it")
	}
	if s.Iteration < 0 || s.MetricsBytes < 0 || s.EventsBytes < 0 {
		return nil, damaged(path, fmt.Sprintf("a number is negative: iteration %d, metrics_bytes %d, events_bytes %d",
			s.Iteration, s.MetricsBytes, s.EventsBytes))
	}
	for n := range s.Files {
		if !filepath.IsLocal(filepath.FromSlash(n)) {
			return nil, damaged(path, fmt.Sprintf("it names a file outside of the checkpoint: %q", n))
		}
	}
	return &Checkpoint{Iteration: s.Iteration, Dir: dir, Score: s.Score,
		MetricsBytes: s.MetricsBytes, EventsBytes: s.EventsBytes, Files: s.Files}, nil
}

// hash returns the size and checksum of a file.
func hash(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, err
	}
	return File{Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// Retain removes checkpoints beyond [Run.Keep], as each commit does.
func (r *Run) Retain() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.retain()
}

// retain removes the checkpoints that are neither among the newest Keep nor the best one. If all those that remain
// are damaged, it also keeps the newest undamaged one. The checkpoint that this process hashed itself counts as
// undamaged; others are read.
func (r *Run) retain() error {
	if r.Keep <= 0 {
		return nil
	}
	list := r.Checkpoints()
	if len(list) <= r.Keep {
		return nil
	}
	best, bestScore := -1, -1.0
	for _, it := range list {
		if c, err := readSums(r.checkpointDir(it)); err == nil && c.Score != nil && *c.Score >= bestScore {
			best, bestScore = it, *c.Score
		}
	}
	intact := r.newestIntact(list)
	for _, it := range list[:len(list)-r.Keep] {
		if it == best || it == intact {
			continue
		}
		// Rename first, so that a half-removed checkpoint does not look like a damaged one.
		trash := filepath.Join(r.dir, checkpointsDir, trashPrefix+folderName(it))
		if err := r.disk.rename(r.checkpointDir(it), trash); err != nil {
			return err
		}
		if err := r.disk.remove(trash); err != nil {
			return err
		}
	}
	return nil
}

// newestIntact returns the last of the iterations whose checkpoint is undamaged; -1: none.
func (r *Run) newestIntact(iterations []int) int {
	for _, it := range slices.Backward(iterations) {
		if r.verified != nil && r.verified.Iteration == it {
			return it
		}
		if _, err := openIteration(r.dir, it); err == nil {
			return it
		}
	}
	return -1
}
