package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// listedPlugin is a plugin in the output of `srpo plugin list --json`.
type listedPlugin struct {
	Kind    plugins.Kind   `json:"kind"`
	Name    string         `json:"name"`
	Version string         `json:"version"`
	Origin  catalog.Origin `json:"origin"`
	Folder  string         `json:"folder,omitempty"`
	Doc     string         `json:"doc"`
	State   string         `json:"state"`

	Protocol int               `json:"protocol,omitempty"`
	MaxLanes int               `json:"max_lanes,omitempty"`
	Versions map[string]string `json:"versions,omitempty"`
	Settings []listedSetting   `json:"settings,omitempty"`
	Tasks    []listedTask      `json:"tasks,omitempty"`
}

type listedSetting struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Default any      `json:"default"`
	Value   any      `json:"value"`
	From    string   `json:"from"`
	Choices []string `json:"choices,omitempty"`
	Min     *float64 `json:"min,omitempty"`
	Max     *float64 `json:"max,omitempty"`
	Doc     string   `json:"doc"`
}

type listedTask struct {
	ID          string            `json:"id"`
	Suite       string            `json:"suite"`
	Instruction string            `json:"instruction"`
	StartStates int               `json:"start_states"`
	MaxSteps    int               `json:"max_steps"`
	Tags        map[string]string `json:"tags,omitempty"`
	Unavailable string            `json:"unavailable,omitempty"`
}

func (a *app) pluginList() *cobra.Command {
	var file, kind string
	var set []string
	var tasks bool
	c := &cobra.Command{
		Use:   "list [NAME|FOLDER]",
		Short: "List the plugins, or one plugin's settings and tasks",
		Long: "list prints every plugin that a run can name: those of srpo and those in the folders of [host]\n" +
			"plugin_path. For a given plugin it starts the plugin and prints its settings, or with --tasks the\n" +
			"tasks of an env.",
		Example: "  srpo plugin list\n" +
			"  srpo plugin list tiny\n" +
			"  srpo plugin list libero --tasks | grep bbq",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := parseKind(kind)
			if err != nil {
				return err
			}
			w, err := a.workbench(file, set)
			if err != nil {
				return err
			}
			defer w.term.Close()
			if len(args) == 0 {
				if tasks {
					return plugins.Errorf(plugins.Invalid, "--tasks needs an env").
						WithHint("srpo plugin list tabletop --tasks")
				}
				return a.listAll(w, k)
			}
			pkg, err := w.find(k, args[0])
			if err != nil {
				return err
			}
			if tasks {
				return a.listTasks(c.Context(), w, pkg)
			}
			return a.listOne(c.Context(), w, pkg)
		},
	}
	c.Flags().StringVar(&kind, "kind", "", "env, policy or encoder; default all")
	c.Flags().BoolVar(&tasks, "tasks", false, "print an env's task ids with their instructions")
	c.Flags().StringVar(&file, "config", "", "configuration file; default srpo.toml, if it exists")
	c.Flags().StringArrayVar(&set, "set", nil, "override a setting of the file; may be repeated")
	return c
}

func (a *app) listAll(w *workbench, kind plugins.Kind) error {
	list, broken := w.cat.List(kind)
	sort.SliceStable(list, func(i, j int) bool { return kindOrder(list[i].Kind) < kindOrder(list[j].Kind) })
	out := []listedPlugin{}
	for _, p := range list {
		state := "ready"
		if p.Manifest != nil && p.Manifest.Python != nil {
			if found, err := w.cat.Find(p.Kind, p.Name); err == nil {
				p = found // unpacked
			}
			state, _ = w.state(p)
		}
		out = append(
			out, listedPlugin{
				Kind: p.Kind, Name: p.Name, Version: p.Version, Origin: p.Origin, Folder: p.Dir, Doc: p.Doc,
				State: state,
			},
		)
	}
	if a.json {
		type problem struct {
			Place   string `json:"place"`
			Message string `json:"message"`
			Hint    string `json:"hint"`
		}
		problems := []problem{}
		for _, err := range broken {
			e := plugins.AsError(err)
			problems = append(problems, problem{e.Place, e.Message, e.Hint})
		}
		return a.printJSON(map[string]any{"plugins": out, "broken": problems})
	}
	t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KIND\tNAME\tVERSION\tORIGIN\tSTATE\tWHAT IT IS")
	for _, p := range out {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Kind, p.Name, p.Version, p.Origin, p.State, p.Doc)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, err := range broken {
		fmt.Fprintln(a.err)
		printError(a.err, plugins.AsError(err))
	}
	return nil
}

