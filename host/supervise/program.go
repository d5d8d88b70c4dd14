package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
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
	// reportEnv names the variable with the descriptor that a program writes its reports to, one JSON object a line, and reportFD is that descriptor.
	reportEnv = "SRPO_REPORT_FD"
	reportFD  = 4
	// maxReport bounds a report, bytes.
	maxReport = 1 << 20
)

// Report is what a program that srpo runs says of its work, a JSON object with these fields in small letters; one of Say, Phase, Result and Error is set.
type Report struct {
	// Say is a sentence for the user.
	Say string
	// Phase names the work at hand: Done of Total units, where Total is known; Note says more.
	Phase       string
	Done, Total float64
	Note        string
	// Result is what came out.
	Result json.RawMessage
	// Error is why nothing came out; Kind is the name of a [plugins.ErrorKind].
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
		message = "it reported an error without words"
	}
	e := plugins.Errorf(kind, "%s", message).WithHint("%s", r.Error.Hint)
	if r.Error.Place != "" {
		e = e.WithPlace("%s", r.Error.Place)
	}
	return e
}

// Program says how a program that is no plugin is run to its end.
type Program struct {
	Launch
	// Log is the file that gets everything that it prints.
	Log string
	// EnvAllow are names of environment variables that it gets besides [EnvAllow].
	EnvAllow []string
	// Grace is how long it may take to end after SIGTERM when the context ends; default 1.5 s. Then its process group is killed.
	Grace time.Duration
	// OnReport is told what it reports; nil: nobody is told.
	OnReport func(Report)
}

// Run runs a program in a process group of its own, with a lifeline as plugins have it, and returns the result that it reported. The error is what it
// reported, or how it ended, with its last words.
func (p Program) Run(ctx context.Context) (json.RawMessage, error) {
	orDefault(&p.Grace, 1500*time.Millisecond)
	label := p.Label()
	fail := func(kind plugins.ErrorKind, format string, args ...any) *plugins.Error {
		return plugins.Errorf(kind, format, args...).WithPlace("%s", label)
	}
	folder, err := newRunFolder() // its tag lets the next srpo sweep up what this one, killed, left behind
	if err != nil {
		return nil, err
	}
	defer folder.remove()
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o755); err != nil {
		return nil, fail(plugins.Exhausted, "no folder for its log: %w", err).WithHint("set SRPO_CACHE to a folder that can be written to")
	}
	out := newOutput(p.Log)
	defer out.close()
	lifelineR, lifelineW, err := os.Pipe()
	if err != nil {
		return nil, fail(plugins.Exhausted, "making a pipe: %w", err).WithHint("raise the limit of open files (ulimit -n)")
	}
	reportR, reportW, err := os.Pipe()
	if err != nil {
		_, _ = lifelineR.Close(), lifelineW.Close()
		return nil, fail(plugins.Exhausted, "making a pipe: %w", err).WithHint("raise the limit of open files (ulimit -n)")
	}
	defer reportR.Close()
	own := map[string]string{tagEnv: folder.tag, plugins.LifelineEnv: fmt.Sprint(plugins.LifelineFD), reportEnv: fmt.Sprint(reportFD)}
	for k, v := range p.Env {
		own[k] = v
	}
	cmd := exec.Command(p.Argv[0], p.Argv[1:]...)
	cmd.Dir = p.Dir
	cmd.Env = environ(hostEnviron(), p.EnvAllow, own)
	l := newLeader(cmd, folder.tag, out, lifelineR, lifelineW, reportW)
	err = l.Start(ctx)
	_ = reportW.Close()
	if err != nil {
		return nil, fail(plugins.NotFound, "could not be started: %w", err).WithHint("check that the file may be executed: %s", p.Argv[0])
	}
	go func() { _, _ = io.Copy(io.Discard, l.helloR) }() // the first line of stdout has no meaning here

	var result json.RawMessage
	var reported *plugins.Error
	read := make(chan struct{})
	go func() {
		defer close(read)
		result, reported = readReports(reportR, out, p.OnReport)
		_, _ = io.Copy(io.Discard, reportR) // so that it never waits for a reader
	}()
	select {
	case <-l.exited:
	case <-ctx.Done():
		l.terminate()
		t := time.NewTimer(p.Grace)
		select {
		case <-l.exited:
		case <-t.C:
			l.kill()
			<-l.exited
		}
		t.Stop()
	}
	select { // the pipe ends with the group; whoever left it may hold it for ever
	case <-read:
	case <-time.After(drain):
		_ = reportR.Close()
		<-read
	}
	switch {
	case ctx.Err() != nil && (reported == nil || reported.Kind != plugins.Canceled):
		return nil, fail(plugins.Canceled, "stopped: %w", context.Cause(ctx))
	case reported != nil:
		return nil, reported
	case l.succeeded() && result != nil:
		return result, nil
	case l.succeeded():
		return nil, fail(plugins.Corrupt, "it ended and said nothing").WithDetail(out.last(lastWords)).WithHint("%s", l.advice())
	}
	return nil, fail(plugins.Unavailable, "it %s", l.fate()).WithDetail(out.last(lastWords)).WithHint("%s", l.advice())
}

// readReports reads reports until their end: the last result and the last error among them.
func readReports(from io.Reader, out *output, on func(Report)) (result json.RawMessage, reported *plugins.Error) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxReport)
	for lines.Scan() {
		var r Report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			out.line("err", "a report that is none: "+lines.Text())
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
		out.line("err", "its reports could not be read on: "+err.Error())
	}
	return result, reported
}

// terminate asks the group to end.
func (l *leader) terminate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pid > 0 && !l.reaped {
		_ = unix.Kill(-l.pid, unix.SIGTERM)
	}
}

// succeeded says whether the process ended with status 0.
func (l *leader) succeeded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == nil {
		return false
	}
	status, ok := l.state.Sys().(syscall.WaitStatus)
	return ok && status.Exited() && status.ExitStatus() == 0
}
