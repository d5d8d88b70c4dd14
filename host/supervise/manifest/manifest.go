// Package manifest reads plugin.toml, the description of a plugin package.
package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/host/internal/tomltext"
	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
)

// FileName is the manifest's name in a package's folder.
const FileName = "plugin.toml"

// maxFile is the largest manifest, in bytes.
const maxFile = 1 << 20

// Manifest describes a package and how to run it: with [Python], with [Command], or with a [Command] that
// uses the environment that [Python] describes.
type Manifest struct {
	Name    string       `toml:"name"`
	Kind    plugins.Kind `toml:"kind"`
	Version string       `toml:"version"`
	// Protocol is the protocol version of the plugin.
	Protocol int `toml:"protocol"`
	// Doc is one sentence for `srpo plugin list`.
	Doc     string   `toml:"doc"`
	Python  *Python  `toml:"python"`
	Command *Command `toml:"command"`
	System  []System `toml:"system"`
	// Env are variables of the plugin's process. "{package}" stands for the package's folder, "{cache}" for
	// a folder of the package in srpo's cache, "{venv}" for its Python environment and "{made}" for the
	// files of [Python.PostInstall].
	Env map[string]string `toml:"env"`
	// Settings are the names of all settings of the plugin, so that a misspelt one is found before anything
	// is installed. nil: only the plugin knows them.
	Settings []string `toml:"settings"`
	// Needs are the settings without which the plugin cannot start, each with instructions for the user. A
	// missing one is reported before anything is installed.
	Needs map[string]string `toml:"needs"`
}

// Python describes the Python environment of a package and, without a [Command], the program that runs in it.
type Python struct {
	// Version is the required version: "3.11" (any 3.11), "3.11.7", or bounds such as ">=3.10,<3.13".
	Version string `toml:"version"`
	// Requirements is a list with hashes, relative to the package; default requirements.txt.
	Requirements string `toml:"requirements"`
	// NoDeps installs the listed distributions without their dependencies.
	NoDeps bool `toml:"no_deps"`
	// Entry is the program, relative to the package; default plugin.py. Not used with a [Command].
	Entry string `toml:"entry"`
	// PostInstall is a program of the package that runs once in the new environment, with a folder as its
	// only argument, for files that cannot be downloaded ready to use. It is one file and imports no other
	// file of the package. The files that it writes belong to the environment.
	PostInstall string `toml:"post_install"`
	// DownloadMB and DiskMB are the sizes of the environment, in 10^6 bytes, for the user.
	DownloadMB float64 `toml:"download_mb"`
	DiskMB     float64 `toml:"disk_mb"`
	// GPU replaces the list above on a machine with an NVIDIA driver. May be nil.
	GPU *PythonGPU `toml:"gpu"`

	Requirement pyenv.Requirement `toml:"-"`
}

// PythonGPU is the list of requirements for machines with an NVIDIA driver.
type PythonGPU struct {
	// Requirements is a list with hashes, relative to the package.
	Requirements string  `toml:"requirements"`
	DownloadMB   float64 `toml:"download_mb"`
	DiskMB       float64 `toml:"disk_mb"`
}

// Command describes the program of a package.
type Command struct {
	// Exec is the program, relative to the package ("./my-plugin"), and its arguments. The program [Self]
	// is srpo's own, for packages inside srpo only.
	Exec []string `toml:"exec"`
	// Build builds the program from source, in the package's folder. The argument that names the program is
	// replaced by a path in srpo's cache, so the package itself never changes.
	Build []string `toml:"build"`
}

// Self stands for srpo's own program as a package's command.
const Self = "{srpo}"

// System is a shared library that must be installed on the machine.
type System struct {
	// Library is a soname, e.g. "libEGL.so.1".
	Library string `toml:"library"`
	// Apt is the Debian and Ubuntu package with the library, for the error's hint.
	Apt string `toml:"apt"`
}

