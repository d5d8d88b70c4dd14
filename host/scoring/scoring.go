// Package scoring scores recorded attempts with the reward of a run and measures that reward. It trains nothing.
package scoring

import (
	"context"
	"fmt"
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

// Options configure [Run].
type Options struct {
	// Config contains [reward], [encoder.NAME] and how plugins are run. Run.Encoder embeds videos.
	Config *config.Config
	Launch session.Launcher
	// Decoder decodes mp4 and webp videos; nil: such attempts are dropped.
	Decoder *media.Decoder
	// Terminal shows progress and warnings.
	Terminal *report.Terminal
	// Source is what attempts.Read reads.
	Source string
	// Compare lists the encoders to score with; empty: Run.Encoder.
	Compare []Contender
	// Metrics also measures the reward on growing windows and controls. Curves draws progress curves. Both
	// embed windows. Out implies both.
	Metrics, Curves bool
	// Out is the folder of results.json, the page and the drawings; empty: nothing is written.
	Out string
	// Windows is the number of growing windows of a curve; 0: 32 for encoders that embed frame by frame, 8 for
	// others.
	Windows int
	// Cache is the folder of the cache of embeddings; empty: a temporary one.
	Cache string
	// Logs is the folder of the encoders' logs, which errors name; empty: a temporary one.
	Logs string
	// Version of srpo and Command line, for the record.
	Version string
	Command []string
}

// Contender is one of several encoders that score the same attempts.
type Contender struct {
	// Encoder is a plugin's name or folder.
	Encoder string
	// Label names the contender in the result; empty: the plugin's own name.
	Label string
	// Config contains the contender's [encoder.NAME]; nil: Options.Config.
	Config *config.Config
}

// label returns a name that is known before the plugin is started.
func (c Contender) label() string {
	if c.Label != "" {
		return c.Label
	}
	return c.Encoder
}

// Result is the result of `srpo reward`: the object that --json prints, and results.json.
type Result struct {
	Source string `json:"source"`
	// Form is the form of the source: list, folder, run or evaluation.
	Form string `json:"form"`
	// Reward, Cluster and References are the settings that were used.
	Reward     string `json:"reward"`
	Cluster    string `json:"cluster"`
	References string `json:"references"`
	Version    string `json:"version,omitempty"`
	// The scores by the first encoder.
	audit.Scored
	// Encoders are the scores by all encoders when there are several.
	Encoders []audit.Scored `json:"encoders,omitempty"`
	// FalseSuccesses lists, for each encoder, the failures that score like successes. It is set when Out is.
	FalseSuccesses []report.FalseSuccesses `json:"fooled,omitempty"`
	Warnings       []string                `json:"warnings,omitempty"`
	// Out is the folder that was written; empty: none.
	Out     string  `json:"out,omitempty"`
	Seconds float64 `json:"seconds"`
	// Cached and Embedded count the lists of embeddings that were found in the cache and those that were
	// computed. A list is the embedding of one clip, or those of the windows of one call.
	Cached   int `json:"cached"`
	Embedded int `json:"embedded"`
}

// scoring is one call of [Run].
type scoring struct {
	Options
	list   *attempts.List
	clips  *embed.Clips
	result *Result
	scored []audit.Scored
}

// Run scores recorded attempts. An attempt that cannot be used is dropped with a reason.
func Run(ctx context.Context, o Options) (*Result, error) {
	began := time.Now()
	list, err := attempts.Read(ctx, o.Source)
	if err != nil {
		return nil, err
	}
	if o.Out != "" {
		o.Metrics, o.Curves = true, true
	}
	c := o.Config.Reward
	s := &scoring{Options: o, list: list, result: &Result{Source: o.Source, Form: list.Form, Reward: c.Kind,
		Cluster: c.Cluster, References: c.References, Version: o.Version, Out: o.Out}}
	s.warn(list.Warnings...)
	cache, removeCache, err := embed.OpenCache(o.Cache)
	if err != nil {
		return nil, err
	}
	defer removeCache()
	s.clips = &embed.Clips{List: list, Decoder: o.Decoder, Cache: cache, Terminal: o.Terminal}
	if err := s.scoreAll(ctx); err != nil {
		return nil, err
	}
	r := s.result
	r.Scored = s.scored[0]
	if len(s.scored) > 1 {
		r.Encoders = s.scored
	}
	hits, misses, damaged := cache.Counts()
	r.Cached, r.Embedded = hits, misses
	if damaged > 0 {
		s.warn(fmt.Sprintf("%d cached embeddings were damaged and are computed again", damaged))
	}
	r.Seconds = time.Since(began).Seconds()
	if o.Out != "" {
		if err := s.write(ctx); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// scoreAll scores the embeddings of the attempts, or embeds and scores their videos.
func (s *scoring) scoreAll(ctx context.Context) error {
	given, videos := 0, 0
	for _, a := range s.list.Attempts {
		if a.Embedding != nil {
			given++
		} else if a.Video != "" {
			videos++
		}
	}
	switch {
	case given > 0 && videos > 0:
		return plugins.Errorf(plugins.Invalid,
			"%d attempts have embeddings and %d have videos, which cannot be compared with each other", given,
			videos).
			WithPlace("%s", s.Source).WithHint("give either embeddings or videos for all attempts")
	case videos == 0:
		return s.scoreGiven()
	}
	return s.scoreVideos(ctx)
}

// warn shows warnings and records them in the result.
func (s *scoring) warn(warnings ...string) {
	for _, w := range warnings {
		s.result.Warnings = append(s.result.Warnings, w)
		s.Terminal.Warn("%s", w)
	}
}

// scoreGiven scores embeddings that the source contains.
func (s *scoring) scoreGiven() error {
	if len(s.Compare) > 1 {
		return plugins.Errorf(plugins.Invalid, "the embeddings are given, so there are no encoders to compare").
			WithPlace("--compare").WithHint("give videos")
	}
	vectors := make([]embed.Vectors, len(s.list.Attempts))
	s.clips.Info = make([]embed.ClipInfo, len(vectors))
	for i, a := range s.list.Attempts {
		vectors[i].Whole.Clip = a.Embedding
	}
	if err := checkReferences(s.list, s.Config.RewardOptions(0), s.Config); err != nil {
		return err
	}
	return s.score(audit.Scored{Encoder: s.list.Encoder}, vectors, s.list.Anchors)
}

// scoreVideos embeds the videos with each encoder and scores them.
func (s *scoring) scoreVideos(ctx context.Context) error {
	if err := s.clips.Scan(ctx); err != nil {
		return err
	}
	hasFrames := func(i embed.ClipInfo) bool { return i.Frames > 0 }
	if s.clips.DecoderError != nil && !slices.ContainsFunc(s.clips.Info, hasFrames) {
		return s.clips.DecoderError
	}
	contenders, err := s.contenders()
	if err != nil {
		return err
	}
	if err := s.checkEncoders(ctx, contenders); err != nil {
		return err
	}
	for _, c := range contenders {
		if err := s.scoreWith(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// checkEncoders finds mistakes in the settings, and encoders that cannot be installed, before the first encoder
// starts.
func (s *scoring) checkEncoders(ctx context.Context, contenders []Contender) error {
	var names []string
	for _, c := range contenders {
		names = append(names, c.Encoder)
	}
	if err := s.Config.UnstartedAmong(plugins.Encoder, names); err != nil {
		return err
	}
	opt := s.Config.RewardOptions(0)
	if opt.References == srpo.ReferencesDemos {
		if err := checkReferences(s.list, opt, s.Config); err != nil {
			return err
		}
	}
	for _, c := range contenders {
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
	for _, name := range names[1:] {
		if _, _, err := s.Launch.Launch(ctx, plugins.Encoder, name); err != nil {
			return err
		}
	}
	return nil
}

// contenders returns the encoders to score with, each once. Two different encoders must not have the same label.
func (s *scoring) contenders() (all []Contender, err error) {
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
			return nil, plugins.Errorf(plugins.Invalid, "two encoders are called %q", c.label()).
				WithPlace("--compare").
				WithHint("give each a name of its own: --compare world=vjepa2:model=A.onnx,other=vjepa2:model=B.onnx")
		}
		seen[c.label()] = c
		all = append(all, c)
	}
	return all, nil
}

func (s *scoring) configOf(c Contender) *config.Config {
	if c.Config != nil {
		return c.Config
	}
	return s.Config
}

// scoreWith embeds and scores with one encoder. Its process ends before the next encoder needs memory.
func (s *scoring) scoreWith(ctx context.Context, c Contender) error {
	cfg := s.configOf(c)
	super, err := session.NewSupervisor(cfg, s.Logs, s.onPlugin)
	if err != nil {
		return err
	}
	defer super.Close()
	s.Terminal.Update(report.Status{Phase: "start " + c.label()})
	e, err := embed.Start(ctx, super, cfg, s.Launch, c.Encoder, s.clips)
	if err != nil {
		if len(s.Compare) > 1 && c.Label != "" { // two contenders may be the same plugin
			return plugins.AsError(err).WithPlace("--compare %s", c.Label)
		}
		return err
	}
	if c.Label != "" {
		e.Label = "encoder " + c.Label
	}
	depth := embed.ClipOnly
	if s.Metrics || s.Curves {
		depth = embed.WithControls
	}
	vectors, err := e.EmbedAll(ctx, depth, s.Windows)
	if err != nil {
		return err
	}
	var anchors map[string][]float64
	if s.Config.Reward.Kind == string(srpo.Anchored) {
		if anchors, err = e.Anchors(ctx); err != nil {
			return err
		}
	}
	out := audit.Scored{Encoder: e.Info.Name, EncoderVersion: e.Info.Version, EncoderModel: e.Spec.Model,
		Dimension: e.Spec.Dimension}
	if c.Label != "" && c.Label != e.Info.Name {
		out.Encoder, out.EncoderPlugin = c.Label, e.Info.Name
	}
	return s.score(out, vectors, anchors)
}

func (s *scoring) onPlugin(e supervise.Event) {
	switch e.What {
	case "died", "replaced", "gave up":
		s.Terminal.Warn("%s %s: %s", e.Plugin, e.What, e.Cause)
	}
}

// score rewards the attempts and measures the reward. out names the encoder.
func (s *scoring) score(out audit.Scored, vectors []embed.Vectors, anchors map[string][]float64) error {
	embeddings := make([][]float64, len(vectors))
	list := slices.Clone(s.list.Attempts)
	for i, v := range vectors {
		embeddings[i] = v.Whole.Clip
		if v.Problem != "" {
			list[i].Problem = v.Problem
		}
	}
	fail := func(err error) error { return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", s.Source) }
	opt := s.Config.RewardOptions(out.Dimension)
	scores, err := audit.Reward(list, embeddings, anchors, opt)
	if err != nil {
		return fail(err)
	}
	for i := range scores.Attempts {
		scores.Attempts[i].Frames, scores.Attempts[i].Note = s.clips.Info[i].Frames, s.clips.Info[i].Note
	}
	out.Scores = scores
	if out.Dimension == 0 {
		for _, v := range embeddings {
			out.Dimension = max(out.Dimension, len(v))
		}
	}
	m := audit.MeasureOptions{Cluster: opt.Cluster, Seed: s.Config.Run.Seed}
	s.Terminal.Update(report.Status{Phase: "measure"})
	if out.Metrics.Measured, err = audit.Measure(s.clips.Items(vectors, scores.Attempts, false), m); err != nil {
		return fail(err)
	}
	if s.Metrics && s.clips.Scanned() {
		cut, err := audit.Measure(s.clips.Items(vectors, scores.Attempts, true), m)
		if err != nil {
			return fail(err)
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

// checkReferences refuses a list without what the reward measures against.
func checkReferences(list *attempts.List, opt srpo.RewardOptions, cfg *config.Config) error {
	if opt.Kind == srpo.Anchored && len(list.Anchors) == 0 {
		return plugins.Errorf(plugins.Invalid,
			"the reward %q measures against \"nothing happened\", and the list has no anchors", opt.Kind).
			WithPlace("%s", cfg.Origin("reward.kind")).
			WithHint(`give videos, whose first frames become the anchors, or {"anchors": {"TASK": [...]}, ` +
				`"attempts": [...]}, or use --reward zscore`)
	}
	isDemo := func(a attempts.Attempt) bool { return a.Demo }
	if opt.References == srpo.ReferencesDemos && !slices.ContainsFunc(list.Attempts, isDemo) {
		return plugins.Errorf(plugins.Invalid, "references are %q and no attempt is a demonstration", opt.References).
			WithPlace("%s", cfg.Origin("reward.references")).
			WithHint(`mark the demonstrations with "demo": true, or use --references batch`)
	}
	return nil
}
