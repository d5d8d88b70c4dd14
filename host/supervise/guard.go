package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/srpo-dev/srpo/host/internal/fault"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Deadlines bound each kind of call. A process whose call passes its deadline is killed, unless it is known
// to be working; see Silence and Patience in [Options].
type Deadlines struct {
	// Ask is for Info, Describe and Forget, which answer at once.
	Ask time.Duration
	// Configure is for the whole configure function of a worker; zero: five times the start timeout.
	Configure time.Duration
	// Tasks is for the whole list.
	Tasks            time.Duration
	Reset, Step, Act time.Duration
	// Encode is for Encode and EncodeWindows. It starts again whenever the plugin reports progress, e.g.
	// after each run of its network.
	Encode time.Duration
	Save   time.Duration // Save and Load
	// Update is for Update and Imitate. It starts again whenever the plugin reports progress of at least a
	// thousandth.
	Update time.Duration
}

// DefaultDeadlines are used where a field is zero.
var DefaultDeadlines = Deadlines{
	Ask: 60 * time.Second, Configure: 600 * time.Second, Tasks: 120 * time.Second, Reset: 120 * time.Second,
	Step: 60 * time.Second,
	Act:  120 * time.Second, Encode: 600 * time.Second, Save: 600 * time.Second, Update: 3600 * time.Second,
}

func (d Deadlines) orDefaults() Deadlines {
	orDefault(&d.Ask, DefaultDeadlines.Ask)
	orDefault(&d.Configure, DefaultDeadlines.Configure)
	orDefault(&d.Tasks, DefaultDeadlines.Tasks)
	orDefault(&d.Reset, DefaultDeadlines.Reset)
	orDefault(&d.Step, DefaultDeadlines.Step)
	orDefault(&d.Act, DefaultDeadlines.Act)
	orDefault(&d.Encode, DefaultDeadlines.Encode)
	orDefault(&d.Save, DefaultDeadlines.Save)
	orDefault(&d.Update, DefaultDeadlines.Update)
	return d
}

// exitWait is how long a broken call waits for the end of the process, to report how it ended.
const exitWait = 3 * time.Second

// guard bounds every call to one incarnation of a plugin, and reports when the process must be replaced.
type guard struct {
	proc   *Process
	limits Deadlines
	// patience is the number of deadlines that a call may take while the plugin is known to be working.
	patience float64
	failed   func(cause error)
	// activity asks the plugin for its activity.
	activity func(ctx context.Context) (activity, error)
}

// activity is a plugin's report about its work.
type activity struct {
	// busy are the names of the calls in progress; since is the time since the last progress of any of them.
	busy  []string
	since time.Duration
}

// healthTimeout bounds the request for the activity, which is answered during other calls.
const healthTimeout = 5 * time.Second

// askActivity returns the plugin's activity. It is empty when the plugin does not answer.
func (g guard) askActivity(ctx context.Context) activity {
	if g.activity == nil {
		return activity{}
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	a, _ := g.activity(ctx)
	return a
}

// faultPoint lets a fault plan kill the process, or the host, during a call; see package fault.
func (g guard) faultPoint(what string) func() {
	method, _, _ := strings.Cut(what, " ")
	return fault.Call(string(g.proc.launch.Kind)+" "+method, g.proc.leader.signalLeader)
}

// deadline is that of a call.
type deadline struct {
	// call describes the call in errors, e.g. "Step of lane 2".
	call string
	// setting is the name of the deadline in srpo.toml.
	setting string
	limit   time.Duration
	// keepCorrupt keeps the process after a reply of kind Corrupt, which is then about a file.
	keepCorrupt bool
}

// call runs f with a deadline.
func (g guard) call(ctx context.Context, d deadline, f func(ctx context.Context) error) error {
	if fault.On {
		defer g.faultPoint(d.call)()
	}
	limited, end := g.withDeadline(ctx, d.limit, nil)
	defer end()
	return g.classify(ctx, limited, d, f(limited))
}

// callWithHealth is call with a deadline that starts again with the progress that the plugin reports in
// Health: a call may contain many clips, each of which takes minutes.
func (g guard) callWithHealth(ctx context.Context, d deadline, f func(ctx context.Context) error) error {
	if fault.On {
		defer g.faultPoint(d.call)()
	}
	began := time.Now()
	limited, end := g.withDeadline(ctx, d.limit, func() time.Duration {
		if a := g.askActivity(ctx); len(a.busy) > 0 {
			return min(a.since, time.Since(began))
		}
		return time.Since(began)
	})
	defer end()
	return g.classify(ctx, limited, d, f(limited))
}

// callWithProgress is call with a deadline that starts again whenever f reports progress of at least a
// thousandth, so at most a thousand times.
func (g guard) callWithProgress(
	ctx context.Context, d deadline, f func(ctx context.Context, report func(done float64)) error,
) error {
	if fault.On {
		defer g.faultPoint(d.call)()
	}
	var mu sync.Mutex
	best, last := 0.0, time.Now()
	limited, end := g.withDeadline(ctx, d.limit, func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Since(last)
	})
	defer end()
	err := f(limited, func(done float64) {
		mu.Lock()
		defer mu.Unlock()
		if done >= best+0.001 && done <= 1 {
			best, last = done, time.Now()
		}
	})
	return g.classify(ctx, limited, d, err)
}

