package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"iter"
	"sort"

	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// transcript keeps a digest of every reply, by request. A plugin must give the same replies with tensors in shared
// memory and in messages.
type transcript struct {
	order   []string
	replies map[string]reply
}

type reply struct{ call, digest string }

// add adds a reply. Several replies to the same request are numbered.
func (t *transcript) add(call, request, digest string) {
	if t.replies == nil {
		t.replies = map[string]reply{}
	}
	key := call + " " + request
	for n := 1; ; n++ {
		k := fmt.Sprintf("%s #%d", key, n)
		if _, taken := t.replies[k]; !taken {
			t.order = append(t.order, k)
			t.replies[k] = reply{call, digest}
			return
		}
	}
}

// compare returns the number of requests that both transcripts have, and an error for the first reply that differs.
func (t *transcript) compare(other *transcript) (common int, err error) {
	for i, k := range t.order {
		b, ok := other.replies[k]
		if !ok {
			continue
		}
		common++
		if err == nil && t.replies[k].digest != b.digest {
			err = plugins.Errorf(plugins.Corrupt, "call %d, %s, has different replies", i+1, b.call).
				WithHint("copy tensors that you keep after a call, because shared memory is reused")
		}
	}
	return common, err
}

// digest hashes values, and tensors by type, shape and bytes.
type digest struct{ h hash.Hash }

func newDigest() digest { return digest{sha256.New()} }

func (d digest) value(v any) digest { fmt.Fprintf(d.h, "%v\x00", v); return d }
func (d digest) tensor(t plugins.Tensor) digest {
	fmt.Fprintf(d.h, "%v %v\x00", t.DType, t.Shape)
	d.h.Write(t.Data)
	return d
}

func (d digest) observation(o env.Observation) digest {
	names := make([]string, 0, len(o.Images))
	for n := range o.Images {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		d.value(n).tensor(o.Images[n])
	}
	return d.tensor(o.Proprio).value(o.Instruction)
}

func (d digest) err(err error) digest {
	if err == nil {
		return d
	}
	e := plugins.AsError(err)
	return d.value(e.Kind).value(e.Message)
}

func (d digest) String() string { return hex.EncodeToString(d.h.Sum(nil)[:12]) }

// recordingEnv adds the replies of an env to a transcript.
type recordingEnv struct {
	*env.Client
	t *transcript
}

func (h *recordingEnv) Reset(ctx context.Context, r env.Reset) (env.Transition, error) {
	tr, err := h.Client.Reset(ctx, r)
	h.t.add("Reset", newDigest().value(r).String(), transition(tr, err))
	return tr, err
}

func (h *recordingEnv) StepExpert(ctx context.Context, s env.ExpertStep) (env.Transition, error) {
	tr, err := h.Client.StepExpert(ctx, s)
	h.t.add("Step", newDigest().value(s).String(), transition(tr, err))
	return tr, err
}

func (h *recordingEnv) Step(ctx context.Context, s env.Step) (env.Transition, error) {
	request := newDigest().value(s.Lane).value(s.Render).tensor(s.Actions).String()
	tr, err := h.Client.Step(ctx, s)
	h.t.add("Step", request, transition(tr, err))
	return tr, err
}

func transition(tr env.Transition, err error) string {
	d := newDigest().err(err).observation(tr.Observation).tensor(tr.Recorded).tensor(tr.Actions)
	d.value(tr.StepsDone).value(tr.EpisodeSteps).value(tr.Success).value(tr.Terminated).value(tr.Truncated)
	if tr.Progress != nil {
		d.value(*tr.Progress)
	}
	return d.String()
}

// recordingPolicy adds the actions of a policy to a transcript, until the policy is trained, because training on a
// GPU is not always deterministic.
type recordingPolicy struct {
	*policy.Client // of rank 0
	ranks          []policy.Policy
	super          *supervise.Supervisor
	t              *transcript
	trained        bool
}

func (h *recordingPolicy) Configure(ctx context.Context, c plugins.Config) error {
	info, err := h.Info(ctx)
	if err != nil {
		return err
	}
	return h.super.ConfigureRanks(ctx, info, h.ranks, c)
}

func (h *recordingPolicy) Act(ctx context.Context, a policy.Act) ([]policy.Result, error) {
	request := newDigest().value(a.Greedy).value(a.Temperature).value(a.Record)
	for _, it := range a.Items {
		request.value(it.Trajectory).value(it.Step).value(it.Seed).observation(it.Observation)
	}
	key := request.String()
	out, err := h.Client.Act(ctx, a)
	if !h.trained {
		d := newDigest().err(err)
		for _, r := range out {
			d.tensor(r.Actions).value(r.LogProbs)
		}
		h.t.add("Act", key, d.String())
	}
	return out, err
}

func (h *recordingPolicy) Update(ctx context.Context, u policy.Update,
	progress func(float64)) (policy.Statistics, error) {
	h.trained = true
	return h.Client.Update(ctx, u, progress)
}

func (h *recordingPolicy) Imitate(ctx context.Context, im policy.Imitate, demos iter.Seq2[policy.Demonstration, error],
	progress func(done, loss float64)) error {
	h.trained = true
	return h.Client.Imitate(ctx, im, demos, progress)
}

// recordingEncoder adds the vectors of an encoder to a transcript.
type recordingEncoder struct {
	*encoder.Client
	t *transcript
}

func (h *recordingEncoder) Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error) {
	request := newDigest()
	for _, c := range clips {
		request.tensor(c)
	}
	key := request.String()
	out, err := h.Client.Encode(ctx, clips)
	h.t.add("Encode", key, newDigest().err(err).value(out).String())
	return out, err
}

func (h *recordingEncoder) EncodeWindows(ctx context.Context, clip plugins.Tensor, ends []int) ([][]float32, error) {
	key := newDigest().tensor(clip).value(ends).String()
	out, err := h.Client.EncodeWindows(ctx, clip, ends)
	h.t.add("EncodeWindows", key, newDigest().err(err).value(out).String())
	return out, err
}
