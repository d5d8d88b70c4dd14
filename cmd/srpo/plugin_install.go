package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) pluginInstall() *cobra.Command {
	var kind, file string
	var repair bool
	c := &cobra.Command{
		Use:   "install NAME|FOLDER",
		Short: "Install a plugin",
		Long: "install builds what a plugin needs, once: the environment of a Python plugin from its hash-locked\n" +
			"requirements, or a program from source, both in srpo's cache folder. Then it starts the plugin to\n" +
			"check that it works. A run does the same at the first use.",
		Example: "  srpo plugin install libero\n" +
			"  srpo plugin install ./my-env --repair",
		Args: oneArg("one plugin"),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := parseKind(kind)
			if err != nil {
				return err
			}
			w, err := a.workbench(file, nil)
			if err != nil {
				return err
			}
			defer w.term.Close()
			pkg, err := w.find(k, args[0])
			if err != nil {
				return err
			}
			return a.install(c.Context(), w, pkg, repair)
		},
	}
	c.Flags().StringVar(&kind, "kind", "", "env, policy or encoder, if the name is ambiguous")
	c.Flags().BoolVar(&repair, "repair", false, "build it again if its files have changed or are missing")
	c.Flags().StringVar(&file, "config", "", "configuration file; default srpo.toml, if it exists")
	return c
}

func (a *app) install(ctx context.Context, w *workbench, pkg catalog.Package, repair bool) error {
	type result struct {
		Kind      plugins.Kind `json:"kind"`
		Name      string       `json:"name"`
		Folder    string       `json:"folder,omitempty"`
		MB        float64      `json:"mb,omitempty"`
		Made      *time.Time   `json:"made,omitempty"`
		Files     string       `json:"files,omitempty"` // written by post_install
		Python    string       `json:"python,omitempty"`
		Installer string       `json:"installer,omitempty"`
		Start     float64      `json:"start_seconds"`
	}
	w.prep.Repair = repair
	l, err := w.prep.Prepare(ctx, pkg)
	if err != nil {
		return err
	}
	out := result{Kind: pkg.Kind, Name: pkg.Name}
	state := "is part of srpo; there is nothing to install"
	if _, env := w.state(pkg); env != nil {
		stamp := &env.Stamp
		out.Folder, out.Files, out.MB, out.Made = env.Dir, env.Made, stamp.MB, &stamp.Built
		out.Python, out.Installer = stamp.Version, stamp.Installer
		state = fmt.Sprintf(
			"is installed: %.0f MB in %s, made %s with Python %s and %s", out.MB, out.Folder,
			out.Made.Local().Format("2006-01-02 15:04"), out.Python, out.Installer,
		)
	} else if pkg.Origin != catalog.BuiltIn {
		out.Folder = filepath.Dir(l.Argv[0])
		state = "is ready: " + l.Argv[0]
	}
	began := time.Now()
	if err := w.ask(
		ctx, pkg, func(ctx context.Context, p plugins.Plugin) error { _, err := p.Info(ctx); return err },
	); err != nil {
		return err
	}
	out.Start = time.Since(began).Seconds()
	if a.json {
		return a.printJSON(out)
	}
	fmt.Fprintf(a.out, "%s %s %s\nit starts in %.1f s\n", pkg.Kind, pkg.Name, state, out.Start)
	return nil
}

func (a *app) pluginLock() *cobra.Command {
	var file string
	var prune bool
	c := &cobra.Command{
		Use:   "lock [FOLDER...]",
		Short: "Accept changes of plugin packages",
		Long: "srpo.lock, beside srpo.toml, contains a hash of every file of each plugin package that is not part\n" +
			"of srpo. The first use of a package adds it; from then on a changed file is refused, except in a\n" +
			"folder that only you can write to. lock accepts the changes of the given packages, or of all\n" +
			"packages in the lock.",
		Example: "  srpo plugin lock ./my-env\n" +
			"  srpo plugin lock",
		Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := a.workbench(file, nil)
			if err != nil {
				return err
			}
			return a.lock(w, args, prune)
		},
	}
	c.Flags().StringVar(&file, "config", "", "configuration file; default srpo.toml, if it exists")
	c.Flags().BoolVar(&prune, "prune", false, "remove entries whose folder does not exist")
	return c
}

