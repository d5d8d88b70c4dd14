package evaluate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

const lockFile = ".lock"

// folder is the open folder of an evaluation.
type folder struct {
	lock *flock.Flock
	log  *episodeLog
}

func (f *folder) close() {
	if f.log != nil {
		_ = f.log.close()
	}
	if f.lock != nil {
		_ = f.lock.Close()
	}
}

// DefaultDir returns the default folder of an evaluation: runs/NAME-eval. NAME is the run's name and the
// iteration. The side of the split, "sampled" and the shard are added when they are not the default.
func DefaultDir(checkpoint, states string, sample bool, shard, shards int) string {
	name := filepath.Base(filepath.Clean(checkpoint))
	if run, ok := session.RunOf(checkpoint); ok {
		name = filepath.Base(run)
	}
	if c := filepath.Dir(session.PolicyFolder(checkpoint)); c != "." {
		if n, err := strconv.Atoi(filepath.Base(c)); err == nil {
			name += fmt.Sprintf("-%06d", n)
		}
	}
	name += "-eval"
	if states != "" && states != "all" {
		name += "-" + states
	}
	if sample {
		name += "-sampled"
	}
	if shards > 0 {
		name += fmt.Sprintf("-shard-%d-of-%d", shard, shards)
	}
	return filepath.Join("runs", name)
}

// open creates the folder, or opens an existing one that contains the same evaluation.
func (e *evaluation) open() (err error) {
	if err := e.identify(); err != nil {
		return err
	}
	if e.Dir == "" {
		name := e.cfg.Run.Checkpoint
		if name == "" {
			name = filepath.Base(e.cfg.Run.Policy) + "-" + filepath.Base(e.cfg.Run.Env)
		}
		e.Dir = DefaultDir(name, e.States, e.Sample, e.Shard, e.Shards)
	}
	if e.dir, err = filepath.Abs(e.Dir); err != nil {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", e.Dir)
	}
	old, err := e.readRecord()
	if err != nil {
		return err
	}
	if old != nil {
		if err := e.checkSame(old.Identity, false); err != nil {
			return err
		}
	}
	if _, err := os.Stat(e.dir); errors.Is(err, fs.ErrNotExist) {
		e.isNew = true
	}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return store.DiskError("make", e.dir, err)
	}
	return e.takeLock()
}

// takeLock prevents a second srpo from writing into the folder.
func (e *evaluation) takeLock() error {
	path := filepath.Join(e.dir, lockFile)
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	locked, err := lock.TryLock()
	if err != nil {
		return store.DiskError("open", path, err)
	}
	if !locked {
		_ = lock.Close()
		return plugins.Errorf(plugins.Unavailable, "another srpo writes this evaluation").WithPlace("%s", e.dir).
			WithHint("wait until it has ended, or give another --out")
	}
	e.folder.lock = lock
	return nil
}

// readRecord returns the record of the evaluation in the folder; nil for a folder that is empty or does not exist.
func (e *evaluation) readRecord() (*Record, error) {
	if info, err := os.Stat(e.dir); err == nil && !info.IsDir() {
		return nil, plugins.Errorf(plugins.Invalid, "a file has this name").WithPlace("--out %s", e.Dir).
			WithHint("give the name of a folder")
	}
	if _, err := os.Stat(filepath.Join(e.dir, RecordFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, checkVacant(e.dir, e.Dir)
	}
	return ReadRecord(e.dir)
}

// checkVacant refuses a folder that contains something. shown is the path as the user gave it.
func checkVacant(dir, shown string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", shown).WithHint("give another --out")
	}
	for _, f := range entries {
		// An earlier call that could not start a plugin leaves its lock and the plugins' logs.
		if f.Name() != lockFile && f.Name() != "plugins" && !strings.HasPrefix(f.Name(), ".tmp-") {
			return plugins.Errorf(plugins.Invalid, "the folder contains %s and no evaluation", f.Name()).
				WithPlace("--out %s", shown).WithHint("give a folder that is empty or does not exist")
		}
	}
	return nil
}

// claim completes the identity, writes the record or compares it with that of the folder, and reads the
// episodes that the folder contains.
func (e *evaluation) claim() error {
	e.identifyPlugins()
	old, err := e.readRecord()
	if err != nil {
		return err
	}
	if old == nil {
		err = e.writeRecord()
	} else if err = e.checkSame(old.Identity, true); err == nil {
		e.record = *old
	}
	if err != nil {
		return err
	}
	return e.readEpisodes()
}