var (
	goodName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	goodEnv  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Load reads and checks the manifest of the package in fsys. place is the name of its folder in errors.
func Load(fsys fs.FS, place string) (*Manifest, error) {
	file := filepath.Join(place, FileName)
	data, err := bounded.ReadFS(fsys, FileName, maxFile)
	if errors.Is(err, bounded.ErrTooLarge) {
		return nil, plugins.Errorf(plugins.Invalid, "the manifest is too large: %w", err).
			WithPlace("%s", file).
			WithHint("shorten it")
	}
	if err != nil {
		return nil, plugins.Errorf(plugins.NotFound, "no plugin package in %s: %w", place, err).
			WithHint("give a folder with a %s, or make one: srpo plugin init", FileName)
	}
	if tomltext.TooDeep(data) {
		return nil, plugins.Errorf(plugins.Invalid, "brackets or dotted keys nest deeper than %d", tomltext.MaxDepth).
			WithPlace("%s", file).
			WithHint("correct the file")
	}
	m := &Manifest{}
	md, err := toml.Decode(string(data), m)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			message := pe.Message
			if pe.LastKey != "" {
				message = pe.LastKey + ": " + message
			}
			line, column, excerpt := tomltext.Locate(string(data), pe.Position.Start)
			return nil, plugins.Errorf(plugins.Invalid, "%s", message).
				WithPlace("%s:%d:%d", file, line, column).
				WithHint("correct the line").
				WithDetail(excerpt)
		}
		return nil, wrongType(err, file)
	}
	c := checker{fsys: fsys, file: file, text: string(data)}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		return nil, c.unknown(unknown[0])
	}
	if err := c.check(m, md); err != nil {
		return nil, err
	}
	return m, nil
}

// typeError matches the message of the TOML package for a value of the wrong type. There is no error type
// for it.
var typeError = regexp.MustCompile(
	`^toml: (?:line (\d+) )?\(last key "(.*?)"\): incompatible types: TOML value has type (\w+); destination has ` +
		`type (\w+)`,
)

func wrongType(err error, file string) error {
	m := typeError.FindStringSubmatch(err.Error())
	if m == nil {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", file).WithHint("correct the file")
	}
	names := strings.NewReplacer(
		"int64",
		"whole number",
		"integer",
		"whole number",
		"float64",
		"number",
		"float",
		"number",
		"slice",
		"list",
		"map",
		"table",
	)
	e := plugins.Errorf(plugins.Invalid, "%s wants a %s, got a %s", m[2], names.Replace(m[4]), names.Replace(m[3])).
		WithHint("correct the value")
	if m[4] == "string" {
		e = e.WithHint("put the value in quotes")
	}
	if m[1] != "" {
		file += ":" + m[1]
	}
	return e.WithPlace("%s", file)
}

type checker struct {
	fsys       fs.FS
	file, text string
}

// at returns an error with the line of a key as its place.
func (c checker) at(key, format string, args ...any) *plugins.Error {
	e := plugins.Errorf(plugins.Invalid, format, args...)
	if line := c.line(key); line > 0 {
		return e.WithPlace("%s:%d", c.file, line)
	}
	return e.WithPlace("%s", c.file)
}

// line returns the line of a key such as "python.version", or of its table; 0: not found.
func (c checker) line(key string) int {
	table, found := "", 0
	for i, l := range strings.Split(c.text, "\n") {
		l = strings.TrimSpace(l)
		switch {
		case strings.HasPrefix(l, "["):
			name, _, _ := strings.Cut(strings.Trim(l, "["), "]")
			table = clean(name) + "."
			if clean(name) == key && found == 0 {
				found = i + 1
			}
		case strings.Contains(l, "="):
			name, _, _ := strings.Cut(l, "=")
			if table+clean(name) == key {
				return i + 1
			}
		}
	}
	return found
}

// clean removes blanks and quotes from a dotted key.
func clean(key string) string {
	return strings.NewReplacer(" ", "", "\t", "", `"`, "", "'", "").Replace(key)
}

// keys are the valid keys by table.
var keys = map[string][]string{
	"": {
		"name",
		"kind",
		"version",
		"protocol",
		"doc",
		"python",
		"command",
		"system",
		"env",
		"settings",
		"needs",
	},
	"python":     {"version", "requirements", "no_deps", "entry", "post_install", "download_mb", "disk_mb", "gpu"},
	"python.gpu": {"requirements", "download_mb", "disk_mb"},
	"command":    {"exec", "build"},
	"system":     {"library", "apt"},
}

