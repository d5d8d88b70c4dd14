package rollout

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// tolerance is how far a number from a plugin may lie outside of its range, times the width of the range where that is above 1, before it is an error and
// not rounding; within it, it is clipped.
const tolerance = 1e-6

// inRange says whether v is in [low, high], but for rounding; NaN never is.
func inRange(v, low, high float32) bool {
	slack := tolerance * max(1, float64(high)-float64(low))
	return float64(v) >= float64(low)-slack && float64(v) <= float64(high)+slack
}

// unusable is a number of a policy's that is of the right kind and no good; it costs the episode.
func unusable(hint, format string, args ...any) error {
	return plugins.Errorf(plugins.Diverged, format, args...).WithHint("%s", hint)
}

func corrupt(hint, format string, args ...any) error {
	return plugins.Errorf(plugins.Corrupt, format, args...).WithHint("%s", hint)
}

const fixEnv = "a fault in the env plugin; `srpo plugin test` shows it alone"

// shapes holds the shapes of the images of a call, by camera: all lanes must agree.
type shapes struct {
	mu   sync.Mutex
	seen map[string][]int
}

func (s *shapes) check(what, camera string, shape []int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string][]int{}
	}
	first, ok := s.seen[what+camera]
	if !ok {
		s.seen[what+camera] = slices.Clone(shape)
		return nil
	}
	if !slices.Equal(first, shape) {
		return corrupt("a camera's size may not change in a run", "%s of camera %q is %v, it was %v before", what, camera, shape, first)
	}
	return nil
}

// replyChecker checks an env's replies in one episode.
type replyChecker struct {
	spec     plugins.EnvSpec
	render   env.Render
	maxSteps int
	shapes   *shapes
	frame    []int // shape of a recorded frame, [H, W, 3]
}

func (c *replyChecker) reset(t env.Transition) error {
	switch {
	case t.StepsDone != 0 || t.EpisodeSteps != 0:
		return corrupt(fixEnv, "steps_done is %d and episode_steps %d, want 0 and 0", t.StepsDone, t.EpisodeSteps)
	case t.Success || t.Done():
		return corrupt("leave the start state out, or fix the env", "the episode is done before it began (success %v, terminated %v, truncated %v)", t.Success, t.Terminated, t.Truncated)
	}
	frames := 0
	if c.render.Record != "" {
		frames = 1
	}
	return c.seen(t, frames)
}

// step checks the reply to a chunk of n actions that began after from steps.
func (c *replyChecker) step(t env.Transition, from, n int) error {
	switch {
	case t.StepsDone < 1 || t.StepsDone > n:
		return corrupt(fixEnv, "steps_done is %d of a chunk of %d", t.StepsDone, n)
	case t.EpisodeSteps != from+t.StepsDone:
		return corrupt(fixEnv, "episode_steps is %d, want %d+%d", t.EpisodeSteps, from, t.StepsDone)
	case t.StepsDone < n && !t.Done():
		return corrupt(fixEnv, "steps_done is %d of a chunk of %d, but the episode goes on", t.StepsDone, n)
	case t.EpisodeSteps > c.maxSteps:
		return corrupt(fixEnv, "episode_steps is %d, beyond max_steps %d", t.EpisodeSteps, c.maxSteps)
	case t.EpisodeSteps == c.maxSteps && !t.Done():
		return corrupt(fixEnv, "the episode goes on at max_steps %d", c.maxSteps)
	case t.Success && !t.Terminated:
		return corrupt(fixEnv, "success without terminated")
	}
	if p := t.Progress; p != nil && !(*p >= -tolerance && *p <= 1+tolerance) {
		return corrupt(fixEnv, "progress is %v, want 0 to 1", *p)
	}
	return c.seen(t, c.render.Frames(from, t.StepsDone))
}

// seen checks everything that was rendered. The policy needs no observation of an episode that is done, so none is asked for then.
func (c *replyChecker) seen(t env.Transition, frames int) error {
	if !t.Done() {
		if err := checkObservation(t.Observation, c.render.Observe, c.spec, c.shapes); err != nil {
			return err
		}
	}
	if frames == 0 {
		if len(t.Recorded.Data) > 0 {
			return corrupt(fixEnv, "recorded frames %v, want none", t.Recorded.Shape)
		}
		return nil
	}
	if err := t.Recorded.Check("recorded", plugins.Uint8, frames, -1, -1, 3); err != nil {
		return plugins.AsError(err).WithHint("%s", fixEnv)
	}
	if len(t.Recorded.Data) == 0 {
		return corrupt(fixEnv, "recorded frames are empty: %v", t.Recorded.Shape)
	}
	c.frame = slices.Clone(t.Recorded.Shape[1:])
	return c.shapes.check("the recording", c.render.Record, c.frame)
}