// writeRecord writes the files that describe the evaluation. The record is written last.
func (e *evaluation) writeRecord() error {
	s := e.session
	split := s.Split.ForManifest(nil, e.States)
	e.record = Record{Format: Format, Created: time.Now().UTC().Truncate(time.Millisecond), Host: e.Version,
		Command: e.Command, Seed: e.cfg.Run.Seed, Checkpoint: e.cfg.Run.Checkpoint, Identity: e.identity,
		Plugins: s.Plugins, Trials: e.record.Trials, Mine: e.record.Mine, LeftOut: s.Unavailable,
		Split: Split{Used: e.States, By: split.By, TrainFraction: split.TrainFraction, TrainedOn: e.trainedOn()}}
	var text bytes.Buffer
	if err := e.cfg.Write(&text); err != nil {
		return err
	}
	return writeRecord(e.dir, e.record, text.Bytes(), e.tasks, nil)
}

// writeRecord writes eval.json after the other files: without it the folder is not an evaluation. episodes nil:
// no file of episodes is written.
func writeRecord(dir string, rec Record, config []byte, tasks []Task, episodes []Episode) error {
	taskLines, err := JSONLines(tasks)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%s: %w", RecordFile, err)
	}
	if err := store.WriteFile(dir, "srpo.toml", config); err != nil {
		return err
	}
	if err := store.WriteFile(dir, TasksFile, taskLines); err != nil {
		return err
	}
	if episodes != nil {
		lines, err := JSONLines(episodes)
		if err != nil {
			return err
		}
		if err := store.WriteFile(dir, EpisodesFile, lines); err != nil {
			return err
		}
	}
	return store.WriteFile(dir, RecordFile, append(data, '\n'))
}

// readEpisodes opens the log of episodes and reads what it contains.
func (e *evaluation) readEpisodes() (err error) {
	trials := map[string]bool{}
	for i := range e.plan.Trials {
		trials[e.plan.ID(i)] = true
	}
	var lines []Episode
	if e.folder.log, lines, err = openEpisodes(filepath.Join(e.dir, EpisodesFile)); err != nil {
		return err
	}
	for n, ep := range lines {
		if _, twice := e.have[ep.ID]; twice || !trials[ep.ID] {
			return plugins.Errorf(plugins.Corrupt,
				"episode %q is listed twice, or belongs to another evaluation", ep.ID).
				WithPlace("%s:%d", e.folder.log.path, n+1).
				WithHint("give another --out")
		}
		e.have[ep.ID] = rollout.Episode{ID: ep.ID, Task: ep.Task, StartState: ep.StartState, Seed: ep.Seed,
			Success: ep.Success, Terminated: ep.Terminated, Truncated: ep.Truncated, Steps: ep.Steps,
			Progress: ep.Progress}
		e.lines[ep.ID] = ep
		if _, err := os.Stat(filepath.Join(e.dir, filepath.FromSlash(VideoName(ep)))); err == nil {
			e.videos.have(ep)
		}
	}
	if len(lines) > 0 {
		e.Terminal.Line("continuing in %s: %d of %d episodes are done", e.Dir, len(lines), len(e.plan.Trials))
	}
	return nil
}

// episodeLog is episodes.jsonl. It has one line per episode, which is durable at most a second later.
type episodeLog struct {
	path   string
	file   *os.File
	synced time.Time
	added  int
}

// openEpisodes opens the file, cuts off a last line that a crash left incomplete, and returns the episodes in it.
func openEpisodes(path string) (*episodeLog, []Episode, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, nil, store.DiskError("open", path, err)
	}
	episodes, whole, err := Lines[Episode](f, path)
	if err == nil {
		err = store.DiskError("truncate", path, f.Truncate(whole))
	}
	if err == nil {
		_, err = f.Seek(whole, io.SeekStart)
		err = store.DiskError("read", path, err)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return &episodeLog{path: path, file: f, synced: time.Now()}, episodes, nil
}

func (l *episodeLog) append(ep Episode) error {
	data, err := json.Marshal(ep)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "episode %s: %w", ep.ID, err)
	}
	if _, err := l.file.Write(append(data, '\n')); err != nil {
		return store.DiskError("write", l.path, err) // openEpisodes cuts off an incomplete line
	}
	l.added++
	if time.Since(l.synced) > time.Second {
		return l.sync()
	}
	return nil
}

func (l *episodeLog) sync() error {
	l.synced = time.Now()
	return store.DiskError("fsync", l.path, l.file.Sync())
}

func (l *episodeLog) close() error { return errors.Join(l.sync(), l.file.Close()) }
