// Package pyenv makes the Python environments of plugins: one per package, in the cache folder, from a list
// of requirements with hashes.
//
// An environment is built in its final folder, and is valid only once its stamp is written, which is the
// last step. A folder without a stamp is the rest of an interrupted build and is removed. The stamp
// contains a hash over the lists of files, with sizes, of every installed distribution, which is checked at
// each start.
package pyenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/plugins"
)

// Spec describes the contents of an environment.
type Spec struct {
	// Name of the package; part of the folder's name.
	Name   string
	Python Requirement
	// Requirements is the path of a requirements file in which every line has hashes.
	Requirements string
	// NoDeps installs the listed distributions without their dependencies.
	NoDeps bool
	// PostInstall is the path of a Python program that runs once in the new environment, with the folder
	// [Env.Made] as its argument; empty: none.
	PostInstall string
	// DownloadMB and DiskMB are the sizes given by the package, for the user and for a check of the free
	// space; 0: unknown.
	DownloadMB, DiskMB float64
}

// Options describe where and how to build an environment.
type Options struct {
	// Cache is the cache folder of srpo, see [CacheDir].
	Cache string
	// Interpreter is the Python to use; empty: search.
	Interpreter string
	// PipOnly disables uv.
	PipOnly bool
	// Repair rebuilds an environment whose files have changed, instead of refusing it.
	Repair bool
	// Progress receives the progress, a few times per second. May be nil.
	Progress func(Progress)
}

// Progress of an installation.
type Progress struct {
	// What is the current step, a sentence.
	What string
	// MB on disk so far, of OfMB (0: unknown).
	MB, OfMB float64
	Elapsed  time.Duration
	// Line is the last line of the installer's output.
	Line string
}

// Env is an environment that is ready.
type Env struct {
	// Dir is its folder, Python its interpreter.
	Dir, Python string
	// Made is the folder with the files of [Spec.PostInstall]; empty: none.
	Made  string
	Stamp Stamp
	// Built is true when this call built it.
	Built bool
}

// Stamp describes a finished environment.
type Stamp struct {
	Python    string    `json:"python"` // the interpreter with which it was made
	Version   string    `json:"version"`
	Installer string    `json:"installer"`
	Built     time.Time `json:"built"`
	Seconds   float64   `json:"seconds"`
	MB        float64   `json:"mb"`
	// Integrity is the hash over the names and sizes of the installed files.
	Integrity string `json:"integrity"`
	// Deviations are files that differ from the list of their distribution right after the installation:
	// some distributions list wrong sizes, and some overwrite files of others.
	Deviations []string `json:"deviations,omitempty"`
	// Made are the files of [Spec.PostInstall].
	Made []lock.FileHash `json:"made,omitempty"`
}

const (
	stampFile  = "srpo-stamp.json"
	madeFolder = "srpo-made"
)

// CacheDir returns $SRPO_CACHE, or the folder srpo in the user's cache folder, and creates it. srpo writes
// nowhere else outside run folders.
func CacheDir() (string, error) {
	dir := os.Getenv("SRPO_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", plugins.Errorf(plugins.NotFound, "no cache folder: %w", err).
				WithHint("set SRPO_CACHE to a folder with room for Python environments")
		}
		dir = filepath.Join(base, "srpo")
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return "", plugins.Errorf(plugins.Exhausted, "the cache folder: %w", err).
			WithHint("set SRPO_CACHE to a folder that can be written to")
	}
	return dir, nil
}

// Dir returns the folder of the environment. Its name contains a hash over the required Python, the
// requirements and the post-install program, so a changed list has another folder.
func (s Spec) Dir(o Options) (string, error) {
	data, err := os.ReadFile(s.Requirements)
	if err != nil {
		return "", plugins.Errorf(plugins.NotFound, "the requirements: %w", err).
			WithHint("put the file that [python] requirements names into the package")
	}
	h := sha256.New()
	fmt.Fprintf(h, "1\n%s\n%s\n%v\n", s.Python, o.Interpreter, s.NoDeps)
	h.Write(data)
	if s.PostInstall != "" {
		if data, err = os.ReadFile(s.PostInstall); err != nil {
			return "", plugins.Errorf(plugins.NotFound, "the program to run after the installation: %w", err).
				WithHint("put the file that [python] post_install names into the package")
		}
		fmt.Fprintf(h, "\npost_install\n")
		h.Write(data)
	}
	return filepath.Join(o.Cache, "venvs", s.Name+"-"+hex.EncodeToString(h.Sum(nil))[:16]), nil
}

