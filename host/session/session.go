// Package session starts the plugins of a job (a run, an evaluation, a recording), checks that they fit each
// other, and keeps them until the job ends. It also knows what follows from the configuration and the env
// alone: the tasks of the job, the side of the split that each start state is on, and the trials of an
// evaluation.
package session

import (
	"context"
	"sync"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Launcher finds the packages of plugins.
type Launcher interface {
	// Find looks a package up. It writes no file and installs nothing.
	Find(kind plugins.Kind, nameOrPath string) (Found, error)
	// Launch finds a package, installs what it needs and returns how to start it.
	Launch(ctx context.Context, kind plugins.Kind, nameOrPath string) (supervise.Launch, store.Plugin, error)
}

// Found describes a package before it is installed.
type Found struct {
	Name string
	// Settings are the names of its settings; nil: only the running plugin knows them.
	Settings []string
	// Needs are the settings without which it cannot start, each with its remedy.
	Needs map[string]string
}

// Needs are the plugins that a session opens besides the env.
type Needs struct{ Policy, Encoder bool }

// Session contains the plugins of a job: started, configured, and checked to fit each other.
type Session struct {
	// Config is what the plugins were started with.
	Config *config.Config
	super  *supervise.Supervisor

	Sched *rollout.Scheduler
	// Plugins in use, for the manifest.
	Plugins []store.Plugin
	// Tasks are the tasks that match run.task and can run here, in the env's order. Unavailable counts the
	// matching tasks that cannot, by the reason.
	Tasks       []env.Task
	Unavailable map[string]int
	Split       Split
	// EnvTasks are all tasks of the env, in its order.
	EnvTasks []env.Task
	// EnvInfo, PolicyInfo and EncoderInfo are what the plugins reported about themselves.
	EnvInfo, PolicyInfo, EncoderInfo plugins.Info
	Lanes                            int
	// PolicyCameras are the cameras that the policy reads.
	PolicyCameras []string
	// Encoder is the encoder; nil: none was opened.
	Encoder *Encoder
	// Published is the published checkpoint that the policy got as its setting; empty: none.
	Published string

	// sizes are the camera sizes that the policy asks for where they differ from the env's.
	sizes map[string]plugins.CameraRequest
	// newEnv makes the worker of a process of the env. firstEnv is that of process 0.
	newEnv   func(process int) *supervise.ProcessWorker[env.Env]
	firstEnv *supervise.ProcessWorker[env.Env]

	mu sync.Mutex
	// weights is the policy folder that a new incarnation loads; empty: none yet.
	weights string
}

// used returns the names of the plugins that a session opens, by kind.
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

// Check finds the mistakes that can be found before a plugin is installed: in names, and in settings that
// packages list. It reports a misspelt setting before a missing one, because the one often explains the other.
func (n Needs) Check(cfg *config.Config, launch Launcher) error {
	used := n.used(cfg)
	if err := cfg.Unstarted(used); err != nil {
		return err
	}
	var misspelt, missing []func() error
	for _, kind := range plugins.Kinds {
		if used[kind] == "" && kind != plugins.Env {
			continue
		}
		found, err := launch.Find(kind, used[kind])
		if err != nil {
			return err
		}
		if found.Settings != nil {
			misspelt = append(misspelt, func() error { return cfg.CheckSettings(kind, found.Name, found.Settings) })
		}
		missing = append(missing, func() error { return cfg.CheckNeeds(kind, found.Name, found.Needs) })
	}
	for _, check := range append(misspelt, missing...) {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// Open starts the plugins of a configuration and checks that they fit each other. Call [Needs.Check] first, and
// close the session.
func Open(ctx context.Context, cfg *config.Config, launch Launcher, needs Needs, logDir string,
	onEvent func(supervise.Event)) (_ *Session, err error) {
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
		if err = s.resizeCameras(ctx); err != nil {
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

// NewSupervisor returns a supervisor with the settings of [host].
func NewSupervisor(cfg *config.Config, logDir string, onEvent func(supervise.Event)) (*supervise.Supervisor, error) {
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	h := cfg.Host
	arenaBytes := h.ArenaMB << 20
	if h.Arena == "off" {
		arenaBytes = 0
	}
	deadlines := supervise.Deadlines{Ask: seconds(h.StartTimeoutS), Tasks: seconds(h.StartTimeoutS),
		Reset: seconds(h.ResetTimeoutS), Step: seconds(h.StepTimeoutS), Act: seconds(h.ActTimeoutS),
		Encode: seconds(h.EncodeTimeoutS), Save: seconds(h.SaveTimeoutS), Update: seconds(h.UpdateTimeoutS)}
	return supervise.New(
		supervise.Options{LogDir: logDir, StartTimeout: seconds(h.StartTimeoutS), ArenaBytes: arenaBytes,
			EnvAllow: h.EnvAllow, Silence: seconds(h.SilenceTimeoutS), Patience: h.Patience, Restarts: h.Restarts,
			Window: seconds(h.RestartWindowS), OnEvent: onEvent, Deadlines: deadlines},
	)
}

// Close stops every plugin.
func (s *Session) Close() { s.super.Close() }
