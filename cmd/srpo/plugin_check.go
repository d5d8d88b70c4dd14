package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/lock"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
	"github.com/srpo-dev/srpo/sdk/plugintest"
)

// cleanStop is how long a plugin may take to stop when asked.
const cleanStop = 2 * time.Second

func (a *app) pluginTest() *cobra.Command {
	var file, kind, envName, task string
	var set []string
	var deadline time.Duration
	c := &cobra.Command{
		Use:   "test NAME|FOLDER",
		Short: "Check that a plugin keeps the contract",
		Long: "test starts a plugin as a run does and checks what it promises: spaces, determinism by seed, chunk ends, terminated against truncated, bad\n" +
			"requests refused, a quiet stdout, a clean stop; once with tensors in shared memory and once in the messages, which must give the same.\n" +
			"A package that is in srpo.lock may have changed: testing is what one does before srpo plugin lock.",
		Example: "  srpo plugin test ./my-env\n  srpo plugin test ./my-env --set noise=0.1\n  srpo plugin test ./my-policy --env ./my-env\n  srpo plugin test libero-plus --task '*/noise/*'",
		Args:    oneArg("one plugin"),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := parseKind(kind)
			if err != nil {
				return err
			}
			w, err := a.workbench(file, nil)
			if err != nil {
				return err
			}
			pkg, err := w.find(k, args[0])
			if err != nil {
				return err
			}
			for i, s := range set { // NAME=VALUE is the plugin's own
				if name, _, _ := strings.Cut(s, "="); !strings.Contains(name, ".") {
					set[i] = fmt.Sprintf("%s.%s.%s", pkg.Kind, pkg.Name, s)
				}
			}
			if w, err = a.workbench(file, set); err != nil {
				return err
			}
			defer w.term.Close()
			return (&examination{app: a, w: w, pkg: pkg, envName: envName, task: task, deadline: deadline}).run(c.Context())
		},
	}
	c.Flags().StringVar(&kind, "kind", "", "env, policy or encoder, where a name is not enough")
	c.Flags().StringVar(&envName, "env", "tabletop", "for policies: the env that they are to act in")
	c.Flags().StringVar(&task, "task", "", "for envs: check the first task whose id matches, * matches anything; default: the first that can run")
	c.Flags().DurationVar(&deadline, "deadline", 5*time.Minute, "for each check")
	c.Flags().StringVar(&file, "config", "", "configuration file; default srpo.toml where there is one")
	c.Flags().StringArrayVar(&set, "set", nil, "the plugin's own setting, e.g. --set noise=0.1; may be repeated")
	return c
}

// examination is one `srpo plugin test`.
type examination struct {
	app      *app
	w        *workbench
	pkg      catalog.Package
	envName  string
	task     string // pattern, for envs
	deadline time.Duration

	launch  supervise.Launch
	logDir  string
	envSpec plugins.EnvSpec
	results []examined
	printed map[failure]string // by failure, the check whose text was printed in full

	passed, skipped, failed int
}

// examined is what came of one check.
type examined struct {
	// Part is "process", "shared memory", "messages" or "both".
	Part    string  `json:"part"`
	Check   string  `json:"check"`
	Outcome string  `json:"outcome"` // "pass", "fail" or "skip"
	Seconds float64 `json:"seconds"`
	Message string  `json:"message,omitempty"`
	Place   string  `json:"place,omitempty"`
	Hint    string  `json:"hint,omitempty"`
	Detail  string  `json:"detail,omitempty"`
}

// failure identifies what failed. The hint is not part of it, as it can name the log of one process.
type failure struct{ message, place, detail string }

func (x *examination) run(ctx context.Context) error {
	began := time.Now()
	var drop func()
	var err error
	if x.launch, err = x.w.launch(ctx, x.pkg); err != nil {
		return err
	}
	if x.pkg.Kind == plugins.Policy {
		if x.envSpec, err = x.describeEnv(ctx); err != nil {
			return err
		}
	}
	if x.logDir, drop, err = x.w.logs("test-" + x.pkg.Name); err != nil {
		return err
	}
	defer func() {
		if x.failed == 0 {
			drop()
		}
	}()
	where := string(x.pkg.Origin)
	if x.pkg.Origin == catalog.Folder {
		where = x.pkg.Dir
	}
	x.say("%s %s %s (%s)", x.pkg.Kind, x.pkg.Name, x.pkg.Version, where)
	x.lockState()

	shared, messages := &transcript{}, &transcript{}
	ok, err := x.examine(ctx, "shared memory", max(x.w.arenaBytes(), 64<<20), shared)
	if err == nil && ok {
		ok, err = x.examine(ctx, "messages", 0, messages)
	}
	if err != nil {
		return err
	}
	if ok {
		x.say("")
		what, difference := shared.compare(messages)
		if what == 0 {
			difference = plugintest.Skip("no call to compare")
		}
		x.note("both", fmt.Sprintf("shared memory and messages give the same answers (%d calls)", what), difference, 0)
	}
	if x.app.json {
		if err := x.app.printJSON(map[string]any{"kind": x.pkg.Kind, "name": x.pkg.Name, "version": x.pkg.Version, "folder": x.pkg.Dir,
			"passed": x.passed, "skipped": x.skipped, "failed": x.failed, "seconds": time.Since(began).Seconds(), "checks": x.results}); err != nil {
			return err
		}
	}
	words := fmt.Sprintf("\n%d passed, %d skipped, %d failed, in %s", x.passed, x.skipped, x.failed, took(time.Since(began)))
	if x.failed > 0 {
		x.say("%s; everything that it printed is in %s", words, x.logDir)
		return errReported
	}
	x.say("%s", words)
	return nil
}

