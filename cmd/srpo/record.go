package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/record"
	"github.com/srpo-dev/srpo/host/report"
)

func (a *app) recordCommand() *cobra.Command {
	var f settingsFlags
	o := record.Options{}
	c := &cobra.Command{
		Use:   "record",
		Short: "Record episodes of an expert, of random actions or of a policy, as clips with labels",
		Long: "record runs episodes of the env's scripted expert (also with noise, or failing on purpose), of\n" +
			"random actions or of a policy, and writes the frames of each as clips/*.npz (T x H x W x 3 uint8)\n" +
			"with a line in labels.jsonl, for srpo encoder train and srpo reward. Frames are from the env's\n" +
			"recording camera, one every rollout.record_every steps. --trajectories adds observations and\n" +
			"actions of every step, for srpo run --offline, srpo imitate --data and srpo data export. If the\n" +
			"command is stopped, the same command continues.",
		Example: "  srpo record --task 'tabletop/*' --actor expert --actor noise:0.6 --actor random --episodes 300 " +
			"--out clips\n" +
			"  srpo record --env libero --task 'libero_object/*' --actor expert --actor noise:0.5 --episodes " +
			"100 --set rollout.record_every=2\n" +
			"  srpo record --actor policy --checkpoint runs/one-shot --episodes 200 --trajectories --out attempts",
		RunE: func(c *cobra.Command, _ []string) error { return a.record(c.Context(), &f, o) },
	}
	f.add(
		c, "encoder", "iterations", "out", "name", "tensorboard", "reward", "cluster", "references", "offline", "data",
	)
	c.Flags().StringVar(&o.Dir, "out", "recording", "folder for clips and labels")
	c.Flags().StringArrayVar(&o.Actors, "actor", []string{"expert"},
		"expert, noise:SIGMA (std in action units), fail:WAY (one that the env offers, e.g. miss, drop, "+
			"wrong, stall; +noise:SIGMA), random, policy (sampled at rollout.temperature) or policy:greedy; "+
			"may be repeated")
	c.Flags().BoolVar(&o.Trajectories, "trajectories", false, "also keep observations and actions of every step")
	c.Flags().IntVar(&o.Episodes, "episodes", 100, "episodes of each actor, spread over tasks and start states")
	return c
}

func (a *app) record(ctx context.Context, f *settingsFlags, o record.Options) error {
	term := report.NewTerminal(a.err)
	defer term.Close()
	cfg, err := f.load()
	if err != nil {
		return err
	}
	launch, err := f.launcher(cfg, term)
	if err != nil {
		return err
	}
	o.Config, o.Launch, o.Terminal, o.Version = cfg, launch, term, version()
	r, err := record.Run(ctx, o)
	term.Close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	for _, by := range r.ByActor {
		fmt.Fprintf(a.out, "%s: %d episodes, %d successes\n", by.Actor, by.Episodes, by.Successes)
	}
	fmt.Fprintf(
		a.out, "%d clips in %s, labels in %s; %.1f s\n", r.Episodes, filepath.Join(r.Dir, "clips"),
		filepath.Join(r.Dir, "labels.jsonl"), r.Seconds,
	)
	return nil
}
