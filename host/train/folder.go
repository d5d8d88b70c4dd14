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

// reload reads the host's state of the last commit, and makes sure that the policy has its weights.
func (r *run) reload(ctx context.Context) (err error) {
	if r.state, err = readState(r.last); err != nil {
		return err
	}
	p, incarnation, err := r.session.Sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	r.session.Sched.PolicyIncarnation = incarnation
	_, err = p.Load(ctx, r.last.PolicyDir())
	return err
}

// openFolder creates the run folder, or opens it to go on.
func (r *run) openFolder() (err error) {
	if r.Resume != "" {
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
		at := r.iterationsDone()
		if err := r.folder.UpdateManifest(func(m *store.Manifest) {
			m.Resumed = append(m.Resumed, store.Resumed{Time: time.Now(), Iteration: at, Command: r.Command, Host: r.Version})
		}); err != nil {
			return err
		}
		r.Terminal.Line("resuming %s after iteration %d", r.folder.Dir(), at)
	} else {
		dir := r.cfg.Run.Out
		if dir == "" {
			dir = filepath.Join("runs", r.name())
		}
		var text bytes.Buffer
		if err := r.cfg.Write(&text); err != nil {
			return err
		}
		m := store.Manifest{Name: filepath.Base(dir), Created: time.Now(), Host: r.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
			Machine: map[string]string{"cores": strconv.Itoa(runtime.NumCPU())}, Command: r.Command, Seed: r.cfg.Run.Seed}
		if r.folder, err = store.Create(dir, m, text.Bytes()); err != nil {
			return err
		}
		r.event(store.Event{Type: store.Started})
		r.Terminal.Line("run folder: %s", dir)
	}
	r.folder.Keep = r.cfg.Run.Keep
	if r.Resume != "" { // a host that died right after a commit has not tidied up
		if err := r.folder.Retain(); err != nil {
			r.Terminal.Warn("an old checkpoint could not be removed: %v", err)
		}
	}
	if r.cfg.Run.TensorBoard {
		r.tb, err = report.OpenTensorBoard(filepath.Join(r.folder.Dir(), "tensorboard"), r.folder.Manifest().Created, r.metrics)
	}
	return err
}

// name of a run that was not given one.
func (r *run) name() string {
	if r.cfg.Run.Name != "" {
		return r.cfg.Run.Name
	}
	return fmt.Sprintf("%s-%s-%s-%s", filepath.Base(r.cfg.Run.Env), filepath.Base(r.cfg.Run.Policy), r.cfg.Reward.Kind, time.Now().Format("0102-150405"))
}

// record completes the manifest with what only the plugins know, and writes the resolved configuration with their settings.
func (r *run) record() error {
	s := r.session
	var text bytes.Buffer
	if err := r.cfg.Write(&text); err != nil {
		return err
	}
	// Of a resumed run too: what was changed for it (how many iterations, where clips stay) is to hold at the next resume.
	var settings []string
	if old, err := os.ReadFile(filepath.Join(r.folder.Dir(), "srpo.toml")); err != nil || !bytes.Equal(old, text.Bytes()) {
		settings = changedSettings(r.cfg, s, old)
		if err := r.folder.WriteFile("srpo.toml", text.Bytes()); err != nil {
			return err
		}
	}
	changed := changedPlugins(r.folder.Manifest().Plugins, s.Plugins)
	if r.Resume != "" {
		for _, words := range append(settings, changed...) {
			r.Terminal.Warn("%s: earlier iterations were made with the other one", words)
			r.event(store.Event{Type: store.Warning, Iteration: r.iterationsDone(), Message: words + " since the run began"})
		}
	}
	split := s.Split.ForManifest(s.Tasks, r.cfg.Rollout.StartStates)
	return r.folder.UpdateManifest(func(m *store.Manifest) {
		if n := len(m.Resumed); n > 0 && len(changed) > 0 {
			m.Resumed[n-1].Plugins = s.Plugins
		}
		if len(m.Plugins) == 0 {
			m.Plugins = s.Plugins
		}
		m.StartStates, m.Checkpoint = split, r.cfg.Run.Checkpoint
		m.Tasks = nil
		for _, t := range s.Tasks {
			m.Tasks = append(m.Tasks, t.ID)
		}
	})
}

