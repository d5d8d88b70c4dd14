package store

import (
	"bytes"
	"errors"
	"io"
	"os"

	"github.com/srpo-dev/srpo/host/internal/fault"
)

// lines is a file to which complete lines are appended.
type lines struct {
	disk *disk
	path string
	file *os.File
	size int64
}

// openLines opens or creates a file of lines. It cuts off a last line without a line end, which a crash left.
func (d *disk) openLines(path string) (*lines, error) {
	if err := d.before("open", path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, d.wrap("open", path, err)
	}
	l := &lines{disk: d, path: path, file: f}
	end, err := l.findEnd()
	if err != nil {
		_ = f.Close()
		return nil, d.wrap("read", path, err)
	}
	if end != l.size {
		return l, l.cut(end)
	}
	return l, nil
}

// findEnd sets l.size and returns the offset after the last line end.
func (l *lines) findEnd() (int64, error) {
	var err error
	if l.size, err = l.file.Seek(0, io.SeekEnd); err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for end := l.size; end > 0; {
		from := max(0, end-int64(len(buf)))
		n, err := l.file.ReadAt(buf[:end-from], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		end = from
	}
	return 0, nil
}

// append writes a line. If only a part could be written, that part is removed.
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
