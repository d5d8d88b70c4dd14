// Package bounded reads whole files up to a size limit: a damaged or hostile file must not fill the memory of
// the host.
package bounded

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Limits far above the sizes of files that srpo writes.
const (
	Small = 16 << 20 // settings, manifests, locks: usually kilobytes
	Log   = 1 << 30  // one line per iteration or event: usually some MB per week
)

// ErrTooLarge is the error for a file beyond its limit.
var ErrTooLarge = errors.New("too large")

type tooLarge struct{ size, limit int64 }

func (e tooLarge) Error() string {
	return fmt.Sprintf("it has %d bytes, and at most %d are read", e.size, e.limit)
}

func (e tooLarge) Is(target error) bool { return target == ErrTooLarge }

// ReadFile is [os.ReadFile] for files of at most limit bytes. Errors: those of os.ReadFile, and ErrTooLarge
// with the size and the limit.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f, limit)
}

// ReadFS is ReadFile for a file of fsys.
func ReadFS(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f, limit)
}

func read(f fs.File, limit int64) ([]byte, error) {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > limit {
		return nil, tooLarge{info.Size(), limit}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1)) // the file may grow, or have no size
	if err == nil && int64(len(data)) > limit {
		err = tooLarge{int64(len(data)), limit}
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}
