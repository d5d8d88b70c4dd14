// Package store is the run folder: what ran, what happened, and the states that a run can go on from.
//
//	runs/NAME/
//	  srpo.toml            the configuration as resolved
//	  manifest.json        versions, plugin hashes, seed, command, start-state split
//	  events.jsonl         one [Event] a line
//	  metrics.jsonl        one [Metrics] a line, one an iteration
//	  checkpoints/000003/  policy and host state after iteration 3, with a MANIFEST of checksums
//	  episodes/            some episodes as animated GIFs, each with its [Episode] as JSON
//	  clips/, embeddings/  what the run was asked to keep for srpo reward, see [Run.SaveInto]
//
// An iteration is committed or it never was: its checkpoint, its line of metrics and its events count from the moment in which the checkpoint's folder
// gets its name. Whoever resumes cuts off what came later. A folder has one writer at a time, held by a file lock.
package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/host/internal/fault"
	"github.com/srpo-dev/srpo/plugins"
)

// FormatVersion is the version of the folder's format. A folder of another one is refused.
const FormatVersion = 1

const (
	configFile   = "srpo.toml"
	manifestFile = "manifest.json"
	eventsFile   = "events.jsonl"
	metricsFile  = "metrics.jsonl"
	// cutFile keeps the events that a resumed run cut off: a crash's last words are among them.
	cutFile        = "events.cut.jsonl"
	lockFile       = ".lock"
	checkpointsDir = "checkpoints"
	episodesDir    = "episodes"
	// written by others into the folder
	logsDir    = "plugins"
	reportFile = "report.html"
)

// Manifest says what made a run.
type Manifest struct {
	FormatVersion int       `json:"format_version"`
	Name          string    `json:"name"`
	Created       time.Time `json:"created"`
	// Host is the version of srpo, Go the compiler's, Platform "linux/amd64", Machine what else is worth a line (cores, memory, GPU).
	Host     string            `json:"host"`
	Go       string            `json:"go,omitempty"`
	Platform string            `json:"platform,omitempty"`
	Machine  map[string]string `json:"machine,omitempty"`
	// Command is the command line; Resumed has one more for every time the run was resumed.
	Command []string  `json:"command"`
	Resumed []Resumed `json:"resumed,omitempty"`
	Seed    uint64    `json:"seed,string"`
	// WorkingFolder is where the run was started: relative paths in its settings begin there, and so does srpo.lock.
	WorkingFolder string `json:"working_folder,omitempty"`
	// Plugins in use, with what their packages hash to.
	Plugins []Plugin `json:"plugins"`
	// Tasks are the ids of the tasks trained on.
	Tasks       []string     `json:"tasks,omitempty"`
	StartStates *StartStates `json:"start_states,omitempty"`
	// Checkpoint is the policy folder that the run started from, with the hash of its files; empty when the run imitated first.
	Checkpoint     string `json:"checkpoint,omitempty"`
	CheckpointHash string `json:"checkpoint_hash,omitempty"`
}

// Resumed says when and how a run was resumed.
type Resumed struct {
	Time      time.Time `json:"time"`
	Iteration int       `json:"iteration"`
	Command   []string  `json:"command"`
	Host      string    `json:"host"`
	// Plugins that went on with the run, when any of them is not the one that it began with.
	Plugins []Plugin `json:"plugins,omitempty"`
}

// Plugin is a plugin as a run used it.
type Plugin struct {
	Kind     plugins.Kind `json:"kind"`
	Name     string       `json:"name"`
	Version  string       `json:"version"`
	Protocol int          `json:"protocol"`
	// Hash is over every file of its package, as in srpo.lock.
	Hash     string            `json:"hash,omitempty"`
	Path     string            `json:"path,omitempty"`
	Versions map[string]string `json:"versions,omitempty"`
}

// StartStates names the side of the split of start states.
type StartStates struct {
	// Used is "all", "train" or "test". By is what was divided: "start" (each task's start states) or "task".
	Used          string  `json:"used"`
	TrainFraction float64 `json:"train_fraction"`
	By            string  `json:"by,omitempty"`
	// Train and Test are the indices by task, when start states were divided.
	Train map[string][]int `json:"train,omitempty"`
	Test  map[string][]int `json:"test,omitempty"`
	// TrainTasks and TestTasks are the sides when tasks were.
	TrainTasks []string `json:"train_tasks,omitempty"`
	TestTasks  []string `json:"test_tasks,omitempty"`
}

// EventType says what an event tells.
type EventType string

