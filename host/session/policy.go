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

// openPolicy starts the policy and checks that it fits the env.
func (s *Session) openPolicy(ctx context.Context, launch Launcher) error {
	l, record, err := launch.Launch(ctx, plugins.Policy, s.Config.Run.Policy)
	if err != nil {
		return err
	}
	label, spec := "policy "+l.Name, s.Sched.EnvSpec
	configure := func(ctx context.Context, ranks []policy.Policy) error {
		return s.configurePolicy(ctx, l.Name, spec, ranks)
	}
	processes := policyProcesses(ctx, s.Config)
	w := supervise.NewPolicy(s.super, l, processes, configure)
	p, incarnation, err := w.Client(ctx)
	byDefault := s.Config.Host.PolicyProcesses == 0 && processes > 1
	if byDefault && plugins.KindOf(err) == plugins.Unsupported && !s.PolicyInfo.Distributed {
		w.Close()
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
	place := label + " in " + s.Sched.EnvName
	if err := spec.Action.Fits(d.Action); err != nil {
		return plugins.AsError(err).WithPlace("%s", place)
	}
	if d.Proprio && len(spec.Proprio) == 0 {
		return plugins.Errorf(plugins.Mismatch, "the policy reads proprio, and the env has none").
			WithPlace("%s", place).
			WithHint("use a policy without proprio, or an env that offers it")
	}
	if err := s.matchCameras(d.Cameras, place); err != nil {
		return err
	}
	info := s.PolicyInfo
	record.Version, record.Protocol, record.Versions = info.Version, info.Protocol, info.Versions
	s.Plugins = append(s.Plugins, record)
	s.Sched.Policy, s.Sched.PolicySpec, s.Sched.PolicyName, s.Sched.PolicyIncarnation = w, d, label, incarnation
	return nil
}

// configurePolicy configures the processes of an incarnation of the policy. It loads the weights that
// [Session.UseWeights] set, if any.
func (s *Session) configurePolicy(
	ctx context.Context,
	name string,
	spec plugins.EnvSpec,
	ranks []policy.Policy,
) error {
	info, err := ranks[0].Info(ctx)
	if err != nil {
		return err
	}
	settings, err := s.Config.ResolvePlugin(plugins.Policy, name, info.Settings)
	if err != nil {
		return err
	}
	if s.Published, settings, err = withPublished(s.Config, name, info, settings); err != nil {
		return err
	}
	s.PolicyInfo = info
	c := plugins.Config{Settings: settings, Seed: rollout.Seed(s.Config.Run.Seed, "policy"), Env: &spec}
	if err := s.super.ConfigureRanks(ctx, info, ranks, c); err != nil {
		return err
	}
	s.mu.Lock()
	folder := s.weights
	s.mu.Unlock()
	if folder == "" {
		return nil
	}
	if _, err := ranks[0].Load(ctx, folder); err != nil {
		return plugins.AsError(err).WithPlace("loading %s", folder)
	}
	return nil
}

// policyProcesses returns [host] policy_processes. 0 stands for the number of GPUs that plugins see, and for 1
// without any.
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
