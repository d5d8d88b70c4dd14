package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
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
		if err := checkpointThere(r.cfg); err != nil {
			return err
		}
	}
	if s.published != "" {
		r.Terminal.Line("starting policy: the published checkpoint %s", s.published)
	} else if folder := r.cfg.Run.Checkpoint; folder != "" {
		if folder, err = filepath.Abs(folder); err != nil {
			return err
		}
		p, _, err := s.Sched.Policy.Client(ctx)
		if err != nil {
			return err
		}
		saved, damaged, err := givenPolicy(folder)
		if err != nil {
			return plugins.AsError(err).WithPlace("%s", r.cfg.Origin("run.checkpoint"))
		}
		for _, d := range damaged {
			r.Terminal.Warn("%s", damagedWords(d))
			r.event(store.ErrorEvent(store.Warning, 0, d))
		}
		// Another run's moments and KL reference are none of this run's; its checkpoint 0 is then what it is resumed from.
		if state.UpdateID, err = policy.LoadFresh(ctx, p, saved); err != nil {
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

// givenPolicy finds the policy's own folder that a folder means: of a run the one in its newest good checkpoint, newer ones that are damaged come back; of a
// checkpoint its own; any other folder is meant itself. Files of checkpoints are compared with their checksums, so that nobody trains on, or measures, weights that
// are no longer those that were committed.
func givenPolicy(folder string) (policy string, damaged []error, err error) {
	c, damaged, err := store.Latest(folder)
	if err == nil {
		return c.PolicyDir(), damaged, nil
	}
	if run, ok := RunOf(folder); len(damaged) > 0 || ok && filepath.Clean(run) == filepath.Clean(folder) {
		return "", nil, err // it is a run: damaged, or without a checkpoint
	}
	checkpoint, inside := folder, ""
	if abs, err := filepath.Abs(folder); err == nil && filepath.Base(abs) == "policy" {
		if _, err := os.Stat(filepath.Join(filepath.Dir(abs), "MANIFEST")); err == nil {
			checkpoint, inside = filepath.Dir(abs), folder
		}
	}
	if _, err := os.Stat(filepath.Join(checkpoint, "MANIFEST")); err != nil {
		return folder, nil, nil
	}
	if c, err = store.OpenCheckpoint(checkpoint); err != nil {
		return "", nil, err
	}
	if inside != "" {
		return inside, nil, nil
	}
	return c.PolicyDir(), nil, nil
}

// damagedWords says that a newer checkpoint was left out.
func damagedWords(err error) string { return fmt.Sprintf("%v; the checkpoint before it is used", err) }

// PolicyFolder returns the policy's own folder inside a checkpoint or a run folder; any other folder, and one that is damaged, is returned as it is.
func PolicyFolder(folder string) string {
	if policy, _, err := givenPolicy(folder); err == nil {
		return policy
	}
	return folder
}

// imitate makes the policy by supervised learning on the env's expert.
func (r *run) imitate(ctx context.Context) error {
	s, c := r.session, r.cfg.Imitate
	if !s.Sched.PolicySpec.CanImitate {
		return plugins.Errorf(plugins.Invalid, "%s cannot learn from demonstrations, and no checkpoint is given", s.Sched.PolicyName).WithHint("give a trained policy: --checkpoint FOLDER")
	}
	if !s.Sched.EnvSpec.Expert && c.Data == "" {
		return plugins.Errorf(plugins.Invalid, "%s has no expert to demonstrate, and no checkpoint is given", s.Sched.EnvName).
			WithHint("give a trained policy, --checkpoint FOLDER, or recorded demonstrations, --data FOLDER, or start from fresh weights: --set imitate.demos=0")
	}
	client, _, err := s.Sched.Policy.Client(ctx)
	if err != nil {
		return err
	}
	im, ok := client.(policy.Imitator)
	if !ok {
		return plugins.Errorf(plugins.Unsupported, "%s cannot learn from demonstrations", s.Sched.PolicyName).WithHint("give a trained policy: --checkpoint FOLDER")
	}
	source, whose, total := r.demonstrations(ctx), "the env's expert", len(r.tasks)*c.Demos
	if c.Data == "" {
		r.Terminal.Line("no checkpoint given: imitating %s a task of the env's expert first", count(c.Demos, "demonstration"))
	} else {
		set, picked, err := r.openData(ctx, c.Data, r.cfg.Origin("imitate.data"))
		if err != nil {
			return err
		}
		defer set.Close()
		if picked, err = r.successes(set, picked); err != nil {
			return err
		}
		source, whose, total = r.recorded(ctx, set, picked, nil), c.Data, len(picked)
		r.Terminal.Line("imitating %s of %s (%s)", count(len(picked), "episode"), c.Data, set.Form())
	}
	start := time.Now()
	r.status = report.Status{Iterations: r.cfg.Run.Iterations, Phase: "imitate"}
	steps, seen, failed, idle := 0, 0, 0, 0
	demos := func(yield func(policy.Demonstration, error) bool) {
		for d, err := range source {
			if err == nil && !d.Success {
				// an expert that fails has nothing to teach
				seen++
				failed++
				if d.Actions.Shape[0] == 0 {
					idle++
				}
				continue
			}
			if err == nil {
				seen++
				r.began = true
				steps += d.Actions.Shape[0]
				// Of many tasks, as of a benchmark's variants, this takes longer than the learning.
				r.Terminal.Update(report.Status{Iterations: r.cfg.Run.Iterations, Phase: "demonstrate", Done: seen, Total: total, EnvSteps: int64(steps), Successes: seen - failed, Episodes: seen})
			}
			if !yield(d, err) {
				return
			}
		}
		switch {
		case steps == 0 && failed > 0 && idle == failed:
			in, tasks := "all "+count(failed, "demonstration"), "any of the tasks, such as "+r.tasks[0].ID
			if failed == 1 {
				in, tasks = "the only demonstration", r.tasks[0].ID
			}
			e := plugins.Errorf(plugins.Invalid, "%s gave up before its first action in %s: it does not know %s", whose, in, tasks).WithPlace("%s", s.Sched.EnvName)
			yield(policy.Demonstration{}, e.WithHint("choose tasks that it knows, --task PATTERN (`srpo plugin list %s` says what there is), or give a trained policy, --checkpoint FOLDER, or recorded demonstrations, --data FOLDER",
				r.cfg.Run.Env))
		case steps == 0:
			yield(policy.Demonstration{}, plugins.Errorf(plugins.Invalid, "%s failed in all %d demonstrations", whose, failed).
				WithHint("other start states (another seed), or less noise: --set imitate.noise=0"))
		}
	}
	var last float64
	r.state.UpdateID++
	err = im.Imitate(ctx, policy.Imitate{ID: r.state.UpdateID, Seed: rollout.Seed(r.cfg.Run.Seed, "imitate"), Steps: c.Steps}, demos, func(done, loss float64) {
		last = loss
		r.status.Done, r.status.Total = int(1000*done), 1000
		r.Terminal.Update(r.status)
	})
	if err != nil {
		return err
	}
	if err := finiteLoss(last, s.Sched.PolicyName); err != nil {
		return err
	}
	if failed > 0 {
		r.Terminal.Warn("%s failed in %d demonstrations, which were left out", whose, failed)
	}
	if c.Data == "" {
		r.state.EnvSteps += int64(steps)
	}
	took := time.Since(start).Seconds()
	r.event(store.Event{Type: store.Imitated, Message: fmt.Sprintf("%d steps of demonstrations, last loss %.4g", steps, last),
		Data: map[string]any{"demo_steps": steps, "loss": last, "failed": failed, "seconds": took}})
	r.Terminal.Line("imitated %d steps of demonstrations in %.1f s, last loss %.4g", steps, took, last)
	return nil
}

// demonstrations yields the expert's episodes for every task.
func (r *run) demonstrations(ctx context.Context) func(yield func(policy.Demonstration, error) bool) {
	s := r.session
	cameras := s.observe
	if cam := s.Sched.EnvSpec.RecordCamera; cam != "" && !slices.Contains(cameras, cam) {
		cameras = append([]string{cam}, cameras...)
	}
	return s.Sched.Demonstrations(ctx, s.demoPlan(r.tasks, cameras))
}

// demoPlan is [imitate] demos demonstrations of each task, seen through some cameras.
func (s *Session) demoPlan(tasks []env.Task, cameras []string) rollout.DemoPlan {
	c := s.cfg
	plan := rollout.DemoPlan{Seed: c.Run.Seed, Noise: float32(c.Imitate.Noise), Observe: cameras, MaxSteps: c.Rollout.MaxSteps}
	for _, t := range tasks {
		states := s.states(t, c.Rollout.StartStates)
		for k := range c.Imitate.Demos {
			// spread over the start states, each once before any is used twice
			n := t.StartStates
			if states != nil {
				n = len(states)
			}
			at := (int(rollout.Seed(c.Run.Seed, "demonstration", t.ID)%uint64(n)) + k) % n
			if states != nil {
				at = states[at]
			}
			plan.Trials = append(plan.Trials, rollout.Trial{Task: t, StartState: at, Repeat: k / n})
		}
	}
	return plan
}

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
	rules := s.rules(true, true)
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
