package main

import (
	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) pluginCommand() *cobra.Command {
	c := &cobra.Command{Use: "plugin", Short: "List, make, test, install and lock plugins"}
	c.AddCommand(a.pluginServe())
	return c
}

// pluginServe is how srpo starts the plugins that it carries: as processes of its own program.
func (a *app) pluginServe() *cobra.Command {
	return &cobra.Command{Use: "serve KIND NAME", Hidden: true, RunE: func(_ *cobra.Command, args []string) error {
		for _, b := range builtIns {
			if len(args) == 2 && args[0] == string(b.kind) && args[1] == b.name {
				b.serve()
				return nil
			}
		}
		return plugins.Errorf(plugins.NotFound, "no built-in plugin %v", args).WithHint("srpo plugin list")
	}}
}