// classify turns the error of a call into the one for the user, and reports a process that must be
// replaced. outer is the context of the caller, limited the one with the deadline.
func (g guard) classify(outer, limited context.Context, d deadline, err error) error {
	if err == nil {
		return nil
	}
	e := plugins.AsError(err)
	kind := e.Kind
	if kind == plugins.Canceled && limited.Err() == nil {
		kind = plugins.Unavailable // not cancelled by the host: the connection of a process that is gone
	}
	canceled, unavailable := kind == plugins.Canceled, kind == plugins.Unavailable
	silent := g.silent()
	switch {
	case passed(outer) && (canceled || kind == plugins.Deadline): // the caller's decision
		return e.WithPlace("%s", g.proc.Label())
	case silent != nil && (unavailable || canceled):
		e = silentError(silent, d.call)
		e.Err = err
	case passed(limited) && (canceled || kind == plugins.Deadline):
		e = g.deadlineError(limited, d)
		e.Err = err
	case unavailable:
		e = g.exitError(d.call, e, err)
	case kind == plugins.Corrupt && !d.keepCorrupt:
		e = e.WithPlace("%s", g.proc.Label())
	default:
		return e.WithPlace("%s", g.proc.Label())
	}
	g.failed(e)
	return e
}

func silentError(p *Process, call string) *plugins.Error {
	const message = "the process sent no heartbeat for %v in %s: it was stopped, or its interpreter is blocked"
	return plugins.Errorf(plugins.Deadline, message, time.Duration(p.heartbeat.killedAfter.Load()), call).
		WithPlace("%s", p.Label()).WithDetail(p.LastLines(errorLines)).
		WithHint("read %s; if such a silence is normal, raise [host] silence_timeout_s", p.LogFile())
}

func (g guard) deadlineError(limited context.Context, d deadline) *plugins.Error {
	limit, over := d.limit, ""
	if errors.Is(context.Cause(limited), errPatienceSpent) {
		limit = time.Duration(g.patience * float64(limit))
		over = fmt.Sprintf(", %g times its deadline, though it was working", g.patience)
	}
	return plugins.Errorf(plugins.Deadline, "%s did not answer within %v%s%s", d.call, limit, over, g.busyWith()).
		WithPlace("%s", g.proc.Label()).WithDetail(g.proc.LastLines(errorLines)).
		WithHint("read %s; if it only needs longer, raise [host] %s", g.proc.LogFile(), d.setting)
}

// exitError is the error for a process that ended during a call. e is cause as a plugin error.
func (g guard) exitError(call string, e *plugins.Error, cause error) *plugins.Error {
	message := e.Message
	if g.proc.exitedWithin(exitWait) {
		message = "it " + g.proc.ExitReason() + " during " + call
	}
	first := g.proc.FirstFailed()
	out := &plugins.Error{Kind: plugins.Unavailable, Message: message, Place: e.Place, Err: cause,
		Hint: cmp.Or(e.Hint, first.leader.hint()), Detail: cmp.Or(e.Detail, first.LastLines(errorLines))}
	return out.WithPlace("%s", g.proc.Label())
}

