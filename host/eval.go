package host

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// EvalOptions say what [Evaluate] is to measure.
type EvalOptions struct {
	// Config names env, policy, tasks, their settings, the seed of the split, and in Run.Checkpoint what to evaluate. Run.Out is not read.
	Config *config.Config
	Launch Launcher
	// Terminal shows progress.
	Terminal *report.Terminal
	// Version of srpo and Command line, for the record.
	Version string
	Command []string
	// Dir is the evaluation's folder; empty: [EvalDir].
	Dir string
	// States is "all", "train" or "test": the side of the start states' split, the very split of a run with the same seed and train_fraction.
	States string
	// Episodes to roll, spread over tasks and start states; 0: each start state of each task once.
	Episodes int
	// Sample draws actions at rollout.temperature; otherwise the policy is greedy.
	Sample bool
	// Videos is how many of the episodes, the first ones in the order of trials, are saved as GIFs. Config.Run.KeepClips keeps frames for srpo reward.
	Videos int
}

// Evaluation is what an evaluation came to: results.json.
type Evaluation struct {
	Dir        string `json:"dir"`
	Checkpoint string `json:"checkpoint"`
	Env        string `json:"env"`
	Policy     string `json:"policy"`
	// States is the side of the split, Mode "greedy" or "sampled".
	States string `json:"states"`
	Mode   string `json:"mode"`
	Seed   uint64 `json:"seed,string"`
	// All sums up every episode; Suites and Tasks do so by suite and by task, in the env's order.
	All    Score   `json:"all"`
	Suites []Score `json:"suites"`
	Tasks  []Score `json:"tasks"`
	// EnvSteps of all episodes. Seconds and Rolled are of this call alone: an evaluation that was stopped has the rest behind it.
	EnvSteps int64   `json:"env_steps"`
	Seconds  float64 `json:"seconds"`
	Rolled   int     `json:"rolled"`
}

// Score is a success rate with its Wilson 95 % interval.
type Score struct {
	Name      string  `json:"name"`
	Episodes  int     `json:"episodes"`
	Successes int     `json:"successes"`
	Rate      float64 `json:"success_rate"`
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
	// MeanSteps is over all of its episodes, in env steps.
	MeanSteps float64 `json:"mean_steps"`
}

// EvalEpisode is a line of episodes.jsonl.
type EvalEpisode struct {
	ID         string `json:"id"`
	Task       string `json:"task"`
	StartState int    `json:"start_state"`
	Repeat     int    `json:"repeat"`
	Seed       uint64 `json:"seed,string"`
	Success    bool   `json:"success"`
	Terminated bool   `json:"terminated"`
	Truncated  bool   `json:"truncated"`
	// Steps are env steps. Progress is the env's own measure, 0 to 1, where it has one.
	Steps    int      `json:"steps"`
	Progress *float64 `json:"progress,omitempty"`
	// Video is the GIF's path within the folder.
	Video string `json:"video,omitempty"`
}

// The files of an evaluation's folder.
const (
	evalFile     = "eval.json"
	episodesFile = "episodes.jsonl"
	resultsFile  = "results.json"
	evalFormat   = 1
)

// evalRecord is eval.json: what was asked for, so that nobody adds episodes of something else.
type evalRecord struct {
	Format  int       `json:"format"`
	Created time.Time `json:"created"`
	Host    string    `json:"host"`
	Command []string  `json:"command"`
	// Checkpoint is where the policy came from; the identity holds a hash over its files.
	Checkpoint string `json:"checkpoint"`
	// Identity is everything that an episode's outcome depends on, by name.
	Identity map[string]string `json:"identity"`
	Plugins  []store.Plugin    `json:"plugins"`
}

// evaluation is one call of Evaluate.
type evaluation struct {
	EvalOptions
	cfg    *config.Config
	dir    string
	weight string // the policy's folder
	ident  map[string]string
	log    *episodeLog
	lock   *os.File
	sess   *Session
	have   map[string]rollout.Episode
	videos map[string]string
	failed error // the first failure to write
}

// RunOf returns the run folder that a policy's folder belongs to: itself, or the run of a checkpoint. ok is false for a folder that belongs to no run.
func RunOf(folder string) (run string, ok bool) {
	for _, dir := range []string{folder, filepath.Join(folder, "..", ".."), filepath.Join(folder, "..", "..", "..")} {
		if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "srpo.toml")); err == nil {
			return filepath.Clean(dir), true
		}
	}
	return "", false
}

