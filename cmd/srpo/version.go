package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// released is the version of a release; .ci/release sets it with -ldflags from the tag.
var released string

// version is the version of this program: that of the release, else the one that the go command derived from the
// tags of the checkout, else "dev".
var version = sync.OnceValue(func() string {
	if released != "" {
		return released
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
})

// versionLine is what `srpo --version` and `srpo version` print.
func versionLine() string {
	return fmt.Sprintf("srpo %s, plugin protocol %d, run format %d, %s %s/%s\n",
		version(), plugins.Protocol, store.FormatVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print versions", RunE: func(*cobra.Command, []string) error {
		if a.json {
			return a.printJSON(map[string]any{
				"srpo": version(), "protocol": plugins.Protocol, "run_format": store.FormatVersion,
				"go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
			})
		}
		_, err := fmt.Fprint(a.out, versionLine())
		return err
	}}
}
