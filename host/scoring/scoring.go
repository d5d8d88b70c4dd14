// Package scoring scores recorded attempts with the reward of a run and measures that reward. It trains nothing.
package scoring

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/embed"
	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// Options say what [Run] is to score, and how.
type Options struct {
	// Config holds [reward], [encoder.NAME] and how plugins are run; Run.Encoder embeds videos.
	Config *config.Config
	Launch session.Launcher
	// Decoder decodes mp4 and webp videos; nil: such attempts are dropped.
	Decoder *media.Decoder
	// Terminal shows progress and warnings.
	Terminal *report.Terminal
	// Source is what attempts.Read reads.
	Source string
	// Compare are the encoders to score with; empty: Run.Encoder.
	Compare []Contender
	// Metrics measures the reward by growing windows and controls, too; Curves draws. Both make windows, and Out implies both.
	Metrics, Curves bool
	// Out is a folder for results.json, the page and the drawings; empty: nothing is written.
	Out string
	// Windows is the number of growing windows of a curve; 0: 32 for encoders that look at frames one by one, 8 for others.
	Windows int
	// Cache is the folder of embeddings; empty: nothing is remembered.
	Cache string
	// Logs is the folder of the encoders' logs, which errors name; empty: a temporary one.
	Logs string
	// Version of srpo and Command line, for the record.
	Version string
	Command []string
}

// Contender is one of the encoders that score the same attempts.
type Contender struct {
	// Encoder is a plugin's name or folder.
	Encoder string
	// Label is what it is called in the answer; empty: what the plugin calls itself.
	Label string
	// Config has this one's [encoder.NAME]; nil: RewardOptions.Config.
	Config *config.Config
}

// label before the plugin was started.
func (c Contender) label() string {
	if c.Label != "" {
		return c.Label
	}
	return c.Encoder
}

