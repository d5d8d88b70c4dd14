package rollout

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

const (
	// recordChunk is how many steps a call executes while an episode is recorded.
	recordChunk = 8
	// longestHold bounds for how many steps a random action is held, so that the arm gets somewhere.
	longestHold = 12
)

// Actor acts in recordings.
type Actor struct {
	// Policy samples from the policy, or takes its most likely actions when it is Greedy; [Scheduler.Evaluate] rolls such takes.
	Policy, Greedy bool
	// Random draws actions evenly from the action space and holds each for 1 to 12 steps; otherwise the env's scripted expert acts.
	Random bool
	// Noise is the std of Gaussian noise on each of the expert's actions, in action units.
	Noise float32
	// Failure is the way in which the expert fails on purpose, one of EnvSpec.ExpertFailures; empty: it does its best.
	Failure string
}

const actorHint = "expert, noise:SIGMA, fail:WAY, fail:WAY+noise:SIGMA, random, policy or policy:greedy"

// ParseActor reads "expert", "noise:SIGMA", "fail:WAY", "fail:WAY+noise:SIGMA", "random", "policy" or "policy:greedy".
func ParseActor(text string) (Actor, error) {
	switch text {
	case "expert":
		return Actor{}, nil
	case "random":
		return Actor{Random: true}, nil
	case "policy", "policy:greedy":
		return Actor{Policy: true, Greedy: text != "policy"}, nil
	}
	var a Actor
	rest := text
	if way, failing := strings.CutPrefix(rest, "fail:"); failing {
		a.Failure, rest, _ = strings.Cut(way, "+")
		if a.Failure == "" {
			return Actor{}, plugins.Errorf(plugins.Invalid, "%q names no way to fail", text).WithHint("%s", actorHint)
		}
		if rest == "" && !strings.HasSuffix(text, "+") {
			return a, nil
		}
	}
	sigma, noisy := strings.CutPrefix(rest, "noise:")
	if !noisy {
		return Actor{}, plugins.Errorf(plugins.Invalid, "there is no actor %q", text).WithHint("%s", actorHint)
	}
	v, err := strconv.ParseFloat(sigma, 32)
	if err != nil || !(v > 0 && v <= math.MaxFloat32) {
		return Actor{}, plugins.Errorf(plugins.Invalid, "%q is no noise", text).WithHint("the std of Gaussian noise on the expert's actions, in action units: noise:0.5")
	}
	a.Noise = float32(v)
	return a, nil
}

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

// Take is an episode to be recorded.
type Take struct {
	Trial
	Actor
}

// ID is "<actor>/<task>/<start state>/<repeat>".
func (t Take) ID() string {
	return fmt.Sprintf("%s/%s/%d/%d", t.Actor, t.Task.ID, t.StartState, t.Repeat)
}

// RecordPlan says what [Scheduler.Record] is to record.
type RecordPlan struct {
	Takes []Take
	Seed  uint64
	// Every k-th step of an episode is recorded, the first frame before any.
	Every int
	// MaxSteps replaces the tasks' own when > 0, in env steps.
	MaxSteps int
	// Observe names cameras to observe before every action; with any, episodes come with their [Episode].Trajectory.
	Observe []string
}

// Record rolls each take once, on all lanes, and hands the episodes to keep, with their frames, in the order of completion and never twice at a time. An
// episode depends on Seed and its take only. An error of keep, or an episode whose retries are spent, ends it.
func (s *Scheduler) Record(ctx context.Context, p RecordPlan, keep func(Take, Episode) error) error {
	s = s.withDefaults()
	if err := s.checkRecording(p); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	takes := make(chan Take)
	var wait sync.WaitGroup
	var mu sync.Mutex
	seen := &shapes{}
	for process, proc := range s.Envs {
		for lane := range proc.Lanes {
			r := recorder{Scheduler: s, plan: p, worker: proc.Worker, lane: lane, place: fmt.Sprintf("%s, process %d, lane %d", s.EnvName, process+1, lane), seen: seen}
			wait.Go(func() {
				for t := range takes {
					e, err := r.take(ctx, t)
					if err == nil {
						mu.Lock()
						err = keep(t, e)
						mu.Unlock()
					}
					if err != nil {
						stop(err)
						return
					}
				}
			})
		}
	}
feed:
	for _, t := range p.Takes {
		select {
		case takes <- t:
		case <-ctx.Done():
			break feed
		}
	}
	close(takes)
	wait.Wait()
	if ctx.Err() == nil {
		return nil
	}
	var e *plugins.Error
	if errors.As(context.Cause(ctx), &e) {
		return e
	}
	return stopped(ctx)
}

func (s *Scheduler) checkRecording(p RecordPlan) error {
	if s.EnvSpec.RecordCamera == "" {
		return plugins.Errorf(plugins.Mismatch, "the env names no camera to record").WithPlace("%s", s.EnvName).WithHint("use an env with a third-person camera")
	}
	if p.Every < 1 {
		return plugins.Errorf(plugins.Invalid, "every %d-th step", p.Every).WithHint("1 or more")
	}
	if err := s.EnvSpec.Action.Check(); err != nil {
		return err
	}
	for _, t := range p.Takes {
		if t.Policy {
			return plugins.Errorf(plugins.Internal, "a policy's takes are evaluations").WithPlace("%s", t.ID())
		}
		if !t.Random && !s.EnvSpec.Expert {
			return plugins.Errorf(plugins.Unsupported, "the env has no scripted expert").WithPlace("%s", s.EnvName).WithHint("record the actor random")
		}
		if t.Failure != "" && !slices.Contains(s.EnvSpec.ExpertFailures, t.Failure) {
			e := plugins.Errorf(plugins.Unsupported, "the env's expert cannot fail by %q", t.Failure).WithPlace("%s", s.EnvName)
			if len(s.EnvSpec.ExpertFailures) == 0 {
				return e.WithHint("it always does its best; noise:SIGMA makes it fail")
			}
			return e.WithHint("one of %s", strings.Join(s.EnvSpec.ExpertFailures, ", "))
		}
		if err := checkTask(t.Task, Rules{MaxSteps: p.MaxSteps}); err != nil {
			return err
		}
		if err := checkState(t.Task, t.StartState); err != nil {
			return err
		}
	}
	return nil
}

