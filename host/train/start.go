package train

import (
	"context"
	"path/filepath"

	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// startingPolicy loads run.checkpoint, or trains the policy on demonstrations, embeds what the reward measures
// against, and commits the result as iteration 0.
func (r *run) startingPolicy(ctx context.Context) (err error) {
	if r.state, err = newState(); err != nil {
		return err
	}
	given := r.cfg.Run.Checkpoint != ""
	if given {
		if err := r.loadGiven(ctx); err != nil {
			return err
		}
	}
	switch {
	case given && !r.ImitateOnly:
	case r.cfg.Imitate.Demos == 0 && r.cfg.Imitate.Data == "":
		if !given {
			r.Terminal.Line("no checkpoint and no demonstrations: starting from the policy's fresh weights")
		}
	default:
		if err := r.imitate(ctx); err != nil {
			return err
		}
	}
	if !r.sparse && !r.ImitateOnly && !r.offline() {
		r.began = true
		if err := r.embedReferences(ctx); err != nil {
			return err
		}
	}
	return r.commit(ctx, 0, nil)
}

// loadGiven loads the policy of run.checkpoint. A published checkpoint was passed to the policy as its setting.
func (r *run) loadGiven(ctx context.Context) error {
	if err := session.RequireCheckpoint(r.cfg); err != nil {
		return err
	}
	if published := r.session.Published; published != "" {
		r.Terminal.Line("starting policy: the published checkpoint %s", published)
		return nil
	}
	folder, err := filepath.Abs(r.cfg.Run.Checkpoint)
	if err != nil {
		return err
	}
	p, _, err := r.session.Sched.Policy.Client(ctx)
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
	// The optimiser's moments and the KL reference of another run do not apply to this one.
	if r.state.UpdateID, err = policy.BeginRun(ctx, p, saved); err != nil {
		return plugins.AsError(err).WithPlace("%s, checkpoint %s", r.cfg.Origin("run.checkpoint"), folder)
	}
	r.Terminal.Line("starting policy: %s", folder)
	return nil
}
