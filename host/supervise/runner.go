package supervise

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tagEnv is a variable in the environment of every plugin process. A child that moved to another session or
// process group still has it.
const tagEnv = "SRPO_PLUGIN_TAG"

// drain is how long the output of a dead plugin is read, for its last lines. A child that left the process
// group may hold the pipes forever.
const drain = 300 * time.Millisecond

// leader runs the process of a plugin, the leader of a process group. It implements runner.Runner for
// go-plugin, whose own runner gives the host's stdin to the plugin, kills the leader only, and waits
// forever for children that hold stdout or stderr.
type leader struct {
	cmd *exec.Cmd
	tag string
	out *output
	// descriptors 3, 4, ... of the plugin; the first is the read end of the lifeline, closed after the start
	inherits []*os.File
	lifeline *os.File // write end, open while the plugin may live

	stdout     *os.File
	stderr     *os.File
	helloR     *io.PipeReader // what go-plugin reads of stdout: the first line
	helloW     *io.PipeWriter
	copiers    sync.WaitGroup
	firstLine  chan string // the first line of stdout, at most one
	exited     chan struct{}
	startError error
	end        sync.Once

	mu     sync.Mutex // guards the fields below, and prevents signals to a process id that was given back
	pid    int
	reaped bool
	killed bool   // by srpo
	why    string // the reason that exitReason adds, with a leading comma; empty: none
	state  *os.ProcessState
}

func newLeader(
	cmd *exec.Cmd, tag string, out *output, lifelineR, lifelineW *os.File, inherits ...*os.File,
) *leader {
	l := &leader{
		cmd:       cmd,
		tag:       tag,
		out:       out,
		lifeline:  lifelineW,
		inherits:  append([]*os.File{lifelineR}, inherits...),
		firstLine: make(chan string, 1),
		exited:    make(chan struct{}),
	}
	l.helloR, l.helloW = io.Pipe()
	return l
}

// Start implements runner.Runner.
func (l *leader) Start(context.Context) error {
	err := l.start()
	if err != nil {
		l.abandon(err)
	}
	return err
}

// abandon ends a leader that has no process. It does nothing when there is one.
func (l *leader) abandon(cause error) {
	if l.ID() != "" {
		return
	}
	l.end.Do(func() {
		l.startError = cause
		_, _ = l.inherits[0].Close(), l.lifeline.Close()
		_ = l.helloW.Close()
		close(l.exited)
	})
}

// alsoExited describes the end of a plugin that ended by itself, for an error about something else; empty:
// it did not.
func (l *leader) alsoExited() string {
	l.mu.Lock()
	ended := l.state != nil && !l.killed
	l.mu.Unlock()
	if !ended {
		return ""
	}
	return "; then it " + l.exitReason()
}

func (l *leader) start() error {
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		_, _ = outR.Close(), outW.Close()
		return err
	}
	l.cmd.Stdin, l.cmd.Stdout, l.cmd.Stderr = nil, outW, errW // stdin: /dev/null
	l.cmd.ExtraFiles = l.inherits
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = l.cmd.Start()
	_, _ = outW.Close(), errW.Close()
	if err != nil {
		_, _ = outR.Close(), errR.Close()
		return err
	}
	_ = l.inherits[0].Close()
	l.stdout, l.stderr = outR, errR
	l.mu.Lock()
	l.pid = l.cmd.Process.Pid
	killed := l.killed
	l.mu.Unlock()
	if killed { // while it was started
		l.killGroup()
	}
	l.out.line("srpo", fmt.Sprintf("--- started process %d: %s", l.pid, strings.Join(l.cmd.Args, " ")))
	l.copiers.Add(2)
	go l.copyStderr()
	go l.copyStdout()
	go l.watch()
	return nil
}

func (l *leader) copyStderr() {
	defer l.copiers.Done()
	w := &lines{to: l.out, source: "err"}
	_, _ = io.Copy(w, l.stderr)
	w.flush()
}

// copyStdout passes the first line to go-plugin, as the handshake, and the rest to the log.
func (l *leader) copyStdout() {
	defer l.copiers.Done()
	r := bufio.NewReaderSize(l.stdout, maxLine)
	first, err := r.ReadSlice('\n')
	if len(first) > 0 {
		line := strings.TrimRight(string(first), "\r\n")
		l.firstLine <- line
		_, _ = io.WriteString(l.helloW, line+"\n")
		if _, _, herr := parseHandshake(line); herr != nil {
			l.out.line("out", line)
		}
	}
	if err == nil || err == bufio.ErrBufferFull {
		w := &lines{to: l.out, source: "out"}
		_, _ = io.Copy(w, r)
		w.flush()
	}
	_ = l.helloW.Close()
}

