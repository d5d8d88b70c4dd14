package tomltext

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDeep(t *testing.T) {
	for text, want := range map[string]bool{
		"a = " + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth):   false,
		"a = " + strings.Repeat("[", MaxDepth+1):                                 true,
		"a = " + strings.Repeat("{b=", MaxDepth+1):                               true,
		strings.Repeat("a = [1]\n[t]\n", 100):                                    false,
		"a = \"" + strings.Repeat("[", 100) + "\"":                               false,
		"a = '''\n" + strings.Repeat("[\n", 100) + "'''":                         false,
		"a = \"\\\"" + strings.Repeat("[", 100) + "\"":                           false,
		"# " + strings.Repeat("[", 100):                                          false,
		"# \"\nb = " + strings.Repeat("[", 100):                                  true,
		"a = \"\nb = " + strings.Repeat("[", 100):                                true,
		"a = \"\"\"\nb = " + strings.Repeat("[", 100):                            true,
		strings.Repeat("a.", MaxDepth) + "b = 1":                                 false,
		strings.Repeat("a.", MaxDepth+1) + "b = 1":                               true,
		"[" + strings.Repeat("a.", MaxDepth+1) + "b]":                            true,
		"a = [" + strings.Repeat("1.5,", 100) + "]":                              false,
		"a = \"\"\"" + strings.Repeat("[", 9) + "\"\"\"\nb = 3":                  false,
		"a = \"\"\"x\"\"y\"\"\"\nb = " + strings.Repeat("[", MaxDepth+1):         true,
		"a = 'it''" + strings.Repeat("[", MaxDepth+1) + "'":                      false,
		"a = \"x\" # '\nb = " + strings.Repeat("[", MaxDepth+1) + "\nc = 'd'":    true,
		"a = '\\'\nb = " + strings.Repeat("[", MaxDepth+1) + " # '":              true,
		"a = \"\\\\\"\nb = " + strings.Repeat("[", MaxDepth+1) + " # \"":         true,
		"a = \"\"\nb = " + strings.Repeat("[", MaxDepth+1) + " # \"":             true,
		"a = ''''''\nb = " + strings.Repeat("[", MaxDepth+1) + " # ''''''":       true,
		"a = \"\"\"\\\"\"\"\"\nb = " + strings.Repeat("[", MaxDepth+1) + " # \"": true,
	} {
		require.Equal(t, want, TooDeep([]byte(text)), text)
	}
}

func TestLocate(t *testing.T) {
	for _, c := range []struct {
		text         string
		offset       int
		line, column int
		excerpt      string
	}{
		{"", 0, 1, 1, "1 | \n  | ^"},
		{"\"\\", 2, 1, 3, "1 | \"\\\n  |   ^"},
		{"a = 1\nbé =\r\nc = 2", 10, 2, 4, "2 | bé =\n  |    ^"},
		{"a = 1\n", 6, 2, 1, "2 | \n  | ^"},
		{"a = 1", 99, 1, 6, "1 | a = 1\n  |      ^"},
		{"a = 1", -1, 1, 1, "1 | a = 1\n  | ^"},
		{"\ta = \x00", 5, 1, 6, "1 | \ta = ?\n  | \t    ^"},
		{strings.Repeat("a", 500), 400, 1, 401,
			"1 | " + strings.Repeat("a", 160) + "\n  | " + strings.Repeat(" ", 80) + "^"},
	} {
		line, column, excerpt := Locate(c.text, c.offset)
		require.Equal(t, []any{c.line, c.column, c.excerpt}, []any{line, column, excerpt}, c.text)
	}
}

func TestExcerpt(t *testing.T) {
	require.Equal(t, "12 | a = 1\n   |     ^", Excerpt(12, "a = 1", 4, 5))
	require.Equal(t, "a = [1]\n    ^^^", Excerpt(0, "a = [1]", 4, 7), "without a line number")
}
