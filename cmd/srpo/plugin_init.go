package main

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/plugins"
)

// templates holds what `srpo plugin init` writes: templates/LANGUAGE/KIND/* and templates/LANGUAGE/all/*, each file with .tmpl appended.
//
//go:embed templates
var templates embed.FS

const modulePath = "github.com/srpo-dev/srpo"

var pluginName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

func (a *app) pluginInit() *cobra.Command {
	var lang, kind, name, source string
	c := &cobra.Command{
		Use:   "init FOLDER --lang go|python --kind env|policy|encoder",
		Short: "Write a small plugin that works, to start from",
		Long: "init writes a complete plugin into an empty or new folder: it passes srpo plugin test as it is, and its README has the next commands.\n" +
			"A Go plugin needs srpo's module; until that is published, --srpo-source names a checkout of it (found by itself when the folder is inside one).",
		Example: "  srpo plugin init my-env --lang python --kind env\n  srpo plugin init my-policy --lang go --kind policy --srpo-source ~/srpo",
		Args:    oneArg("a folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.init(args[0], lang, kind, name, source)
		},
	}
	c.Flags().StringVar(&lang, "lang", "python", "go or python")
	c.Flags().StringVar(&kind, "kind", "env", "env, policy or encoder")
	c.Flags().StringVar(&name, "name", "", "the plugin's name; default the folder's")
	c.Flags().StringVar(&source, "srpo-source", "", "for Go: a checkout of srpo to build against")
	return c
}

// scaffold is what the templates are filled with.
type scaffold struct {
	Name, Kind, Dir string
	Protocol        int
	// Go plugins: the version of Go, of srpo's module, the other modules it requires, and the checkout to use instead of a published one.
	Go, Module, Require, Source string
	// Instead is an env or policy flag that uses the plugin in a run.
	Run string
}

