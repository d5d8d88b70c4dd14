package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/srpo-dev/srpo/host/internal/fault"
	"github.com/srpo-dev/srpo/plugins"
)

// disk makes every change to the run folder, so that all failures are described in the same way and tests can inject
// a failure into each operation.
type disk struct {
	run string
	// committed is the last committed iteration, for error messages; -1: none.
	committed int
	// inject, in tests, is called before every operation. The operation fails with the error that it returns.
	inject func(op, path string) error
}

// before must be called before every operation. It returns an injected error, see inject and package fault.
func (d *disk) before(op, path string) error {
	if fault.On {
		fault.Point(d.point(op, path))
	}
	if d.inject == nil {
		return nil
	}
	return d.wrap(op, path, d.inject(op, path))
}

// point returns the name of an operation in a fault plan.
func (d *disk) point(op, path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	rel, err := filepath.Rel(d.run, path)
	if err != nil {
		rel = filepath.Base(path)
	}
	if folder, _, ok := strings.Cut(rel, "/"); ok && folder == episodesDir {
		rel = filepath.Join(folder, "*"+filepath.Ext(rel))
	}
	return "store " + op + " " + rel
}

// wrap returns an error that names the operation, the path and a remedy. nil, and errors that are already of type
// *plugins.Error, are returned unchanged.
func (d *disk) wrap(op, path string, err error) error {
	if err == nil {
		return nil
	}
	var known *plugins.Error
	if errors.As(err, &known) {
		return err
	}
	kind, hint := d.explain(path, err)
	if d.committed >= 0 && hint != goneHint { // a folder that is gone cannot be resumed under its old name
		hint += fmt.Sprintf("; iteration %d is committed: continue with `srpo run --resume %s`", d.committed, d.run)
	}
	cause := err
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		cause = pe.Err
	} else if le := (*os.LinkError)(nil); errors.As(err, &le) {
		cause = le.Err
	}
	return plugins.Errorf(kind, "cannot %s the file: %w", op, cause).WithPlace("%s", path).WithHint("%s", hint)
}

// explain returns the kind of a file error and what the user can do about it.
func (d *disk) explain(path string, err error) (plugins.ErrorKind, string) {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return plugins.Exhausted, "the disk or the quota is full (" + freeSpace(path) +
			"): free some space, or give another --out"
	case errors.Is(err, syscall.EFBIG):
		return plugins.Exhausted, "the file is larger than the system's limit: raise `ulimit -f`"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return plugins.Exhausted, "too many files are open: raise `ulimit -n`"
	case errors.Is(err, syscall.EROFS):
		return plugins.Invalid, "the file system is read-only: give another --out"
	case errors.Is(err, os.ErrPermission):
		return plugins.Invalid, "the folder belongs to another user or is write-protected: change its " +
			"permissions, or give another --out"
	case errors.Is(err, syscall.EIO):
		return plugins.Internal, "the disk or the network file system reports a fault: see the system's log, and " +
			"do not trust this disk"
	case errors.Is(err, os.ErrNotExist):
		if d.gone() {
			return plugins.NotFound, goneHint
		}
		return plugins.NotFound, "the file or its folder was removed"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, os.ErrExist):
		return plugins.Invalid, "a file has the name of a folder: give another --out"
	}
	return plugins.Internal, "see the system's log"
}

// goneHint is the remedy if the whole run folder no longer exists.
const goneHint = "the run folder was removed or moved: restore it, or continue at its new place with `srpo run " +
	"--resume FOLDER`"

// gone reports whether the whole run folder, with something committed in it, no longer exists.
func (d *disk) gone() bool {
	_, err := os.Stat(d.run)
	return d.committed >= 0 && errors.Is(err, os.ErrNotExist)
}

// freeSpace describes the free space of the file system of path.
func freeSpace(path string) string {
	var s syscall.Statfs_t
	for p := path; ; p = filepath.Dir(p) {
		if err := syscall.Statfs(p, &s); err == nil {
			return strconv.FormatUint(s.Bavail*uint64(s.Bsize)>>20, 10) + " MiB free"
		}
		if p == filepath.Dir(p) {
			return "free space unknown"
		}
	}
}

func (d *disk) mkdir(path string) error {
	if err := d.before("make", path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return d.wrap("make", path, err)
	}
	return nil
}

func (d *disk) mkdirAll(path string) error {
	if err := d.before("make", path); err != nil {
		return err
	}
	return d.wrap("make", path, os.MkdirAll(path, 0o755))
}

// write creates a file and syncs it to the disk.
func (d *disk) write(path string, data []byte) error {
	if err := d.before("write", path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return d.wrap("make", path, err)
	}
	if fault.On && fault.Torn(d.point("write", path)) {
		_, _ = f.Write(data[:len(data)/2])
		fault.Die()
	}
	_, err = f.Write(data)
	if err == nil {
		if err = d.before("fsync", path); err == nil {
			err = f.Sync()
		}
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return d.wrap("write", path, err)
}

// sync syncs an existing file or folder to the disk.
func (d *disk) sync(path string) error {
	if err := d.before("fsync", path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return d.wrap("fsync", path, err)
	}
	err = f.Sync()
	_ = f.Close()
	return d.wrap("fsync", path, err)
}

func (d *disk) rename(from, to string) error {
	if err := d.before("rename", to); err != nil {
		return err
	}
	return d.wrap("rename", to, os.Rename(from, to))
}

func (d *disk) remove(path string) error {
	if err := d.before("remove", path); err != nil {
		return err
	}
	return d.wrap("remove", path, os.RemoveAll(path))
}

// replace writes a temporary file and renames it to path, so that path always has either the old or the new content.
func (d *disk) replace(path string, data []byte) error {
	tmp := filepath.Join(filepath.Dir(path), pendingPrefix+filepath.Base(path))
	if err := d.write(tmp, data); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	if err := d.rename(tmp, path); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return d.sync(filepath.Dir(path))
}
