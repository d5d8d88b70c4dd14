package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) dataCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "data",
		Short: "Show recorded episodes, and export them as a LeRobot data set",
		Args:  cobra.ArbitraryArgs,
		RunE:  onlySubcommands,
	}
	c.AddCommand(a.dataShow(), a.dataExport())
	return c
}

// dataSettings adds the flags for commands that start no plugin: --config and --set.
func dataSettings(c *cobra.Command, f *settingsFlags) {
	var skip []string
	for _, s := range shorthands {
		skip = append(skip, s.flag)
	}
	f.add(c, skip...)
}

func (a *app) dataShow() *cobra.Command {
	var f settingsFlags
	c := &cobra.Command{
		Use:   "show FOLDER",
		Short: "Show what a folder of recorded episodes contains",
		Long: "show prints episodes, tasks, cameras and the names of actions and proprio, of a run folder or a\n" +
			"recording with trajectories, or of a LeRobot data set (v2.0, v2.1, v3.0).",
		Args: oneArg("a folder of recorded episodes"),
		RunE: func(c *cobra.Command, args []string) error { return a.showData(c.Context(), &f, args[0]) },
	}
	dataSettings(c, &f)
	return c
}

// shownData is the output of `srpo data show --json`.
type shownData struct {
	Form      string          `json:"form"`
	Episodes  int             `json:"episodes"`
	Successes int             `json:"successes"`
	Steps     int             `json:"steps"`
	Tasks     []shownDataTask `json:"tasks"`
	Cameras   []string        `json:"cameras"`
	Action    []string        `json:"action"`
	Proprio   []string        `json:"proprio"`
	Warnings  []string        `json:"warnings,omitempty"`
}

type shownDataTask struct {
	Task      string `json:"task"`
	Episodes  int    `json:"episodes"`
	Successes int    `json:"successes"`
	Steps     int    `json:"steps"`
}

func (a *app) showData(ctx context.Context, f *settingsFlags, dir string) error {
	term := report.NewTerminal(a.err)
	defer term.Close()
	cfg, err := f.load()
	if err != nil {
		return err
	}
	d := cfg.Data
	set, err := dataset.Open(
		ctx, dir, dataset.Options{
			Cameras: d.Cameras, Action: d.Action, State: d.State, Success: d.Success, RecordEvery: 1,
			Reader: lerobotReader(cfg, term),
		},
	)
	if err != nil {
		return err
	}
	defer set.Close()
	space := set.Space()
	out := shownData{Form: set.Form(), Cameras: space.Cameras, Action: space.Action.Names, Proprio: space.Proprio,
		Warnings: set.Warnings()}
	for _, warning := range out.Warnings {
		term.Warn("%s: %s", dir, warning)
	}
	index := map[string]int{}
	for _, e := range set.Episodes() {
		i, ok := index[e.Task]
		if !ok {
			i = len(out.Tasks)
			index[e.Task] = i
			out.Tasks = append(out.Tasks, shownDataTask{Task: e.Task})
		}
		t := &out.Tasks[i]
		t.Episodes, t.Steps = t.Episodes+1, t.Steps+e.Steps
		out.Episodes, out.Steps = out.Episodes+1, out.Steps+e.Steps
		if e.Success != nil && *e.Success {
			t.Successes++
			out.Successes++
		}
	}
	term.Close()
	if a.json {
		return a.printJSON(out)
	}
	fmt.Fprintf(a.out, "%s: %d episodes, %d successes, %d steps\ncameras: %s\naction: %s\nproprio: %s\n\n", out.Form,
		out.Episodes, out.Successes, out.Steps,
		strings.Join(out.Cameras, ", "), strings.Join(out.Action, ", "), strings.Join(out.Proprio, ", "))
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "task\tepisodes\tsuccesses\tsteps")
	for _, t := range out.Tasks {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", t.Task, t.Episodes, t.Successes, t.Steps)
	}
	return w.Flush()
}