func (a *app) init(dir, lang, kind, name, source string) error {
	k, err := parseKind(kind)
	if err != nil {
		return err
	}
	if k == "" {
		return plugins.Errorf(plugins.Invalid, "no kind given").WithPlace("--kind").WithHint("one of env, policy, encoder")
	}
	if lang != "go" && lang != "python" {
		return plugins.Errorf(plugins.Invalid, "there is no language %q", lang).WithPlace("--lang").
			WithHint("go or python; for others read docs/plugin-authors.md: any language with gRPC can serve a plugin")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return plugins.Errorf(plugins.Invalid, "the path %q: %w", dir, err).WithHint("give the path of a folder")
	}
	if name == "" {
		name = strings.Trim(regexp.MustCompile(`[^a-z0-9_-]+`).ReplaceAllString(strings.ToLower(filepath.Base(abs)), "-"), "-_")
	}
	if !pluginName.MatchString(name) {
		return plugins.Errorf(plugins.Invalid, "%q cannot be a plugin's name", name).WithPlace("--name").WithHint("up to 64 small letters, digits, - and _")
	}
	if entries, err := os.ReadDir(abs); err == nil && len(entries) > 0 {
		return plugins.Errorf(plugins.Invalid, "%s is not empty: %s lies in it", dir, entries[0].Name()).WithHint("give a new folder; nothing is overwritten")
	} else if err != nil && !os.IsNotExist(err) {
		return plugins.Errorf(plugins.Invalid, "%s: %w", dir, err).WithHint("give a new folder")
	}
	s := scaffold{Name: name, Kind: kind, Dir: "./" + filepath.ToSlash(filepath.Clean(dir)), Protocol: plugins.Protocol}
	if filepath.IsAbs(dir) || strings.HasPrefix(dir, "..") {
		s.Dir = filepath.ToSlash(filepath.Clean(dir))
	}
	s.Run = map[plugins.Kind]string{plugins.Env: "--env " + s.Dir + " --set imitate.demos=5", plugins.Policy: "--policy " + s.Dir, plugins.Encoder: "--encoder " + s.Dir}[k]
	files := map[string][]byte{}
	if lang == "go" {
		if source == "" {
			source = enclosingSource(filepath.Dir(abs))
		}
		if err := s.goModule(abs, source, files); err != nil {
			return err
		}
	} else if source != "" {
		return plugins.Errorf(plugins.Invalid, "a Python plugin needs no source of srpo: the host brings srpo_sdk").WithPlace("--srpo-source").WithHint("leave it out")
	}
	for _, part := range []string{"all", kind} {
		if err := s.fill(path.Join("templates", lang, part), files); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return plugins.Errorf(plugins.Exhausted, "%w", err).WithHint("give a folder that can be made")
	}
	names := sortedFiles(files)
	for _, f := range names {
		if err := os.WriteFile(filepath.Join(abs, f), files[f], 0o644); err != nil {
			return plugins.Errorf(plugins.Exhausted, "%w", err).WithHint("see that the disk is not full")
		}
	}
	if a.json {
		return a.printJSON(map[string]any{"folder": abs, "name": name, "kind": kind, "lang": lang, "files": names})
	}
	fmt.Fprintf(a.out, "%s %s in %s: %s\n", kind, name, s.Dir, strings.Join(names, ", "))
	if lang == "go" && s.Source == "" {
		fmt.Fprintf(a.out, "first:  cd %s && go mod tidy   (needs %s to be published; with a checkout of it: --srpo-source PATH)\n", s.Dir, modulePath)
	}
	fmt.Fprintf(a.out, "next:   srpo plugin test %s\n", s.Dir)
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
		if name == e.Name() { // a file to copy as it is
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

// goModule prepares go.mod, and go.sum from a checkout of srpo, so that the plugin builds without asking a network.
func (s *scaffold) goModule(abs, source string, files map[string][]byte) error {
	s.Go, s.Module = "1.26", "v0.1.0"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path == modulePath && strings.HasPrefix(info.Main.Version, "v") {
		s.Module = info.Main.Version
	}
	if source == "" {
		return nil
	}
	given := source
	source, err := filepath.Abs(source)
	if err != nil {
		return plugins.Errorf(plugins.Invalid, "the path %q: %w", given, err).WithPlace("--srpo-source").WithHint("give the path of a checkout")
	}
	mod, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil || moduleOf(mod) != modulePath {
		return plugins.Errorf(plugins.NotFound, "%s is no checkout of srpo: it has no go.mod of %s", given, modulePath).WithPlace("--srpo-source").WithHint("give the folder with srpo's go.mod")
	}
	sum, err := os.ReadFile(filepath.Join(source, "go.sum"))
	if err != nil {
		return plugins.Errorf(plugins.NotFound, "%w", err).WithPlace("--srpo-source").WithHint("give a complete checkout")
	}
	files["go.sum"] = sum
	// The path in go.mod is relative when the plugin lies inside of the checkout, so that both can move together.
	s.Source, s.Module = filepath.ToSlash(source), "v0.0.0"
	if rel, err := filepath.Rel(source, abs); err == nil && !strings.HasPrefix(rel, "..") {
		up, _ := filepath.Rel(abs, source)
		s.Source = filepath.ToSlash(up)
	}
	// What srpo requires is required here too: Go wants the whole list in the main module. `go mod tidy` drops what the plugin does not use.
	var require strings.Builder
	inside := false
	for _, line := range strings.Split(string(mod), "\n") {
		word := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(word, "go "):
			s.Go = strings.TrimPrefix(word, "go ")
		case word == "require (":
			inside = true
		case word == ")":
			inside = false
		case inside && word != "":
			word, _, _ = strings.Cut(word, " //")
			fmt.Fprintf(&require, "\t%s // indirect\n", word)
		}
	}
	s.Require = require.String()
	return nil
}

func moduleOf(mod []byte) string {
	for _, line := range strings.Split(string(mod), "\n") {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// enclosingSource returns the checkout of srpo that a folder lies in; empty: none.
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
	return sortedNames(set)
}
