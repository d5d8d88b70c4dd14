package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/export"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) policyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Export a trained policy from a run",
		Args:  cobra.ArbitraryArgs,
		RunE:  onlySubcommands,
	}
	c.AddCommand(a.policyExport())
	return c
}

func (a *app) policyExport() *cobra.Command {
	o := export.Options{Iteration: -1}
	c := &cobra.Command{
		Use:   "export RUN --out FOLDER",
		Short: "Copy the policy of a checkpoint, in its published format if it has one",
		Long: "export copies the policy of a run's newest good checkpoint, of the one after iteration\n" +
			"--checkpoint, or of the --best one, and compares every byte with its checksum. For a policy with a\n" +
			"published format (openvla, pi0, pi0-fast) the copy contains what the original code loads, without\n" +
			"the optimiser state; for others it contains everything. --checkpoint of srpo run and srpo eval\n" +
			"takes the folder. Nothing is overwritten.",
		Example: "  srpo policy export runs/NAME --out my-policy\n" +
			"  srpo policy export runs/NAME --best --out my-policy",
		Args: oneArg("a run folder or one of its checkpoints"),
		RunE: func(c *cobra.Command, args []string) error {
			if o.To == "" {
				return plugins.Errorf(plugins.Invalid, "no folder to export to").WithPlace("--out").
					WithHint("give a new folder: --out my-policy")
			}
			if c.Flags().Changed("checkpoint") && o.Iteration < 0 {
				return plugins.Errorf(plugins.Invalid, "there is no iteration %d", o.Iteration).
					WithPlace("--checkpoint").
					WithHint("give 0 for the starting policy, or a later iteration")
			}
			term := report.NewTerminal(a.err)
			defer term.Close()
			o.From, o.Terminal = args[0], term
			x, err := export.Policy(c.Context(), o)
			if err != nil {
				return err
			}
			term.Close()
			if a.json {
				return a.printJSON(x)
			}
			rate := ""
			if x.SuccessRate != nil {
				rate = fmt.Sprintf(", success %.0f %%", 100**x.SuccessRate)
			}
			fmt.Fprintf(
				a.out, "%s: %d files, %.1f MB, from iteration %d%s\n", x.To, x.Files, float64(x.Bytes)/1e6, x.Iteration,
				rate,
			)
			if len(x.LeftOut) > 0 {
				fmt.Fprintf(a.out, "left out, because only training needs them: %s\n", strings.Join(x.LeftOut, ", "))
			}
			return nil
		},
	}
	outFlag(c, &o.To)
	c.Flags().IntVar(
		&o.Iteration, "checkpoint", -1, "iteration whose checkpoint to export; default: the newest good one",
	)
	c.Flags().BoolVar(&o.Best, "best", false, "export the checkpoint with the highest success rate")
	return c
}