func kindOrder(k plugins.Kind) int {
	for i, known := range plugins.Kinds {
		if k == known {
			return i
		}
	}
	return len(plugins.Kinds)
}

// listOne prints a plugin and its settings.
func (a *app) listOne(ctx context.Context, w *workbench, pkg catalog.Package) error {
	if err := w.respectLock(pkg); err != nil {
		return err
	}
	state, _ := w.state(pkg)
	out := listedPlugin{
		Kind: pkg.Kind, Name: pkg.Name, Version: pkg.Version, Origin: pkg.Origin, Folder: pkg.Dir, Doc: pkg.Doc,
		State: state,
	}
	if state == "ready" {
		if err := w.ask(
			ctx, pkg, func(ctx context.Context, p plugins.Plugin) error { return w.describe(ctx, p, &out) },
		); err != nil {
			return err
		}
	}
	if a.json {
		return a.printJSON(out)
	}
	where := string(out.Origin)
	if pkg.Origin == catalog.Folder {
		where = out.Folder
	}
	fmt.Fprintf(a.out, "%s %s %s (%s)\n", out.Kind, out.Name, out.Version, where)
	if out.Doc != "" {
		fmt.Fprintln(a.out, out.Doc)
	}
	if state != "ready" {
		fmt.Fprintf(
			a.out, "\n%s; its settings are listed once it can start\n  %s\n", stateText(state, pkg),
			installCommand(state, pkg),
		)
		return nil
	}
	facts := fmt.Sprintf("protocol %d", out.Protocol)
	if pkg.Kind == plugins.Env {
		facts += ", up to " + count(max(1, out.MaxLanes), "lane") + " per process"
	}
	for _, name := range slices.Sorted(maps.Keys(out.Versions)) {
		facts += fmt.Sprintf(", %s %s", name, out.Versions[name])
	}
	fmt.Fprintln(a.out, facts)
	if len(out.Settings) == 0 {
		fmt.Fprintln(a.out, "\nit has no settings")
		return nil
	}
	fmt.Fprintf(
		a.out, "\nsettings, in srpo.toml under [%s.%s] or as --set %s.%s.NAME=VALUE\n", pkg.Kind, pkg.Name, pkg.Kind,
		pkg.Name,
	)
	width := 0
	for _, s := range out.Settings {
		width = max(width, len(s.Name))
	}
	for _, s := range out.Settings {
		line := fmt.Sprintf("default %s, %s", showValue(s.Default), s.Type)
		if allowed := s.allowed(); allowed != "" {
			line += ", " + allowed
		}
		if s.From != "default" {
			line = fmt.Sprintf("%s from %s; %s", showValue(s.Value), s.From, line)
		}
		fmt.Fprintf(a.out, "  %-*s  %s\n", width, s.Name, line)
		for _, l := range wrapped(s.Doc, max(40, 110-width)) {
			fmt.Fprintf(a.out, "  %-*s  %s\n", width, "", l)
		}
	}
	return nil
}

// describe fills in what the running plugin reports.
func (w *workbench) describe(ctx context.Context, p plugins.Plugin, out *listedPlugin) error {
	i, err := p.Info(ctx)
	if err != nil {
		return err
	}
	values, err := w.cfg.ResolvePlugin(out.Kind, out.Name, i.Settings)
	if err != nil {
		return err
	}
	out.Protocol, out.MaxLanes, out.Versions = i.Protocol, i.MaxLanes, i.Versions
	if out.Doc == "" {
		out.Doc = i.Doc
	}
	for _, s := range i.Settings {
		out.Settings = append(out.Settings,
			listedSetting{Name: s.Name, Type: settingType(s.Default), Default: s.Default, Value: values[s.Name],
				From: w.cfg.Origin(
					fmt.Sprintf("%s.%s.%s", out.Kind, out.Name, s.Name),
				).String(), Choices: s.Choices, Min: s.Min, Max: s.Max, Doc: s.Doc})
	}
	return nil
}

