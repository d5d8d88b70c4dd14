package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/srpo-dev/srpo/encoders/export"
	"github.com/srpo-dev/srpo/encoders/vjepa2/train"
	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
)

func (a *app) encoderCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "encoder",
		Short: "Make model files for the encoders vjepa2 and dinov2",
		Long: "The encoders vjepa2 and dinov2 run ONNX files. export makes one from a checkpoint in the format of\n" +
			"transformers; train makes a small V-JEPA 2 checkpoint from clips of your own tasks. Their Python\n" +
			"environment (torch, transformers, ONNX) is installed at the first use.",
		Args: cobra.ArbitraryArgs,
		RunE: onlySubcommands,
	}
	c.AddCommand(a.encoderExport(), a.encoderTrain(), a.encoderShow(), a.encoderInstall())
	return c
}

// exportOptions are the flags of `srpo encoder export`.
type exportOptions struct {
	model, out, revision, clips string
	half, repair                bool
	frames, threads             int
}

func (a *app) encoderExport() *cobra.Command {
	var o exportOptions
	c := &cobra.Command{
		Use:   "export vjepa2|dinov2 --model FOLDER|HUB-ID",
		Short: "Export a checkpoint as a verified ONNX file",
		Long: "export loads a V-JEPA 2 or DINOv2 checkpoint in the format of transformers, writes it as ONNX with\n" +
			"attention that does not materialise its scores, and compares it with torch on three clips in\n" +
			"batches of 1, 2 and 3. The file gets its name only if they agree to 1e-4 (with --half: 2e-2) of a\n" +
			"vector's length. Its metadata contain its source and the preprocessing of frames: srpo encoder\n" +
			"show FILE.\n\n" +
			"--model is a folder with config.json, model.safetensors and (video_)preprocessor_config.json, or\n" +
			"the id of a checkpoint on the model hub. The export needs memory for about 2.3 times the float32\n" +
			"weights.",
		Example: "  srpo encoder export vjepa2 --model ~/models/vjepa2-vitl-fpc64-256\n" +
			"  srpo encoder export dinov2 --model facebook/dinov2-base --half",
		Args: oneArg("vjepa2 or dinov2"),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("frames") && o.frames < 1 {
				return plugins.Errorf(plugins.Invalid, "%d frames", o.frames).WithPlace("--frames").
					WithHint("give a multiple of the checkpoint's tubelet, such as 16")
			}
			return a.export(c.Context(), args[0], o)
		},
	}
	c.Flags().StringVar(&o.model, "model", "", "checkpoint: a folder, or OWNER/NAME on the model hub")
	c.Flags().StringVar(
		&o.out, "out", "",
		"file to write, ending with .onnx; default: in srpo's cache folder, named after the checkpoint",
	)
	c.Flags().BoolVar(&o.half, "half", false, "float16 weights and arithmetic, for GPUs; the outputs stay float32")
	c.Flags().StringVar(&o.revision, "revision", "", "branch, tag or commit on the model hub")
	c.Flags().IntVar(&o.frames, "frames", 0, "vjepa2: frames per clip; default: the checkpoint's")
	c.Flags().StringVar(
		&o.clips, "clips", "",
		"folder of .npz clips (T x H x W x 3 uint8) for the verification; default: three episodes of tabletop",
	)
	c.Flags().IntVar(&o.threads, "threads", 0, "threads to use; 0: one per core")
	c.Flags().BoolVar(&o.repair, "repair", false, "build the Python environment again if its files have changed")
	return c
}

func (a *app) export(ctx context.Context, family string, o exportOptions) error {
	if err := o.check(family); err != nil {
		return err
	}
	w, err := a.workbench("", nil)
	if err != nil {
		return err
	}
	defer w.term.Close()
	if o.out == "" {
		o.out = filepath.Join(w.prep.Cache, "models", o.name(family), "model.onnx")
	}
	if o.out, err = filepath.Abs(o.out); err != nil {
		return plugins.Errorf(plugins.Invalid, "the path %q: %w", o.out, err).WithPlace("--out").
			WithHint("give the path of a file")
	}
	args := []string{family, "--model", o.model, "--out", o.out, "--threads", strconv.Itoa(o.threads)}
	for flag, value := range map[string]string{"--revision": o.revision, "--clips": o.clips} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	if o.half {
		args = append(args, "--half")
	}
	if o.frames > 0 {
		args = append(args, "--frames", strconv.Itoa(o.frames))
	}
	w.prep.Repair = o.repair
	began := time.Now()
	result, err := w.python(ctx, pythonProgram{name: "export", files: export.Files, entry: "export.py", args: args})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(result)
	}
	var r struct {
		File     string          `json:"file"`
		Bytes    int64           `json:"bytes"`
		Card     export.Card     `json:"card"`
		Verified export.Verified `json:"verified"`
	}
	if err := json.Unmarshal(result, &r); err != nil {
		return plugins.Errorf(plugins.Internal, "the result of the exporter: %w", err)
	}
	w.term.Close()
	fmt.Fprintf(a.out, "%s\n%s, %.1f MB; %s; in %.0f s\nnext: srpo run --encoder %s --set encoder.%s.model=%s\n",
		r.File, shapeOf(r.Card), float64(r.Bytes)/1e6,
		agreement(r.Verified), time.Since(began).Seconds(), family, family, r.File)
	return nil
}

