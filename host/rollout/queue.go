package rollout

import (
	"sort"
	"sync"

	"github.com/srpo-dev/srpo/plugins/env"
)

// job is an episode to roll.
type job struct {
	// episode holds what is known before it is rolled.
	episode Episode
	task    env.Task
	// faults of its own, and losses with a process, so far.
	faults, losses int
}

// queue gives out jobs in the order of their ids. It also holds lanes back while too many frames wait to be encoded.
type queue struct {
	mu     sync.Mutex
	change *sync.Cond
	jobs   []*job // in order
	closed bool
	held   int // bytes of frames that wait to be encoded
	limit  int // 0: none
}

func newQueue(limit int) *queue {
	q := &queue{limit: limit}
	q.change = sync.NewCond(&q.mu)
	return q
}

func (q *queue) put(jobs ...*job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range jobs {
		i := sort.Search(len(q.jobs), func(i int) bool { return j.episode.before(&q.jobs[i].episode) })
		q.jobs = append(q.jobs, nil)
		copy(q.jobs[i+1:], q.jobs[i:])
		q.jobs[i] = j
	}
	// All are woken: one that sleeps may have a dead process, and must not be the only one to know.
	q.change.Broadcast()
}

func (q *queue) ready() bool { return len(q.jobs) > 0 && (q.limit == 0 || q.held <= q.limit) }

// wait returns true when there is a job, and false when there never will be one again.
func (q *queue) wait() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && !q.ready() {
		q.change.Wait()
	}
	return !q.closed
}

// take returns the first job, or nil when another lane was faster.
func (q *queue) take() *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || !q.ready() {
		return nil
	}
	j := q.jobs[0]
	q.jobs = q.jobs[1:]
	return j
}

// hold adds to the bytes that wait to be encoded; a negative number releases.
func (q *queue) hold(bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held += bytes
	q.change.Broadcast()
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.change.Broadcast()
}
