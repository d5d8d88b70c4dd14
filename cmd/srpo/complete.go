package main

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/plugins"
)

// completionTimeout bounds the start of an env whose tasks the shell asks for: a Tab must not hang.
const completionTimeout = 5 * time.Second

// addCompletions registers what the shell can complete on c and its subcommands: names of plugins for --env, --policy,
// --encoder and for the verbs of `srpo plugin`, task ids for --task, and the choices of settings that have some.
func addCompletions(c *cobra.Command) {
	choices := map[string][]string{
		"lang":   {"python", "go"},
		"states": {"all", "train", "test"},
	}
	for _, kind := range plugins.Kinds {
		choices["kind"] = append(choices["kind"], string(kind))
	}
	for _, v := range config.Default().Values() {
		for _, s := range shorthands {
			if s.key == v.Key && len(v.Setting.Choices) > 0 {
				choices[s.flag] = v.Setting.Choices
			}
		}
	}
	for flag, known := range choices {
		complete(c, flag, cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
	}
	for _, kind := range plugins.Kinds {
		complete(c, string(kind), func(
			*cobra.Command, []string, string,
		) ([]cobra.Completion, cobra.ShellCompDirective) {
			return pluginNames(kind), cobra.ShellCompDirectiveDefault // a folder is as good as a name
		})
	}
	complete(c, "task", completeTask)
	if parent := c.Parent(); parent != nil && parent.Name() == "plugin" && c.Name() != "init" {
		c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return pluginNames(""), cobra.ShellCompDirectiveDefault
		}
	}
	for _, sub := range c.Commands() {
		addCompletions(sub)
	}
}

// complete registers f for a flag of c, if c has that flag.
func complete(c *cobra.Command, flag string, f cobra.CompletionFunc) {
	if c.LocalNonPersistentFlags().Lookup(flag) != nil {
		_ = c.RegisterFlagCompletionFunc(flag, f) // it fails for a second registration only
	}
}

// pluginNames lists the plugins of a kind, with their descriptions; of every kind when kind is empty.
func pluginNames(kind plugins.Kind) []cobra.Completion {
	cfg, _ := config.Load(config.Input{File: "srpo.toml", Optional: true}) // without it: the plugins of srpo itself
	cat, err := packages(cfg)
	if err != nil {
		return nil
	}
	list, _ := cat.List(kind)
	var names []cobra.Completion
	for _, p := range list {
		names = append(names, cobra.CompletionWithDesc(p.Name, p.Doc))
	}
	return names
}

// completeTask lists the task ids of the env that --env or srpo.toml names. It starts the env, so only an env that is
// installed has completions.
func completeTask(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	quiet := &app{out: io.Discard, err: io.Discard}
	w, err := quiet.workbench("", nil)
	if err != nil {
		return nil, none
	}
	defer w.term.Close()
	name := w.cfg.Run.Env
	if f := c.Flags().Lookup("env"); f != nil && f.Value.String() != "" {
		name = f.Value.String()
	}
	pkg, err := w.find(plugins.Env, name)
	if err != nil || w.respectLock(pkg) != nil {
		return nil, none
	}
	if state, _ := w.state(pkg); state != "ready" {
		return cobra.AppendActiveHelp(
			nil, "the tasks of "+pkg.Name+" are known once it is installed: "+installCommand(state, pkg),
		), none
	}
	ctx, stop := context.WithTimeout(context.Background(), completionTimeout)
	defer stop()
	var ids []cobra.Completion
	_ = w.tasks(ctx, pkg, func(t listedTask) error {
		if t.Unavailable == "" {
			ids = append(ids, cobra.CompletionWithDesc(t.ID, t.Instruction))
		}
		return nil
	})
	return ids, none
}

// suggestFlag adds the nearest flag of c to the error of an unknown flag.
func suggestFlag(c *cobra.Command, err error) error {
	e := plugins.Errorf(plugins.Invalid, "%w", err)
	wrong, unknown := strings.CutPrefix(err.Error(), "unknown flag: --")
	if near := nearestFlag(c, wrong); unknown && near != "" {
		return e.WithHint("did you mean --%s? %s --help lists the flags", near, c.CommandPath())
	}
	return e.WithHint("%s --help lists the flags", c.CommandPath())
}

// nearestFlag returns the flag of c that wrong is probably a misspelling of, or "".
func nearestFlag(c *cobra.Command, wrong string) string {
	var known []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, f.Name)
		}
	})
	return nearest.To(wrong, known)
}

// unknownCommand is the error for a subcommand of c that does not exist.
func unknownCommand(c *cobra.Command, name string) error {
	c.SuggestionsMinimumDistance = 2
	e := plugins.Errorf(plugins.Invalid, "unknown command %q", c.CommandPath()+" "+name)
	if near := c.SuggestionsFor(name); len(near) > 0 {
		return e.WithHint("did you mean %s %s?", c.CommandPath(), near[0])
	}
	return e.WithHint("%s --help lists the commands", c.CommandPath())
}