func shapeOf(c export.Card) string {
	frames := "frame by frame"
	if c.Frames > 1 {
		frames = fmt.Sprintf("clips of %d frames", c.Frames)
	}
	return fmt.Sprintf(
		"%s, %s of %d x %d, vectors of %d numbers", c.Family, frames, c.Input.Height, c.Input.Width, c.Dimension,
	)
}

func agreement(v export.Verified) string {
	return fmt.Sprintf("differs from torch by at most %.1e of a vector's length (%d clips of %s, batches of %s)",
		v.LargestRelativeDifference, v.Clips, v.Pictures,
		strings.Trim(fmt.Sprint(v.Batches), "[]"))
}

var (
	hubID    = regexp.MustCompile(`^[\w.-]+/[\w.-]+$`)
	notAName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)
)

// name returns the name of the folder for a model without --out.
func (o exportOptions) name(family string) string {
	abs, _ := filepath.Abs(o.model)
	n := notAName.ReplaceAllString(filepath.Base(abs), "-")
	if !strings.HasPrefix(n, family) {
		n = family + "-" + n
	}
	if o.frames > 0 {
		n += fmt.Sprintf("-%df", o.frames)
	}
	if o.half {
		n += "-half"
	}
	return n
}

// check finds mistakes before gigabytes are installed. The program checks the rest.
func (o *exportOptions) check(family string) error {
	known := slices.Sorted(maps.Keys(export.Families))
	if _, ok := export.Families[family]; !ok {
		e := plugins.Errorf(plugins.NotFound, "no export exists for an encoder %q", family)
		if near := nearest.To(family, known); near != "" {
			return e.WithHint("did you mean %s?", near)
		}
		return e.WithHint("give one of %s; other encoders contain their model", strings.Join(known, ", "))
	}
	files := export.FilesOf(family)
	if o.model == "" {
		return plugins.Errorf(plugins.Invalid, "no checkpoint given").WithPlace("--model").
			WithHint("give a folder with %s, or the id of a checkpoint on the model hub", files)
	}
	if o.out != "" && filepath.Ext(o.out) != ".onnx" {
		return plugins.Errorf(plugins.Invalid, "%s does not end with .onnx", o.out).WithPlace("--out").
			WithHint("give --out FILE.onnx")
	}
	info, err := os.Stat(o.model)
	switch {
	case err != nil && hubID.MatchString(o.model) && !strings.HasPrefix(o.model, "."):
		return nil // on the model hub
	case err != nil:
		return plugins.Errorf(plugins.NotFound, "there is no folder %s", o.model).WithPlace("--model").
			WithHint("give a folder with %s, or the id of a checkpoint on the model hub: OWNER/NAME", files)
	case !info.IsDir():
		return plugins.Errorf(plugins.Invalid, "%s is a file", o.model).WithPlace("--model").
			WithHint("give its folder, with %s", files)
	}
	if o.revision != "" {
		return plugins.Errorf(plugins.Invalid, "a folder has no revisions").WithPlace("--revision").
			WithHint("leave it out; it is for checkpoints on the model hub")
	}
	return checkFolder(family, o.model)
}

