package main

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/bench"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/plugins"
)

// benchOptions are the flags of `srpo bench`.
type benchOptions struct {
	settings settingsFlags
	out      string
	repeats  int
	lanes    []int
	quick    bool
}

// benchmarks measure the user's plugins. Those of the host itself are in the developers' program cmd/srpo-bench.
var benchmarks = []string{"step", "encoder"}

func (a *app) benchCommand() *cobra.Command {
	var o benchOptions
	c := &cobra.Command{
		Use:   "bench [step|encoder]...",
		Short: "Measure the speed of an env or an encoder on this machine",
		Long: "bench measures plugins on this machine, through the same code as a run:\n" +
			"  step    steps per second of the env that --env names\n" +
			"  encoder clips per second of the encoder that --encoder names, and a progress curve in one call\n" +
			"Without a name it measures both. Other programs on the machine disturb the results, so the load\n" +
			"average is printed too.",
		Example: "  srpo bench\n" +
			"  srpo bench step --env libero --lanes 1,2,4\n" +
			"  srpo bench encoder --encoder generic --json",
		Args:      cobra.ArbitraryArgs,
		ValidArgs: benchmarks,
		RunE:      func(c *cobra.Command, args []string) error { return a.bench(c.Context(), &o, args) },
	}
	o.settings.add(c, "policy", "task", "seed", "iterations", "checkpoint", "lanes", "out", "name", "tensorboard",
		"reward", "cluster", "references", "offline", "data", "arena")
	c.Flags().StringVar(&o.out, "out", "", "also write the tables to this Markdown file")
	c.Flags().IntVar(&o.repeats, "repeats", 0, "runs of each measurement; 0: 5")
	c.Flags().IntSliceVar(&o.lanes, "lanes", nil, "numbers of lanes for step; default 1,8,32")
	c.Flags().BoolVar(&o.quick, "quick", false, "short runs, to see that it works")
	return c
}

func (a *app) bench(ctx context.Context, o *benchOptions, names []string) error {
	if len(names) == 0 {
		names = benchmarks
	}
	for _, n := range names {
		switch {
		case slices.Contains([]string{"host", "clip", "libero", "reward"}, n):
			return plugins.Errorf(plugins.Invalid, "the benchmark %s is part of the developers' program "+
				"srpo-bench", n).
				WithHint("in a checkout of srpo: go run ./cmd/srpo-bench %s", n)
		case !slices.Contains(benchmarks, n):
			return plugins.Errorf(plugins.Invalid, "there is no benchmark %q", n).
				WithHint("one of %s", strings.Join(benchmarks, ", "))
		}
	}
	term := report.NewTerminal(a.err)
	defer term.Close()
	cfg, err := o.settings.load()
	if err != nil {
		return err
	}
	launch, err := launcher(cfg, term)
	if err != nil {
		return err
	}
	r := bench.NewReport(strings.Join(append([]string{"srpo"}, os.Args[1:]...), " "))
	for _, n := range names {
		s, err := benchSection(ctx, n, o, cfg, term, launch)
		if err != nil {
			return err
		}
		r.Sections = append(r.Sections, s)
		if o.out != "" { // after each section, because the next one can take minutes or fail
			if err := r.WriteFile(o.out); err != nil {
				return err
			}
			term.Line("written: %s", o.out)
		}
	}
	if a.json {
		return a.printJSON(r)
	}
	return r.Markdown(a.out)
}

func benchSection(ctx context.Context, name string, o *benchOptions, cfg *config.Config, term *report.Terminal,
	launch session.Launcher) (bench.Section, error) {
	t := bench.Tools{ArenaMB: cfg.Host.ArenaMB, Progress: term.Line}
	if cfg.Host.Arena == "off" {
		t.ArenaMB = 0
	}
	kind, plugin := plugins.Env, cfg.Run.Env
	if name == "encoder" {
		kind, plugin = plugins.Encoder, cfg.Run.Encoder
	}
	l, _, err := launch.Launch(ctx, kind, plugin)
	if err != nil {
		return bench.Section{}, err
	}
	resolve := func(declared []plugins.Setting) (plugins.Settings, error) {
		return cfg.ResolvePlugin(kind, l.Name, declared)
	}
	if name == "encoder" {
		e := bench.EncoderOptions{Encoder: l, Repeats: o.repeats, Resolve: resolve}
		if o.quick {
			e.Lengths, e.Episode, e.Windows, e.Repeats = []int{4}, 8, 4, max(o.repeats, 1)
		}
		return bench.Encode(ctx, t, e)
	}
	s := bench.StepOptions{Env: l, Resolve: resolve, Lanes: o.lanes, Repeats: o.repeats}
	if o.quick {
		s.Seconds, s.Repeats = 0.1, max(o.repeats, 1)
	}
	return bench.Steps(ctx, t, s)
}