// lockedPackage is the result for one entry of the lock.
type lockedPackage struct {
	Kind    plugins.Kind `json:"kind"`
	Name    string       `json:"name"`
	Version string       `json:"version"`
	Folder  string       `json:"folder"`
	SHA256  string       `json:"sha256,omitempty"`
	// What is "added", "renewed", "unchanged", "gone" or "dropped".
	What    string   `json:"what"`
	Changes []string `json:"changes,omitempty"`
}

func (a *app) lock(w *workbench, folders []string, prune bool) error {
	file := w.prep.Lock
	before, err := lock.Load(file)
	if err != nil {
		return err
	}
	out := []lockedPackage{}
	if len(folders) == 0 {
		if folders, out, err = lockedFolders(file, before); err != nil {
			return err
		}
	}
	gone := len(out)
	for _, dir := range folders {
		p, err := w.relock(file, before, dir)
		if err != nil {
			return err
		}
		out = append(out, p)
	}
	if prune && gone > 0 {
		if err := pruneLock(file, out[:gone]); err != nil {
			return err
		}
		gone = 0
	}
	if a.json {
		return a.printJSON(map[string]any{"lock": file, "plugins": out})
	}
	for _, p := range out {
		fmt.Fprintf(a.out, "%s %s %s: %s\n", p.Kind, p.Name, p.Version, lockResult(p))
		for _, c := range p.Changes {
			fmt.Fprintf(a.out, "  %s\n", c)
		}
	}
	if gone > 0 {
		fmt.Fprintln(a.err, "remove entries without a folder: srpo plugin lock --prune")
	}
	return nil
}

// lockedFolders returns the folders of the packages in a lock, and the packages whose folder does not exist.
func lockedFolders(file string, f *lock.File) (folders []string, gone []lockedPackage, err error) {
	if len(f.Entries()) == 0 {
		return nil, nil, plugins.Errorf(plugins.NotFound, "%s has no entries", file).
			WithHint("give the folder of a package: srpo plugin lock ./my-env")
	}
	for _, e := range f.Entries() {
		dir := filepath.FromSlash(e.Path)
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(filepath.Dir(file), dir)
		}
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			gone = append(
				gone, lockedPackage{Kind: e.Kind, Name: e.Name, Version: e.Version, Folder: dir, What: "gone"},
			)
			continue
		}
		folders = append(folders, dir)
	}
	return folders, gone, nil
}

// relock locks the package in dir as it is now. before is the lock before the command.
func (w *workbench) relock(file string, before *lock.File, dir string) (lockedPackage, error) {
	if !catalog.IsPath(dir) {
		dir = "." + string(filepath.Separator) + dir
	}
	pkg, err := w.cat.Open(dir)
	if err != nil {
		return lockedPackage{}, err
	}
	p := lockedPackage{Kind: pkg.Kind, Name: pkg.Name, Version: pkg.Version, Folder: pkg.Dir, What: "added"}
	for _, e := range before.Entries() {
		if e.Kind == pkg.Kind && e.Name == pkg.Name {
			p.What = "unchanged"
		}
	}
	changes, err := lock.Relock(file, lock.Package{Kind: pkg.Kind, Name: pkg.Name, Version: pkg.Version, Dir: pkg.Dir})
	if err != nil {
		return p, err
	}
	for _, c := range changes {
		p.Changes = append(p.Changes, c.String())
	}
	if len(p.Changes) > 0 {
		p.What = "renewed"
	}
	tree, err := lock.HashDir(pkg.Dir)
	p.SHA256 = tree.Sum()
	return p, err
}

// pruneLock removes packages from the lock and marks them as dropped.
func pruneLock(file string, list []lockedPackage) error {
	f, err := lock.Load(file)
	if err != nil {
		return err
	}
	for i := range list {
		f.Remove(list[i].Kind, list[i].Name)
		list[i].What = "dropped"
	}
	return f.Write()
}

func lockResult(p lockedPackage) string {
	switch p.What {
	case "added":
		return "added, sha256 " + p.SHA256[:16]
	case "renewed":
		return fmt.Sprintf("renewed, %s, sha256 %s", count(len(p.Changes), "change"), p.SHA256[:16])
	case "gone":
		return "the folder " + p.Folder + " does not exist"
	}
	return p.What
}
