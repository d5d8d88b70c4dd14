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

// cleanStop is the time in which a plugin must stop on request.
const cleanStop = 2 * time.Second

func (a *app) pluginTest() *cobra.Command {
	var file, kind, envName, task string
	var set []string
	var deadline time.Duration
	c := &cobra.Command{
		Use:   "test NAME|FOLDER",
		Short: "Check that a plugin keeps the contract",
		Long: "test starts a plugin as a run does and checks the contract: spaces, determinism by seed, start\n" +
			"states, ends of chunks and episodes, refusal of bad requests, a quiet stdout and a clean stop. It\n" +
			"does so once with tensors in shared memory and once with tensors in messages, which must give the\n" +
			"same replies. It ignores srpo.lock, so that you can test a changed package before srpo plugin\n" +
			"lock.",
		Example: "  srpo plugin test ./my-env\n" +
			"  srpo plugin test ./my-env --set noise=0.1\n" +
			"  srpo plugin test ./my-policy --env ./my-env\n" +
			"  srpo plugin test libero-plus --task '*/noise/*'",
		Args: oneArg("one plugin"),
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
			for i, s := range set { // NAME=VALUE is a setting of the plugin
				if name, _, _ := strings.Cut(s, "="); !strings.Contains(name, ".") {
					set[i] = fmt.Sprintf("%s.%s.%s", pkg.Kind, pkg.Name, s)
				}
			}
			if w, err = a.workbench(file, set); err != nil {
				return err
			}
			defer w.term.Close()
			x := &contractTest{app: a, w: w, pkg: pkg, envName: envName, task: task, deadline: deadline}
			return x.run(c.Context())
		},
	}
	c.Flags().StringVar(&kind, "kind", "", "env, policy or encoder, if the name is ambiguous")
	c.Flags().StringVar(&envName, "env", "tabletop", "for policies: the env in which to act")
	c.Flags().StringVar(&task, "task", "", "for envs: check the first task whose ID matches; * matches anything")
	c.Flags().DurationVar(&deadline, "deadline", 5*time.Minute, "time limit of each check")
	c.Flags().StringVar(&file, "config", "", "configuration file; default: srpo.toml, if it exists")
	c.Flags().StringArrayVar(&set, "set", nil, "a setting of the plugin, e.g. --set noise=0.1; can be repeated")
	return c
}

// contractTest is one `srpo plugin test`.
type contractTest struct {
	app      *app
	w        *workbench
	pkg      catalog.Package
	envName  string
	task     string // pattern, for envs
	deadline time.Duration

	launch  supervise.Launch
	logDir  string
	envSpec plugins.EnvSpec
	results []checkResult
	printed map[failure]string // by failure, the check whose text was printed in full

	passed, skipped, failed int
}

