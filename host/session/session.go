// Package session starts the plugins of a job (a run, an evaluation, a recording), checks that they fit each other, and
// keeps them until the job ends. It also knows what follows from the configuration and the env alone: the tasks of the
// job, the side of the split that each start state is on, and the trials of an evaluation.
package session

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Launcher knows the plugins' packages.
type Launcher interface {
	// Find looks a package up and does nothing else: no file is written and nothing is installed.
	Find(kind plugins.Kind, nameOrPath string) (Found, error)
	// Launch finds a package, installs what it needs and says how to start it.
	Launch(ctx context.Context, kind plugins.Kind, nameOrPath string) (supervise.Launch, store.Plugin, error)
}

// Found is what a package says of itself before it is installed.
type Found struct {
	Name string
	// Settings are the names of its settings; nil: only the running plugin knows them.
	Settings []string
	// Needs are those without which it cannot start, each with its remedy.
	Needs map[string]string
}

// Needs says which plugins a session is to open besides the env.
type Needs struct{ Policy, Encoder bool }

// Session holds a run's plugins: started, configured, and checked to fit each other.
type Session struct {
	// Config is what the plugins were started with.
	Config *config.Config
	super  *supervise.Supervisor

	Sched *rollout.Scheduler
	// Plugins in use, for the manifest.
	Plugins []store.Plugin
	// Tasks that the patterns of run.task match and that can run here, in the env's order. LeftOut counts those that cannot, by the reason.
	Tasks       []env.Task
	Unavailable map[string]int
	Split       Split
	// EnvInfo, PolicyInfo and EncoderInfo are what the plugins said of themselves.
	EnvInfo, PolicyInfo, EncoderInfo plugins.Info
	Lanes                            int
	PolicyCameras                    []string
	// sizes are what the policy asked for where it is not the camera's own; newEnv makes the worker of a process of the env, firstEnv is that of process 0.
	sizes    map[string]plugins.CameraRequest
	newEnv   func(process int) *supervise.ProcessWorker[env.Env]
	firstEnv *supervise.ProcessWorker[env.Env]

	// weights is the policy folder that a new incarnation loads; empty: none yet.
	mu      sync.Mutex
	weights string
	// Encoder is the encoder's process; nil: none was opened. published is the folder of a published checkpoint that the policy was given as its setting.
	Encoder   *Encoder
	Published string
}

// used are the plugins that a session opens, by kind.
func (n Needs) used(cfg *config.Config) map[plugins.Kind]string {
	used := map[plugins.Kind]string{plugins.Env: cfg.Run.Env}
	if n.Policy {
		used[plugins.Policy] = cfg.Run.Policy
	}
	if n.Encoder {
		used[plugins.Encoder] = cfg.Run.Encoder
	}
	return used
}

