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
		Short: "List, create, test, install and lock plugins",
		Long: "Environments, policies and encoders are plugins: separate processes, in any language, that srpo\n" +
			"starts, supervises and restarts. A plugin is given by its name or by the path of its folder.",
		Args: cobra.ArbitraryArgs,
		RunE: onlySubcommands,
	}
	c.AddCommand(a.pluginList(), a.pluginInit(), a.pluginTest(), a.pluginInstall(), a.pluginLock(), a.pluginServe())
	return c
}

// pluginServe serves a built-in plugin: srpo starts itself with this command.
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

// workbench holds what the plugin commands need: the configuration, the catalog, and the installer of packages.
type workbench struct {
	cfg  *config.Config
	cat  *catalog.Catalog
	prep *supervise.Preparer
	term *report.Terminal
}

// workbench reads the settings from file and --set. An empty file is the srpo.toml of this folder, if it exists.
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

// parseKind parses a --kind flag. Empty is any kind.
func parseKind(s string) (plugins.Kind, error) {
	if s == "" || slices.Contains(plugins.Kinds, plugins.Kind(s)) {
		return plugins.Kind(s), nil
	}
	return "", plugins.Errorf(plugins.Invalid, "there is no kind %q", s).WithPlace("--kind").
		WithHint("give one of env, policy, encoder")
}

// find returns the package with a name or path. An empty kind is any kind.
func (w *workbench) find(kind plugins.Kind, nameOrPath string) (catalog.Package, error) {
	if catalog.IsPath(nameOrPath) {
		pkg, err := w.cat.Open(nameOrPath)
		if err == nil && kind != "" && pkg.Kind != kind {
			err = plugins.Errorf(plugins.Invalid, "%s is of kind %s, not %s", nameOrPath, pkg.Kind, kind).
				WithHint("leave --kind out")
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
		return catalog.Package{}, plugins.Errorf(
			plugins.Invalid, "%q is the name of several plugins: %v", nameOrPath, have,
		).
			WithHint("choose one with --kind %s", have[0])
	}
	if _, err := os.Stat(filepath.Join(nameOrPath, manifest.FileName)); err == nil {
		return catalog.Package{}, plugins.Errorf(plugins.NotFound, "no plugin is called %q", nameOrPath).
			WithHint("for the package in the folder of that name, give its path: ./%s", nameOrPath)
	}
	e := plugins.Errorf(plugins.NotFound, "no plugin is called %q; known: %s", nameOrPath, strings.Join(names, ", "))
	if near := nearest.To(nameOrPath, known); near != "" {
		return catalog.Package{}, e.WithHint("did you mean %q?", near)
	}
	return catalog.Package{}, e.WithHint("give the path of the package (./NAME), or list the folder of your " +
		"packages in [host] plugin_path")
}

const notInstalled = "not installed"

// state returns whether a package can start: "ready", notInstalled, or a description of the problem. pkg.Dir must be
// set.
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

// sizes describes the size of an installation, if the package declares it: ", 771 MB to download, 1967 MB on disk".
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

// respectLock refuses a folder that is in srpo.lock and has changed. Unlike a run, it adds nothing to the lock.
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

// launch prepares a package without adding it to the lock.
func (w *workbench) launch(ctx context.Context, pkg catalog.Package) (supervise.Launch, error) {
	p := *w.prep
	p.Lock = ""
	return p.Prepare(ctx, pkg)
}

// logs creates a folder in the cache for the plugin logs of one command. drop removes it.
func (w *workbench) logs(name string) (dir string, drop func(), err error) {
	return pluginLogs(w.prep.Cache, name)
}

// pluginLogs creates a folder in srpo's cache folder for the plugin logs of one command. drop removes it. Folders that
// were kept are removed after a week.
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
		return "", nil, plugins.Errorf(plugins.Exhausted, "the folder of plugin logs: %w", err).
			WithHint("set SRPO_CACHE to a writable folder")
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// supervisor starts plugins with the configured deadlines. With arenaBytes 0 tensors are sent in the messages.
func (w *workbench) supervisor(logDir string, arenaBytes int) (*supervise.Supervisor, error) {
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	h := w.cfg.Host
	return supervise.New(supervise.Options{LogDir: logDir, StartTimeout: seconds(h.StartTimeoutS),
		ArenaBytes: arenaBytes, EnvAllow: h.EnvAllow,
		Silence: seconds(h.SilenceTimeoutS), Patience: h.Patience,
		Deadlines: supervise.Deadlines{Reset: seconds(h.ResetTimeoutS),
			Step: seconds(h.StepTimeoutS), Act: seconds(h.ActTimeoutS),
			Encode: seconds(h.EncodeTimeoutS), Save: seconds(h.SaveTimeoutS), Update: seconds(h.UpdateTimeoutS)}})
}

// arenaBytes returns the configured size of the arenas; 0: off.
func (w *workbench) arenaBytes() int {
	if w.cfg.Host.Arena == "off" {
		return 0
	}
	return w.cfg.Host.ArenaMB << 20
}

// ask starts a plugin without configuring it, and passes it to f.
func (w *workbench) ask(
	ctx context.Context, pkg catalog.Package, f func(ctx context.Context, p plugins.Plugin) error,
) error {
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
	drop() // after a failure the log is kept, because the error refers to it
	return nil
}
