package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) pluginCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "plugin",
		Short: "List, make, test, install and lock plugins",
		Long: "Environments, policies and encoders are plugins: processes of their own, in any language, that srpo starts, watches and restarts.\n" +
			"A plugin is given by its name or by the path of its folder.",
		Args: cobra.ArbitraryArgs,
		RunE: onlySubcommands,
	}
	c.AddCommand(a.pluginList(), a.pluginInit(), a.pluginTest(), a.pluginInstall(), a.pluginLock(), a.pluginServe())
	return c
}

// pluginServe is how srpo starts the plugins that it carries: as processes of its own program.
func (a *app) pluginServe() *cobra.Command {
	return &cobra.Command{Use: "serve KIND NAME", Hidden: true, RunE: func(_ *cobra.Command, args []string) error {
		for _, b := range builtIns {
			if len(args) == 2 && args[0] == string(b.kind) && args[1] == b.name {
				b.serve()
				return nil
			}
		}
		return plugins.Errorf(plugins.NotFound, "no built-in plugin %v", args).WithHint("srpo plugin list")
	}}
}

// workbench is what the plugin verbs work with: the configuration, the packages, and how they are made ready.
type workbench struct {
	cfg  *config.Config
	cat  *catalog.Catalog
	prep *supervise.Preparer
	term *report.Terminal
}

// workbench opens srpo.toml (file; empty: the one that lies here, if any) with --set over it.
func (a *app) workbench(file string, set []string) (*workbench, error) {
	in := config.Input{File: file, Set: set}
	if in.File == "" {
		in.File, in.Optional = "srpo.toml", true
	}
	cfg, err := config.Load(in)
	if err != nil {
		return nil, err
	}
	w := &workbench{cfg: cfg, term: report.NewTerminal(a.err)}
	if w.cat, err = packages(cfg); err != nil {
		return nil, err
	}
	w.prep, err = preparer(cfg, w.term)
	return w, err
}

// parseKind reads a --kind flag; empty is any kind.
func parseKind(s string) (plugins.Kind, error) {
	if s == "" || slices.Contains(plugins.Kinds, plugins.Kind(s)) {
		return plugins.Kind(s), nil
	}
	return "", plugins.Errorf(plugins.Invalid, "there is no kind %q", s).WithPlace("--kind").WithHint("one of env, policy, encoder")
}

// find returns the package that a name or path means; kind "" is any.
func (w *workbench) find(kind plugins.Kind, nameOrPath string) (catalog.Package, error) {
	if catalog.IsPath(nameOrPath) {
		pkg, err := w.cat.Open(nameOrPath)
		if err == nil && kind != "" && pkg.Kind != kind {
			err = plugins.Errorf(plugins.Invalid, "%s is of kind %s, not %s", nameOrPath, pkg.Kind, kind).WithHint("leave --kind out")
		}
		return pkg, err
	}
	if kind != "" {
		return w.cat.Find(kind, nameOrPath)
	}
	list, _ := w.cat.List("")
	var have []plugins.Kind
	var names, known []string
	for _, p := range list {
		if p.Name == nameOrPath {
			have = append(have, p.Kind)
		}
		names = append(names, fmt.Sprintf("%s %s", p.Kind, p.Name))
		known = append(known, p.Name)
	}
	switch {
	case len(have) == 1:
		return w.cat.Find(have[0], nameOrPath)
	case len(have) > 1:
		return catalog.Package{}, plugins.Errorf(plugins.Invalid, "%q is the name of several plugins: %v", nameOrPath, have).WithHint("say which: --kind %s", have[0])
	}
	if _, err := os.Stat(filepath.Join(nameOrPath, manifest.FileName)); err == nil {
		return catalog.Package{}, plugins.Errorf(plugins.NotFound, "no plugin is called %q", nameOrPath).
			WithHint("for the package in the folder of that name, give its path: ./%s", nameOrPath)
	}
	e := plugins.Errorf(plugins.NotFound, "no plugin is called %q; there is %s", nameOrPath, strings.Join(names, ", "))
	if near := nearest.To(nameOrPath, known); near != "" {
		return catalog.Package{}, e.WithHint("did you mean %q?", near)
	}
	return catalog.Package{}, e.WithHint("give the path of a package's folder (./NAME), or name the folder of your packages in [host] plugin_path")
}

const notInstalled = "not installed"

// state says whether a package can start as it is: "ready", notInstalled, or what is wrong with it. pkg.Dir must be set.
func (w *workbench) state(pkg catalog.Package) (string, *pyenv.Env) {
	spec, o, ok := w.prep.Environment(pkg)
	if !ok {
		return "ready", nil
	}
	env, err := pyenv.Open(spec, o)
	switch plugins.KindOf(err) {
	case plugins.Unspecified:
		return "ready", &env
	case plugins.NotFound:
		return notInstalled, nil
	}
	return "changed since it was installed", nil
}

