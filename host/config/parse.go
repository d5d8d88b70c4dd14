package config

import (
	"errors"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"github.com/srpo-dev/srpo/host/internal/tomltext"
	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/plugins"
)

// assignment is one given value, not checked yet.
type assignment struct {
	name string
	// value is the decoded value, or the text as typed for --set and flags.
	value any
	typed bool
	// place points at the setting, section at the name of its section or plugin.
	place, section place
}

// check returns the value converted to the type of the setting. For a text that is not one of the choices, the hint
// names the nearest one.
func (a assignment) check(s plugins.Setting) (any, error) {
	v, err := a.convert(s)
	text, isText := a.value.(string)
	if err == nil || !isText || len(s.Choices) == 0 {
		return v, err
	}
	e := plugins.AsError(err)
	if near := nearest.To(strings.Trim(text, `"' `), s.Choices); near != "" {
		return v, e.WithHint("did you mean %q? One of %s", near, strings.Join(s.Choices, ", "))
	}
	return v, e
}

// convert returns the value converted to the type of the setting.
func (a assignment) convert(s plugins.Setting) (any, error) {
	if !a.typed {
		return s.Check(a.value)
	}
	text := a.value.(string)
	if !utf8.ValidString(text) {
		return nil, plugins.Errorf(plugins.Invalid, "setting %q: the value is not UTF-8 text", s.Name)
	}
	trimmed := strings.TrimSpace(text)
	switch s.Default.(type) {
	case string:
		if !strings.HasPrefix(trimmed, `"`) && !strings.HasPrefix(trimmed, "'") {
			return s.Check(text)
		}
	case []string:
		if !strings.HasPrefix(trimmed, "[") {
			return s.Check([]string{text})
		}
	}
	v, ok := value(trimmed)
	if !ok {
		return s.Check(text) // for its error, which names the type
	}
	return s.Check(v)
}

// value decodes one TOML value.
func value(text string) (any, bool) {
	if len(text) > maxFile || tomltext.TooDeep([]byte(text)) {
		return nil, false
	}
	m := map[string]any{}
	if _, err := toml.Decode("v = "+text, &m); err != nil || len(m) != 1 {
		return nil, false
	}
	v, ok := m["v"]
	return v, ok
}

// parse applies a file to c.
func (c *Config) parse(name string, text []byte) error {
	bad := func(format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("%s", name).
			WithHint("give a TOML text file, or none: `srpo run` has defaults")
	}
	switch {
	case len(text) > maxFile:
		return bad("the file has %d bytes, more than %d KiB", len(text), maxFile>>10)
	case strings.ContainsRune(string(text), 0):
		return bad("the file is not text: it contains a zero byte")
	case tomltext.TooDeep(text):
		return bad("brackets or dotted keys nest deeper than %d", tomltext.MaxDepth)
	}
	src := newSource(name, text)
	var root map[string]any
	if _, err := toml.Decode(string(text), &root); err != nil {
		var pe toml.ParseError
		if !errors.As(err, &pe) {
			return bad("%v", err)
		}
		at := src.placeAt(span{pe.Position.Start, pe.Position.Start + max(1, pe.Position.Len)}, span{})
		return at.unknown("%s", pe.Message).WithHint("this is not TOML; write name = value, with texts in quotes")
	}
	var p problems
	for _, top := range sortedKeys(root) {
		c.section(top, root[top], src, &p)
	}
	p.byLine()
	return p.err()
}

// byLine sorts by line; errors without a line come last.
func (p *problems) byLine() {
	sort.SliceStable(p.list, func(i, j int) bool {
		a, b := lineOf(p.list[i].Place), lineOf(p.list[j].Place)
		return a != 0 && (b == 0 || a < b)
	})
}

func lineOf(place string) int {
	parts := strings.Split(place, ":")
	if len(parts) < 3 {
		return 0
	}
	n := 0
	for _, r := range parts[len(parts)-2] {
		if r < '0' || r > '9' || n > maxFile {
			return 0
		}
		n = 10*n + int(r-'0')
	}
	return n
}