// EvalDir is where an evaluation goes by default: runs/NAME-eval, NAME being the run's name and the iteration, with the side of the split and "sampled"
// where they are not the usual ones.
func EvalDir(checkpoint, states string, sample bool) string {
	name := filepath.Base(filepath.Clean(checkpoint))
	if run, ok := RunOf(checkpoint); ok {
		name = filepath.Base(run)
	}
	if c := filepath.Dir(PolicyFolder(checkpoint)); c != "." {
		if n, err := strconv.Atoi(filepath.Base(c)); err == nil {
			name += fmt.Sprintf("-%06d", n)
		}
	}
	name += "-eval"
	if states != "" && states != "all" {
		name += "-" + states
	}
	if sample {
		name += "-sampled"
	}
	return filepath.Join("runs", name)
}

// Evaluate rolls every trial once with a checkpoint's policy, which learns nothing from it. Stopped at any time, it goes on where it was when it is called
// again with the same folder. A folder that holds an evaluation of something else is refused and left as it is.
func Evaluate(ctx context.Context, o EvalOptions) (*Evaluation, error) {
	e := &evaluation{EvalOptions: o, cfg: o.Config, have: map[string]rollout.Episode{}, videos: map[string]string{}}
	switch {
	case e.cfg.Run.Checkpoint == "":
		return nil, plugins.Errorf(plugins.Invalid, "no policy to evaluate").WithHint("--checkpoint FOLDER: a run folder, one of its checkpoints, or a policy's own folder")
	case e.States == "":
		e.States = "all"
	case e.States != "all" && e.States != "train" && e.States != "test":
		return nil, plugins.Errorf(plugins.Invalid, "there is no side %q of the start states", e.States).WithPlace("--states").WithHint("all, train or test")
	}
	if e.Episodes < 0 || e.Videos < 0 {
		return nil, plugins.Errorf(plugins.Invalid, "a count of %d", min(e.Episodes, e.Videos)).WithPlace("--episodes or --videos").WithHint("0 or more")
	}
	if err := e.open(); err != nil {
		return nil, err
	}
	defer e.close()

	began := time.Now()
	session, err := Open(ctx, e.cfg, o.Launch, Needs{Policy: true}, filepath.Join(e.dir, "plugins"), e.onPlugin)
	if err != nil {
		return nil, e.ended(ctx, err, 0)
	}
	defer session.Close()
	e.sess = session
	// The split is a run's own: the same method of the session, seed and fraction.
	plan := rollout.Evaluation{Rules: session.rules(false, e.Videos > 0 || e.cfg.Run.KeepClips != "none"), Name: "eval", Seed: e.cfg.Run.Seed, Trials: session.trials(e.States, e.Episodes)}
	plan.Greedy = !e.Sample
	if err := e.claim(plan); err != nil {
		return nil, err
	}
	if err := e.load(ctx); err != nil {
		return nil, e.ended(ctx, err, len(plan.Trials))
	}
	if err := e.roll(ctx, plan, began); err != nil {
		return nil, e.ended(ctx, err, len(plan.Trials))
	}
	return e.finish(plan, time.Since(began).Seconds())
}

// open makes the folder, or opens one that is there, and refuses one that holds something else.
func (e *evaluation) open() error {
	checkpoint := e.cfg.Run.Checkpoint
	if info, err := os.Stat(checkpoint); err != nil || !info.IsDir() {
		return plugins.Errorf(plugins.NotFound, "no folder %s", checkpoint).WithPlace("%s", e.cfg.Origin("run.checkpoint")).
			WithHint("give a run folder, one of its checkpoints, or a policy's own folder")
	}
	if run, ok := RunOf(checkpoint); ok && filepath.Clean(run) == filepath.Clean(checkpoint) {
		// A run whose checkpoints are damaged must say so rather than be taken for a policy's folder.
		if _, _, err := store.Latest(checkpoint); err != nil {
			return err
		}
	}
	var err error
	if e.weight, err = filepath.Abs(PolicyFolder(checkpoint)); err != nil {
		return plugins.Errorf(plugins.Invalid, "%w", err)
	}
	sum, err := hashFolder(e.weight)
	if err != nil {
		return plugins.Errorf(plugins.Invalid, "the policy's folder cannot be read: %w", err).WithPlace("%s", e.weight).WithHint("check its permissions")
	}
	mode := "greedy"
	if e.Sample {
		mode = "sampled at temperature " + strconv.FormatFloat(e.cfg.Rollout.Temperature, 'g', -1, 64)
	}
	e.ident = map[string]string{"checkpoint": sum, "env": e.cfg.Run.Env, "policy": e.cfg.Run.Policy, "seed": strconv.FormatUint(e.cfg.Run.Seed, 10), "states": e.States,
		"actions": mode, "max_steps": strconv.Itoa(e.cfg.Rollout.MaxSteps), "episodes": strconv.Itoa(e.Episodes)}
	if e.States != "all" {
		e.ident["train_fraction"] = strconv.FormatFloat(e.cfg.Rollout.TrainFraction, 'g', -1, 64)
	}
	if e.Dir == "" {
		e.Dir = EvalDir(checkpoint, e.States, e.Sample)
	}
	if e.dir, err = filepath.Abs(e.Dir); err != nil {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", e.Dir)
	}
	old, err := e.read()
	if err != nil {
		return err
	}
	if old != nil {
		if err := e.same(old.Identity, false); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		return onDisk("make", e.dir, err)
	}
	return e.takeLock()
}