func (c checker) unknown(key toml.Key) error {
	table := strings.Join(key[:len(key)-1], ".")
	e := c.at(key.String(), "unknown key %s", key)
	known := keys[table]
	if near := nearest.To(key[len(key)-1], known); near != "" {
		return e.WithHint("did you mean %q?", near)
	}
	return e.WithHint("known: %s", strings.Join(known, ", "))
}

func (c checker) check(m *Manifest, md toml.MetaData) error {
	if err := c.identity(m, md); err != nil {
		return err
	}
	if m.Python == nil && m.Command == nil {
		return c.at("name", "the package has neither [python] nor [command]").
			WithHint("write [python] for a Python program, [command] for any other")
	}
	if m.Python != nil {
		if err := c.python(m.Python, m.Command != nil); err != nil {
			return err
		}
	}
	if m.Command != nil {
		if err := c.command(m.Command); err != nil {
			return err
		}
	}
	for name, instructions := range m.Needs {
		switch {
		case !slices.Contains(m.Settings, name):
			return c.at("needs."+name, "%q is not one of the plugin's settings", name).WithHint("add it to settings")
		case instructions == "":
			return c.at("needs."+name, "no instructions for %s", name).
				WithHint("say where the user gets it, and how to set it")
		}
	}
	for i, s := range m.System {
		if s.Library == "" || strings.ContainsAny(s.Library, "/ ") {
			return c.at("system", "library %q of [[system]] %d", s.Library, i+1).
				WithHint(`give the name that programs load, e.g. "libEGL.so.1"`)
		}
	}
	return c.env(m)
}

// identity checks name, kind, version and protocol.
func (c checker) identity(m *Manifest, md toml.MetaData) error {
	switch {
	case !goodName.MatchString(m.Name):
		return c.at("name", "name %q", m.Name).WithHint("a name has up to 64 lower-case letters, digits, - and _")
	case !slices.Contains(plugins.Kinds, m.Kind):
		names := []string{string(plugins.Env), string(plugins.Policy), string(plugins.Encoder)}
		e := c.at("kind", "kind %q", m.Kind)
		if near := nearest.To(string(m.Kind), names); near != "" {
			return e.WithHint("did you mean %q?", near)
		}
		return e.WithHint("one of %s", strings.Join(names, ", "))
	case m.Version == "" || strings.ContainsAny(m.Version, " \t\n"):
		return c.at("version", "version %q", m.Version).WithHint(`give a version such as "0.1.0"`)
	case !md.IsDefined("protocol"):
		return c.at("protocol", "no protocol").WithHint("write protocol = %d", plugins.Protocol)
	case m.Protocol != plugins.Protocol:
		const message = "%s %s uses protocol version %d, this srpo uses %d"
		e := c.at("protocol", message, m.Kind, m.Name, m.Protocol, plugins.Protocol)
		e.Kind = plugins.Mismatch
		if m.Protocol > plugins.Protocol {
			return e.WithHint("upgrade srpo, or use an older version of the plugin")
		}
		return e.WithHint("use a newer version of the plugin")
	}
	return nil
}

// env checks the variables of the process.
func (c checker) env(m *Manifest) error {
	for name, value := range m.Env {
		if !goodEnv.MatchString(name) || strings.HasPrefix(name, "SRPO_") || strings.HasPrefix(name, "PLUGIN_") {
			return c.at("env."+name, "environment variable %q", name).
				WithHint("use letters, digits and _; names that begin with SRPO_ or PLUGIN_ are reserved for the host")
		}
		if strings.Contains(value, "{venv}") && m.Python == nil {
			return c.at("env."+name, "{venv} in a package without [python]").WithHint("remove it, or add [python]")
		}
		if strings.Contains(value, "{made}") && (m.Python == nil || m.Python.PostInstall == "") {
			return c.at("env."+name, "{made} in a package without post_install").
				WithHint("remove it, or add post_install to [python]")
		}
	}
	return nil
}