// section applies one top-level key of the file.
func (c *Config) section(top string, v any, src *source, p *problems) {
	kind := plugins.Kind(top)
	table, isTable := v.(map[string]any)
	sec := c.find(top)
	switch {
	case sec != nil && !isTable:
		p.add(src.place(top).unknown("%q is a section, not a value", top).
			WithHint("write [%s] on a separate line and the settings below it", top))
	case sec != nil:
		for _, name := range sortedKeys(table) {
			a := assignment{name: name, value: table[name], place: src.place(top, name), section: src.place(top)}
			c.assign(sec, a, p)
		}
	case isKind(kind) && !isTable:
		p.add(src.place(top).unknown("%q is not a setting by itself", top).
			WithHint("choose the %s with %s in [run]; its settings go into [%s.NAME]", top, top, top))
	case isKind(kind):
		for _, plugin := range sortedKeys(table) {
			settings, ok := table[plugin].(map[string]any)
			if !ok {
				p.add(
					src.place(top, plugin).
						unknown("[%s] contains one section per plugin, but %q is a value", top, plugin).
						WithHint("write [%s.NAME] and the settings of the plugin below it", top),
				)
				continue
			}
			for _, name := range sortedKeys(settings) {
				at := src.place(top, plugin, name)
				if !simple(settings[name]) {
					p.add(at.wrap(plugins.Errorf(plugins.Invalid,
						"setting %q must be true or false, a number, a string or a list of strings", name)).
						WithHint("run `srpo plugin list %s` for the settings of the plugin", plugin))
					continue
				}
				c.give(
					kind,
					plugin,
					assignment{name: name, value: settings[name], place: at, section: src.place(top, plugin)},
				)
			}
		}
	default:
		at := src.place(top)
		e := at.unknown("there is no section [%s]", top)
		if !isTable {
			e = at.unknown("%q is not in a section", top)
			if s := c.elsewhere(top, ""); s != "" {
				p.add(e.WithHint("did you mean %q? Write it below [%s]", top, strings.TrimSuffix(s, "."+top)))
				return
			}
		}
		p.add(e.WithHint("%s", didYouMean(top, c.sectionNames(), "sections: ")))
	}
}

// simple reports whether v has a type that a setting can have.
func simple(v any) bool {
	switch v := v.(type) {
	case bool, int64, float64, string:
		return true
	case []any:
		for _, e := range v {
			if _, ok := e.(string); !ok {
				return false
			}
		}
		return true
	}
	return false
}

func isKind(k plugins.Kind) bool {
	for _, o := range plugins.Kinds {
		if k == o {
			return true
		}
	}
	return false
}

func (c *Config) find(name string) *section {
	for i := range c.sections {
		if c.sections[i].Name == name {
			return &c.sections[i]
		}
	}
	return nil
}

func (c *Config) sectionNames() []string {
	var names []string
	for _, s := range c.sections {
		names = append(names, s.Name)
	}
	for _, k := range plugins.Kinds {
		names = append(names, string(k))
	}
	return names
}

// elsewhere returns "section.name" of the first section other than but that has a setting of that name.
func (c *Config) elsewhere(name, but string) string {
	for _, s := range c.sections {
		for _, f := range s.fields {
			if f.Name == name && s.Name != but {
				return s.Name + "." + name
			}
		}
	}
	return ""
}

// assign checks and stores one value of the host.
func (c *Config) assign(sec *section, a assignment, p *problems) {
	names := make([]string, len(sec.fields))
	for i, f := range sec.fields {
		names[i] = f.Name
		if f.Name != a.name {
			continue
		}
		v, err := f.check(a)
		if err != nil {
			p.add(a.place.wrap(err))
			return
		}
		f.store(v)
		c.origins[sec.Name+"."+a.name] = a.place.origin
		c.places[sec.Name+"."+a.name] = a.place
		return
	}
	p.add(a.place.unknownSetting(a.name, sec.Name, names, c.elsewhere(a.name, sec.Name)))
}

