package supervise

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	// ringLines is how many of a plugin's last lines are kept for errors.
	ringLines = 40
	// ringWidth is how much of each is kept, bytes.
	ringWidth = 2000
	// maxLine is where a line without an end is cut, bytes.
	maxLine = 64 << 10
	// crashLines is how much is kept of what a Go program says when it dies: the reason, and where.
	crashLines = 12
	// maxLog is the size at which a log file is rotated; one older file is kept, so a plugin's logs take at most twice as much.
	maxLog = 8 << 20
)

// output keeps what a plugin prints: all of it in a log file, the last lines in memory.
type output struct {
	mu   sync.Mutex
	path string
	file *os.File
	size int64
	ring []string
	// crash is what a Go program said of its own death. The stacks of all its goroutines come behind it, and push it out of the ring.
	crash []string
}

// newOutput appends to the log file at path. A log that cannot be written does not stop a run: the last lines are kept all the same.
func newOutput(path string) *output {
	o := &output{path: path}
	o.open()
	return o
}

func (o *output) open() {
	file, err := os.OpenFile(o.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	o.file = file
	if info, err := file.Stat(); err == nil {
		o.size = info.Size()
	}
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil {
		_ = o.file.Close()
		o.file = nil
	}
}

// line keeps one line; source says where it is from ("err", "out", "srpo").
func (o *output) line(source, text string) {
	if i := strings.LastIndexByte(strings.TrimRight(text, "\r"), '\r'); i >= 0 {
		text = text[i+1:] // a progress bar: only what it showed last
	}
	text = strings.TrimRight(text, "\r\n")
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil {
		if o.size > maxLog {
			_ = o.file.Close()
			o.file = nil
			_ = os.Rename(o.path, o.path+".1")
			o.open()
		}
		if o.file != nil {
			n, _ := fmt.Fprintf(o.file, "%s %-4s %s\n", time.Now().Format("15:04:05.000"), source, text)
			o.size += int64(n)
		}
	}
	if source == "srpo" {
		return
	}
	if word, ok := readable(text); ok {
		if o.ring = append(o.ring, word); len(o.ring) > ringLines {
			o.ring = o.ring[len(o.ring)-ringLines:]
		}
		if len(o.crash) == 0 && dies(word) || len(o.crash) > 0 && len(o.crash) < crashLines {
			o.crash = append(o.crash, word)
		}
	}
}

// dies says whether a line is the one with which Go's runtime begins to tell why it ends the program.
func dies(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "runtime: out of memory")
}

// stack says whether a line is of a stack that Go's runtime prints: where a function stands.
func stack(line string) bool { return strings.HasPrefix(line, "\t") && strings.Contains(line, ".go:") }

// last returns the last n lines, joined; of a Go program that died the first ones of what it said of that, which tell why.
func (o *output) last(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines := o.ring[max(0, len(o.ring)-n):]
	if len(o.crash) > 0 && slices.ContainsFunc(o.ring, stack) && !slices.Contains(lines, o.crash[0]) {
		lines = o.crash[:min(n, len(o.crash))]
	}
	return strings.Join(lines, "\n")
}

// outOfMemory says whether a Go program died because it got no memory.
func (o *output) outOfMemory() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.crash, func(line string) bool {
		return strings.Contains(line, "out of memory") || strings.Contains(line, "cannot allocate memory")
	})
}

// readable turns a line into one for a person, without control characters; go-plugin's own log lines (JSON) are unpacked, and dropped below "info".
func readable(text string) (string, bool) {
	if strings.HasPrefix(text, "{") {
		var entry map[string]any
		if json.Unmarshal([]byte(text), &entry) == nil {
			if message, ok := entry["@message"].(string); ok {
				level, _ := entry["@level"].(string)
				if level == "debug" || level == "trace" {
					return "", false
				}
				text = message
				if cause, ok := entry["error"]; ok {
					text += fmt.Sprint(": ", cause)
				}
			}
		}
	}
	if len(text) > ringWidth {
		text = text[:ringWidth] + "..."
	}
	text = strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(text, "?"))
	return text, strings.TrimSpace(text) != ""
}

// lines is a writer that splits a stream into the output's lines.
type lines struct {
	to     *output
	source string
	mu     sync.Mutex
	rest   []byte
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Only what is new is searched, and what is left is moved once: a plugin may print byte by byte, or nothing but line ends.
	searched := len(l.rest)
	l.rest = append(l.rest, b...)
	rest := l.rest
	for {
		end := bytes.IndexByte(rest[searched:], '\n')
		switch {
		case end >= 0:
			end += searched
			l.to.line(l.source, string(rest[:end]))
			rest = rest[end+1:]
		case len(rest) >= maxLine:
			l.to.line(l.source, string(rest))
			rest = nil
		default:
			if len(rest) < len(l.rest) {
				l.rest = append(l.rest[:0], rest...)
			}
			return len(b), nil
		}
		searched = 0
	}
}

// flush keeps what came without a line end.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		l.to.line(l.source, string(l.rest))
		l.rest = nil
	}
}

// fileName makes a name that is safe as a file's.
func fileName(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == '.' || r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, filepath.Base(s))
}
