package train

import (
	"context"

	"github.com/srpo-dev/srpo/host/embed"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
)

// referenceTries is how often a call for a reference is made that costs a plugin its process. References are
// needed once, perhaps after hours of imitation, and before anything is committed.
const referenceTries = 3

// references embeds what some rewards measure against.
type references struct {
	*run
	// unusable is the last embedding that could not be used; nil: all could.
	unusable *plugins.Error
}

// embedReferences embeds the anchors of the reward "anchored" and the demonstrations of references = "demos". An
// embedding that cannot be used is left out with a warning. It is an error when none is left.
func (r *run) embedReferences(ctx context.Context) error {
	refs := &references{run: r}
	if r.cfg.Reward.Kind == string(srpo.Anchored) {
		if err := refs.embedAnchors(ctx); err != nil {
			return err
		}
	}
	if r.cfg.Reward.References == string(srpo.ReferencesDemos) {
		return refs.embedDemonstrations(ctx)
	}
	return nil
}

// embedAnchors embeds "nothing happened" for every task: its first frame, repeated.
func (r *references) embedAnchors(ctx context.Context) error {
	s := r.session.Sched
	rules := r.session.Rules(true, true)
	r.state.Anchors = map[string][]float64{}
	for _, t := range r.tasks {
		reset := env.Reset{Task: t.ID, Seed: rollout.Seed(r.cfg.Run.Seed, "anchor", t.ID),
			Render: env.Render{Record: rules.RecordCamera, RecordEvery: rules.RecordEvery}}
		tr, err := session.CallWithRetry(ctx, s.Envs[0].Worker, referenceTries, nil,
			func(e env.Env) (env.Transition, error) { return e.Reset(ctx, reset) })
		if err != nil {
			return plugins.AsError(err).WithPlace("%s, task %s", s.EnvName, t.ID)
		}
		if tr.Recorded.IsZero() {
			return plugins.Errorf(plugins.Corrupt, "Reset recorded no frame").
				WithPlace("%s, task %s", s.EnvName, t.ID)
		}
		v, err := r.embed(ctx, "the repeated first frame of "+t.ID, embed.FirstFrameStill(tr.Recorded))
		if err != nil {
			return err
		}
		if v != nil {
			r.state.Anchors[t.ID] = v
		}
	}
	if len(r.state.Anchors) == 0 {
		return r.unusable.WithHint(
			"a fault of the encoder plugin or its input: use another encoder, or a reward without an " +
				"anchor: --set reward.kind=zscore",
		)
	}
	return nil
}

// embedDemonstrations embeds the successful demonstrations of the env's expert.
func (r *references) embedDemonstrations(ctx context.Context) error {
	s := r.session.Sched
	if !s.EnvSpec.Expert {
		return plugins.Errorf(plugins.Invalid,
			"%s has no expert, so there are no demonstrations to use as references", s.EnvName).
			WithPlace("%s", r.cfg.Origin("reward.references")).
			WithHint(`use references = "batch" or "memory"`)
	}
	rules := r.session.Rules(true, true)
	r.state.Demos = map[string][][]float64{}
	n := 0
	for d, err := range r.expertDemonstrations(ctx) {
		if err != nil {
			return err
		}
		task := r.tasks[n/max(1, r.cfg.Imitate.Demos)].ID
		n++
		if !d.Success {
			continue
		}
		v, err := r.embed(ctx, "demonstration "+d.ID, everyNth(d.Images[rules.RecordCamera], rules.RecordEvery))
		if err != nil {
			return err
		}
		if v != nil {
			r.state.Demos[task] = append(r.state.Demos[task], v)
		}
	}
	if len(r.state.Demos) == 0 && r.unusable != nil {
		return r.unusable.WithHint(
			"a fault of the encoder plugin or its input: use another encoder, or other references: " +
				"--set reward.references=batch",
		)
	}
	return nil
}

// everyNth returns every n-th frame of a clip, uint8 [T, H, W, 3], beginning with the first.
func everyNth(frames plugins.Tensor, n int) plugins.Tensor {
	size := len(frames.Data) / frames.Shape[0]
	var data []byte
	count := 0
	for f := 0; f < frames.Shape[0]; f += n {
		data = append(data, frames.Data[f*size:(f+1)*size]...)
		count++
	}
	return plugins.Bytes(data, append([]int{count}, frames.Shape[1:]...)...)
}

// embed returns the embedding of a clip, nil when it cannot be used. what names the clip in messages.
func (r *references) embed(ctx context.Context, what string, clip plugins.Tensor) ([]float64, error) {
	s := r.session.Sched
	rows, err := session.CallWithRetry(ctx, s.Encoder, referenceTries, nil,
		func(e encoder.Encoder) ([][]float32, error) { return e.Encode(ctx, []plugins.Tensor{clip}) })
	if err != nil {
		return nil, err
	}
	if why := srpo.CheckEmbedding(rows[0], s.EncoderSpec.Dimension); why != "" {
		r.unusable = plugins.Errorf(plugins.Corrupt, "the embedding of %s %s", what, why).
			WithPlace("%s", s.EncoderName)
		r.event(store.Event{Type: store.EmbeddingDropped, Message: r.unusable.Error()})
		r.Terminal.Warn("%v; it is left out", r.unusable)
		return nil, nil
	}
	out := make([]float64, len(rows[0]))
	for i, x := range rows[0] {
		out[i] = float64(x)
	}
	return out, nil
}
