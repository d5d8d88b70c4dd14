package supervise

import (
	"cmp"
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

// stableAfter is the time that a process must live for the back-off to start again.
const stableAfter = time.Minute

// Worker is a plugin that is kept alive.
type Worker[T any] interface {
	// Client returns the live, configured plugin and its incarnation, a number that grows with every
	// restart. It starts or restarts the plugin as needed, within the restart budget and with back-off.
	// When the budget is spent it returns an error with the plugin's last lines.
	Client(ctx context.Context) (client T, incarnation uint64, err error)
	// Failed reports that the process of an incarnation must be replaced after a failed call. Only the
	// first report on an incarnation has an effect. Clients of a [ProcessWorker] call it themselves for
	// dead processes, passed deadlines and corrupt replies.
	Failed(incarnation uint64, cause error)
}

// ProcessWorker is a [Worker] whose plugin is a process.
type ProcessWorker[T any] struct {
	s         *Supervisor
	launch    Launch
	ranks     int // number of processes; calls go to the first
	dial      func(g guard) T
	configure func(ctx context.Context, ranks []T) error
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc

	mu          sync.Mutex
	proc        *Process
	client      T
	incarnation uint64
	ready       bool // proc is configured and has not failed
	readySince  time.Time
	starting    chan struct{}
	started     bool // it was ready at least once
	final       error
	cause       error       // why the last incarnation ended
	restarts    []time.Time // those that count against the budget
	streak      int         // restarts since the last incarnation that lived for stableAfter
}

var _ Worker[env.Env] = (*ProcessWorker[env.Env])(nil)

// NewEnv keeps an env alive. Nothing is started yet. configure is called for every incarnation before a
// caller gets it; it may be nil.
func NewEnv(s *Supervisor, l Launch, configure func(context.Context, env.Env) error) *ProcessWorker[env.Env] {
	return newWorker(s, l, 1, func(g guard) env.Env {
		c := env.NewClient(g.proc.Conn(), g.proc.Arena())
		g.activity = func(ctx context.Context) (activity, error) {
			h, err := c.Health(ctx)
			return activity{h.Busy, h.SinceProgress}, err
		}
		return &guardedEnv{g, c}
	}, single(configure))
}

// NewPolicy keeps a policy alive that consists of ranks processes, at least 1, which live and die together.
// configure gets one client per rank; see [Supervisor.ConfigureRanks]. Calls go to rank 0. The client is a
// policy.Imitator too.
//
// A restart begins from what configure does. It includes the weights only if configure loads them, so a
// caller that needs certain weights must check the incarnation.
func NewPolicy(
	s *Supervisor, l Launch, ranks int, configure func(ctx context.Context, ranks []policy.Policy) error,
) *ProcessWorker[policy.Policy] {
	return newWorker(s, l, ranks, func(g guard) policy.Policy {
		c := policy.NewClient(g.proc.Conn(), g.proc.Arena())
		g.activity = func(ctx context.Context) (activity, error) {
			h, err := c.Health(ctx)
			return activity{h.Busy, h.SinceProgress}, err
		}
		return &guardedPolicy{g, c}
	}, configure)
}

// NewEncoder keeps an encoder alive. The client is an encoder.Windower too.
func NewEncoder(
	s *Supervisor, l Launch, configure func(context.Context, encoder.Encoder) error,
) *ProcessWorker[encoder.Encoder] {
	return newWorker(s, l, 1, func(g guard) encoder.Encoder {
		c := encoder.NewClient(g.proc.Conn(), g.proc.Arena())
		g.activity = func(ctx context.Context) (activity, error) {
			h, err := c.Health(ctx)
			return activity{h.Busy, h.SinceProgress}, err
		}
		return &guardedEncoder{g, c}
	}, single(configure))
}

// single adapts the configure function of a plugin that is one process.
func single[T any](configure func(context.Context, T) error) func(context.Context, []T) error {
	if configure == nil {
		return nil
	}
	return func(ctx context.Context, ranks []T) error { return configure(ctx, ranks[0]) }
}

func newWorker[T any](
	s *Supervisor, l Launch, ranks int, dial func(guard) T, configure func(context.Context, []T) error,
) *ProcessWorker[T] {
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
			return none, w.incarnation, w.final
		}
		if w.ready && !w.ended() {
			defer w.mu.Unlock()
			return w.client, w.incarnation, nil
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
			return none, 0, plugins.Errorf(kind, "waiting for its start: %w", ctx.Err()).
				WithPlace("%s", w.launch.Label())
		}
	}
}

