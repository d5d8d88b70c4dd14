package main

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/plugins"
)

// templates contains the files that `srpo plugin init` writes: templates/LANGUAGE/KIND/* and templates/LANGUAGE/all/*,
// each with .tmpl appended.
//
//go:embed templates
var templates embed.FS

const modulePath = "github.com/srpo-dev/srpo"

// releaseVersion matches a version that a module proxy can serve: a release, or a commit without local changes.
var releaseVersion = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)

var pluginName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

func (a *app) pluginInit() *cobra.Command {
	var lang, kind, name, source, from string
	c := &cobra.Command{
		Use:   "init FOLDER --lang go|python --kind env|policy|encoder",
		Short: "Write a small plugin that works, to start from",
		Long: "init writes a complete plugin into an empty or new folder. It passes srpo plugin test without\n" +
			"changes, and its README has the next commands. A Go plugin requires the module of this version of\n" +
			"srpo. To build against a checkout instead, give its folder with --srpo-source. In a folder inside\n" +
			"a checkout this is the default. With --from gymnasium:ID the plugin is an environment of\n" +
			"gymnasium. If a package registers it, ID is MODULE:ID, and the package must be added to\n" +
			"requirements.in.",
		Example: "  srpo plugin init my-env --lang python --kind env\n" +
			"  srpo plugin init my-policy --lang go --kind policy --srpo-source ~/srpo\n" +
			"  srpo plugin init fetch --from gymnasium:gymnasium_robotics:FetchReach-v4",
		Args: oneArg("a folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.init(args[0], lang, kind, name, source, from)
		},
	}
	c.Flags().StringVar(&lang, "lang", "python", "go or python")
	c.Flags().StringVar(&kind, "kind", "env", "env, policy or encoder")
	c.Flags().StringVar(&name, "name", "", "the name of the plugin; default: the name of the folder")
	c.Flags().StringVar(&from, "from", "", "gymnasium:ID: for an env in Python, an environment of gymnasium")
	c.Flags().StringVar(&source, "srpo-source", "", "for Go: build against this checkout of srpo")
	return c
}

// scaffold contains the values of the templates.
type scaffold struct {
	Name, Kind, Dir string
	Protocol        int
	// Go is the version of Go and Module the version of srpo's module that the plugin requires. With a Source, the
	// folder of a checkout, the plugin is built against that, and Require lists the modules that the checkout requires.
	Go, Module, Require, Source string
	// Run has the flags of `srpo run` that use the plugin.
	Run string
	// EnvID is the gymnasium ID that the plugin serves, and EnvModule the module in it; both may be empty.
	EnvID, EnvModule string
}

// checkNewPlugin returns the name of a new plugin, by default made from its folder. It refuses a folder that is not
// empty.
func checkNewPlugin(dir, abs, name string) (string, error) {
	if name == "" {
		name = strings.Trim(
			regexp.MustCompile(`[^a-z0-9_-]+`).ReplaceAllString(strings.ToLower(filepath.Base(abs)), "-"), "-_",
		)
	}
	if !pluginName.MatchString(name) {
		return "", plugins.Errorf(plugins.Invalid, "%q cannot be a plugin's name", name).WithPlace("--name").
			WithHint("use up to 64 lower-case letters, digits, - and _")
	}
	if entries, err := os.ReadDir(abs); err == nil && len(entries) > 0 {
		return "", plugins.Errorf(plugins.Invalid, "%s is not empty: it contains %s", dir, entries[0].Name()).
			WithHint("give a new folder; nothing is overwritten")
	} else if err != nil && !os.IsNotExist(err) {
		return "", plugins.Errorf(plugins.Invalid, "%s: %w", dir, err).WithHint("give a new folder")
	}
	return name, nil
}

