package train

import (
	"bytes"
	"context"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
)

// references embeds what some rewards measure against: "nothing happened" for anchored, demonstrations for references = "demos". A vector that cannot be used is left
// out, with a word; where none is left, the run has nothing to measure against and ends.
func (r *run) references(ctx context.Context) error {
	s := r.session
	var unusable *plugins.Error
	embed := func(what string, clip plugins.Tensor) ([]float64, error) {
		v, err := patient(ctx, s.Sched.Encoder, func(enc encoder.Encoder) ([][]float32, error) { return enc.Encode(ctx, []plugins.Tensor{clip}) })
		if err != nil {
			return nil, err
		}
		if why := srpo.CheckEmbedding(v[0], s.Sched.EncoderSpec.Dimension); why != "" {
			unusable = plugins.Errorf(plugins.Corrupt, "the vector of %s %s", what, why).WithPlace("%s", s.Sched.EncoderName)
			r.event(store.Event{Type: store.Dropped, Message: unusable.Error()})
			r.Terminal.Warn("%v; it is left out", unusable)
			return nil, nil
		}
		out := make([]float64, len(v[0]))
		for i, x := range v[0] {
			out[i] = float64(x)
		}
		return out, nil
	}
	rules := s.Rules(true, true)
	if r.cfg.Reward.Kind == string(srpo.Anchored) {
		r.state.Anchors = map[string][]float64{}
		for _, t := range r.tasks {
			first := env.Reset{Task: t.ID, Seed: rollout.Seed(r.cfg.Run.Seed, "anchor", t.ID), Render: env.Render{Record: rules.RecordCamera, RecordEvery: rules.RecordEvery}}
			tr, err := patient(ctx, s.Sched.Envs[0].Worker, func(e env.Env) (env.Transition, error) { return e.Reset(ctx, first) })
			if err != nil {
				return plugins.AsError(err).WithPlace("%s, task %s", s.Sched.EnvName, t.ID)
			}
			if tr.Recorded.IsZero() {
				return plugins.Errorf(plugins.Corrupt, "Reset recorded no frame").WithPlace("%s, task %s", s.Sched.EnvName, t.ID)
			}
			// held still; encoders sample frames, so that 16 of them stand for any number
			clip := plugins.Bytes(bytes.Repeat(tr.Recorded.Data, 16), append([]int{16}, tr.Recorded.Shape[1:]...)...)
			v, err := embed("the first frame of "+t.ID+", held still,", clip)
			if err != nil {
				return err
			}
			if v != nil {
				r.state.Anchors[t.ID] = v
			}
		}
		if len(r.state.Anchors) == 0 {
			return unusable.WithHint("a fault in the encoder plugin, or of its input: another encoder, or a reward without an anchor: --set reward.kind=zscore")
		}
	}
	if r.cfg.Reward.References == string(srpo.ReferencesDemos) {
		if !s.Sched.EnvSpec.Expert {
			return plugins.Errorf(plugins.Invalid, "%s has no expert, so there are no demonstrations to refer to", s.Sched.EnvName).
				WithPlace("%s", r.cfg.Origin("reward.references")).WithHint(`use references = "batch" or "memory"`)
		}
		r.state.Demos = map[string][][]float64{}
		demos := r.demonstrations(ctx)
		k := 0
		for d, err := range demos {
			if err != nil {
				return err
			}
			task := r.tasks[k/max(1, r.cfg.Imitate.Demos)].ID
			k++
			if !d.Success {
				continue
			}
			frames := d.Images[rules.RecordCamera]
			size := len(frames.Data) / frames.Shape[0]
			var clip []byte
			n := 0
			for f := 0; f < frames.Shape[0]; f += rules.RecordEvery {
				clip = append(clip, frames.Data[f*size:(f+1)*size]...)
				n++
			}
			v, err := embed("demonstration "+d.ID, plugins.Bytes(clip, append([]int{n}, frames.Shape[1:]...)...))
			if err != nil {
				return err
			}
			if v != nil {
				r.state.Demos[task] = append(r.state.Demos[task], v)
			}
		}
		if len(r.state.Demos) == 0 && unusable != nil {
			return unusable.WithHint("a fault in the encoder plugin, or of its input: another encoder, or other references: --set reward.references=batch")
		}
	}
	return nil
}

// patient calls a plugin, and again where the call cost it its process: what a run is measured against is asked for once, after hours of imitation perhaps, and before
// anything is committed.
func patient[T, R any](ctx context.Context, w rollout.Worker[T], call func(T) (R, error)) (out R, err error) {
	for range 3 {
		var client T
		if client, _, err = w.Client(ctx); err != nil {
			return out, err // it does not come back
		}
		if out, err = call(client); err == nil || ctx.Err() != nil || !rollout.Replaces(err) {
			return out, err
		}
	}
	return out, err
}
