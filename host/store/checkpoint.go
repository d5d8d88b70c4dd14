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
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/plugins"
)

const (
	policyDir   = "policy"
	sumsFile    = "MANIFEST"
	pendingName = ".tmp-"
	trashName   = ".trash-"
	asideName   = "set-aside-"
)

// Checkpoint is the committed state after an iteration.
type Checkpoint struct {
	Iteration int
	// Dir is its folder.
	Dir string
	// Score is the success rate by which the best checkpoint is kept; nil: none was known.
	Score *float64
	// MetricsBytes and EventsBytes are the lengths of metrics.jsonl and events.jsonl at the commit.
	MetricsBytes, EventsBytes int64
	// Files are its files by path, slash-separated.
	Files map[string]File
}

// File is one file of a checkpoint.
type File struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// PolicyDir is the folder to give to policy.Load.
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

// sums is the text of a checkpoint's MANIFEST: this object on one line, and its SHA-256 on the next.
type sums struct {
	Format       int             `json:"format"`
	Iteration    int             `json:"iteration"`
	Created      time.Time       `json:"created"`
	Score        *float64        `json:"success_rate,omitempty"`
	MetricsBytes int64           `json:"metrics_bytes"`
	EventsBytes  int64           `json:"events_bytes"`
	Files        map[string]File `json:"files"`
}

// Pending is a checkpoint that is being written.
type Pending struct {
	run       *Run
	iteration int
	dir       string
	began     time.Time
	score     *float64
	done      bool
}

// Begin starts a checkpoint for an iteration. End it with Commit or Abort.
func (r *Run) Begin(iteration int) (*Pending, error) {
	if iteration < 0 || iteration > 999999 {
		return nil, plugins.Errorf(plugins.Invalid, "iteration %d cannot be committed", iteration).WithHint("0 to 999999")
	}
	name := fmt.Sprintf("%06d", iteration)
	if _, err := os.Lstat(filepath.Join(r.dir, checkpointsDir, name)); err == nil {
		return nil, plugins.Errorf(plugins.Internal, "iteration %d is already committed", iteration).WithPlace("%s", filepath.Join(r.dir, checkpointsDir, name))
	}
	p := &Pending{run: r, iteration: iteration, dir: filepath.Join(r.dir, checkpointsDir, pendingName+name), began: time.Now()}
	if err := r.disk.remove(p.dir); err != nil {
		return nil, err
	}
	for _, d := range []string{p.dir, p.PolicyDir()} {
		if err := r.disk.mkdir(d); err != nil {
			p.Abort()
			return nil, err
		}
	}
	return p, nil
}

// PolicyDir is the existing empty folder to give to policy.Save, an absolute path.
func (p *Pending) PolicyDir() string { return filepath.Join(p.dir, policyDir) }

// WriteFile adds a file of the host's own, such as "host.json".
func (p *Pending) WriteFile(name string, data []byte) error {
	if name != filepath.Base(name) || !filepath.IsLocal(name) || name == policyDir || name == sumsFile {
		return plugins.Errorf(plugins.Invalid, "%q cannot be a file of a checkpoint", name)
	}
	return p.run.disk.write(filepath.Join(p.dir, name), data)
}

// SetScore gives the success rate by which the best checkpoint is kept, for example an evaluation's; without it the metrics' own counts.
func (p *Pending) SetScore(successRate float64) {
	if finite(successRate) {
		p.score = &successRate
	}
}

// Abort removes what was written. After Commit it does nothing.
func (p *Pending) Abort() {
	if !p.done {
		p.done = true
		_ = os.RemoveAll(p.dir)
	}
}