// listTasks prints the tasks of an env as they arrive.
func (a *app) listTasks(ctx context.Context, w *workbench, pkg catalog.Package) error {
	if pkg.Kind != plugins.Env {
		return plugins.Errorf(plugins.Invalid, "%s is of kind %s: only envs have tasks", pkg.Name, pkg.Kind).
			WithHint("srpo plugin list --kind env")
	}
	if err := w.respectLock(pkg); err != nil {
		return err
	}
	if state, _ := w.state(pkg); state != "ready" {
		return plugins.Errorf(plugins.NotFound, "%s; its tasks are listed once it can start", stateText(state, pkg)).
			WithPlace("env %s", pkg.Name).
			WithHint("%s", installCommand(state, pkg))
	}
	list := []listedTask{}
	unavailable := 0
	err := w.tasks(ctx, pkg, func(t listedTask) error {
		list = append(list, t)
		line := t.ID + "  " + t.Instruction
		if t.Unavailable != "" {
			unavailable++
			line += "  (unavailable: " + t.Unavailable + ")"
		}
		if a.json {
			return nil
		}
		_, err := fmt.Fprintln(a.out, line)
		return err
	})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"env": pkg.Name, "tasks": list})
	}
	w.term.Line("%s", count(len(list), "task")+unavailableText(unavailable))
	return nil
}

// tasks starts the env pkg and calls each with its tasks, in the env's order, as they arrive.
func (w *workbench) tasks(ctx context.Context, pkg catalog.Package, each func(listedTask) error) error {
	return w.ask(ctx, pkg, func(ctx context.Context, p plugins.Plugin) error {
		i, err := p.Info(ctx)
		if err != nil {
			return err
		}
		settings, err := w.cfg.ResolvePlugin(pkg.Kind, pkg.Name, i.Settings)
		if err != nil {
			return err
		}
		if err := p.Configure(ctx, plugins.Config{Settings: settings, WorldSize: 1, Lanes: 1}); err != nil {
			return err
		}
		for t, err := range p.(env.Env).Tasks(ctx) {
			if err == nil {
				err = each(listedTask{t.ID, t.Suite, t.Instruction, t.StartStates, t.MaxSteps, t.Tags, t.Unavailable})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func unavailableText(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d of them unavailable here", n)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func stateText(state string, pkg catalog.Package) string {
	if state == notInstalled {
		return state + sizes(pkg)
	}
	return state
}

// installCommand returns the command that makes a package ready.
func installCommand(state string, pkg catalog.Package) string {
	if state == notInstalled {
		return "srpo plugin install " + installName(pkg)
	}
	return "srpo plugin install " + installName(pkg) + " --repair"
}

// installName returns the argument of `srpo plugin install` for a package.
func installName(pkg catalog.Package) string {
	if pkg.Origin == catalog.Folder {
		return pkg.Dir
	}
	return pkg.Name
}

func settingType(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case int64, int:
		return "whole number"
	case float64:
		return "number"
	case string:
		return "string"
	}
	return "list of strings"
}

func showValue(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("%q", v)
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = fmt.Sprintf("%q", s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	return fmt.Sprint(v)
}

func (s listedSetting) allowed() string {
	switch {
	case len(s.Choices) > 0:
		return "one of " + strings.Join(s.Choices, ", ")
	case s.Min != nil && s.Max != nil:
		return number(*s.Min) + " to " + number(*s.Max)
	case s.Min != nil:
		return number(*s.Min) + " or more"
	case s.Max != nil:
		return number(*s.Max) + " or less"
	}
	return ""
}

// number prints whole numbers without an exponent.
func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return strconv.FormatInt(int64(v), 10)
	}
	return fmt.Sprint(v)
}

// wrapped breaks a text into lines of at most width characters.
func wrapped(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
