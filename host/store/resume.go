package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// Resume restores the folder to its newest undamaged checkpoint and returns it, or nil if nothing was committed yet.
// Later lines of metrics are cut off, later events are moved to events.cut.jsonl, and later or damaged checkpoints are
// set aside. Damage is recorded as events and returned as warnings. The error is Corrupt if there are checkpoints and
// all are damaged.
func (r *Run) Resume() (c *Checkpoint, warnings []error, err error) {
	c, warnings, err = r.Latest()
	if err != nil && plugins.KindOf(err) != plugins.NotFound {
		return nil, warnings, err
	}
	target := Checkpoint{Iteration: -1}
	message := "from the beginning: nothing was committed"
	if c != nil {
		target = *c
		message = fmt.Sprintf("from iteration %d", c.Iteration)
	}
	if err := r.setAside(target.Iteration); err != nil {
		return nil, warnings, err
	}
	lost, err := r.rewind(target, c)
	warnings = append(warnings, lost...)
	if err != nil {
		return nil, warnings, err
	}
	iteration := max(0, target.Iteration)
	for _, w := range warnings {
		if err := r.Append(ErrorEvent(Warning, iteration, w)); err != nil {
			return nil, warnings, err
		}
	}
	return c, warnings, r.Append(Event{Type: ResumedRun, Iteration: iteration, Message: message})
}

// setAside renames the checkpoints after an iteration and removes incomplete ones.
func (r *Run) setAside(iteration int) error {
	parent := filepath.Join(r.dir, checkpointsDir)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return r.disk.wrap("read", parent, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), pendingPrefix) || strings.HasPrefix(e.Name(), trashPrefix) {
			if err := r.disk.remove(filepath.Join(parent, e.Name())); err != nil {
				return err
			}
		}
	}
	for _, it := range r.Checkpoints() {
		if it <= iteration {
			continue
		}
		to := filepath.Join(parent, asidePrefix+folderName(it))
		if err := r.disk.remove(to); err != nil {
			return err
		}
		if err := r.disk.rename(r.checkpointDir(it), to); err != nil {
			return err
		}
	}
	return r.disk.sync(parent)
}

// rewind cuts the files of lines to their lengths at the target, and makes c the last verified checkpoint. It returns
// a warning for each file that is shorter.
func (r *Run) rewind(target Checkpoint, c *Checkpoint) (warnings []error, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.metrics == nil {
		return nil, errClosed
	}
	if err := r.keepEvents(target.EventsBytes); err != nil {
		return nil, err
	}
	for _, l := range []struct {
		*lines
		committed int64
	}{{r.metrics, target.MetricsBytes}, {r.events, target.EventsBytes}} {
		if l.size > l.committed {
			if err := l.cut(l.committed); err != nil {
				return warnings, err
			}
		} else if l.size < l.committed {
			warnings = append(warnings, plugins.Errorf(plugins.Corrupt,
				"the file has %d bytes, %d were committed: lines are lost", l.size, l.committed).
				WithPlace("%s", l.path).WithHint("the run continues; its curves have a gap"))
		}
	}
	r.last, r.disk.committed, r.verified = target.Iteration, target.Iteration, c
	return warnings, nil
}

// keepEvents copies the events after the first committed bytes to events.cut.jsonl.
func (r *Run) keepEvents(committed int64) error {
	if r.events.size <= committed {
		return nil
	}
	tail := make([]byte, r.events.size-committed)
	if _, err := r.events.file.ReadAt(tail, committed); err != nil {
		return r.disk.wrap("read", r.events.path, err)
	}
	cut, err := r.disk.openLines(filepath.Join(r.dir, cutFile))
	if err != nil {
		return err
	}
	defer cut.file.Close()
	if err := cut.append(bytes.TrimSuffix(tail, []byte("\n"))); err != nil {
		return err
	}
	return cut.sync()
}
