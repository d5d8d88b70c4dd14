package store

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/srpo-dev/srpo/plugins"
)

// WriteFile writes a file in dir atomically: if it fails, an earlier file of that name is unchanged. name is
// slash-separated.
func WriteFile(dir, name string, data []byte) error {
	path := filepath.Join(dir, filepath.FromSlash(name))
	f, err := os.CreateTemp(filepath.Dir(path), pendingPrefix)
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
		kind, hint = plugins.Exhausted, "the disk or the quota is full: free some space and run "+
			"the same command again; what was written is kept"
	}
	return plugins.Errorf(kind, "cannot %s the file: %w", op, err).WithPlace("%s", path).WithHint("%s", hint)
}
