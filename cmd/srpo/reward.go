package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/scoring"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) rewardCommand() *cobra.Command {
	var f settingsFlags
	var o scoring.Options
	var fresh bool
	var compare []string
	c := &cobra.Command{
		Use:   "reward ATTEMPTS",
		Short: "Score attempts at tasks without training",
		Long: "reward gives each attempt the reward of srpo run: 1 for a success, and otherwise by its distance\n" +
			"to the successes of its task. Attempts without a label are scored against the labelled ones.\n\n" +
			"ATTEMPTS is one of\n" +
			"  a list        .json, .jsonl or .csv of {id, task, success, video or embedding}; success is " +
			"true, false or null\n" +
			"  a folder      of videos (mp4, webp, gif, npz, npy, folders of pictures) with labels.csv or " +
			"labels.json\n" +
			"  a run folder  of srpo run or srpo eval, see run.keep_clips; or a recording of srpo record\n\n" +
			"--metrics measures whether the reward can be trusted, --curves draws progress over time, --out DIR\n" +
			"writes a page with all of it. Embeddings are cached, so a second call with another reward takes\n" +
			"seconds.\n\n" +
			"--compare takes ENCODER, or LABEL=ENCODER:SETTING=VALUE for one plugin with several models or\n" +
			"settings.",
		Example: "  srpo reward list.json\n" +
			"  srpo reward videos/ --encoder pixel\n" +
			"  srpo reward list.csv --reward minmax --cluster reference --json\n" +
			"  srpo reward runs/NAME --compare pixel,./my-encoder --out runs/NAME-reward\n" +
			"  srpo reward videos/ --compare pixel,small=vjepa2:model=small.onnx,large=vjepa2:model=large.onnx " +
			"--out page",
		Args: oneArg("a list, a folder of videos or a run folder"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Source = args[0]
			return a.reward(c.Context(), &f, o, compare, fresh)
		},
	}
	c.Flags().StringSliceVar(
		&compare, "compare", nil, "encoders to compare: names or folders, each as [LABEL=]ENCODER[:SETTING=VALUE...]",
	)
	c.Flags().BoolVar(
		&o.Metrics, "metrics", false, "measure the reward with growing windows, controls and clips of equal length",
	)
	c.Flags().BoolVar(&o.Curves, "curves", false, "compute progress curves and draw them into --out")
	c.Flags().StringVar(
		&o.Out, "out", "",
		"folder for results.json, the page and the drawings; default with --curves: runs/NAME-reward",
	)
	c.Flags().IntVar(
		&o.Windows, "windows", 0,
		"growing windows per curve; 0: 32 for encoders that embed single frames, 8 for others",
	)
	c.Flags().BoolVar(&fresh, "no-cache", false, "do not use the cache of embeddings")
	f.add(
		c, "env", "policy", "task", "iterations", "checkpoint", "lanes", "out", "name", "tensorboard", "offline",
		"data",
	)
	return c
}

func (a *app) reward(ctx context.Context, f *settingsFlags, o scoring.Options, compare []string, fresh bool) error {
	if o.Windows < 0 || o.Windows == 1 {
		return plugins.Errorf(plugins.Invalid, "%d windows are too few for a curve", o.Windows).WithPlace("--windows").
			WithHint("give 2 or more, or 0")
	}
	term := report.NewTerminal(a.err)
	defer term.Close()
	cfg, err := f.load()
	if err != nil {
		return err
	}
	launch, err := launcher(cfg, term)
	if err != nil {
		return err
	}
	for _, text := range compare {
		one, err := contender(text, f, launch)
		if err != nil {
			return err
		}
		o.Compare = append(o.Compare, one)
	}
	o.Config, o.Launch, o.Terminal, o.Version, o.Command = cfg, launch, term, version(), append([]string{"srpo"},
		os.Args[1:]...)
	if o.Decoder, err = decoder(cfg, term); err != nil {
		return err
	}
	defer o.Decoder.Close()
	if o.Curves && o.Out == "" && !a.json {
		name := filepath.Base(filepath.Clean(o.Source))
		o.Out = filepath.Join("runs", strings.TrimSuffix(name, filepath.Ext(name))+"-reward")
	}
	cache, err := pyenv.CacheDir()
	if err != nil {
		return err
	}
	if !fresh {
		o.Cache = filepath.Join(cache, "embeddings")
	}
	logs, drop, err := pluginLogs(cache, "reward")
	if err != nil { // given embeddings need no encoder and no log
		logs, drop = "", func() {}
	}
	o.Logs = logs
	result, err := scoring.Run(ctx, o)
	term.Close()
	if err != nil {
		if !strings.Contains(plugins.AsError(err).Hint, logs) { // keep the log if the error refers to it
			drop()
		}
		return err
	}
	drop()
	if a.json {
		return a.printJSON(result)
	}
	return result.Table(a.out)
}

