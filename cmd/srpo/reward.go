package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host"
	"github.com/srpo-dev/srpo/host/report"
)

func (a *app) rewardCommand() *cobra.Command {
	var f settingsFlags
	var o host.RewardOptions
	c := &cobra.Command{
		Use:   "reward ATTEMPTS",
		Short: "Score attempts at tasks, zero-shot: nothing is trained",
		Long: "reward pays each attempt as srpo run does: 1 for a success, and for anything else by its distance to the successes of its task.\n" +
			"Attempts without a label are scored against the labelled ones.\n\n" +
			"ATTEMPTS is a list (.json, .jsonl or .csv) of {id, task, success, embedding}.",
		Example: "  srpo reward list.json\n  srpo reward list.csv --reward minmax --cluster reference --json",
		Args:    oneArg("a list, a folder of videos or a run folder"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Source = args[0]
			return a.reward(c.Context(), &f, o)
		},
	}
	f.add(c, "env", "policy", "task", "iterations", "checkpoint", "lanes", "out", "name", "tensorboard")
	return c
}

func (a *app) reward(ctx context.Context, f *settingsFlags, o host.RewardOptions) error {
	term := report.NewTerminal(a.err)
	defer term.Close()
	cfg, err := f.load()
	if err != nil {
		return err
	}
	launch, err := launcher(cfg, term)
	if err != nil {
		return err
	}
	o.Config, o.Launch, o.Terminal = cfg, launch, term
	result, err := host.Reward(ctx, o)
	term.Close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(result)
	}
	return result.Table(a.out)
}
