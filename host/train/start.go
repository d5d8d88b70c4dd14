package train

import (
	"context"
	"path/filepath"

	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// startingPolicy loads run.checkpoint, or trains the policy on demonstrations of the env's expert, and commits the result as iteration 0.
func (r *run) startingPolicy(ctx context.Context) error {
	s := r.session
	state, err := newState()
	if err != nil {
		return err
	}
	r.state = state
	if r.cfg.Run.Checkpoint != "" {
		if err := session.RequireCheckpoint(r.cfg); err != nil {
			return err
		}
	}
	if s.Published != "" {
		r.Terminal.Line("starting policy: the published checkpoint %s", s.Published)
	} else if folder := r.cfg.Run.Checkpoint; folder != "" {
		if folder, err = filepath.Abs(folder); err != nil {
			return err
		}
		p, _, err := s.Sched.Policy.Client(ctx)
		if err != nil {
			return err
		}
		saved, damaged, err := session.FindPolicy(folder)
		if err != nil {
			return plugins.AsError(err).WithPlace("%s", r.cfg.Origin("run.checkpoint"))
		}
		for _, d := range damaged {
			r.Terminal.Warn("%s", session.DamagedWarning(d))
			r.event(store.ErrorEvent(store.Warning, 0, d))
		}
		// Another run's moments and KL reference are none of this run's; its checkpoint 0 is then what it is resumed from.
		if state.UpdateID, err = policy.BeginRun(ctx, p, saved); err != nil {
			return plugins.AsError(err).WithPlace("%s, checkpoint %s", r.cfg.Origin("run.checkpoint"), folder)
		}
		r.Terminal.Line("starting policy: %s", folder)
	}
	switch {
	case r.cfg.Run.Checkpoint != "" && !r.ImitateOnly:
	case r.cfg.Imitate.Demos == 0 && r.cfg.Imitate.Data == "":
		if r.cfg.Run.Checkpoint == "" {
			r.Terminal.Line("no checkpoint and no demonstrations: starting from the policy's fresh weights")
		}
	default:
		if err := r.imitate(ctx); err != nil {
			return err
		}
	}
	if !r.sparse && !r.ImitateOnly && !r.offline() {
		r.began = true
		if err := r.references(ctx); err != nil {
			return err
		}
	}
	return r.commit(ctx, 0, nil)
}
