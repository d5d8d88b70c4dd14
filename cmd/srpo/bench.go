package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/bench"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/plugins"
)

// benchOptions are the flags of `srpo bench`.
type benchOptions struct {
	settings settingsFlags
	out      string
	repeats  int
	lanes    []int
	quick    bool
	noPython bool
}

var benchNames = []string{"host", "clip", "step", "encoder", "libero", "reward"}

func (a *app) benchCommand() *cobra.Command {
	var o benchOptions
	c := &cobra.Command{
		Use:   "bench [host|clip|step|encoder|libero|reward]...",
		Short: "Measure what srpo costs on this machine",
		Long: "bench measures with real processes through the host's real path, next to what it is compared with:\n" +
			"  host    microseconds of overhead an env step, beside gymnasium's AsyncVectorEnv\n" +
			"  clip    milliseconds for a clip to an encoder and for a frame from an env\n" +
			"  step    steps a second of the env that --env names\n" +
			"  encoder clips a second of the encoder that --encoder names, and a progress curve in one call beside " +
				"clip by clip\n" +
			"  libero  steps a second of libero, beside the unmodified OffScreenRenderEnv\n" +
			"  reward  seconds for clustering and rewards of up to 10,000 embeddings of 1408 numbers\n" +
			"Without a name: host, clip and step. The Python side is installed into its own environment on first " +
				"use. Other programs on the machine disturb\n" +
			"times more than ratios; the load is noted.",
		Example:   "  srpo bench\n  srpo bench host clip --out docs/results/bench.md\n  srpo bench encoder " +
			"--encoder generic\n  srpo bench libero --json",
		Args:      cobra.ArbitraryArgs,
		ValidArgs: benchNames,
		RunE:      func(c *cobra.Command, args []string) error { return a.bench(c.Context(), &o, args) },
	}
	o.settings.add(c, "policy", "task", "seed", "iterations", "checkpoint", "lanes", "out", "name", "tensorboard",
		"reward", "cluster", "references", "offline", "data", "arena")
	c.Flags().StringVar(&o.out, "out", "", "write the tables to this Markdown file too")
	c.Flags().IntVar(&o.repeats, "repeats", 0, "runs of each measurement; 0: 5, or 60 calls for clip, or 3 for " +
		"libero")
	c.Flags().IntSliceVar(&o.lanes, "lanes", nil, "numbers of lanes for host, step and libero; default 1,8,64,256, " +
		"1,8,32 and 1,2")
	c.Flags().BoolVar(&o.quick, "quick", false, "short runs, without a process a lane: to see that it works")
	c.Flags().BoolVar(&o.noPython, "no-python", false, "leave out what needs Python")
	return c
}

