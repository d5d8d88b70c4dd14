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

// DecodeFiles returns the Python package that decodes mp4 and webp videos, with plugin.toml at its root.
func DecodeFiles() fs.FS {
	sub, err := fs.Sub(decodeFiles, "decode")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Decoder decodes the formats that Go's standard library does not, in a Python process. The process is installed and
// started at its first use. When a video kills it or takes too long, only that video fails. The methods are safe for
// concurrent use and decode one video at a time. Close the decoder after use.
type Decoder struct {
	// Command installs the program and returns how to start it.
	Command func(ctx context.Context) (argv, env []string, err error)
	// Timeout bounds one video; 0: ten minutes.
	Timeout time.Duration

	limits *bounds // of a clip; nil: the usual ones

	mu         sync.Mutex
	startError error // non-nil: the program cannot be started
	cmd        *exec.Cmd
	in         io.WriteCloser
	out        *bufio.Reader
	stderr     *lastOutput
}

// lastOutput keeps the end of a process's output, for error messages.
type lastOutput struct {
	mu   sync.Mutex
	text []byte
}

func (t *lastOutput) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if n := len(t.text); n > 4096 {
		t.text = append([]byte(nil), t.text[n-4096:]...)
	}
	return len(p), nil
}

func (t *lastOutput) lastLine() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	return lines[len(lines)-1]
}

// response is the program's response to the request for one video.
type response struct {
	Problem string `json:"problem"`
	Frames  int    `json:"frames"`
	Height  int    `json:"height"`
	Width   int    `json:"width"`
	// The size of the video is present where its pictures were halved.
	origin
}

// decode returns a video's frames, or those of the pictures in a folder. An error of kind Invalid concerns this video
// only; other kinds mean that no video can be decoded.
func (d *Decoder) decode(ctx context.Context, path string, pictures []string) (Clip, error) {
	if d == nil || d.Command == nil {
		return Clip{}, invalid("no decoder for this kind of video is available")
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
	a, data, err := d.request(path, pictures)
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
			return Clip{}, invalid("it was not decoded within %s", timeout)
		}
		message := d.stderr.lastLine()
		if message == "" {
			message = err.Error()
		}
		return Clip{}, invalid("it killed the decoder: %s", message)
	}
	if a.Problem != "" {
		return Clip{}, invalid("%s", a.Problem)
	}
	if a.FullHeight == 0 {
		a.FullHeight, a.FullWidth = a.Height, a.Width
	}
	return newClip(plugins.Bytes(data, a.Frames, a.Height, a.Width, 3), a.origin)
}

func (d *Decoder) clipBounds() bounds {
	if d.limits != nil {
		return *d.limits
	}
	return defaultBounds
}

func (d *Decoder) request(path string, pictures []string) (a response, data []byte, err error) {
	request, err := json.Marshal(struct {
		Path     string   `json:"path"`
		Pictures []string `json:"pictures,omitempty"`
		bounds
	}{path, pictures, d.clipBounds()})
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
		return a, nil, errors.New("an invalid response: " + string(bytes.TrimSpace(line)))
	}
	data = make([]byte, n)
	_, err = io.ReadFull(d.out, data)
	return a, data, err
}

// start starts the program unless it runs.
func (d *Decoder) start(ctx context.Context) error {
	if d.cmd != nil || d.startError != nil {
		return d.startError
	}
	argv, env, err := d.Command(ctx)
	if err == nil {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = env
		for _, name := range []string{"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"} {
			if v, ok := os.LookupEnv(name); ok {
				cmd.Env = append([]string{name + "=" + v}, cmd.Env...) // the program's own values take precedence
			}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		d.stderr = &lastOutput{}
		cmd.Stderr = d.stderr
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
			err).WithHint("remove %s to have it installed again", strings.TrimSuffix(argv[0], "/bin/python"))
	}
	if ctx.Err() == nil {
		d.startError = err
	}
	return err
}

// kill ends a program that has not been waited for yet, and all processes that it started.
func kill(cmd *exec.Cmd) { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }

// end kills the program and waits for it.
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