// silent returns the rank that was killed because it sent no heartbeat, or nil.
func (g guard) silent() *Process {
	for _, p := range g.proc.Ranks() {
		if p.heartbeat.killedAfter.Load() > 0 {
			return p
		}
	}
	return nil
}

// passed reports whether a context is over. On a busy machine, the answer to a call that is out of time may
// arrive before the timer of the context has fired.
func passed(limited context.Context) bool {
	deadline, ok := limited.Deadline()
	return limited.Err() != nil || ok && !time.Now().Before(deadline)
}

func (g guard) busyWith() string {
	if busy := g.askActivity(context.Background()).busy; len(busy) > 0 {
		return fmt.Sprintf(" (it reports that it is busy with %s)", strings.Join(busy[:min(4, len(busy))], ", "))
	}
	return ""
}

const (
	// maxRenewals is how often a deadline may start again, which bounds a plugin that reports progress
	// forever.
	maxRenewals = 1000
	// minCPUShare is the share of one core that a working process group uses at least.
	minCPUShare = 0.05
	// maxSample is the longest time over which that is measured.
	maxSample = 10 * time.Second
)

// errOutOfTime and errPatienceSpent are the causes with which [guard.withDeadline] ends a context.
var (
	errOutOfTime     = errors.New("the deadline passed")
	errPatienceSpent = errors.New("the deadline passed several times, though the plugin was working")
)

// withDeadline returns the context of a call, and a function that ends the watch. limit counts from the
// last progress; since returns the time since then, nil: from now.
//
// When the time is over and the process is known to be working, as in compiling or loading a large
// checkpoint, the call continues for as long as that holds, up to patience times the limit. A process is
// known to be working while it sends heartbeats and its group uses the processor or waits for a disk. A
// process that waits for something that never happens does neither.
func (g guard) withDeadline(
	ctx context.Context, limit time.Duration, since func() time.Duration,
) (context.Context, func()) {
	limited, cancel := context.WithCancelCause(ctx)
	if since == nil {
		began := time.Now()
		since = func() time.Duration { return time.Since(began) }
	}
	window := min(limit/4, maxSample)
	timer := time.AfterFunc(limit-window, func() { cancel(g.awaitDeadline(limited, limit, window, since)) })
	for _, p := range g.proc.Ranks() { // all ranks work during a call to rank 0
		p.heartbeat.calls.Add(1)
	}
	return limited, func() {
		timer.Stop()
		cancel(nil)
		for _, p := range g.proc.Ranks() {
			p.heartbeat.calls.Add(-1)
		}
	}
}

// awaitDeadline returns when a call is out of time, with the reason, or when ctx ends. It is called when
// all but window of the limit is over.
func (g guard) awaitDeadline(ctx context.Context, limit, window time.Duration, since func() time.Duration) error {
	maxTime := time.Duration(max(1, g.patience) * float64(limit))
	for renewals := 0; renewals < maxRenewals; {
		age := since()
		if rest := limit - window - age; rest > 0 {
			renewals++
			if !wait(ctx, rest) {
				return nil
			}
			continue
		}
		before := usageOf(g.proc.processGroups()...)
		if !wait(ctx, min(window, max(maxTime-age, 0))) {
			return nil
		}
		alive := g.proc.heartbeat.alive()
		switch age = since(); {
		case age < limit: // there was progress, or the clock is coarse
		case age >= maxTime && g.patience > 1 && before.known && alive:
			return errPatienceSpent
		case age >= maxTime, !alive, !isWorking(before, usageOf(g.proc.processGroups()...), window):
			return errOutOfTime
		}
	}
	return errOutOfTime
}

// wait returns false when ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ask returns the deadline of a call that should answer at once.
func (g guard) ask(call string) deadline {
	return deadline{call: call, setting: "start_timeout_s", limit: g.limits.Ask}
}

func (g guard) info(ctx context.Context, p plugins.Plugin) (i plugins.Info, err error) {
	err = g.call(ctx, g.ask("Info"), func(ctx context.Context) error { i, err = p.Info(ctx); return err })
	return i, err
}

