package config

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/plugins"
)

// place is where a value was given: a line of the file, a --set or a flag.
type place struct {
	origin Origin
	// prefix is the file's name, "--set" or the flag; number is the line, 0 where there is none.
	prefix string
	number int
	// text is the line; key and value are columns of runes in it, from 0, empty when unknown.
	text       string
	key, value span
}

func (p place) at(columns span) string {
	if p.number == 0 {
		return p.prefix
	}
	return fmt.Sprintf("%s:%d:%d", p.prefix, p.number, columns.start+1)
}

// show prints the line with a caret under the columns.
func (p place) show(columns span) string {
	if p.text == "" || columns == (span{}) {
		return ""
	}
	gutter := ""
	if p.number > 0 {
		gutter = fmt.Sprintf("%d | ", p.number)
	}
	runes := []rune(p.text)
	const width = 160
	from := 0
	if len(runes) > width { // A long line is shown around the caret.
		from = max(0, min(columns.start-width/2, len(runes)-width))
		runes = runes[from:min(len(runes), from+width)]
	}
	var line, under strings.Builder
	for i, r := range runes {
		if !unicode.IsPrint(r) && r != '\t' {
			r = '?'
		}
		line.WriteRune(r)
		switch col := i + from; {
		case col >= columns.start && col < columns.end:
			under.WriteByte('^')
		case col >= columns.end:
		case r == '\t':
			under.WriteByte('\t')
		default:
			under.WriteByte(' ')
		}
	}
	if columns.start >= from+len(runes) {
		under.WriteByte('^')
	}
	pad := strings.Repeat(" ", max(0, len(gutter)-2))
	if gutter != "" {
		pad += "| "
	}
	return gutter + line.String() + "\n" + pad + under.String()
}

// unknown makes an error that points at the key.
func (p place) unknown(format string, args ...any) *plugins.Error {
	return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("%s", p.at(p.key)).WithDetail(p.show(p.key))
}

// wrap makes an error about the value point at it.
func (p place) wrap(err error) *plugins.Error {
	columns := p.value
	if columns == (span{}) {
		columns = p.key
	}
	return plugins.AsError(err).WithPlace("%s", p.at(columns)).WithDetail(p.show(columns))
}

// unknownSetting is the error for a name that section does not have; elsewhere names a setting of that name in another section, if any.
func (p place) unknownSetting(name, section string, known []string, elsewhere string) *plugins.Error {
	e := p.unknown("there is no setting %q in [%s]", name, section)
	if elsewhere != "" && nearest.To(name, known) == "" {
		return e.WithHint("did you mean %q?", elsewhere)
	}
	return e.WithHint("%s", didYouMean(name, known, "known: "))
}

func didYouMean(name string, known []string, list string) string {
	if n := nearest.To(name, known); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	if len(known) == 0 {
		return list + "none"
	}
	return list + strings.Join(known, ", ")
}
