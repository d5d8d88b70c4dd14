package session

import (
	"context"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

func (s *Session) openEncoder(ctx context.Context, launch Launcher) error {
	e, err := StartEncoder(ctx, s.super, s.Config, launch, s.Config.Run.Encoder)
	if err != nil {
		return err
	}
	if s.Sched.EnvSpec.RecordCamera == "" {
		return plugins.Errorf(plugins.Mismatch, "the env records no camera for an encoder").
			WithPlace("%s in %s", e.Label, s.Sched.EnvName).
			WithHint(`use --set reward.kind=binary, or an env with a third-person camera`)
	}
	s.Encoder, s.EncoderInfo, s.Sched.EncoderSpec = e, e.Info, e.Spec
	s.Plugins = append(s.Plugins, e.Record)
	s.Sched.Encoder, s.Sched.EncoderName = e.Worker, e.Label
	return nil
}

// Encoder is a started and configured encoder.
type Encoder struct {
	Worker   supervise.Worker[encoder.Encoder]
	Label    string // "encoder NAME"
	Info     plugins.Info
	Spec     encoder.Spec
	Settings plugins.Settings
	Record   store.Plugin
}

// StartEncoder starts an encoder with the settings of the configuration.
func StartEncoder(
	ctx context.Context,
	super *supervise.Supervisor,
	cfg *config.Config,
	launch Launcher,
	name string,
) (*Encoder, error) {
	l, record, err := launch.Launch(ctx, plugins.Encoder, name)
	if err != nil {
		return nil, err
	}
	s := &Encoder{Label: "encoder " + l.Name}
	s.Worker = supervise.NewEncoder(super, l, func(ctx context.Context, e encoder.Encoder) error {
		info, err := e.Info(ctx)
		if err != nil {
			return err
		}
		settings, err := cfg.ResolvePlugin(plugins.Encoder, l.Name, info.Settings)
		if err != nil {
			return err
		}
		s.Info, s.Settings = info, settings
		scratch, err := super.Scratch("encoder-" + l.Name)
		if err != nil {
			return err
		}
		return e.Configure(ctx,
			plugins.Config{Settings: settings, Seed: cfg.Run.Seed, WorldSize: 1, Scratch: scratch})
	})
	e, _, err := s.Worker.Client(ctx)
	if err != nil {
		return nil, err
	}
	if s.Spec, err = e.Describe(ctx); err != nil {
		return nil, plugins.AsError(err).WithPlace("%s", s.Label)
	}
	record.Version, record.Protocol, record.Versions = s.Info.Version, s.Info.Protocol, s.Info.Versions
	s.Record = record
	return s, nil
}
