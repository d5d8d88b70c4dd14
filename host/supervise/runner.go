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

// tagEnv is a variable in the environment of every plugin process. A child that moved to another session or process group
// still has it.
const tagEnv = "SRPO_PLUGIN_TAG"

// drain is how long a dead plugin's output is read on, for its last words; a child that moved out of the group may hold the pipes for ever.
const drain = 300 * time.Millisecond

// leader runs a plugin's process, the leader of a process group, for go-plugin (it implements runner.Runner). go-plugin's own runner gives the host's
// stdin to the plugin, kills the leader only, and waits for ever for children that hold stdout or stderr.
type leader struct {
	cmd      *exec.Cmd
	tag      string
	out      *output
	inherits []*os.File // descriptors 3, 4, ... of the plugin; the first is the lifeline's read end, closed here after the start
	lifeline *os.File   // write end: held open as long as the plugin may live

	stdout     *os.File
	stderr     *os.File
	helloR     *io.PipeReader // what go-plugin sees of stdout: the first line
	helloW     *io.PipeWriter
	copiers    sync.WaitGroup
	firstLine  chan string // the first line of stdout, at most one
	exited     chan struct{}
	startError error
	end        sync.Once

	mu     sync.Mutex // guards the fields below, and that no signal is sent after the process id was given back
	pid    int
	reaped bool
	killed bool   // by us
	why    string // in words, where there is something to say
	state  *os.ProcessState
}

func newLeader(cmd *exec.Cmd, tag string, out *output, lifelineR, lifelineW *os.File, inherits ...*os.File) *leader {
	l := &leader{cmd: cmd, tag: tag, out: out, lifeline: lifelineW, inherits: append([]*os.File{lifelineR}, inherits...),
		firstLine: make(chan string, 1), exited: make(chan struct{})}
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

// abandon ends a leader that has no process.
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

// alsoDied adds how a plugin ended to what it did before, when it ended by itself.
func (l *leader) alsoDied() string {
	l.mu.Lock()
	ended := l.state != nil && !l.killed
	l.mu.Unlock()
	if !ended {
		return ""
	}
	return "; then it " + l.fate()
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
	late := l.killed
	l.mu.Unlock()
	if late {
		l.signal()
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

// copyStdout hands the first line to go-plugin, which takes it for the handshake, and keeps the rest in the log.
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

// watch ends the whole group when its leader ends.
func (l *leader) watch() {
	awaitExit(l.pid) // leaves a zombie, so the id of the process group stays reserved until cmd.Wait below
	l.signal()
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
	l.out.line("srpo", fmt.Sprintf("--- process %d %s", l.pid, l.fate()))
	l.end.Do(func() { close(l.exited) })
}

// signal kills the group, unless its id was given back already.
func (l *leader) signal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pid > 0 && !l.reaped {
		_ = unix.Kill(-l.pid, unix.SIGKILL)
	}
}

// kill kills the group and remembers that it was us.
func (l *leader) kill() {
	l.mu.Lock()
	l.killed = true
	l.mu.Unlock()
	l.signal()
}

// killFor is kill, with a reason for [leader.fate].
func (l *leader) killFor(why string) {
	l.mu.Lock()
	l.why = ", " + why
	l.mu.Unlock()
	l.kill()
}

// strike sends a signal to the leader alone, as the system does when memory runs out. For fault plans.
func (l *leader) strike(s syscall.Signal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pid > 0 && !l.reaped {
		_ = unix.Kill(l.pid, s)
	}
}

// fate says in words how the process ended. ProcessState.Exited is false after a signal, so that alone decides nothing.
func (l *leader) fate() string {
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

// advice is a remedy for the way the process ended.
func (l *leader) advice() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	hint := "all that it said is in " + l.out.path
	if l.out.last(1) == "" { // a log that holds nothing helps nobody
		hint = "it printed nothing"
	}
	if l.state == nil || l.killed {
		return hint
	}
	status, ok := l.state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled() && status.Signal() == syscall.SIGKILL:
		return "the system may have run out of memory (see dmesg): use fewer lanes or a smaller model; " + hint
	case l.out.outOfMemory():
		return "it ran out of memory: use a smaller batch, fewer lanes or a smaller model; " + hint
	}
	return hint
}

// The rest of runner.Runner.

func (l *leader) Wait(context.Context) error {
	<-l.exited
	return l.startError
}

// Kill does nothing: when to kill is the Process's decision, which gives one that is ending the time to say how.
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

// parseHandshake reads go-plugin's handshake line, CORE|VERSION|NETWORK|ADDRESS|PROTOCOL|CERTIFICATE[|MUX]. The error says what is wrong with it.
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