// checkFolder finds mistakes in the folder of a checkpoint: config.json, and the names of the weights.
func checkFolder(family, folder string) error {
	known := slices.Sorted(maps.Keys(export.Families))
	f := export.Families[family]
	path := filepath.Join(folder, "config.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return plugins.Errorf(plugins.NotFound, "%s has no config.json", folder).WithPlace("--model").
			WithHint("copy %s into the folder, as in the format of transformers", export.FilesOf(family))
	}
	var config map[string]any
	if err == nil {
		err = json.Unmarshal(data, &config)
	}
	if err != nil {
		return plugins.Errorf(plugins.Corrupt, "%w", err).WithPlace("%s", path).WithHint("download the file again")
	}
	kind, _ := config["model_type"].(string)
	if slices.Contains(f.ModelTypes, kind) {
		if err := export.CheckConfig(config, kind); err != nil {
			return plugins.AsError(err).WithPlace("%s", path)
		}
		return export.CheckWeights(folder, config, kind)
	}
	e := plugins.Errorf(
		plugins.Mismatch, "the checkpoint has another architecture: model_type = %q, not %s", kind, family,
	).
		WithPlace("%s", path)
	for _, other := range known {
		if slices.Contains(export.Families[other].ModelTypes, kind) {
			return e.WithHint("srpo encoder export %s --model %s", other, folder)
		}
	}
	return e.WithHint("give a checkpoint for %s with model_type %s", family, strings.Join(f.ModelTypes, " or "))
}

// trainNumbers are the flags of `srpo encoder train` that are passed to the program unchanged.
var trainNumbers = []struct {
	flag string
	zero any // 0 of the flag's type: the program's own default
	doc  string
}{
	{"steps", 0, "training steps, default 5000; 0: random weights, as a baseline"},
	{"batch", 0, "clips per step, default 32"},
	{"rate", 0.0, "largest learning rate, default 6e-4"},
	{"warmup", 0, "steps of warm-up to the largest learning rate, default 250"},
	{"decay", 0.0, "weight decay, default 0.04"},
	{"momentum", 0.0, "initial momentum m of the target encoder, default 0.992; the final one is 1 - (1 - m) / 100"},
	{"seed", 0, "seed of all random numbers"},
	{"crop", 0, "height and width of pictures, pixels, default 64"},
	{"patch", 0, "side of a token, pixels, default 8"},
	{"frames", 0, "frames per clip, default 16"},
	{"tubelet", 0, "frames per token, default 2"},
	{"hidden", 0, "size of an embedding, default 192"},
	{"layers", 0, "layers of the encoder, default 6"},
	{"heads", 0, "attention heads of encoder and predictor, default 3"},
	{"predictor", 0, "width of the predictor, default 96"},
	{"predictor-layers", 0, "layers of the predictor, default 4"},
	{"log", 0, "steps between two lines of log.jsonl, default 20"},
	{"threads", 0, "threads to use, default one per core"},
}

func (a *app) encoderTrain() *cobra.Command {
	var clips []string
	var out string
	c := &cobra.Command{
		Use:   "train --clips FOLDER --out FOLDER",
		Short: "Train a small V-JEPA 2 on clips of your tasks",
		Long: "train trains a small V-JEPA 2 (the classes of transformers) on clips without labels: an encoder\n" +
			"sees part of a clip, and a predictor predicts the embedding of the rest by a moving average of the\n" +
			"encoder. --clips are folders of .npz files (T x H x W x 3 uint8), for example from srpo record.\n" +
			"--out receives checkpoint/, for srpo encoder export vjepa2, log.jsonl and state.pt. If the command\n" +
			"is stopped, the same command continues.",
		Example: "  srpo record --task 'tabletop/*' --actor expert --actor noise:0.3 --actor random --episodes 300 " +
			"--set rollout.record_every=1 --out clips\n" +
			"  srpo encoder train --clips clips --out tiny-world-model\n" +
			"  srpo encoder export vjepa2 --model tiny-world-model/checkpoint",
		RunE: func(c *cobra.Command, args []string) error {
			if err := noArgs(c, args); err != nil {
				return err
			}
			return a.trainEncoder(c, clips, out)
		},
	}
	c.Flags().StringArrayVar(&clips, "clips", nil, "folder of clips; may be repeated")
	c.Flags().StringVar(&out, "out", "tiny-world-model", "folder for checkpoint, state and log")
	for _, n := range trainNumbers {
		if _, whole := n.zero.(int); whole {
			c.Flags().Int(n.flag, 0, n.doc)
		} else {
			c.Flags().Float64(n.flag, 0, n.doc)
		}
	}
	return c
}