// contender parses one value of --compare: ENCODER or LABEL=ENCODER, followed by any number of :SETTING=VALUE.
func contender(text string, f *settingsFlags, launch session.Launcher) (scoring.Contender, error) {
	bad := func(format string, args ...any) (scoring.Contender, error) {
		return scoring.Contender{}, plugins.Errorf(plugins.Invalid, format, args...).WithPlace("--compare %s", text).
			WithHint("give a name or a folder, such as pixel or ./my-encoder, or a label and settings: " +
				"small=vjepa2:model=small.onnx")
	}
	if info, err := os.Stat(text); err == nil && info.IsDir() {
		return scoring.Contender{Encoder: text}, nil
	}
	parts := strings.Split(text, ":")
	c := scoring.Contender{Encoder: parts[0]}
	if label, name, ok := strings.Cut(parts[0], "="); ok {
		if label == "" {
			return bad("the label is empty")
		}
		c.Label, c.Encoder = label, name
	}
	if c.Encoder == "" {
		return bad("the encoder is missing")
	}
	if len(parts) == 1 {
		return c, nil
	}
	found, err := launch.Find(plugins.Encoder, c.Encoder)
	if err != nil {
		return c, err
	}
	own, name := *f, c.Encoder
	own.set = slices.Clone(f.set)
	for _, setting := range parts[1:] {
		key, value, ok := strings.Cut(setting, "=")
		if !ok || key == "" {
			return bad("%q is not a setting", setting)
		}
		own.set = append(own.set, "encoder."+found.Name+"."+setting)
		name += ":" + key + "=" + filepath.Base(value) // the last part of a path is enough
	}
	if c.Label == "" {
		c.Label = name
	}
	c.Config, err = own.load()
	return c, err
}

// decoder decodes videos with a Python program, which is installed for the first video that needs it.
func decoder(cfg *config.Config, term *report.Terminal) (*media.Decoder, error) {
	prep, err := preparer(cfg, term)
	if err != nil {
		return nil, err
	}
	return &media.Decoder{Command: func(ctx context.Context) (argv, env []string, err error) {
		cat := &catalog.Catalog{Embedded: []fs.FS{media.DecodeFiles()}, Cache: prep.Cache}
		pkg, err := cat.Find(plugins.Encoder, "video")
		if err != nil {
			return nil, nil, err
		}
		if spec, o, ok := prep.Environment(pkg); ok && !pyenv.Installed(spec, o) {
			term.Line("installing a Python environment for mp4 and webp videos: about %.0f MB to download, "+
				"%.0f MB on disk (av, Pillow, NumPy)", spec.DownloadMB, spec.DiskMB)
		}
		l, err := prep.Prepare(ctx, pkg)
		if err != nil {
			e := plugins.AsError(err)
			e.Place = "the video decoder"
			if strings.HasPrefix(e.Hint, "srpo plugin install") {
				e = e.WithHint(
					"remove %s, and it is built again; or give the videos as gif, npz or folders of pictures",
					filepath.Join(
						prep.Cache, "venvs", "video-*",
					),
				)
			}
			return nil, nil, e
		}
		for name, value := range l.Env {
			env = append(env, name+"="+value)
		}
		return l.Argv, env, nil
	}}, nil
}