// ended reports whether the process died between calls. The caller holds w.mu.
func (w *ProcessWorker[T]) ended() bool {
	select {
	case <-w.proc.Exited():
		return true
	default:
		return false
	}
}

// start starts the plugin, or restarts it as often as the budget allows. A plugin that was never ready gets
// one attempt: a wrong setting or a missing library will fail again.
func (w *ProcessWorker[T]) start(done chan struct{}) {
	var err error
	for {
		w.mu.Lock()
		restart := w.started
		w.mu.Unlock()
		if restart {
			if w.launch.VerifyPackage != nil {
				if err = w.launch.VerifyPackage(); err != nil { // a run must not continue with other code
					break
				}
			}
			if err = w.takeRestart(); err != nil {
				break
			}
		}
		if err = w.startOnce(); err == nil || !restart || w.ctx.Err() != nil || !retryable(err) {
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

// retryable reports whether a failed restart may succeed later: not when the plugin refuses its
// configuration.
func retryable(err error) bool {
	switch plugins.KindOf(err) {
	case plugins.Invalid, plugins.NotFound, plugins.Unsupported, plugins.Mismatch, plugins.Canceled:
		return false
	}
	return true
}

// takeRestart takes one restart off the budget and waits for the back-off. It returns an error when the
// budget is spent.
func (w *ProcessWorker[T]) takeRestart() error {
	o := w.s.o
	w.mu.Lock()
	now := time.Now()
	if o.Window > 0 {
		for len(w.restarts) > 0 && now.Sub(w.restarts[0]) > o.Window {
			w.restarts = w.restarts[1:]
		}
	}
	cause := w.cause
	if cause == nil {
		cause = fmt.Errorf("%s", w.proc.ExitReason())
	}
	if n := len(w.restarts); n >= o.Restarts {
		proc := w.proc
		w.mu.Unlock()
		w.s.event(Event{Plugin: w.launch.Label(), What: "gave up", Cause: cause.Error()})
		return w.budgetError(n, proc, cause)
	}
	if !w.readySince.IsZero() && now.Sub(w.readySince) > stableAfter {
		w.streak = 0
	}
	w.readySince = time.Time{}
	wait := o.backoff(w.streak)
	w.streak++
	w.restarts = append(w.restarts, now)
	w.mu.Unlock()
	w.s.event(
		Event{Plugin: w.launch.Label(), What: "restarting", Seconds: wait.Seconds(), Cause: w.withoutLabel(cause)},
	)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.ctx.Done():
	}
	return nil
}

// budgetError is the error after n restarts. proc is the last process, or nil.
func (w *ProcessWorker[T]) budgetError(n int, proc *Process, cause error) error {
	span := "in this run"
	if w.s.o.Window > 0 {
		span = fmt.Sprintf("within %v", w.s.o.Window)
	}
	detail, log := plugins.AsError(cause).Detail, ""
	if proc != nil {
		first := proc.FirstFailed()
		detail, log = cmp.Or(detail, first.LastLines(errorLines)), first.LogFile()
	}
	return plugins.Errorf(plugins.Unavailable, "gave up after %d restarts %s; the last failure: %w", n, span, cause).
		WithPlace("%s", w.launch.Label()).WithDetail(detail).
		WithHint("read %s; if such failures are rare and harmless, raise [host] restarts", log)
}

// backoff returns the wait before a restart that follows n others.
func (o Options) backoff(n int) time.Duration {
	wait := o.Backoff
	for i := 0; i < n && wait < o.MaxBackoff; i++ {
		wait *= 2
	}
	return min(wait, o.MaxBackoff)
}

// startOnce starts and configures one incarnation.
func (w *ProcessWorker[T]) startOnce() error {
	began := time.Now()
	w.mu.Lock()
	old := w.proc
	w.mu.Unlock()
	if old != nil { // its memory must be free before the next incarnation needs it
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
	w.incarnation++
	incarnation := w.incarnation
	w.proc = p
	w.mu.Unlock()
	o := w.s.o
	clients := make([]T, w.ranks)
	for rank, q := range p.Ranks() {
		clients[rank] = w.dial(guard{proc: q, limits: o.Deadlines, patience: o.Patience,
			failed: func(cause error) { w.Failed(incarnation, cause) }})
	}
	if err := w.configureAll(p, clients); err != nil {
		p.Stop()
		return err
	}
	w.mu.Lock()
	w.client, w.ready, w.started, w.readySince, w.cause = clients[0], true, true, time.Now(), nil
	w.mu.Unlock()
	w.s.event(Event{Plugin: p.Label(), What: "ready", PID: p.PID(), Incarnation: incarnation,
		Seconds: time.Since(began).Seconds()})
	go w.watchExit(p, incarnation)
	return nil
}

// configureAll calls the configure function. Each of its calls has a deadline, which may be extended; this
// bounds all calls together.
func (w *ProcessWorker[T]) configureAll(p *Process, clients []T) error {
	if w.configure == nil {
		return nil
	}
	limit := time.Duration(w.s.o.Patience * float64(w.s.o.Deadlines.Configure))
	ctx, cancel := context.WithTimeout(w.ctx, limit)
	defer cancel()
	err := w.configure(ctx, clients)
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		return plugins.Errorf(plugins.Deadline, "was not configured within %v: %w", limit, err).
			WithPlace("%s", p.Label()).WithDetail(p.LastLines(errorLines)).
			WithHint("read %s; if it only needs longer, raise [host] start_timeout_s", p.LogFile())
	}
	return err
}

// watchExit reports a process that dies, also between calls.
func (w *ProcessWorker[T]) watchExit(p *Process, incarnation uint64) {
	<-p.Exited()
	w.mu.Lock()
	died := w.incarnation == incarnation && w.ready && w.ctx.Err() == nil
	if died {
		w.ready = false
		w.cause = plugins.Errorf(plugins.Unavailable, "%s", p.ExitReason()).
			WithPlace("%s", p.Label()).WithDetail(p.FirstFailed().LastLines(errorLines))
	}
	w.mu.Unlock()
	if died {
		w.s.event(
			Event{Plugin: p.Label(), What: "died", PID: p.PID(), Incarnation: incarnation, Cause: p.ExitReason()},
		)
	}
}

// Failed implements [Worker]. It kills the process group; the next Client starts another one.
func (w *ProcessWorker[T]) Failed(incarnation uint64, cause error) {
	w.mu.Lock()
	if incarnation != w.incarnation || !w.ready {
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
	reason := "it failed"
	if cause != nil {
		reason = w.withoutLabel(cause)
	}
	w.s.event(Event{Plugin: p.Label(), What: what, PID: p.PID(), Incarnation: incarnation, Cause: reason})
	p.Kill()
}

// withoutLabel returns the text of a cause without the plugin's label, which events contain separately.
func (w *ProcessWorker[T]) withoutLabel(cause error) string {
	text := cause.Error()
	if rest, ok := strings.CutPrefix(text, w.launch.Label()); ok {
		return strings.TrimLeft(rest, ":, ")
	}
	return text
}

// Process returns the current process, or nil before the first start. For reports and tests.
func (w *ProcessWorker[T]) Process() *Process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proc
}

// Close stops the plugin. Later calls return errors of kind Canceled.
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

// SplitLanes divides lanes evenly over as few env processes as can have them. It returns the number of
// lanes of each of ceil(lanes/maxLanes) processes. maxLanes is Info.MaxLanes, where 0 means 1.
func SplitLanes(lanes, maxLanes int) []int {
	maxLanes = max(1, maxLanes)
	n := (max(0, lanes) + maxLanes - 1) / maxLanes
	shares := make([]int, n)
	for i := range shares {
		shares[i] = lanes*(i+1)/n - lanes*i/n
	}
	return shares
}