// Result is what `srpo reward` found: the object that --json prints, and results.json.
type Result struct {
	Source string `json:"source"`
	// Form is what the source was taken for: list, folder, run or evaluation.
	Form string `json:"form"`
	// Reward, Cluster and References are as asked for.
	Reward     string `json:"reward"`
	Cluster    string `json:"cluster"`
	References string `json:"references"`
	Version    string `json:"version,omitempty"`
	// The first encoder's scores.
	audit.Scored
	// Encoders are all of them, when there are several.
	Encoders []audit.Scored `json:"encoders,omitempty"`
	// Fooled has, for each encoder, the failures that it takes for successes; with Out only.
	Fooled   []report.FalseSuccesses `json:"fooled,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	// Out is the folder that was written; empty: none.
	Out string `json:"out,omitempty"`
	// Seconds it took; Cached and Embedded count what was remembered and made: the vector of a clip, or those of the windows of one call.
	Seconds  float64 `json:"seconds"`
	Cached   int     `json:"cached"`
	Embedded int     `json:"embedded"`
}

// scoring is one call of Reward.
type scoring struct {
	Options
	list   *attempts.List
	clips  *embed.Clips
	result *Result
	scored []audit.Scored
}

// Run scores attempts that are there already, and trains nothing.
func Run(ctx context.Context, o Options) (*Result, error) {
	began := time.Now()
	list, err := attempts.Read(ctx, o.Source)
	if err != nil {
		return nil, err
	}
	if o.Out != "" {
		o.Metrics, o.Curves = true, true
	}
	c := o.Config
	s := &scoring{Options: o, list: list, result: &Result{Source: o.Source, Form: list.Form, Reward: c.Reward.Kind, Cluster: c.Reward.Cluster,
		References: c.Reward.References, Version: o.Version, Out: o.Out}}
	s.warn(list.Warnings...)
	cache := &embed.Cache{Dir: o.Cache}
	if o.Cache == "" {
		dir, err := os.MkdirTemp("", "srpo-embeddings-")
		if err != nil {
			return nil, plugins.Errorf(plugins.Exhausted, "a folder for this call: %w", err).WithHint("make room in the temporary folder")
		}
		defer os.RemoveAll(dir)
		cache.Dir = dir
	}
	s.clips = &embed.Clips{List: list, Decoder: o.Decoder, Cache: cache, Terminal: o.Terminal}
	given, videos := 0, 0
	for _, a := range list.Attempts {
		if a.Embedding != nil {
			given++
		} else if a.Video != "" {
			videos++
		}
	}
	switch {
	case given > 0 && videos > 0:
		return nil, plugins.Errorf(plugins.Invalid, "%d attempts have embeddings and %d have videos: the two cannot be compared", given, videos).WithPlace("%s", o.Source).
			WithHint("give the one or the other for all")
	case videos == 0:
		if err := s.bare(); err != nil {
			return nil, err
		}
	default:
		if err := s.videos(ctx); err != nil {
			return nil, err
		}
	}
	r := s.result
	r.Scored = s.scored[0]
	if len(s.scored) > 1 {
		r.Encoders = s.scored
	}
	hits, misses, damaged := cache.Counts()
	r.Cached, r.Embedded = hits, misses
	if damaged > 0 {
		s.warn(fmt.Sprintf("%d remembered embeddings were damaged and are made again", damaged))
	}
	r.Seconds = time.Since(began).Seconds()
	if o.Out != "" {
		if err := s.write(ctx); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// warn tells and records.
func (s *scoring) warn(warnings ...string) {
	for _, w := range warnings {
		s.result.Warnings = append(s.result.Warnings, w)
		s.Terminal.Warn("%s", w)
	}
}

// bare scores embeddings as they were given.
func (s *scoring) bare() error {
	if len(s.Compare) > 1 {
		return plugins.Errorf(plugins.Invalid, "the embeddings are given, so there are no encoders to compare").WithPlace("--compare").WithHint("give videos")
	}
	v := make([]embed.Variants, len(s.list.Attempts))
	s.clips.Info = make([]embed.ClipInfo, len(v))
	for i, a := range s.list.Attempts {
		v[i].Clip = a.Embedding
	}
	if err := canReward(s.list, s.Config.RewardOptions(0), s.Config); err != nil {
		return err
	}
	return s.score(s.list.Encoder, "", 0, v, s.list.Anchors)
}

// videos embeds with each encoder, and scores.
func (s *scoring) videos(ctx context.Context) error {
	if err := s.clips.Scan(ctx); err != nil {
		return err
	}
	if s.clips.DecoderError != nil && !slices.ContainsFunc(s.clips.Info, func(i embed.ClipInfo) bool { return i.Frames > 0 }) {
		return s.clips.DecoderError
	}
	all, names, err := s.contenders()
	if err != nil {
		return err
	}
	if err := s.Config.UnstartedAmong(plugins.Encoder, names); err != nil {
		return err
	}
	opt := s.Config.RewardOptions(0)
	if opt.References == srpo.ReferencesDemos {
		if err := canReward(s.list, opt, s.Config); err != nil {
			return err
		}
	}
	for _, c := range all {
		found, err := s.Launch.Find(plugins.Encoder, c.Encoder)
		if err != nil {
			return err
		}
		if found.Settings != nil {
			if err := s.configOf(c).CheckSettings(plugins.Encoder, found.Name, found.Settings); err != nil {
				return err
			}
		}
	}
	for _, name := range names[1:] { // what cannot be installed shows before the first one has worked for an hour
		if _, _, err := s.Launch.Launch(ctx, plugins.Encoder, name); err != nil {
			return err
		}
	}
	for _, c := range all {
		if err := s.encoder(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// contenders are the encoders to score with, each once, and their plugins. Two under one label are refused.
func (s *scoring) contenders() (all []Contender, plugin []string, err error) {
	list := s.Compare
	if len(list) == 0 {
		list = []Contender{{Encoder: s.Config.Run.Encoder}}
	}
	seen := map[string]Contender{}
	for _, c := range list {
		if before, ok := seen[c.label()]; ok {
			if before == c && c.Config == nil {
				continue
			}
			return nil, nil, plugins.Errorf(plugins.Invalid, "two encoders are called %q", c.label()).WithPlace("--compare").
				WithHint("give each a name of its own: --compare world=vjepa2:model=A.onnx,other=vjepa2:model=B.onnx")
		}
		seen[c.label()] = c
		all, plugin = append(all, c), append(plugin, c.Encoder)
	}
	return all, plugin, nil
}

func (s *scoring) configOf(c Contender) *config.Config {
	if c.Config != nil {
		return c.Config
	}
	return s.Config
}

// encoder embeds and scores with one encoder, whose process ends before another one takes memory.
func (s *scoring) encoder(ctx context.Context, c Contender) error {
	cfg := s.configOf(c)
	super, err := session.NewSupervisor(cfg, s.Logs, s.onPlugin)
	if err != nil {
		return err
	}
	defer super.Close()
	s.Terminal.Update(report.Status{Phase: "start " + c.label()})
	e, err := embed.Start(ctx, super, cfg, s.Launch, c.Encoder, s.clips)
	if err != nil {
		if len(s.Compare) > 1 && c.Label != "" { // two may be of one plugin
			return plugins.AsError(err).WithPlace("--compare %s", c.Label)
		}
		return err
	}
	if c.Label != "" {
		e.Label = "encoder " + c.Label
	}
	how := embed.ClipOnly
	if s.Metrics || s.Curves {
		how = embed.WithControls
	}
	v, err := e.EmbedAll(ctx, how, s.Windows)
	if err != nil {
		return err
	}
	var anchors map[string][]float64
	if s.Config.Reward.Kind == string(srpo.Anchored) {
		if anchors, err = e.Anchors(ctx); err != nil {
			return err
		}
	}
	name := c.Label
	if name == "" {
		name = e.Info.Name
	}
	if err := s.score(name, e.Info.Version, e.Spec.Dimension, v, anchors); err != nil {
		return err
	}
	last := &s.scored[len(s.scored)-1]
	last.EncoderModel = e.Spec.Model
	if name != e.Info.Name {
		last.EncoderPlugin = e.Info.Name
	}
	return nil
}

func (s *scoring) onPlugin(e supervise.Event) {
	switch e.What {
	case "died", "replaced", "gave up":
		s.Terminal.Warn("%s %s: %s", e.Plugin, e.What, e.Cause)
	}
}

// score pays the attempts and measures the reward.
func (s *scoring) score(name, version string, dim int, v []embed.Variants, anchors map[string][]float64) error {
	vectors := make([][]float64, len(v))
	list := slices.Clone(s.list.Attempts)
	for i := range v {
		vectors[i] = v[i].Clip
		if v[i].Problem != "" {
			list[i].Problem = v[i].Problem
		}
	}
	opt := s.Config.RewardOptions(dim)
	scores, err := audit.Reward(list, vectors, anchors, opt)
	if err != nil {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", s.Source)
	}
	for i := range scores.Attempts {
		scores.Attempts[i].Frames, scores.Attempts[i].Note = s.clips.Info[i].Frames, s.clips.Info[i].Note
	}
	if dim == 0 {
		for _, x := range vectors {
			dim = max(dim, len(x))
		}
	}
	out := audit.Scored{Encoder: name, EncoderVersion: version, Dimension: dim, Scores: scores}
	m := audit.MeasureOptions{Cluster: opt.Cluster, Seed: s.Config.Run.Seed}
	s.Terminal.Update(report.Status{Phase: "measure"})
	if out.Metrics.Measured, err = audit.Measure(s.clips.Items(v, scores.Attempts, false), m); err != nil {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", s.Source)
	}
	if s.Metrics && s.clips.Kept != nil {
		cut, err := audit.Measure(s.clips.Items(v, scores.Attempts, true), m)
		if err != nil {
			return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", s.Source)
		}
		out.Metrics.EqualLength = &audit.EqualLength{Frames: s.clips.ShortestByTask(), Measured: cut}
	}
	out.Metrics.Bootstrap, out.Metrics.Seed, out.Metrics.Definitions = 1000, m.Seed, audit.Definitions()
	if s.Curves {
		out.Curves = out.Metrics.Curves
	}
	s.scored = append(s.scored, out)
	return nil
}

// canReward refuses what has nothing to measure against.
func canReward(list *attempts.List, opt srpo.RewardOptions, cfg *config.Config) error {
	if opt.Kind == srpo.Anchored && len(list.Anchors) == 0 {
		return plugins.Errorf(plugins.Invalid, "the reward %q measures against \"nothing happened\", and the list has no anchors", opt.Kind).
			WithPlace("%s", cfg.Origin("reward.kind")).WithHint(`give videos, whose first frames are held still for it, or {"anchors": {"TASK": [...]}, "attempts": [...]}, or use --reward zscore`)
	}
	if opt.References == srpo.ReferencesDemos {
		for _, a := range list.Attempts {
			if a.Demo {
				return nil
			}
		}
		return plugins.Errorf(plugins.Invalid, "references are %q and no attempt is a demonstration", opt.References).WithPlace("%s", cfg.Origin("reward.references")).
			WithHint(`mark the attempts that are: "demo": true; or use --references batch`)
	}
	return nil
}
