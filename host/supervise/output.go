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
	// recentLines is the number of a plugin's last lines that are kept for errors.
	recentLines = 40
	// recentWidth is the number of bytes of each that are kept.
	recentWidth = 2000
	// maxLine is the number of bytes at which a line without an end is cut.
	maxLine = 64 << 10
	// crashLines is the number of lines that are kept of the crash report of a Go program: the reason and
	// the place.
	crashLines = 12
	// maxLog is the size at which a log file is rotated. One older file is kept, so logs take at most twice
	// as much.
	maxLog = 8 << 20
)

// output stores what a plugin prints: everything in a log file, the last lines in memory.
type output struct {
	mu   sync.Mutex
	path string
	file *os.File
	size int64
	// recent are the last lines.
	recent []string
	// crash is the start of the crash report of a Go program. The stacks of all goroutines follow it, and
	// would push it out of the recent lines.
	crash []string
}

// newOutput appends to the log file at path. A log that cannot be written does not stop a run: the last
// lines are still kept.
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

// line stores one line. source is its origin: "err", "out" or "srpo".
func (o *output) line(source, text string) {
	if i := strings.LastIndexByte(strings.TrimRight(text, "\r"), '\r'); i >= 0 {
		text = text[i+1:] // a progress bar: only its last state
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
	if shown, ok := readable(text); ok {
		if o.recent = append(o.recent, shown); len(o.recent) > recentLines {
			o.recent = o.recent[len(o.recent)-recentLines:]
		}
		if len(o.crash) == 0 && startsCrash(shown) || len(o.crash) > 0 && len(o.crash) < crashLines {
			o.crash = append(o.crash, shown)
		}
	}
}

// startsCrash reports whether a line is the first of a crash report of Go's runtime.
func startsCrash(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") ||
		strings.HasPrefix(line, "runtime: out of memory")
}

// isStackLine reports whether a line is the position of a function in a stack that Go's runtime prints.
func isStackLine(line string) bool {
	return strings.HasPrefix(line, "\t") && strings.Contains(line, ".go:")
}

// last returns the last n lines, joined. For a Go program that crashed it returns the start of the crash
// report instead.
func (o *output) last(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines := o.recent[max(0, len(o.recent)-n):]
	if len(o.crash) > 0 && slices.ContainsFunc(o.recent, isStackLine) && !slices.Contains(lines, o.crash[0]) {
		lines = o.crash[:min(n, len(o.crash))]
	}
	return strings.Join(lines, "\n")
}

// outOfMemory reports whether a Go program crashed for lack of memory.
func (o *output) outOfMemory() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.crash, func(line string) bool {
		return strings.Contains(line, "out of memory") || strings.Contains(line, "cannot allocate memory")
	})
}

// readable makes a line fit for an error: without control characters, and shortened. It unpacks the JSON
// log lines of go-plugin. ok is false for an empty line and for debug lines.
func readable(text string) (shown string, ok bool) {
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
	if len(text) > recentWidth {
		text = text[:recentWidth] + "..."
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
	// Only new bytes are searched, and the rest is moved once: a plugin may print single bytes, or only
	// line ends.
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

// flush stores a last line without a line end.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		l.to.line(l.source, string(l.rest))
		l.rest = nil
	}
}

// fileName makes a safe file name of s.
func fileName(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == '.' || r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, filepath.Base(s))
}