func checkObservation(o env.Observation, cameras []string, spec plugins.EnvSpec, s *shapes) error {
	for _, c := range cameras {
		image, ok := o.Images[c]
		if !ok {
			return corrupt(fixEnv, "no image of camera %q, which was asked for", c)
		}
		if err := image.Check("image of camera "+c, plugins.Uint8, -1, -1, 3); err != nil {
			return plugins.AsError(err).WithHint("%s", fixEnv)
		}
		if len(image.Data) == 0 {
			return corrupt(fixEnv, "image of camera %q is empty: %v", c, image.Shape)
		}
		if err := s.check("image", c, image.Shape); err != nil {
			return err
		}
	}
	if len(spec.Proprio) == 0 && o.Proprio.IsZero() {
		return nil
	}
	if err := o.Proprio.Check("proprio", plugins.Float32, len(spec.Proprio)); err != nil {
		return plugins.AsError(err).WithHint("%s", fixEnv)
	}
	if i := notFinite(o.Proprio.Data); i >= 0 {
		return corrupt(fixEnv, "proprio %q is not finite", spec.Proprio[i])
	}
	return nil
}

// notFinite returns the index of the first float32 that is NaN or infinite, or -1.
func notFinite(data []byte) int {
	for i := 0; i+4 <= len(data); i += 4 {
		if binary.LittleEndian.Uint32(data[i:])&0x7f800000 == 0x7f800000 {
			return i / 4
		}
	}
	return -1
}

// chunk is a checked reply of the policy.
type chunk struct {
	actions  []float32 // n x dim, within the action space
	n, dim   int
	logProbs []float32 // n, or none
	// invalid says why there are none: what the policy said cannot be used, and it would say the same again.
	invalid *plugins.Error
}

func (c chunk) tensor() plugins.Tensor { return plugins.Floats(c.actions, c.n, c.dim) }

// parts are the calls that execute the chunk: one, or one an action.
func (c chunk) parts(single bool) []chunk {
	if !single {
		return []chunk{c}
	}
	out := make([]chunk, c.n)
	for i := range out {
		out[i] = chunk{actions: c.actions[i*c.dim : (i+1)*c.dim], n: 1, dim: c.dim}
		if c.logProbs != nil {
			out[i].logProbs = c.logProbs[i : i+1]
		}
	}
	return out
}

// checkActions copies a policy's result, clipping what is outside of the action space by rounding only. The error is Corrupt for a result that breaks the
// contract, and Diverged for numbers that cannot be used, log-probabilities of another count than the actions' among them.
func (s *Scheduler) checkActions(r policy.Result, rules Rules) (chunk, error) {
	const fix = "a fault in the policy plugin, or weights that diverged: an earlier checkpoint, and a lower learning rate"
	space := s.EnvSpec.Action
	n := -1
	if s.PolicySpec.Chunk > 0 {
		n = s.PolicySpec.Chunk
	}
	if err := r.Actions.Check("actions", plugins.Float32, n, space.Dim()); err != nil {
		return chunk{}, plugins.AsError(err).WithHint("%s", fix)
	}
	c := chunk{actions: r.Actions.Float32s(), n: r.Actions.Shape[0], dim: space.Dim()}
	if c.n == 0 {
		return chunk{}, corrupt(fix, "actions is an empty chunk")
	}
	for i, v := range c.actions {
		d := i % c.dim
		if !inRange(v, space.Low[d], space.High[d]) {
			return chunk{}, unusable(fix, "actions[%d] %s is %v, want %g to %g", i/c.dim, space.Names[d], v, space.Low[d], space.High[d])
		}
		c.actions[i] = min(max(v, space.Low[d]), space.High[d])
	}
	if len(r.LogProbs) == 0 && !rules.Record {
		return c, nil // e.g. a greedy policy
	}
	if len(r.LogProbs) != c.n {
		return chunk{}, unusable(fix, "log_probs has %d entries for a chunk of %d", len(r.LogProbs), c.n)
	}
	for i, p := range r.LogProbs {
		if f := float64(p); math.IsNaN(f) || math.IsInf(f, 0) {
			return chunk{}, unusable(fix, "log_probs[%d] is %v", i, p)
		}
	}
	c.logProbs = slices.Clone(r.LogProbs)
	return c, nil
}

// smallestNormal is the smallest float32 of full precision. An encoder whose every number lies below it has said as little as one that says zero.
const smallestNormal = 0x1p-126

// CheckEmbedding returns why a vector cannot be used, empty when it can (algorithm.md 1.4: NaN, infinite, all zero, wrong size; a vector of subnormal numbers alone
// counts as zero).
func CheckEmbedding(v []float32, dimension int) string {
	if len(v) != dimension {
		return "has the wrong size"
	}
	zero, subnormal := true, true
	for _, x := range v {
		f := math.Abs(float64(x))
		switch {
		case math.IsNaN(f):
			return "holds NaN"
		case math.IsInf(f, 0):
			return "holds an infinity"
		}
		zero, subnormal = zero && f == 0, subnormal && f < smallestNormal
	}
	switch {
	case zero:
		return "is all zero"
	case subnormal:
		return "is as good as zero: every number of it is subnormal"
	}
	return ""
}