func (a *app) bench(ctx context.Context, o *benchOptions, names []string) error {
	if len(names) == 0 {
		names = []string{"host", "clip", "step"}
	}
	for _, n := range names {
		known := false
		for _, k := range benchNames {
			known = known || n == k
		}
		if !known {
			return plugins.Errorf(plugins.Invalid, "there is no benchmark %q", n).WithHint("one of %s",
				strings.Join(benchNames, ", "))
		}
	}
	term := report.NewTerminal(a.err)
	defer term.Close()
	cfg, err := o.settings.load()
	if err != nil {
		return err
	}
	beside := slices.ContainsFunc(names, func(n string) bool { return n != "step" && n != "encoder" &&
		n != "reward" }) // these have nothing in Python beside them
	tools, err := benchTools(ctx, cfg, term, beside && !o.noPython)
	if err != nil {
		return err
	}
	r := bench.Report{Command: strings.Join(append([]string{"srpo"}, os.Args[1:]...), " "), Commit: commit(),
		Date: time.Now().UTC().Truncate(time.Second), Machine: bench.ThisMachine()}
	for _, n := range names {
		s, err := a.benchSection(ctx, n, o, cfg, term, tools)
		if err != nil {
			return err
		}
		r.Sections = append(r.Sections, s)
		if o.out != "" { // after each: the next one may take minutes, or fail
			if err := writeReport(r, o.out); err != nil {
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

func writeReport(r bench.Report, path string) error {
	var b bytes.Buffer
	if err := r.Markdown(&b); err != nil {
		return err
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s",
			path).WithHint("give a file in a folder that exists and has room")
	}
	return nil
}

func (a *app) benchSection(ctx context.Context, name string, o *benchOptions, cfg *config.Config,
	term *report.Terminal, tools bench.Tools) (bench.Section, error) {
	switch name {
	case "host":
		h := bench.OverheadOptions{Lanes: o.lanes, Repeats: o.repeats, Alone: !o.quick}
		if o.quick {
			h.Seconds, h.Repeats = 0.1, max(o.repeats, 1)
		}
		return bench.Overhead(ctx, tools, h)
	case "clip":
		c := bench.ClipOptions{Repeats: o.repeats}
		if o.quick && c.Repeats == 0 {
			c.Repeats = 5
		}
		return bench.Clip(ctx, tools, c)
	case "reward":
		r := bench.RewardOptions{Repeats: o.repeats}
		if o.quick {
			r.Sizes, r.Repeats = []int{100, 1000}, max(o.repeats, 1)
		}
		return bench.Reward(ctx, r)
	case "step":
		launch, err := envLaunch(ctx, cfg, term, cfg.Run.Env)
		if err != nil {
			return bench.Section{}, err
		}
		s := bench.StepOptions{Env: launch, Lanes: o.lanes, Repeats: o.repeats}
		if o.quick {
			s.Seconds, s.Repeats = 0.1, max(o.repeats, 1)
		}
		return bench.Steps(ctx, tools, s)
	case "encoder":
		launch, err := launcher(cfg, term)
		if err != nil {
			return bench.Section{}, err
		}
		l, _, err := launch.Launch(ctx, plugins.Encoder, cfg.Run.Encoder)
		if err != nil {
			return bench.Section{}, err
		}
		e := bench.EncoderOptions{Encoder: l, Repeats: o.repeats,
			Resolve: func(declared []plugins.Setting) (plugins.Settings, error) {
				return cfg.ResolvePlugin(plugins.Encoder, l.Name, declared)
			}}
		if o.quick {
			e.Lengths, e.Episode, e.Windows, e.Repeats = []int{4}, 8, 4, max(o.repeats, 1)
		}
		return bench.Encode(ctx, tools, e)
	default:
		if o.noPython {
			return bench.Section{}, plugins.Errorf(plugins.Invalid,
				"libero runs on Python").WithPlace("--no-python").WithHint("leave one of the two out")
		}
		launch, err := envLaunch(ctx, cfg, term, "libero")
		if err != nil {
			return bench.Section{}, err
		}
		tools.Libero = launch
		return bench.Libero(ctx, tools, bench.LiberoOptions{Lanes: o.lanes, Repeats: o.repeats})
	}
}

func envLaunch(ctx context.Context, cfg *config.Config, term *report.Terminal, name string) (supervise.Launch,
	error) {
	launch, err := launcher(cfg, term)
	if err != nil {
		return supervise.Launch{}, err
	}
	l, _, err := launch.Launch(ctx, plugins.Env, name)
	return l, err
}

// benchTools launches what does nothing: this program's own, and the Python package, installed on first use.
func benchTools(ctx context.Context, cfg *config.Config, term *report.Terminal, python bool) (bench.Tools, error) {
	t := bench.Tools{ArenaMB: cfg.Host.ArenaMB, Say: func(format string, args ...any) { term.Line(format, args...) }}
	if cfg.Host.Arena == "off" {
		t.ArenaMB = 0
	}
	program, err := os.Executable()
	if err != nil {
		return t, plugins.Errorf(plugins.Internal, "finding srpo's own program: %w", err)
	}
	own := func(kind plugins.Kind) supervise.Launch {
		return supervise.Launch{Kind: kind, Name: bench.Name, Argv: []string{program, "plugin", "serve",
			string(kind), bench.Name}}
	}
	t.Env, t.Policy, t.Encoder = own(plugins.Env), own(plugins.Policy), own(plugins.Encoder)
	if !python {
		return t, nil
	}
	prep, err := preparer(cfg, term)
	if err != nil {
		return t, err
	}
	cat := &catalog.Catalog{Embedded: []fs.FS{bench.Files()}, Cache: prep.Cache}
	pkg, err := cat.Find(plugins.Encoder, "bench")
	if err != nil {
		return t, err
	}
	t.Python, err = prep.Prepare(ctx, pkg)
	return t, err
}

// commit is what this program was built from: what the Go toolchain stamped into it, or git's own word for the working folder.
func commit() string {
	rev, dirty := "", false
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				rev = s.Value
			case "vcs.modified":
				dirty = s.Value == "true"
			}
		}
	}
	if rev == "" {
		dir, err := os.Getwd()
		if err != nil {
			return "unknown"
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
			return "unknown"
		}
		out, err := exec.Command("git", "rev-parse", "HEAD").Output()
		if err != nil {
			return "unknown"
		}
		rev = strings.TrimSpace(string(out))
		dirty = exec.Command("git", "diff", "--quiet", "HEAD", "--", "*.go", "*.py").Run() != nil
	}
	if dirty {
		return fmt.Sprintf("%.10s with changes", rev)
	}
	return fmt.Sprintf("%.10s", rev)
}
