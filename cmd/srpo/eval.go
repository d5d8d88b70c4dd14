package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
)

func (a *app) evalCommand() *cobra.Command {
	var f settingsFlags
	var o host.EvalOptions
	c := &cobra.Command{
		Use:   "eval --checkpoint FOLDER",
		Short: "Measure a policy's success rate",
		Long: "eval rolls each start state of each task once with a policy that does not learn from it, greedily unless --sample is given, and writes\n" +
			"episodes.jsonl, results.json and a table with Wilson 95 % intervals. Stopped at any time, the same command goes on where it was.\n\n" +
			"--checkpoint is a run folder (its last iteration), one of its checkpoints, or a policy's own folder. A run's env, policy, tasks and settings are\n" +
			"taken over, and so is its seed, so that --states train and test are the run's own split; flags win. Results go to runs/NAME-eval unless --out\n" +
			"says otherwise. A folder that holds an evaluation of anything else is refused.",
		Example: "  srpo eval --checkpoint runs/NAME --states test\n  srpo eval --checkpoint runs/NAME/checkpoints/000004 --sample --out runs/NAME-sampled\n" +
			"  srpo eval --checkpoint runs/NAME --set policy.tiny.image=false --out runs/NAME-blind",
		RunE: func(c *cobra.Command, _ []string) error { return a.evaluate(c.Context(), &f, o) },
	}
	f.add(c, "encoder", "iterations", "out", "name", "tensorboard", "reward", "cluster", "references")
	c.Flags().StringVar(&o.Dir, "out", "", "folder for the results; default runs/NAME-eval")
	c.Flags().StringVar(&o.States, "states", "all", "start states: all, or the train or test side of the split by seed")
	c.Flags().IntVar(&o.Episodes, "episodes", 0, "episodes, spread over tasks and start states; 0: each start state once")
	c.Flags().BoolVar(&o.Sample, "sample", false, "draw actions at rollout.temperature instead of taking the likeliest")
	c.Flags().IntVar(&o.Videos, "videos", 0, "episodes to save as videos")
	return c
}

func (a *app) evaluate(ctx context.Context, f *settingsFlags, o host.EvalOptions) error {
	term := report.NewTerminal(a.err)
	defer term.Close()
	cfg, err := f.loadFor(f.cmd.Flags().Lookup("checkpoint").Value.String())
	if err != nil {
		return err
	}
	launch, err := launcher(cfg, term)
	if err != nil {
		return err
	}
	o.Config, o.Launch, o.Terminal, o.Version, o.Command = cfg, launch, term, version, append([]string{"srpo"}, os.Args[1:]...)
	result, err := host.Evaluate(ctx, o)
	term.Close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(result)
	}
	if err := result.Table(a.out); err != nil {
		return err
	}
	term.Line("%d episodes rolled in %.1f s; results: %s", result.Rolled, result.Seconds, filepath.Join(result.Dir, "results.json"))
	return nil
}

// loadFor is load with the configuration of the run that a checkpoint belongs to in the place of srpo.toml, unless --config names another.
func (f *settingsFlags) loadFor(checkpoint string) (*config.Config, error) {
	if f.file == "" && checkpoint != "" {
		if run, ok := host.RunOf(checkpoint); ok {
			cfg, err := config.Load(config.Input{File: filepath.Join(run, "srpo.toml"), Set: f.set, Flags: f.given()})
			if err != nil {
				return nil, err
			}
			return cfg, nil
		}
	}
	return f.load()
}
