// Srpo-bench measures the costs of the host, for developers of srpo:
//
//	host    microseconds of overhead per env step, beside gymnasium's AsyncVectorEnv
//	clip    milliseconds to send a clip to an encoder, and to receive a frame from an env
//	libero  steps per second of libero, beside the unmodified OffScreenRenderEnv
//	reward  seconds for clustering and rewards of up to 10,000 embeddings
//
// Without a name it measures host and clip. Python environments are installed on first use. Run it from a checkout:
//
//	go run ./cmd/srpo-bench [-json] [-out FILE] [-quick] [-lanes N,N] [-repeats N] [-no-python] [NAME]...
//
// `srpo bench` measures the user's own env and encoder.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/srpo-dev/srpo/envs/libero"
	"github.com/srpo-dev/srpo/host/bench"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/sdk"
	pythonsdk "github.com/srpo-dev/srpo/sdk/python"
)

type options struct {
	json, quick, noPython bool
	out, lanes            string
	repeats               int
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		serve(plugins.Kind(os.Args[2]))
		return
	}
	var o options
	flag.BoolVar(&o.json, "json", false, "print the result as JSON")
	flag.StringVar(&o.out, "out", "", "also write the tables to this Markdown file")
	flag.BoolVar(&o.quick, "quick", false, "short runs, to see that it works")
	flag.StringVar(&o.lanes, "lanes", "", "numbers of lanes for host and libero; default 1,8,64,256 and 1,2")
	flag.IntVar(&o.repeats, "repeats", 0, "runs of each measurement; 0: 5 for host, 60 for clip, 3 for libero and "+
		"reward")
	flag.BoolVar(&o.noPython, "no-python", false, "leave out the comparisons with Python")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "srpo-bench:", err)
		var e *plugins.Error
		if errors.As(err, &e) && e.Hint != "" {
			fmt.Fprintln(os.Stderr, "  try:", e.Hint)
		}
		os.Exit(1)
	}
}

// serve serves an idle plugin. This program starts itself in this way.
func serve(kind plugins.Kind) {
	switch kind {
	case plugins.Env:
		sdk.ServeEnv(bench.NewEnv())
	case plugins.Policy:
		sdk.ServePolicy(bench.NewPolicy())
	case plugins.Encoder:
		sdk.ServeEncoder(bench.NewEncoder())
	}
}

func run(ctx context.Context, w io.Writer, o options, names []string) error {
	if len(names) == 0 {
		names = []string{"host", "clip"}
	}
	lanes, err := parseLanes(o.lanes)
	if err != nil {
		return err
	}
	t, err := tools(ctx, names, o.noPython)
	if err != nil {
		return err
	}
	r := bench.NewReport("go run ./cmd/srpo-bench " + strings.Join(os.Args[1:], " "))
	for _, n := range names {
		s, err := measure(ctx, n, t, o, lanes)
		if err != nil {
			return err
		}
		r.Sections = append(r.Sections, s)
		if o.out != "" { // after each section, because the next one can take minutes or fail
			if err := r.WriteFile(o.out); err != nil {
				return err
			}
			progress("written: %s", o.out)
		}
	}
	if o.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.Markdown(w)
}

func parseLanes(list string) (lanes []int, err error) {
	for _, field := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return nil, plugins.Errorf(plugins.Invalid, "-lanes %s: not a list of positive numbers", list)
		}
		lanes = append(lanes, n)
	}
	return lanes, nil
}

func measure(ctx context.Context, name string, t bench.Tools, o options, lanes []int) (bench.Section, error) {
	switch name {
	case "host":
		h := bench.OverheadOptions{Lanes: lanes, Repeats: o.repeats, ProcessPerLane: !o.quick}
		if o.quick {
			h.Seconds, h.Repeats = 0.1, max(o.repeats, 1)
		}
		return bench.Overhead(ctx, t, h)
	case "clip":
		c := bench.ClipOptions{Repeats: o.repeats}
		if o.quick && c.Repeats == 0 {
			c.Repeats = 5
		}
		return bench.Clip(ctx, t, c)
	case "reward":
		r := bench.RewardOptions{Repeats: o.repeats}
		if o.quick {
			r.Sizes, r.Repeats = []int{100, 1000}, max(o.repeats, 1)
		}
		return bench.Reward(ctx, r)
	case "libero":
		if t.Libero.Argv == nil {
			return bench.Section{}, plugins.Errorf(plugins.Invalid,
				"libero needs Python").WithHint("leave out -no-python")
		}
		return bench.Libero(ctx, t, bench.LiberoOptions{Lanes: lanes, Repeats: o.repeats})
	}
	return bench.Section{}, plugins.Errorf(plugins.Invalid, "there is no benchmark %q", name).
		WithHint("one of host, clip, libero, reward")
}

// tools returns the launches of the idle plugins, and installs the Python packages that the benchmarks need.
func tools(ctx context.Context, names []string, noPython bool) (bench.Tools, error) {
	cfg := config.Default()
	t := bench.Tools{ArenaMB: cfg.Host.ArenaMB, Progress: progress}
	program, err := os.Executable()
	if err != nil {
		return t, err
	}
	idle := func(kind plugins.Kind) supervise.Launch {
		return supervise.Launch{Kind: kind, Name: bench.Name, Argv: []string{program, "serve", string(kind)}}
	}
	t.Env, t.Policy, t.Encoder = idle(plugins.Env), idle(plugins.Policy), idle(plugins.Encoder)
	if noPython || !slices.ContainsFunc(names, func(n string) bool { return n != "reward" }) {
		return t, nil
	}
	if t.Python, err = install(ctx, plugins.Encoder, "bench"); err == nil && slices.Contains(names, "libero") {
		t.Libero, err = install(ctx, plugins.Env, "libero")
	}
	return t, err
}

func install(ctx context.Context, kind plugins.Kind, name string) (supervise.Launch, error) {
	cache, err := pyenv.CacheDir()
	if err != nil {
		return supervise.Launch{}, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return supervise.Launch{}, err
	}
	c := &catalog.Catalog{Embedded: []fs.FS{bench.Files(), libero.Files}, Cache: cache}
	pkg, err := c.Find(kind, name)
	if err != nil {
		return supervise.Launch{}, err
	}
	p := &supervise.Preparer{Cache: cache, Lock: filepath.Join(dir, lock.FileName), SDK: pythonsdk.Files,
		Notice: func(s string) { progress("%s", s) }}
	return p.Prepare(ctx, pkg)
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