// Commit makes the checkpoint, the line of metrics and all events so far durable, in one step. It adds the seconds since Begin to m's commit phase and
// to its Seconds. m may be nil (a starting policy). When Commit fails, the run is as it was before Begin. Old checkpoints beyond [Run.Keep] are then
// removed; a failure of that comes back as an event, not as an error.
func (p *Pending) Commit(m *Metrics) error {
	if p.done {
		return plugins.Errorf(plugins.Internal, "iteration %d was already committed or aborted", p.iteration)
	}
	defer p.Abort()
	r := p.run
	files, err := p.seal()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.metrics == nil {
		return errClosed
	}
	before := r.metrics.size
	undo := func(err error) error {
		if r.metrics.size != before {
			_ = r.metrics.file.Truncate(before)
			r.metrics.size = before
		}
		return err
	}
	if m != nil {
		line := *m
		line.SecondsByPhase = map[string]float64{}
		for k, v := range m.SecondsByPhase {
			line.SecondsByPhase[k] = v
		}
		took := time.Since(p.began).Seconds()
		line.SecondsByPhase["commit"] += took
		line.Seconds += took
		text, err := json.Marshal(line)
		if err != nil {
			return plugins.AsError(err)
		}
		if err := r.metrics.append(text); err != nil {
			return undo(err)
		}
		*m = line
		if p.score == nil && finite(m.SuccessRate) {
			p.score = &line.SuccessRate
		}
	}
	for _, l := range []*lines{r.metrics, r.events} {
		if err := l.sync(); err != nil {
			return undo(err)
		}
	}
	c := &Checkpoint{Iteration: p.iteration, Dir: r.checkpointDir(p.iteration), Score: p.score, MetricsBytes: r.metrics.size, EventsBytes: r.events.size, Files: files}
	text, err := json.Marshal(sums{FormatVersion, c.Iteration, time.Now().UTC().Truncate(time.Millisecond), c.Score, c.MetricsBytes, c.EventsBytes, files})
	if err != nil {
		return undo(plugins.AsError(err))
	}
	sum := sha256.Sum256(text)
	text = append(text, fmt.Sprintf("\n%x\n", sum)...)
	if err := r.disk.write(filepath.Join(p.dir, sumsFile), text); err != nil {
		return undo(err)
	}
	if err := r.disk.sync(p.dir); err != nil {
		return undo(err)
	}
	parent := filepath.Join(r.dir, checkpointsDir)
	if err := r.disk.rename(p.dir, c.Dir); err != nil {
		return undo(err)
	}
	p.done = true
	if err := r.disk.sync(parent); err != nil {
		// The folder has its name, only not surely on the disk: on the next start it is there and good, or it is not there.
		return err
	}
	r.last, r.disk.committed, r.read = p.iteration, p.iteration, c
	if err := r.retain(); err != nil {
		e := ErrorEvent(Warning, p.iteration, err)
		e.Message = "an old checkpoint could not be removed: " + e.Message
		e.Time = time.Now().UTC()
		if line, err := json.Marshal(e); err == nil {
			_ = r.events.append(line)
		}
	}
	return nil
}

// seal hashes and fsyncs every file and folder.
func (p *Pending) seal() (map[string]File, error) {
	d := p.run.disk
	files := map[string]File{}
	err := filepath.WalkDir(p.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return d.wrap("read", path, err)
		}
		if e.IsDir() {
			if path != p.dir { // The folder itself is synced when MANIFEST is in it.
				return d.sync(path)
			}
			return nil
		}
		if !e.Type().IsRegular() {
			return plugins.Errorf(plugins.Corrupt, "the policy saved something that is not a plain file").WithPlace("%s", path).WithHint("Save must write files, not links")
		}
		if err := d.sync(path); err != nil {
			return err
		}
		f, err := hash(path)
		if err != nil {
			return d.wrap("read", path, err)
		}
		rel, err := filepath.Rel(p.dir, path)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(rel)] = f
		return nil
	})
	return files, err
}

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

// Committed returns the newest checkpoint, when this process has committed it or resumed from it, without reading it again; nil otherwise.
func (r *Run) Committed() *Checkpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read
}

// retain removes checkpoints that are neither among the newest Keep nor the best. Of those that stay one is good, or the newest good one stays besides. The one
// that this process has just hashed is good; others are read.
func (r *Run) retain() error {
	if r.Keep <= 0 {
		return nil
	}
	list := r.Checkpoints()
	if len(list) <= r.Keep {
		return nil
	}
	best, rate := -1, -1.0
	for _, it := range list {
		if c, err := readSums(r.checkpointDir(it)); err == nil && c.Score != nil && *c.Score >= rate {
			best, rate = it, *c.Score
		}
	}
	old, safe := list[:len(list)-r.Keep], false
	for i := len(list) - 1; i >= 0 && !safe; i-- {
		if r.read == nil || r.read.Iteration != list[i] {
			if _, err := openIteration(r.dir, list[i]); err != nil {
				continue
			}
		}
		if safe = true; i < len(old) {
			old = append(slices.Clone(old[:i]), old[i+1:]...)
		}
	}
	for _, it := range old {
		if it == best {
			continue
		}
		// First the name, so that no half-removed checkpoint looks like a damaged one.
		trash := filepath.Join(r.dir, checkpointsDir, fmt.Sprintf("%s%06d", trashName, it))
		if err := r.disk.rename(r.checkpointDir(it), trash); err != nil {
			return err
		}
		if err := r.disk.remove(trash); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) checkpointDir(iteration int) string {
	return filepath.Join(r.dir, checkpointsDir, fmt.Sprintf("%06d", iteration))
}

// Checkpoints lists the iterations that have a checkpoint, ascending, verified or not.
func (r *Run) Checkpoints() []int { return checkpoints(r.dir) }

// Checkpoints is [Run.Checkpoints] for a folder that is not open for writing.
func Checkpoints(dir string) []int { return checkpoints(dir) }

func checkpoints(dir string) []int {
	entries, _ := os.ReadDir(filepath.Join(dir, checkpointsDir))
	var list []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n >= 0 && len(e.Name()) == 6 && e.IsDir() {
			list = append(list, n)
		}
	}
	sort.Ints(list)
	return list
}

