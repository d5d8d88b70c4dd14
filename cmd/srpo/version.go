package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print versions", RunE: func(*cobra.Command, []string) error {
		if a.json {
			return a.printJSON(map[string]any{"srpo": version, "protocol": plugins.Protocol, "run_format": store.FormatVersion, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
		}
		_, err := fmt.Fprintf(a.out, "srpo %s, plugin protocol %d, run format %d, %s %s/%s\n", version, plugins.Protocol, store.FormatVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	}}
}
