package supervise

import (
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

// Deadlines bound each kind of call. A call that passes its deadline costs the plugin its process, unless it is seen to work; see [Options] for Silence and Patience.
type Deadlines struct {
	// Ask is for Info, Describe, Forget: calls that should answer at once.
	Ask time.Duration
	// Configure is for the whole of a worker's configure function; zero: five times the start time-out.
	Configure time.Duration
	// Tasks is for the whole list.
	Tasks            time.Duration
	Reset, Step, Act time.Duration
	// Encode is for Encode and EncodeWindows, counted anew whenever the plugin notes headway: after each run of its network, for example.
	Encode time.Duration
	Save   time.Duration // Save and Load
	// Update is for Update and Imitate, counted anew whenever the plugin reports headway of a thousandth or more.
	Update time.Duration
}

// DefaultDeadlines are used where a field is zero.
var DefaultDeadlines = Deadlines{
	Ask: 60 * time.Second, Configure: 600 * time.Second, Tasks: 120 * time.Second, Reset: 120 * time.Second, Step: 60 * time.Second,
	Act: 120 * time.Second, Encode: 600 * time.Second, Save: 600 * time.Second, Update: 3600 * time.Second,
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

// deathNotice is how long a broken call waits for the process's end, to say how it ended.
const deathNotice = 3 * time.Second

// guard makes every call to one incarnation of a plugin end in time, and says when the process must be replaced.
type guard struct {
	proc   *Process
	limits Deadlines
	// patience is how many deadlines a call may take while the plugin is seen to work.
	patience float64
	failed   func(cause error)
	// account asks the plugin what it is doing.
	account func(ctx context.Context) (account, error)
}

// account is what a plugin says of itself while it works.
type account struct {
	// busy names the calls in progress; since is how long ago any of them last made headway.
	busy  []string
	since time.Duration
}

// accountTimeout bounds the question; it is answered beside the work.
const accountTimeout = 5 * time.Second

func (g guard) ask(ctx context.Context) account {
	if g.account == nil {
		return account{}
	}
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	a, _ := g.account(ctx) // who does not answer says nothing
	return a
}

// mayDie lets a fault plan kill the process, or the host, in a call; see package fault.
func (g guard) mayDie(what string) func() {
	method, _, _ := strings.Cut(what, " ")
	return fault.Call(string(g.proc.launch.Kind)+" "+method, g.proc.leader.strike)
}

// call runs f with a deadline. setting is the name of the deadline in srpo.toml; keep says that a corrupt answer is about a file, not about the process.
func (g guard) call(ctx context.Context, what, setting string, limit time.Duration, keep bool, f func(ctx context.Context) error) error {
	if fault.On {
		defer g.mayDie(what)()
	}
	limited, end := g.within(ctx, limit, nil)
	defer end()
	return g.judge(ctx, limited, what, setting, limit, keep, f(limited))
}

// judge turns the error of a call into what the host's user needs, and reports a process that must be replaced. outer is the caller's context, limited
// the one with the deadline.
func (g guard) judge(outer, limited context.Context, what, setting string, limit time.Duration, keep bool, err error) error {
	if err == nil {
		return nil
	}
	e := plugins.AsError(err)
	kind := e.Kind
	if kind == plugins.Canceled && limited.Err() == nil {
		kind = plugins.Unavailable // nobody cancelled: it is the connection of a process that is gone
	}
	switch {
	case passed(outer) && (kind == plugins.Canceled || kind == plugins.Deadline):
		return e.WithPlace("%s", g.proc.Label()) // the caller's own will: the plugin is not to blame
	case g.silent() != nil && (kind == plugins.Unavailable || kind == plugins.Canceled):
		p := g.silent()
		e = plugins.Errorf(plugins.Deadline, "the process gave no sign of life for %v in %s: it was stopped, or something holds its interpreter", time.Duration(p.pulse.over.Load()), what).
			WithPlace("%s", p.Label()).WithHint("look into %s; if it may be still for so long, raise [host] silence_timeout_s", p.LogFile()).WithDetail(p.LastLines(lastWords))
		e.Err = err
		g.failed(e)
		return e
	case passed(limited) && (kind == plugins.Deadline || kind == plugins.Canceled):
		over := ""
		if errors.Is(context.Cause(limited), errWorkedOn) {
			limit, over = time.Duration(g.patience*float64(limit)), fmt.Sprintf(", %g times its deadline, though it was at work", g.patience)
		}
		e = plugins.Errorf(plugins.Deadline, "%s did not answer within %v%s%s", what, limit, over, g.whatItDoes()).WithPlace("%s", g.proc.Label()).
			WithHint("look into %s; if it only needs longer, raise [host] %s", g.proc.LogFile(), setting).WithDetail(g.proc.LastLines(lastWords))
		e.Err = err
		g.failed(e)
		return e
	case kind == plugins.Unavailable:
		words := e.Message
		if g.proc.exitedWithin(deathNotice) {
			words = "it " + g.proc.ExitReason() + " during " + what
		}
		culprit := g.proc.FirstFailed()
		detail := culprit.LastLines(lastWords)
		if e.Detail != "" {
			detail = e.Detail
		}
		out := &plugins.Error{Kind: plugins.Unavailable, Message: words, Place: e.Place, Hint: e.Hint, Detail: detail, Err: err}
		if out.Hint == "" {
			out.Hint = culprit.leader.advice()
		}
		out = out.WithPlace("%s", g.proc.Label())
		g.failed(out)
		return out
	case kind == plugins.Corrupt && !keep:
		out := e.WithPlace("%s", g.proc.Label())
		g.failed(out)
		return out
	}
	return e.WithPlace("%s", g.proc.Label())
}

// silent is the rank that was ended as it gave no sign of life; nil: none was.
func (g guard) silent() *Process {
	for _, p := range g.proc.Ranks() {
		if p.pulse.over.Load() > 0 {
			return p
		}
	}
	return nil
}

// passed says whether a deadline is over. On a busy machine the answer to a call whose time is up may come before the context's own timer has run.
func passed(limited context.Context) bool {
	deadline, ok := limited.Deadline()
	return limited.Err() != nil || ok && !time.Now().Before(deadline)
}

func (g guard) whatItDoes() string {
	if busy := g.ask(context.Background()).busy; len(busy) > 0 {
		return fmt.Sprintf(" (it says it is busy with %s)", strings.Join(busy[:min(4, len(busy))], ", "))
	}
	return ""
}

// mostDeadlines bounds how often a deadline may begin anew, so that a plugin which notes headway for ever is not waited for as long.
const mostDeadlines = 1000

// leastWork is the share of one core that a process group must have used lately to count as working.
const leastWork = 0.05

// sample is for how long that is looked at, at most.
const sample = 10 * time.Second

// errOutOfTime and errWorkedOn say why a call's context was ended by [guard.within].
var (
	errOutOfTime = errors.New("the deadline passed")
	errWorkedOn  = errors.New("the deadline passed many times, though the plugin was at work")
)

// within gives the context of a call that may take so long, counted from the last headway (the time since then; nil: from now). When the time is over and the process
// is seen to work, its heart beating and its group using the processor or waiting for a disk, as in compiling or loading a large checkpoint, the call goes on for as long as that
// holds, up to patience times the limit. One that waits for what does not come does neither, and ends. The function that comes with it ends the watch.
func (g guard) within(ctx context.Context, limit time.Duration, headway func() time.Duration) (context.Context, func()) {
	limited, cancel := context.WithCancelCause(ctx)
	if headway == nil {
		began := time.Now()
		headway = func() time.Duration { return time.Since(began) }
	}
	window := min(limit/4, sample)
	timer := time.AfterFunc(limit-window, func() { cancel(g.await(limited, limit, window, headway)) })
	for _, p := range g.proc.Ranks() { // a call to rank 0 is work of all
		p.pulse.calls.Add(1)
	}
	return limited, func() {
		timer.Stop()
		cancel(nil)
		for _, p := range g.proc.Ranks() {
			p.pulse.calls.Add(-1)
		}
	}
}

// await returns why a call has had its time, as soon as it has; at the start all but window of it is over.
func (g guard) await(ctx context.Context, limit, window time.Duration, headway func() time.Duration) error {
	most := time.Duration(max(1, g.patience) * float64(limit))
	for renewed := 0; renewed < mostDeadlines; {
		age := headway()
		if rest := limit - window - age; rest > 0 {
			renewed++
			if !wait(ctx, rest) {
				return nil
			}
			continue
		}
		before := effortOf(g.proc.groups()...)
		if !wait(ctx, min(window, max(most-age, 0))) {
			return nil
		}
		switch age = headway(); {
		case age < limit: // it came further meanwhile, or the clock is coarse
		case age >= most && g.patience > 1 && before.known && g.proc.pulse.beating():
			return errWorkedOn
		case age >= most, !g.proc.pulse.beating(), !atWork(before, effortOf(g.proc.groups()...), window):
			return errOutOfTime
		}
	}
	return errOutOfTime
}

// wait returns false when ctx ended first.
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

// watched runs f with a deadline that begins anew with the headway that the plugin notes of its own accord: a call may hold many clips, each of which takes
// minutes. Whoever notes none has one deadline for the whole.
func (g guard) watched(ctx context.Context, what, setting string, limit time.Duration, f func(ctx context.Context) error) error {
	if fault.On {
		defer g.mayDie(what)()
	}
	began := time.Now()
	limited, end := g.within(ctx, limit, func() time.Duration {
		if a := g.ask(ctx); len(a.busy) > 0 {
			return min(a.since, time.Since(began))
		}
		return time.Since(began)
	})
	defer end()
	return g.judge(ctx, limited, what, setting, limit, false, f(limited))
}

// headway runs f with a deadline that begins anew whenever f reports headway of a thousandth or more: a thousand deadlines bound the whole.
func (g guard) headway(ctx context.Context, what, setting string, limit time.Duration, f func(ctx context.Context, alive func(done float64)) error) error {
	if fault.On {
		defer g.mayDie(what)()
	}
	var mu sync.Mutex
	best, last := 0.0, time.Now()
	limited, end := g.within(ctx, limit, func() time.Duration {
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
	return g.judge(ctx, limited, what, setting, limit, false, err)
}

func (g guard) info(ctx context.Context, p plugins.Plugin) (i plugins.Info, err error) {
	err = g.call(ctx, "Info", "start_timeout_s", g.limits.Ask, false, func(ctx context.Context) error { i, err = p.Info(ctx); return err })
	return i, err
}

func (g guard) configure(ctx context.Context, p plugins.Plugin, c plugins.Config) error {
	for _, rank := range g.proc.Ranks() {
		rank.pulse.slow.Add(1)
		defer rank.pulse.slow.Add(-1)
	}
	return g.call(ctx, "Configure", "start_timeout_s", g.limits.Configure, true, func(ctx context.Context) error { return p.Configure(ctx, c) })
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
	err = g.call(ctx, "Describe", "start_timeout_s", g.limits.Ask, false, func(ctx context.Context) error { s, err = g.e.Describe(ctx); return err })
	return s, err
}

func (g *guardedEnv) Tasks(ctx context.Context) iter.Seq2[env.Task, error] {
	return func(yield func(env.Task, error) bool) {
		if fault.On {
			defer g.mayDie("Tasks")()
		}
		limited, end := g.within(ctx, g.limits.Tasks, nil)
		defer end()
		for t, err := range g.e.Tasks(limited) {
			if !yield(t, g.judge(ctx, limited, "Tasks", "start_timeout_s", g.limits.Tasks, false, err)) {
				return
			}
		}
	}
}

func (g *guardedEnv) Reset(ctx context.Context, r env.Reset) (t env.Transition, err error) {
	what := fmt.Sprintf("Reset of lane %d", r.Lane)
	err = g.call(ctx, what, "reset_timeout_s", g.limits.Reset, false, func(ctx context.Context) error { t, err = g.e.Reset(ctx, r); return err })
	return t, err
}

func (g *guardedEnv) Step(ctx context.Context, s env.Step) (t env.Transition, err error) {
	what := fmt.Sprintf("Step of lane %d", s.Lane)
	err = g.call(ctx, what, "step_timeout_s", g.limits.Step, false, func(ctx context.Context) error { t, err = g.e.Step(ctx, s); return err })
	return t, err
}

func (g *guardedEnv) StepExpert(ctx context.Context, s env.ExpertStep) (t env.Transition, err error) {
	what := fmt.Sprintf("Step of lane %d", s.Lane)
	err = g.call(ctx, what, "step_timeout_s", g.limits.Step, false, func(ctx context.Context) error {
		t, err = env.StepExpert(ctx, g.e, s)
		return err
	})
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
	err = g.call(ctx, "Describe", "start_timeout_s", g.limits.Ask, false, func(ctx context.Context) error { s, err = g.p.Describe(ctx); return err })
	return s, err
}

func (g *guardedPolicy) Act(ctx context.Context, a policy.Act) (r []policy.Result, err error) {
	what := fmt.Sprintf("Act on %d observations", len(a.Items))
	err = g.call(ctx, what, "act_timeout_s", g.limits.Act, false, func(ctx context.Context) error { r, err = g.p.Act(ctx, a); return err })
	return r, err
}

func (g *guardedPolicy) Update(ctx context.Context, u policy.Update, progress func(float64)) (s policy.Statistics, err error) {
	err = g.headway(ctx, fmt.Sprintf("Update %d", u.ID), "update_timeout_s", g.limits.Update, func(ctx context.Context, alive func(float64)) error {
		s, err = g.p.Update(ctx, u, func(done float64) {
			alive(done)
			if progress != nil {
				progress(done)
			}
		})
		return err
	})
	return s, err
}

func (g *guardedPolicy) Imitate(ctx context.Context, im policy.Imitate, demos iter.Seq2[policy.Demonstration, error], progress func(done, loss float64)) error {
	imitator, ok := g.p.(policy.Imitator)
	if !ok {
		return plugins.Errorf(plugins.Unsupported, "does not learn from demonstrations").WithPlace("%s", g.proc.Label())
	}
	return g.headway(ctx, "Imitate", "update_timeout_s", g.limits.Update, func(ctx context.Context, alive func(float64)) error {
		return imitator.Imitate(ctx, im, demos, func(done, loss float64) {
			alive(done)
			if progress != nil {
				progress(done, loss)
			}
		})
	})
}

func (g *guardedPolicy) Forget(ctx context.Context, trajectories []string) error {
	return g.call(ctx, "Forget", "act_timeout_s", g.limits.Act, false, func(ctx context.Context) error { return g.p.Forget(ctx, trajectories) })
}

func (g *guardedPolicy) Save(ctx context.Context, folder string) error {
	return g.call(ctx, "Save", "save_timeout_s", g.limits.Save, true, func(ctx context.Context) error { return g.p.Save(ctx, folder) })
}

func (g *guardedPolicy) Load(ctx context.Context, folder string) (id uint64, err error) {
	err = g.call(ctx, "Load", "save_timeout_s", g.limits.Save, true, func(ctx context.Context) error { id, err = g.p.Load(ctx, folder); return err })
	return id, err
}

func (g *guardedPolicy) BeginRun(ctx context.Context, folder string) (id uint64, err error) {
	err = g.call(ctx, "Load", "save_timeout_s", g.limits.Save, true, func(ctx context.Context) error { id, err = policy.BeginRun(ctx, g.p, folder); return err })
	return id, err
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
	err = g.call(ctx, "Describe", "start_timeout_s", g.limits.Ask, false, func(ctx context.Context) error { s, err = g.e.Describe(ctx); return err })
	return s, err
}

func (g *guardedEncoder) Encode(ctx context.Context, clips []plugins.Tensor) (v [][]float32, err error) {
	what := fmt.Sprintf("Encode of %d clips", len(clips))
	err = g.watched(ctx, what, "encode_timeout_s", g.limits.Encode, func(ctx context.Context) error { v, err = g.e.Encode(ctx, clips); return err })
	return v, err
}

func (g *guardedEncoder) EncodeWindows(ctx context.Context, clip plugins.Tensor, ends []int) (v [][]float32, err error) {
	w, ok := g.e.(encoder.Windower)
	if !ok {
		return nil, plugins.Errorf(plugins.Unsupported, "does not encode windows").WithPlace("%s", g.proc.Label())
	}
	what := fmt.Sprintf("EncodeWindows of %d windows", len(ends))
	err = g.watched(ctx, what, "encode_timeout_s", g.limits.Encode, func(ctx context.Context) error { v, err = w.EncodeWindows(ctx, clip, ends); return err })
	return v, err
}
