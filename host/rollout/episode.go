package rollout

import (
	"time"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// attempt rolls out an episode once. It is the same for every actor.
type attempt struct {
	*lane
	env        env.Env
	job        *job
	actor      actor
	render     env.Render
	maxSteps   int
	replies    replyChecker
	trajectory *trajectory // nil: not kept
	recorded   [][]byte    // recorded frames, a piece per call
	episode    Episode
	acted      bool // the policy may have recorded something
}

func newAttempt(l *lane, client env.Env, j *job) *attempt {
	x := l.exec
	a := &attempt{
		lane: l, env: client, job: j, episode: j.episode,
		render: x.rules.render(), maxSteps: x.rules.maxSteps(j.task),
	}
	a.replies = replyChecker{spec: x.s.EnvSpec, render: a.render, maxSteps: a.maxSteps, shapes: &x.shapes}
	a.actor = newActor(j.actor, x.s.EnvSpec.Action, j.episode.Seed)
	if x.rules.KeepTrajectory {
		a.trajectory = newTrajectory(j.episode.ID, a.render.Observe)
	}
	return a
}

// run rolls out the episode from Reset to its end. Its errors are the env's and say which call failed; an error
// of the policy ends the whole call.
func (a *attempt) run() error {
	e := &a.episode
	t, err := a.reset()
	if err != nil {
		return err
	}
	if !a.job.actor.Policy {
		e.recordProgress(t.Progress)
	}
	for gaveUp := false; !t.Done() && !gaveUp; {
		chunk, err := a.actor.next(a, t.Observation)
		if err != nil {
			return err
		}
		if e.Invalid != nil {
			a.recorded, e.FrameCount = nil, 0
			return nil
		}
		for _, m := range chunk {
			if t, gaveUp, err = a.step(m, t.Observation); err != nil {
				return err
			}
			if t.Done() || gaveUp {
				break
			}
		}
		e.recordProgress(t.Progress) // at the chunk's end, even when its actions are executed one by one
	}
	e.Success, e.Terminated, e.Truncated = t.Success, t.Terminated, t.Truncated
	e.Trajectory = a.trajectory.demonstration(t.Success)
	a.joinFrames()
	return nil
}

func (a *attempt) reset() (env.Transition, error) {
	x, e := a.exec, &a.episode
	began := time.Now()
	t, err := a.env.Reset(x.envCtx, env.Reset{
		Lane: a.number, Task: e.Task, StartState: e.StartState, Seed: e.Seed,
		MaxSteps: x.rules.MaxSteps, Render: a.render,
	})
	x.envTime.Add(int64(time.Since(began)))
	if err == nil {
		err = a.replies.reset(t)
	}
	if err != nil {
		return t, plugins.AsError(err).WithPlace("Reset")
	}
	a.keepFrames(t)
	return t, nil
}

// move is one call of Step: actions, or steps of the expert.
type move struct {
	step     env.Step        // used if expert is nil
	expert   *env.ExpertStep // steps of the expert
	n        int             // steps
	logProbs []float32       // n, or none
}

// step executes a move. An expert that gives up stops before its last step and leaves the episode open: this ends the
// episode as a failure, and is no fault of the env.
func (a *attempt) step(m move, before env.Observation) (t env.Transition, gaveUp bool, err error) {
	x, e := a.exec, &a.episode
	a.trajectory.observe(before)
	began := time.Now()
	if m.expert != nil {
		m.expert.Lane, m.expert.Render = a.number, a.render
		t, err = env.StepExpert(x.envCtx, a.env, *m.expert)
	} else {
		m.step.Lane, m.step.Render = a.number, a.render
		t, err = a.env.Step(x.envCtx, m.step)
	}
	x.envTime.Add(int64(time.Since(began)))
	n := m.n
	if err == nil && m.expert != nil && !t.Done() && t.StepsDone >= 0 && t.StepsDone < n {
		gaveUp, n = true, t.StepsDone
	}
	if err == nil && n > 0 {
		err = a.checkStep(m, t, n)
	}
	if err != nil {
		return t, false, plugins.AsError(err).WithPlace("Step %d", e.Steps)
	}
	e.Steps += t.StepsDone
	for _, p := range m.logProbs[:min(t.StepsDone, len(m.logProbs))] {
		e.LogProb += float64(p)
	}
	if n > 0 {
		a.keepFrames(t)
	}
	return t, gaveUp, nil
}

// checkStep checks the reply to n steps, and adds the action to the trajectory, which is kept with one step per call.
func (a *attempt) checkStep(m move, t env.Transition, n int) error {
	if err := a.replies.step(t, a.episode.Steps, n); err != nil || a.trajectory == nil {
		return err
	}
	action := m.step.Actions
	if m.expert != nil {
		space := a.exec.s.EnvSpec.Action
		action = t.Actions
		if err := checkExpertAction(action, space); err != nil {
			return err
		}
		if a.exec.rules.keepIntended && !t.Intended.IsZero() {
			action = t.Intended
			if err := checkExpertAction(action, space); err != nil {
				return err
			}
		}
	}
	a.trajectory.act(action)
	return nil
}

// keepFrames copies the recorded frames, which alias shared memory until the lane's next call.
func (a *attempt) keepFrames(t env.Transition) {
	if !t.Recorded.IsZero() && len(t.Recorded.Data) > 0 {
		a.recorded = append(a.recorded, append([]byte(nil), t.Recorded.Data...))
		a.episode.FrameCount += t.Recorded.Shape[0]
	}
}

// joinFrames makes the recorded frames one tensor, with no spare capacity.
func (a *attempt) joinFrames() {
	if a.episode.FrameCount == 0 {
		return
	}
	size := 0
	for _, r := range a.recorded {
		size += len(r)
	}
	data := make([]byte, 0, size)
	for i, r := range a.recorded {
		data = append(data, r...)
		a.recorded[i] = nil
	}
	a.episode.Frames = plugins.Bytes(data, append([]int{a.episode.FrameCount}, a.replies.frame...)...)
}
