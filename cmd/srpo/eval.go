package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/evaluate"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) evalCommand() *cobra.Command {
	var f settingsFlags
	var o evaluate.Options
	var shard string
	var compare, merge bool
	c := &cobra.Command{
		Use:   "eval --checkpoint FOLDER | --compare A B | --merge SHARD...",
		Short: "Measure the success rate of a policy, or compare two evaluations",
		Long: "eval runs one episode from each start state of each task, greedily unless --sample is given, and\n" +
			"writes episodes.jsonl, results.json and report.html: success by suite and, if tasks have them, by\n" +
			"dimension and level, with Wilson 95 % intervals, totals, published rows for comparison, and a\n" +
			"video of each kind of outcome. The policy does not learn. If the command is stopped, the same\n" +
			"command continues.\n\n" +
			"--checkpoint is a run folder (its last iteration), one of its checkpoints, or a policy folder. A\n" +
			"run's env, policy, tasks, settings and seed are used, so that --states train and test are the\n" +
			"run's own split. Flags override them. The results go to runs/NAME-eval unless --out is given. A\n" +
			"folder with another evaluation is refused.\n\n" +
			"Without --checkpoint, --set imitate.demos=0 evaluates the policy's initial weights, such as a\n" +
			"published checkpoint that its settings name.\n\n" +
			"--shard I/N runs every N-th episode, for several machines; --merge joins the folders of the\n" +
			"shards. --compare A B prints the paired difference of two evaluations of the same episodes.",
		Example: "  srpo eval --checkpoint runs/NAME --states test\n" +
			"  srpo eval --checkpoint runs/NAME/checkpoints/000004 --sample --out runs/NAME-sampled\n" +
			"  srpo eval --checkpoint runs/NAME --set policy.tiny.image=false --out runs/NAME-blind\n" +
			"  srpo eval --compare runs/NAME-eval runs/NAME-blind\n" +
			"  srpo eval --policy openvla --set policy.openvla.checkpoint=FOLDER --set imitate.demos=0 --env " +
			"libero --task 'libero_spatial/*'\n" +
			"  srpo eval --checkpoint runs/NAME --shard 1/4 --out part-1\n" +
			"  srpo eval --merge part-1 part-2 part-3 part-4 --out runs/NAME-eval",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case compare && merge:
				return plugins.Errorf(plugins.Invalid, "--compare and --merge exclude each other").
					WithHint("give one of them")
			case compare && len(args) != 2:
				return plugins.Errorf(plugins.Invalid, "--compare needs two folders, got %d", len(args)).
					WithHint("srpo eval --compare A B")
			case compare:
				return a.compareEvals(args[0], args[1])
			case merge && len(args) == 0:
				return plugins.Errorf(plugins.Invalid, "--merge needs the folders of the shards").
					WithHint("srpo eval --merge part-1 part-2 --out FOLDER")
			case merge:
				r, err := evaluate.MergeFolders(args, o.Dir, version(), append([]string{"srpo"}, os.Args[1:]...))
				if err != nil {
					return err
				}
				return a.showResults(r)
			case len(args) > 0:
				return plugins.Errorf(plugins.Invalid, "eval takes no argument, got %q", args[0]).
					WithHint("give --checkpoint FOLDER")
			}
			if err := parseShard(shard, &o); err != nil {
				return err
			}
			return a.evaluate(c.Context(), &f, o)
		},
	}
	f.add(
		c, "encoder", "iterations", "out", "name", "tensorboard", "reward", "cluster", "references", "offline", "data",
	)
	c.Flags().StringVar(&o.Dir, "out", "", "folder for the results; default runs/NAME-eval")
	c.Flags().StringVar(&o.States, "states", "all", "all, or the train or test side of the split by seed")
	c.Flags().IntVar(
		&o.Episodes, "episodes", 0, "episodes, spread over tasks and start states; 0: each start state once",
	)
	c.Flags().BoolVar(
		&o.Sample, "sample", false, "sample actions at rollout.temperature instead of taking the likeliest",
	)
	c.Flags().IntVar(&o.Videos, "videos", 1, "videos of each kind of outcome; 0: none")
	c.Flags().StringVar(&shard, "shard", "", "I/N: every N-th episode, starting with the I-th")
	c.Flags().BoolVar(&compare, "compare", false, "compare two evaluations: --compare A B")
	c.Flags().BoolVar(&merge, "merge", false, "merge the folders of shards: --merge A B C --out FOLDER")
	return c
}

