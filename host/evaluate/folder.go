package evaluate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// weights finds the policy's folder that a checkpoint means, and returns a hash over its files.
func (e *evaluation) weights(checkpoint string) (sum string, err error) {
	e.weight, sum, err = session.FindPolicyAndHash(e.cfg, checkpoint, e.Terminal)
	return sum, err
}

// takeLock keeps a second srpo out of the folder.
func (e *evaluation) takeLock() error {
	path := filepath.Join(e.dir, ".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return store.DiskError("open", path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return plugins.Errorf(plugins.Unavailable, "another srpo writes this evaluation").WithPlace("%s", e.dir).WithHint("wait until it has ended, or give another --out")
	}
	e.lock = f
	return nil
}

func (e *evaluation) close() {
	if e.log != nil {
		_ = e.log.close()
	}
	if e.lock != nil {
		_ = e.lock.Close()
	}
}

// read returns what the folder holds an evaluation of; nil for a folder that is empty or not there.
func (e *evaluation) read() (*Record, error) {
	if info, err := os.Stat(e.dir); err == nil && !info.IsDir() {
		return nil, plugins.Errorf(plugins.Invalid, "there is a file of that name").WithPlace("--out %s", e.Dir).WithHint("give the name of a folder")
	}
	if _, err := os.Stat(filepath.Join(e.dir, RecordFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, vacant(e.dir, e.Dir)
	}
	return ReadRecord(e.dir)
}

// vacant refuses a folder that holds something; shown is the path as the user gave it.
func vacant(dir, shown string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", shown).WithHint("give another --out")
	}
	for _, f := range entries {
		// A first try that found no plugin leaves its lock and the plugins' logs.
		if f.Name() != ".lock" && f.Name() != "plugins" && !strings.HasPrefix(f.Name(), ".tmp-") {
			return plugins.Errorf(plugins.Invalid, "the folder holds %s and no evaluation", f.Name()).WithPlace("--out %s", shown).
				WithHint("give a folder that is empty or does not exist")
		}
	}
	return nil
}

// same compares what is asked for with what the folder holds: what is known before the plugins are started, and in the end all of it.
func (e *evaluation) same(old map[string]string, all bool) error {
	var names []string
	for name, now := range e.ident {
		if was, ok := old[name]; ok && was != now || !ok && all {
			names = append(names, name)
		}
	}
	if all {
		for name := range old {
			if _, ok := e.ident[name]; !ok {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	sort.Strings(names)
	var detail []string
	for _, name := range names {
		detail = append(detail, fmt.Sprintf("%s: %s there, %s now", name, orNothing(old[name]), orNothing(e.ident[name])))
	}
	return plugins.Errorf(plugins.Mismatch, "the folder holds another evaluation: %s differs; nothing was changed", strings.Join(names, ", ")).WithPlace("--out %s", e.Dir).
		WithHint("%s", e.wayOn(old, names)).WithDetail(strings.Join(detail, "\n"))
}

// wayOn is what can be done where a folder holds another evaluation, which differs in names.
func (e *evaluation) wayOn(old map[string]string, names []string) string {
	settings := true
	for _, name := range names {
		switch _, known := old[name]; {
		case strings.HasSuffix(name, " plugin"), !known && strings.Contains(name, "."):
			// Its episodes and new ones would not be of the same programs.
			return "a plugin has changed since: give another --out, or go on with the srpo that began it, see " + filepath.Join(e.Dir, RecordFile)
		case !strings.Contains(name, ".") && name != "seed" && name != "max_steps":
			settings = false
		}
	}
	if settings { // also of somebody who changed nothing: a default that has changed, or a srpo.toml
		return fmt.Sprintf("give another --out, or go on with the settings that it was begun with: --config %s", filepath.Join(e.Dir, "srpo.toml"))
	}
	return "give another --out"
}

func (e *evaluation) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%s: %w", name, err)
	}
	return e.write(name, append(data, '\n'))
}

func (e *evaluation) write(name string, data []byte) error { return store.WriteFile(e.dir, name, data) }

// episodeLog is episodes.jsonl: a line for each episode, durable at the latest a second later.
type episodeLog struct {
	path   string
	file   *os.File
	synced time.Time
	added  int
}

// openEpisodes opens the file, cuts off a last line that a crash left without its end, and returns the episodes in it.
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
		return store.DiskError("write", l.path, err) // a torn line is cut off by the next one who opens the file
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
