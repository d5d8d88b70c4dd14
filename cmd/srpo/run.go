package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) runCommand() *cobra.Command {
	var f settingsFlags
	var resume string
	c := &cobra.Command{
		Use:   "run",
		Short: "Train a policy: rollouts, rewards, updates, again",
		Long: "run makes the starting policy from the env's expert when no checkpoint is given, and then trains it. Whatever ends the run, --resume goes on\n" +
			"from the last committed iteration, with the same results as if nothing had happened.\n\n" +
			"With --offline it does not act: it learns from recorded episodes, weighing each step by the progress that its video shows, see [offline].",
		Example: "  srpo run\n  srpo run --env libero --task 'libero_object/*bbq*'\n  srpo run --reward binary --set policy.tiny.lr=1e-3\n" +
			"  srpo run --offline attempts --checkpoint runs/one-shot\n  srpo run --resume runs/NAME",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.train(c.Context(), &f, resume, false)
		},
	}
	f.add(c)
	c.Flags().StringVar(&resume, "resume", "", "run folder to go on with")
	return c
}

func (a *app) imitateCommand() *cobra.Command {
	var f settingsFlags
	c := &cobra.Command{
		Use:   "imitate",
		Short: "Make a starting policy from demonstrations",
		Long: "imitate trains the policy on [imitate] demos demonstrations a task of the env's scripted expert, or on the successes among the episodes of --data: a run\n" +
			"folder or recording with trajectories, or a LeRobot data set. --checkpoint is what it starts from, fresh weights otherwise. The result is checkpoint 0 of a\n" +
			"run folder. Give that folder to `srpo run --checkpoint` or `srpo eval --checkpoint`.",
		Example: "  srpo imitate --out runs/one-shot\n  srpo imitate --env libero --task 'libero_object/*bbq*' --set imitate.demos=5\n" +
			"  srpo imitate --env libero --task 'libero_object/*' --policy openvla --checkpoint OPENVLA_7B --data DATA_SET",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.train(c.Context(), &f, "", true)
		},
	}
	f.add(c, "iterations", "reward", "cluster", "references", "encoder", "tensorboard", "offline")
	return c
}

// free are the settings that a resumed run may change: they do not change what an iteration computes.
var free = []string{"run.iterations", "run.solved_after", "run.lanes", "run.videos", "run.keep", "run.keep_clips", "run.keep_embeddings", "run.keep_trajectories", "run.tensorboard", "report.", "host."}

func (a *app) train(ctx context.Context, f *settingsFlags, resume string, imitateOnly bool) error {
	term := report.NewTerminal(a.err)
	defer term.Close()
	var cfg *config.Config
	var err error
	if resume != "" {
		if _, err := os.Stat(resume); err != nil {
			return plugins.Errorf(plugins.NotFound, "no run folder %s", resume).WithPlace("--resume").WithHint("give the folder that an earlier run printed, e.g. runs/NAME")
		}
		in := config.Input{File: filepath.Join(resume, "srpo.toml"), Set: f.set, Flags: f.given()}
		if cfg, err = config.Load(in); err != nil {
			return err
		}
		for _, v := range cfg.Values() {
			key := v.Key
			if o := cfg.Origin(key); o.Layer == "set" || o.Layer == "flag" {
				ok := false
				for _, k := range free {
					ok = ok || key == k || strings.HasSuffix(k, ".") && strings.HasPrefix(key, k)
				}
				if !ok {
					return plugins.Errorf(plugins.Invalid, "a resumed run keeps its %s", key).WithPlace("%s", o).WithHint("leave it out, or start a new run with --checkpoint %s", resume)
				}
			}
		}
	} else if cfg, err = f.load(); err != nil {
		return err
	}
	launch, err := launcher(cfg, term)
	if err != nil {
		return err
	}
	cache, err := pyenv.CacheDir()
	if err != nil {
		return err
	}
	if o := cfg.Origin("run.iterations"); cfg.Offline.Data != "" && o.Layer == "default" {
		cfg.Run.Iterations = 1 // one regression; the default is meant for updates from fresh rollouts
	}
	sum, err := host.Run(ctx, host.Options{Cache: filepath.Join(cache, "embeddings"), Reader: lerobotReader(cfg, term), Config: cfg, Launch: launch, Terminal: term, Version: version, Command: append([]string{"srpo"}, os.Args[1:]...), Resume: resume, ImitateOnly: imitateOnly})
	term.Close()
	if err != nil {
		return err
	}
	if imitateOnly {
		term.Line("starting policy: %s", sum.Dir)
		term.Line("next: srpo run --checkpoint %s", sum.Dir)
	} else if cfg.Offline.Data != "" {
		term.Line("report: %s", filepath.Join(sum.Dir, "report.html"))
		term.Line("checkpoint: %s", sum.Checkpoint)
		term.Line("next: srpo eval --checkpoint %s, or srpo run --checkpoint %s", sum.Dir, sum.Dir)
	} else {
		term.Summary(sum.Metrics, "report: "+filepath.Join(sum.Dir, "report.html"), "checkpoint: "+sum.Checkpoint)
	}
	if a.json {
		return a.printJSON(sum)
	}
	return nil
}
