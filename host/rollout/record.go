package rollout

import (
	"context"
	"errors"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Take is an episode to record.
type Take struct {
	Trial
	Actor
}

// ID is "<actor>/<task>/<start state>/<repeat>".
func (t Take) ID() string { return t.Trial.id(t.Actor.String()) }

// RecordPlan lists what [Scheduler.Record] records.
type RecordPlan struct {
	Takes []Take
	Seed  uint64
	// Every k-th step of an episode is recorded, after the first frame.
	Every int
	// MaxSteps replaces the tasks' own when > 0, in env steps.
	MaxSteps int
	// Observe names cameras to observe before every action; with any, episodes have an [Episode].Trajectory.
	Observe []string
}

// Record rolls out each take once, on all lanes, and passes the episodes with their frames to keep, in the order of
// completion and never concurrently. An episode depends on Seed and its take only. Faults are survived, and errors
// returned, as by [Scheduler.Run]; an error of keep ends the recording too. A policy's episodes are recorded by
// [Scheduler.Evaluate].
func (s *Scheduler) Record(ctx context.Context, p RecordPlan, keep func(Take, Episode) error) error {
	s = s.withDefaults()
	if s.EnvSpec.RecordCamera == "" {
		return plugins.Errorf(plugins.Mismatch, "the env names no camera to record").WithPlace("%s", s.EnvName).
			WithHint("use an env with a third-person camera")
	}
	if p.Every < 1 {
		return plugins.Errorf(plugins.Invalid, "the recording interval is %d", p.Every).
			WithHint("set it to 1 or more env steps")
	}
	rules := Rules{
		Observe: p.Observe, KeepTrajectory: len(p.Observe) > 0, MaxSteps: p.MaxSteps,
		RecordCamera: s.EnvSpec.RecordCamera, RecordEvery: p.Every,
	}
	jobs := make([]*job, len(p.Takes))
	for i, t := range p.Takes {
		seed := Seed(p.Seed, "record", t.Actor.String(), t.Task.ID, t.StartState, t.Repeat)
		jobs[i] = t.job(i, t.ID(), t.Actor, seed)
	}
	return s.record(ctx, rules, jobs, func(e *Episode) error { return keep(p.Takes[e.Index], *e) })
}

// record rolls out jobs without a policy, and passes each episode to keep.
func (s *Scheduler) record(ctx context.Context, rules Rules, jobs []*job, keep func(*Episode) error) error {
	if err := s.checkEnv(); err != nil {
		return err
	}
	for _, j := range jobs {
		if err := s.checkRecording(j, rules); err != nil {
			return err
		}
	}
	x, err := s.start(ctx, rules, false)
	if err != nil {
		return err
	}
	x.add(jobs)
	err = x.collect(len(jobs), handlers{complete: keep})
	_, err = x.end(err)
	return err
}

func (s *Scheduler) checkRecording(j *job, rules Rules) error {
	a := j.actor
	if a.Policy {
		return plugins.Errorf(plugins.Internal, "a policy's episode is recorded by Evaluate").
			WithPlace("%s", j.episode.ID)
	}
	if !a.Random && !s.EnvSpec.Expert {
		return plugins.Errorf(plugins.Unsupported, "the env has no scripted expert").WithPlace("%s", s.EnvName).
			WithHint("record the actor random, or use recorded demonstrations or a trained policy")
	}
	if a.Failure != "" && !slices.Contains(s.EnvSpec.ExpertFailures, a.Failure) {
		e := plugins.Errorf(plugins.Unsupported, "the env's expert cannot fail by %q", a.Failure).
			WithPlace("%s", s.EnvName)
		if len(s.EnvSpec.ExpertFailures) == 0 {
			return e.WithHint("it has no ways to fail on purpose; use noise:SIGMA to make it fail")
		}
		return e.WithHint("use one of %s", strings.Join(s.EnvSpec.ExpertFailures, ", "))
	}
	if err := checkTask(j.task, rules); err != nil {
		return err
	}
	return checkState(j.task, j.episode.StartState)
}

// DemoPlan lists the demonstrations that the env's scripted expert gives.
type DemoPlan struct {
	// Trials to demonstrate, in order.
	Trials []Trial
	Seed   uint64
	// Noise is the standard deviation of Gaussian noise on each of the expert's actions, in action units. The
	// demonstration then contains the action that the expert intended in each state that the noise leads to,
	// and so shows how to recover (DART, arXiv 1703.09327).
	Noise float32
	// Observe names the cameras of the demonstrations.
	Observe []string
	// MaxSteps replaces the tasks' own when > 0, in env steps.
	MaxSteps int
}

// errEnough ends a sequence of demonstrations that the caller no longer reads.
var errEnough = errors.New("no more demonstrations are read")

// Demonstrations yields recordings of the expert, one per trial in the order of the plan, named
// "demo/<task>/<start state>/<repeat>". Failed ones are included; Demonstration.Success is then false, and one
// without an action has actions of shape [0, action dim]. The next one is rolled out when the previous one is
// no longer in use, so that only one is in memory. An error ends the sequence. A demonstration depends on Seed,
// Noise and its trial only.
func (s *Scheduler) Demonstrations(ctx context.Context, p DemoPlan) iter.Seq2[policy.Demonstration, error] {
	return func(yield func(policy.Demonstration, error) bool) {
		if !(p.Noise >= 0) || math.IsInf(float64(p.Noise), 0) {
			yield(policy.Demonstration{}, plugins.Errorf(plugins.Invalid, "the expert's noise is %v", p.Noise).
				WithHint("set it to 0 or more, in action units"))
			return
		}
		jobs := make([]*job, len(p.Trials))
		for i, t := range p.Trials {
			seed := Seed(p.Seed, "demonstration", t.Task.ID, t.StartState, t.Repeat)
			jobs[i] = t.job(i, t.id("demo"), Actor{Noise: p.Noise}, seed)
		}
		rules := Rules{Observe: p.Observe, KeepTrajectory: true, keepIntended: true, MaxSteps: p.MaxSteps}
		err := s.oneLane().record(ctx, rules, jobs, func(e *Episode) error {
			d := e.Trajectory
			if d == nil {
				none := plugins.Tensor{DType: plugins.Float32, Shape: []int{0, s.EnvSpec.Action.Dim()}}
				d = &policy.Demonstration{ID: e.ID, Images: map[string]plugins.Tensor{}, Actions: none}
			}
			if !yield(*d, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(policy.Demonstration{}, err)
		}
	}
}

// oneLane returns a scheduler of the first process's first lane, which begins an episode only when the previous
// one has been kept.
func (s *Scheduler) oneLane() *Scheduler {
	c := *s
	if len(s.Envs) > 0 {
		c.Envs = []*EnvProc{{Worker: s.Envs[0].Worker, Lanes: 1}}
	}
	c.Progress, c.maxWaiting = nil, 1
	return c.withDefaults()
}