func (g guard) configure(ctx context.Context, p plugins.Plugin, c plugins.Config) error {
	for _, rank := range g.proc.Ranks() {
		rank.heartbeat.loading.Add(1)
		defer rank.heartbeat.loading.Add(-1)
	}
	d := deadline{"Configure", "start_timeout_s", g.limits.Configure, true}
	return g.call(ctx, d, func(ctx context.Context) error { return p.Configure(ctx, c) })
}

type guardedEnv struct {
	guard
	e env.Env
}

func (g *guardedEnv) Info(ctx context.Context) (plugins.Info, error) { return g.info(ctx, g.e) }
func (g *guardedEnv) Configure(ctx context.Context, c plugins.Config) error {
	return g.configure(ctx, g.e, c)
}

func (g *guardedEnv) Describe(ctx context.Context) (s plugins.EnvSpec, err error) {
	err = g.call(ctx, g.ask("Describe"), func(ctx context.Context) error { s, err = g.e.Describe(ctx); return err })
	return s, err
}

func (g *guardedEnv) Tasks(ctx context.Context) iter.Seq2[env.Task, error] {
	return func(yield func(env.Task, error) bool) {
		if fault.On {
			defer g.faultPoint("Tasks")()
		}
		d := deadline{call: "Tasks", setting: "start_timeout_s", limit: g.limits.Tasks}
		limited, end := g.withDeadline(ctx, d.limit, nil)
		defer end()
		for t, err := range g.e.Tasks(limited) {
			if !yield(t, g.classify(ctx, limited, d, err)) {
				return
			}
		}
	}
}

func (g *guardedEnv) Reset(ctx context.Context, r env.Reset) (t env.Transition, err error) {
	d := deadline{call: fmt.Sprintf("Reset of lane %d", r.Lane), setting: "reset_timeout_s", limit: g.limits.Reset}
	err = g.call(ctx, d, func(ctx context.Context) error { t, err = g.e.Reset(ctx, r); return err })
	return t, err
}

func (g *guardedEnv) Step(ctx context.Context, s env.Step) (t env.Transition, err error) {
	d := deadline{call: fmt.Sprintf("Step of lane %d", s.Lane), setting: "step_timeout_s", limit: g.limits.Step}
	err = g.call(ctx, d, func(ctx context.Context) error { t, err = g.e.Step(ctx, s); return err })
	return t, err
}

func (g *guardedEnv) StepExpert(ctx context.Context, s env.ExpertStep) (t env.Transition, err error) {
	d := deadline{call: fmt.Sprintf("Step of lane %d", s.Lane), setting: "step_timeout_s", limit: g.limits.Step}
	err = g.call(ctx, d, func(ctx context.Context) error { t, err = env.StepExpert(ctx, g.e, s); return err })
	return t, err
}

type guardedPolicy struct {
	guard
	p policy.Policy
}

var (
	_ policy.Imitator    = (*guardedPolicy)(nil)
	_ policy.RunBeginner = (*guardedPolicy)(nil)
)

func (g *guardedPolicy) Info(ctx context.Context) (plugins.Info, error) { return g.info(ctx, g.p) }
func (g *guardedPolicy) Configure(ctx context.Context, c plugins.Config) error {
	return g.configure(ctx, g.p, c)
}

func (g *guardedPolicy) Describe(ctx context.Context) (s policy.Spec, err error) {
	err = g.call(ctx, g.ask("Describe"), func(ctx context.Context) error { s, err = g.p.Describe(ctx); return err })
	return s, err
}

func (g *guardedPolicy) Act(ctx context.Context, a policy.Act) (r []policy.Result, err error) {
	d := deadline{
		call:    fmt.Sprintf("Act on %d observations", len(a.Items)),
		setting: "act_timeout_s",
		limit:   g.limits.Act,
	}
	err = g.call(ctx, d, func(ctx context.Context) error { r, err = g.p.Act(ctx, a); return err })
	return r, err
}