// checkResult is the result of one check.
type checkResult struct {
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

func (x *contractTest) run(ctx context.Context) error {
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
	x.print("%s %s %s (%s)", x.pkg.Kind, x.pkg.Name, x.pkg.Version, where)
	x.reportLock()

	shared, messages := &transcript{}, &transcript{}
	ok, err := x.examine(ctx, "shared memory", max(x.w.arenaBytes(), 64<<20), shared)
	if err == nil && ok {
		ok, err = x.examine(ctx, "messages", 0, messages)
	}
	if err != nil {
		return err
	}
	if ok {
		x.print("")
		calls, difference := shared.compare(messages)
		if calls == 0 {
			difference = plugintest.Skip("no call to compare")
		}
		check := fmt.Sprintf("shared memory and messages give the same replies (%d calls)", calls)
		x.report("both", check, difference, 0)
	}
	if x.app.json {
		if err := x.app.printJSON(map[string]any{
			"kind": x.pkg.Kind, "name": x.pkg.Name, "version": x.pkg.Version, "folder": x.pkg.Dir,
			"passed": x.passed, "skipped": x.skipped, "failed": x.failed, "seconds": time.Since(began).Seconds(),
			"checks": x.results,
		}); err != nil {
			return err
		}
	}
	summary := fmt.Sprintf("\n%d passed, %d skipped, %d failed, in %s",
		x.passed, x.skipped, x.failed, took(time.Since(began)))
	if x.failed > 0 {
		x.print("%s; the log of the plugin is in %s", summary, x.logDir)
		return errReported
	}
	x.print("%s", summary)
	return nil
}

// print prints a line, unless the output is JSON.
func (x *contractTest) print(format string, args ...any) {
	if !x.app.json {
		fmt.Fprintf(x.app.out, format+"\n", args...)
	}
}

// report prints and counts the result of a check. A nil err means that it passed, and a plugintest.Skip that it
// does not apply.
func (x *contractTest) report(part, check string, err error, d time.Duration) {
	e := checkResult{Part: part, Check: check, Outcome: "pass", Seconds: d.Seconds()}
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
	x.print("%s", line)
}

// failureText returns the indented text of a failed check. A failure that an earlier check had is not repeated in
// full.
func (x *contractTest) failureText(e checkResult) string {
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

// reportLock prints a line if the package differs from srpo.lock.
func (x *contractTest) reportLock() {
	if x.pkg.Origin != catalog.Folder {
		return
	}
	f, err := lock.Load(x.w.prep.Lock)
	if err != nil {
		return // a run reports the error
	}
	err = f.Verify(lock.Package{Kind: x.pkg.Kind, Name: x.pkg.Name, Version: x.pkg.Version, Dir: x.pkg.Dir})
	if plugins.KindOf(err) == plugins.Corrupt {
		changes := strings.ReplaceAll(plugins.AsError(err).Detail, "\n", ", ")
		x.print("- it differs from srpo.lock (%s); a run locks it again if only you can write to it, otherwise: "+
			"srpo plugin lock %s", changes, x.pkg.Dir)
	}
}

// describeEnv returns the description of the env in which a policy acts.
func (x *contractTest) describeEnv(ctx context.Context) (spec plugins.EnvSpec, err error) {
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

// examine runs all checks on one process. alive is false if the process did not start. An error, such as Ctrl-C, ends
// the whole test.
func (x *contractTest) examine(ctx context.Context, part string, arenaBytes int,
	t *transcript) (alive bool, err error) {
	x.print("\ntensors in %s", part)
	s, err := x.w.supervisor(filepath.Join(x.logDir, strings.ReplaceAll(part, " ", "-")), arenaBytes)
	if err != nil {
		return false, err
	}
	defer s.Close()
	began := time.Now()
	processes := 1
	if x.pkg.Kind == plugins.Policy {
		processes = max(1, x.w.cfg.Host.PolicyProcesses) // 0 means that a run chooses
	}
	p, err := s.StartRanks(ctx, x.launch, processes)
	if err == nil && arenaBytes > 0 && p.Arena() == nil {
		err = plugins.Errorf(plugins.Unsupported, "there is no shared memory")
	}
	x.report(part, "it starts and completes the handshake", err, time.Since(began))
	if err != nil {
		return false, stopRequested(ctx)
	}
	defer p.Stop()

	client := x.client(s, p, t)
	began = time.Now()
	given, err := x.given(ctx, client)
	if w := (settingError{}); errors.As(err, &w) {
		return false, w.error
	}
	var mismatch error
	if err == nil && x.pkg.Manifest != nil {
		mismatch = x.sameAsManifest(ctx, client)
	}
	if x.pkg.Manifest != nil || err != nil {
		x.report(part, "Info agrees with plugin.toml", withExit(p, cmp.Or(err, mismatch)), time.Since(began))
	}
	if err == nil {
		plugintest.Run(ctx, x.checks(client, given), x.deadline, func(r plugintest.Result) {
			if ctx.Err() == nil { // after Ctrl-C, failures are not the plugin's
				x.report(part, r.Name, withExit(p, r.Err), r.Took)
			}
		})
	}
	if err := stopRequested(ctx); err != nil {
		return false, err
	}
	return true, x.examineEnd(part, p)
}

// client returns a client of the plugin that records its calls in t.
func (x *contractTest) client(s *supervise.Supervisor, p *supervise.Process, t *transcript) plugins.Plugin {
	switch x.pkg.Kind {
	case plugins.Env:
		return &recordingEnv{Client: env.NewClient(p.Conn(), p.Arena()), t: t}
	case plugins.Policy:
		h := &recordingPolicy{t: t, super: s}
		for _, q := range p.Ranks() {
			h.ranks = append(h.ranks, policy.NewClient(q.Conn(), q.Arena()))
		}
		h.Client = h.ranks[0].(*policy.Client)
		return h
	}
	return &recordingEncoder{Client: encoder.NewClient(p.Conn(), p.Arena()), t: t}
}

// examineEnd stops the plugin and reports what it printed on stdout and what it left behind.
func (x *contractTest) examineEnd(part string, p *supervise.Process) error {
	var stray error
	groups := map[*supervise.Process]int{}
	for _, q := range p.Ranks() {
		stray = cmp.Or(stray, checkStdout(q.LogFile()))
		groups[q] = q.PID()
	}
	x.report(part, "nothing but the handshake is printed on stdout", stray, 0)
	select {
	case <-p.Exited():
		return nil // already reported
	default:
	}
	began := time.Now()
	p.Stop()
	d := time.Since(began)
	var unclean error
	for _, q := range p.Ranks() {
		unclean = cmp.Or(unclean, checkStop(q, groups[q], d))
	}
	x.report(part, "it stops on request and leaves no process behind", unclean, d)
	return nil
}

func stopRequested(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return plugins.Errorf(plugins.Canceled, "the test was stopped: %w", context.Cause(ctx))
}

// settingError is an error in the user's settings, not of the plugin.
type settingError struct{ error }

// given returns the settings that srpo.toml and --set give to the plugin.
func (x *contractTest) given(ctx context.Context, p plugins.Plugin) (map[string]any, error) {
	i, err := p.Info(ctx)
	if err != nil {
		return nil, err
	}
	values, err := x.w.cfg.ResolvePlugin(x.pkg.Kind, x.pkg.Name, i.Settings)
	if err != nil {
		return nil, settingError{err}
	}
	given := map[string]any{}
	for name, v := range values {
		given[name] = v
	}
	return given, nil
}

// sameAsManifest compares Info with plugin.toml.
func (x *contractTest) sameAsManifest(ctx context.Context, p plugins.Plugin) error {
	i, err := p.Info(ctx)
	if err != nil {
		return err
	}
	for _, f := range []struct{ field, info, manifest string }{
		{"name", i.Name, x.pkg.Name}, {"version", i.Version, x.pkg.Version},
	} {
		if f.info != f.manifest {
			return plugins.Errorf(plugins.Mismatch, "Info has %s %q, plugin.toml has %q", f.field, f.info, f.manifest).
				WithHint("make them the same")
		}
	}
	if x.pkg.Manifest.Settings == nil {
		return nil
	}
	declared, listed := map[string]bool{}, map[string]bool{}
	for _, s := range i.Settings {
		declared[s.Name] = true
	}
	for _, name := range x.pkg.Manifest.Settings {
		if listed[name] = true; !declared[name] {
			return plugins.Errorf(plugins.Mismatch,
				"plugin.toml lists the setting %q, which Info does not declare", name).
				WithHint("make the lists the same, or leave settings out of plugin.toml")
		}
	}
	for _, s := range i.Settings {
		if !listed[s.Name] {
			return plugins.Errorf(plugins.Mismatch,
				"Info declares the setting %q, which plugin.toml does not list", s.Name).
				WithHint("make the lists the same, or leave settings out of plugin.toml")
		}
	}
	return nil
}

func (x *contractTest) checks(client plugins.Plugin, given map[string]any) []plugintest.Check {
	switch c := client.(type) {
	case *recordingEnv:
		return plugintest.EnvTask(c, given, x.task)
	case *recordingPolicy:
		folder := filepath.Join(x.logDir, "saved")
		_ = os.RemoveAll(folder)
		_ = os.MkdirAll(folder, 0o755)
		return plugintest.Policy(c, given, x.envSpec, folder)
	case *recordingEncoder:
		return plugintest.Encoder(c, given)
	}
	return nil
}

// withExit returns how the process ended and the end of its log, if err means that the process is gone, and err
// otherwise.
func withExit(p *supervise.Process, err error) error {
	if plugins.KindOf(err) != plugins.Unavailable {
		return err
	}
	select {
	case <-p.Exited():
	case <-time.After(3 * time.Second):
		return err
	}
	failed := p.FirstFailed()
	return plugins.Errorf(plugins.Unavailable, "it %s during this check", p.ExitReason()).
		WithDetail(failed.LastLines(20)).WithHint("read %s", failed.LogFile())
}

// checkStdout returns an error if a plugin's log has lines from stdout.
func checkStdout(log string) error {
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
	return plugins.Errorf(plugins.Corrupt, "%s on stdout", count(n, "line")).WithDetail(strings.Join(found, "\n")).
		WithHint("print to stderr instead: it is kept in the plugin's log")
}

// checkStop returns an error if a plugin did not stop cleanly within d.
func checkStop(p *supervise.Process, group int, d time.Duration) error {
	reason := p.ExitReason()
	switch {
	case strings.HasPrefix(reason, "was stopped by srpo"):
		return plugins.Errorf(plugins.Deadline, "it did not stop by itself within %s and was killed", took(d)).
			WithHint("end the process when the server stops; a thread that never ends must be a daemon")
	case d > cleanStop:
		return plugins.Errorf(plugins.Deadline, "it took %s to stop, %v are allowed", took(d), cleanStop).
			WithHint("do no long work at the end")
	case reason != "exited with status 0":
		return plugins.Errorf(plugins.Unavailable, "it %s when it was asked to stop", reason).
			WithDetail(p.LastLines(20)).WithHint("read %s", p.LogFile())
	}
	var left []string // killed processes can take a moment to end
	for end := time.Now().Add(cleanStop); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if left = runningProcesses(group); len(left) == 0 {
			return nil
		}
	}
	return plugins.Errorf(plugins.Corrupt, "processes of its group are still running: %s", strings.Join(left, ", ")).
		WithHint("end the plugin's children with it")
}

// runningProcesses returns the processes of a group, without zombies, as "PID NAME".
func runningProcesses(group int) (left []string) {
	if unix.Kill(-group, 0) == unix.ESRCH {
		return nil
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended in the meantime
		}
		// proc(5): "PID (NAME) STATE PPID PGRP ...", and a name can contain spaces and parentheses.
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
