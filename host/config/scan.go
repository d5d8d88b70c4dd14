package config

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// span is a range of bytes of the file.
type span struct{ start, end int }

// entry is a key of the file: the parts of its full path, the last place of each part, and its value (empty for a table
// header).
type entry struct {
	path  []string
	parts []span
	value span
}

// scanAll finds the position of every key of a TOML text. The decoder reports positions of syntax errors only, and a
// user needs the line of a wrong value too. The text has passed the decoder and [tomltext.TooDeep]. The scan ends at
// anything that it does not recognise; keys after that have no position.
func scanAll(text []byte) *scanner {
	s := &scanner{text: text}
	if bytes.HasPrefix(text, []byte("\xef\xbb\xbf")) {
		s.at = 3
	}
	var table []string
	var tableParts []span
	for s.skipBlank(); s.at < len(s.text); s.skipBlank() {
		if s.text[s.at] == '[' {
			for s.at < len(s.text) && s.text[s.at] == '[' {
				s.at++
			}
			path, parts, ok := s.key()
			if !ok {
				return s
			}
			table, tableParts = path, parts
			s.entries = append(s.entries, entry{path: path, parts: parts})
			for s.at < len(s.text) && s.text[s.at] == ']' {
				s.at++
			}
			continue
		}
		if !s.pair(table, tableParts) {
			return s
		}
	}
	return s
}

type scanner struct {
	text    []byte
	at      int
	entries []entry
}

func (s *scanner) peek(prefix string) bool { return bytes.HasPrefix(s.text[s.at:], []byte(prefix)) }

// skipSpace skips blanks within the line.
func (s *scanner) skipSpace() {
	for s.at < len(s.text) && (s.text[s.at] == ' ' || s.text[s.at] == '\t') {
		s.at++
	}
}

// skipBlank skips blanks, line ends and comments.
func (s *scanner) skipBlank() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		case '#':
			for s.at < len(s.text) && s.text[s.at] != '\n' {
				s.at++
			}
		default:
			return
		}
	}
}

// pair reads key = value.
func (s *scanner) pair(table []string, tableParts []span) bool {
	path, parts, ok := s.key()
	if !ok || s.at >= len(s.text) || s.text[s.at] != '=' {
		return false
	}
	s.at++
	s.skipSpace()
	e := entry{
		path:  append(append([]string(nil), table...), path...),
		parts: append(append([]span(nil), tableParts...), parts...),
	}
	start, i := s.at, len(s.entries)
	s.entries = append(s.entries, e)
	if !s.value(e.path, e.parts) {
		return false
	}
	s.entries[i].value = span{start, s.at}
	return true
}

// key reads a dotted key and the blanks after it.
func (s *scanner) key() (path []string, parts []span, ok bool) {
	for {
		s.skipSpace()
		start := s.at
		if s.at >= len(s.text) {
			return nil, nil, false
		}
		var part string
		if q := s.text[s.at]; q == '"' || q == '\'' {
			if !s.quoted() {
				return nil, nil, false
			}
			part = unquote(s.text[start:s.at])
		} else {
			for s.at < len(s.text) && bare(s.text[s.at]) {
				s.at++
			}
			if s.at == start {
				return nil, nil, false
			}
			part = string(s.text[start:s.at])
		}
		path, parts = append(path, part), append(parts, span{start, s.at})
		s.skipSpace()
		if s.at >= len(s.text) || s.text[s.at] != '.' {
			return path, parts, true
		}
		s.at++
	}
}

func bare(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '_' || b == '-' || b >= 0x80
}

// unquote decodes a quoted key with the rules of the decoder.
func unquote(quoted []byte) string {
	var v struct{ K string }
	if _, err := toml.Decode("K = "+string(quoted), &v); err != nil {
		return string(quoted)
	}
	return v.K
}

// quoted skips a string in any of the four forms.
func (s *scanner) quoted() bool {
	q := s.text[s.at]
	triple := strings.Repeat(string(q), 3)
	if s.peek(triple) {
		for s.at += 3; s.at < len(s.text); s.at++ {
			if q == '"' && s.text[s.at] == '\\' {
				s.at++
				continue
			}
			if s.peek(triple) {
				s.at += 3
				// Up to two more quotes belong to the string.
				for i := 0; i < 2 && s.at < len(s.text) && s.text[s.at] == q; i++ {
					s.at++
				}
				return true
			}
		}
		return false
	}
	for s.at++; s.at < len(s.text); s.at++ {
		switch {
		case q == '"' && s.text[s.at] == '\\':
			s.at++
		case s.text[s.at] == '\n':
			return false
		case s.text[s.at] == q:
			s.at++
			return true
		}
	}
	return false
}