// takeLock keeps a second srpo out of the folder.
func (e *evaluation) takeLock() error {
	path := filepath.Join(e.dir, ".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return onDisk("open", path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return plugins.Errorf(plugins.Unavailable, "another srpo writes this evaluation").WithPlace("%s", e.dir).WithHint("wait until it has ended, or give another --out")
	}
	e.lock = f
	return nil
}

func (e *evaluation) close() {
	if e.log != nil {
		_ = e.log.close()
	}
	if e.lock != nil {
		_ = e.lock.Close()
	}
}

// read returns what the folder holds an evaluation of; nil for a folder that is empty or not there.
func (e *evaluation) read() (*evalRecord, error) {
	path := filepath.Join(e.dir, evalFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(e.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", e.Dir).WithHint("give another --out")
		}
		for _, f := range entries {
			// A first try that found no plugin leaves its lock and the plugins' logs.
			if f.Name() != ".lock" && f.Name() != "plugins" && !strings.HasPrefix(f.Name(), ".tmp-") {
				return nil, plugins.Errorf(plugins.Invalid, "the folder holds %s and no evaluation", f.Name()).WithPlace("--out %s", e.Dir).
					WithHint("give a folder that is empty or does not exist")
			}
		}
		return nil, nil
	}
	if err != nil {
		return nil, onDisk("read", path, err)
	}
	rec := &evalRecord{}
	if err := json.Unmarshal(data, rec); err != nil {
		return nil, plugins.Errorf(plugins.Corrupt, "%w", err).WithPlace("%s", path).WithHint("give another --out")
	}
	if rec.Format != evalFormat {
		return nil, plugins.Errorf(plugins.Mismatch, "the folder has format %d, this srpo reads %d", rec.Format, evalFormat).WithPlace("%s", path).
			WithHint("use the srpo that made it, or give another --out")
	}
	return rec, nil
}

