// Package config resolves the settings of a command: flags override --set, which overrides srpo.toml, which overrides
// the defaults.
//
// Every setting of the host is declared once, in settings.go, with its default, bounds and meaning. The sections of
// plugins ([env.NAME], [policy.NAME], [encoder.NAME]) stay unchecked until [Config.ResolvePlugin] gets the plugin's
// declarations. Every error is a *plugins.Error whose place is file, line and column, whose detail shows the line
// with a caret, and whose hint names the nearest known name.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/plugins"
)

// Config holds resolved settings. Create one with [Default], [Load] or [Parse].
type Config struct {
	Run     Run
	Rollout Rollout
	Reward  Reward
	Update  Update
	Imitate Imitate
	Offline Offline
	Data    Data
	Report  Report
	Host    Host

	sections []section
	origins  map[string]Origin
	// places locates the host's values that are not defaults.
	places map[string]place
	// given holds the values for plugins; the last one of a name counts.
	given    map[plugins.Kind]map[string][]assignment
	resolved map[plugins.Kind]map[string]resolvedPlugin
}

type resolvedPlugin struct {
	declared []plugins.Setting
	settings plugins.Settings
}

// Run holds [run]: what to run, for how long, and where the results go.
type Run struct {
	Env, Policy, Encoder string
	// Task holds patterns over task ids as in path.Match, except that * also matches /.
	Task       []string
	Seed       uint64
	Iterations int
	// SolvedAfter ends the run after this many iterations without a failure to learn from; 0: never.
	SolvedAfter int
	// Checkpoint is a policy folder to start from; empty: imitate first.
	Checkpoint string
	// Lanes is the number of episodes that run at the same time; 0: chosen by env and cores.
	Lanes int
	// Out is the run folder; empty: runs/NAME.
	Out, Name   string
	TensorBoard bool
	// Videos is the number of episodes saved as video per iteration.
	Videos int
	// EvalEvery is in iterations; 0: never, otherwise also before the first and after the last one. EvalEpisodes is per
	// evaluation; 0: every start state once.
	EvalEvery, EvalEpisodes int
	// Keep is the number of newest checkpoints to keep in addition to the best.
	Keep int
	// KeepClips is "none", "failures" or "all". KeepEmbeddings keeps every episode's embedding.
	KeepClips      string
	KeepEmbeddings bool
	// KeepTrajectories is "none", "successes" or "all".
	KeepTrajectories string
}

// Rollout holds [rollout]: how groups of episodes are sampled.
type Rollout struct {
	Groups, GroupSize int
	Temperature       float64
	// RecordEvery is in env steps. 0 is replaced when the env is known, by session.Open.
	RecordEvery int
	// MaxSteps truncates an episode; 0: the task's own limit.
	MaxSteps          int
	KeepLow, KeepHigh float64
	ExtraGroups       int // -1: half of the groups
	// StartStates is "all", "train" or "test". TrainFraction is the share of start states on the train side.
	StartStates   string
	TrainFraction float64
	// Split is "auto", "start" or "task". Weights are DIMENSION=WEIGHT.
	Split   string
	Weights []string
	// EqualLength is "none", "cut" or "hold". GroupBy is "task" or "start".
	EqualLength, GroupBy string
}

// Reward holds [reward] (arXiv 2511.15605, section 3; host/srpo has the formulas).
type Reward struct {
	// Kind is "zscore", "minmax", "anchored", "binary" or "progress".
	Kind  string
	Alpha float64
	// Cluster is "auto", "reference", "mean" or "nearest".
	Cluster string
	// References is "batch", "memory" or "demos".
	References string
	Weight     float64
	// Eps is added to the variance of a group's rewards.
	Eps float64
}

// Update holds [update]: hyperparameters of the policy update (arXiv 2511.15605, section 3).
type Update struct {
	ClipLow, ClipHigh, ClipDual, KLBeta float64
	Epochs, MiniBatch                   int
}

// Imitate holds [imitate]: how the starting policy is made from demonstrations.
type Imitate struct {
	Demos, Steps int
	// Noise is the standard deviation of Gaussian noise on the expert's actions, in action units. The policy learns the
	// intended actions (DART, arXiv 1703.09327).
	Noise float64
	// Data is a folder of recorded episodes to imitate; empty: the env's expert.
	Data string
}

