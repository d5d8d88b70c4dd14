package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) reportCommand() *cobra.Command {
	var out, title string
	var compare []string
	var evaluated bool
	c := &cobra.Command{
		Use:   "report RUN",
		Short: "Write the page of a run, or compare groups of runs",
		Long: "report writes report.html into a run folder again. With --compare it draws groups of runs, one run\n" +
			"per seed, with 95 % bands over seeds, and writes NAME.html, NAME.svg and NAME.md.",
		Example: "  srpo report runs/NAME\n" +
			"  srpo report --out docs/results/tabletop --compare 'zscore=runs/z-*' --compare 'binary=runs/b-*'",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(compare) > 0 {
				return a.compare(compare, title, out, evaluated)
			}
			if err := oneArg("a run folder")(c, args); err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(args[0], "manifest.json")); err != nil {
				return plugins.Errorf(plugins.NotFound, "%s is not a run folder", args[0]).
					WithHint("give the folder that `srpo run` printed")
			}
			page, err := report.Render(args[0], report.Page{Now: time.Now()})
			if err != nil {
				return err
			}
			if out == "" {
				out = filepath.Join(args[0], "report.html")
			}
			if err := os.WriteFile(out, page, 0o644); err != nil {
				return plugins.Errorf(plugins.Exhausted, "%w", err).WithHint("give another file with --out")
			}
			fmt.Fprintln(a.out, out)
			return nil
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write; with --compare the name without extension")
	c.Flags().StringVar(&title, "title", "Success by iteration", "title of a comparison")
	c.Flags().StringArrayVar(&compare, "compare", nil, "LABEL=FOLDER-PATTERN, may be repeated")
	c.Flags().BoolVar(&evaluated, "evaluated", false, "compare the evaluations instead of the training episodes")
	return c
}

func (a *app) compare(groups []string, title, out string, evaluated bool) error {
	var list []report.Group
	for _, g := range groups {
		label, pattern, ok := strings.Cut(g, "=")
		if !ok {
			return plugins.Errorf(plugins.Invalid, "--compare needs LABEL=FOLDER-PATTERN, got %q", g).
				WithHint("write, for example, --compare 'zscore=runs/z-*'")
		}
		folders, err := filepath.Glob(pattern)
		if err != nil || len(folders) == 0 {
			return plugins.Errorf(plugins.NotFound, "no folder matches %q", pattern).WithPlace("--compare %s", g).
				WithHint("quote the pattern, and give run folders")
		}
		group := report.Group{Label: label}
		for _, f := range folders {
			rec, err := store.Read(f)
			if err != nil {
				return err
			}
			group.Runs = append(group.Runs, rec)
		}
		list = append(list, group)
	}
	cmp, err := report.Compare(title, list, evaluated)
	if err != nil {
		return err
	}
	if out == "" {
		return cmp.Markdown(a.out)
	}
	for ext, write := range map[string]func(io.Writer) error{".html": cmp.HTML, ".svg": cmp.SVG, ".md": cmp.Markdown} {
		f, err := os.Create(out + ext)
		if err != nil {
			return plugins.Errorf(plugins.Invalid, "%w", err).WithHint("give a name in an existing folder with --out")
		}
		if err := write(f); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return plugins.Errorf(plugins.Exhausted, "%w", err)
		}
	}
	fmt.Fprintln(a.out, out+".html", out+".svg", out+".md")
	return nil
}