func (g *guardedPolicy) Update(
	ctx context.Context,
	u policy.Update,
	progress func(float64),
) (s policy.Statistics, err error) {
	d := deadline{call: fmt.Sprintf("Update %d", u.ID), setting: "update_timeout_s", limit: g.limits.Update}
	err = g.callWithProgress(ctx, d, func(ctx context.Context, report func(float64)) error {
		s, err = g.p.Update(ctx, u, func(done float64) {
			report(done)
			if progress != nil {
				progress(done)
			}
		})
		return err
	})
	return s, err
}

func (g *guardedPolicy) Imitate(
	ctx context.Context,
	im policy.Imitate,
	demos iter.Seq2[policy.Demonstration, error],
	progress func(done, loss float64),
) error {
	imitator, ok := g.p.(policy.Imitator)
	if !ok {
		return plugins.Errorf(plugins.Unsupported, "does not learn from demonstrations").
			WithPlace("%s", g.proc.Label())
	}
	d := deadline{call: "Imitate", setting: "update_timeout_s", limit: g.limits.Update}
	return g.callWithProgress(ctx, d, func(ctx context.Context, report func(float64)) error {
		return imitator.Imitate(ctx, im, demos, func(done, loss float64) {
			report(done)
			if progress != nil {
				progress(done, loss)
			}
		})
	})
}

func (g *guardedPolicy) Forget(ctx context.Context, trajectories []string) error {
	d := deadline{call: "Forget", setting: "act_timeout_s", limit: g.limits.Act}
	return g.call(ctx, d, func(ctx context.Context) error { return g.p.Forget(ctx, trajectories) })
}

func (g *guardedPolicy) Save(ctx context.Context, folder string) error {
	return g.call(ctx, g.file("Save"), func(ctx context.Context) error { return g.p.Save(ctx, folder) })
}

func (g *guardedPolicy) Load(ctx context.Context, folder string) (id uint64, err error) {
	err = g.call(ctx, g.file("Load"), func(ctx context.Context) error { id, err = g.p.Load(ctx, folder); return err })
	return id, err
}

func (g *guardedPolicy) BeginRun(ctx context.Context, folder string) (id uint64, err error) {
	err = g.call(
		ctx,
		g.file("Load"),
		func(ctx context.Context) error { id, err = policy.BeginRun(ctx, g.p, folder); return err },
	)
	return id, err
}

// file returns the deadline of a call that reads or writes files. A reply of kind Corrupt is then about a
// file.
func (g *guardedPolicy) file(call string) deadline {
	return deadline{call, "save_timeout_s", g.limits.Save, true}
}

type guardedEncoder struct {
	guard
	e encoder.Encoder
}

var _ encoder.Windower = (*guardedEncoder)(nil)

func (g *guardedEncoder) Info(ctx context.Context) (plugins.Info, error) { return g.info(ctx, g.e) }
func (g *guardedEncoder) Configure(ctx context.Context, c plugins.Config) error {
	return g.configure(ctx, g.e, c)
}

func (g *guardedEncoder) Describe(ctx context.Context) (s encoder.Spec, err error) {
	err = g.call(ctx, g.ask("Describe"), func(ctx context.Context) error { s, err = g.e.Describe(ctx); return err })
	return s, err
}

func (g *guardedEncoder) Encode(ctx context.Context, clips []plugins.Tensor) (v [][]float32, err error) {
	d := deadline{
		call:    fmt.Sprintf("Encode of %d clips", len(clips)),
		setting: "encode_timeout_s",
		limit:   g.limits.Encode,
	}
	err = g.callWithHealth(ctx, d, func(ctx context.Context) error { v, err = g.e.Encode(ctx, clips); return err })
	return v, err
}

func (g *guardedEncoder) EncodeWindows(
	ctx context.Context,
	clip plugins.Tensor,
	ends []int,
) (v [][]float32, err error) {
	w, ok := g.e.(encoder.Windower)
	if !ok {
		return nil, plugins.Errorf(plugins.Unsupported, "does not encode windows").WithPlace("%s", g.proc.Label())
	}
	d := deadline{
		call:    fmt.Sprintf("EncodeWindows of %d windows", len(ends)),
		setting: "encode_timeout_s",
		limit:   g.limits.Encode,
	}
	err = g.callWithHealth(
		ctx,
		d,
		func(ctx context.Context) error { v, err = w.EncodeWindows(ctx, clip, ends); return err },
	)
	return v, err
}
