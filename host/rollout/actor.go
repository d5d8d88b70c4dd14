package rollout

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Actor names who acts in an episode. The zero value is the env's scripted expert.
type Actor struct {
	// Policy is the policy; Greedy takes its most likely actions instead of sampling.
	Policy, Greedy bool
	// Random draws actions uniformly from the action space and repeats each for 1 to 12 steps.
	Random bool
	// Noise is the standard deviation of Gaussian noise on each of the expert's actions, in action units.
	Noise float32
	// Failure is the way in which the expert fails on purpose, one of EnvSpec.ExpertFailures; empty: it does
	// its best.
	Failure string
}

const actorHint = "expert, noise:SIGMA, fail:WAY, fail:WAY+noise:SIGMA, random, policy or policy:greedy"

// ParseActor parses "expert", "noise:SIGMA", "fail:WAY", "fail:WAY+noise:SIGMA", "random", "policy" and
// "policy:greedy".
func ParseActor(text string) (Actor, error) {
	switch text {
	case "expert":
		return Actor{}, nil
	case "random":
		return Actor{Random: true}, nil
	case "policy", "policy:greedy":
		return Actor{Policy: true, Greedy: text != "policy"}, nil
	}
	invalid := func(format string, args ...any) (Actor, error) {
		return Actor{}, plugins.Errorf(plugins.Invalid, format, args...).WithHint("%s", actorHint)
	}
	var a Actor
	rest := text
	if way, failing := strings.CutPrefix(rest, "fail:"); failing {
		a.Failure, rest, _ = strings.Cut(way, "+")
		if a.Failure == "" {
			return invalid("%q names no way to fail", text)
		}
		if rest == "" && !strings.HasSuffix(text, "+") {
			return a, nil
		}
	}
	sigma, noisy := strings.CutPrefix(rest, "noise:")
	if !noisy {
		return invalid("unknown actor %q", text)
	}
	v, err := strconv.ParseFloat(sigma, 32)
	if err != nil || !(v > 0 && v <= math.MaxFloat32) {
		return Actor{}, plugins.Errorf(plugins.Invalid, "%q is not a valid noise", text).
			WithHint("give the standard deviation of the noise on the expert's actions, in action units: noise:0.5")
	}
	a.Noise = float32(v)
	return a, nil
}

// String returns the text that ParseActor parses.
func (a Actor) String() string {
	noise := "noise:" + strconv.FormatFloat(float64(a.Noise), 'g', -1, 32)
	switch {
	case a.Greedy:
		return "policy:greedy"
	case a.Policy:
		return "policy"
	case a.Random:
		return "random"
	case a.Failure != "" && a.Noise > 0:
		return "fail:" + a.Failure + "+" + noise
	case a.Failure != "":
		return "fail:" + a.Failure
	case a.Noise > 0:
		return noise
	}
	return "expert"
}

// actor acts in one episode.
type actor interface {
	// next returns the moves that execute the next chunk of actions after an observation. Where it sets
	// Episode.Invalid, there are none. An error means that the call is over.
	next(a *attempt, o env.Observation) ([]move, error)
}

func newActor(a Actor, space plugins.ActionSpace, seed uint64) actor {
	switch {
	case a.Policy:
		return policyActor{}
	case a.Random:
		return &randomActor{space: space, rng: rand.New(rand.NewPCG(seed, Seed(seed, "random actions")))}
	}
	return expertActor{noise: a.Noise, failure: a.Failure}
}

// policyActor asks the policy, and executes its chunk in one call, or one action per call when a trajectory is kept.
type policyActor struct{}

func (policyActor) next(a *attempt, o env.Observation) ([]move, error) {
	x, e := a.exec, &a.episode
	item := policy.Item{
		Trajectory: e.ID, Step: e.Steps, Seed: Seed(e.Seed, "act", e.Steps),
		Observation: withCameras(o, x.rules.Observe),
	}
	a.acted = true
	began := time.Now()
	c, ok := x.policy.act(x.lanesCtx, item)
	x.waitTime.Add(int64(time.Since(began)))
	if !ok {
		return nil, x.lanesCtx.Err()
	}
	if c.invalid != nil {
		e.Invalid = c.invalid
		return nil, nil
	}
	var moves []move
	for _, c := range c.split(a.trajectory != nil) {
		moves = append(moves, move{step: env.Step{Actions: c.tensor()}, n: c.n, logProbs: c.logProbs})
	}
	return moves, nil
}

// stepsPerCall is the number of steps that one call executes when the expert acts, or random actions. It is 1 when a
// trajectory is kept, so that every step is observed.
const stepsPerCall = 8

func (a *attempt) stepsPerCall() int {
	if a.trajectory != nil {
		return 1
	}
	return min(stepsPerCall, a.maxSteps-a.episode.Steps)
}

// expertActor lets the env's scripted expert act.
type expertActor struct {
	noise   float32
	failure string
}

func (x expertActor) next(a *attempt, _ env.Observation) ([]move, error) {
	n := a.stepsPerCall()
	return []move{{expert: &env.ExpertStep{Steps: n, Noise: x.noise, Failure: x.failure}, n: n}}, nil
}

// randomActor draws uniform actions.
type randomActor struct {
	space  plugins.ActionSpace
	rng    *rand.Rand
	action []byte // the current one, and how many steps it is repeated for
	left   int
}

// maxRepeats bounds for how many steps a random action is repeated, so that the arm moves away from where it starts.
const maxRepeats = 12

func (x *randomActor) next(a *attempt, _ env.Observation) ([]move, error) {
	n := a.stepsPerCall()
	return []move{{step: env.Step{Actions: x.actions(n)}, n: n}}, nil
}

// actions returns the next n actions, float32 [n, action dim].
func (x *randomActor) actions(n int) plugins.Tensor {
	var out []byte
	for range n {
		if x.left == 0 {
			x.left = 1 + x.rng.IntN(maxRepeats)
			x.action = x.action[:0]
			for i, low := range x.space.Low {
				v := low + (x.space.High[i]-low)*x.rng.Float32()
				x.action = binary.LittleEndian.AppendUint32(x.action, math.Float32bits(min(v, x.space.High[i])))
			}
		}
		x.left--
		out = append(out, x.action...)
	}
	return plugins.Tensor{DType: plugins.Float32, Shape: []int{n, x.space.Dim()}, Data: out}
}