// Ensure returns the environment of a spec, and builds it if it is missing.
func Ensure(ctx context.Context, s Spec, o Options) (Env, error) {
	dir, err := s.Dir(o)
	if err != nil {
		return Env{}, err
	}
	if env, err := open(dir); err == nil || !buildable(err, o) {
		return env, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return Env{}, plugins.Errorf(plugins.Exhausted, "the cache folder: %w", err).
			WithHint("set SRPO_CACHE to a folder that can be written to")
	}
	release, err := lockFile(
		ctx,
		dir+".lock",
		func() { o.report(Progress{What: "waiting for another srpo that installs " + s.Name}) },
	)
	if err != nil {
		return Env{}, err
	}
	defer release()
	if env, err := open(dir); err == nil || !buildable(err, o) { // another process may have built it meanwhile
		return env, err
	}
	b := &builder{Spec: s, Options: o, dir: dir, began: time.Now()}
	if err := b.build(ctx); err != nil {
		_ = os.RemoveAll(dir)
		return Env{}, plugins.AsError(err).WithPlace("Python environment of %s", s.Name)
	}
	env, err := open(dir)
	env.Built = true
	return env, err
}

// Open returns the environment of a spec without building it. Errors: NotFound when it is missing, Corrupt
// when its files have changed.
func Open(s Spec, o Options) (Env, error) {
	dir, err := s.Dir(o)
	if err != nil {
		return Env{}, err
	}
	env, err := open(dir)
	if errors.Is(err, errNotBuilt) {
		return Env{}, plugins.Errorf(plugins.NotFound, "the Python environment of %s is not installed", s.Name).
			WithHint("srpo plugin install %s", s.Name)
	}
	return env, err
}

// Installed reports whether the environment exists and is intact, without building it.
func Installed(s Spec, o Options) bool {
	_, err := Open(s, o)
	return err == nil
}

func (o Options) report(p Progress) {
	if o.Progress != nil {
		o.Progress(p)
	}
}

var errNotBuilt = errors.New("not built")

// buildable reports whether an environment that could not be opened must be built, or built again.
func buildable(err error, o Options) bool { return errors.Is(err, errNotBuilt) || o.Repair }

// open checks an existing environment. The error is errNotBuilt when it is missing, unfinished, or its
// Python was removed.
func open(dir string) (Env, error) {
	data, err := os.ReadFile(filepath.Join(dir, stampFile))
	if err != nil {
		return Env{}, errNotBuilt
	}
	env := Env{Dir: dir, Python: filepath.Join(dir, "bin", "python")}
	if json.Unmarshal(data, &env.Stamp) != nil {
		return Env{}, errNotBuilt
	}
	if _, err := os.Stat(env.Python); err != nil { // a link to an interpreter that was removed
		return Env{}, errNotBuilt
	}
	corrupt := func(format string, args ...any) error {
		return plugins.Errorf(plugins.Corrupt, format, args...).
			WithHint("srpo plugin install %s --repair, which builds it again", packageOf(dir))
	}
	now, changed, err := integrity(dir)
	if err != nil {
		return Env{}, corrupt("the Python environment in %s cannot be read: %w", dir, err)
	}
	if now != env.Stamp.Integrity {
		what := "its files are not those that were installed"
		changed = slices.DeleteFunc(changed, func(c string) bool { return slices.Contains(env.Stamp.Deviations, c) })
		if len(changed) > 0 {
			what = strings.Join(changed[:min(3, len(changed))], ", ")
		}
		return Env{}, corrupt("the Python environment in %s has changed since it was installed: %s", dir, what)
	}
	if len(env.Stamp.Made) > 0 {
		env.Made = filepath.Join(dir, madeFolder)
		now, err := lock.HashDir(env.Made)
		changes := lock.Tree{Files: env.Stamp.Made}.Changes(now)
		what := lock.Describe(changes[:min(3, len(changes))], ", ")
		if err != nil {
			what = err.Error()
		}
		if what != "" {
			return Env{}, corrupt("the files that the installation made in %s have changed since: %s", env.Made, what)
		}
	}
	return env, nil
}

// packageOf returns the name of the package whose environment is in dir, NAME-HASH.
func packageOf(dir string) string {
	name := filepath.Base(dir)
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		name = name[:i]
	}
	return name
}

// lockFile takes a lock that ends with this process. It calls waiting once when another process has it.
func lockFile(ctx context.Context, path string, waiting func()) (release func(), err error) {
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	locked, err := lock.TryLock()
	if err == nil && !locked {
		waiting()
		_, err = lock.TryLockContext(ctx, 200*time.Millisecond)
	}
	var open *fs.PathError
	switch {
	case err == nil:
		return func() { _ = lock.Close() }, nil
	case ctx.Err() != nil:
		return nil, plugins.Errorf(plugins.Canceled, "waiting for another srpo that installs the same: %w", ctx.Err())
	case errors.As(err, &open):
		return nil, plugins.Errorf(plugins.Exhausted, "locking the cache: %w", err).
			WithHint("set SRPO_CACHE to a folder that can be written to")
	}
	return nil, plugins.Errorf(plugins.Unsupported, "locking %s: %w", path, err).
		WithHint("set SRPO_CACHE to a folder on a local disk")
}
