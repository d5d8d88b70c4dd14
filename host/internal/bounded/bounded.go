// Package bounded reads whole files without trusting their size: what was damaged or put there by somebody
// else must not fill the memory of a host that runs for a week.
package bounded

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Sizes that nothing of ours comes near.
const (
	Small = 16 << 20 // settings, manifests, locks: kilobytes
	Log   = 1 << 30  // a line an iteration or an event: some MB in a week
)

// ErrTooLarge is what a file beyond its bound gives.
var ErrTooLarge = errors.New("too large")

type tooLarge struct{ size, most int64 }

func (e tooLarge) Error() string {
	return fmt.Sprintf("it has %d bytes, and at most %d are read", e.size, e.most)
}
func (e tooLarge) Is(target error) bool { return target == ErrTooLarge }

// ReadFile is [os.ReadFile] for files of at most most bytes. Errors: those of os.ReadFile, and an
// ErrTooLarge that says the size and the bound.
func ReadFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f, most)
}

// ReadFS is ReadFile for a file of fsys.
func ReadFS(fsys fs.FS, name string, most int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f, most)
}

func read(f fs.File, most int64) ([]byte, error) {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > most {
		return nil, tooLarge{info.Size(), most}
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1)) // it may grow, or be no regular file
	if err == nil && int64(len(data)) > most {
		err = tooLarge{int64(len(data)), most}
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}