// The types of events.
const (
	Started          EventType = "started"           // the run began
	ResumedRun       EventType = "resumed"           // the run goes on from a checkpoint
	Imitated         EventType = "imitated"          // the starting policy was trained on demonstrations
	PluginStarted    EventType = "plugin_started"    // a plugin's process is up
	PluginFailed     EventType = "plugin_failed"     // a plugin died, hung or answered wrongly
	EpisodeRetried   EventType = "episode_retried"   // an episode is rolled again from its seed
	GroupDropped     EventType = "group_dropped"     // a group was outside keep_low to keep_high, or lost too many members
	EmbeddingDropped EventType = "embedding_dropped" // a failure without a usable embedding was left out
	EpisodeDropped   EventType = "episode_dropped"   // what the policy said in it cannot be used
	Solved           EventType = "solved"            // the run ended before its last iteration, as there was nothing left to learn
	Evaluated        EventType = "evaluated"         // an evaluation ended; Event.Evaluation holds it
	Committed        EventType = "committed"         // an iteration was committed
	Warning          EventType = "warning"           // something that a person should know
	Interrupted      EventType = "interrupted"       // the user stopped the run
	Failed           EventType = "failed"            // the run ended with an error
	Finished         EventType = "finished"          // all iterations are done
)

// Event is something that happened in a run.
type Event struct {
	// Time is set by [Run.Append] when it is zero.
	Time      time.Time `json:"time"`
	Type      EventType `json:"type"`
	Iteration int       `json:"iteration"`
	Message   string    `json:"message,omitempty"`
	// Place, Hint and Detail are those of a *plugins.Error.
	Place      string         `json:"place,omitempty"`
	Hint       string         `json:"hint,omitempty"`
	Detail     string         `json:"detail,omitempty"`
	Evaluation *Evaluation    `json:"evaluation,omitempty"`
	Data       map[string]any `json:"data,omitempty"`
}

// Evaluation is the outcome of greedy episodes without learning.
type Evaluation struct {
	// EnvSteps is the number of training steps made before, so that it can stand on the same axis as the training curve.
	EnvSteps int64 `json:"env_steps"`
	Episodes int   `json:"episodes"`
	// SuccessRate is over Episodes; StartStates says over which side of the split.
	SuccessRate float64            `json:"success_rate"`
	StartStates string             `json:"start_states,omitempty"`
	ByTask      map[string]float64 `json:"by_task,omitempty"`
}

// ErrorEvent makes an event of an error.
func ErrorEvent(t EventType, iteration int, err error) Event {
	e := plugins.AsError(err)
	return Event{Type: t, Iteration: iteration, Message: e.Message, Place: e.Place, Hint: e.Hint, Detail: e.Detail}
}

// Run is a run folder open for writing. Its methods may be called from several goroutines, but for one [Pending] at a time.
type Run struct {
	// Keep is how many of the newest checkpoints stay; 0: all. The best by success rate stays besides.
	Keep int

	dir  string
	disk *disk
	lock *flock.Flock
	made []string // the folders that [Create] made, the innermost first

	mu       sync.Mutex
	manifest Manifest
	metrics  *lines
	events   *lines
	last     int // the last committed iteration, -1: none
	// read is the newest checkpoint, where this process has read all its files and hashed them: at its commit, or when it resumed from it. They may be many GB,
	// and are not read again to learn the same.
	read *Checkpoint
}

// Create makes a run folder. What a run left that ended before it committed anything, for want of a plugin for example, is replaced, but for its plugins'
// logs. Errors: Invalid when dir holds anything else or cannot be written, Exhausted when the disk is full, Unavailable when another host has it open.
func Create(dir string, m Manifest, config []byte) (*Run, error) { return create(dir, m, config, nil) }

func create(dir string, m Manifest, config []byte, fault func(op, path string) error) (*Run, error) {
	r, err := open(dir, true, fault)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Run, error) {
		_ = r.Close()
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fail(r.disk.wrap("read", dir, err))
	}
	if neverBegan(dir, entries) {
		for _, e := range entries {
			if e.Name() == lockFile || e.Name() == logsDir {
				continue
			}
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fail(r.disk.wrap("remove", filepath.Join(dir, e.Name()), err))
			}
		}
		entries = nil
	}
	for _, e := range entries {
		if e.Name() == lockFile {
			continue
		}
		failure := plugins.Errorf(plugins.Invalid, "the folder is not empty: it holds %s", e.Name()).WithPlace("%s", dir)
		if _, err := os.Stat(filepath.Join(dir, manifestFile)); err == nil {
			return fail(failure.WithHint("it is a run already: go on with it by `srpo run --resume %s`, or give another --out", dir))
		}
		return fail(failure.WithHint("give a folder that is empty or does not exist with --out"))
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
			return fail(err)
		}
	}
	if err := r.disk.replace(filepath.Join(dir, configFile), config); err != nil {
		return fail(err)
	}
	if err := r.openLines(); err != nil {
		return fail(err)
	}
	// The manifest comes last: a folder without one is no run yet.
	if err := r.writeManifest(); err != nil {
		return fail(err)
	}
	return r, nil
}

