package config

import (
	"fmt"
	"strings"

	"github.com/srpo-dev/srpo/host/internal/tomltext"
	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/plugins"
)

// place locates a value: a line of the file, a --set or a flag.
type place struct {
	origin Origin
	// prefix is the name of the file, "--set" or the flag; number is the line, or 0.
	prefix string
	number int
	// text is the line; key and value are columns of runes in it, from 0, or empty if unknown.
	text       string
	key, value span
}

func (p place) at(columns span) string {
	if p.number == 0 {
		return p.prefix
	}
	return fmt.Sprintf("%s:%d:%d", p.prefix, p.number, columns.start+1)
}

// show prints the line with carets under the columns.
func (p place) show(columns span) string {
	if p.text == "" || columns == (span{}) {
		return ""
	}
	return tomltext.Excerpt(p.number, p.text, columns.start, columns.end)
}

// unknown returns an error that points at the key.
func (p place) unknown(format string, args ...any) *plugins.Error {
	return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("%s", p.at(p.key)).WithDetail(p.show(p.key))
}

// wrap makes an error point at the value.
func (p place) wrap(err error) *plugins.Error {
	columns := p.value
	if columns == (span{}) {
		columns = p.key
	}
	return plugins.AsError(err).WithPlace("%s", p.at(columns)).WithDetail(p.show(columns))
}

// unknownSetting returns the error for a name that section does not have. elsewhere is a setting of that name in
// another section, or empty.
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