// Offline holds [offline]: learning from recorded episodes, the recipe of arXiv 2511.15605 for real arms.
type Offline struct {
	// Data is a run folder, a recording or a LeRobot data set; empty: the run is online.
	Data string
	// Weights is "progress" (advantage-weighted regression), or one of the controls "uniform" and "success".
	Weights string
	// Temperature and MostWeight define the weight w = min(exp(A/Temperature), MostWeight).
	Temperature, MostWeight float64
	// Windows is the number of growing windows per curve; 0: chosen by the encoder.
	Windows int
	// Scale is "own" or "task": the range of the distances that a curve maps to 0 and 1.
	Scale string
}

// Data holds [data]: how a LeRobot data set is read and written.
type Data struct {
	// Cameras are ENV_CAMERA=FEATURE; empty: matched by name.
	Cameras []string
	// Action and State name features. Success names a feature, or is "auto", "all" or "none".
	Action, State, Success string
	// FPS is the rate to write, in steps per second; 0: the env's rate.
	FPS float64
}

// Report holds [report]: what a run measures of its own reward.
type Report struct {
	// AuditEvery is in iterations, 0: never.
	AuditEvery int
}

// Host holds [host]: how the processes of plugins are run. Times are in seconds.
type Host struct {
	Arena                                                                   string
	ArenaMB                                                                 int
	StartTimeoutS, ResetTimeoutS, StepTimeoutS, ActTimeoutS, UpdateTimeoutS float64
	EncodeTimeoutS, SaveTimeoutS                                            float64
	// SilenceTimeoutS 0: only deadlines end calls. Patience is in deadlines.
	SilenceTimeoutS, Patience float64
	Restarts                  int
	RestartWindowS            float64
	// PolicyProcesses is the number of ranks; 0: one for every GPU.
	PolicyProcesses      int
	EnvAllow, PluginPath []string
	Python               string
}

// Origin is the source of a value.
type Origin struct {
	// Layer is "default", "file", "set" or "flag".
	Layer string
	// Place is "srpo.toml:12:1", "--set" or the flag, e.g. "--env"; empty for a default.
	Place string
}

func (o Origin) String() string {
	if o.Layer == "default" {
		return "default"
	}
	return o.Place
}

// Flag is a command-line flag that sets a setting.
type Flag struct {
	// Name as the user typed it, e.g. "--env"; Key is the setting, e.g. "run.env".
	Name, Key string
	// Value as typed. For a list, every flag adds one element; otherwise the last flag counts.
	Value string
}

// Input is everything that a configuration is resolved from.
type Input struct {
	// File is the path of srpo.toml; empty: none. With Optional the file need not exist.
	File     string
	Optional bool
	// Set holds the values of --set: "section.name=value" or "kind.plugin.name=value".
	Set   []string
	Flags []Flag
}

// Default returns the configuration of an empty file.
func Default() *Config {
	c := &Config{
		origins:  map[string]Origin{},
		places:   map[string]place{},
		given:    map[plugins.Kind]map[string][]assignment{},
		resolved: map[plugins.Kind]map[string]resolvedPlugin{},
	}
	c.sections = c.declare()
	for _, s := range c.sections {
		for _, f := range s.fields {
			f.store(f.Default)
			c.origins[s.Name+"."+f.Name] = Origin{Layer: "default"}
		}
	}
	return c
}