func (a *app) trainEncoder(c *cobra.Command, clips []string, out string) error {
	if len(clips) == 0 {
		return plugins.Errorf(plugins.Invalid, "no clips given").WithPlace("--clips").
			WithHint("record some with srpo record --out clips, then give --clips clips")
	}
	var args []string
	for _, folder := range clips {
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			return plugins.Errorf(plugins.NotFound, "there is no folder %s", folder).WithPlace("--clips").
				WithHint("record one with srpo record --out %s", folder)
		}
		args = append(args, "--clips", folder)
	}
	args = append(args, "--out", out)
	for _, n := range trainNumbers {
		if f := c.Flags().Lookup(n.flag); f.Changed {
			args = append(args, "--"+n.flag, f.Value.String())
		}
	}
	w, err := a.workbench("", nil)
	if err != nil {
		return err
	}
	defer w.term.Close()
	result, err := w.python(
		c.Context(), pythonProgram{name: "train", files: train.Files, entry: "train.py", args: args},
	)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(result)
	}
	var r struct {
		Checkpoint string
		Steps      int
		Seconds    float64
		Loss       float64
		HeldOut    float64 `json:"held_out"`
		Spread     float64
		Rank       float64
	}
	if err := json.Unmarshal(result, &r); err != nil {
		return plugins.Errorf(plugins.Internal, "the result of the training: %w", err)
	}
	w.term.Close()
	fmt.Fprintf(a.out,
		"%s\n%d steps in %.0f s: loss %.3f, on held-out clips %.3f; "+
			"embeddings of clips have a spread of %.2f and an effective rank of %.1f\n"+
			"next: srpo encoder export vjepa2 --model %s\n", r.Checkpoint, r.Steps, r.Seconds, r.Loss, r.HeldOut,
		r.Spread, r.Rank, r.Checkpoint)
	return nil
}

func (a *app) encoderShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE",
		Short:   "Print the metadata of an exported model",
		Example: "  srpo encoder show model.onnx",
		Args:    oneArg("one .onnx file"),
		RunE: func(_ *cobra.Command, args []string) error {
			c, v, err := export.ReadCard(args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"card": c, "verified": v})
			}
			p, t := c.Preprocess, tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			row := func(name, format string, args ...any) {
				fmt.Fprintf(
					t, "%s\t%s\n", name, fmt.Sprintf(format, args...),
				)
			}
			row("model", "%s", shapeOf(c))
			from := c.Source
			if c.Revision != "" {
				from += " at " + c.Revision
			}
			row("source", "%s", from)
			row("weights", "SHA-256 %s", c.SHA256)
			if c.Licence != "" {
				row("licence", "%s", c.Licence)
			}
			row("made by", "%s", c.Exporter)
			row("input", "%s: %s, %s", c.Input.Name, c.Input.DType, c.Input.Layout)
			row("outputs", "%s; default %s", strings.Join(slices.Sorted(maps.Keys(c.Outputs)), ", "), c.DefaultOutput)
			resize := fmt.Sprintf("short side to %d", p.Resize)
			if p.ResizeMode == "exact" {
				resize = fmt.Sprintf("to %d x %d", p.Resize, p.Resize)
			}
			row(
				"preprocess", "%s (%s, antialias %t), centre crop %d x %d, times %.6g, minus %v, divided by %v", resize,
				p.Interpolation, p.Antialias, p.Crop, p.Crop, p.Rescale, p.Mean, p.Std,
			)
			if v.Clips > 0 {
				precision := "float32"
				if v.Half {
					precision = "float16"
				}
				row(
					"verified", "in %s with ONNX Runtime %s: %s; %.2f s per clip", precision, v.ONNXRuntime,
					agreement(v), v.SecondsPerClip,
				)
			}
			return t.Flush()
		},
	}
}

func (a *app) encoderInstall() *cobra.Command {
	var repair bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Install the Python environment of export and train",
		Long: "install installs the environment that export and train install at their first use: torch,\n" +
			"transformers and ONNX, in srpo's cache folder.",
		RunE: func(c *cobra.Command, args []string) error {
			if err := noArgs(c, args); err != nil {
				return err
			}
			w, err := a.workbench("", nil)
			if err != nil {
				return err
			}
			defer w.term.Close()
			w.prep.Repair = repair
			l, err := w.preparePython(
				c.Context(), pythonProgram{name: "export", files: export.Files, entry: "export.py"},
			)
			if err != nil {
				return err
			}
			folder := filepath.Dir(filepath.Dir(l.Argv[0]))
			w.term.Close()
			if a.json {
				return a.printJSON(map[string]string{"folder": folder, "python": l.Argv[0]})
			}
			fmt.Fprintf(a.out, "the environment is in %s\n", folder)
			return nil
		},
	}
	c.Flags().BoolVar(&repair, "repair", false, "build it again if its files have changed")
	return c
}

// pythonProgram is an embedded Python program that runs to its end, in the environment of encoders/export.
type pythonProgram struct {
	name  string
	files fs.FS
	entry string
	args  []string
}

