package train

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// configFile is the resolved configuration in a run folder.
const configFile = "srpo.toml"

// reload reads the host's state of the last commit, and loads its weights into the policy.
func (r *run) reload(ctx context.Context) (err error) {
	if r.state, err = readState(r.last); err != nil {
		return err
	}
	p, err := r.session.CurrentPolicy(ctx)
	if err != nil {
		return err
	}
	_, err = p.Load(ctx, r.last.PolicyDir())
	return err
}

// openFolder creates the run folder, or opens it to continue the run.
func (r *run) openFolder() (err error) {
	if r.Resume != "" {
		err = r.resumeFolder()
	} else {
		err = r.createFolder()
	}
	if err != nil {
		return err
	}
	r.folder.Keep = r.cfg.Run.Keep
	if r.Resume != "" { // a host that died right after a commit has not removed old checkpoints
		if err := r.folder.Retain(); err != nil {
			r.Terminal.Warn("an old checkpoint could not be removed: %v", err)
		}
	}
	if r.cfg.Run.TensorBoard {
		dir := filepath.Join(r.folder.Dir(), "tensorboard")
		r.tb, err = report.OpenTensorBoard(dir, r.folder.Manifest().Created, r.metrics)
	}
	return err
}

func (r *run) resumeFolder() (err error) {
	if r.folder, err = store.Open(r.Resume); err != nil {
		return err
	}
	var warnings []error
	if r.last, warnings, err = r.folder.Resume(); err != nil {
		r.folder.Close()
		return err
	}
	for _, w := range warnings {
		r.Terminal.Warn("%v", w)
	}
	rec, err := store.Read(r.folder.Dir())
	if err != nil {
		return err
	}
	r.metrics = rec.Metrics
	resumed := store.Resumed{Time: time.Now(), Iteration: r.iterationsDone(), Command: r.Command, Host: r.Version}
	if err := r.folder.UpdateManifest(func(m *store.Manifest) { m.Resumed = append(m.Resumed, resumed) }); err != nil {
		return err
	}
	r.Terminal.Line("resuming %s after iteration %d", r.folder.Dir(), resumed.Iteration)
	return nil
}

func (r *run) createFolder() (err error) {
	dir := r.cfg.Run.Out
	if dir == "" {
		dir = filepath.Join("runs", r.name())
	}
	var text bytes.Buffer
	if err := r.cfg.Write(&text); err != nil {
		return err
	}
	m := store.Manifest{Name: filepath.Base(dir), Created: time.Now(), Host: r.Version, Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Machine:  map[string]string{"cores": strconv.Itoa(runtime.NumCPU())},
		Command:  r.Command, Seed: r.cfg.Run.Seed}
	if r.folder, err = store.Create(dir, m, text.Bytes()); err != nil {
		return err
	}
	r.event(store.Event{Type: store.Started})
	r.Terminal.Line("run folder: %s", dir)
	return nil
}

// name returns the name of the run: run.name, or one that is made up.
func (r *run) name() string {
	if r.cfg.Run.Name != "" {
		return r.cfg.Run.Name
	}
	return fmt.Sprintf("%s-%s-%s-%s", filepath.Base(r.cfg.Run.Env), filepath.Base(r.cfg.Run.Policy),
		r.cfg.Reward.Kind, time.Now().Format("0102-150405"))
}

// completeManifest adds what only the running plugins report, and writes the resolved configuration with their
// settings. It does so for a resumed run too, whose changed settings also count for the next one.
func (r *run) completeManifest() error {
	s := r.session
	var text bytes.Buffer
	if err := r.cfg.Write(&text); err != nil {
		return err
	}
	var settings []string
	old, err := os.ReadFile(filepath.Join(r.folder.Dir(), configFile))
	if err != nil || !bytes.Equal(old, text.Bytes()) {
		settings = changedSettings(r.cfg, s, old)
		if err := r.folder.WriteFile(configFile, text.Bytes()); err != nil {
			return err
		}
	}
	changed := changedPlugins(r.folder.Manifest().Plugins, s.Plugins)
	if r.Resume != "" {
		for _, change := range append(settings, changed...) {
			r.Terminal.Warn("%s: earlier iterations used the other one", change)
			r.event(
				store.Event{Type: store.Warning, Iteration: r.iterationsDone(),
					Message: change + " since the run began"},
			)
		}
	}
	return r.folder.UpdateManifest(func(m *store.Manifest) {
		if n := len(m.Resumed); n > 0 && len(changed) > 0 {
			m.Resumed[n-1].Plugins = s.Plugins
		}
		if len(m.Plugins) == 0 {
			m.Plugins = s.Plugins
		}
		m.StartStates = s.Split.ForManifest(s.Tasks, r.cfg.Rollout.StartStates)
		m.Checkpoint, m.Tasks = r.cfg.Run.Checkpoint, nil
		for _, t := range s.Tasks {
			m.Tasks = append(m.Tasks, t.ID)
		}
	})
}

