package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/plugins"
)

const (
	// reportEnv names the variable with the descriptor that a program writes its reports to, one JSON
	// object per line. reportFD is that descriptor.
	reportEnv = "SRPO_REPORT_FD"
	reportFD  = 4
	// maxReport is the largest report, in bytes.
	maxReport = 1 << 20
)

// Report is a message of a helper program, a JSON object with these fields in lower case. One of Say,
// Phase, Result and Error is set.
type Report struct {
	// Say is a sentence for the user.
	Say string
	// Phase names the current work: Done of Total units, where Total is known. Note adds details.
	Phase       string
	Done, Total float64
	Note        string
	// Result is the result of the program.
	Result json.RawMessage
	// Error is the reason for a failure. Kind is the name of a [plugins.ErrorKind].
	Error *struct{ Kind, Message, Place, Hint string }
}

func (r Report) err() *plugins.Error {
	kind := plugins.Internal
	for k := plugins.Invalid; k <= plugins.Diverged; k++ {
		if k.String() == r.Error.Kind {
			kind = k
		}
	}
	message := r.Error.Message
	if strings.TrimSpace(message) == "" {
		message = "it reported an error without a message"
	}
	e := plugins.Errorf(kind, "%s", message).WithHint("%s", r.Error.Hint)
	if r.Error.Place != "" {
		e = e.WithPlace("%s", r.Error.Place)
	}
	return e
}

// Program is a helper program: it runs to its end, with the environments, process group, lifeline and log
// of a plugin, but without a handshake.
type Program struct {
	Launch
	// Log is the file for everything that it prints.
	Log string
	// EnvAllow are names of environment variables that it gets in addition to [EnvAllow].
	EnvAllow []string
	// Grace is the time that it has to end after SIGTERM when the context ends; default 1.5 s. Then its
	// process group is killed.
	Grace time.Duration
	// OnReport receives its reports. May be nil.
	OnReport func(Report)
}

// Run runs the program and returns the result that it reported. The error is the one that it reported, or
// describes how it ended, with its last lines.
func (p Program) Run(ctx context.Context) (json.RawMessage, error) {
	orDefault(&p.Grace, 1500*time.Millisecond)
	folder, err := newRunFolder() // its tag lets the next srpo kill what a killed one left
	if err != nil {
		return nil, err
	}
	defer folder.remove()
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o755); err != nil {
		return nil, p.fail(plugins.Exhausted, "the folder for its log: %w", err).
			WithHint("set SRPO_CACHE to a folder that can be written to")
	}
	out := newOutput(p.Log)
	defer out.close()
	l, reports, err := p.start(ctx, folder, out)
	if err != nil {
		return nil, err
	}
	defer reports.Close()
	go func() { _, _ = io.Copy(io.Discard, l.helloR) }() // there is no handshake

	var result json.RawMessage
	var reported *plugins.Error
	read := make(chan struct{})
	go func() {
		defer close(read)
		result, reported = readReports(reports, out, p.OnReport)
		_, _ = io.Copy(io.Discard, reports) // so that the program never waits for a reader
	}()
	p.await(ctx, l)
	select { // the pipe ends with the group; a child that left the group may hold it forever
	case <-read:
	case <-time.After(drain):
		_ = reports.Close()
		<-read
	}
	switch {
	case ctx.Err() != nil && (reported == nil || reported.Kind != plugins.Canceled):
		return nil, p.fail(plugins.Canceled, "stopped: %w", context.Cause(ctx))
	case reported != nil:
		return nil, reported
	case l.succeeded() && result != nil:
		return result, nil
	case l.succeeded():
		return nil, p.fail(plugins.Corrupt, "it ended without a result").
			WithDetail(out.last(errorLines)).WithHint("%s", l.hint())
	}
	return nil, p.fail(plugins.Unavailable, "it %s", l.exitReason()).
		WithDetail(out.last(errorLines)).WithHint("%s", l.hint())
}

func (p Program) fail(kind plugins.ErrorKind, format string, args ...any) *plugins.Error {
	return plugins.Errorf(kind, format, args...).WithPlace("%s", p.Label())
}

// start starts the process and returns it with the read end of its pipe of reports.
func (p Program) start(ctx context.Context, folder *runFolder, out *output) (*leader, *os.File, error) {
	noPipe := func(err error) error {
		return p.fail(plugins.Exhausted, "making a pipe: %w", err).
			WithHint("raise the limit of open files (ulimit -n)")
	}
	lifelineR, lifelineW, err := os.Pipe()
	if err != nil {
		return nil, nil, noPipe(err)
	}
	reportR, reportW, err := os.Pipe()
	if err != nil {
		_, _ = lifelineR.Close(), lifelineW.Close()
		return nil, nil, noPipe(err)
	}
	vars := map[string]string{
		tagEnv:              folder.tag,
		plugins.LifelineEnv: fmt.Sprint(plugins.LifelineFD),
		reportEnv:           fmt.Sprint(reportFD),
	}
	maps.Copy(vars, p.Env)
	cmd := exec.Command(p.Argv[0], p.Argv[1:]...)
	cmd.Dir = p.Dir
	cmd.Env = environ(hostEnviron(), p.EnvAllow, vars)
	l := newLeader(cmd, folder.tag, out, lifelineR, lifelineW, reportW)
	err = l.Start(ctx)
	_ = reportW.Close()
	if err != nil {
		_ = reportR.Close()
		return nil, nil, p.fail(plugins.NotFound, "could not be started: %w", err).
			WithHint("check that the file can be executed: %s", p.Argv[0])
	}
	return l, reportR, nil
}

// await returns when the process has ended. When ctx ends first, it sends SIGTERM, and kills the group
// after the grace period.
func (p Program) await(ctx context.Context, l *leader) {
	select {
	case <-l.exited:
		return
	case <-ctx.Done():
	}
	l.signalGroup(unix.SIGTERM)
	t := time.NewTimer(p.Grace)
	defer t.Stop()
	select {
	case <-l.exited:
	case <-t.C:
		l.kill()
		<-l.exited
	}
}

// readReports reads all reports and returns the last result and the last error.
func readReports(from io.Reader, out *output, on func(Report)) (result json.RawMessage, reported *plugins.Error) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxReport)
	for lines.Scan() {
		var r Report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			out.line("err", "not a report: "+lines.Text())
			continue
		}
		switch {
		case r.Result != nil:
			result = r.Result
		case r.Error != nil:
			reported = r.err()
		}
		if on != nil {
			on(r)
		}
	}
	if err := lines.Err(); err != nil {
		out.line("err", "its further reports could not be read: "+err.Error())
	}
	return result, reported
}

// succeeded reports whether the process ended with status 0.
func (l *leader) succeeded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == nil {
		return false
	}
	status, ok := l.state.Sys().(syscall.WaitStatus)
	return ok && status.Exited() && status.ExitStatus() == 0
}