// say prints a line for a person.
func (x *examination) say(format string, args ...any) {
	if !x.app.json {
		fmt.Fprintf(x.app.out, format+"\n", args...)
	}
}

// note prints and counts the result of a check; err nil: passed, a plugintest.Skip: did not apply.
func (x *examination) note(part, check string, err error, d time.Duration) {
	e := examined{Part: part, Check: check, Outcome: "pass", Seconds: d.Seconds()}
	var skip plugintest.Skip
	mark := "✓"
	switch {
	case errors.As(err, &skip):
		x.skipped++
		e.Outcome, e.Message, mark = "skip", skip.Error(), "-"
	case err != nil:
		x.failed++
		f := plugins.AsError(err)
		e.Outcome, e.Message, e.Place, e.Hint, e.Detail, mark = "fail", f.Message, f.Place, f.Hint, f.Detail, "✗"
	default:
		x.passed++
	}
	x.results = append(x.results, e)
	line := fmt.Sprintf("%s %s", mark, check)
	if d >= time.Millisecond {
		line = fmt.Sprintf("%s %-76s %8s", mark, check, took(d))
	}
	switch e.Outcome {
	case "skip":
		line = fmt.Sprintf("%s %s: %s", mark, check, e.Message)
	case "fail":
		line += x.failureText(e)
	}
	x.say("%s", line)
}

// failureText returns the indented text of a failed check. A failure that an earlier check had is not repeated in full.
func (x *examination) failureText(e examined) string {
	f := failure{e.Message, e.Place, e.Detail}
	if first, ok := x.printed[f]; ok {
		return "\n    the same failure as in " + first
	}
	if x.printed == nil {
		x.printed = map[failure]string{}
	}
	x.printed[f] = fmt.Sprintf("%q (%s)", e.Check, e.Part)
	message := e.Message
	if e.Place != "" {
		message = e.Place + ": " + message
	}
	text := "\n    " + message
	for _, l := range strings.Split(strings.TrimRight(e.Detail, "\n"), "\n") {
		if l != "" {
			text += "\n    | " + l
		}
	}
	if e.Hint != "" {
		text += "\n    try: " + e.Hint
	}
	return text
}