// writeNewFolder writes the files of a new plugin and returns their names in order.
func writeNewFolder(dir string, files map[string][]byte) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, plugins.Errorf(plugins.Exhausted, "%w", err).WithHint("give a folder that you can create")
	}
	names := sortedFiles(files)
	for _, f := range names {
		if err := os.WriteFile(filepath.Join(dir, f), files[f], 0o644); err != nil {
			return nil, plugins.Errorf(plugins.Exhausted, "%w", err).WithHint("check that the disk is not full")
		}
	}
	return names, nil
}

func (a *app) init(dir, lang, kind, name, source, from string) error {
	k, err := parseKind(kind)
	if err != nil {
		return err
	}
	if k == "" {
		return plugins.Errorf(plugins.Invalid, "no kind given").WithPlace("--kind").
			WithHint("give env, policy or encoder")
	}
	if lang != "go" && lang != "python" {
		return plugins.Errorf(plugins.Invalid, "there is no language %q", lang).WithPlace("--lang").
			WithHint("give go or python; any other language with gRPC can serve a plugin too, see docs/protocol.md")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return plugins.Errorf(plugins.Invalid, "the path %q: %w", dir, err).WithHint("give the path of a folder")
	}
	if name, err = checkNewPlugin(dir, abs, name); err != nil {
		return err
	}
	s := scaffold{Name: name, Kind: kind, Dir: "./" + filepath.ToSlash(filepath.Clean(dir)), Protocol: plugins.Protocol}
	if filepath.IsAbs(dir) || strings.HasPrefix(dir, "..") {
		s.Dir = filepath.ToSlash(filepath.Clean(dir))
	}
	s.Run = map[plugins.Kind]string{
		plugins.Env:     "--env " + s.Dir + " --set imitate.demos=5",
		plugins.Policy:  "--policy " + s.Dir,
		plugins.Encoder: "--encoder " + s.Dir,
	}[k]
	parts := []string{"all", kind}
	if from != "" {
		if err := s.fromGymnasium(from, lang, k); err != nil {
			return err
		}
		parts = []string{"all", "gymnasium"}
	}
	files := map[string][]byte{}
	if lang == "go" {
		if source == "" {
			source = enclosingSource(filepath.Dir(abs))
		}
		if err := s.goModule(abs, source, files); err != nil {
			return err
		}
	} else if source != "" {
		return plugins.Errorf(plugins.Invalid, "a Python plugin needs no source of srpo: the host provides srpo_sdk").
			WithPlace("--srpo-source").WithHint("leave it out")
	}
	for _, part := range parts {
		if err := s.fill(path.Join("templates", lang, part), files); err != nil {
			return err
		}
	}
	names, err := writeNewFolder(abs, files)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"folder": abs, "name": name, "kind": kind, "lang": lang, "files": names})
	}
	fmt.Fprintf(a.out, "%s %s in %s: %s\n", kind, name, s.Dir, strings.Join(names, ", "))
	if lang == "go" && s.Source == "" {
		fmt.Fprintf(a.out, "first:  cd %s && go mod tidy\n", s.Dir)
	}
	if s.EnvModule != "" {
		fmt.Fprintf(
			a.out, "first:  add the package that has the module %s to %s/requirements.in, and lock it\n", s.EnvModule,
			s.Dir,
		)
	}
	fmt.Fprintf(a.out, "next:   srpo plugin test %s\n", s.Dir)
	return nil
}

// gymnasiumID matches the ID of a gymnasium environment, with the module that registers it: MODULE:NAMESPACE/NAME-v0.
var gymnasiumID = regexp.MustCompile(`^(?:([\w.]+):)?(?:[\w.-]+/)?[\w.-]+$`)