// neverBegan says whether a folder holds a run of this format without any commit, and nothing else.
func neverBegan(dir string, entries []os.DirEntry) bool {
	isRun, folders, files := false, 0, 0
	for _, e := range entries {
		if !e.IsDir() && e.Name() != lockFile {
			files++
		}
		switch e.Name() {
		case lockFile, logsDir, configFile, reportFile, pendingName + configFile, pendingName + manifestFile:
		case manifestFile:
			data, err := bounded.ReadFile(filepath.Join(dir, manifestFile), bounded.Small)
			var m Manifest
			isRun = err == nil && json.Unmarshal(data, &m) == nil && m.FormatVersion == FormatVersion
		case checkpointsDir, episodesDir:
			if inside, err := os.ReadDir(filepath.Join(dir, e.Name())); err != nil || len(inside) > 0 {
				return false
			}
			folders++
		case metricsFile:
			if info, err := e.Info(); err != nil || info.Size() > 0 {
				return false
			}
		case eventsFile, cutFile: // they tell why the run did not begin
		default:
			return false
		}
	}
	// A host that died while it made the folder left no manifest: then it is the two folders that nobody else makes which tell that the rest is its own.
	_, err := os.Lstat(filepath.Join(dir, manifestFile))
	return isRun || (folders == 2 || files == 0) && errors.Is(err, os.ErrNotExist)
}

// Open opens a run folder to go on with it. Errors: NotFound when there is no run, Mismatch when another version of srpo made it, Unavailable when
// another host has it open, Corrupt when its manifest cannot be read.
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
		if err := r.disk.mkdir(filepath.Join(dir, sub)); err != nil {
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

// ReadManifest reads what made the run in a folder. Errors as those of [Open].
func ReadManifest(dir string) (Manifest, error) {
	m, err := readManifest(dir)
	if err != nil {
		return Manifest{}, err
	}
	return *m, nil
}

func readManifest(dir string) (*Manifest, error) {
	path := filepath.Join(dir, manifestFile)
	data, err := bounded.ReadFile(path, bounded.Small)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, plugins.Errorf(plugins.NotFound, "there is no run here: %s is missing", manifestFile).WithPlace("%s", dir).
			WithHint("give the folder of a run, such as runs/NAME")
	}
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "cannot be read: %w", err).WithPlace("%s", path).WithHint("check the file's permissions")
	}
	var version struct {
		V *int `json:"format_version"`
	}
	damaged := func(why string) error {
		return plugins.Errorf(plugins.Corrupt, "the manifest is damaged: %s", why).WithPlace("%s", path).
			WithHint("bring the file back from a backup, or start a new run from a policy folder under %s", filepath.Join(dir, checkpointsDir))
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, damaged(err.Error())
	}
	if version.V == nil {
		return nil, damaged("it has no format_version")
	}
	if *version.V != FormatVersion {
		side := "a newer"
		if *version.V < FormatVersion {
			side = "an older"
		}
		return nil, plugins.Errorf(plugins.Mismatch, "the folder has format %d, made by %s srpo; this srpo reads format %d", *version.V, side, FormatVersion).
			WithPlace("%s", path).WithHint("use the srpo that made it, or start a new run from a policy folder under %s", filepath.Join(dir, checkpointsDir))
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, damaged(err.Error())
	}
	return &m, nil
}

// open takes the folder's lock.
func open(dir string, create bool, fault func(op, path string) error) (*Run, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", dir)
	}
	r := &Run{dir: abs, disk: &disk{run: abs, fault: fault, committed: -1}, last: -1}
	if create {
		for d := abs; ; d = filepath.Dir(d) {
			if _, err := os.Lstat(d); err == nil || d == filepath.Dir(d) {
				break
			}
			r.made = append(r.made, d)
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
		owner, _ := os.ReadFile(path)
		who := "another process"
		if pid, err := strconv.Atoi(strings.TrimSpace(string(owner))); err == nil {
			who = fmt.Sprintf("process %d", pid)
		}
		return nil, plugins.Errorf(plugins.Unavailable, "%s has this run open", who).WithPlace("%s", dir).WithHint("wait until it has ended, or stop it, or give another --out")
	}
	_ = os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644) // for the error of another process
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

// Close releases the folder. What was not committed stays in the files until somebody resumes.
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

// Discard closes the folder and removes it, with the empty folders above it that [Create] made; gone is false, and all stays as it is, for a folder that was there
// before, or in which something was committed.
func (r *Run) Discard() (gone bool, err error) {
	if err := r.Close(); err != nil || len(r.made) == 0 || r.last >= 0 {
		return false, err
	}
	if err := os.RemoveAll(r.dir); err != nil {
		return false, r.disk.wrap("remove", r.dir, err)
	}
	for _, d := range r.made[1:] {
		_ = os.Remove(d) // not where another run lies
	}
	return true, nil
}

