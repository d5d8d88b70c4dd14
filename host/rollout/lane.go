package rollout

import (
	"fmt"
	"time"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// lane rolls one episode after the other, at its own pace.
type lane struct {
	roll            *roll
	proc            *EnvProc
	process, number int
}

func (l *lane) run() {
	r := l.roll
	defer r.lanes.Done()
	for r.queue.wait() {
		// The process first, the job then: while this one is being restarted, another lane takes the job.
		client, incarnation, err := l.proc.Worker.Client(r.lanesCtx)
		if r.lanesCtx.Err() != nil {
			return
		}
		if err != nil {
			l.giveUp(err)
			return
		}
		j := r.queue.take()
		if j == nil {
			continue
		}
		a := attempt{lane: l, env: client, job: j, episode: j.episode}
		err = a.run()
		switch {
		case r.lanesCtx.Err() != nil:
			return
		case err == nil:
			r.doubts[l.process].cleared(incarnation)
			if a.episode.Invalid != nil && r.rules.Record && !r.policy.forget(r.ctx, j.episode.ID) {
				return // stopped
			}
			r.queue.hold(a.episode.bytes()) // released by collect
			select {
			case r.rolled <- &a.episode:
			case <-r.ctx.Done():
				return
			}
		default:
			l.again(&a, incarnation, err)
		}
	}
}

func (l *lane) place() string {
	return fmt.Sprintf("%s, process %d, lane %d", l.roll.s.EnvName, l.process, l.number)
}

// giveUp ends a lane whose process will not come back; the others go on with its episodes.
func (l *lane) giveUp(err error) {
	r := l.roll
	if r.alive.Add(-1) == 0 {
		r.fail(plugins.AsError(err).WithPlace("%s", l.place()))
		return
	}
	r.survived("", l.place(), err)
}

// again puts an episode back to be rolled from its seed, or ends the call when that has been tried too often.
func (l *lane) again(a *attempt, incarnation uint64, err error) {
	r, j := l.roll, a.job
	// The other lanes of a process would meet its state too, and take the episode: then it is the episode's second time.
	alone := l.proc.Lanes == 1
	if Replaces(err) || suspicious(err) && (r.doubts[l.process].another(incarnation, j.episode.ID) && alone || j.faults == 1) {
		l.proc.Worker.Failed(incarnation, err)
	}
	if plugins.KindOf(err) == plugins.Unavailable {
		j.losses++ // perhaps another lane's fault
	} else {
		j.faults++
	}
	if j.faults > r.s.Retries || j.losses > r.s.Losses {
		r.fail(gaveUp(l.place(), j.episode.ID, j.faults, j.losses, err))
		return
	}
	r.survived(j.episode.ID, l.place(), err)
	r.lostSteps.Add(int64(a.episode.Steps))
	if a.acted && r.rules.Record && !r.policy.forget(r.ctx, j.episode.ID) {
		return // stopped
	}
	j.episode.Retries++
	r.queue.put(j)
}

// attempt rolls an episode once.
type attempt struct {
	*lane
	env     env.Env
	job     *job
	episode Episode
	acted   bool // the policy may have recorded something
	replies replyChecker
	clip    [][]byte // recorded frames, a piece for each call
	actions []float32
}

// run rolls the episode from Reset to its end. Errors are the env's, already with what it was doing; the policy's end the whole call.
func (a *attempt) run() error {
	r, e := a.roll, &a.episode
	render := r.rules.render()
	a.replies = replyChecker{spec: r.s.EnvSpec, render: render, maxSteps: r.rules.maxSteps(a.job.task), shapes: &r.shapes}

	began := time.Now()
	t, err := a.env.Reset(r.envCtx, env.Reset{Lane: a.number, Task: e.Task, StartState: e.StartState, Seed: e.Seed, MaxSteps: r.rules.MaxSteps, Render: render})
	r.envTime.Add(int64(time.Since(began)))
	if err == nil {
		err = a.replies.reset(t)
	}
	if err != nil {
		return plugins.AsError(err).WithPlace("Reset")
	}
	a.keep(t)
	var whole *trajectory
	if r.rules.KeepTrajectory {
		whole = newTrajectory(e.ID, render.Observe)
	}
	for !t.Done() {
		began = time.Now()
		a.acted = true
		seen := visible(t.Observation, r.rules.Observe)
		chunk, ok := r.policy.act(r.lanesCtx, policy.Item{Trajectory: e.ID, Step: e.Steps, Observation: seen, Seed: Seed(e.Seed, "act", e.Steps)})
		r.waitTime.Add(int64(time.Since(began)))
		if !ok {
			return r.lanesCtx.Err()
		}
		if e.Invalid = chunk.invalid; e.Invalid != nil {
			a.clip, e.FrameCount = nil, 0
			return nil
		}

		for _, part := range chunk.parts(whole != nil) {
			whole.see(t.Observation)
			began = time.Now()
			t, err = a.env.Step(r.envCtx, env.Step{Lane: a.number, Actions: part.tensor(), Render: render})
			r.envTime.Add(int64(time.Since(began)))
			if err == nil {
				err = a.replies.step(t, e.Steps, part.n)
			}
			if err != nil {
				return plugins.AsError(err).WithPlace("Step %d", e.Steps)
			}
			if whole != nil {
				whole.do(part.tensor())
			}
			e.Steps += t.StepsDone
			for _, p := range part.logProbs[:min(t.StepsDone, len(part.logProbs))] {
				e.LogProb += float64(p)
			}
			if r.rules.KeepActions {
				a.actions = append(a.actions, part.actions[:t.StepsDone*part.dim]...)
			}
			a.keep(t)
			if t.Done() {
				break
			}
		}
		e.came(t.Progress) // where the chunk ends, whether it was executed at once or not
	}
	e.Trajectory = whole.end(t.Success)
	e.Success, e.Terminated, e.Truncated = t.Success, t.Terminated, t.Truncated
	if r.rules.KeepActions {
		e.Actions = plugins.Floats(a.actions, e.Steps, r.s.EnvSpec.Action.Dim())
	}
	a.assemble()
	return nil
}

// keep copies the recorded frames, which alias shared memory until the lane's next call.
func (a *attempt) keep(t env.Transition) {
	if !t.Recorded.IsZero() && len(t.Recorded.Data) > 0 {
		a.clip = append(a.clip, append([]byte(nil), t.Recorded.Data...))
		a.episode.FrameCount += t.Recorded.Shape[0]
	}
}

// assemble joins the recorded frames into one clip of exactly their size.
func (a *attempt) assemble() {
	if a.episode.FrameCount == 0 {
		return
	}
	size := 0
	for _, c := range a.clip {
		size += len(c)
	}
	data := make([]byte, 0, size)
	for i, c := range a.clip {
		data = append(data, c...)
		a.clip[i] = nil
	}
	a.episode.Frames = plugins.Bytes(data, append([]int{a.episode.FrameCount}, a.replies.frame...)...)
}
