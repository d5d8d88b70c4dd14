// Package store reads and writes run folders: how a run was started, what happened in it, and its checkpoints.
//
//	runs/NAME/
//	  srpo.toml            the resolved configuration
//	  manifest.json        a [Manifest]: versions, plugin hashes, seed, command, split of start states
//	  events.jsonl         one [Event] per line
//	  metrics.jsonl        one [Metrics] per line, one line per iteration
//	  checkpoints/000003/  policy and host state after iteration 3, with checksums in MANIFEST
//	  episodes/            some episodes as animated GIFs, each with its [Episode] as JSON
//	  clips/, embeddings/  what the run was asked to keep for srpo reward, see [Run.SaveInto]
//
// An iteration is committed or it did not happen: its checkpoint, its line of metrics and its events count from the
// moment the checkpoint's folder gets its final name. [Run.Resume] cuts off what was written later. A file lock
// ensures that a folder has one writer at a time.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/plugins"
)

// FormatVersion is the version of the folder's format. Folders of other versions are refused.
const FormatVersion = 1

const (
	configFile   = "srpo.toml"
	manifestFile = "manifest.json"
	eventsFile   = "events.jsonl"
	metricsFile  = "metrics.jsonl"
	// cutFile keeps the events that a resumption cut off. They may explain a crash.
	cutFile        = "events.cut.jsonl"
	lockFile       = ".lock"
	checkpointsDir = "checkpoints"
	episodesDir    = "episodes"
	// logsDir and reportFile are written by other packages.
	logsDir    = "plugins"
	reportFile = "report.html"
)

// Run is a run folder that is open for writing. Its methods may be called from several goroutines, but only one
// [Pending] may exist at a time.
type Run struct {
	// Keep is the number of newest checkpoints to keep. 0: all. The one with the best success rate is always kept.
	Keep int

	dir     string
	disk    *disk
	lock    *flock.Flock
	created []string // the folders that [Create] made, innermost first

	mu       sync.Mutex
	manifest Manifest
	metrics  *lines
	events   *lines
	last     int // the last committed iteration; -1: none
	// verified is the newest checkpoint if this process has hashed all its files, because it committed it or resumed
	// from it. Its files may be many GB, so they are not read again.
	verified *Checkpoint
}

// Create makes a run folder. A folder of a run that ended without a commit, for example because a plugin was missing,
// is replaced, except for its plugins' logs. Errors: Invalid if dir contains anything else or cannot be written,
// Exhausted if the disk is full, Unavailable if another process has the folder open.
func Create(dir string, m Manifest, config []byte) (*Run, error) { return create(dir, m, config, nil) }

// create is Create with faults to inject in tests, see disk.inject.
func create(dir string, m Manifest, config []byte, inject func(op, path string) error) (*Run, error) {
	r, err := open(dir, true, inject)
	if err != nil {
		return nil, err
	}
	if err := r.fill(dir, m, config); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// fill makes the initial content of the folder, which dir names as the user gave it.
func (r *Run) fill(dir string, m Manifest, config []byte) error {
	if err := r.clear(dir); err != nil {
		return err
	}
	m.FormatVersion = FormatVersion
	if m.Created.IsZero() {
		m.Created = time.Now().UTC().Truncate(time.Millisecond)
	}
	if m.Name == "" {
		m.Name = filepath.Base(dir)
	}
	if m.WorkingFolder == "" {
		m.WorkingFolder, _ = os.Getwd()
	}
	r.manifest = m
	for _, sub := range []string{checkpointsDir, episodesDir} {
		if err := r.disk.mkdir(filepath.Join(dir, sub)); err != nil {
			return err
		}
	}
	if err := r.disk.replace(filepath.Join(dir, configFile), config); err != nil {
		return err
	}
	if err := r.openLines(); err != nil {
		return err
	}
	// The manifest is written last: a folder without a manifest is not a run yet.
	return r.writeManifest()
}

// clear empties the folder if its run has no commit, and refuses any other folder that is not empty.
func (r *Run) clear(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return r.disk.wrap("read", dir, err)
	}
	if hasNoCommit(dir, entries) {
		for _, e := range entries {
			if e.Name() == lockFile || e.Name() == logsDir {
				continue
			}
			path := filepath.Join(dir, e.Name())
			if err := os.RemoveAll(path); err != nil {
				return r.disk.wrap("remove", path, err)
			}
		}
		return nil
	}
	for _, e := range entries {
		if e.Name() == lockFile {
			continue
		}
		failure := plugins.Errorf(plugins.Invalid, "the folder is not empty: it contains %s", e.Name()).
			WithPlace("%s", dir)
		if _, err := os.Stat(filepath.Join(dir, manifestFile)); err == nil {
			return failure.WithHint(
				"the folder contains a run: continue it with `srpo run --resume %s`, or give another --out", dir)
		}
		return failure.WithHint("give a folder that is empty or does not exist with --out")
	}
	return nil
}