func (a *app) dataExport() *cobra.Command {
	var f settingsFlags
	var out, robot string
	var successes bool
	c := &cobra.Command{
		Use:   "export FOLDER --out FOLDER",
		Short: "Write recorded episodes as a LeRobot data set, v3.0",
		Long: "export writes the trajectories of a run folder (run.keep_trajectories) or of srpo record\n" +
			"--trajectories as a LeRobot data set: action, observation.state, observation.images.CAMERA as\n" +
			"H.264 videos, next.success, with statistics. srpo run --offline and srpo imitate --data read it\n" +
			"again.",
		Example: "  srpo record --actor expert --episodes 50 --trajectories --out demos\n" +
			"  srpo data export demos --out demos-lerobot",
		Args: oneArg("a folder of trajectories"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.exportData(c.Context(), &f, args[0], out, robot, successes)
		},
	}
	dataSettings(c, &f)
	outFlag(c, &out)
	c.Flags().StringVar(&robot, "robot", "", "robot_type to write; default: the name of the env")
	c.Flags().BoolVar(&successes, "successes", false, "leave failed episodes out")
	return c
}

// outFlag adds --out, the folder that an export creates. --to is another name for it.
func outFlag(c *cobra.Command, out *string) {
	c.Flags().StringVar(out, "out", "", "folder to create")
	c.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "to" {
			name = "out"
		}
		return pflag.NormalizedName(name)
	})
}

func (a *app) exportData(ctx context.Context, f *settingsFlags, from, out, robot string, successes bool) error {
	term := report.NewTerminal(a.err)
	defer term.Close()
	cfg, err := f.load()
	if err != nil {
		return err
	}
	if out == "" {
		return plugins.Errorf(plugins.Invalid, "no folder to write").WithPlace("--out").
			WithHint("give a new folder: --out my-data-set")
	}
	place := "--out " + out
	set, err := dataset.Open(ctx, from, dataset.Options{})
	if plugins.KindOf(err) == plugins.Unsupported {
		return plugins.Errorf(plugins.Invalid, "it is a LeRobot data set already").WithPlace("%s", from).
			WithHint("use lerobot's tools to convert between versions")
	}
	if err != nil {
		return err
	}
	set.Close()
	if _, err := exportRate(cfg, set.Space(), from); err != nil {
		return err
	}
	if err := newFolder(out, place); err != nil {
		return err
	}
	result, err := writeLeRobot(
		ctx, cfg, term, leRobotExport{from: from, out: out, space: set.Space(), robot: robot, successes: successes},
	)
	term.Close()
	if err != nil {
		return err
	}
	return a.exported(out, result)
}

// exportRate returns the frames per second to write into a data set.
func exportRate(cfg *config.Config, space dataset.Space, place string) (float64, error) {
	fps := cfg.Data.FPS
	if fps == 0 {
		fps = float64(space.Action.RateHz)
	}
	if fps <= 0 {
		return 0, plugins.Errorf(plugins.Invalid, "the env did not report its steps per second").WithPlace("%s", place).
			WithHint("give the rate: --set data.fps=20")
	}
	return fps, nil
}

// newFolder refuses a folder that is not empty, and creates its parents.
func newFolder(out, place string) error {
	if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 {
		return plugins.Errorf(plugins.Invalid, "the folder is not empty: it contains %s", entries[0].Name()).
			WithPlace("%s", place).WithHint("give a folder that is empty or does not exist; nothing is overwritten")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", place).
			WithHint("give a folder that is empty or does not exist")
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(out)), 0o755); err != nil {
		return plugins.Errorf(plugins.Exhausted, "%w", err).WithPlace("%s", place).WithHint("give another folder")
	}
	return nil
}

// leRobotExport describes an export of trajectories as a LeRobot data set.
type leRobotExport struct {
	from, out string
	space     dataset.Space
	robot     string // empty: the env's name
	successes bool
}

