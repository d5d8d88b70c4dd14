package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/encoders/dinov2"
	"github.com/srpo-dev/srpo/encoders/generic"
	"github.com/srpo-dev/srpo/encoders/pixel"
	"github.com/srpo-dev/srpo/encoders/vjepa2"
	"github.com/srpo-dev/srpo/envs/libero"
	liberoplus "github.com/srpo-dev/srpo/envs/libero-plus"
	"github.com/srpo-dev/srpo/envs/tabletop"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/policies/openvla"
	"github.com/srpo-dev/srpo/policies/pi0"
	pi0fast "github.com/srpo-dev/srpo/policies/pi0-fast"
	"github.com/srpo-dev/srpo/policies/remote"
	"github.com/srpo-dev/srpo/policies/tiny"
	"github.com/srpo-dev/srpo/sdk"
	pythonsdk "github.com/srpo-dev/srpo/sdk/python"
)

// builtIn is a plugin that this very program serves, as a process of its own.
type builtIn struct {
	kind      plugins.Kind
	name, doc string
	serve     func()
	// hidden plugins can be served but not named by the user: a package in embedded starts them.
	hidden bool
}

var builtIns = []builtIn{
	{
		plugins.Env, "tabletop", "a small robot arm over a table, two blocks to bring to two plates",
		func() { sdk.ServeEnv(tabletop.New()) }, false,
	},
	{
		plugins.Policy, "tiny", "a small image, proprio and instruction policy that learns on a CPU",
		func() { sdk.ServePolicy(tiny.New()) }, false,
	},
	{
		plugins.Encoder, "pixel", "shrunken frames, averaged over the clip: the baseline",
		func() { sdk.ServeEncoder(pixel.New()) }, false,
	},
	{plugins.Encoder, "generic", "", func() { sdk.ServeEncoder(generic.New()) }, true},
	{plugins.Encoder, "dinov2", "", func() { sdk.ServeEncoder(dinov2.New()) }, true},
	{plugins.Encoder, "vjepa2", "", func() { sdk.ServeEncoder(vjepa2.New()) }, true},
}

// embedded lists the packages inside this program: programs in Python, and plugins that srpo serves itself but that
// need an environment. A bundle adds the folders that plugins of one kind share.
var embedded = []fs.FS{
	bundle{libero.Files, libero.Shared},
	bundle{liberoplus.Files, liberoplus.Shared},
	bundle{openvla.Files, openvla.Shared},
	bundle{pi0.Files, pi0.Shared},
	bundle{pi0fast.Files, pi0fast.Shared},
	remote.Files,
	generic.Files,
	dinov2.Files,
	vjepa2.Files,
}

// settingsFlags are the flags that set settings of srpo.toml.
type settingsFlags struct {
	file string
	set  []string
	own  []string // the flags that add has added
	// recorded is true when the settings are from a run folder instead of the user's own file.
	recorded bool
	home     string // where the run was started that the settings are from, see fromRun; empty: here
	cmd      *cobra.Command
}

// shorthands pairs a flag with its setting.
var shorthands = []struct{ flag, key, doc string }{
	{"env", "run.env", "environment plugin: a name or a folder"},
	{"policy", "run.policy", "policy plugin: a name or a folder"},
	{"encoder", "run.encoder", "encoder plugin: a name or a folder"},
	{"task", "run.task", "pattern over task ids, may be repeated; * matches anything"},
	{"seed", "run.seed", "seed of everything random"},
	{"iterations", "run.iterations", "iterations to run"},
	{"checkpoint", "run.checkpoint", "policy folder, checkpoint or run folder to start from"},
	{"lanes", "run.lanes", "episodes that run at the same time; 0: chosen by env and cores"},
	{"out", "run.out", "run folder; default runs/NAME"},
	{"name", "run.name", "name of the run"},
	{"tensorboard", "run.tensorboard", "write TensorBoard event files"},
	{"reward", "reward.kind", "zscore, minmax, anchored, binary (GRPO) or progress (a control)"},
	{"cluster", "reward.cluster", "auto, reference, mean or nearest"},
	{"references", "reward.references", "batch, memory or demos"},
	{
		"offline", "offline.data",
		"learn offline from the episodes of this folder: a run folder, a recording or a LeRobot data set",
	},
	{
		"data", "imitate.data",
		"imitate the successes of this folder instead of the env's expert; folders as for --offline",
	},
	{"arena", "host.arena", "auto (shared memory) or off (bytes in messages)"},
}

func (f *settingsFlags) add(c *cobra.Command, skip ...string) {
	f.cmd = c
	c.Flags().StringVar(&f.file, "config", "", "configuration file; default srpo.toml, if it exists")
	c.Flags().StringArrayVar(
		&f.set, "set", nil, "override a setting of the file, e.g. --set policy.tiny.lr=1e-3; may be repeated",
	)
	for _, s := range shorthands {
		if slices.Contains(skip, s.flag) {
			continue
		}
		f.own = append(f.own, s.flag)
		if s.flag == "task" {
			c.Flags().StringArray(s.flag, nil, s.doc)
			continue
		}
		c.Flags().String(s.flag, "", s.doc)
		if s.flag == "tensorboard" {
			c.Flags().Lookup(s.flag).NoOptDefVal = "true"
		}
	}
}

