package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/record"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/host/train"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) runCommand() *cobra.Command {
	var f settingsFlags
	var resume string
	c := &cobra.Command{
		Use:   "run",
		Short: "Train a policy",
		Long: "run repeats rollouts, rewards, update and commit. Without --checkpoint it first trains the starting\n" +
			"policy on demonstrations of the env's expert. Whatever ends the run, --resume continues from the\n" +
			"last committed iteration, with the same results as without the interruption.\n\n" +
			"With --offline no action is executed: the policy learns from recorded episodes, and each step is\n" +
			"weighted by the progress in its video, see [offline].",
		Example: "  srpo run\n" +
			"  srpo run --env libero --task 'libero_object/*bbq*'\n" +
			"  srpo run --reward binary --set policy.tiny.lr=1e-3\n" +
			"  srpo run --offline attempts --checkpoint runs/one-shot\n" +
			"  srpo run --resume runs/NAME",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.train(c.Context(), &f, resume, false)
		},
	}
	f.add(c)
	c.Flags().StringVar(&resume, "resume", "", "run folder to continue")
	return c
}

func (a *app) imitateCommand() *cobra.Command {
	var f settingsFlags
	var export string
	c := &cobra.Command{
		Use:   "imitate",
		Short: "Make a starting policy from demonstrations",
		Long: "imitate trains the policy on demonstrations of the env's scripted expert, [imitate] demos per task,\n" +
			"or on the successful episodes of --data: a run folder or recording with trajectories, or a LeRobot\n" +
			"data set. It starts from --checkpoint, or else from the policy's initial weights. The result is\n" +
			"checkpoint 0 of a run folder, for --checkpoint of srpo run and srpo eval.\n\n" +
			"With --export lerobot DIR nothing is trained: the same demonstrations are written to DIR as a\n" +
			"LeRobot data set (v3.0), with every camera of the env.",
		Example: "  srpo imitate --out runs/one-shot\n" +
			"  srpo imitate --env libero --task 'libero_object/*bbq*' --set imitate.demos=5\n" +
			"  srpo imitate --env libero --task 'libero_object/*' --policy openvla --checkpoint OPENVLA_7B " +
			"--data DATA_SET\n" +
			"  srpo imitate --env libero --task 'libero_object/*' --set imitate.demos=50 --export lerobot " +
			"demos-lerobot",
		Args: func(c *cobra.Command, args []string) error {
			if export != "" {
				return oneArg("a folder to write the demonstrations into")(c, args)
			}
			return noArgs(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if export != "" {
				return a.exportDemonstrations(c, &f, export, args[0])
			}
			return a.train(c.Context(), &f, "", true)
		},
	}
	f.add(c, "iterations", "reward", "cluster", "references", "encoder", "tensorboard", "offline")
	c.Flags().StringVar(
		&export, "export", "",
		"lerobot: write the demonstrations as a LeRobot data set into the given folder instead of training",
	)
	return c
}

// exportDemonstrations writes the demonstrations that imitate would train on as a data set.
func (a *app) exportDemonstrations(c *cobra.Command, f *settingsFlags, form, out string) error {
	ctx, place := c.Context(), "--export "+form+" "+out
	if form != "lerobot" {
		return plugins.Errorf(plugins.Invalid, "%q is not a form of a data set", form).WithPlace("--export").
			WithHint("give --export lerobot DIR")
	}
	for _, x := range []struct{ flag, hint string }{
		{"data", "run srpo data export FOLDER --out DIR for recorded episodes"},
		{"checkpoint", "record the policy with srpo record --actor policy --trajectories, then run srpo data export"},
		{"policy", "leave it out: only the env starts"},
		{"out", "leave it out, and give the folder after --export lerobot"},
		{"name", "leave it out: there is no run"},
	} {
		if fl := c.Flags().Lookup(x.flag); fl != nil && fl.Changed {
			return plugins.Errorf(plugins.Invalid, "--%s has no effect on an export of demonstrations", x.flag).
				WithPlace("%s", place).WithHint("%s", x.hint)
		}
	}
	term := report.NewTerminal(a.err)
	defer term.Close()
	cfg, err := f.load()
	if err != nil {
		return err
	}
	if err := newFolder(out, place); err != nil {
		return err
	}
	launch, err := f.launcher(cfg, term)
	if err != nil {
		return err
	}
	if _, err := lerobotLaunch(ctx, cfg, term); err != nil { // before the first episode
		return err
	}
	dir, err := record.DemonstrationsFolder(out)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	export := leRobotExport{from: dir, out: out}
	made, err := record.Demonstrate(ctx,
		record.DemonstrateOptions{Config: cfg, Launch: launch, Terminal: term, Dir: dir,
			Check: func(space dataset.Space) error {
				export.space = space
				_, err := exportRate(cfg, space, place)
				return err
			}})
	if err != nil {
		return err
	}
	if made.Failed > 0 {
		term.Warn("the env's expert failed in %d demonstrations, which were left out", made.Failed)
	}
	result, err := writeLeRobot(ctx, cfg, term, export)
	term.Close()
	if err != nil {
		return err
	}
	return a.exported(out, result)
}

// resumable lists the settings of the host that a resumed run may change, because they do not change the result of an
// iteration. Settings of plugins may change too, so that a run can continue with less memory; the run reports the
// changes.
var resumable = []string{
	"run.iterations", "run.solved_after", "run.lanes", "run.videos", "run.keep", "run.keep_clips",
	"run.keep_embeddings", "run.keep_trajectories", "run.tensorboard", "report.", "host.",
}

// checkResumable refuses settings that a resumed run cannot change.
func checkResumable(cfg *config.Config, resume string) error {
	for _, v := range cfg.Values() {
		if o := v.Origin; o.Layer != "set" && o.Layer != "flag" {
			continue
		}
		allowed := slices.ContainsFunc(resumable, func(r string) bool {
			return v.Key == r || strings.HasSuffix(r, ".") && strings.HasPrefix(v.Key, r)
		})
		if !allowed {
			return plugins.Errorf(plugins.Invalid, "a resumed run keeps its %s", v.Key).WithPlace("%s", v.Origin).
				WithHint("leave it out, or start a new run with --checkpoint %s", resume)
		}
	}
	return nil
}

func (a *app) train(ctx context.Context, f *settingsFlags, resume string, imitateOnly bool) error {
	term := report.NewTerminal(a.err)
	defer term.Close()
	var cfg *config.Config
	var err error
	if resume != "" {
		if cfg, err = f.loadRun(&resume, term); err != nil {
			return err
		}
		if err := checkResumable(cfg, resume); err != nil {
			return err
		}
	} else if cfg, err = f.load(); err != nil {
		return err
	}
	launch, err := f.launcher(cfg, term)
	if err != nil {
		return err
	}
	cache, err := pyenv.CacheDir()
	if err != nil {
		return err
	}
	if cfg.Offline.Data != "" { // the defaults are those of online learning
		if !cfg.Chosen("run.iterations") {
			cfg.Run.Iterations = 1 // one regression
		}
		if !cfg.Chosen("run.eval_every") {
			cfg.Run.EvalEvery = 0 // the env may be a real arm, which must not move unasked
		}
	}
	sum, err := train.Run(
		ctx, train.Options{
			Cache: filepath.Join(cache, "embeddings"), Reader: lerobotReader(cfg, term), Config: cfg, Launch: launch,
			Terminal: term, Version: version(), Command: append([]string{"srpo"}, os.Args[1:]...), Resume: resume,
			ImitateOnly: imitateOnly,
		},
	)
	term.Close()
	if err != nil {
		return err
	}
	if imitateOnly {
		term.Line("starting policy: %s", sum.Dir)
		term.Line("next: %s", nextRun(cfg, sum.Dir))
	} else if cfg.Offline.Data != "" {
		term.Line("report: %s", filepath.Join(sum.Dir, "report.html"))
		term.Line("checkpoint: %s", sum.Checkpoint)
		term.Line("next: srpo eval --checkpoint %s, or %s", sum.Dir, nextRun(cfg, sum.Dir))
	} else {
		var events []store.Event
		if rec, err := store.Read(sum.Dir); err == nil { // otherwise a summary without evaluations
			events = rec.Events
		}
		term.Summary(
			sum.Metrics, events, "report: "+filepath.Join(sum.Dir, "report.html"), "checkpoint: "+sum.Checkpoint,
		)
	}
	if a.json {
		return a.printJSON(sum)
	}
	return nil
}

// nextRun returns the command that trains the policy of a run folder online. If env or policy are not the defaults, it
// takes them and their settings from the folder, because the weights fit no other policy or env.
func nextRun(cfg *config.Config, dir string) string {
	if d := config.Default(); cfg.Run.Env == d.Run.Env && cfg.Run.Policy == d.Run.Policy {
		return "srpo run --checkpoint " + dir
	}
	acting := ""
	if cfg.Offline.Data != "" {
		acting = " --offline ''"
	}
	return fmt.Sprintf(
		"srpo run --config %s --checkpoint %s%s --out %s-srpo", filepath.Join(dir, "srpo.toml"), dir, acting, dir,
	)
}

// loadRun reads the settings of a run to resume and changes to the folder in which it was started, where its relative
// paths start and its srpo.lock is. Paths on the command line stay relative to the current folder. folder becomes
// absolute.
func (f *settingsFlags) loadRun(folder *string, term *report.Terminal) (*config.Config, error) {
	const place = "--resume"
	f.recorded = true
	given := *folder
	if _, err := os.Stat(given); err != nil {
		return nil, plugins.Errorf(plugins.NotFound, "no run folder %s", given).WithPlace(place).
			WithHint("give the folder that an earlier run printed, e.g. runs/NAME")
	}
	abs, err := filepath.Abs(given)
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace(place)
	}
	m, err := store.ReadManifest(given)
	if err != nil {
		return nil, plugins.AsError(err).WithPlace(place)
	}
	in := config.Input{File: filepath.Join(given, "srpo.toml"), Set: f.set, Flags: f.given()}
	if _, err := os.Stat(in.File); errors.Is(err, fs.ErrNotExist) {
		return nil, plugins.Errorf(plugins.Corrupt, "the settings of the run are missing: there is no %s", in.File).
			WithPlace(place).
			WithHint("restore it from a backup, or start a new run from its policy: srpo run --checkpoint %s", given)
	}
	cfg, err := config.Load(in)
	if err != nil {
		return nil, err
	}
	*folder = abs
	here, err := os.Getwd()
	if err != nil || m.WorkingFolder == "" || m.WorkingFolder == here {
		return cfg, nil
	}
	typed := func(key string) bool { l := cfg.Origin(key).Layer; return l == "set" || l == "flag" }
	if typed("host.plugin_path") {
		for i, dir := range cfg.Host.PluginPath {
			if cfg.Host.PluginPath[i], err = filepath.Abs(dir); err != nil {
				return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", cfg.Origin("host.plugin_path"))
			}
		}
	}
	if python := cfg.Host.Python; typed("host.python") && strings.ContainsRune(python, filepath.Separator) {
		if cfg.Host.Python, err = filepath.Abs(python); err != nil {
			return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", cfg.Origin("host.python"))
		}
	}
	if err := os.Chdir(m.WorkingFolder); err != nil {
		term.Warn(
			"cannot change to %s, where the run was started; relative paths in its settings start in %s",
			m.WorkingFolder, here,
		)
		return cfg, nil
	}
	term.Line("continuing in %s, where the run was started", m.WorkingFolder)
	return cfg, nil
}
