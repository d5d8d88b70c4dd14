package supervise

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// longLife is how long a process must live for the back-off to begin anew.
const longLife = time.Minute

// Worker is one plugin that is kept alive.
type Worker[T any] interface {
	// Client returns the live, configured plugin and its incarnation, which grows with every restart. It starts or restarts the plugin where needed,
	// within the restart budget and with back-off; when the budget is spent it gives an error with the plugin's last words.
	Client(ctx context.Context) (client T, incarnation uint64, err error)
	// Failed says that a call failed in a way that the process must be replaced. Only the first word on an incarnation counts. Clients from a [Proc] say
	// so themselves for dead processes, passed deadlines and corrupt replies.
	Failed(incarnation uint64, cause error)
}

// ProcessWorker is a [Worker] whose plugin is a process.
type ProcessWorker[T any] struct {
	s         *Supervisor
	launch    Launch
	ranks     int // processes that the plugin is; calls go to the first
	dial      func(g guard) T
	configure func(ctx context.Context, ranks []T) error
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc

	mu       sync.Mutex
	proc     *Process
	client   T
	inc      uint64
	ready    bool // proc is configured, and nobody said that it failed
	since    time.Time
	starting chan struct{}
	started  bool // it was ready at least once
	final    error
	cause    error       // why the last incarnation ended
	restarts []time.Time // those that count against the budget
	streak   int         // restarts since the last long life
}

var _ Worker[env.Env] = (*ProcessWorker[env.Env])(nil)

// NewEnv keeps an env alive. configure is called for every incarnation before anybody gets it; nil: nothing is done. Nothing is started yet.
func NewEnv(s *Supervisor, l Launch, configure func(context.Context, env.Env) error) *ProcessWorker[env.Env] {
	return newProc(s, l, 1, func(g guard) env.Env {
		c := env.NewClient(g.proc.Conn(), g.proc.Arena())
		g.account = func(ctx context.Context) (account, error) {
			h, err := c.Health(ctx)
			return account{h.Busy, h.SinceProgress}, err
		}
		return &guardedEnv{g, c}
	}, alone(configure))
}

// NewPolicy keeps a policy alive that is so many processes, at least 1, which live and die together; configure gets one client for each, by rank, and see
// [Supervisor.ConfigureRanks]. Calls go to rank 0. The client is a policy.Imitator too. What configure does is what a restart goes on from; weights are not part of it
// unless configure loads them, so whoever needs certain weights looks at the incarnation.
func NewPolicy(s *Supervisor, l Launch, ranks int, configure func(ctx context.Context, ranks []policy.Policy) error) *ProcessWorker[policy.Policy] {
	return newProc(s, l, ranks, func(g guard) policy.Policy {
		c := policy.NewClient(g.proc.Conn(), g.proc.Arena())
		g.account = func(ctx context.Context) (account, error) {
			h, err := c.Health(ctx)
			return account{h.Busy, h.SinceProgress}, err
		}
		return &guardedPolicy{g, c}
	}, configure)
}

// NewEncoder keeps an encoder alive. The client is an encoder.Windower too.
func NewEncoder(s *Supervisor, l Launch, configure func(context.Context, encoder.Encoder) error) *ProcessWorker[encoder.Encoder] {
	return newProc(s, l, 1, func(g guard) encoder.Encoder {
		c := encoder.NewClient(g.proc.Conn(), g.proc.Arena())
		g.account = func(ctx context.Context) (account, error) {
			h, err := c.Health(ctx)
			return account{h.Busy, h.SinceProgress}, err
		}
		return &guardedEncoder{g, c}
	}, alone(configure))
}

// alone is a configure of one process.
func alone[T any](configure func(context.Context, T) error) func(context.Context, []T) error {
	if configure == nil {
		return nil
	}
	return func(ctx context.Context, ranks []T) error { return configure(ctx, ranks[0]) }
}

func newProc[T any](s *Supervisor, l Launch, ranks int, dial func(guard) T, configure func(context.Context, []T) error) *ProcessWorker[T] {
	w := &ProcessWorker[T]{s: s, launch: l, ranks: max(1, ranks), dial: dial, configure: configure}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	s.mu.Lock()
	closed := s.closed
	s.workers = append(s.workers, w)
	s.mu.Unlock()
	if closed {
		w.Close()
	}
	return w
}