// fromGymnasium reads the flag --from.
func (s *scaffold) fromGymnasium(from, lang string, kind plugins.Kind) error {
	id, isGymnasium := strings.CutPrefix(from, "gymnasium:")
	match := gymnasiumID.FindStringSubmatch(id)
	switch {
	case !isGymnasium || match == nil:
		return plugins.Errorf(plugins.Invalid, "%q is not gymnasium:ID", from).WithPlace("--from").
			WithHint("for example gymnasium:Pendulum-v1 or gymnasium:gymnasium_robotics:FetchReach-v4")
	case lang != "python" || kind != plugins.Env:
		return plugins.Errorf(plugins.Invalid, "an environment of gymnasium is an env in Python").WithPlace("--from").
			WithHint("leave out --lang and --kind")
	}
	s.EnvID, s.EnvModule = id, match[1]
	s.Run = "--env " + s.Dir + " --set imitate.demos=0" // it has no expert
	return nil
}

// fill renders one folder of templates.
func (s *scaffold) fill(folder string, files map[string][]byte) error {
	entries, err := fs.ReadDir(templates, folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		text, err := fs.ReadFile(templates, path.Join(folder, e.Name()))
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(e.Name(), ".tmpl")
		if name == e.Name() { // not a template
			files[name] = text
			continue
		}
		t, err := template.New(name).Delims("<<", ">>").Parse(string(text))
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := t.Execute(&b, s); err != nil {
			return err
		}
		files[name] = b.Bytes()
	}
	return nil
}

// goModule prepares go.mod. With a checkout of srpo it also writes go.sum, so that the plugin builds offline.
func (s *scaffold) goModule(abs, source string, files map[string][]byte) error {
	if source == "" {
		if s.Module = version(); !releaseVersion.MatchString(s.Module) {
			return plugins.Errorf(
				plugins.NotFound, "this srpo is version %s, which has no published Go module", s.Module,
			).
				WithPlace("--srpo-source").WithHint("give the checkout of srpo that it was built from")
		}
		s.Go = strings.TrimPrefix(runtime.Version(), "go")
		return nil
	}
	given := source
	source, err := filepath.Abs(source)
	if err != nil {
		return plugins.Errorf(plugins.Invalid, "the path %q: %w", given, err).WithPlace("--srpo-source").
			WithHint("give the path of a checkout")
	}
	mod, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil || moduleOf(mod) != modulePath {
		return plugins.Errorf(
			plugins.NotFound, "%s is not a checkout of srpo: it has no go.mod of %s", given, modulePath,
		).
			WithPlace("--srpo-source").WithHint("give the folder that contains srpo's go.mod")
	}
	sum, err := os.ReadFile(filepath.Join(source, "go.sum"))
	if err != nil {
		return plugins.Errorf(plugins.NotFound, "%w", err).WithPlace("--srpo-source").
			WithHint("give a complete checkout")
	}
	files["go.sum"] = sum
	s.Source, s.Module = filepath.ToSlash(source), "v0.0.0"
	// The path is relative if the plugin is inside the checkout, so that both can be moved together.
	if rel, err := filepath.Rel(source, abs); err == nil && !strings.HasPrefix(rel, "..") {
		up, _ := filepath.Rel(abs, source)
		s.Source = filepath.ToSlash(up)
	}
	s.Go, s.Require = requirements(mod)
	return nil
}

// requirements returns the version of Go of a go.mod, and its requirements as indirect ones: Go wants the whole list in
// the main module. `go mod tidy` drops what the plugin does not use.
func requirements(mod []byte) (goVersion, require string) {
	inside := false
	for line := range strings.Lines(string(mod)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "go "):
			goVersion = strings.TrimPrefix(line, "go ")
		case line == "require (":
			inside = true
		case line == ")":
			inside = false
		case inside && line != "":
			line, _, _ = strings.Cut(line, " //")
			require += "\t" + line + " // indirect\n"
		}
	}
	return goVersion, require
}

func moduleOf(mod []byte) string {
	for _, line := range strings.Split(string(mod), "\n") {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// enclosingSource returns the checkout of srpo that contains a folder, or "".
func enclosingSource(dir string) string {
	for {
		if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && moduleOf(mod) == modulePath {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

func sortedFiles(m map[string][]byte) []string {
	set := map[string]string{}
	for n := range m {
		set[n] = ""
	}
	return slices.Sorted(maps.Keys(set))
}