// Best returns the verified checkpoint with the highest success rate, the newest of equal ones.
func (r *Run) Best() (*Checkpoint, error) { return Best(r.dir) }

// Best is [Run.Best] for a folder that is not open for writing.
func Best(dir string) (*Checkpoint, error) {
	var best *Checkpoint
	for _, it := range checkpoints(dir) {
		c, err := readSums(filepath.Join(dir, checkpointsDir, fmt.Sprintf("%06d", it)))
		if err != nil || c.Score == nil || best != nil && *c.Score < *best.Score {
			continue
		}
		if c, err = OpenCheckpoint(c.Dir); err == nil {
			best = c
		}
	}
	if best == nil {
		return nil, plugins.Errorf(plugins.NotFound, "no good checkpoint has a success rate").WithPlace("%s", dir).WithHint("run at least one iteration")
	}
	return best, nil
}

// Latest returns the newest checkpoint whose every file is as it was committed. Newer ones that are damaged come back as warnings. Errors: NotFound when
// there is no checkpoint at all, Corrupt when all are damaged.
func (r *Run) Latest() (*Checkpoint, []error, error) { return Latest(r.dir) }

// Latest is [Run.Latest] for a folder that is not open for writing.
func Latest(dir string) (*Checkpoint, []error, error) {
	list := checkpoints(dir)
	var bad []error
	for i := len(list) - 1; i >= 0; i-- {
		c, err := openIteration(dir, list[i])
		if err == nil {
			return c, bad, nil
		}
		bad = append(bad, err)
	}
	if len(bad) > 0 {
		return nil, bad, plugins.Errorf(plugins.Corrupt, "every checkpoint is damaged; the newest: %v", bad[0]).WithPlace("%s", dir).
			WithHint("bring a folder under %s back from a backup, or start a new run", filepath.Join(dir, checkpointsDir))
	}
	return nil, nil, plugins.Errorf(plugins.NotFound, "the run has no checkpoint yet").WithPlace("%s", dir).WithHint("start it again with a new --out")
}

// OpenCheckpoint reads a checkpoint's folder and compares every file with its checksum. The error, of kind Corrupt, names the file that differs.
func OpenCheckpoint(dir string) (*Checkpoint, error) {
	c, err := readSums(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(c.Files))
	for n := range c.Files {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		want := c.Files[n]
		path := filepath.Join(dir, filepath.FromSlash(n))
		got, err := hash(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, damaged(path, "the file is missing")
		case err != nil:
			return nil, damaged(path, err.Error())
		case got.Size != want.Size:
			return nil, damaged(path, fmt.Sprintf("the file has %d bytes, %d were committed", got.Size, want.Size))
		case got.SHA256 != want.SHA256:
			return nil, damaged(path, "the file's bytes are not those that were committed (SHA-256 differs)")
		}
	}
	return c, nil
}

// openIteration is OpenCheckpoint for a run's own folder of an iteration.
func openIteration(dir string, iteration int) (*Checkpoint, error) {
	c, err := OpenCheckpoint(filepath.Join(dir, checkpointsDir, fmt.Sprintf("%06d", iteration)))
	if err == nil && c.Iteration != iteration {
		return nil, damaged(c.Dir, fmt.Sprintf("the folder holds iteration %d: somebody copied or renamed it", c.Iteration))
	}
	return c, err
}