// sizes says what an installation takes, as far as the package knows: ", 771 MB to download, 1967 MB on disk".
func sizes(pkg catalog.Package) string {
	s := ""
	if pkg.Manifest != nil && pkg.Manifest.Python != nil {
		if mb := pkg.Manifest.Python.DownloadMB; mb > 0 {
			s += fmt.Sprintf(", %.0f MB to download", mb)
		}
		if mb := pkg.Manifest.Python.DiskMB; mb > 0 {
			s += fmt.Sprintf(", %.0f MB on disk", mb)
		}
	}
	return s
}

// respectLock refuses a folder that is in srpo.lock and has changed since. Unlike a run it adds nothing to the lock: looking is not using.
func (w *workbench) respectLock(pkg catalog.Package) error {
	if pkg.Origin != catalog.Folder {
		return nil
	}
	f, err := lock.Load(w.prep.Lock)
	if err != nil {
		return err
	}
	return f.Verify(lock.Package{Kind: pkg.Kind, Name: pkg.Name, Version: pkg.Version, Dir: pkg.Dir})
}

// launch makes a package ready without adding it to the lock.
func (w *workbench) launch(ctx context.Context, pkg catalog.Package) (supervise.Launch, error) {
	p := *w.prep
	p.Lock = ""
	return p.Prepare(ctx, pkg)
}

// logs makes a folder for one command's plugin logs in the cache; drop removes it.
func (w *workbench) logs(name string) (dir string, drop func(), err error) {
	return pluginLogs(w.prep.Cache, name)
}

// pluginLogs makes a folder for one command's plugin logs in srpo's cache folder; drop removes it. Those that commands kept are removed after a week.
func pluginLogs(cache, name string) (dir string, drop func(), err error) {
	root := filepath.Join(cache, "logs")
	old, _ := os.ReadDir(root)
	for _, e := range old {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 7*24*time.Hour {
			_ = os.RemoveAll(filepath.Join(root, e.Name()))
		}
	}
	if err = os.MkdirAll(root, 0o755); err == nil {
		dir, err = os.MkdirTemp(root, name+"-")
	}
	if err != nil {
		return "", nil, plugins.Errorf(plugins.Exhausted, "the folder of plugin logs: %w", err).WithHint("set SRPO_CACHE to a folder that can be written to")
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// supervisor starts plugins with the configuration's deadlines. arenaBytes 0: tensors travel in the messages.
func (w *workbench) supervisor(logDir string, arenaBytes int) (*supervise.Supervisor, error) {
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	h := w.cfg.Host
	return supervise.New(supervise.Options{LogDir: logDir, StartTimeout: seconds(h.StartTimeoutS), ArenaBytes: arenaBytes, EnvAllow: h.EnvAllow,
		Silence: seconds(h.SilenceTimeoutS), Patience: h.Patience, Deadlines: supervise.Deadlines{Reset: seconds(h.ResetTimeoutS), Step: seconds(h.StepTimeoutS), Act: seconds(h.ActTimeoutS),
			Encode: seconds(h.EncodeTimeoutS), Save: seconds(h.SaveTimeoutS), Update: seconds(h.UpdateTimeoutS)}})
}

// arenaBytes is the size of the arenas that the configuration asks for; 0: off.
func (w *workbench) arenaBytes() int {
	if w.cfg.Host.Arena == "off" {
		return 0
	}
	return w.cfg.Host.ArenaMB << 20
}

// ask starts a plugin that is not configured, and hands it to f.
func (w *workbench) ask(ctx context.Context, pkg catalog.Package, f func(ctx context.Context, p plugins.Plugin) error) error {
	l, err := w.launch(ctx, pkg)
	if err != nil {
		return err
	}
	dir, drop, err := w.logs(pkg.Name)
	if err != nil {
		return err
	}
	s, err := w.supervisor(dir, 0)
	if err != nil {
		return err
	}
	defer s.Close()
	var p plugins.Plugin
	switch pkg.Kind {
	case plugins.Env:
		p, _, err = supervise.NewEnv(s, l, nil).Client(ctx)
	case plugins.Policy:
		p, _, err = supervise.NewPolicy(s, l, 1, nil).Client(ctx)
	default:
		p, _, err = supervise.NewEncoder(s, l, nil).Client(ctx)
	}
	if err != nil {
		return err
	}
	if err := f(ctx, p); err != nil {
		return err
	}
	drop() // kept where something failed: the error names it
	return nil
}