// same compares what is asked for with what the folder holds: what is known before the plugins are started, and in the end all of it.
func (e *evaluation) same(old map[string]string, all bool) error {
	var names []string
	for name, now := range e.ident {
		if was, ok := old[name]; ok && was != now || !ok && all {
			names = append(names, name)
		}
	}
	if all {
		for name := range old {
			if _, ok := e.ident[name]; !ok {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	sort.Strings(names)
	var detail []string
	for _, name := range names {
		detail = append(detail, fmt.Sprintf("%s: %s there, %s now", name, orNothing(old[name]), orNothing(e.ident[name])))
	}
	return plugins.Errorf(plugins.Mismatch, "the folder holds another evaluation: %s differs; nothing was changed", strings.Join(names, ", ")).WithPlace("--out %s", e.Dir).
		WithHint("give another --out").WithDetail(strings.Join(detail, "\n"))
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// claim completes the identity with what only the plugins know, writes it down or compares it with what is there, and reads the episodes that are there.
func (e *evaluation) claim(plan rollout.Evaluation) error {
	s := e.sess
	for _, p := range s.Plugins {
		what := p.Version
		if p.Hash != "" {
			what += " " + p.Hash
		}
		e.ident[string(p.Kind)+" plugin"] = p.Name + " " + what
	}
	for _, v := range e.cfg.Values() {
		if strings.HasPrefix(v.Key, "env.") || strings.HasPrefix(v.Key, "policy.") {
			e.ident[v.Key] = fmt.Sprint(v.Value)
		}
	}
	tasks := sha256.New()
	for _, t := range s.Tasks {
		fmt.Fprintf(tasks, "%q %d %d\n", t.ID, t.StartStates, plan.MaxSteps)
	}
	e.ident["tasks"] = fmt.Sprintf("%d (%s)", len(s.Tasks), hex.EncodeToString(tasks.Sum(nil))[:12])

	old, err := e.read()
	if err != nil {
		return err
	}
	if old != nil {
		if err := e.same(old.Identity, true); err != nil {
			return err
		}
	} else {
		rec := evalRecord{Format: evalFormat, Created: time.Now().UTC().Truncate(time.Millisecond), Host: e.Version, Command: e.Command, Checkpoint: e.cfg.Run.Checkpoint,
			Identity: e.ident, Plugins: s.Plugins}
		var text bytes.Buffer
		if err := e.cfg.Write(&text); err != nil {
			return err
		}
		if err := e.write("srpo.toml", text.Bytes()); err != nil {
			return err
		}
		if err := e.writeJSON(evalFile, rec); err != nil {
			return err
		}
	}
	trials := map[string]bool{}
	for i := range plan.Trials {
		trials[plan.ID(i)] = true
	}
	var lines []EvalEpisode
	if e.log, lines, err = openEpisodes(filepath.Join(e.dir, episodesFile)); err != nil {
		return err
	}
	for n, ep := range lines {
		if !trials[ep.ID] || e.have[ep.ID].ID != "" {
			return plugins.Errorf(plugins.Corrupt, "episode %q is none of this evaluation's, or is there twice", ep.ID).WithPlace("%s:%d", e.log.path, n+1).
				WithHint("give another --out")
		}
		e.have[ep.ID] = rollout.Episode{ID: ep.ID, Task: ep.Task, StartState: ep.StartState, Seed: ep.Seed, Success: ep.Success, Terminated: ep.Terminated,
			Truncated: ep.Truncated, Steps: ep.Steps, Progress: ep.Progress}
		e.videos[ep.ID] = ep.Video
	}
	if len(lines) > 0 {
		e.Terminal.Line("going on in %s: %d of %d episodes are there", e.Dir, len(lines), len(plan.Trials))
	}
	return nil
}

// load gives the policy its weights, those of its later incarnations too.
func (e *evaluation) load(ctx context.Context) error {
	p, _, err := e.sess.Sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	if _, err := p.Load(ctx, e.weight); err != nil {
		return plugins.AsError(err).WithPlace("%s, checkpoint %s", e.cfg.Origin("run.checkpoint"), e.cfg.Run.Checkpoint)
	}
	return e.sess.useWeights(ctx, e.weight)
}

// roll rolls what is not there yet. A policy whose process is lost comes back with the same weights, and with it the episodes that were in flight.
func (e *evaluation) roll(ctx context.Context, plan rollout.Evaluation, began time.Time) error {
	s := e.sess
	total, steps, successes := len(plan.Trials), int64(0), 0
	for _, ep := range e.have {
		steps += int64(ep.Steps)
		if ep.Success {
			successes++
		}
	}
	repeat := map[string]int{}
	wanted := map[string]bool{}
	for i, t := range plan.Trials {
		repeat[plan.ID(i)] = t.Repeat
		if i < e.Videos {
			wanted[plan.ID(i)] = true
		}
	}
	if e.Videos > 0 {
		plan.KeepFrames = func(ep rollout.Episode) bool { return wanted[ep.ID] }
	}
	e.Terminal.Line("%s: %s, %s on %s start states, %s, %d lanes · policy %s from %s · ready in %.1f s", s.Sched.EnvName, count(len(s.Tasks), "task"),
		count(total, "episode"), e.States, e.ident["actions"], s.Lanes, e.cfg.Run.Policy, e.cfg.Run.Checkpoint, time.Since(began).Seconds())

	rolling, stop := context.WithCancel(ctx)
	defer stop()
	plan.OnFrames = func(ep rollout.Episode) { // before its line, so that an episode that is there has its clip
		if e.failed == nil && wantsClip(e.cfg.Run.KeepClips, ep.Success) {
			if e.failed = e.keepClip(ep); e.failed != nil {
				stop()
			}
		}
	}
	plan.OnEpisode = func(ep rollout.Episode) {
		if e.failed != nil {
			return
		}
		if e.failed = e.keep(ep, repeat[ep.ID]); e.failed != nil {
			stop()
			return
		}
		e.have[ep.ID] = ep
		steps += int64(ep.Steps)
		if ep.Success {
			successes++
		}
		e.Terminal.Update(report.Status{Phase: "eval", Done: len(e.have), Total: total, EnvSteps: steps, Successes: successes, Episodes: len(e.have)})
	}
	for len(e.have) < total {
		plan.Have = map[string]rollout.Episode{}
		for id, ep := range e.have {
			plan.Have[id] = ep
		}
		_, _, err := s.Sched.Evaluate(rolling, plan)
		switch {
		case e.failed != nil:
			return e.failed
		case errors.Is(err, rollout.ErrPolicyLost) && ctx.Err() == nil:
			e.Terminal.Warn("%v; it goes on with a new one", err)
			if err := s.policyAlive(ctx); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	e.Terminal.Update(report.Status{Phase: "eval", Done: total, Total: total, EnvSteps: steps, Successes: successes, Episodes: total})
	return e.log.sync()
}

// keep writes an episode's line, and its video first.
func (e *evaluation) keep(ep rollout.Episode, repeat int) error {
	line := EvalEpisode{ID: ep.ID, Task: ep.Task, StartState: ep.StartState, Repeat: repeat, Seed: ep.Seed, Success: ep.Success, Terminated: ep.Terminated,
		Truncated: ep.Truncated, Steps: ep.Steps, Progress: ep.Progress}
	if !ep.Frames.IsZero() {
		var gif bytes.Buffer
		if err := store.EncodeGIF(&gif, ep.Frames, store.GIF{}); err != nil {
			return plugins.AsError(err).WithPlace("episode %s", ep.ID)
		}
		outcome := "failure"
		if ep.Success {
			outcome = "success"
		}
		clean := strings.Map(func(r rune) rune {
			if r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
				return r
			}
			return '-'
		}, ep.Task)
		sum := sha256.Sum256([]byte(ep.ID)) // different ids may read the same once cleaned
		line.Video = fmt.Sprintf("videos/%s-%03d-%d-%s-%x.gif", clean[:min(len(clean), 80)], ep.StartState, repeat, outcome, sum[:3])
		if err := os.MkdirAll(filepath.Join(e.dir, "videos"), 0o755); err != nil {
			return onDisk("make", e.dir, err)
		}
		if err := e.write(line.Video, gif.Bytes()); err != nil {
			return err
		}
	}
	return e.log.append(line)
}

// finish writes results.json.
func (e *evaluation) finish(plan rollout.Evaluation, seconds float64) (*Evaluation, error) {
	r := &Evaluation{Dir: e.dir, Checkpoint: e.cfg.Run.Checkpoint, Env: e.cfg.Run.Env, Policy: e.cfg.Run.Policy, States: e.States, Mode: e.ident["actions"], Seed: e.cfg.Run.Seed,
		Seconds: seconds, Rolled: e.log.added, Suites: []Score{}, Tasks: []Score{}}
	r.All.Name = "all"
	tasks, suites := map[string]*Score{}, map[string]*Score{}
	for i, t := range plan.Trials {
		ep := e.have[plan.ID(i)]
		r.EnvSteps += int64(ep.Steps)
		for _, s := range []*Score{&r.All, scoreOf(tasks, t.Task.ID), scoreOf(suites, t.Task.Suite)} {
			s.Episodes++
			s.MeanSteps += float64(ep.Steps)
			if ep.Success {
				s.Successes++
			}
		}
	}
	r.All.close()
	for _, t := range e.sess.Tasks {
		for _, x := range []struct {
			from map[string]*Score
			name string
			to   *[]Score
		}{{tasks, t.ID, &r.Tasks}, {suites, t.Suite, &r.Suites}} {
			if s := x.from[x.name]; s != nil {
				s.close()
				*x.to = append(*x.to, *s)
				delete(x.from, x.name)
			}
		}
	}
	return r, e.writeJSON(resultsFile, r)
}

func scoreOf(m map[string]*Score, name string) *Score {
	if m[name] == nil {
		m[name] = &Score{Name: name}
	}
	return m[name]
}

func (s *Score) close() {
	s.Rate = float64(s.Successes) / float64(max(1, s.Episodes))
	s.MeanSteps /= float64(max(1, s.Episodes))
	s.Low, s.High = report.Wilson(s.Rate, s.Episodes)
}

// Table writes the success rates by task and suite, with Wilson 95 % intervals.
func (r *Evaluation) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "TASK\tSUCCESS\t95 %%\tEPISODES\tMEAN STEPS\n")
	row := func(name string, s Score) {
		fmt.Fprintf(t, "%s\t%.1f %%\t%.1f to %.1f\t%d of %d\t%.0f\n", name, 100*s.Rate, 100*s.Low, 100*s.High, s.Successes, s.Episodes, s.MeanSteps)
	}
	for _, s := range r.Tasks {
		row(s.Name, s)
	}
	if len(r.Suites) > 1 || len(r.Tasks) > 1 {
		for _, s := range r.Suites {
			if s.Name != "" {
				row("suite "+s.Name, s)
			}
		}
		row("all", r.All)
	}
	return t.Flush()
}

// ended says how far an evaluation came that did not end.
func (e *evaluation) ended(ctx context.Context, err error, total int) error {
	if ctx.Err() == nil {
		return err
	}
	if e.log != nil {
		_ = e.log.sync()
	}
	if total == 0 {
		return plugins.Errorf(plugins.Canceled, "stopped before the first episode").WithHint("the same command starts again")
	}
	return plugins.Errorf(plugins.Canceled, "stopped after %d of %d episodes, which are kept in %s", len(e.have), total, e.Dir).WithHint("the same command with --out %s goes on", e.Dir)
}

func (e *evaluation) onPlugin(ev supervise.Event) {
	switch ev.What {
	case "died", "replaced", "gave up":
		e.Terminal.Warn("%s %s: %s", ev.Plugin, ev.What, ev.Cause)
	case "restarting":
		e.Terminal.Line("%s is restarted in %.1f s", ev.Plugin, ev.Seconds)
	}
}

func (e *evaluation) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return plugins.Errorf(plugins.Internal, "%s: %w", name, err)
	}
	return e.write(name, append(data, '\n'))
}

// write puts a file into the folder: the whole of it, or the one that was there.
func (e *evaluation) write(name string, data []byte) error {
	path := filepath.Join(e.dir, filepath.FromSlash(name))
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return onDisk("write", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return onDisk("write", path, err)
}

func onDisk(op, path string, err error) error {
	if err == nil {
		return nil
	}
	kind, hint := plugins.Invalid, "check the folder's permissions, or give another --out"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		kind, hint = plugins.Exhausted, "the disk or the quota is full: make room, and run the same command again; what is written is kept"
	}
	return plugins.Errorf(kind, "cannot %s the file: %w", op, err).WithPlace("%s", path).WithHint("%s", hint)
}

// episodeLog is episodes.jsonl: a line for each episode, durable at the latest a second later.
type episodeLog struct {
	path   string
	file   *os.File
	synced time.Time
	added  int
}

// openEpisodes opens the file, cuts off a last line that a crash left without its end, and returns the episodes in it.
func openEpisodes(path string) (*episodeLog, []EvalEpisode, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, nil, onDisk("open", path, err)
	}
	l := &episodeLog{path: path, file: f, synced: time.Now()}
	fail := func(err error) (*episodeLog, []EvalEpisode, error) {
		_ = f.Close()
		return nil, nil, err
	}
	var episodes []EvalEpisode
	whole := int64(0)
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fail(onDisk("read", path, err))
		}
		var ep EvalEpisode
		if err := json.Unmarshal(line, &ep); err != nil {
			return fail(plugins.Errorf(plugins.Corrupt, "%w", err).WithPlace("%s:%d", path, len(episodes)+1).WithHint("remove the line to have its episode rolled again, or give another --out"))
		}
		episodes = append(episodes, ep)
		whole += int64(len(line))
	}
	if err := f.Truncate(whole); err != nil {
		return fail(onDisk("truncate", path, err))
	}
	if _, err := f.Seek(whole, io.SeekStart); err != nil {
		return fail(onDisk("read", path, err))
	}
	return l, episodes, nil
}

func (l *episodeLog) append(ep EvalEpisode) error {
	data, err := json.Marshal(ep)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "episode %s: %w", ep.ID, err)
	}
	if _, err := l.file.Write(append(data, '\n')); err != nil {
		return onDisk("write", l.path, err) // a torn line is cut off by the next one who opens the file
	}
	l.added++
	if time.Since(l.synced) > time.Second {
		return l.sync()
	}
	return nil
}

func (l *episodeLog) sync() error {
	l.synced = time.Now()
	return onDisk("fsync", l.path, l.file.Sync())
}

func (l *episodeLog) close() error { return errors.Join(l.sync(), l.file.Close()) }

// hashFolder is a SHA-256 over the names and bytes of every file in a folder.
func hashFolder(dir string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		one := sha256.New()
		if _, err := io.Copy(one, f); err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %x\n", filepath.ToSlash(name), one.Sum(nil))
		return nil
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}
