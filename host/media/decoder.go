package media

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/plugins"
)

//go:embed decode/plugin.toml decode/requirements.txt decode/decode.py
var decodeFiles embed.FS

// DecodeFiles is the Python package that decodes mp4 and webp videos, plugin.toml at its root.
func DecodeFiles() fs.FS {
	sub, err := fs.Sub(decodeFiles, "decode")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Decoder decodes what Go's library does not, in a Python process that is installed and started when it is
// first needed. A video that kills it, or takes too long, costs that video only. Its methods may be called
// from several goroutines, one video at a time. Close it.
type Decoder struct {
	// Command makes the program ready and says how to start it.
	Command func(ctx context.Context) (argv, env []string, err error)
	// Timeout bounds one video; 0: ten minutes.
	Timeout time.Duration

	within *bounds // of a clip; nil: the usual ones

	mu     sync.Mutex
	broken error // why it can never be started
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	said   *tail
}

// tail keeps the last words of a process.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if n := len(t.text); n > 4096 {
		t.text = append([]byte(nil), t.text[n-4096:]...)
	}
	return len(p), nil
}

func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	return lines[len(lines)-1]
}

// answer is what the program says of a video.
type answer struct {
	Problem string `json:"problem"`
	Frames  int    `json:"frames"`
	Height  int    `json:"height"`
	Width   int    `json:"width"`
	Seen    int    `json:"seen"`
	Stride  int    `json:"stride"`
	// Of the video itself, where its pictures were halved.
	FullHeight int `json:"full_height"`
	FullWidth  int `json:"full_width"`
}

// decode returns a video's frames. Error: Invalid when this video cannot be decoded, others when no video can.
func (d *Decoder) decode(ctx context.Context, path string) (Clip, error) {
	if d == nil || d.Command == nil {
		return Clip{}, bad("nothing here decodes such a video")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.start(ctx); err != nil {
		return Clip{}, err
	}
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Minute
	}
	limit, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd, killed := d.cmd, make(chan struct{})
	stop := context.AfterFunc(limit, func() { kill(cmd); close(killed) })
	a, data, err := d.ask(path)
	inTime := stop()
	if !inTime {
		<-killed
	}
	if !inTime || err != nil {
		d.end()
		switch {
		case ctx.Err() != nil:
			return Clip{}, plugins.Errorf(plugins.Canceled, "stopped: %w", ctx.Err())
		case limit.Err() != nil:
			return Clip{}, bad("it was not decoded within %s", timeout)
		}
		words := d.said.last()
		if words == "" {
			words = err.Error()
		}
		return Clip{}, bad("it killed the decoder: %s", words)
	}
	if a.Problem != "" {
		return Clip{}, bad("%s", a.Problem)
	}
	if a.FullHeight == 0 {
		a.FullHeight, a.FullWidth = a.Height, a.Width
	}
	return finish(plugins.Bytes(data, a.Frames, a.Height, a.Width, 3), a.Seen, a.Stride, a.FullHeight, a.FullWidth)
}

func (d *Decoder) bounds() bounds {
	if d.within != nil {
		return *d.within
	}
	return usual
}

func (d *Decoder) ask(path string) (a answer, data []byte, err error) {
	request, err := json.Marshal(struct {
		Path string `json:"path"`
		bounds
	}{path, d.bounds()})
	if err != nil {
		return a, nil, err
	}
	if _, err := d.in.Write(append(request, '\n')); err != nil {
		return a, nil, err
	}
	line, err := d.out.ReadBytes('\n')
	if err != nil {
		return a, nil, err
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, nil, err
	}
	if a.Problem != "" {
		return a, nil, nil
	}
	n := plugins.Elements([]int{a.Frames, a.Height, a.Width, 3})
	if n <= 0 || n > 2*MaxBytes {
		return a, nil, errors.New("an answer of no sense: " + string(bytes.TrimSpace(line)))
	}
	data = make([]byte, n)
	_, err = io.ReadFull(d.out, data)
	return a, data, err
}

// start starts the program unless it runs.
func (d *Decoder) start(ctx context.Context) error {
	if d.cmd != nil || d.broken != nil {
		return d.broken
	}
	argv, env, err := d.Command(ctx)
	if err == nil {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = env
		for _, name := range []string{"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"} {
			if v, ok := os.LookupEnv(name); ok {
				cmd.Env = append([]string{name + "=" + v}, cmd.Env...) // the program's own win
			}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		d.said = &tail{}
		cmd.Stderr = d.said
		cmd.WaitDelay = time.Second
		var out io.Reader
		if d.in, err = cmd.StdinPipe(); err == nil {
			if out, err = cmd.StdoutPipe(); err == nil {
				err = cmd.Start()
			}
		}
		if err == nil {
			d.cmd, d.out = cmd, bufio.NewReaderSize(out, 1<<20)
			return nil
		}
		err = plugins.Errorf(plugins.Unavailable, "the video decoder does not start: %w",
			err).WithHint("remove %s, and it is installed anew", strings.TrimSuffix(argv[0], "/bin/python"))
	}
	if ctx.Err() == nil {
		d.broken = err
	}
	return err
}

// kill ends a program that was not waited for yet, and whatever it started.
func kill(cmd *exec.Cmd) { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }

// end kills and waits.
func (d *Decoder) end() {
	if d.cmd == nil {
		return
	}
	kill(d.cmd)
	_ = d.in.Close()
	_ = d.cmd.Wait()
	d.cmd = nil
}

// Close ends the program.
func (d *Decoder) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end()
}