// Dir is the folder's absolute path.
func (r *Run) Dir() string { return r.dir }

// Manifest returns what made the run.
func (r *Run) Manifest() Manifest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.manifest
}

// UpdateManifest changes the manifest and writes it, atomically.
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

// Config returns srpo.toml as resolved.
func (r *Run) Config() ([]byte, error) {
	path := filepath.Join(r.dir, configFile)
	data, err := bounded.ReadFile(path, bounded.Small)
	if err != nil {
		return nil, r.disk.wrap("read", path, err)
	}
	return data, nil
}

// WriteFile puts a file into the folder, atomically; name is a plain name such as "report.html".
func (r *Run) WriteFile(name string, data []byte) error {
	if name != filepath.Base(name) || !filepath.IsLocal(name) {
		return plugins.Errorf(plugins.Invalid, "%q is not a plain file name", name)
	}
	return r.disk.replace(filepath.Join(r.dir, name), data)
}

// Explain is the error that a run ends with: err itself, or, where the whole run folder is not there any more, one of kind NotFound that says so first,
// because whoever misses a file in it then (a plugin, the scheduler) knows less than this.
func (r *Run) Explain(err error) error {
	if err == nil || !r.disk.gone() || plugins.AsError(err).Hint == goneHint {
		return err
	}
	return plugins.Errorf(plugins.NotFound, "the run folder is not there any more: %w", err).WithPlace("%s", r.dir).WithHint("%s", goneHint)
}

// SaveInto writes a file into a folder of the run folder, which is made when it is not there; a file of that name is replaced.
func (r *Run) SaveInto(folder, name string, data []byte) error {
	for _, n := range []string{folder, name} {
		if n != filepath.Base(n) || !filepath.IsLocal(n) {
			return plugins.Errorf(plugins.Invalid, "%q is not a plain file name", n)
		}
	}
	if err := r.disk.mkdir(filepath.Join(r.dir, folder)); err != nil {
		return err
	}
	return r.disk.replace(filepath.Join(r.dir, folder, name), data)
}

// Append writes an event. It is durable with the next commit.
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

// finiteOnly replaces numbers that JSON does not have by their names.
func finiteOnly(m map[string]any) map[string]any {
	for k, v := range m {
		if f, ok := v.(float64); ok && !finite(f) {
			c := map[string]any{}
			for k, v := range m {
				c[k] = v
			}
			c[k] = fmt.Sprint(f)
			return finiteOnly(c)
		}
	}
	return m
}

// lines is a file to which whole lines are appended.
type lines struct {
	disk *disk
	path string
	file *os.File
	size int64
}

// openLines opens or makes a file of lines, and cuts off a last line that a crash left without its end.
func (d *disk) openLines(path string) (*lines, error) {
	if err := d.before("open", path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, d.wrap("open", path, err)
	}
	l := &lines{disk: d, path: path, file: f}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		_ = f.Close()
		return nil, d.wrap("read", path, err)
	}
	l.size = size
	buf := make([]byte, 4096)
	for end := size; end > 0; {
		from := max(0, end-int64(len(buf)))
		n, err := f.ReadAt(buf[:end-from], from)
		if err != nil && !errors.Is(err, io.EOF) {
			_ = f.Close()
			return nil, d.wrap("read", path, err)
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			end = from + int64(i) + 1
			if end != size {
				return l, l.cut(end)
			}
			return l, nil
		}
		if end = from; end == 0 {
			return l, l.cut(0)
		}
	}
	return l, nil
}

// append writes a line; a line that could not be written whole leaves nothing behind.
func (l *lines) append(line []byte) error {
	line = append(line, '\n')
	if err := l.disk.before("write", l.path); err != nil {
		return err
	}
	if fault.On && fault.Torn(l.disk.point("write", l.path)) {
		_, _ = l.file.WriteAt(line[:len(line)/2], l.size)
		fault.Die()
	}
	if _, err := l.file.WriteAt(line, l.size); err != nil {
		_ = l.file.Truncate(l.size)
		return l.disk.wrap("write", l.path, err)
	}
	l.size += int64(len(line))
	return nil
}

func (l *lines) sync() error {
	if err := l.disk.before("fsync", l.path); err != nil {
		return err
	}
	return l.disk.wrap("fsync", l.path, l.file.Sync())
}

// cut shortens the file to size bytes.
func (l *lines) cut(size int64) error {
	if err := l.disk.before("truncate", l.path); err != nil {
		return err
	}
	if err := l.file.Truncate(size); err != nil {
		return l.disk.wrap("truncate", l.path, err)
	}
	l.size = size
	return l.sync()
}