// value skips a value and records the keys of inline tables.
func (s *scanner) value(path []string, parts []span) bool {
	if s.at >= len(s.text) {
		return false
	}
	switch s.text[s.at] {
	case '"', '\'':
		return s.quoted()
	case '[', '{':
		table, end := s.text[s.at] == '{', byte(']')
		if table {
			end = '}'
		}
		for s.at++; ; {
			s.skipBlank()
			if s.at >= len(s.text) {
				return false
			}
			switch {
			case s.text[s.at] == end:
				s.at++
				return true
			case s.text[s.at] == ',':
				s.at++
			case table:
				if !s.pair(path, parts) {
					return false
				}
			default:
				if !s.value(path, parts) {
					return false
				}
			}
		}
	}
	start := s.at
	for s.at < len(s.text) && !strings.ContainsRune(",]}#\n\r", rune(s.text[s.at])) {
		s.at++
	}
	for s.at > start && (s.text[s.at-1] == ' ' || s.text[s.at-1] == '\t') {
		s.at--
	}
	return s.at > start
}

// source is the text of a file, for the lines that errors show.
type source struct {
	name string
	text []byte
	// at maps a path, its parts joined by NUL, to its key; parents does so for every prefix of a path.
	at      map[string]entry
	parents map[string]span
}

func newSource(name string, text []byte) *source {
	s := &source{name: name, text: text, at: map[string]entry{}, parents: map[string]span{}}
	for _, e := range scanAll(text).entries {
		full := strings.Join(e.path, "\x00")
		if old, seen := s.at[full]; !seen || old.value == (span{}) {
			s.at[full] = e
		}
		for i := range e.path {
			k := strings.Join(e.path[:i+1], "\x00")
			if _, seen := s.parents[k]; !seen {
				s.parents[k] = e.parts[i]
			}
		}
	}
	return s
}

// line returns the number (from 1) and the text of the line that contains the byte, and the column of the byte (from
// 0, in bytes).
func (s *source) line(at int) (number int, text string, column int) {
	at = min(max(at, 0), len(s.text))
	start := bytes.LastIndexByte(s.text[:at], '\n') + 1
	end := len(s.text)
	if i := bytes.IndexByte(s.text[start:], '\n'); i >= 0 {
		end = start + i
	}
	if start == 0 && bytes.HasPrefix(s.text, []byte("\xef\xbb\xbf")) {
		start = min(3, len(s.text))
	}
	text = strings.TrimSuffix(string(s.text[start:end]), "\r")
	return bytes.Count(s.text[:start], []byte("\n")) + 1, text, min(max(at-start, 0), len(text))
}

// place returns the place of a key. path may be a prefix of a path.
func (s *source) place(path ...string) place {
	k := strings.Join(path, "\x00")
	key, ok := s.parents[k]
	e := s.at[k]
	if len(e.parts) > 0 {
		key, ok = e.parts[len(e.parts)-1], true
	}
	if !ok {
		return place{origin: Origin{Layer: "file", Place: s.name}, prefix: s.name}
	}
	return s.placeAt(key, e.value)
}

func (s *source) placeAt(key, value span) place {
	number, text, _ := s.line(key.start)
	p := place{origin: Origin{Layer: "file"}, prefix: s.name, number: number, text: text, key: s.columns(key)}
	if value != (span{}) {
		if n, _, _ := s.line(value.start); n == number {
			p.value = s.columns(value)
		}
	}
	p.origin.Place = p.at(p.key)
	return p
}

// columns converts a span to columns of runes on its first line.
func (s *source) columns(sp span) span {
	_, text, from := s.line(sp.start)
	to := min(from+sp.end-sp.start, len(text))
	a := utf8.RuneCountInString(text[:from])
	return span{a, a + max(1, utf8.RuneCountInString(text[from:max(from, to)]))}
}
