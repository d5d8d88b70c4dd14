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

// tolerance is how far a number from a plugin may lie outside of its range and still be taken for a rounding
// error, which is clipped. It is multiplied by the width of the range where that is above 1.
const tolerance = 1e-6

// inRange reports whether v is in [low, high] up to rounding. NaN is not.
func inRange(v, low, high float32) bool {
	slack := tolerance * max(1, float64(high)-float64(low))
	return float64(v) >= float64(low)-slack && float64(v) <= float64(high)+slack
}

// invalidNumber is the error of a policy's reply that has the right form and contains an unusable number. It
// costs the episode.
func invalidNumber(hint, format string, args ...any) error {
	return plugins.Errorf(plugins.Diverged, format, args...).WithHint("%s", hint)
}

// corrupt is the error of a reply that breaks the contract.
func corrupt(hint, format string, args ...any) error {
	return plugins.Errorf(plugins.Corrupt, format, args...).WithHint("%s", hint)
}

const fixEnv = "a fault in the env plugin; run `srpo plugin test` to see it alone"

// shapes are those of the images of a call, by camera. All lanes must agree.
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
		return corrupt("a camera's size may not change in a run", "%s of camera %q is %v, and was %v before",
			what, camera, shape, first)
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
		return corrupt("leave the start state out, or fix the env",
			"the episode is done before it began (success %v, terminated %v, truncated %v)", t.Success,
			t.Terminated, t.Truncated)
	}
	frames := 0
	if c.render.Record != "" {
		frames = 1
	}
	return c.images(t, frames)
}

// step checks the reply to a chunk of n actions that began after step from.
func (c *replyChecker) step(t env.Transition, from, n int) error {
	switch {
	case t.StepsDone < 1 || t.StepsDone > n:
		return corrupt(fixEnv, "steps_done is %d of a chunk of %d", t.StepsDone, n)
	case t.EpisodeSteps != from+t.StepsDone:
		return corrupt(fixEnv, "episode_steps is %d, want %d+%d", t.EpisodeSteps, from, t.StepsDone)
	case t.StepsDone < n && !t.Done():
		return corrupt(fixEnv, "steps_done is %d of a chunk of %d, but the episode continues", t.StepsDone, n)
	case t.EpisodeSteps > c.maxSteps:
		return corrupt(fixEnv, "episode_steps is %d, beyond max_steps %d", t.EpisodeSteps, c.maxSteps)
	case t.EpisodeSteps == c.maxSteps && !t.Done():
		return corrupt(fixEnv, "the episode continues at max_steps %d", c.maxSteps)
	case t.Success && !t.Terminated:
		return corrupt(fixEnv, "success without terminated")
	}
	if p := t.Progress; p != nil && !(*p >= -tolerance && *p <= 1+tolerance) {
		return corrupt(fixEnv, "progress is %v, want 0 to 1", *p)
	}
	return c.images(t, c.render.Frames(from, t.StepsDone))
}

// images checks everything that was rendered. It does not check the observation of an episode that is done,
// because no policy reads it.
func (c *replyChecker) images(t env.Transition, frames int) error {
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
			return corrupt(fixEnv, "the image of camera %q is missing", c)
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
	// invalid is why there are none: the reply contains an unusable number, and the same request would give it again.
	invalid *plugins.Error
}

func (c chunk) tensor() plugins.Tensor { return plugins.Floats(c.actions, c.n, c.dim) }

// split returns the chunk as it is, or as one chunk per action.
func (c chunk) split(perAction bool) []chunk {
	if !perAction {
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

// checkActions copies a policy's result, and clips what is outside of the action space by rounding only. The error is
// Corrupt for a result that breaks the contract. It is Diverged for unusable numbers, and for log-probabilities whose
// number differs from that of the actions.
func (s *Scheduler) checkActions(r policy.Result, rules Rules) (chunk, error) {
	const fix = "a fault in the policy plugin, or weights that diverged: " +
		"use an earlier checkpoint and a lower learning rate"
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
			return chunk{}, invalidNumber(fix, "actions[%d] %s is %v, want %g to %g",
				i/c.dim, space.Names[d], v, space.Low[d], space.High[d])
		}
		c.actions[i] = min(max(v, space.Low[d]), space.High[d])
	}
	if len(r.LogProbs) == 0 && !rules.Record {
		return c, nil // for example of a greedy policy
	}
	if len(r.LogProbs) != c.n {
		return chunk{}, invalidNumber(fix, "log_probs has %d entries for a chunk of %d", len(r.LogProbs), c.n)
	}
	for i, p := range r.LogProbs {
		if f := float64(p); math.IsNaN(f) || math.IsInf(f, 0) {
			return chunk{}, invalidNumber(fix, "log_probs[%d] is %v", i, p)
		}
	}
	c.logProbs = slices.Clone(r.LogProbs)
	return c, nil
}

// checkExpertAction checks the action that the expert took, or intended, in one step.
func checkExpertAction(action plugins.Tensor, space plugins.ActionSpace) error {
	if err := action.Check("the expert's actions", plugins.Float32, 1, space.Dim()); err != nil {
		return plugins.AsError(err).WithHint("%s", fixEnv)
	}
	for d, v := range action.Float32s() {
		if !inRange(v, space.Low[d], space.High[d]) {
			return corrupt(fixEnv, "the expert's action %s is %v, want %g to %g", space.Names[d], v, space.Low[d],
				space.High[d])
		}
	}
	return nil
}
