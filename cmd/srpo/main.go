// Command srpo makes a robot policy better by trying: see README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/plugins"
)

// exitCodes are stable: scripts may rely on them.
var exitCodes = map[plugins.ErrorKind]int{
	plugins.Internal: 1, plugins.Invalid: 2, plugins.NotFound: 3, plugins.Unsupported: 4, plugins.Mismatch: 4,
	plugins.Exhausted: 5,
	plugins.Deadline:  6, plugins.Unavailable: 7, plugins.Corrupt: 8, plugins.Diverged: 8, plugins.Canceled: 130,
}

func main() { os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr)) }

// Main runs the command line and returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := interruptible(stderr)
	defer stop()
	app := &app{out: stdout, err: stderr}
	root := app.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, errReported) {
		return 1
	}
	e := plugins.AsError(err)
	if app.json {
		_ = json.NewEncoder(stdout).Encode(map[string]any{
			"error": map[string]string{
				"kind": e.Kind.String(), "message": e.Message, "place": e.Place, "hint": e.Hint, "detail": e.Detail,
			},
		})
	}
	printError(stderr, e)
	if code, ok := exitCodes[e.Kind]; ok {
		return code
	}
	return 1
}

// errReported ends a command that has already said what failed.
var errReported = errors.New("reported")

// printError writes one error with its place, details and remedy.
func printError(w io.Writer, e *plugins.Error) {
	fmt.Fprintf(w, "srpo: %s\n", e.Error())
	for _, line := range strings.Split(strings.TrimRight(e.Detail, "\n"), "\n") {
		if line != "" {
			fmt.Fprintf(w, "  | %s\n", line)
		}
	}
	if e.Hint != "" {
		fmt.Fprintf(w, "  try: %s\n", e.Hint)
	}
}

// interruptible returns a context that the first Ctrl-C or SIGTERM ends: the command stops in a committed state. The
// second one ends the process at once; plugins die with it, by their lifelines.
func interruptible(stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		s, ok := <-signals
		if !ok {
			return
		}
		fmt.Fprintf(stderr, "\nsrpo: %v: stopping; finished work is kept; press again to stop at once\n", s)
		cancel(fmt.Errorf("%v", s))
		if _, ok = <-signals; ok {
			os.Exit(130)
		}
	}()
	return ctx, func() { signal.Stop(signals); close(signals); cancel(nil) }
}

// app is what the verbs share.
type app struct {
	out, err io.Writer
	json     bool
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "srpo",
		Short: "Make a robot policy better by trying",
		Long: "srpo trains robot policies by reinforcement learning with a dense reward that costs nothing: the\n" +
			"policy's own successes are the reference, a frozen encoder embeds every rollout, and a failure\n" +
			"earns the more the closer it comes to a success (arXiv 2511.15605).",
		SilenceErrors: true, SilenceUsage: true,
		Version: version(),
	}
	root.SetVersionTemplate(versionLine())
	root.SetFlagErrorFunc(suggestFlag)
	root.AddCommand(a.runCommand(), a.imitateCommand(), a.evalCommand(), a.rewardCommand(), a.recordCommand(),
		a.reportCommand(), a.encoderCommand(), a.policyCommand(), a.dataCommand(), a.pluginCommand(), a.doctorCommand(),
		a.benchCommand(), a.versionCommand())
	for _, c := range root.Commands() {
		if c.RunE != nil && c.Args == nil {
			c.Args = noArgs
		}
		c.SuggestFor = synonyms[c.Name()]
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print the result as JSON on standard output")
	root.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(c, args[0])
		}
		return c.Help()
	}
	root.Args = cobra.ArbitraryArgs
	addCompletions(root)
	return root
}

// synonyms are other programs' names for the commands: for the hint of an unknown command.
var synonyms = map[string][]string{
	"run":    {"train", "resume"},
	"eval":   {"evaluate", "rollout"},
	"reward": {"score"},
	"record": {"collect"},
	"report": {"plot", "show"},
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return plugins.Errorf(plugins.Invalid, "%s takes no argument %q", c.CommandPath(), args[0]).
			WithHint("%s --help", c.CommandPath())
	}
	return nil
}

func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return plugins.Errorf(plugins.Invalid, "%s wants %s, got %d arguments", c.CommandPath(), what, len(args)).
				WithHint("%s --help", c.CommandPath())
		}
		return nil
	}
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// onlySubcommands runs a command that has only subcommands: without arguments it prints the help, and it refuses an
// unknown subcommand.
func onlySubcommands(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	return unknownCommand(c, args[0])
}