// writeLeRobot writes the data set and returns the result that its writer reports.
func writeLeRobot(
	ctx context.Context, cfg *config.Config, term *report.Terminal, o leRobotExport,
) (json.RawMessage, error) {
	fps, err := exportRate(cfg, o.space, o.from)
	if err != nil {
		return nil, err
	}
	from, out := o.from, o.out
	l, err := lerobotLaunch(ctx, cfg, term)
	if err != nil {
		return nil, err
	}
	cache, err := pyenv.CacheDir()
	if err != nil {
		return nil, err
	}
	script := filepath.Join(filepath.Dir(l.Argv[len(l.Argv)-1]), "write.py")
	args := []string{
		l.Argv[0], "-u", script, "--from", from, "--out", filepath.Clean(out), "--fps",
		strconv.FormatFloat(fps, 'g', -1, 64),
	}
	if o.successes {
		args = append(args, "--successes")
	}
	if o.robot != "" {
		args = append(args, "--robot", o.robot)
	}
	l.Argv, l.Dir = args, "" // relative paths start in the user's folder
	show := newProgress(term)
	defer show.stop()
	result, err := supervise.Program{
		Launch: l, Log: filepath.Join(
			cache, "logs", "lerobot-write.log",
		), EnvAllow: append([]string{"OMP_NUM_THREADS"}, cfg.Host.EnvAllow...), OnReport: show.report,
	}.Run(ctx)
	show.stop()
	if err != nil {
		left, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Clean(out)), ".tmp-"+filepath.Base(out)+"-*"))
		for _, dir := range left { // left by a writer that was killed
			_ = os.RemoveAll(dir)
		}
		if plugins.KindOf(err) == plugins.Canceled {
			return nil, plugins.Errorf(plugins.Canceled, "stopped; nothing was written").
				WithHint("run the same command again")
		}
		return nil, err
	}
	return result, nil
}

// exported prints what was written.
func (a *app) exported(out string, result json.RawMessage) error {
	if a.json {
		return a.printJSON(result)
	}
	var r struct {
		Episodes, Steps, Tasks int
		Cameras                []string
	}
	if err := json.Unmarshal(result, &r); err != nil {
		return plugins.Errorf(plugins.Internal, "the writer's result: %w", err)
	}
	fmt.Fprintf(
		a.out, "%s: LeRobot v3.0, %d episodes, %d steps, %d tasks, cameras %s\nnext: srpo imitate --data %s\n", out,
		r.Episodes, r.Steps, r.Tasks, strings.Join(r.Cameras, ", "), out,
	)
	return nil
}

// lerobotLaunch prepares the program that reads and writes LeRobot data sets. It installs the Python environment at the
// first use.
func lerobotLaunch(ctx context.Context, cfg *config.Config, term *report.Terminal) (supervise.Launch, error) {
	prep, err := preparer(cfg, term)
	if err != nil {
		return supervise.Launch{}, err
	}
	cat := &catalog.Catalog{Embedded: []fs.FS{dataset.LeRobotFiles()}, Cache: prep.Cache}
	pkg, err := cat.Find(plugins.Encoder, "lerobot")
	if err != nil {
		return supervise.Launch{}, err
	}
	if spec, o, ok := prep.Environment(pkg); ok && !pyenv.Installed(spec, o) {
		term.Line("installing a Python environment for LeRobot data sets: about %.0f MB to download, %.0f MB on disk "+
			"(pyarrow, av, Pillow, NumPy)", spec.DownloadMB, spec.DiskMB)
	}
	l, err := prep.Prepare(ctx, pkg)
	if err != nil {
		e := plugins.AsError(err)
		e.Place = "the reader of LeRobot data sets"
		if strings.HasPrefix(e.Hint, "srpo plugin install") {
			e = e.WithHint("remove %s, and it is built again", filepath.Join(prep.Cache, "venvs", "lerobot-*"))
		}
		return l, e
	}
	return l, nil
}

// lerobotReader reads LeRobot data sets with a Python program, which is installed at the first use.
func lerobotReader(cfg *config.Config, term *report.Terminal) *dataset.Reader {
	return &dataset.Reader{Command: func(ctx context.Context) (argv, env []string, err error) {
		l, err := lerobotLaunch(ctx, cfg, term)
		if err != nil {
			return nil, nil, err
		}
		for name, value := range l.Env {
			env = append(env, name+"="+value)
		}
		return l.Argv, env, nil
	}}
}