// hasNoCommit reports whether a folder contains a run of this format without any commit, and nothing else.
func hasNoCommit(dir string, entries []os.DirEntry) bool {
	isRun, folders, files := false, 0, 0
	for _, e := range entries {
		if !e.IsDir() && e.Name() != lockFile {
			files++
		}
		switch e.Name() {
		case lockFile, logsDir, configFile, reportFile, pendingPrefix + configFile, pendingPrefix + manifestFile:
		case manifestFile:
			data, err := bounded.ReadFile(filepath.Join(dir, manifestFile), bounded.Small)
			var m Manifest
			isRun = err == nil && json.Unmarshal(data, &m) == nil && m.FormatVersion == FormatVersion
		case checkpointsDir, episodesDir:
			if content, err := os.ReadDir(filepath.Join(dir, e.Name())); err != nil || len(content) > 0 {
				return false
			}
			folders++
		case metricsFile:
			if info, err := e.Info(); err != nil || info.Size() > 0 {
				return false
			}
		case eventsFile, cutFile: // they may contain the reason why nothing was committed
		default:
			return false
		}
	}
	// A host that died while it created the folder left no manifest. The two subfolders, which only srpo creates,
	// then show that the files are srpo's.
	_, err := os.Lstat(filepath.Join(dir, manifestFile))
	return isRun || (folders == 2 || files == 0) && errors.Is(err, os.ErrNotExist)
}

// Open opens a run folder to continue the run. Errors: NotFound if there is no run, Mismatch if another version of
// srpo made it, Unavailable if another process has it open, Corrupt if its manifest cannot be decoded.
func Open(dir string) (*Run, error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	r, err := open(dir, false, nil)
	if err != nil {
		return nil, err
	}
	r.manifest = *m
	for _, sub := range []string{checkpointsDir, episodesDir} {
		if err := r.disk.mkdir(filepath.Join(r.dir, sub)); err != nil {
			_ = r.Close()
			return nil, err
		}
	}
	if err := r.openLines(); err != nil {
		_ = r.Close()
		return nil, err
	}
	if list := r.Checkpoints(); len(list) > 0 {
		r.last = list[len(list)-1]
		r.disk.committed = r.last
	}
	return r, nil
}

// open locks the folder, which it creates first if create is set.
func open(dir string, create bool, inject func(op, path string) error) (*Run, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", dir)
	}
	r := &Run{dir: abs, disk: &disk{run: abs, inject: inject, committed: -1}, last: -1}
	if create {
		for d := abs; ; d = filepath.Dir(d) {
			if _, err := os.Lstat(d); err == nil || d == filepath.Dir(d) {
				break
			}
			r.created = append(r.created, d)
		}
		if err := r.disk.mkdirAll(abs); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(abs, lockFile)
	lock := flock.New(path, flock.SetFlag(os.O_RDWR|os.O_CREATE), flock.SetPermissions(0o644))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, r.disk.wrap("open", path, err)
	}
	if !locked {
		_ = lock.Close()
		owner := "another process"
		text, _ := os.ReadFile(path)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			owner = fmt.Sprintf("process %d", pid)
		}
		return nil, plugins.Errorf(plugins.Unavailable, "%s has this run open", owner).WithPlace("%s", dir).
			WithHint("wait until it has ended, or stop it, or give another --out")
	}
	// The process id is for the error of another process.
	_ = os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644)
	r.lock = lock
	return r, nil
}

