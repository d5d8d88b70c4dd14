package dataset

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

//go:embed lerobot/plugin.toml lerobot/requirements.txt lerobot/read.py lerobot/write.py
var lerobotFiles embed.FS

// LeRobotFiles returns the Python package that reads and writes LeRobot data sets, with plugin.toml at its
// root. Its entry is the reader; write.py is the writer.
func LeRobotFiles() fs.FS {
	sub, err := fs.Sub(lerobotFiles, "lerobot")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Reader starts the program that reads parquet and video, one process per data set.
type Reader struct {
	// Command installs the program if necessary and returns its command line and environment.
	Command func(ctx context.Context) (argv, env []string, err error)
	// Timeout limits the time to read one episode; 0 means ten minutes.
	Timeout time.Duration
}

// lerobot is an open LeRobot data set.
type lerobot struct {
	dir      string
	o        Options
	version  string
	list     []Episode
	warnings []string
	space    Space
	// cameras are the names of the features with images in colour.
	features map[string]feature
	cameras  []string

	mu      sync.Mutex
	argv    []string
	env     []string
	timeout time.Duration
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	stderr  *tail
}

type feature struct {
	DType string   `json:"dtype"`
	Shape []int    `json:"shape"`
	Names []string `json:"names"`
	// Depth marks depth maps, which are not images in colour.
	Depth bool `json:"depth"`
}

func (f feature) isImage() bool { return f.DType == "video" || f.DType == "image" }

// reply is one line from the program.
type reply struct {
	Problem, Hint string
	Version       string
	FPS           float64
	Features      map[string]feature
	Episodes      []struct {
		ID, Task string
		Steps    int
		Success  *bool
	}
	Warnings []string
	Arrays   []struct {
		Name, DType string
		Shape       []int
	}
}

// maxReply limits the arrays of one episode in bytes.
const maxReply = 6 << 30

func openLeRobot(ctx context.Context, dir string, o Options) (Set, error) {
	if o.Reader == nil || o.Reader.Command == nil {
		return nil, plugins.Errorf(plugins.Unsupported, "LeRobot data sets cannot be read here").WithPlace("%s", dir)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", dir)
	}
	s := &lerobot{dir: dir, o: o, timeout: o.Reader.Timeout}
	if s.timeout <= 0 {
		s.timeout = 10 * time.Minute
	}
	if s.argv, s.env, err = o.Reader.Command(ctx); err != nil {
		return nil, err
	}
	if o.Success == "" {
		s.o.Success = "auto"
	}
	r, _, err := s.call(ctx, map[string]any{"open": abs, "success": s.o.Success})
	if err == nil && len(r.Episodes) == 0 {
		err = plugins.Errorf(plugins.Invalid, "the data set has no episode").WithPlace("%s", dir).
			WithHint("give another one")
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	s.version, s.features, s.warnings = r.Version, r.Features, r.Warnings
	for name, f := range r.Features {
		if f.isImage() && !f.Depth {
			s.cameras = append(s.cameras, name)
		}
	}
	sort.Strings(s.cameras)
	for _, e := range r.Episodes {
		s.list = append(s.list,
			Episode{ID: e.ID, Task: e.Task, Instruction: e.Task, Success: e.Success, Steps: e.Steps})
	}
	if err := s.check(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// check requires the features of the options, and sets the space.
func (s *lerobot) check() error {
	a, ok := s.features[s.o.Action]
	if !ok || a.isImage() {
		return s.noFeature("data.action", s.o.Action)
	}
	dim := size(a.Shape)
	if len(a.Names) != dim {
		a.Names = make([]string, dim)
		for i := range a.Names {
			a.Names[i] = fmt.Sprintf("%s[%d]", s.o.Action, i)
		}
	}
	s.space = Space{Action: plugins.ActionSpace{Names: a.Names}, Cameras: s.cameras}
	if st, ok := s.features[s.o.State]; ok && !st.isImage() {
		s.space.Proprio = st.Names
	} else if s.o.State != "observation.state" {
		return s.noFeature("data.state", s.o.State)
	}
	for _, pair := range s.o.Cameras {
		name, f, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return plugins.Errorf(plugins.Invalid, "%q is not of the form CAMERA=FEATURE", pair).
				WithPlace("data.cameras").WithHint("give for example agentview=observation.images.image")
		}
		if s.features[f].Depth {
			return plugins.Errorf(plugins.Invalid, "%s contains depth maps, not colours", f).
				WithPlace("data.cameras").WithHint("give another feature: %s", strings.Join(s.cameras, ", "))
		}
		if !slices.Contains(s.cameras, f) {
			return s.noFeature("data.cameras", f)
		}
	}
	return nil
}

func (s *lerobot) noFeature(setting, name string) error {
	var names []string
	for n := range s.features {
		if (setting == "data.cameras") == s.features[n].isImage() && !s.features[n].Depth {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	return plugins.Errorf(plugins.NotFound, "the data set has no feature %q, only %s", name,
		strings.Join(names, ", ")).WithPlace("%s", s.dir).WithHint("--set %s=...", setting)
}

func size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// camera returns the feature of an env's camera: the one in the options, one with the same name, or the
// only one.
func (s *lerobot) camera(name string) (string, error) {
	for _, pair := range s.o.Cameras {
		if n, f, _ := strings.Cut(pair, "="); n == name {
			return f, nil
		}
	}
	for _, f := range s.cameras {
		if f == name || f[strings.LastIndex(f, ".")+1:] == name {
			return f, nil
		}
	}
	if len(s.cameras) == 1 && len(s.o.Cameras) == 0 {
		return s.cameras[0], nil
	}
	have := "no camera"
	example := "observation.images.NAME"
	if len(s.cameras) > 0 {
		have, example = strings.Join(s.cameras, ", "), s.cameras[0]
	}
	return "", plugins.Errorf(plugins.Mismatch, "it is not known which camera of the data set is %q; it has %s", name,
		have).WithPlace("%s", s.dir).WithHint("--set 'data.cameras=[\"%s=%s\"]'", name, example)
}

func (s *lerobot) Form() string { return "LeRobot v" + s.version }

func (s *lerobot) Episodes() []Episode { return s.list }

func (s *lerobot) Warnings() []string { return s.warnings }

func (s *lerobot) Space() Space { return s.space }

func (s *lerobot) RecordEvery() int { return max(1, s.o.RecordEvery) }

func (s *lerobot) Clip(ctx context.Context, i int) (media.Clip, error) {
	if len(s.o.RequestedCameras) == 0 {
		return media.Clip{}, plugins.Errorf(plugins.Mismatch,
			"the env has no recording camera").
			WithPlace("%s", s.dir)
	}
	f, err := s.camera(s.o.RequestedCameras[0])
	if err != nil {
		return media.Clip{}, err
	}
	_, arrays, err := s.call(ctx, map[string]any{"episode": i, "columns": []string{}, "images": []string{f},
		"every": s.RecordEvery()})
	if err != nil {
		return media.Clip{}, plugins.AsError(err).WithPlace("%s, %s", s.dir, s.list[i].ID)
	}
	return media.Clip{Frames: arrays[f]}, nil
}

func (s *lerobot) Demonstration(ctx context.Context, i int, cameras []string) (policy.Demonstration, error) {
	e := s.list[i]
	d := policy.Demonstration{ID: e.ID, Instruction: e.Instruction, Images: map[string]plugins.Tensor{},
		Success: e.Success != nil && *e.Success}
	columns, images := []string{s.o.Action}, []string{}
	if f, ok := s.features[s.o.State]; ok && !f.isImage() {
		columns = append(columns, s.o.State)
	}
	of := map[string]string{}
	for _, c := range cameras {
		f, err := s.camera(c)
		if err != nil {
			return d, err
		}
		if of[c] = f; !slices.Contains(images, f) {
			images = append(images, f)
		}
	}
	_, arrays, err := s.call(ctx, map[string]any{"episode": i, "columns": columns, "images": images, "every": 1})
	if err != nil {
		return d, plugins.AsError(err).WithPlace("%s, %s", s.dir, e.ID)
	}
	d.Actions, d.Proprio = arrays[s.o.Action], arrays[s.o.State]
	for c, f := range of {
		d.Images[c] = arrays[f]
		if err := d.Images[c].Check("the images of "+f, plugins.Uint8, e.Steps, -1, -1, 3); err != nil {
			return d, plugins.AsError(err).WithPlace("%s, %s", s.dir, e.ID)
		}
	}
	return d, nil
}

// call sends a request and returns the reply with its arrays. If the program ended or took too long, the
// next call starts it again.
func (s *lerobot) call(ctx context.Context, request map[string]any) (r reply, arrays map[string]plugins.Tensor,
	err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		if err := s.start(); err != nil {
			return r, nil, err
		}
		if _, opens := request["open"]; !opens {
			abs, err := filepath.Abs(s.dir)
			if err != nil {
				return r, nil, plugins.Errorf(plugins.Invalid, "%w", err)
			}
			if r, _, err := s.exchange(ctx, map[string]any{"open": abs, "success": s.o.Success}); err != nil ||
				r.Problem != "" {
				return r, nil, plugins.Errorf(plugins.Unavailable,
					"the reader of LeRobot data sets cannot continue: %s", r.Problem)
			}
		}
	}
	r, arrays, err = s.exchange(ctx, request)
	if err == nil && r.Problem != "" {
		err = plugins.Errorf(plugins.Invalid, "%s", r.Problem).WithPlace("%s", s.dir).WithHint("%s", r.Hint)
	}
	return r, arrays, err
}

// exchange sends a request to the running program and ends it on a failure or at the timeout. s.mu must be
// held.
func (s *lerobot) exchange(ctx context.Context, request map[string]any) (r reply, arrays map[string]plugins.Tensor,
	err error) {
	limit, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	cmd, killed := s.cmd, make(chan struct{})
	stop := context.AfterFunc(limit, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL); close(killed) })
	r, arrays, err = s.roundTrip(request)
	inTime := stop()
	if !inTime {
		<-killed
	}
	if inTime && err == nil {
		return r, arrays, nil
	}
	s.end()
	switch {
	case ctx.Err() != nil:
		return r, nil, plugins.Errorf(plugins.Canceled, "stopped while a data set was read").
			WithHint("run the same command again to continue")
	case limit.Err() != nil:
		return r, nil, plugins.Errorf(plugins.Invalid, "it could not be read within %s", s.timeout).
			WithPlace("%s", s.dir).WithHint("leave the episode out")
	}
	message := s.stderr.lastLine()
	if message == "" {
		message = err.Error()
	}
	return r, nil, plugins.Errorf(plugins.Invalid, "the reader of LeRobot data sets ended: %s", message).
		WithPlace("%s", s.dir).WithHint("leave the episode out, or inspect it with the tools of lerobot")
}

func (s *lerobot) roundTrip(request map[string]any) (r reply, arrays map[string]plugins.Tensor, err error) {
	line, err := json.Marshal(request)
	if err != nil {
		return r, nil, err
	}
	if _, err := s.in.Write(append(line, '\n')); err != nil {
		return r, nil, err
	}
	if line, err = s.out.ReadBytes('\n'); err != nil {
		return r, nil, err
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, nil, err
	}
	arrays = map[string]plugins.Tensor{}
	total := 0
	for _, a := range r.Arrays {
		n := plugins.Elements(a.Shape)
		t := plugins.Tensor{Shape: a.Shape}
		switch a.DType {
		case "uint8":
			t.DType = plugins.Uint8
		case "float32":
			t.DType, n = plugins.Float32, 4*n
		default:
			return r, nil, fmt.Errorf("an array of %s", a.DType)
		}
		if total += n; n <= 0 || total > maxReply {
			return r, nil, fmt.Errorf("an array of %v", a.Shape)
		}
		t.Data = make([]byte, n)
		if _, err := io.ReadFull(s.out, t.Data); err != nil {
			return r, nil, err
		}
		arrays[a.Name] = t
	}
	return r, arrays, nil
}

// start starts the program. s.mu must be held.
func (s *lerobot) start() error {
	cmd := exec.Command(s.argv[0], s.argv[1:]...)
	cmd.Env = s.env
	for _, name := range []string{"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append([]string{name + "=" + v}, cmd.Env...) // s.env overrides these
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.stderr = &tail{}
	cmd.Stderr, cmd.WaitDelay = s.stderr, time.Second
	var out io.Reader
	var err error
	if s.in, err = cmd.StdinPipe(); err == nil {
		if out, err = cmd.StdoutPipe(); err == nil {
			err = cmd.Start()
		}
	}
	if err != nil {
		return plugins.Errorf(plugins.Unavailable, "the reader of LeRobot data sets does not start: %w", err).
			WithHint("remove %s to install it again", strings.TrimSuffix(s.argv[0], "/bin/python"))
	}
	s.cmd, s.out = cmd, bufio.NewReaderSize(out, 1<<20)
	return nil
}

// end kills the program and waits for it. s.mu must be held.
func (s *lerobot) end() {
	if s.cmd == nil {
		return
	}
	_ = unix.Kill(-s.cmd.Process.Pid, unix.SIGKILL)
	_ = s.in.Close()
	_ = s.cmd.Wait()
	s.cmd = nil
}

func (s *lerobot) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
}

// tail keeps the last 4 KiB written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, p...)
	if n := len(l.data); n > 4096 {
		l.data = bytes.Clone(l.data[n-4096:])
	}
	return len(p), nil
}

func (l *tail) lastLine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(l.data)), "\n")
	return lines[len(lines)-1]
}
