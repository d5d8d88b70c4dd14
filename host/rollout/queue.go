package rollout

import (
	"sort"
	"sync"

	"github.com/srpo-dev/srpo/plugins/env"
)

// job is an episode to roll out.
type job struct {
	// episode contains what is known before the episode is rolled out.
	episode Episode
	task    env.Task
	actor   Actor
	// faults counts failures of the episode itself, losses those with its process.
	faults, losses int
}

// queue gives out jobs in the order of their ids. It gives out none while too many bytes of finished episodes wait.
type queue struct {
	mu      sync.Mutex
	change  *sync.Cond
	jobs    []*job // in order
	closed  bool
	waiting int // bytes
	limit   int // of waiting; 0: none
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
	// All lanes are woken, because a single one might have a dead process.
	q.change.Broadcast()
}

func (q *queue) ready() bool { return len(q.jobs) > 0 && (q.limit == 0 || q.waiting < q.limit) }

// wait returns true when there is a job, and false when there will never be one again.
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

// hold adds to the bytes that wait, release subtracts from them.
func (q *queue) hold(bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting += bytes
	q.change.Broadcast()
}

func (q *queue) release(bytes int) { q.hold(-bytes) }

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.change.Broadcast()
}