// Client implements [Worker].
func (w *ProcessWorker[T]) Client(ctx context.Context) (T, uint64, error) {
	var none T
	for {
		w.mu.Lock()
		if w.final != nil {
			defer w.mu.Unlock()
			return none, w.inc, w.final
		}
		if w.ready && !w.ended() {
			defer w.mu.Unlock()
			return w.client, w.inc, nil
		}
		if w.starting == nil {
			w.starting = make(chan struct{})
			go w.start(w.starting)
		}
		starting := w.starting
		w.mu.Unlock()
		select {
		case <-starting:
		case <-ctx.Done():
			kind := plugins.Canceled
			if ctx.Err() == context.DeadlineExceeded {
				kind = plugins.Deadline
			}
			return none, 0, plugins.Errorf(kind, "waiting for its start: %w", ctx.Err()).WithPlace("%s", w.launch.Label())
		}
	}
}

// ended notices a process that died between calls. w.mu is held.
func (w *ProcessWorker[T]) ended() bool {
	select {
	case <-w.proc.Exited():
		return true
	default:
		return false
	}
}

// start brings the plugin up, once or as often as the budget allows. A plugin that was never ready gets one try: what keeps it from starting (a wrong
// setting, a missing library) will do so again.
func (w *ProcessWorker[T]) start(done chan struct{}) {
	var err error
	for {
		w.mu.Lock()
		again := w.started
		w.mu.Unlock()
		if again {
			if w.launch.VerifyPackage != nil {
				if err = w.launch.VerifyPackage(); err != nil { // a run that goes on with other code than it began with would not be the same run
					break
				}
			}
			if err = w.spend(); err != nil {
				break
			}
		}
		if err = w.startOnce(); err == nil || !again || w.ctx.Err() != nil || !retry(err) {
			break
		}
		w.mu.Lock()
		w.cause = err
		w.mu.Unlock()
	}
	w.mu.Lock()
	if w.ctx.Err() != nil {
		err = stopped(w.launch)
	}
	if err != nil {
		w.final = err
	}
	w.starting = nil
	w.mu.Unlock()
	close(done)
}

func stopped(l Launch) error {
	return plugins.Errorf(plugins.Canceled, "the plugin was stopped").WithPlace("%s", l.Label())
}

// retry says whether a failed restart may be tried again: not when the plugin itself refuses its configuration.
func retry(err error) bool {
	switch plugins.KindOf(err) {
	case plugins.Invalid, plugins.NotFound, plugins.Unsupported, plugins.Mismatch, plugins.Canceled:
		return false
	}
	return true
}

// spend takes one restart off the budget and waits for the back-off.
func (w *ProcessWorker[T]) spend() error {
	o := w.s.o
	w.mu.Lock()
	now := time.Now()
	if o.Window > 0 {
		for len(w.restarts) > 0 && now.Sub(w.restarts[0]) > o.Window {
			w.restarts = w.restarts[1:]
		}
	}
	cause, words, log := w.cause, "", ""
	if w.proc != nil {
		words, log = w.proc.FirstFailed().LastLines(lastWords), w.proc.FirstFailed().LogFile()
	}
	if cause == nil {
		cause = fmt.Errorf("%s", w.proc.ExitReason())
	}
	if len(w.restarts) >= o.Restarts {
		n := len(w.restarts)
		w.mu.Unlock()
		w.s.event(Event{Plugin: w.launch.Label(), What: "gave up", Cause: cause.Error()})
		span := "in this run"
		if o.Window > 0 {
			span = fmt.Sprintf("within %v", o.Window)
		}
		e := plugins.AsError(cause)
		detail := e.Detail
		if detail == "" {
			detail = words
		}
		final := plugins.Errorf(plugins.Unavailable, "gave up after %d restarts %s; the last failure: %w", n, span, cause).
			WithPlace("%s", w.launch.Label()).WithDetail(detail)
		return final.WithHint("read %s; if such failures are rare and harmless, raise [host] restarts", log)
	}
	if !w.since.IsZero() && now.Sub(w.since) > longLife {
		w.streak = 0
	}
	w.since = time.Time{}
	wait := o.backoff(w.streak)
	w.streak++
	w.restarts = append(w.restarts, now)
	w.mu.Unlock()
	w.s.event(Event{Plugin: w.launch.Label(), What: "restarting", Seconds: wait.Seconds(), Cause: w.told(cause)})
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.ctx.Done():
	}
	return nil
}

// backoff is the wait before a restart that follows n others.
func (o Options) backoff(n int) time.Duration {
	wait := o.Backoff
	for i := 0; i < n && wait < o.MaxBackoff; i++ {
		wait *= 2
	}
	return min(wait, o.MaxBackoff)
}