func took(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// lockState says whether srpo.lock knows the package as it is.
func (x *examination) lockState() {
	if x.pkg.Origin != catalog.Folder {
		return
	}
	f, err := lock.Load(x.w.prep.Lock)
	if err != nil {
		return // a run will say so
	}
	if err := f.Verify(lock.Package{Kind: x.pkg.Kind, Name: x.pkg.Name, Version: x.pkg.Version, Dir: x.pkg.Dir}); plugins.KindOf(err) == plugins.Corrupt {
		x.say("- srpo.lock has another state of it (%s): before a run, srpo plugin lock %s", strings.ReplaceAll(plugins.AsError(err).Detail, "\n", ", "), x.pkg.Dir)
	}
}

// describeEnv asks the env that a policy is to act in what it is.
func (x *examination) describeEnv(ctx context.Context) (spec plugins.EnvSpec, err error) {
	pkg, err := x.w.find(plugins.Env, x.envName)
	if err != nil {
		return spec, plugins.AsError(err).WithPlace("--env %s", x.envName)
	}
	if err := x.w.respectLock(pkg); err != nil {
		return spec, err
	}
	err = x.w.ask(ctx, pkg, func(ctx context.Context, p plugins.Plugin) error {
		i, err := p.Info(ctx)
		if err != nil {
			return err
		}
		settings, err := x.w.cfg.ResolvePlugin(plugins.Env, pkg.Name, i.Settings)
		if err != nil {
			return err
		}
		if err := p.Configure(ctx, plugins.Config{Settings: settings, WorldSize: 1, Lanes: 1}); err != nil {
			return err
		}
		spec, err = p.(env.Env).Describe(ctx)
		return err
	})
	return spec, err
}

// examine runs all checks on one process. alive is false when there was none to talk to. The error is of something that keeps the examination from going
// on at all, such as Ctrl-C.
func (x *examination) examine(ctx context.Context, part string, arenaBytes int, t *transcript) (alive bool, err error) {
	title := "tensors in " + part
	x.say("\n%s", title)
	s, err := x.w.supervisor(filepath.Join(x.logDir, strings.ReplaceAll(part, " ", "-")), arenaBytes)
	if err != nil {
		return false, err
	}
	defer s.Close()
	began := time.Now()
	processes := 1
	if x.pkg.Kind == plugins.Policy {
		processes = max(1, x.w.cfg.Host.PolicyProcesses) // 0 is for runs
	}
	p, err := s.StartRanks(ctx, x.launch, processes)
	if err == nil && arenaBytes > 0 && p.Arena() == nil {
		err = plugins.Errorf(plugins.Unsupported, "there is no shared memory")
	}
	x.note(part, "it starts and shakes hands", err, time.Since(began))
	if err != nil {
		return false, stopRequested(ctx)
	}
	defer p.Stop()

	var client plugins.Plugin
	switch x.pkg.Kind {
	case plugins.Env:
		client = &heardEnv{Client: env.NewClient(p.Conn(), p.Arena()), t: t}
	case plugins.Policy:
		h := &heardPolicy{t: t, super: s}
		for _, q := range p.Ranks() {
			h.ranks = append(h.ranks, policy.NewClient(q.Conn(), q.Arena()))
		}
		h.Client = h.ranks[0].(*policy.Client)
		client = h
	default:
		client = &heardEncoder{Client: encoder.NewClient(p.Conn(), p.Arena()), t: t}
	}
	began = time.Now()
	given, err := x.given(ctx, client)
	if w := (wrongSetting{}); errors.As(err, &w) {
		return false, w.error
	}
	var mismatch error
	if err == nil && x.pkg.Manifest != nil {
		mismatch = x.sameAsManifest(ctx, client)
	}
	if x.pkg.Manifest != nil || err != nil {
		x.note(part, "Info says what plugin.toml says", died(p, cmp.Or(err, mismatch)), time.Since(began))
	}
	if err == nil {
		plugintest.Run(ctx, x.checks(client, given), x.deadline, func(r plugintest.Result) {
			if ctx.Err() == nil { // after Ctrl-C nothing is the plugin's fault
				x.note(part, r.Name, died(p, r.Err), r.Took)
			}
		})
	}
	if err := stopRequested(ctx); err != nil {
		return false, err
	}
	var stray error
	groups := map[*supervise.Process]int{}
	for _, q := range p.Ranks() {
		stray = cmp.Or(stray, strayOutput(q.LogFile()))
		groups[q] = q.PID()
	}
	x.note(part, "nothing but the handshake is printed on stdout", stray, 0)
	select {
	case <-p.Exited():
		return true, nil // said already
	default:
	}
	began = time.Now()
	p.Stop()
	d := time.Since(began)
	var unclean error
	for _, q := range p.Ranks() {
		unclean = cmp.Or(unclean, stoppedCleanly(q, groups[q], d))
	}
	x.note(part, "it stops when asked, and leaves nobody behind", unclean, d)
	return true, nil
}

func stopRequested(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return plugins.Errorf(plugins.Canceled, "the test was stopped: %w", context.Cause(ctx))
}

// wrongSetting is an error of whoever typed the command, not of the plugin.
type wrongSetting struct{ error }

// given returns the settings that srpo.toml and --set give to the plugin.
func (x *examination) given(ctx context.Context, p plugins.Plugin) (map[string]any, error) {
	i, err := p.Info(ctx)
	if err != nil {
		return nil, err
	}
	values, err := x.w.cfg.ResolvePlugin(x.pkg.Kind, x.pkg.Name, i.Settings)
	if err != nil {
		return nil, wrongSetting{err}
	}
	given := map[string]any{}
	for name, v := range values {
		given[name] = v
	}
	return given, nil
}

// sameAsManifest compares Info with plugin.toml.
func (x *examination) sameAsManifest(ctx context.Context, p plugins.Plugin) error {
	i, err := p.Info(ctx)
	if err != nil {
		return err
	}
	for _, f := range []struct{ what, said, written string }{{"name", i.Name, x.pkg.Name}, {"version", i.Version, x.pkg.Version}} {
		if f.said != f.written {
			return plugins.Errorf(plugins.Mismatch, "Info says %s %q, plugin.toml %q", f.what, f.said, f.written).WithHint("make them the same")
		}
	}
	if x.pkg.Manifest.Settings == nil {
		return nil
	}
	said, written := map[string]bool{}, map[string]bool{}
	for _, s := range i.Settings {
		said[s.Name] = true
	}
	for _, name := range x.pkg.Manifest.Settings {
		if written[name] = true; !said[name] {
			return plugins.Errorf(plugins.Mismatch, "plugin.toml lists the setting %q, which Info does not declare", name).WithHint("make the lists the same, or leave settings out of plugin.toml")
		}
	}
	for _, s := range i.Settings {
		if !written[s.Name] {
			return plugins.Errorf(plugins.Mismatch, "Info declares the setting %q, which is not among the settings of plugin.toml", s.Name).
				WithHint("make the lists the same, or leave settings out of plugin.toml")
		}
	}
	return nil
}

func (x *examination) checks(client plugins.Plugin, given map[string]any) []plugintest.Check {
	switch c := client.(type) {
	case *heardEnv:
		return plugintest.EnvTask(c, given, x.task)
	case *heardPolicy:
		folder := filepath.Join(x.logDir, "saved")
		_ = os.RemoveAll(folder)
		_ = os.MkdirAll(folder, 0o755)
		return plugintest.Policy(c, given, x.envSpec, folder)
	case *heardEncoder:
		return plugintest.Encoder(c, given)
	}
	return nil
}

// died adds to an error how the process ended and what it said last, when that is what happened.
func died(p *supervise.Process, err error) error {
	if plugins.KindOf(err) != plugins.Unavailable {
		return err
	}
	select {
	case <-p.Exited():
	case <-time.After(3 * time.Second):
		return err
	}
	who := p.FirstFailed()
	return plugins.Errorf(plugins.Unavailable, "it %s during this check", p.ExitReason()).WithDetail(who.LastLines(20)).WithHint("read %s", who.LogFile())
}

// strayOutput looks into a plugin's log for lines that came from stdout.
func strayOutput(log string) error {
	f, err := os.Open(log)
	if err != nil {
		return plugintest.Skip("no log: " + err.Error())
	}
	defer f.Close()
	var found []string
	n := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() { // TIME SOURCE TEXT
		if _, rest, ok := strings.Cut(lines.Text(), " "); ok {
			if text, ok := strings.CutPrefix(rest, "out  "); ok {
				if n++; len(found) < 5 {
					found = append(found, text)
				}
			}
		}
	}
	if n == 0 {
		return nil
	}
	return plugins.Errorf(plugins.Corrupt, "%s on stdout", count(n, "line")).WithDetail(strings.Join(found, "\n")).WithHint("print to stderr instead: it is kept in the plugin's log")
}

// stoppedCleanly says what is wrong with how a plugin stopped.
func stoppedCleanly(p *supervise.Process, group int, d time.Duration) error {
	fate := p.ExitReason()
	switch {
	case strings.HasPrefix(fate, "was stopped by srpo"):
		return plugins.Errorf(plugins.Deadline, "it did not stop by itself within %s and was killed", took(d)).
			WithHint("end the process when the server is told to stop; both SDKs do. A thread that never ends keeps it alive: make it a daemon")
	case d > cleanStop:
		return plugins.Errorf(plugins.Deadline, "it took %s to stop, %v are allowed", took(d), cleanStop).WithHint("leave nothing for the end that takes long")
	case fate != "exited with status 0":
		return plugins.Errorf(plugins.Unavailable, "it %s when it was asked to stop", fate).WithDetail(p.LastLines(20)).WithHint("read %s", p.LogFile())
	}
	var left []string
	for end := time.Now().Add(cleanStop); time.Now().Before(end); time.Sleep(20 * time.Millisecond) { // what was killed with it may take a moment to end
		if left = living(group); len(left) == 0 {
			return nil
		}
	}
	return plugins.Errorf(plugins.Corrupt, "processes of its group live on: %s", strings.Join(left, ", ")).WithHint("end the plugin's children with it")
}

// living are the processes of a group that have not ended, as "PID NAME". One that has ended and that init has not taken note of (a zombie) is not one of them.
func living(group int) (left []string) {
	if unix.Kill(-group, 0) == unix.ESRCH {
		return nil
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended meanwhile
		}
		// proc(5): "PID (NAME) STATE PPID PGRP ...", and a name may hold blanks and brackets.
		before, after, _ := strings.Cut(string(data), " (")
		i := strings.LastIndex(after, ") ")
		if i < 0 {
			continue
		}
		if f := strings.Fields(after[i+2:]); len(f) > 2 && f[2] == strconv.Itoa(group) && f[0] != "Z" && f[0] != "X" {
			left = append(left, before+" "+after[:i])
		}
	}
	return left
}
