// Package config reads srpo.toml and lays --set and flags over it: flags over --set over the file over the defaults.
//
// Every setting of the host is declared once, in settings.go, with its default, bounds and meaning. Sections that belong to a plugin ([env.NAME],
// [policy.NAME], [encoder.NAME]) stay as written until [Config.ResolvePlugin] gets the plugin's own declarations. Whatever is wrong comes back as a
// *plugins.Error whose place is file, line and column, whose detail shows the line with a caret, and whose hint names the nearest known name.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/plugins"
)

// Config is srpo.toml, resolved. Make one with [Default] or [Load].
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
	// places are where the host's own values that are not defaults were given.
	places map[string]place
	// given are values for plugins, in the order in which they win (the last one counts).
	given    map[plugins.Kind]map[string][]assignment
	resolved map[plugins.Kind]map[string]resolvedPlugin
}

type resolvedPlugin struct {
	declared []plugins.Setting
	settings plugins.Settings
}

// Run says what runs, where and for how long.
type Run struct {
	Env, Policy, Encoder string
	// Task holds patterns over task ids (path.Match, and * also matches /).
	Task       []string
	Seed       uint64
	Iterations int
	// SolvedAfter is in iterations without a failure to learn from, 0: the run goes on.
	SolvedAfter int
	// Checkpoint is a policy folder to start from; empty: imitate first.
	Checkpoint string
	// Lanes is the number of episodes in flight; 0: by env and cores.
	Lanes int
	// Out is the run folder; empty: runs/NAME.
	Out, Name   string
	TensorBoard bool
	// Videos is the number of episodes saved as video an iteration.
	Videos int
	// EvalEvery is in iterations, 0: never, else also before the first and after the last one; EvalEpisodes are per evaluation, 0: every start state once.
	EvalEvery, EvalEpisodes int
	// Keep is the number of newest checkpoints kept beside the best.
	Keep int
	// KeepClips is "none", "failures" or "all": whose recorded frames stay in the run folder. KeepEmbeddings keeps every episode's embedding.
	KeepClips      string
	KeepEmbeddings bool
	// KeepTrajectories is "none", "successes" or "all": whose observations and actions stay in the run folder.
	KeepTrajectories string
}

// Rollout says how groups of episodes are sampled.
type Rollout struct {
	Groups, GroupSize int
	Temperature       float64
	// RecordEvery is in env steps; 0 until the env is known, which host.Open settles.
	RecordEvery int
	// MaxSteps truncates an episode; 0: the task's own.
	MaxSteps          int
	KeepLow, KeepHigh float64
	ExtraGroups       int // -1: half of the groups
	// StartStates is "all", "train" or "test"; TrainFraction is the share of start states that train.
	StartStates   string
	TrainFraction float64
	// Split is what is divided: "auto", "start" or "task". Weights are DIMENSION=WEIGHT.
	Split   string
	Weights []string
	// EqualLength is "none", "cut" or "hold"; GroupBy is "task" or "start".
	EqualLength, GroupBy string
}

// Reward are the settings of the reward (arXiv 2511.15605, section 3; host/srpo has the formulas).
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

// Update are the hyperparameters of the policy update (arXiv 2511.15605, section 3).
type Update struct {
	ClipLow, ClipHigh, ClipDual, KLBeta float64
	Epochs, MiniBatch                   int
}

// Imitate says how the starting policy is made from demonstrations.
type Imitate struct {
	Demos, Steps int
	// Noise is the std of Gaussian noise on the expert's actions, in action units; what is learned is what the expert meant (DART, arXiv 1703.09327).
	Noise float64
	// Data is a folder of recorded episodes to imitate; empty: the env's expert.
	Data string
}

// Offline are the settings of learning from recorded episodes, the recipe of arXiv 2511.15605 for real arms.
type Offline struct {
	// Data is a run folder, a recording or a LeRobot data set; empty: the run is online.
	Data string
	// Weights is "progress" (advantage-weighted regression), or a control: "uniform" or "success".
	Weights string
	// Temperature and MostWeight are those of w = min(exp(A/Temperature), MostWeight).
	Temperature, MostWeight float64
	// Windows is the number of growing windows of a curve; 0: by the encoder.
	Windows int
	// Scale is "own" or "task": what a curve's 0 and 1 are.
	Scale string
}

// Data says how the episodes of a LeRobot data set are read and written.
type Data struct {
	// Cameras are ENV_CAMERA=FEATURE; empty: matched by name.
	Cameras []string
	// Action and State name features; Success a feature, or "all" or "none"; empty: looked for.
	Action, State, Success string
	// FPS to write; 0: the env's rate.
	FPS float64
}

// Report says what a run watches of itself.
type Report struct {
	// AuditEvery is in iterations, 0: never.
	AuditEvery int
}

// Host says how plugins are run. Times are in seconds.
type Host struct {
	Arena                                                                   string
	ArenaMB                                                                 int
	StartTimeoutS, ResetTimeoutS, StepTimeoutS, ActTimeoutS, UpdateTimeoutS float64
	EncodeTimeoutS, SaveTimeoutS                                            float64
	// SilenceTimeoutS 0: any silence will do. Patience is in deadlines.
	SilenceTimeoutS, Patience float64
	Restarts                  int
	RestartWindowS            float64
	// PolicyProcesses 0: one for every GPU.
	PolicyProcesses      int
	EnvAllow, PluginPath []string
	Python               string
}

