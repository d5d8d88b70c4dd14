// Package tomltext examines TOML text around its decoding. Before: the recursion of the decoder has no
// bound, and a key of many parts costs it quadratic time. After: it shows the place of an error, as the
// decoder's own line is 0 for some texts that end too early, and its excerpt then panics.
package tomltext

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxDepth is how deep brackets may nest, and how many dots a key may have. No file of srpo or a plugin
// comes near it.
const MaxDepth = 64

// TooDeep reports whether brackets nest deeper than [MaxDepth], or a key has more dots. The content of
// comments and strings does not count. The content of a string without an end does, so that a wrong guess
// about its end hides nothing.
func TooDeep(text []byte) bool {
	depth, dots := 0, 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '#':
			for i+1 < len(text) && text[i+1] != '\n' {
				i++
			}
		case '"', '\'':
			i = stringEnd(text, i)
		case '[', '{':
			dots = 0
			if depth++; depth > MaxDepth {
				return true
			}
		case ']', '}':
			dots, depth = 0, max(0, depth-1)
		case '.':
			if dots++; dots > MaxDepth {
				return true
			}
		case '\n', ',', '=':
			dots = 0
		}
	}
	return false
}

// stringEnd returns the index of the last byte of the string that starts at i, or i when the string has no
// end.
func stringEnd(text []byte, i int) int {
	quote := text[i]
	closing, width := 0, 1
	if i+2 < len(text) && text[i+1] == quote && text[i+2] == quote {
		width = 3
	}
	for j := i + width; j < len(text); j++ {
		switch {
		case text[j] == '\\' && quote == '"':
			j++
			closing = 0
		case text[j] == quote:
			if closing++; closing == width {
				return j
			}
		case text[j] == '\n' && width == 1:
			return i
		default:
			closing = 0
		}
	}
	return i
}

// Locate returns the line and the column, from 1 and in runes, of a byte of text, and an [Excerpt] that
// points at it. An offset outside of text counts as its nearest end.
func Locate(text string, offset int) (line, column int, excerpt string) {
	offset = min(max(offset, 0), len(text))
	from := strings.LastIndexByte(text[:offset], '\n') + 1
	line, column = 1+strings.Count(text[:from], "\n"), 1+utf8.RuneCountInString(text[from:offset])
	shown, _, _ := strings.Cut(text[from:], "\n")
	return line, column, Excerpt(line, strings.TrimRight(shown, "\r"), column-1, column)
}

// maxWidth is the number of runes of a line that [Excerpt] shows.
const maxWidth = 160

// Excerpt prints a line of a file, with carets below the columns start to end-1, in runes from 0. number is
// the line's number, 0 for a text that is no line of a file. A long line is cut to the part around the
// carets.
func Excerpt(number int, line string, start, end int) string {
	gutter, pad := "", ""
	if number > 0 {
		gutter = fmt.Sprintf("%d | ", number)
		pad = strings.Repeat(" ", len(gutter)-2) + "| "
	}
	runes, from := []rune(line), 0
	if len(runes) > maxWidth {
		from = max(0, min(start-maxWidth/2, len(runes)-maxWidth))
		runes = runes[from : from+maxWidth]
	}
	var shown, carets strings.Builder
	for i, r := range runes {
		if !unicode.IsPrint(r) && r != '\t' {
			r = '?'
		}
		shown.WriteRune(r)
		switch column := i + from; {
		case column >= start && column < end:
			carets.WriteByte('^')
		case column >= end:
		case r == '\t':
			carets.WriteByte('\t')
		default:
			carets.WriteByte(' ')
		}
	}
	if start >= from+len(runes) {
		carets.WriteByte('^')
	}
	return gutter + shown.String() + "\n" + pad + carets.String()
}
