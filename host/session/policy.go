package session

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

func (s *Session) openPolicy(ctx context.Context, launch Launcher) error {
	l, record, err := launch.Launch(ctx, plugins.Policy, s.Config.Run.Policy)
	if err != nil {
		return err
	}
	label := "policy " + l.Name
	spec := s.Sched.EnvSpec
	configure := func(ctx context.Context, ranks []policy.Policy) error {
		p := ranks[0]
		info, err := p.Info(ctx)
		if err != nil {
			return err
		}
		settings, err := s.Config.ResolvePlugin(plugins.Policy, l.Name, info.Settings)
		if err != nil {
			return err
		}
		if s.Published, settings, err = givePublished(s.Config, l.Name, info, settings); err != nil {
			return err
		}
		s.PolicyInfo = info
		if err := s.super.ConfigureRanks(ctx, info, ranks, plugins.Config{Settings: settings, Seed: rollout.Seed(s.Config.Run.Seed, "policy"), Env: &spec}); err != nil {
			return err
		}
		s.mu.Lock()
		folder := s.weights
		s.mu.Unlock()
		if folder != "" {
			if _, err := p.Load(ctx, folder); err != nil {
				return plugins.AsError(err).WithPlace("loading %s", folder)
			}
		}
		return nil
	}
	processes := policyProcesses(ctx, s.Config)
	w := supervise.NewPolicy(s.super, l, processes, configure)
	p, incarnation, err := w.Client(ctx)
	if s.Config.Host.PolicyProcesses == 0 && processes > 1 && plugins.KindOf(err) == plugins.Unsupported && !s.PolicyInfo.Distributed {
		w.Close() // nobody asked for so many of a policy that is one process
		w = supervise.NewPolicy(s.super, l, 1, configure)
		p, incarnation, err = w.Client(ctx)
	}
	if err != nil {
		return err
	}
	d, err := p.Describe(ctx)
	if err != nil {
		return plugins.AsError(err).WithPlace("%s", label)
	}
	if err := spec.Action.Fits(d.Action); err != nil {
		return plugins.AsError(err).WithPlace("%s in %s", label, s.Sched.EnvName)
	}
	if d.Proprio && len(spec.Proprio) == 0 {
		return plugins.Errorf(plugins.Mismatch, "the policy reads proprio, and the env has none").WithPlace("%s in %s", label, s.Sched.EnvName).
			WithHint("use a policy without proprio, or an env that offers it")
	}
	for _, c := range d.Cameras {
		name := c.Name
		if name == "" {
			name = spec.RecordCamera
		}
		have := camera(spec, name)
		if have == nil {
			return plugins.Errorf(plugins.Mismatch, "the policy wants camera %q; the env has %s", name, cameraNames(spec)).
				WithPlace("%s in %s", label, s.Sched.EnvName).WithHint("set the policy's camera names to the env's, or use another env")
		}
		if c.Height > 0 && (c.Height != have.Height || c.Width != have.Width) {
			if have.AnySize {
				if s.sizes == nil {
					s.sizes = map[string]plugins.CameraRequest{}
				}
				s.sizes[name] = plugins.CameraRequest{Name: name, Height: c.Height, Width: c.Width}
				s.PolicyCameras = append(s.PolicyCameras, name)
				continue
			}
			return plugins.Errorf(plugins.Mismatch, "the policy wants camera %q at %d x %d, the env gives %d x %d", name, c.Height, c.Width, have.Height, have.Width).
				WithPlace("%s in %s", label, s.Sched.EnvName).WithHint("change the size in the env's settings")
		}
		s.PolicyCameras = append(s.PolicyCameras, name)
	}
	record.Version, record.Protocol, record.Versions = s.PolicyInfo.Version, s.PolicyInfo.Protocol, s.PolicyInfo.Versions
	s.Plugins = append(s.Plugins, record)
	s.Sched.Policy, s.Sched.PolicySpec, s.Sched.PolicyName, s.Sched.PolicyIncarnation = w, d, label, incarnation
	return nil
}

// policyProcesses is [host] policy_processes, where 0 stands for the GPUs that plugins see; 1 where there is none.
func policyProcesses(ctx context.Context, cfg *config.Config) int {
	if n := cfg.Host.PolicyProcesses; n > 0 {
		return n
	}
	if visible, ok := os.LookupEnv("CUDA_VISIBLE_DEVICES"); ok {
		return max(1, len(strings.FieldsFunc(visible, func(r rune) bool { return r == ',' })))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := exec.CommandContext(ctx, "nvidia-smi", "--list-gpus").Output()
	if err != nil {
		return 1
	}
	n := 0
	for _, line := range strings.Split(string(list), "\n") {
		if strings.HasPrefix(line, "GPU ") {
			n++
		}
	}
	return max(1, n)
}

func camera(spec plugins.EnvSpec, name string) *plugins.Camera {
	for i := range spec.Cameras {
		if spec.Cameras[i].Name == name {
			return &spec.Cameras[i]
		}
	}
	return nil
}

func cameraNames(spec plugins.EnvSpec) string {
	var names []string
	for _, c := range spec.Cameras {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}