// recorder records on one lane.
type recorder struct {
	*Scheduler
	plan   RecordPlan
	worker Worker[env.Env]
	lane   int
	place  string
	seen   *shapes
}

// take records one episode, with retries.
func (r *recorder) take(ctx context.Context, t Take) (Episode, error) {
	for attempts := 1; ; attempts++ {
		client, incarnation, err := r.worker.Client(ctx)
		if ctx.Err() != nil {
			return Episode{}, stopped(ctx)
		}
		if err != nil {
			return Episode{}, plugins.AsError(err).WithPlace("%s", r.place)
		}
		e, err := r.roll(ctx, client, t)
		switch {
		case err == nil:
			e.Retries = attempts - 1
			return e, nil
		case ctx.Err() != nil:
			return Episode{}, stopped(ctx)
		case Replaces(err) || attempts == 2 && suspicious(err):
			r.worker.Failed(incarnation, err)
		}
		if attempts > r.Retries {
			return Episode{}, gaveUp(r.place, t.ID(), attempts, 0, err)
		}
		r.OnFault(Fault{Episode: t.ID(), Place: r.place, Err: err})
	}
}

func (r *recorder) roll(ctx context.Context, client env.Env, take Take) (Episode, error) {
	render := env.Render{Record: r.EnvSpec.RecordCamera, RecordEvery: r.plan.Every, Observe: r.plan.Observe}
	maxSteps := Rules{MaxSteps: r.plan.MaxSteps}.maxSteps(take.Task)
	replies := replyChecker{spec: r.EnvSpec, render: render, maxSteps: maxSteps, shapes: r.seen}
	e := Episode{ID: take.ID(), Task: take.Task.ID, StartState: take.StartState, Seed: Seed(r.plan.Seed, "record", take.Actor.String(), take.Task.ID, take.StartState, take.Repeat)}
	t, err := client.Reset(ctx, env.Reset{Lane: r.lane, Task: e.Task, StartState: e.StartState, Seed: e.Seed, MaxSteps: r.plan.MaxSteps, Render: render})
	if err == nil {
		err = replies.reset(t)
	}
	if err != nil {
		return e, plugins.AsError(err).WithPlace("Reset")
	}
	dice := dice{space: r.EnvSpec.Action, rng: rand.New(rand.NewPCG(e.Seed, Seed(e.Seed, "random actions")))}
	var frames []byte
	gaveUp, most := false, recordChunk
	var whole *trajectory
	if len(r.plan.Observe) > 0 {
		whole, most = newTrajectory(e.ID, r.plan.Observe), 1
	}
	for {
		frames = append(frames, t.Recorded.Data...)
		e.FrameCount += frameCount(t.Recorded)
		e.came(t.Progress)
		if t.Done() || gaveUp {
			break
		}
		n := min(most, maxSteps-e.Steps)
		whole.see(t.Observation)
		step := env.Step{Lane: r.lane, Expert: n, ExpertNoise: take.Noise, ExpertFailure: take.Failure, Render: render}
		if take.Random {
			step.Expert, step.Actions = 0, dice.actions(n)
		}
		t, err = client.Step(ctx, step)
		// An expert that gives up leaves the episode open, and here that is its end: a failure like any other.
		gaveUp = err == nil && step.Expert > 0 && t.StepsDone < n && !t.Done()
		if gaveUp {
			n = t.StepsDone
		}
		if err == nil && n > 0 {
			err = replies.step(t, e.Steps, n)
		}
		if err != nil {
			return e, plugins.AsError(err).WithPlace("Step %d", e.Steps)
		}
		if whole != nil && n > 0 {
			done := t.Actions
			if take.Random {
				done = step.Actions
			} else if err := checkExecuted(done, r.EnvSpec.Action); err != nil {
				return e, plugins.AsError(err).WithPlace("Step %d", e.Steps)
			}
			whole.do(done)
		}
		e.Steps += t.StepsDone
	}
	e.Trajectory = whole.end(t.Success)
	e.Success, e.Terminated, e.Truncated = t.Success, t.Terminated, t.Truncated
	e.Frames = plugins.Bytes(frames, append([]int{e.FrameCount}, replies.frame...)...)
	return e, nil
}

// dice draws random actions.
type dice struct {
	space plugins.ActionSpace
	rng   *rand.Rand
	now   []byte
	left  int
}

// actions gives the next n actions, float32 [n, action dim].
func (d *dice) actions(n int) plugins.Tensor {
	var out []byte
	for range n {
		if d.left == 0 {
			d.left = 1 + d.rng.IntN(longestHold)
			d.now = d.now[:0]
			for i, low := range d.space.Low {
				v := low + (d.space.High[i]-low)*d.rng.Float32()
				d.now = binary.LittleEndian.AppendUint32(d.now, math.Float32bits(min(v, d.space.High[i])))
			}
		}
		d.left--
		out = append(out, d.now...)
	}
	return plugins.Tensor{DType: plugins.Float32, Shape: []int{n, d.space.Dim()}, Data: out}
}

func frameCount(recorded plugins.Tensor) int {
	if recorded.IsZero() {
		return 0
	}
	return recorded.Shape[0]
}
