package rollout

import (
	"fmt"
	"sync"

	"github.com/srpo-dev/srpo/plugins"
)

// lane rolls out one episode after the other, at its own pace.
type lane struct {
	exec            *execution
	proc            *EnvProc
	process, number int
}

func (l *lane) run() {
	x := l.exec
	defer x.lanes.Done()
	for x.queue.wait() {
		// The process comes first, then the job: while this process restarts, another lane can take the job.
		client, incarnation, err := l.proc.Worker.Client(x.lanesCtx)
		if x.lanesCtx.Err() != nil {
			return
		}
		if err != nil {
			l.giveUp(err)
			return
		}
		j := x.queue.take()
		if j == nil {
			continue
		}
		a := newAttempt(l, client, j)
		err = a.run()
		// The contexts do not end at the same moment. A call that was canceled is not a fault of the process.
		if x.lanesCtx.Err() != nil || x.envCtx.Err() != nil {
			return
		}
		if err != nil {
			l.retry(a, incarnation, err)
			continue
		}
		x.failures[l.process].clear(incarnation)
		if !l.handOver(a) {
			return
		}
	}
}

// handOver gives a finished episode to collect. It returns false when the call is over.
func (l *lane) handOver(a *attempt) bool {
	x, e := l.exec, &a.episode
	if e.Invalid != nil && x.rules.Record && !x.policy.forget(x.ctx, e.ID) {
		return false
	}
	x.queue.hold(e.bytes()) // released by collect
	select {
	case x.rolled <- e:
		return true
	case <-x.ctx.Done():
		return false
	}
}

func (l *lane) place() string {
	return fmt.Sprintf("%s, process %d, lane %d", l.exec.s.EnvName, l.process, l.number)
}

// giveUp ends a lane whose process will not come back. The other lanes roll out its episodes; the last lane
// ends the call.
func (l *lane) giveUp(err error) {
	x := l.exec
	if x.alive.Add(-1) == 0 {
		x.fail(plugins.AsError(err).WithPlace("%s", l.place()))
		return
	}
	x.survived("", l.place(), err)
}

const (
	// maxFaults bounds how often an episode is rolled out again after a fault of its own (an error, a deadline
	// or a bad reply to one of its calls), and how often a clip is encoded again.
	maxFaults = 3
	// maxLosses bounds how often an episode is rolled out again because its process was gone, which another lane's
	// episode may have caused.
	maxLosses = 10
)

// retry puts an episode back into the queue, to be rolled out again from its seed. It ends the call when the
// episode's retries are spent.
func (l *lane) retry(a *attempt, incarnation uint64, err error) {
	x, j := l.exec, a.job
	replace := Replaces(err)
	if !replace && suspicious(err) {
		// Lanes of one process share its state, so two failures in a row on a process of several lanes prove
		// little. There the second failure of the same episode counts instead.
		twoInARow := x.failures[l.process].repeats(incarnation, j.episode.ID)
		replace = twoInARow && l.proc.Lanes == 1 || j.faults == 1
	}
	if replace {
		l.proc.Worker.Failed(incarnation, err)
	}
	if plugins.KindOf(err) == plugins.Unavailable {
		j.losses++
	} else {
		j.faults++
	}
	if j.faults > maxFaults || j.losses > maxLosses {
		x.fail(retriesSpent(l.place(), j.episode.ID, j.faults, j.losses, err))
		return
	}
	x.survived(j.episode.ID, l.place(), err)
	x.lostSteps.Add(int64(a.episode.Steps))
	if a.acted && x.rules.Record && !x.policy.forget(x.ctx, j.episode.ID) {
		return
	}
	j.episode.Retries++
	x.queue.put(j)
}

// Replaces reports whether a failed call means that the process must be replaced.
func Replaces(err error) bool {
	switch plugins.KindOf(err) {
	case plugins.Unavailable, plugins.Deadline, plugins.Corrupt:
		return true
	}
	return false
}

// suspicious reports whether an error that repeats is more likely caused by the process than by the episode: a dead
// worker of the plugin, or memory that it does not get back. The next attempt then gets a new process.
func suspicious(err error) bool {
	switch plugins.KindOf(err) {
	case plugins.Internal, plugins.Exhausted, plugins.Unspecified:
		return true
	}
	return false
}

// lastFailure is the last attempt in a process, if it failed with a suspicious error. Without it a broken process
// could stay for long: where another lane is idle, that lane takes the episode that failed here, and this process
// fails the next one.
type lastFailure struct {
	mu          sync.Mutex
	incarnation uint64
	episode     string // empty: the last attempt succeeded
}

// repeats reports whether the last attempt in this incarnation failed too, with another episode, and stores this one.
func (f *lastFailure) repeats(incarnation uint64, episode string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	repeated := f.episode != "" && f.episode != episode && f.incarnation == incarnation
	f.incarnation, f.episode = incarnation, episode
	return repeated
}

// clear is called after an attempt in this incarnation that succeeded.
func (f *lastFailure) clear(incarnation uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.incarnation == incarnation {
		f.episode = ""
	}
}