func (r *Run) openLines() (err error) {
	if r.metrics, err = r.disk.openLines(filepath.Join(r.dir, metricsFile)); err != nil {
		return err
	}
	r.events, err = r.disk.openLines(filepath.Join(r.dir, eventsFile))
	return err
}

// Close releases the folder. Lines that were not committed stay in the files until the run is resumed.
func (r *Run) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, l := range []*lines{r.metrics, r.events} {
		if l != nil {
			errs = append(errs, l.file.Close())
		}
	}
	r.metrics, r.events = nil, nil
	if r.lock != nil {
		errs = append(errs, r.lock.Close())
		r.lock = nil
	}
	return errors.Join(errs...)
}

// Discard closes the folder and removes it, together with the empty parent folders that [Create] made. A folder that
// existed before, or with a commit, is only closed. Discard reports whether the folder was removed.
func (r *Run) Discard() (removed bool, err error) {
	if err := r.Close(); err != nil || len(r.created) == 0 || r.last >= 0 {
		return false, err
	}
	if err := os.RemoveAll(r.dir); err != nil {
		return false, r.disk.wrap("remove", r.dir, err)
	}
	for _, d := range r.created[1:] {
		_ = os.Remove(d) // fails, as intended, if the folder contains another run
	}
	return true, nil
}

// Dir returns the folder's absolute path.
func (r *Run) Dir() string { return r.dir }

// Manifest returns the run's manifest.
func (r *Run) Manifest() Manifest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.manifest
}

// UpdateManifest changes the manifest and writes it atomically. If that fails, the manifest is as before.
func (r *Run) UpdateManifest(change func(*Manifest)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.manifest
	change(&r.manifest)
	r.manifest.FormatVersion = FormatVersion
	if err := r.writeManifest(); err != nil {
		r.manifest = old
		return err
	}
	return nil
}

func (r *Run) writeManifest() error {
	data, err := json.MarshalIndent(r.manifest, "", "  ")
	if err != nil {
		return plugins.Errorf(plugins.Internal, "the manifest cannot be written: %w", err)
	}
	return r.disk.replace(filepath.Join(r.dir, manifestFile), append(data, '\n'))
}

// WriteFile writes a file into the folder atomically. name is a plain file name such as "report.html".
func (r *Run) WriteFile(name string, data []byte) error {
	if err := checkPlainName(name); err != nil {
		return err
	}
	return r.disk.replace(filepath.Join(r.dir, name), data)
}

// SaveInto writes a file into a subfolder atomically, and creates the subfolder if necessary. Both are plain names.
func (r *Run) SaveInto(folder, name string, data []byte) error {
	for _, n := range []string{folder, name} {
		if err := checkPlainName(n); err != nil {
			return err
		}
	}
	if err := r.disk.mkdir(filepath.Join(r.dir, folder)); err != nil {
		return err
	}
	return r.disk.replace(filepath.Join(r.dir, folder, name), data)
}

func checkPlainName(name string) error {
	if name != filepath.Base(name) || !filepath.IsLocal(name) {
		return plugins.Errorf(plugins.Invalid, "%q is not a plain file name", name)
	}
	return nil
}

// Explain returns the error that a run ends with. This is err, or, if the whole run folder no longer exists, an error
// of kind NotFound that wraps err and names this cause: the plugin that returned err only missed a file.
func (r *Run) Explain(err error) error {
	if err == nil || !r.disk.gone() || plugins.AsError(err).Hint == goneHint {
		return err
	}
	return plugins.Errorf(plugins.NotFound, "the run folder no longer exists: %w", err).
		WithPlace("%s", r.dir).WithHint("%s", goneHint)
}

// Append writes an event. It is durable after the next commit.
func (r *Run) Append(e Event) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	if e.Evaluation != nil && !finite(e.Evaluation.SuccessRate) {
		return plugins.Errorf(plugins.Invalid, "an evaluation's success rate is %v", e.Evaluation.SuccessRate)
	}
	e.Data = finiteOnly(e.Data)
	line, err := json.Marshal(e)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "an event cannot be written: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events == nil {
		return errClosed
	}
	return r.events.append(line)
}

var errClosed = plugins.Errorf(plugins.Canceled, "the run folder is closed")