// Load resolves in. Errors: NotFound if the file does not exist, Invalid for anything wrong in it, in --set or in a
// flag.
func Load(in Input) (*Config, error) {
	c := Default()
	if in.File != "" {
		data, err := readFile(in.File)
		switch {
		case errors.Is(err, fs.ErrNotExist) && in.Optional:
		case errors.Is(err, fs.ErrNotExist):
			return nil, plugins.Errorf(plugins.NotFound, "no such file").WithPlace("%s", in.File).
				WithHint("give the path of an srpo.toml, or leave it out for the defaults")
		case err != nil:
			return nil, plugins.Errorf(plugins.Invalid, "cannot read the file: %w", err).WithPlace("%s", in.File).
				WithHint("give a TOML text file of at most %d KiB", maxFile>>10)
		default:
			if err := c.parse(in.File, data); err != nil {
				return nil, err
			}
		}
	}
	var p problems
	for _, s := range in.Set {
		c.set(s, &p)
	}
	lists := map[string]bool{}
	for _, f := range in.Flags {
		c.flag(f, lists, &p)
	}
	if p.empty() {
		c.cross(&p)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// Parse resolves the text of a file. Errors use name as the name of the file.
func Parse(name string, text []byte) (*Config, error) {
	c := Default()
	if err := c.parse(name, text); err != nil {
		return nil, err
	}
	var p problems
	c.cross(&p)
	if err := p.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// maxFile bounds srpo.toml, so that a wrong path, such as a checkpoint or a video, is refused at once.
const maxFile = 128 << 10

func readFile(path string) ([]byte, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, errors.New("it is a folder")
	}
	return bounded.ReadFile(path, maxFile)
}

// Origin returns the source of the value of a setting such as "run.env" or "policy.tiny.lr", and the zero Origin for an
// unknown key. Settings of a plugin are known after [Config.ResolvePlugin].
func (c *Config) Origin(key string) Origin { return c.origins[key] }

// Chosen reports whether the user chose the value of a setting: by a flag or --set, or by a file with a value other
// than the default. A file that lists a default, as the srpo.toml of the repository and of every run folder does,
// chooses nothing.
func (c *Config) Chosen(key string) bool {
	switch c.origins[key].Layer {
	case "set", "flag":
		return true
	}
	value := func(c *Config) any {
		for _, v := range c.Values() {
			if v.Key == key {
				return v.Value
			}
		}
		return nil
	}
	return !reflect.DeepEqual(value(c), value(Default()))
}

// Value is one resolved setting.
type Value struct {
	// Key is "run.env" or "policy.tiny.lr".
	Key    string
	Value  any
	Origin Origin
	plugins.Setting
}

// Values returns every setting of the host and of the resolved plugins, in the order of the file.
func (c *Config) Values() []Value {
	var out []Value
	for _, s := range c.sections {
		for _, f := range s.fields {
			key := s.Name + "." + f.Name
			out = append(out, Value{Key: key, Value: f.load(), Origin: c.origins[key], Setting: f.Setting})
		}
	}
	for _, kind := range plugins.Kinds {
		for _, name := range sortedKeys(c.resolved[kind]) {
			r := c.resolved[kind][name]
			for _, d := range r.declared {
				key := fmt.Sprintf("%s.%s.%s", kind, name, d.Name)
				out = append(out, Value{Key: key, Value: r.settings[d.Name], Origin: c.origins[key], Setting: d})
			}
		}
	}
	return out
}

// Section is a section of srpo.toml with its declared settings.
type Section struct {
	Name, Doc string
	Settings  []plugins.Setting
}

// Reference returns the host's sections with every setting, for help texts and documents.
func Reference() []Section {
	var out []Section
	for _, s := range Default().sections {
		r := Section{Name: s.Name, Doc: s.Doc}
		for _, f := range s.fields {
			r.Settings = append(r.Settings, f.Setting)
		}
		out = append(out, r)
	}
	return out
}

// ResolvePlugin checks the values for a plugin against its declarations and returns every declared setting, with
// defaults filled in. It may be called again for the same plugin.
func (c *Config) ResolvePlugin(kind plugins.Kind, name string, declared []plugins.Setting) (plugins.Settings, error) {
	section := string(kind) + "." + name
	out := plugins.Settings{}
	origins := map[string]Origin{}
	for _, d := range declared {
		out[d.Name] = d.Default
		origins[section+"."+d.Name] = Origin{Layer: "default"}
	}
	var p problems
	for _, a := range c.given[kind][name] {
		var decl *plugins.Setting
		for i := range declared {
			if declared[i].Name == a.name {
				decl = &declared[i]
			}
		}
		if decl == nil {
			p.add(a.place.unknownSetting(a.name, section, settingNames(declared), ""))
			continue
		}
		v, err := a.check(*decl)
		if err != nil {
			p.add(a.place.wrap(err))
			continue
		}
		out[a.name] = v
		origins[section+"."+a.name] = a.place.origin
	}
	p.byLine()
	if err := p.err(); err != nil {
		return nil, err
	}
	for k, o := range origins {
		c.origins[k] = o
	}
	if c.resolved[kind] == nil {
		c.resolved[kind] = map[string]resolvedPlugin{}
	}
	c.resolved[kind][name] = resolvedPlugin{declared: declared, settings: out}
	return out, nil
}

// CheckSettings refuses a value for a setting of a plugin that is not among known. It needs no running plugin.
func (c *Config) CheckSettings(kind plugins.Kind, name string, known []string) error {
	var p problems
	for _, a := range c.given[kind][name] {
		if !slices.Contains(known, a.name) {
			p.add(a.place.unknownSetting(a.name, string(kind)+"."+name, known, ""))
		}
	}
	p.byLine()
	return p.err()
}

// CheckNeeds refuses a plugin without a value for a setting that it needs to start. needs maps such settings to hints.
func (c *Config) CheckNeeds(kind plugins.Kind, name string, needs map[string]string) error {
	for _, setting := range sortedKeys(needs) {
		var have any = ""
		for _, a := range c.given[kind][name] { // the last one counts
			if a.name == setting {
				have = a.value
			}
		}
		if have == "" {
			return plugins.Errorf(plugins.Invalid, "the %s %s has no %s", kind, name, setting).
				WithPlace("%s.%s.%s", kind, name, setting).WithHint("%s", needs[setting])
		}
	}
	return nil
}

// Unstarted does what Unused does, before any plugin has started. used names the plugins that are about to start, by
// kind. The name of a plugin in a folder is known only after its start, so a kind whose plugin is given by a path is
// not checked.
func (c *Config) Unstarted(used map[plugins.Kind]string) error {
	started := func(kind plugins.Kind, name string) bool {
		return used[kind] == name || strings.ContainsAny(used[kind], `/\.`)
	}
	return c.unused(started, func(kind plugins.Kind) []string {
		if used[kind] == "" {
			return nil
		}
		return []string{used[kind]}
	})
}

// UnstartedAmong is Unstarted for a command that starts several plugins of one kind and no others.
func (c *Config) UnstartedAmong(kind plugins.Kind, names []string) error {
	folder := slices.ContainsFunc(names, func(n string) bool { return strings.ContainsAny(n, `/\.`) })
	return c.unused(func(k plugins.Kind, name string) bool {
		return k == kind &&
			(folder || slices.Contains(names, name))
	},
		func(k plugins.Kind) []string {
			if k == kind {
				return names
			}
			return nil
		})
}

// Unused refuses a --set for a plugin that was not resolved, because it would change nothing. The file may have
// sections of plugins that the run does not use.
func (c *Config) Unused() error {
	return c.unused(func(kind plugins.Kind, name string) bool { _, ok := c.resolved[kind][name]; return ok },
		func(kind plugins.Kind) []string { return sortedKeys(c.resolved[kind]) })
}

func (c *Config) unused(started func(plugins.Kind, string) bool, inUse func(plugins.Kind) []string) error {
	var p problems
	for _, kind := range plugins.Kinds {
		for _, name := range sortedKeys(c.given[kind]) {
			if started(kind, name) {
				continue
			}
			for _, a := range c.given[kind][name] {
				if a.place.origin.Layer != "file" {
					p.add(a.section.unknown("this run uses no %s %q", kind, name).
						WithHint("%s", didYouMean(name, inUse(kind), "in use: ")))
				}
			}
		}
	}
	return p.err()
}

func settingNames(declared []plugins.Setting) []string {
	names := make([]string, len(declared))
	for i, d := range declared {
		names[i] = d.Name
	}
	return names
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// problems collects errors. Its error is the first one, with the others in its detail.
type problems struct{ list []*plugins.Error }

func (p *problems) add(e *plugins.Error) { p.list = append(p.list, e) }
func (p *problems) empty() bool          { return len(p.list) == 0 }

func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	first := p.list[0]
	if len(p.list) == 1 {
		return first
	}
	var b strings.Builder
	b.WriteString(first.Detail)
	for i, e := range p.list[1:] {
		if i == 9 {
			fmt.Fprintf(&b, "\nand %d more", len(p.list)-1-i)
			break
		}
		fmt.Fprintf(&b, "\n%s", e.Error())
		if e.Hint != "" {
			fmt.Fprintf(&b, " (%s)", e.Hint)
		}
		if e.Detail != "" {
			fmt.Fprintf(&b, "\n%s", e.Detail)
		}
	}
	return first.WithDetail(strings.TrimPrefix(b.String(), "\n"))
}