// parseShard parses I/N into o. An empty text is the whole evaluation.
func parseShard(text string, o *evaluate.Options) error {
	if text == "" {
		return nil
	}
	var rest string
	n, err := fmt.Sscanf(text+" .", "%d/%d %s", &o.Shard, &o.Shards, &rest)
	if n != 3 || err != nil || rest != "." || o.Shards < 1 {
		return plugins.Errorf(plugins.Invalid, "%q is not a shard", text).WithPlace("--shard").
			WithHint("give I/N, for example 1/4 to 4/4")
	}
	return nil
}

func (a *app) evaluate(ctx context.Context, f *settingsFlags, o evaluate.Options) error {
	term := report.NewTerminal(a.err)
	defer term.Close()
	cfg, err := f.loadFor(f.cmd.Flags().Lookup("checkpoint").Value.String())
	if err != nil {
		return err
	}
	if from := cfg.Origin("run.eval_episodes"); from.Layer == "set" {
		return plugins.Errorf(plugins.Invalid, "run.eval_episodes is the size of the evaluations of a run").
			WithPlace("%s", from).WithHint("give --episodes N")
	}
	launch, err := f.launcher(cfg, term)
	if err != nil {
		return err
	}
	o.Config, o.Launch, o.Terminal, o.Version, o.Command = cfg, launch, term, version(), append([]string{"srpo"},
		os.Args[1:]...)
	result, err := evaluate.Run(ctx, o)
	term.Close()
	if err != nil {
		return err
	}
	if err := a.showResults(result); err != nil || a.json {
		return err
	}
	term.Line(
		"%d episodes in %.1f s; results: %s", result.Rolled, result.Seconds, filepath.Join(
			result.Dir, evaluate.ReportFile,
		),
	)
	return nil
}

func (a *app) showResults(r *evaluate.Results) error {
	if a.json {
		return a.printJSON(r)
	}
	return r.Table(a.out)
}

func (a *app) compareEvals(first, second string) error {
	c, err := evaluate.CompareFolders(first, second)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(c)
	}
	return c.Table(a.out)
}

// loadFor is load, but reads the settings of the run that the checkpoint belongs to in place of srpo.toml, unless
// --config names a file.
func (f *settingsFlags) loadFor(checkpoint string) (*config.Config, error) {
	if f.file == "" && checkpoint != "" {
		if run, ok := session.RunOf(checkpoint); ok {
			cfg, err := config.Load(config.Input{File: filepath.Join(run, "srpo.toml"), Set: f.set, Flags: f.given()})
			if err != nil {
				return nil, err
			}
			f.recorded = true
			return cfg, f.fromRun(cfg, run)
		}
	}
	return f.load()
}

// fromRun resolves the relative paths in the settings of a run against the folder in which the run was started, as
// --resume does. The run's srpo.lock is in that folder too. Paths on the command line stay relative to the current
// folder.
func (f *settingsFlags) fromRun(cfg *config.Config, run string) error {
	m, err := store.ReadManifest(run)
	if err != nil {
		return err
	}
	if here, err := os.Getwd(); err != nil || here == m.WorkingFolder || m.WorkingFolder == "" {
		return nil
	}
	if _, err := os.Stat(m.WorkingFolder); err != nil {
		return nil // the folder was moved, or is on another machine: relative paths start here
	}
	f.home = m.WorkingFolder
	resolve := func(key string, isPath func(string) bool, paths ...*string) {
		for _, path := range paths {
			if cfg.Origin(key).Layer == "file" && isPath(*path) && !filepath.IsAbs(*path) && !strings.HasPrefix(*path,
				"~") {
				*path = filepath.Join(f.home, *path)
			}
		}
	}
	resolve("run.env", catalog.IsPath, &cfg.Run.Env)
	resolve("run.policy", catalog.IsPath, &cfg.Run.Policy)
	resolve("run.encoder", catalog.IsPath, &cfg.Run.Encoder)
	resolve("host.python", func(s string) bool { return strings.ContainsRune(s, filepath.Separator) }, &cfg.Host.Python)
	for i := range cfg.Host.PluginPath {
		resolve("host.plugin_path", func(string) bool { return true }, &cfg.Host.PluginPath[i])
	}
	return nil
}

// launcher is like the function launcher, but uses the lock of the run that the settings are from. Packages that the
// user's own settings name by path may be locked again; those that a run folder names may not.
func (f *settingsFlags) launcher(cfg *config.Config, term *report.Terminal) (session.Launcher, error) {
	launch, err := launcher(cfg, term)
	if p, ok := launch.(packaged); ok {
		p.prep.Relock = !f.recorded
		if f.home != "" {
			p.prep.Lock = filepath.Join(f.home, lock.FileName)
		}
	}
	return launch, err
}