// watch kills the whole group when its leader ends.
func (l *leader) watch() {
	awaitExit(l.pid) // leaves a zombie, so the id of the process group stays reserved until cmd.Wait below
	l.killGroup()
	killTagged(l.tag)
	done := make(chan struct{})
	go func() { l.copiers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drain):
		_ = l.helloR.Close()
		_, _ = l.stdout.Close(), l.stderr.Close()
		<-done
	}
	_, _ = l.stdout.Close(), l.stderr.Close()
	l.mu.Lock()
	_ = l.cmd.Wait()
	l.reaped = true
	l.state = l.cmd.ProcessState
	l.mu.Unlock()
	_ = l.lifeline.Close()
	l.out.line("srpo", fmt.Sprintf("--- process %d %s", l.pid, l.exitReason()))
	l.end.Do(func() { close(l.exited) })
}

// signalGroup sends a signal to the group, unless its id was given back.
func (l *leader) signalGroup(signal syscall.Signal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pid > 0 && !l.reaped {
		_ = unix.Kill(-l.pid, signal)
	}
}

func (l *leader) killGroup() { l.signalGroup(unix.SIGKILL) }

// kill kills the group and records that srpo did it.
func (l *leader) kill() {
	l.mu.Lock()
	l.killed = true
	l.mu.Unlock()
	l.killGroup()
}

// killBecause is kill with a reason for [leader.exitReason].
func (l *leader) killBecause(why string) {
	l.mu.Lock()
	l.why = ", " + why
	l.mu.Unlock()
	l.kill()
}

// signalLeader sends a signal to the leader alone, as the system does when memory runs out. For fault plans.
func (l *leader) signalLeader(signal syscall.Signal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pid > 0 && !l.reaped {
		_ = unix.Kill(l.pid, signal)
	}
}

// exitReason describes how the process ended, e.g. "exited with status 3". ProcessState.Exited is false
// after a signal, so it is not enough.
func (l *leader) exitReason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == nil {
		return "is still running"
	}
	status, ok := l.state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled() && l.killed && status.Signal() == syscall.SIGKILL:
		return "was stopped by srpo" + l.why
	case ok && status.Signaled():
		return fmt.Sprintf("was killed by signal %d (%s)", status.Signal(), status.Signal())
	case l.state.ExitCode() == 0:
		return "exited with status 0"
	}
	return "exited with status " + strconv.Itoa(l.state.ExitCode())
}

// hint returns a remedy for the way the process ended.
func (l *leader) hint() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	log := "its output is in " + l.out.path
	if l.out.last(1) == "" {
		log = "it printed nothing"
	}
	if l.state == nil || l.killed {
		return log
	}
	status, ok := l.state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled() && status.Signal() == syscall.SIGKILL:
		return "the system may have run out of memory (see dmesg): use fewer lanes or a smaller model; " + log
	case l.out.outOfMemory():
		return "it ran out of memory: use a smaller batch, fewer lanes or a smaller model; " + log
	}
	return log
}

// The methods below complete runner.Runner.

func (l *leader) Wait(context.Context) error {
	<-l.exited
	return l.startError
}

// Kill does nothing: the Process decides when to kill, and gives a plugin that is ending the time to report
// why.
func (l *leader) Kill(context.Context) error { return nil }
func (l *leader) Stdout() io.ReadCloser      { return l.helloR }

// Stderr is empty for go-plugin: the leader reads it itself.
func (l *leader) Stderr() io.ReadCloser           { return io.NopCloser(strings.NewReader("")) }
func (l *leader) Name() string                    { return l.cmd.Path }
func (l *leader) Diagnose(context.Context) string { return "" }

func (l *leader) ID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pid == 0 {
		return ""
	}
	return strconv.Itoa(l.pid)
}

func (l *leader) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

func (l *leader) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// parseHandshake parses the handshake line of go-plugin,
// CORE|VERSION|NETWORK|ADDRESS|PROTOCOL|CERTIFICATE[|MUX].
func parseHandshake(line string) (version int, certificate bool, err error) {
	parts := strings.Split(strings.TrimSpace(line), "|")
	if len(parts) < 4 {
		return 0, false, fmt.Errorf("not a handshake")
	}
	if _, err := strconv.Atoi(parts[0]); err != nil {
		return 0, false, fmt.Errorf("not a handshake")
	}
	if version, err = strconv.Atoi(parts[1]); err != nil {
		return 0, false, fmt.Errorf("not a handshake")
	}
	return version, len(parts) >= 6 && len(parts[5]) > 50, nil
}
