package host

import (
	"crypto/sha256"
	"encoding/hex"
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

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/score"
	"github.com/srpo-dev/srpo/plugins"
)

// weights finds the policy's folder that a checkpoint means, and returns a hash over its files.
func (e *evaluation) weights(checkpoint string) (sum string, err error) {
	e.weight, sum, err = policyWeights(e.cfg, checkpoint, e.Terminal)
	return sum, err
}

// policyWeights finds the policy's folder that run.checkpoint names, an absolute path, and hashes it. The terminal is told of damaged checkpoints that are newer.
func policyWeights(cfg *config.Config, checkpoint string, term *report.Terminal) (folder, sum string, err error) {
	if info, err := os.Stat(checkpoint); err != nil || !info.IsDir() {
		return "", "", plugins.Errorf(plugins.NotFound, "no folder %s", checkpoint).WithPlace("%s", cfg.Origin("run.checkpoint")).
			WithHint("give a run folder, one of its checkpoints, or a policy's own folder")
	}
	saved, damaged, err := givenPolicy(checkpoint)
	if err != nil {
		return "", "", err
	}
	for _, d := range damaged {
		term.Warn("%s", damagedWords(d))
	}
	if folder, err = filepath.Abs(saved); err != nil {
		return "", "", plugins.Errorf(plugins.Invalid, "%w", err)
	}
	if sum, err = hashFolder(folder); err != nil {
		return "", "", plugins.Errorf(plugins.Invalid, "the policy's folder cannot be read: %w", err).WithPlace("%s", folder).WithHint("check its permissions")
	}
	return folder, sum, nil
}

// takeLock keeps a second srpo out of the folder.
func (e *evaluation) takeLock() error {
	path := filepath.Join(e.dir, ".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return DiskError("open", path, err)
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
func (e *evaluation) read() (*score.Record, error) {
	if info, err := os.Stat(e.dir); err == nil && !info.IsDir() {
		return nil, plugins.Errorf(plugins.Invalid, "there is a file of that name").WithPlace("--out %s", e.Dir).WithHint("give the name of a folder")
	}
	if _, err := os.Stat(filepath.Join(e.dir, score.RecordFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, vacant(e.dir, e.Dir)
	}
	return score.ReadRecord(e.dir)
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
		detail = append(detail, fmt.Sprintf("%s: %s there, %s now", name, orNothingToo(old[name]), orNothingToo(e.ident[name])))
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
			return "a plugin has changed since: give another --out, or go on with the srpo that began it, see " + filepath.Join(e.Dir, score.RecordFile)
		case !strings.Contains(name, ".") && name != "seed" && name != "max_steps":
			settings = false
		}
	}
	if settings { // also of somebody who changed nothing: a default that has changed, or a srpo.toml
		return fmt.Sprintf("give another --out, or go on with the settings that it was begun with: --config %s", filepath.Join(e.Dir, "srpo.toml"))
	}
	return "give another --out"
}

func orNothingToo(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func (e *evaluation) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%s: %w", name, err)
	}
	return e.write(name, append(data, '\n'))
}

func (e *evaluation) write(name string, data []byte) error { return WriteFile(e.dir, name, data) }

// WriteFile writes a file of a folder: all of it, or the earlier one stays. name is slash-separated.
func WriteFile(dir, name string, data []byte) error {
	path := filepath.Join(dir, filepath.FromSlash(name))
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return DiskError("write", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return DiskError("write", path, err)
}

// DiskError returns the error of an operation on a file of a folder that the user named with --out; nil stays nil.
func DiskError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	kind, hint := plugins.Invalid, "check the folder's permissions, or give another --out"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		kind, hint = plugins.Exhausted, "the disk or the quota is full: make room, and run the same command again; what is written is kept"
	}
	return plugins.Errorf(kind, "cannot %s the file: %w", op, err).WithPlace("%s", path).WithHint("%s", hint)
}

// episodeLog is episodes.jsonl: a line for each episode, durable at the latest a second later.
type episodeLog struct {
	path   string
	file   *os.File
	synced time.Time
	added  int
}

// openEpisodes opens the file, cuts off a last line that a crash left without its end, and returns the episodes in it.
func openEpisodes(path string) (*episodeLog, []score.Episode, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, nil, DiskError("open", path, err)
	}
	episodes, whole, err := score.Lines[score.Episode](f, path)
	if err == nil {
		err = DiskError("truncate", path, f.Truncate(whole))
	}
	if err == nil {
		_, err = f.Seek(whole, io.SeekStart)
		err = DiskError("read", path, err)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return &episodeLog{path: path, file: f, synced: time.Now()}, episodes, nil
}

func (l *episodeLog) append(ep score.Episode) error {
	data, err := json.Marshal(ep)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "episode %s: %w", ep.ID, err)
	}
	if _, err := l.file.Write(append(data, '\n')); err != nil {
		return DiskError("write", l.path, err) // a torn line is cut off by the next one who opens the file
	}
	l.added++
	if time.Since(l.synced) > time.Second {
		return l.sync()
	}
	return nil
}

func (l *episodeLog) sync() error {
	l.synced = time.Now()
	return DiskError("fsync", l.path, l.file.Sync())
}

func (l *episodeLog) close() error { return errors.Join(l.sync(), l.file.Close()) }

// hashFolder is a SHA-256 over the names and bytes of every file in a folder.
func hashFolder(dir string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		one := sha256.New()
		if _, err := io.Copy(one, f); err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %x\n", filepath.ToSlash(name), one.Sum(nil))
		return nil
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}