func damaged(path, why string) error {
	return plugins.Errorf(plugins.Corrupt, "%s", why).WithPlace("%s", path).WithHint("the checkpoint is damaged: use an earlier one, or bring the file back from a backup")
}

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
		return nil, damaged(path, "the file's bytes are not those that were committed (SHA-256 differs)")
	}
	var s sums
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, damaged(path, err.Error())
	}
	if s.Format != FormatVersion {
		return nil, plugins.Errorf(plugins.Mismatch, "the checkpoint has format %d, this srpo reads %d", s.Format, FormatVersion).WithPlace("%s", path).
			WithHint("use the srpo that made it")
	}
	if s.Iteration < 0 || s.MetricsBytes < 0 || s.EventsBytes < 0 {
		return nil, damaged(path, fmt.Sprintf("it says iteration %d, %d and %d bytes", s.Iteration, s.MetricsBytes, s.EventsBytes))
	}
	for n := range s.Files {
		if !filepath.IsLocal(filepath.FromSlash(n)) {
			return nil, damaged(path, fmt.Sprintf("it names a file outside of the checkpoint: %q", n))
		}
	}
	return &Checkpoint{Iteration: s.Iteration, Dir: dir, Score: s.Score, MetricsBytes: s.MetricsBytes, EventsBytes: s.EventsBytes, Files: s.Files}, nil
}

// Resume brings the folder back to its newest good checkpoint, which it returns, nil when nothing was committed yet: lines of metrics written later are
// cut off, later events are moved to events.cut.jsonl, later or damaged checkpoints are set aside. It logs what it found as events and returns
// damage as warnings. Error: Corrupt when there are checkpoints and none is good.
func (r *Run) Resume() (*Checkpoint, []error, error) {
	c, warnings, err := r.Latest()
	if err != nil && plugins.KindOf(err) != plugins.NotFound {
		return nil, warnings, err
	}
	at, metricsBytes, eventsBytes := -1, int64(0), int64(0)
	if c != nil {
		at, metricsBytes, eventsBytes = c.Iteration, c.MetricsBytes, c.EventsBytes
	}
	if err := r.setAside(at); err != nil {
		return nil, warnings, err
	}
	r.mu.Lock()
	if r.metrics == nil {
		r.mu.Unlock()
		return nil, warnings, errClosed
	}
	if err := r.rewind(metricsBytes, eventsBytes, &warnings); err != nil {
		r.mu.Unlock()
		return nil, warnings, err
	}
	r.last, r.disk.committed, r.read = at, at, c
	r.mu.Unlock()
	for _, w := range warnings {
		if err := r.Append(ErrorEvent(Warning, max(0, at), w)); err != nil {
			return nil, warnings, err
		}
	}
	message := "from the beginning: nothing was committed"
	if c != nil {
		message = fmt.Sprintf("from iteration %d", at)
	}
	return c, warnings, r.Append(Event{Type: ResumedRun, Iteration: max(0, at), Message: message})
}

// setAside moves checkpoints after iteration at out of the way and removes leftovers.
func (r *Run) setAside(at int) error {
	parent := filepath.Join(r.dir, checkpointsDir)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return r.disk.wrap("read", parent, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), pendingName) || strings.HasPrefix(e.Name(), trashName) {
			if err := r.disk.remove(filepath.Join(parent, e.Name())); err != nil {
				return err
			}
		}
	}
	for _, it := range r.Checkpoints() {
		if it <= at {
			continue
		}
		to := filepath.Join(parent, fmt.Sprintf("%s%06d", asideName, it))
		if err := r.disk.remove(to); err != nil {
			return err
		}
		if err := r.disk.rename(r.checkpointDir(it), to); err != nil {
			return err
		}
	}
	return r.disk.sync(parent)
}

// rewind cuts the files of lines back to their lengths at a commit.
func (r *Run) rewind(metricsBytes, eventsBytes int64, warnings *[]error) error {
	if r.events.size > eventsBytes {
		tail := make([]byte, r.events.size-eventsBytes)
		if _, err := r.events.file.ReadAt(tail, eventsBytes); err != nil {
			return r.disk.wrap("read", r.events.path, err)
		}
		cut, err := r.disk.openLines(filepath.Join(r.dir, cutFile))
		if err != nil {
			return err
		}
		err = cut.append(bytes.TrimSuffix(tail, []byte("\n")))
		if err == nil {
			err = cut.sync()
		}
		_ = cut.file.Close()
		if err != nil {
			return err
		}
	}
	for _, l := range []struct {
		*lines
		to int64
	}{{r.metrics, metricsBytes}, {r.events, eventsBytes}} {
		switch {
		case l.size > l.to:
			if err := l.cut(l.to); err != nil {
				return err
			}
		case l.size < l.to:
			*warnings = append(*warnings, plugins.Errorf(plugins.Corrupt, "the file has %d bytes, %d were committed: lines are lost", l.size, l.to).
				WithPlace("%s", l.path).WithHint("the run goes on; its curves have a gap"))
		}
	}
	return nil
}