// Check finds the mistakes that can be seen without a plugin, so that nobody waits for the installation of an env to learn that the policy's name is misspelt: names,
// and settings where the packages list them.
func (n Needs) Check(cfg *config.Config, launch Launcher) error {
	used := n.used(cfg)
	if err := cfg.Unstarted(used); err != nil {
		return err
	}
	var lists, missing []func() error
	for _, kind := range plugins.Kinds {
		if used[kind] == "" && kind != plugins.Env {
			continue
		}
		found, err := launch.Find(kind, used[kind])
		if err != nil {
			return err
		}
		if found.Settings != nil {
			lists = append(lists, func() error { return cfg.CheckSettings(kind, found.Name, found.Settings) })
		}
		missing = append(missing, func() error { return cfg.CheckNeeds(kind, found.Name, found.Needs) })
	}
	for _, check := range append(lists, missing...) { // a plugin that is not there is the larger mistake, and a misspelt setting explains one that is not there
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// Open starts and matches the plugins that a configuration names, which [Needs.Check] has looked up before anything was made for them. Close the session.
func Open(ctx context.Context, cfg *config.Config, launch Launcher, needs Needs, logDir string, onEvent func(supervise.Event)) (_ *Session, err error) {
	super, err := NewSupervisor(cfg, logDir, onEvent)
	if err != nil {
		return nil, err
	}
	s := &Session{Config: cfg, super: super, Sched: &rollout.Scheduler{}}
	defer func() {
		if err != nil {
			super.Close()
		}
	}()
	if err = s.openEnv(ctx, launch); err != nil {
		return nil, err
	}
	if cfg.Rollout.RecordEvery == 0 {
		cfg.Rollout.RecordEvery = 4
		if s.EnvInfo.MaxLanes == 1 {
			cfg.Rollout.RecordEvery = 8
		}
	}
	if needs.Policy {
		if err = s.openPolicy(ctx, launch); err != nil {
			return nil, err
		}
		if err = s.resize(ctx); err != nil {
			return nil, err
		}
	}
	if needs.Encoder {
		if err = s.openEncoder(ctx, launch); err != nil {
			return nil, err
		}
	}
	return s, cfg.Unused()
}

// NewSupervisor runs plugins as [host] says.
func NewSupervisor(cfg *config.Config, logDir string, onEvent func(supervise.Event)) (*supervise.Supervisor, error) {
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	h := cfg.Host
	arenaBytes := h.ArenaMB << 20
	if h.Arena == "off" {
		arenaBytes = 0
	}
	return supervise.New(supervise.Options{LogDir: logDir, StartTimeout: seconds(h.StartTimeoutS), ArenaBytes: arenaBytes, EnvAllow: h.EnvAllow,
		Silence: seconds(h.SilenceTimeoutS), Patience: h.Patience, Restarts: h.Restarts, Window: seconds(h.RestartWindowS), OnEvent: onEvent, Deadlines: supervise.Deadlines{Ask: seconds(h.StartTimeoutS), Tasks: seconds(h.StartTimeoutS), Reset: seconds(h.ResetTimeoutS),
			Step: seconds(h.StepTimeoutS), Act: seconds(h.ActTimeoutS), Encode: seconds(h.EncodeTimeoutS), Save: seconds(h.SaveTimeoutS), Update: seconds(h.UpdateTimeoutS)}})
}

// Close stops every plugin.
func (s *Session) Close() { s.super.Close() }

// lanes is the number of episodes in flight where the configuration leaves it open: a simulator that takes a process a lane gets one a core, one that
// holds many lanes as many as an iteration has episodes, up to what keeps two cores busy without a queue.
func (s *Session) lanes(info plugins.Info) int {
	n := s.Config.Run.Lanes
	if n == 0 {
		n = runtime.NumCPU()
		if info.MaxLanes > 1 {
			n = min(info.MaxLanes, 32)
		}
	}
	return max(n, 1)
}

func (s *Session) openEnv(ctx context.Context, launch Launcher) error {
	l, record, err := launch.Launch(ctx, plugins.Env, s.Config.Run.Env)
	if err != nil {
		return err
	}
	label := "env " + l.Name
	var mu sync.Mutex // the closures of several processes share what follows
	configure := func(process int) func(context.Context, env.Env) error {
		return func(ctx context.Context, e env.Env) error {
			info, err := e.Info(ctx)
			if err != nil {
				return err
			}
			mu.Lock()
			settings, err := s.Config.ResolvePlugin(plugins.Env, l.Name, info.Settings)
			if process == 0 {
				s.EnvInfo = info
			}
			mu.Unlock()
			if err != nil {
				return err
			}
			scratch, err := s.super.Scratch(fmt.Sprintf("env-%s-%d", l.Name, process+1))
			if err != nil {
				return err
			}
			share := supervise.SplitLanes(s.lanes(info), info.MaxLanes)[process]
			return e.Configure(ctx, plugins.Config{Settings: settings, Seed: s.Config.Run.Seed, WorldSize: 1, Lanes: share, Cameras: s.cameras(), Scratch: scratch})
		}
	}
	s.newEnv = func(process int) *supervise.ProcessWorker[env.Env] {
		other := l
		if process > 0 {
			other.Instance = strconv.Itoa(process + 1)
		}
		return supervise.NewEnv(s.super, other, configure(process))
	}
	s.firstEnv = s.newEnv(0)
	e, _, err := s.firstEnv.Client(ctx)
	if err != nil {
		return err
	}
	if s.Sched.EnvSpec, err = e.Describe(ctx); err != nil {
		return plugins.AsError(err).WithPlace("%s", label)
	}
	if err := s.matchTasks(ctx, e, label); err != nil {
		return err
	}
	record.Version, record.Protocol, record.Versions = s.EnvInfo.Version, s.EnvInfo.Protocol, s.EnvInfo.Versions
	s.Plugins = append(s.Plugins, record)
	s.Sched.EnvName = label
	s.Lanes = s.lanes(s.EnvInfo)
	for i, share := range supervise.SplitLanes(s.Lanes, s.EnvInfo.MaxLanes) {
		w := s.firstEnv
		if i > 0 {
			w = s.newEnv(i)
		}
		s.Sched.Envs = append(s.Sched.Envs, &rollout.EnvProc{Worker: w, Lanes: share})
	}
	return nil
}

// cameras asks the env for every camera, where the policy wants another size than the camera's own at that size; nil: all as they are.
func (s *Session) cameras() []plugins.CameraRequest {
	if len(s.sizes) == 0 {
		return nil
	}
	var out []plugins.CameraRequest
	for _, c := range s.Sched.EnvSpec.Cameras {
		r := plugins.CameraRequest{Name: c.Name}
		if wanted, ok := s.sizes[c.Name]; ok {
			r = wanted
		}
		out = append(out, r)
	}
	return out
}

// resize starts the env anew with the camera sizes that the policy asked for. An env is configured once, and what the policy wants is known only after the env
// has said what it has; describing itself has cost it little.
func (s *Session) resize(ctx context.Context) error {
	if len(s.sizes) == 0 {
		return nil
	}
	s.firstEnv.Close()
	s.firstEnv = s.newEnv(0)
	s.Sched.Envs[0].Worker = s.firstEnv
	if _, _, err := s.firstEnv.Client(ctx); err != nil {
		return err
	}
	// A copy: a policy that is started again must be told of the same env as at first.
	cameras := slices.Clone(s.Sched.EnvSpec.Cameras)
	for i, c := range cameras {
		if r, ok := s.sizes[c.Name]; ok {
			cameras[i].Height, cameras[i].Width = r.Height, r.Width
		}
	}
	s.Sched.EnvSpec.Cameras = cameras
	return nil
}
