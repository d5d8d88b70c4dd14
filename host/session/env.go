package session

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// maxDefaultLanes keeps a few cores busy without long waits for the policy.
const maxDefaultLanes = 32

// lanes returns the number of episodes in flight. By default an env with one lane per process gets one per
// core, and an env with many lanes per process gets as many as it has, up to maxDefaultLanes.
func (s *Session) lanes(info plugins.Info) int {
	n := s.Config.Run.Lanes
	if n == 0 {
		n = runtime.NumCPU()
		if info.MaxLanes > 1 {
			n = min(info.MaxLanes, maxDefaultLanes)
		}
	}
	return max(n, 1)
}

// openEnv starts the first process of the env, chooses the tasks, and prepares workers for the other processes.
func (s *Session) openEnv(ctx context.Context, launch Launcher) error {
	l, record, err := launch.Launch(ctx, plugins.Env, s.Config.Run.Env)
	if err != nil {
		return err
	}
	label := "env " + l.Name
	s.newEnv = s.envWorkers(l)
	s.firstEnv = s.newEnv(0)
	e, _, err := s.firstEnv.Client(ctx)
	if err != nil {
		return err
	}
	if s.Sched.EnvSpec, err = e.Describe(ctx); err != nil {
		return plugins.AsError(err).WithPlace("%s", label)
	}
	if err := s.chooseTasks(ctx, e, label); err != nil {
		return err
	}
	record.Version, record.Protocol, record.Versions = s.EnvInfo.Version, s.EnvInfo.Protocol, s.EnvInfo.Versions
	s.Plugins = append(s.Plugins, record)
	s.Sched.EnvName = label
	s.Lanes = s.lanes(s.EnvInfo)
	for i, lanes := range supervise.SplitLanes(s.Lanes, s.EnvInfo.MaxLanes) {
		w := s.firstEnv
		if i > 0 {
			w = s.newEnv(i)
		}
		s.Sched.Envs = append(s.Sched.Envs, &rollout.EnvProc{Worker: w, Lanes: lanes})
	}
	return nil
}

// envWorkers returns the function that makes the worker of a process of the env.
func (s *Session) envWorkers(l supervise.Launch) func(process int) *supervise.ProcessWorker[env.Env] {
	var mu sync.Mutex // processes are configured concurrently
	configure := func(ctx context.Context, e env.Env, process int) error {
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
		lanes := supervise.SplitLanes(s.lanes(info), info.MaxLanes)[process]
		return e.Configure(
			ctx,
			plugins.Config{Settings: settings, Seed: s.Config.Run.Seed, WorldSize: 1, Lanes: lanes,
				Cameras: s.cameraRequests(), Scratch: scratch},
		)
	}
	return func(process int) *supervise.ProcessWorker[env.Env] {
		launch := l
		if process > 0 {
			launch.Instance = strconv.Itoa(process + 1)
		}
		return supervise.NewEnv(s.super, launch,
			func(ctx context.Context, e env.Env) error { return configure(ctx, e, process) })
	}
}

// cameraRequests returns a request for every camera of the env, with the size that the policy asks for where it
// differs; nil when no size differs.
func (s *Session) cameraRequests() []plugins.CameraRequest {
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

// resizeCameras starts the env again with the camera sizes that the policy asks for. An env is configured once,
// and the policy is started after the env has described itself.
func (s *Session) resizeCameras(ctx context.Context) error {
	if len(s.sizes) == 0 {
		return nil
	}
	s.firstEnv.Close()
	s.firstEnv = s.newEnv(0)
	s.Sched.Envs[0].Worker = s.firstEnv
	if _, _, err := s.firstEnv.Client(ctx); err != nil {
		return err
	}
	// The policy keeps the original spec: when it is started again, it must be configured as the first time.
	cameras := slices.Clone(s.Sched.EnvSpec.Cameras)
	for i, c := range cameras {
		if r, ok := s.sizes[c.Name]; ok {
			cameras[i].Height, cameras[i].Width = r.Height, r.Width
		}
	}
	s.Sched.EnvSpec.Cameras = cameras
	return nil
}

// matchCameras checks that the env has the cameras that the policy reads, and notes the sizes that it asks for. place
// names both in errors.
func (s *Session) matchCameras(requests []plugins.CameraRequest, place string) error {
	spec := s.Sched.EnvSpec
	for _, c := range requests {
		if c.Name == "" {
			c.Name = spec.RecordCamera
		}
		i := slices.IndexFunc(spec.Cameras, func(have plugins.Camera) bool { return have.Name == c.Name })
		if i < 0 {
			var names []string
			for _, have := range spec.Cameras {
				names = append(names, have.Name)
			}
			return plugins.Errorf(plugins.Mismatch,
				"the policy wants camera %q; the env has %s", c.Name, strings.Join(names, ", ")).
				WithPlace("%s", place).
				WithHint("set the policy's camera names to the env's, or use another env")
		}
		have := spec.Cameras[i]
		if c.Height > 0 && (c.Height != have.Height || c.Width != have.Width) {
			if !have.AnySize {
				return plugins.Errorf(plugins.Mismatch,
					"the policy wants camera %q at %d x %d, the env renders it at %d x %d",
					c.Name, c.Height, c.Width, have.Height, have.Width).
					WithPlace("%s", place).
					WithHint("change the size in the env's settings")
			}
			if s.sizes == nil {
				s.sizes = map[string]plugins.CameraRequest{}
			}
			s.sizes[c.Name] = plugins.CameraRequest{Name: c.Name, Height: c.Height, Width: c.Width}
		}
		s.PolicyCameras = append(s.PolicyCameras, c.Name)
	}
	return nil
}
