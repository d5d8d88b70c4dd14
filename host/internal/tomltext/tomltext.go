// Package tomltext looks at TOML around its decoding. Before: the decoder's recursion has no bound, and on a key of many parts it spends quadratic time.
// After: the decoder's own line of an error is 0 for some texts that end too early, and its excerpt then panics.
package tomltext

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxDepth is how deep brackets may nest, and how many dots a key may have; no file of srpo's or a plugin's comes near it.
const MaxDepth = 64

// TooDeep says whether brackets nest deeper than [MaxDepth], or a key has more parts. What is in comments and texts does not count; a text without its end
// does, so that a wrong guess about where it ends hides nothing.
func TooDeep(text []byte) bool {
	depth, dots := 0, 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '#':
			for i+1 < len(text) && text[i+1] != '\n' {
				i++
			}
		case '"', '\'':
			i = end(text, i)
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

// end gives the last byte of the text that begins at i; i itself when it has no end.
func end(text []byte, i int) int {
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

// maxExcerpt bounds the line that [Locate] shows, in bytes.
const maxExcerpt = 200

// Locate gives the line and the column, from 1 and in runes, of a byte of text that the decoder complained about, and that line with a mark below the column; of a very long
// line the excerpt has the beginning alone. An offset outside of text counts as its nearest end.
func Locate(text string, offset int) (line, column int, excerpt string) {
	offset = min(max(offset, 0), len(text))
	from := strings.LastIndexByte(text[:offset], '\n') + 1
	line, column = 1+strings.Count(text[:from], "\n"), 1+utf8.RuneCountInString(text[from:offset])
	shown, _, _ := strings.Cut(text[from:], "\n")
	if len(shown) > maxExcerpt {
		shown = shown[:maxExcerpt]
	}
	excerpt = fmt.Sprintf("%6d | %s", line, strings.ToValidUTF8(strings.ReplaceAll(strings.TrimRight(shown, "\r"), "\t", " "), "?"))
	if column <= utf8.RuneCountInString(shown)+1 {
		excerpt += "\n" + strings.Repeat(" ", len("      | ")+column) + "^"
	}
	return line, column, excerpt
}
