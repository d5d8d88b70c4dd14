package plugins

import "math"

// ActionSpace describes the numbers of an action.
type ActionSpace struct {
	// Names, Low and High have one entry per dimension. Low and High are inclusive bounds.
	Names     []string
	Low, High []float32
	// Meaning states in words what the numbers are, e.g. "OSC_POSE end-effector delta, gripper -1 open +1 close".
	// Env and policy use the same words.
	Meaning string
	// RateHz is the number of actions per second.
	RateHz float64
}

// roundingSlack is how far a value may lie outside its range. It allows for rounding when a policy scales its
// actions.
const roundingSlack = 1e-6

// Dim returns the number of dimensions.
func (a ActionSpace) Dim() int { return len(a.Names) }

// Check returns an error of kind [Corrupt] if no policy could use the space: no dimensions, bounds of another
// length, or a low bound that is not below its high bound.
func (a ActionSpace) Check() error {
	if a.Dim() == 0 || len(a.Low) != a.Dim() || len(a.High) != a.Dim() {
		return Errorf(Corrupt, "action space has %d names, %d lows and %d highs", len(a.Names), len(a.Low),
			len(a.High)).
			WithHint("Describe must return one name, low and high per dimension")
	}
	for i := range a.Names {
		if !(a.Low[i] < a.High[i]) {
			return Errorf(Corrupt, "action dimension %q has low %g, high %g", a.Names[i], a.Low[i], a.High[i]).
				WithHint("low must be below high, and both finite")
		}
	}
	return nil
}

// Fits returns nil if a policy that emits actions of space p can drive an env with space a, and an error of kind
// [Mismatch] otherwise. A policy space without names fits every env.
func (a ActionSpace) Fits(p ActionSpace) error {
	const hint = "use a policy that was trained for this env"
	if len(p.Names) == 0 {
		return nil
	}
	if a.Dim() != p.Dim() {
		return Errorf(Mismatch, "the env takes %d action dimensions %v, the policy emits %d %v",
			a.Dim(), a.Names, p.Dim(), p.Names).WithHint(hint)
	}
	for i := range a.Names {
		if a.Names[i] != p.Names[i] || a.Low[i] != p.Low[i] || a.High[i] != p.High[i] {
			return Errorf(Mismatch,
				"action dimension %d: the env takes %s in [%g, %g], the policy emits %s in [%g, %g]", i, a.Names[i],
				a.Low[i], a.High[i], p.Names[i], p.Low[i], p.High[i]).WithHint(hint)
		}
	}
	if a.Meaning != p.Meaning && a.Meaning != "" && p.Meaning != "" {
		return Errorf(Mismatch, "the env's actions mean %q, the policy's %q", a.Meaning, p.Meaning).WithHint(hint)
	}
	return nil
}

// Clip returns the numbers of a chunk of actions, a tensor of float32 [n, Dim], clipped to their ranges. It
// returns an error of kind [Invalid] for a chunk that no env may execute: another type or shape, no action, a
// number that is not finite, or a number outside its range by more than 1e-6.
func (a ActionSpace) Clip(chunk Tensor) ([]float32, error) {
	if chunk.DType != Float32 || len(chunk.Shape) != 2 || chunk.Shape[1] != a.Dim() || chunk.Shape[0] < 1 {
		return nil, Errorf(Invalid, "actions are %v %v, want float32 [n, %d] with n >= 1", chunk.DType, chunk.Shape,
			a.Dim()).
			WithHint("the dimensions are %v", a.Names)
	}
	v := chunk.Float32s()
	if len(v) != chunk.Shape[0]*a.Dim() {
		return nil, Errorf(Invalid, "actions of shape %v have %d numbers", chunk.Shape, len(v))
	}
	for i, x := range v {
		d := i % a.Dim()
		if math.IsNaN(float64(x)) || x < a.Low[d]-roundingSlack || x > a.High[d]+roundingSlack {
			return nil, Errorf(Invalid, "action %d: %q is %v, its range is [%g, %g]", i/a.Dim(), a.Names[d], x,
				a.Low[d], a.High[d]).
				WithHint("clip the policy's actions to the env's range")
		}
		v[i] = min(max(x, a.Low[d]), a.High[d])
	}
	return v, nil
}