// Origin says where a value came from.
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

// Flag is a command-line flag that stands for a setting.
type Flag struct {
	// Name as the user typed it, e.g. "--env"; Key is the setting, e.g. "run.env".
	Name, Key string
	// Value as typed. For a list setting every flag adds one element; for others the last one counts.
	Value string
}

// Input is everything that a configuration is made from.
type Input struct {
	// File is the path of srpo.toml; empty: none. Optional accepts that it does not exist.
	File     string
	Optional bool
	// Set holds the values of --set, "section.name=value" or "kind.plugin.name=value".
	Set   []string
	Flags []Flag
}

// Default is the configuration of an empty file.
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

// Load resolves in. Errors: NotFound when the file is missing, Invalid for everything that is wrong in it, in --set or in a flag.
func Load(in Input) (*Config, error) {
	c := Default()
	if in.File != "" {
		data, err := readFile(in.File)
		switch {
		case errors.Is(err, fs.ErrNotExist) && in.Optional:
		case errors.Is(err, fs.ErrNotExist):
			return nil, plugins.Errorf(plugins.NotFound, "no such file").WithPlace("%s", in.File).WithHint("give the path of an srpo.toml, or leave it out for the defaults")
		case err != nil:
			return nil, plugins.Errorf(plugins.Invalid, "cannot be read: %w", err).WithPlace("%s", in.File).WithHint("a configuration is a TOML text file of at most %d KiB", maxFile>>10)
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

// Parse resolves the text of a file; name stands for it in errors.
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

// maxFile bounds srpo.toml, so that a wrong path (a checkpoint, a video) is refused at once.
const maxFile = 128 << 10

func readFile(path string) ([]byte, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, errors.New("it is a folder")
	}
	return bounded.ReadFile(path, maxFile)
}

// Origin says where the value of a setting such as "run.env" or "policy.tiny.lr" came from; the zero Origin for an unknown key. Settings of a plugin
// are known after [Config.ResolvePlugin].
func (c *Config) Origin(key string) Origin { return c.origins[key] }

// Chosen says whether somebody asked for a setting's value: by a flag or --set, or in a file that gives another one than the default. A file that spells out the
// default, as srpo.toml of the repository and of every run folder does, asks for nothing.
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

// Values lists every setting of the host and of the plugins resolved so far, in the order of the file.
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

// Section is a section of srpo.toml with the settings declared in it.
type Section struct {
	Name, Doc string
	Settings  []plugins.Setting
}

// Reference lists the host's own sections with every setting, for help texts and documents.
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

// ResolvePlugin checks what the file and --set give to a plugin against what it declares, fills in defaults and returns every declared setting. It may
// be called again for the same plugin.
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

// CheckSettings refuses what the file and --set give to a plugin under a name that is not among known, before the plugin is there to check the values.
func (c *Config) CheckSettings(kind plugins.Kind, name string, known []string) error {
	var p problems
	for _, a := range c.given[kind][name] {
		if !contains(known, a.name) {
			p.add(a.place.unknownSetting(a.name, string(kind)+"."+name, known, ""))
		}
	}
	p.byLine()
	return p.err()
}

// CheckNeeds refuses a plugin that was not given a setting without which it cannot start; needs has the remedy of each.
func (c *Config) CheckNeeds(kind plugins.Kind, name string, needs map[string]string) error {
	for _, setting := range sortedKeys(needs) {
		var have any = ""
		for _, a := range c.given[kind][name] { // the last one counts
			if a.name == setting {
				have = a.value
			}
		}
		if have == "" {
			return plugins.Errorf(plugins.Invalid, "the %s %s has no %s", kind, name, setting).WithPlace("%s.%s.%s", kind, name, setting).WithHint("%s", needs[setting])
		}
	}
	return nil
}

// CheckPlugins refuses a section, or a --set, for a plugin of that kind that is not among known.
func (c *Config) CheckPlugins(kind plugins.Kind, known []string) error {
	var p problems
	for _, name := range sortedKeys(c.given[kind]) {
		if !contains(known, name) {
			a := c.given[kind][name][0]
			p.add(a.section.unknown("there is no %s plugin %q", kind, name).WithHint("%s", didYouMean(name, known, "installed: ")))
		}
	}
	return p.err()
}

// Unstarted is Unused beforehand: used names, by kind, the plugins that are about to be started. What a plugin in a folder is called is known only when it has
// started, so a kind whose plugin is given by a path is left to Unused.
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

// UnstartedAmong is Unstarted for a call that starts plugins of one kind only, several of them.
func (c *Config) UnstartedAmong(kind plugins.Kind, names []string) error {
	folder := slices.ContainsFunc(names, func(n string) bool { return strings.ContainsAny(n, `/\.`) })
	return c.unused(func(k plugins.Kind, name string) bool { return k == kind && (folder || contains(names, name)) },
		func(k plugins.Kind) []string {
			if k == kind {
				return names
			}
			return nil
		})
}

// Unused refuses a --set for a plugin that was not resolved: a setting typed for this run that would change nothing. Sections of the file may name
// plugins that this run does not use.
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
					p.add(a.section.unknown("this run uses no %s %q", kind, name).WithHint("%s", didYouMean(name, inUse(kind), "in use: ")))
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

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// problems collects errors and gives the first one, with the others in its detail.
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