func (c checker) python(p *Python, command bool) (err error) {
	if p.Version == "" {
		return c.at("python", "[python] has no version").WithHint(`write version = "3.11", or ">=3.10"`)
	}
	if p.Requirement, err = pyenv.ParseRequirement(p.Version); err != nil {
		e := plugins.AsError(err)
		return c.at("python.version", "%s", e.Message).WithHint("%s", e.Hint)
	}
	if p.Requirements == "" {
		p.Requirements = "requirements.txt"
	}
	if command && p.Entry != "" {
		return c.at("python.entry", "both an entry and a [command]").
			WithHint("remove one of them; with [command], the program finds the environment of [python] in VIRTUAL_ENV")
	}
	if !command && p.Entry == "" {
		p.Entry = "plugin.py"
	}
	if p.DownloadMB < 0 || p.DiskMB < 0 {
		return c.at("python.download_mb", "a size is negative").WithHint("sizes are in MB (10^6 bytes)")
	}
	if err := c.inside("python.requirements", &p.Requirements); err != nil {
		return err
	}
	if p.GPU != nil {
		if p.GPU.DownloadMB < 0 || p.GPU.DiskMB < 0 {
			return c.at("python.gpu.download_mb", "a size is negative").WithHint("sizes are in MB (10^6 bytes)")
		}
		if err := c.inside("python.gpu.requirements", &p.GPU.Requirements); err != nil {
			return err
		}
	}
	if !command {
		if err := c.inside("python.entry", &p.Entry); err != nil {
			return err
		}
	}
	if p.PostInstall == "" {
		return nil
	}
	return c.inside("python.post_install", &p.PostInstall)
}

func (c checker) command(p *Command) error {
	if len(p.Exec) == 0 || p.Exec[0] == "" {
		return c.at("command.exec", "[command] has no exec").WithHint(`write exec = ["./my-plugin"]`)
	}
	if p.Exec[0] == Self {
		if len(p.Build) > 0 {
			return c.at("command.build", "%s needs no build", Self).WithHint("remove build")
		}
		return nil
	}
	program := path.Clean(filepath.ToSlash(p.Exec[0]))
	if !fs.ValidPath(program) {
		return c.at("command.exec", "exec %q is not in the package", p.Exec[0]).
			WithHint("give a path relative to the package: srpo.lock does not cover files elsewhere")
	}
	if len(p.Build) == 0 {
		return c.inside("command.exec", &p.Exec[0])
	}
	n := 0
	for _, a := range p.Build {
		if path.Clean(a) == program {
			n++
		}
	}
	if n != 1 {
		return c.at("command.build", "build names the program %q %d times", p.Exec[0], n).
			WithHint(`name it once, as the output: build = ["go", "build", "-o", %q, "."]`, program)
	}
	return nil
}

// inside checks that name is a file of the package, and cleans it.
func (c checker) inside(key string, name *string) error {
	cleaned := path.Clean(filepath.ToSlash(*name))
	if !fs.ValidPath(cleaned) {
		return c.at(key, "%q is not in the package", *name).WithHint("give a path relative to the package")
	}
	if info, err := fs.Stat(c.fsys, cleaned); err != nil || info.IsDir() {
		return c.at(key, "%q is not a file of the package", *name).WithHint("correct the name, or add the file")
	}
	*name = cleaned
	return nil
}

// BuildArgs returns the build command with output in place of the program's name.
func (p *Command) BuildArgs(output string) []string {
	program := path.Clean(filepath.ToSlash(p.Exec[0]))
	args := slices.Clone(p.Build)
	for i, a := range args {
		if path.Clean(a) == program {
			args[i] = output
		}
	}
	return args
}

// IsSelf reports whether the program is srpo's own.
func (p *Command) IsSelf() bool { return p.Exec[0] == Self }

// String returns kind, name and version, e.g. "env libero 0.1.0".
func (m *Manifest) String() string { return fmt.Sprintf("%s %s %s", m.Kind, m.Name, m.Version) }
