package store

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/srpo-dev/srpo/plugins"
)

// Pending is a checkpoint that is being written.
type Pending struct {
	run       *Run
	iteration int
	dir       string
	began     time.Time
	score     *float64
	done      bool
}

// Begin starts the checkpoint of an iteration, 0 to 999999. End it with Commit or Abort.
func (r *Run) Begin(iteration int) (*Pending, error) {
	if iteration < 0 || iteration > 999999 {
		return nil, plugins.Errorf(plugins.Invalid, "iteration %d cannot be committed", iteration).
			WithHint("use an iteration from 0 to 999999")
	}
	if _, err := os.Lstat(r.checkpointDir(iteration)); err == nil {
		return nil, plugins.Errorf(plugins.Internal, "iteration %d is already committed", iteration).
			WithPlace("%s", r.checkpointDir(iteration))
	}
	p := &Pending{
		run: r, iteration: iteration, began: time.Now(),
		dir: filepath.Join(r.dir, checkpointsDir, pendingPrefix+folderName(iteration)),
	}
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

// PolicyDir returns the absolute path of the folder to pass to policy.Save. It exists and is empty.
func (p *Pending) PolicyDir() string { return filepath.Join(p.dir, policyDir) }

// WriteFile adds a file of the host to the checkpoint, such as "host.json".
func (p *Pending) WriteFile(name string, data []byte) error {
	if name != filepath.Base(name) || !filepath.IsLocal(name) || name == policyDir || name == sumsFile {
		return plugins.Errorf(plugins.Invalid, "%q cannot be a file of a checkpoint", name)
	}
	return p.run.disk.write(filepath.Join(p.dir, name), data)
}

// Abort removes what was written. After Commit it has no effect.
func (p *Pending) Abort() {
	if !p.done {
		p.done = true
		_ = os.RemoveAll(p.dir)
	}
}

// Commit makes the checkpoint, the line of metrics and all events so far durable, in one step. It adds the seconds
// since Begin to m's commit phase and to m.Seconds. m may be nil, for a starting policy. If Commit fails, the run is
// as it was before Begin. After the commit, old checkpoints beyond [Run.Keep] are removed; a failure to remove them is
// recorded as an event and not returned.
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
	c, err := p.write(m, files)
	if err != nil {
		if r.metrics.size != before {
			_ = r.metrics.file.Truncate(before)
			r.metrics.size = before
		}
		return err
	}
	p.done = true
	if err := r.disk.sync(filepath.Join(r.dir, checkpointsDir)); err != nil {
		// The folder has its name, but perhaps not on the disk. After a crash it is either complete or absent.
		return err
	}
	r.last, r.disk.committed, r.verified = p.iteration, p.iteration, c
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

// write appends the line of metrics, writes MANIFEST and gives the checkpoint's folder its final name.
func (p *Pending) write(m *Metrics, files map[string]File) (*Checkpoint, error) {
	r := p.run
	if m != nil {
		if err := p.appendMetrics(m); err != nil {
			return nil, err
		}
	}
	for _, l := range []*lines{r.metrics, r.events} {
		if err := l.sync(); err != nil {
			return nil, err
		}
	}
	c := &Checkpoint{Iteration: p.iteration, Dir: r.checkpointDir(p.iteration), Score: p.score,
		MetricsBytes: r.metrics.size, EventsBytes: r.events.size, Files: files}
	text, err := json.Marshal(sums{
		Format: FormatVersion, Iteration: c.Iteration, Created: time.Now().UTC().Truncate(time.Millisecond),
		Score: c.Score, MetricsBytes: c.MetricsBytes, EventsBytes: c.EventsBytes, Files: files,
	})
	if err != nil {
		return nil, plugins.AsError(err)
	}
	text = fmt.Appendf(text, "\n%x\n", sha256.Sum256(text))
	if err := r.disk.write(filepath.Join(p.dir, sumsFile), text); err != nil {
		return nil, err
	}
	if err := r.disk.sync(p.dir); err != nil {
		return nil, err
	}
	return c, r.disk.rename(p.dir, c.Dir)
}

// appendMetrics adds the seconds of the commit to m, appends the line, and takes its success rate as the score of the
// checkpoint.
func (p *Pending) appendMetrics(m *Metrics) error {
	line := *m
	line.SecondsByPhase = map[string]float64{}
	maps.Copy(line.SecondsByPhase, m.SecondsByPhase)
	seconds := time.Since(p.began).Seconds()
	line.SecondsByPhase["commit"] += seconds
	line.Seconds += seconds
	text, err := json.Marshal(line)
	if err != nil {
		return plugins.AsError(err)
	}
	if err := p.run.metrics.append(text); err != nil {
		return err
	}
	*m = line
	if finite(m.SuccessRate) {
		p.score = &line.SuccessRate
	}
	return nil
}

// seal syncs every file and folder to the disk and returns the checksums of the files.
func (p *Pending) seal() (map[string]File, error) {
	d := p.run.disk
	files := map[string]File{}
	err := filepath.WalkDir(p.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return d.wrap("read", path, err)
		}
		if e.IsDir() {
			if path == p.dir {
				return nil // write syncs it after it has written MANIFEST
			}
			return d.sync(path)
		}
		if !e.Type().IsRegular() {
			return plugins.Errorf(plugins.Corrupt, "the policy saved something that is not a plain file").
				WithPlace("%s", path).WithHint("Save must write files, not links")
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