// passed lists the environment variables that these programs receive: for the model hub, proxies and threads.
var passed = []string{"HF_*", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
	"all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
	"OMP_NUM_THREADS", "MKL_NUM_THREADS", "XDG_CACHE_HOME"}

// stopGrace is the time that such a program has to save its state when it is stopped.
const stopGrace = 20 * time.Second

// preparePython unpacks a program and installs its environment.
func (w *workbench) preparePython(ctx context.Context, p pythonProgram) (supervise.Launch, error) {
	library, err := catalog.Unpack(export.Files, w.prep.Cache, "packages", "export")
	if err != nil {
		return supervise.Launch{}, err
	}
	want, err := pyenv.ParseRequirement(export.Python)
	if err != nil {
		return supervise.Launch{}, err
	}
	prep := *w.prep
	prep.SDK = nil
	l, err := prep.Prepare(ctx,
		catalog.Package{Kind: plugins.Encoder, Name: "export", Origin: catalog.Embedded, Dir: library,
			Manifest: &manifest.Manifest{
				Name: "export", Kind: plugins.Encoder,
				Python: &manifest.Python{Version: export.Python, Requirement: want, Requirements: "requirements.txt",
					Entry:      "export.py",
					DownloadMB: export.DownloadMB, DiskMB: export.DiskMB}}})
	if err != nil {
		if e := plugins.AsError(err); strings.HasPrefix(e.Hint, "srpo plugin install ") {
			return l, e.WithHint("srpo encoder install --repair")
		}
		return l, err
	}
	dir := library
	if p.name != "export" {
		if dir, err = catalog.Unpack(p.files, w.prep.Cache, "packages", p.name); err != nil {
			return l, err
		}
	}
	l.Name = p.name
	l.Argv = append([]string{l.Argv[0], "-u", filepath.Join(dir, p.entry)}, p.args...)
	l.Dir = "" // relative paths start in the user's folder
	l.Env["PYTHONPATH"] = library
	l.Env["SRPO_VERSION"] = version()
	l.Env["PYTHONFAULTHANDLER"] = "1"
	return l, nil
}

// python runs a program to its end, shows its reports and returns its result.
func (w *workbench) python(ctx context.Context, p pythonProgram) (json.RawMessage, error) {
	l, err := w.preparePython(ctx, p)
	if err != nil {
		return nil, err
	}
	dir, drop, err := w.logs(p.name)
	if err != nil {
		return nil, err
	}
	show := newProgress(w.term)
	defer show.stop()
	result, err := supervise.Program{Launch: l, Log: filepath.Join(dir, p.name+".log"),
		EnvAllow: append(slices.Clone(passed), w.cfg.Host.EnvAllow...), Grace: stopGrace,
		OnReport: show.report}.Run(ctx)
	if err == nil {
		drop()
	}
	return result, err
}

// progress shows the reports of a program: messages and new phases as lines, and the state of the phase as the status
// line, with its duration.
type progress struct {
	term *report.Terminal

	mu    sync.Mutex
	last  supervise.Report
	began time.Time
	tick  *time.Ticker
	ended chan struct{}
	once  sync.Once
}

func newProgress(term *report.Terminal) *progress {
	p := &progress{term: term, tick: time.NewTicker(time.Second), ended: make(chan struct{})}
	go func() {
		for {
			select {
			case <-p.tick.C:
				p.mu.Lock()
				p.show()
				p.mu.Unlock()
			case <-p.ended:
				return
			}
		}
	}()
	return p
}

func (p *progress) stop() {
	p.once.Do(func() { p.tick.Stop(); close(p.ended) })
}

func (p *progress) report(r supervise.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case r.Say != "":
		p.term.Line("%s", r.Say)
	case r.Phase != "":
		if r.Phase != p.last.Phase {
			p.began = time.Now()
			p.term.Line("%s", strings.TrimSpace(r.Phase+" "+r.Note))
		}
		p.last = r
		p.show()
	}
}

// show needs p.mu.
func (p *progress) show() {
	if p.last.Phase == "" {
		return
	}
	s := report.Status{Phase: p.last.Phase, Done: int(p.last.Done), Total: int(p.last.Total)}
	if p.last.Note != "" {
		s.Phase += " " + p.last.Note
	}
	if seconds := time.Since(p.began).Seconds(); seconds >= 1 {
		s.Phase += fmt.Sprintf(", %.0f s", seconds)
	}
	p.term.Update(s)
}
