package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
)

// program is a helper process that answers each line of JSON on its standard input with a line of JSON.
type program struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr tail
}

// startProgram starts a helper process in its own process group.
func startProgram(l supervise.Launch, args ...string) (*program, error) {
	p := &program{name: l.Argv[len(l.Argv)-1]}
	p.cmd = exec.Command(l.Argv[0], append(append([]string(nil), l.Argv[1:]...), args...)...)
	p.cmd.Dir = l.Dir
	p.cmd.Env = os.Environ()
	for k, v := range l.Env {
		p.cmd.Env = append(p.cmd.Env, k+"="+v)
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = 2 * time.Second
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, plugins.Errorf(plugins.Exhausted, "%w", err).WithPlace("%s", p.name)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, plugins.Errorf(plugins.Exhausted, "%w", err).WithPlace("%s", p.name)
	}
	p.in, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, plugins.Errorf(plugins.NotFound, "%w", err).
			WithPlace("%s", p.name).WithHint("run srpo plugin install")
	}
	return p, nil
}

// call sends a request, unless it is nil, and decodes the reply. It kills the program if ctx ends.
func (p *program) call(ctx context.Context, request, reply any) error {
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	failed := func(err error) error {
		if ctx.Err() != nil {
			return plugins.Errorf(plugins.Canceled, "stopped: %w", ctx.Err()).WithPlace("%s", p.name)
		}
		return plugins.Errorf(plugins.Unavailable, "%w", err).
			WithPlace("%s", p.name).WithDetail(p.stderr.String()).WithHint("read the program's output above")
	}
	if request != nil {
		data, err := json.Marshal(request)
		if err != nil {
			return err
		}
		if _, err := p.in.Write(append(data, '\n')); err != nil {
			return failed(err)
		}
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return failed(err)
	}
	if err := json.Unmarshal(line, reply); err != nil {
		return failed(err)
	}
	return nil
}

func (p *program) kill() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

// close ends the program by closing its input, and kills its group after 10 s.
func (p *program) close() {
	_ = p.in.Close()
	timer := time.AfterFunc(10*time.Second, p.kill)
	_ = p.cmd.Wait()
	if !timer.Stop() {
		return
	}
	p.kill() // its remaining children
}

// tail keeps the last 4 KiB written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

func (l *tail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, b...)
	if len(l.data) > 4096 {
		l.data = l.data[len(l.data)-4096:]
	}
	return len(b), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.data))
}
