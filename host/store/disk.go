package store

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/srpo-dev/srpo/host/internal/fault"
	"github.com/srpo-dev/srpo/plugins"
)

// disk makes every change to the folder, so that every failure gets the same words, and tests can fail each one.
type disk struct {
	run string
	// committed is the last committed iteration, for error texts; -1: none.
	committed int
	// fault, in tests, is asked before every operation.
	fault func(op, path string) error
}

func (d *disk) before(op, path string) error {
	if fault.On {
		fault.Point(d.point(op, path))
	}
	if d.fault == nil {
		return nil
	}
	return d.wrap(op, path, d.fault(op, path))
}

// point names an operation in a fault plan.
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

// wrap says what failed, where, and what to do; nil stays nil.
func (d *disk) wrap(op, path string, err error) error {
	if err == nil {
		return nil
	}
	var known *plugins.Error
	if errors.As(err, &known) {
		return err
	}
	cause := err
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		cause = pe.Err
	} else if le := (*os.LinkError)(nil); errors.As(err, &le) {
		cause = le.Err
	}
	goOn := ""
	if d.committed >= 0 {
		goOn = "; iteration " + strconv.Itoa(d.committed) + " is committed: go on with `srpo run --resume " + d.run + "`"
	}
	fail := func(kind plugins.ErrorKind, hint string) error {
		return plugins.Errorf(kind, "cannot %s the file: %w", op, cause).WithPlace("%s", path).WithHint("%s%s", hint, goOn)
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fail(plugins.Exhausted, "the disk or the quota is full ("+free(path)+"): make room there, or give another --out")
	case errors.Is(err, syscall.EFBIG):
		return fail(plugins.Exhausted, "the file is larger than the system's limit: raise `ulimit -f`")
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fail(plugins.Exhausted, "too many files are open: raise `ulimit -n`")
	case errors.Is(err, syscall.EROFS):
		return fail(plugins.Invalid, "the file system is read-only: give another --out")
	case errors.Is(err, os.ErrPermission):
		return fail(plugins.Invalid, "the folder belongs to somebody else or is write-protected: change its permissions, or give another --out")
	case errors.Is(err, syscall.EIO):
		return fail(plugins.Internal, "the disk or the network file system reports a fault: see the system's log, and do not trust this disk")
	case errors.Is(err, os.ErrNotExist):
		if d.gone() {
			goOn = "" // its folder is another now
			return fail(plugins.NotFound, goneHint)
		}
		return fail(plugins.NotFound, "somebody removed it")
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, os.ErrExist):
		return fail(plugins.Invalid, "a file stands where a folder should be: give another --out")
	}
	return fail(plugins.Internal, "see the system's log")
}

// goneHint is what to do where the whole run folder is not there any more.
const goneHint = "somebody removed the run folder or moved it: bring it back, or go on where it lies now with `srpo run --resume FOLDER`"

// gone is whether the whole run folder, with something committed in it, is not there any more.
func (d *disk) gone() bool {
	_, err := os.Stat(d.run)
	return d.committed >= 0 && errors.Is(err, os.ErrNotExist)
}

// free says how much room the file system of path has.
func free(path string) string {
	var s syscall.Statfs_t
	for p := path; ; p = filepath.Dir(p) {
		if err := syscall.Statfs(p, &s); err == nil {
			return strconv.FormatUint(s.Bavail*uint64(s.Bsize)>>20, 10) + " MiB free"
		}
		if p == filepath.Dir(p) {
			return "free room unknown"
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

// write makes a file and fsyncs it.
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

// sync fsyncs a file or a folder that somebody else wrote.
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

// replace writes a file beside path and renames it, so that path is always whole: the old text or the new.
func (d *disk) replace(path string, data []byte) error {
	tmp := filepath.Join(filepath.Dir(path), ".tmp-"+filepath.Base(path))
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
