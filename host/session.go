package host

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/nearest"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
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
	cfg   *config.Config
	super *supervise.Supervisor

	Sched *rollout.Scheduler
	// Plugins in use, for the manifest.
	Plugins []store.Plugin
	// Tasks that the patterns of run.task match and that can run here, in the env's order. LeftOut counts those that cannot, by the reason.
	Tasks   []env.Task
	LeftOut map[string]int
	split   split
	// EnvInfo, PolicyInfo and EncoderInfo are what the plugins said of themselves.
	EnvInfo, PolicyInfo, EncoderInfo plugins.Info
	Lanes                            int
	observe                          []string
	// sizes are what the policy asked for where it is not the camera's own; newEnv makes the worker of a process of the env, firstEnv is that of process 0.
	sizes    map[string]plugins.CameraRequest
	newEnv   func(process int) *supervise.Proc[env.Env]
	firstEnv *supervise.Proc[env.Env]

	// weights is the policy folder that a new incarnation loads; empty: none yet.
	mu      sync.Mutex
	weights string
	// encoder is the encoder's process; nil: none was opened. published is the folder of a published checkpoint that the policy was given as its setting.
	encoder   *startedEncoder
	published string
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

// check finds the mistakes that can be seen without a plugin, so that nobody waits for the installation of an env to learn that the policy's name is misspelt: names,
// and settings where the packages list them.
func (n Needs) check(cfg *config.Config, launch Launcher) error {
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

// Open starts and matches the plugins that a configuration names, which [Needs.check] has looked up before anything was made for them. Close the session.
func Open(ctx context.Context, cfg *config.Config, launch Launcher, needs Needs, logDir string, onEvent func(supervise.Event)) (_ *Session, err error) {
	super, err := newSupervisor(cfg, logDir, onEvent)
	if err != nil {
		return nil, err
	}
	s := &Session{cfg: cfg, super: super, Sched: &rollout.Scheduler{}}
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

// newSupervisor runs plugins as [host] says.
func newSupervisor(cfg *config.Config, logDir string, onEvent func(supervise.Event)) (*supervise.Supervisor, error) {
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
	n := s.cfg.Run.Lanes
	if n == 0 {
		n = runtime.NumCPU()
		if info.MaxLanes > 1 {
			n = min(info.MaxLanes, 32)
		}
	}
	return max(n, 1)
}

func (s *Session) openEnv(ctx context.Context, launch Launcher) error {
	l, record, err := launch.Launch(ctx, plugins.Env, s.cfg.Run.Env)
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
			settings, err := s.cfg.ResolvePlugin(plugins.Env, l.Name, info.Settings)
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
			share := supervise.Shares(s.lanes(info), info.MaxLanes)[process]
			return e.Configure(ctx, plugins.Config{Settings: settings, Seed: s.cfg.Run.Seed, WorldSize: 1, Lanes: share, Cameras: s.cameras(), Scratch: scratch})
		}
	}
	s.newEnv = func(process int) *supervise.Proc[env.Env] {
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
	for i, share := range supervise.Shares(s.Lanes, s.EnvInfo.MaxLanes) {
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

// matchTasks keeps the tasks that a pattern of run.task matches; without patterns, the env's first task.
func (s *Session) matchTasks(ctx context.Context, e env.Env, label string) error {
	var all []env.Task
	s.LeftOut = map[string]int{}
	for t, err := range e.Tasks(ctx) {
		if err != nil {
			return plugins.AsError(err).WithPlace("%s", label)
		}
		all = append(all, t)
	}
	patterns := s.cfg.Run.Task
	hit := make([]bool, len(patterns))
	for _, t := range all {
		matched := len(patterns) == 0 && len(s.Tasks) == 0
		for i, p := range patterns {
			if Match(p, t.ID) {
				hit[i], matched = true, true
			}
		}
		if !matched {
			continue
		}
		if t.Unavailable != "" {
			if len(patterns) > 0 {
				s.LeftOut[t.Unavailable]++
			}
			continue
		}
		s.Tasks = append(s.Tasks, t)
	}
	for i, p := range patterns {
		if !hit[i] {
			return plugins.Errorf(plugins.NotFound, "no task of %s matches %q", label, p).WithPlace("%s", s.cfg.Origin("run.task")).WithHint("%s", nearTasks(p, all))
		}
	}
	if len(s.Tasks) == 0 {
		return s.noneLeft(all, label)
	}
	s.split = newSplit(s.cfg.Run.Seed, s.cfg.Rollout, all, s.Tasks)
	return nil
}

// noneLeft says why no task can run, the reason of most of them first.
func (s *Session) noneLeft(all []env.Task, label string) error {
	n, reasons := 0, make([]string, 0, len(s.LeftOut))
	for reason, k := range s.LeftOut {
		n += k
		reasons = append(reasons, reason)
	}
	if n == 0 { // no pattern was given
		n = len(all)
		for _, t := range all {
			if len(reasons) == 0 {
				reasons = append(reasons, t.Unavailable)
			}
		}
	}
	if n == 0 {
		return plugins.Errorf(plugins.NotFound, "it has no tasks").WithPlace("%s", label)
	}
	sort.Slice(reasons, func(a, b int) bool {
		if x, y := s.LeftOut[reasons[a]], s.LeftOut[reasons[b]]; x != y {
			return x > y
		}
		return reasons[a] < reasons[b]
	})
	e := plugins.Errorf(plugins.NotFound, "none of the %d tasks that match can run here", n).WithPlace("%s", label).WithHint("%s", reasons[0])
	if len(reasons) > 1 {
		e = e.WithDetail(strings.Join(reasons, "\n"))
	}
	return e
}

// leftOutWords says which matching tasks are left out, a sentence for each reason.
func (s *Session) leftOutWords() []string {
	var out []string
	for reason, n := range s.LeftOut {
		out = append(out, fmt.Sprintf("%s cannot run here and left out: %s", count(n, "matching task"), reason))
	}
	sort.Strings(out)
	return out
}

// Match says whether a task's id matches a pattern: * stands for any characters, / among them, ? for one.
func Match(pattern, id string) bool {
	// path.Match stops a * at a slash; with another character in its place it does not.
	const slash = "\x00"
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", slash), strings.ReplaceAll(id, "/", slash))
	return err == nil && ok
}

// nearTasks lists tasks that the user may have meant.
func nearTasks(pattern string, all []env.Task) string {
	ids := make([]string, len(all))
	for i, t := range all {
		ids[i] = t.ID
	}
	words := strings.FieldsFunc(strings.ToLower(pattern), func(r rune) bool { return strings.ContainsRune("*?/[]", r) })
	var near []string
	most := 1 // words of the pattern that those in near have
	for _, id := range ids {
		n := 0
		for _, word := range words {
			if strings.Contains(strings.ToLower(id), word) {
				n++
			}
		}
		switch {
		case n > most:
			near, most = []string{id}, n
		case n == most && len(near) < 3:
			near = append(near, id)
		}
	}
	if len(near) == 0 {
		if n := nearest.To(pattern, ids); n != "" {
			near = []string{n}
		} else {
			near = ids[:min(3, len(ids))]
		}
	}
	return fmt.Sprintf("there are %d tasks, for example %s; * matches anything; `srpo plugin list NAME --tasks` prints them", len(all), strings.Join(near, ", "))
}

func (s *Session) openPolicy(ctx context.Context, launch Launcher) error {
	l, record, err := launch.Launch(ctx, plugins.Policy, s.cfg.Run.Policy)
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
		settings, err := s.cfg.ResolvePlugin(plugins.Policy, l.Name, info.Settings)
		if err != nil {
			return err
		}
		if s.published, settings, err = givePublished(s.cfg, l.Name, info, settings); err != nil {
			return err
		}
		s.PolicyInfo = info
		if err := s.super.ConfigureRanks(ctx, info, ranks, plugins.Config{Settings: settings, Seed: rollout.Seed(s.cfg.Run.Seed, "policy"), Env: &spec}); err != nil {
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
	processes := policyProcesses(ctx, s.cfg)
	w := supervise.NewPolicy(s.super, l, processes, configure)
	p, incarnation, err := w.Client(ctx)
	if s.cfg.Host.PolicyProcesses == 0 && processes > 1 && plugins.KindOf(err) == plugins.Unsupported && !s.PolicyInfo.Distributed {
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
				s.observe = append(s.observe, name)
				continue
			}
			return plugins.Errorf(plugins.Mismatch, "the policy wants camera %q at %d x %d, the env gives %d x %d", name, c.Height, c.Width, have.Height, have.Width).
				WithPlace("%s in %s", label, s.Sched.EnvName).WithHint("change the size in the env's settings")
		}
		s.observe = append(s.observe, name)
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

func (s *Session) openEncoder(ctx context.Context, launch Launcher) error {
	e, err := startEncoder(ctx, s.super, s.cfg, launch, s.cfg.Run.Encoder)
	if err != nil {
		return err
	}
	if s.Sched.EnvSpec.RecordCamera == "" {
		return plugins.Errorf(plugins.Mismatch, "the env records no camera for an encoder").WithPlace("%s in %s", e.label, s.Sched.EnvName).
			WithHint(`use --set reward.kind=binary, or an env with a third-person camera`)
	}
	s.encoder, s.EncoderInfo, s.Sched.EncoderSpec = e, e.info, e.spec
	s.Plugins = append(s.Plugins, e.record)
	s.Sched.Encoder, s.Sched.EncoderName = e.worker, e.label
	return nil
}

// startedEncoder is an encoder's process, configured.
type startedEncoder struct {
	worker   supervise.Worker[encoder.Encoder]
	label    string // "encoder NAME"
	info     plugins.Info
	spec     encoder.Spec
	settings plugins.Settings
	record   store.Plugin
}

// startEncoder starts an encoder with its settings of the configuration.
func startEncoder(ctx context.Context, super *supervise.Supervisor, cfg *config.Config, launch Launcher, name string) (*startedEncoder, error) {
	l, record, err := launch.Launch(ctx, plugins.Encoder, name)
	if err != nil {
		return nil, err
	}
	s := &startedEncoder{label: "encoder " + l.Name}
	s.worker = supervise.NewEncoder(super, l, func(ctx context.Context, e encoder.Encoder) error {
		info, err := e.Info(ctx)
		if err != nil {
			return err
		}
		settings, err := cfg.ResolvePlugin(plugins.Encoder, l.Name, info.Settings)
		if err != nil {
			return err
		}
		s.info, s.settings = info, settings
		scratch, err := super.Scratch("encoder-" + l.Name)
		if err != nil {
			return err
		}
		return e.Configure(ctx, plugins.Config{Settings: settings, Seed: cfg.Run.Seed, WorldSize: 1, Scratch: scratch})
	})
	e, _, err := s.worker.Client(ctx)
	if err != nil {
		return nil, err
	}
	if s.spec, err = e.Describe(ctx); err != nil {
		return nil, plugins.AsError(err).WithPlace("%s", s.label)
	}
	record.Version, record.Protocol, record.Versions = s.info.Version, s.info.Protocol, s.info.Versions
	s.record = record
	return s, nil
}

// useWeights makes every later incarnation of the policy load a folder, and notes which one acts now.
func (s *Session) useWeights(ctx context.Context, folder string) error {
	s.mu.Lock()
	s.weights = folder
	s.mu.Unlock()
	return s.policyAlive(ctx)
}

// policyAlive makes the incarnation that lives now, restarted where it was lost, the one that acts.
func (s *Session) policyAlive(ctx context.Context) error {
	_, incarnation, err := s.Sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	s.Sched.PolicyIncarnation = incarnation
	return nil
}

// groups is the number of groups an iteration; where the configuration leaves it open, as many as the env's speed suggests.
func (s *Session) groups() int {
	switch n := s.cfg.Rollout.Groups; {
	case n > 0:
		return n
	case s.EnvInfo.MaxLanes > 1:
		return 16
	}
	return 4
}

// extraGroups is how many groups an iteration may roll beyond groups().
func (s *Session) extraGroups() int {
	if n := s.cfg.Rollout.ExtraGroups; n >= 0 {
		return n
	}
	return (s.groups() + 1) / 2
}

// rules are the parts of a rollout that training and evaluation share.
func (s *Session) rules(encode, record bool) rollout.Rules {
	c := s.cfg.Rollout
	r := rollout.Rules{Observe: s.observe, MaxSteps: c.MaxSteps, Temperature: c.Temperature, Encode: encode}
	if encode || record {
		r.RecordCamera, r.RecordEvery = s.Sched.EnvSpec.RecordCamera, c.RecordEvery
	}
	switch c.EqualLength {
	case "cut":
		r.EqualLength.Mode = rollout.Cut
	case "hold":
		r.EqualLength.Mode = rollout.Hold
	}
	return r
}

// trials lists an evaluation's episodes: n of them spread evenly over tasks and start states, each start state once before any is used twice; n = 0: each
// start state of the side once. Of more than n tasks a sample is taken, see [Session.sample].
func (s *Session) trials(side string, n int) []rollout.Trial {
	var byTask [][]rollout.Trial
	total := 0
	for _, t := range s.sample(side, n) {
		states := slices.Clone(s.states(t, side))
		if states == nil {
			states = make([]int, t.StartStates)
			for i := range states {
				states[i] = i
			}
		}
		// in an order by seed, so that a part of them is a fair sample
		sort.SliceStable(states, func(a, b int) bool {
			return rollout.Seed(s.cfg.Run.Seed, "trial order", t.ID, states[a]) < rollout.Seed(s.cfg.Run.Seed, "trial order", t.ID, states[b])
		})
		var list []rollout.Trial
		for _, st := range states {
			list = append(list, rollout.Trial{Task: t, StartState: st})
		}
		byTask = append(byTask, list)
		total += len(list)
	}
	if n == 0 {
		n = total
	}
	if total == 0 {
		return nil
	}
	var out []rollout.Trial
	for i := 0; len(out) < n; i++ {
		list := byTask[i%len(byTask)]
		k := i / len(byTask)
		tr := list[k%len(list)]
		tr.Repeat = k / len(list)
		if n <= total && tr.Repeat > 0 { // tasks with fewer start states are through; nothing is rolled twice while there is something else
			continue
		}
		out = append(out, tr)
	}
	return out
}

// sample picks n of the tasks on a side, if there are more, by seed: as many of each dimension, or suite where there are no dimensions, as of any other. They
// stay in the env's order.
func (s *Session) sample(side string, n int) []env.Task {
	tasks := slices.DeleteFunc(slices.Clone(s.Tasks), func(t env.Task) bool { states := s.states(t, side); return states != nil && len(states) == 0 })
	if n == 0 || n >= len(tasks) {
		return tasks
	}
	strata := map[string][]string{}
	var names []string
	for _, t := range tasks {
		name := t.Tags["dimension"]
		if name == "" {
			name = t.Suite
		}
		if strata[name] == nil {
			names = append(names, name)
		}
		strata[name] = append(strata[name], t.ID)
	}
	key := func(id string) uint64 { return rollout.Seed(s.cfg.Run.Seed, "trial task", id) }
	for _, ids := range strata {
		sort.Slice(ids, func(a, b int) bool { return key(ids[a]) < key(ids[b]) })
	}
	picked := map[string]bool{}
	for k := 0; len(picked) < n; k++ {
		for _, name := range names {
			if k < len(strata[name]) && len(picked) < n {
				picked[strata[name][k]] = true
			}
		}
	}
	return slices.DeleteFunc(tasks, func(t env.Task) bool { return !picked[t.ID] })
}

// finiteStatistics refuses statistics that no healthy update has.
func finiteStatistics(st policy.Statistics) error {
	for _, s := range []struct {
		name string
		v    float64
	}{{"loss", st.Loss}, {"kl", st.KL}, {"clip_fraction", st.ClipFraction}, {"grad_norm", st.GradNorm}, {"entropy", st.Entropy}, {"first_ratio", st.FirstRatio}} {
		if math.IsNaN(s.v) || math.IsInf(s.v, 0) {
			return plugins.Errorf(plugins.Diverged, "the update's %s is %v", s.name, s.v).WithHint("lower the learning rate; the run is as it was before this iteration")
		}
	}
	return nil
}
