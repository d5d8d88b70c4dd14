package config

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/srpo-dev/srpo/plugins"
)

// Write prints the configuration as a commented srpo.toml that loads to the same values. A value that is not the
// default has a comment with its origin. Plugins that were not resolved keep the values given to them.
func (c *Config) Write(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# srpo.toml: flags override --set, which overrides this file, which overrides the defaults.\n")
	for _, s := range c.sections {
		b.WriteString("\n")
		comment(&b, s.Doc)
		fmt.Fprintf(&b, "[%s]\n", s.Name)
		for _, f := range s.fields {
			allowed := f.bounds()
			if f.Max != nil && *f.Max >= many { // a bound against typos tells the reader nothing
				allowed = ""
				if f.Min != nil {
					allowed = fmt.Sprintf("%v or more", *f.Min)
				}
			}
			writeSetting(&b, f.Setting, f.load(), allowed, c.origins[s.Name+"."+f.Name])
		}
	}
	b.WriteString("\n")
	comment(&b, "Below: settings of plugins, one section per plugin, as in [policy.tiny]. "+
		"`srpo plugin list NAME` prints the settings of a plugin.")
	for _, kind := range plugins.Kinds {
		names := sortedKeys(c.given[kind])
		for _, name := range sortedKeys(c.resolved[kind]) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		for _, name := range names {
			section := string(kind) + "." + name
			r, ok := c.resolved[kind][name]
			if ok && len(r.declared) == 0 {
				continue
			}
			fmt.Fprintf(&b, "\n[%s.%s]\n", kind, key(name))
			for _, d := range r.declared {
				writeSetting(&b, d, r.settings[d.Name], field{Setting: d}.bounds(), c.origins[section+"."+d.Name])
			}
			if !ok {
				writeGiven(&b, c.given[kind][name])
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeSetting(b *strings.Builder, s plugins.Setting, v any, allowed string, from Origin) {
	doc := s.Doc
	if len(s.Choices) > 0 {
		doc = strings.TrimSpace(doc + " One of: " + strings.Join(s.Choices, ", ") + ".")
	} else if allowed != "" {
		doc = strings.TrimSpace(doc + " (" + allowed + ")")
	}
	comment(b, doc)
	fmt.Fprintf(b, "%s = %s", key(s.Name), literal(v))
	if from.Layer != "default" && from.Layer != "" {
		fmt.Fprintf(b, "  # from %s", strings.Map(printable, from.Place))
	}
	b.WriteString("\n")
}

// writeGiven prints values of undeclared type; the last value of a name counts.
func writeGiven(b *strings.Builder, given []assignment) {
	last := map[string]any{}
	for _, a := range given {
		v := a.value
		if a.typed {
			text := strings.TrimSpace(v.(string))
			if decoded, ok := value(text); ok && simple(decoded) {
				v = decoded
			} else {
				v = strings.ToValidUTF8(text, "\uFFFD")
			}
		}
		last[a.name] = v
	}
	for _, name := range sortedKeys(last) {
		fmt.Fprintf(b, "%s = %s\n", key(name), literal(last[name]))
	}
}

// comment writes a text as comment lines of at most 120 characters.
func comment(b *strings.Builder, text string) {
	line := "#"
	for _, word := range strings.Fields(strings.Map(printable, text)) {
		if len(line)+1+len(word) > 120 && line != "#" {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	if line != "#" {
		b.WriteString(line + "\n")
	}
}

// printable replaces characters that a TOML comment must not contain.
func printable(r rune) rune {
	if r < 0x20 || r == 0x7f || r == utf8.RuneError {
		return ' '
	}
	return r
}

// key quotes a name if it needs quotes.
func key(name string) string {
	for i := 0; i < len(name); i++ {
		if !bare(name[i]) || name[i] >= 0x80 {
			return literal(name)
		}
	}
	if name == "" {
		return `""`
	}
	return name
}

// literal returns v as a TOML value.
func literal(v any) string {
	switch v := v.(type) {
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		switch {
		case math.IsNaN(v):
			return "nan"
		case math.IsInf(v, 1):
			return "inf"
		case math.IsInf(v, -1):
			return "-inf"
		}
		s := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(s, ".e") {
			s += ".0"
		}
		return s
	case string:
		var b strings.Builder
		b.WriteByte('"')
		for _, r := range v {
			switch {
			case r == '"' || r == '\\':
				b.WriteByte('\\')
				b.WriteRune(r)
			case r == '\n':
				b.WriteString(`\n`)
			case r == '\t':
				b.WriteString(`\t`)
			case r < 0x20 || r == 0x7f:
				fmt.Fprintf(&b, `\u%04X`, r)
			default:
				b.WriteRune(r)
			}
		}
		b.WriteByte('"')
		return b.String()
	case []string:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = literal(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = literal(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return `""`
}