// given returns the flags that the user gave.
func (f *settingsFlags) given() []config.Flag {
	var out []config.Flag
	for _, s := range shorthands {
		fl := f.cmd.Flags().Lookup(s.flag)
		// the command may have another flag of that name
		if fl == nil || !fl.Changed || !slices.Contains(f.own, s.flag) {
			continue
		}
		values := []string{fl.Value.String()}
		if s.flag == "task" {
			values, _ = f.cmd.Flags().GetStringArray(s.flag)
		}
		for _, v := range values {
			out = append(out, config.Flag{Name: "--" + s.flag, Key: s.key, Value: v})
		}
	}
	return out
}

// load resolves the configuration.
func (f *settingsFlags) load() (*config.Config, error) {
	in := config.Input{File: f.file, Set: f.set, Flags: f.given()}
	if in.File == "" {
		in.File, in.Optional = "srpo.toml", true
	}
	return config.Load(in)
}

// packages returns the catalog of every plugin that can be named.
func packages(cfg *config.Config) (*catalog.Catalog, error) {
	cache, err := pyenv.CacheDir()
	if err != nil {
		return nil, err
	}
	c := &catalog.Catalog{Embedded: embedded, Cache: cache}
	if cfg != nil {
		c.Path = cfg.Host.PluginPath
	}
	for _, b := range builtIns {
		if b.hidden {
			continue
		}
		c.BuiltIns = append(
			c.BuiltIns, catalog.BuiltInPackage{Kind: b.kind, Name: b.name, Doc: b.doc, Version: version()},
		)
	}
	return c, nil
}

// preparer installs the environments of packages and reports progress on the terminal.
func preparer(cfg *config.Config, term *report.Terminal) (*supervise.Preparer, error) {
	cache, err := pyenv.CacheDir()
	if err != nil {
		return nil, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, plugins.Errorf(plugins.Internal, "the working folder: %w", err)
	}
	p := &supervise.Preparer{
		Cache: cache, Lock: filepath.Join(dir, lock.FileName), SDK: pythonsdk.Files,
		Notice: func(s string) { term.Line("%s", s) }, Progress: showInstall(term),
	}
	if cfg != nil {
		p.Interpreter = cfg.Host.Python
	}
	return p, nil
}

// showInstall prints the progress of an installation: one line per step, and one every few seconds.
func showInstall(term *report.Terminal) func(pyenv.Progress) {
	var what string
	var last time.Time
	return func(p pyenv.Progress) {
		if p.What == what && time.Since(last) < 3*time.Second {
			return
		}
		size := ""
		switch {
		case p.OfMB > 0 && p.MB > 0:
			size = fmt.Sprintf(": %.0f of about %.0f MB", p.MB, p.OfMB)
		case p.MB > 0:
			size = fmt.Sprintf(": %.0f MB", p.MB)
		}
		if p.What == what {
			size += fmt.Sprintf(", %.0f s", p.Elapsed.Seconds())
		}
		what, last = p.What, time.Now()
		term.Line("%s%s", p.What, size)
	}
}

// launcher finds, installs and launches plugins for the host.
func launcher(cfg *config.Config, term *report.Terminal) (session.Launcher, error) {
	cat, err := packages(cfg)
	if err != nil {
		return nil, err
	}
	prep, err := preparer(cfg, term)
	if err != nil {
		return nil, err
	}
	return packaged{cat, prep}, nil
}

// packaged launches the packages of a catalog.
type packaged struct {
	*catalog.Catalog
	prep *supervise.Preparer
}

// Find implements session.Launcher.
func (p packaged) Find(kind plugins.Kind, name string) (session.Found, error) {
	pkg, err := p.Lookup(kind, name)
	if err != nil {
		return session.Found{}, err
	}
	found := session.Found{Name: pkg.Name}
	if pkg.Manifest != nil {
		found.Settings, found.Needs = pkg.Manifest.Settings, pkg.Manifest.Needs
	}
	return found, nil
}

// Launch implements session.Launcher.
func (p packaged) Launch(ctx context.Context, kind plugins.Kind, name string) (supervise.Launch, store.Plugin, error) {
	pkg, err := p.Catalog.Find(kind, name)
	if err != nil {
		return supervise.Launch{}, store.Plugin{}, err
	}
	l, err := p.prep.Prepare(ctx, pkg)
	if err != nil {
		return l, store.Plugin{}, err
	}
	record := store.Plugin{Kind: kind, Name: pkg.Name, Version: pkg.Version, Path: pkg.Dir}
	if pkg.Dir != "" {
		tree, err := lock.HashDir(pkg.Dir)
		if err != nil {
			return l, record, err
		}
		record.Hash = tree.Sum()
	}
	return l, record, nil
}