func (c *Config) give(kind plugins.Kind, plugin string, a assignment) {
	if c.given[kind] == nil {
		c.given[kind] = map[string][]assignment{}
	}
	c.given[kind][plugin] = append(c.given[kind][plugin], a)
}

// set applies one --set.
func (c *Config) set(text string, p *problems) {
	key, v, ok := strings.Cut(text, "=")
	key = strings.TrimSpace(key)
	base := place{origin: Origin{Layer: "set", Place: "--set"}, prefix: "--set", text: "--set " + oneLine(text)}
	const lead = len("--set ")
	base.key = span{lead, lead + max(1, utf8.RuneCountInString(key))}
	if !ok || key == "" {
		p.add(base.unknown("%q is not name=value", oneLine(text)).
			WithHint("write, for example, --set rollout.group_size=16 or --set policy.tiny.lr=1e-3"))
		return
	}
	from := lead + utf8.RuneCountInString(text[:len(text)-len(v)])
	base.value = span{from, from + max(1, utf8.RuneCountInString(v))}
	c.assignPath(strings.Split(key, "."), v, base, p)
}

// assignPath assigns a typed value to "section.name" or "kind.plugin.name".
func (c *Config) assignPath(path []string, v string, base place, p *problems) {
	// part points at the i-th part of the key.
	part := func(i int) place {
		b := base
		for j := 0; j < i; j++ {
			b.key.start += utf8.RuneCountInString(path[j]) + 1
		}
		b.key.end = b.key.start + max(1, utf8.RuneCountInString(path[i]))
		return b
	}
	kind := plugins.Kind(path[0])
	sec := c.find(path[0])
	switch {
	case sec != nil && len(path) == 2:
		c.assign(sec, assignment{name: path[1], value: v, typed: true, place: part(1), section: part(0)}, p)
	case sec != nil:
		p.add(
			base.unknown("%q is not a setting", strings.Join(path, ".")).
				WithHint("write %s.NAME for a setting of this section", path[0]),
		)
	case isKind(kind) && len(path) == 3 && path[1] != "" && path[2] != "":
		c.give(kind, path[1], assignment{name: path[2], value: v, typed: true, place: part(2), section: part(1)})
	case isKind(kind):
		p.add(base.unknown("%q is not a setting", strings.Join(path, ".")).
			WithHint(
				"write %s.PLUGIN.NAME for a setting of a plugin; run.%s chooses the %s", path[0], path[0], path[0],
			),
		)
	default:
		e := part(0).unknown("there is no section %q", path[0])
		if len(path) == 1 {
			if s := c.elsewhere(path[0], ""); s != "" {
				p.add(e.WithHint("did you mean %q?", s))
				return
			}
		}
		p.add(e.WithHint("%s", didYouMean(path[0], c.sectionNames(), "sections: ")))
	}
}

// flag applies one flag. lists records which list settings a flag has replaced.
func (c *Config) flag(f Flag, lists map[string]bool, p *problems) {
	section, name, _ := strings.Cut(f.Key, ".")
	sec := c.find(section)
	at := place{origin: Origin{Layer: "flag", Place: f.Name}, prefix: f.Name, text: f.Name + " " + oneLine(f.Value)}
	from := utf8.RuneCountInString(f.Name) + 1
	at.key = span{0, from - 1}
	at.value = span{from, from + max(1, utf8.RuneCountInString(oneLine(f.Value)))}
	if sec == nil {
		p.add(plugins.Errorf(plugins.Internal, "flag %s stands for %q, which is not a setting", f.Name, f.Key))
		return
	}
	for _, fl := range sec.fields {
		if at, ok := fl.at.(*[]string); ok && fl.Name == name {
			// the first flag replaces the list of the file and --set; further ones add to it
			if lists[f.Key] {
				*at = append(*at, f.Value)
				return
			}
			lists[f.Key] = true
		}
	}
	c.assign(sec, assignment{name: name, value: f.Value, typed: true, place: at, section: at}, p)
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, s)
}