// changedSettings describes which settings of the plugins in use differ from those in an earlier srpo.toml. A
// resumed run may change them, for example to use less memory or a smaller learning rate.
func changedSettings(cfg *config.Config, s *session.Session, old []byte) []string {
	before, err := config.Parse(configFile, old)
	if err != nil {
		return nil
	}
	for _, p := range []struct {
		kind plugins.Kind
		plugins.Info
	}{{plugins.Env, s.EnvInfo}, {plugins.Policy, s.PolicyInfo}, {plugins.Encoder, s.EncoderInfo}} {
		if p.Name == "" {
			continue
		}
		// An error means that the plugin has other settings now. Then it is another plugin, which
		// changedPlugins reports.
		_, _ = before.ResolvePlugin(p.kind, p.Name, p.Settings)
	}
	values := map[string]any{}
	for _, v := range before.Values() {
		values[v.Key] = v.Value
	}
	var changes []string
	for _, v := range cfg.Values() {
		kind, _, _ := strings.Cut(v.Key, ".")
		b, known := values[v.Key]
		if known && slices.Contains(plugins.Kinds, plugins.Kind(kind)) && !reflect.DeepEqual(b, v.Value) {
			changes = append(changes, fmt.Sprintf("%s is %v and was %v", v.Key, v.Value, b))
		}
	}
	return changes
}

// changedPlugins describes which plugins of a run are not those that it began with.
func changedPlugins(before, now []store.Plugin) []string {
	var changes []string
	for _, p := range now {
		for _, old := range before {
			switch {
			case old.Kind != p.Kind:
			case old.Name != p.Name || old.Version != p.Version:
				changes = append(changes,
					fmt.Sprintf("%s %s %s is now %s %s", p.Kind, old.Name, old.Version, p.Name, p.Version))
			case old.Hash != p.Hash:
				changes = append(changes,
					fmt.Sprintf("the package of %s %s %s has changed", p.Kind, p.Name, p.Version))
			}
		}
	}
	return changes
}

// iterationsDone returns the last committed iteration.
func (r *run) iterationsDone() int {
	if r.last == nil {
		return 0
	}
	return r.last.Iteration
}

// end logs how the run ended, adds to its error how to continue, and closes the folder.
func (r *run) end(ctx context.Context, err error) error {
	at := r.iterationsDone()
	switch {
	case err == nil:
		r.event(store.Event{Type: store.Finished, Iteration: at})
	case ctx.Err() != nil:
		r.event(store.Event{Type: store.Interrupted, Iteration: at})
		e := plugins.Errorf(plugins.Canceled, "stopped after iteration %d of %d, which is committed", at,
			r.cfg.Run.Iterations)
		if r.last == nil {
			e = plugins.Errorf(plugins.Canceled, "stopped before anything was committed")
		}
		err = e.WithHint("srpo run --resume %s", r.folder.Dir())
	default:
		r.event(store.ErrorEvent(store.Failed, at, err))
		e := plugins.AsError(r.folder.Explain(err))
		if r.last != nil && !strings.Contains(e.Hint, "srpo run --resume") {
			hint := fmt.Sprintf("iteration %d is committed: srpo run --resume %s", at, r.folder.Dir())
			if e.Hint != "" {
				hint = e.Hint + "; " + hint
			}
			e = e.WithHint("%s", hint)
		}
		err = e
	}
	if r.tb != nil {
		_ = r.tb.Close()
	}
	if e := report.WriteRun(r.folder); err == nil {
		err = e
	}
	if e := r.folder.Close(); err == nil {
		err = e
	}
	return err
}

// discardUnused removes the folder of a run that never began because of a mistake of the user, such as a
// misspelt task. A folder that existed before stays, and so does one that the error refers to.
func (r *run) discardUnused(ctx context.Context, err error) {
	if ctx.Err() != nil || r.began || r.last != nil || r.Resume != "" || !session.IsUserError(err, r.folder.Dir()) {
		return
	}
	if removed, err := r.folder.Discard(); err != nil {
		r.Terminal.Warn("the folder of this run, which never began, could not be removed: %v", err)
	} else if removed {
		r.Terminal.Line("run folder removed: the run never began")
	}
}

// event appends to the event log. If the log cannot be written, the next commit fails with the cause.
func (r *run) event(e store.Event) {
	_ = r.folder.Append(e)
}

// onPlugin logs what happens to the plugins' processes.
func (r *run) onPlugin(e supervise.Event) {
	switch e.What {
	case "ready":
		r.event(store.Event{Type: store.PluginStarted,
			Message: fmt.Sprintf("%s is ready (process %d, %.2f s)", e.Plugin, e.PID, e.Seconds)})
	case "died", "replaced", "gave up":
		r.event(store.Event{Type: store.PluginFailed, Message: fmt.Sprintf("%s %s: %s", e.Plugin, e.What, e.Cause)})
		r.Terminal.Warn("%s %s: %s", e.Plugin, e.What, e.Cause)
	case "restarting":
		r.Terminal.Line("%s is restarted in %.1f s", e.Plugin, e.Seconds)
	}
}

// onFault logs a fault that cost an attempt.
func (r *run) onFault(f rollout.Fault) {
	e := store.ErrorEvent(store.EpisodeRetried, r.status.Iteration, f.Err)
	e.Message = f.Episode + ": " + e.Message
	r.event(e)
}