// changedSettings says which settings of the plugins in use are not those of an earlier srpo.toml, in words. A resumed run may change them, so that a policy that ran
// out of memory goes on with less, or one that diverged with a smaller learning rate; what was changed is then no secret.
func changedSettings(cfg *config.Config, s *session.Session, old []byte) (words []string) {
	was, err := config.Parse("srpo.toml", old)
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
		if _, err := was.ResolvePlugin(p.kind, p.Name, p.Settings); err != nil {
			continue // a plugin with other settings is another plugin, and that is said
		}
	}
	before := map[string]any{}
	for _, v := range was.Values() {
		before[v.Key] = v.Value
	}
	for _, v := range cfg.Values() {
		kind, _, _ := strings.Cut(v.Key, ".")
		if b, known := before[v.Key]; known && slices.Contains(plugins.Kinds, plugins.Kind(kind)) && !reflect.DeepEqual(b, v.Value) {
			words = append(words, fmt.Sprintf("%s is %v and was %v", v.Key, v.Value, b))
		}
	}
	return words
}

// changedPlugins says which plugins of a run are not those that it began with, in words.
func changedPlugins(before, now []store.Plugin) []string {
	var words []string
	for _, p := range now {
		for _, old := range before {
			switch {
			case old.Kind != p.Kind:
			case old.Name != p.Name || old.Version != p.Version:
				words = append(words, fmt.Sprintf("%s %s %s is now %s %s", p.Kind, old.Name, old.Version, p.Name, p.Version))
			case old.Hash != p.Hash:
				words = append(words, fmt.Sprintf("the package of %s %s %s has changed", p.Kind, p.Name, p.Version))
			}
		}
	}
	return words
}

// iterationsDone is the last committed iteration.
func (r *run) iterationsDone() int {
	if r.last == nil {
		return 0
	}
	return r.last.Iteration
}

// end writes the last words of a run and closes its folder.
func (r *run) end(ctx context.Context, err error) error {
	at := r.iterationsDone()
	switch {
	case err == nil:
		r.event(store.Event{Type: store.Finished, Iteration: at})
	case ctx.Err() != nil:
		r.event(store.Event{Type: store.Interrupted, Iteration: at})
		e := plugins.Errorf(plugins.Canceled, "stopped after iteration %d of %d, which is committed", at, r.cfg.Run.Iterations)
		if r.last == nil {
			e = plugins.Errorf(plugins.Canceled, "stopped before anything was committed")
		}
		err = e.WithHint("srpo run --resume %s", r.folder.Dir())
	default:
		r.event(store.ErrorEvent(store.Failed, at, err))
		e := plugins.AsError(r.folder.Explain(err))
		if r.last != nil && !strings.Contains(e.Hint, "srpo run --resume") {
			e = e.WithHint("%s", strings.TrimPrefix(fmt.Sprintf("%s; iteration %d is committed: srpo run --resume %s", e.Hint, at, r.folder.Dir()), "; "))
		}
		err = e
	}
	if r.tb != nil {
		_ = r.tb.Close()
	}
	if werr := report.WriteRun(r.folder); err == nil {
		err = werr
	}
	if cerr := r.folder.Close(); err == nil {
		err = cerr
	}
	return err
}

// event appends to the event log. A log that cannot be written shows at the next commit, which fails with the cause.
func (r *run) event(e store.Event) {
	_ = r.folder.Append(e)
}

// onPlugin logs what happens to plugins' processes.
func (r *run) onPlugin(e supervise.Event) {
	switch e.What {
	case "ready":
		r.event(store.Event{Type: store.PluginStarted, Message: fmt.Sprintf("%s is ready (process %d, %.2f s)", e.Plugin, e.PID, e.Seconds)})
	case "died", "replaced", "gave up":
		r.event(store.Event{Type: store.PluginFailed, Message: fmt.Sprintf("%s %s: %s", e.Plugin, e.What, e.Cause)})
		r.Terminal.Warn("%s %s: %s", e.Plugin, e.What, e.Cause)
	case "restarting":
		r.Terminal.Line("%s is restarted in %.1f s", e.Plugin, e.Seconds)
	}
}

func (r *run) onFault(f rollout.Fault) {
	e := store.ErrorEvent(store.EpisodeRetried, r.status.Iteration, f.Err)
	e.Message = f.Episode + ": " + e.Message
	r.event(e)
}

// forget removes the folder of a run that never began because of what was typed: a task that is not there, a setting with another name, a policy of another env. A
// folder that was there before stays, and so does one that the error points into.
func (r *run) forget(ctx context.Context, err error) {
	if ctx.Err() != nil || r.began || r.last != nil || r.Resume != "" || !session.IsUserError(err, r.folder.Dir()) {
		return
	}
	if gone, err := r.folder.Discard(); err != nil {
		r.Terminal.Warn("the folder of this run, which never began, could not be removed: %v", err)
	} else if gone {
		r.Terminal.Line("run folder removed: the run never began")
	}
}