func (w *ProcessWorker[T]) startOnce() error {
	began := time.Now()
	w.mu.Lock()
	old := w.proc
	w.mu.Unlock()
	if old != nil { // its memory is to be free before the next one asks for it
		old.Kill()
		for _, q := range old.Ranks() {
			<-q.Exited()
			q.release()
		}
	}
	p, err := w.s.StartRanks(w.ctx, w.launch, w.ranks)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.inc++
	inc := w.inc
	w.proc = p
	clients := make([]T, w.ranks)
	for rank, q := range p.Ranks() {
		clients[rank] = w.dial(guard{proc: q, limits: w.s.o.Deadlines, patience: w.s.o.Patience, failed: func(cause error) { w.Failed(inc, cause) }})
	}
	w.mu.Unlock()
	if w.configure != nil {
		// Each of its calls has its own deadline, which may be drawn out; this one is for all of them together.
		ctx, cancel := context.WithTimeout(w.ctx, time.Duration(w.s.o.Patience*float64(w.s.o.Deadlines.Configure)))
		err := w.configure(ctx, clients)
		if err != nil && ctx.Err() == context.DeadlineExceeded {
			err = plugins.Errorf(plugins.Deadline, "was not configured within %v: %w", time.Duration(w.s.o.Patience*float64(w.s.o.Deadlines.Configure)), err).WithPlace("%s", p.Label()).
				WithDetail(p.LastLines(lastWords)).WithHint("look into %s; if it only needs longer, raise [host] start_timeout_s", p.LogFile())
		}
		cancel()
		if err != nil {
			p.Stop()
			return err
		}
	}
	w.mu.Lock()
	w.client, w.ready, w.started, w.since, w.cause = clients[0], true, true, time.Now(), nil
	w.mu.Unlock()
	w.s.event(Event{Plugin: p.Label(), What: "ready", PID: p.PID(), Incarnation: inc, Seconds: time.Since(began).Seconds()})
	go w.notice(p, inc)
	return nil
}

// notice tells of a process that dies, also between calls.
func (w *ProcessWorker[T]) notice(p *Process, inc uint64) {
	<-p.Exited()
	w.mu.Lock()
	news := w.inc == inc && w.ready && w.ctx.Err() == nil
	if news {
		w.ready = false
		w.cause = plugins.Errorf(plugins.Unavailable, "%s", p.ExitReason()).WithPlace("%s", p.Label()).WithDetail(p.FirstFailed().LastLines(lastWords))
	}
	w.mu.Unlock()
	if news {
		w.s.event(Event{Plugin: p.Label(), What: "died", PID: p.PID(), Incarnation: inc, Cause: p.ExitReason()})
	}
}

// Failed implements [Worker]: the process group is killed at once, and the next Client starts another.
func (w *ProcessWorker[T]) Failed(incarnation uint64, cause error) {
	w.mu.Lock()
	if incarnation != w.inc || !w.ready {
		w.mu.Unlock()
		return
	}
	w.ready, w.cause = false, cause
	p := w.proc
	w.mu.Unlock()
	what := "replaced"
	select {
	case <-p.Exited():
		what = "died"
	default:
	}
	words := "it failed"
	if cause != nil {
		words = w.told(cause)
	}
	w.s.event(Event{Plugin: p.Label(), What: what, PID: p.PID(), Incarnation: incarnation, Cause: words})
	p.Kill()
}

// told is a cause without the plugin's name, which events give beside it.
func (w *ProcessWorker[T]) told(cause error) string {
	words := cause.Error()
	if rest, ok := strings.CutPrefix(words, w.launch.Label()); ok {
		return strings.TrimLeft(rest, ":, ")
	}
	return words
}

// Process is the present process, nil before the first start; for reports and tests.
func (w *ProcessWorker[T]) Process() *Process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proc
}

// Close stops the plugin for good; calls then give errors of kind Canceled.
func (w *ProcessWorker[T]) Close() {
	w.cancel()
	w.mu.Lock()
	starting := w.starting
	w.mu.Unlock()
	if starting != nil {
		<-starting
	}
	w.mu.Lock()
	if w.final == nil {
		w.final = stopped(w.launch)
	}
	w.ready = false
	p := w.proc
	w.mu.Unlock()
	if p != nil {
		p.Stop()
	}
}

// SplitLanes divides lanes over as few env processes as hold them, as evenly as it goes: ceil(lanes/maxLanes) entries with the number of lanes of each.
// maxLanes is Info.MaxLanes, where 0 means 1.
func SplitLanes(lanes, maxLanes int) []int {
	maxLanes = max(1, maxLanes)
	n := (max(0, lanes) + maxLanes - 1) / maxLanes
	shares := make([]int, n)
	for i := range shares {
		shares[i] = lanes*(i+1)/n - lanes*i/n
	}
	return shares
}
