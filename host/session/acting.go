package session

import (
	"context"
	"errors"
	"maps"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// UseWeights makes every later incarnation of the policy load a folder, and the live one act.
func (s *Session) UseWeights(ctx context.Context, folder string) error {
	s.mu.Lock()
	s.weights = folder
	s.mu.Unlock()
	_, err := s.CurrentPolicy(ctx)
	return err
}

// CurrentPolicy returns the live policy, restarted when its process was lost, and makes its incarnation the one that
// acts, see [rollout.Scheduler.ActingPolicy].
func (s *Session) CurrentPolicy(ctx context.Context) (policy.Policy, error) {
	p, incarnation, err := s.Sched.Policy.Client(ctx)
	if err != nil {
		return nil, err
	}
	s.Sched.PolicyIncarnation = incarnation
	return p, nil
}

// LoadWeights loads a policy folder that run.checkpoint named, and makes later incarnations load it too.
// Nothing is loaded when folder is empty, or when the policy got a published checkpoint as its setting.
func (s *Session) LoadWeights(ctx context.Context, folder string) error {
	p, err := s.CurrentPolicy(ctx)
	if err != nil || folder == "" || s.Published != "" {
		return err
	}
	if _, err := p.Load(ctx, folder); err != nil {
		return plugins.AsError(err).
			WithPlace("%s, checkpoint %s", s.Config.Origin("run.checkpoint"), s.Config.Run.Checkpoint)
	}
	return s.UseWeights(ctx, folder)
}

// EvaluateAll rolls out the trials that e.Have does not contain. When the policy's process is lost, it
// continues with a new one, which has the same weights: warn gets the error, and the episodes that were running
// are repeated. onFrames gets each episode while its frames are present, onEpisode afterwards. Their errors end
// the evaluation. Either may be nil.
func (s *Session) EvaluateAll(
	ctx context.Context,
	e rollout.Evaluation,
	onFrames, onEpisode func(rollout.Episode) error,
	warn func(error),
) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	var failed error
	handle := func(f func(rollout.Episode) error, ep rollout.Episode) {
		if failed == nil && f != nil {
			failed = f(ep)
		}
		if failed != nil {
			stop()
		}
	}
	done := maps.Clone(e.Have)
	if done == nil {
		done = map[string]rollout.Episode{}
	}
	e.OnFrames = func(ep rollout.Episode) { handle(onFrames, ep) }
	e.OnEpisode = func(ep rollout.Episode) {
		handle(onEpisode, ep)
		ep.Frames, ep.Trajectory = plugins.Tensor{}, nil
		done[ep.ID] = ep
	}
	for len(done) < len(e.Trials) {
		e.Have = maps.Clone(done)
		_, _, err := s.Sched.Evaluate(running, e)
		switch {
		case failed != nil:
			return failed
		case errors.Is(err, rollout.ErrPolicyLost) && ctx.Err() == nil:
			warn(err)
			if _, err := s.CurrentPolicy(ctx); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	return nil
}
