package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

func supervisor(t *testing.T, o Options) *Supervisor {
	t.Helper()
	if o.LogDir == "" {
		o.LogDir = t.TempDir()
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 20 * time.Second
	}
	s, err := New(o)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func launch(t *testing.T, mode string) Launch {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	return Launch{
		Kind: plugins.Env,
		Name: "toy",
		Argv: []string{exe},
		Env:  map[string]string{modeEnv: mode, "GORACE": "atexit_sleep_ms=0"},
	}
}

// gone reports whether a process has ended. A zombie has ended.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	return strings.HasPrefix(strings.TrimSpace(rest), "Z")
}

func requireGone(t *testing.T, pid int) {
	t.Helper()
	require.NotZero(t, pid)
	require.Eventually(
		t,
		func() bool { return gone(pid) },
		2*time.Second,
		5*time.Millisecond,
		"process %d lives",
		pid,
	)
}

func reset(t *testing.T, p *Process, task string) (env.Transition, error) {
	t.Helper()
	return env.NewClient(p.Conn(), p.Arena()).Reset(context.Background(), env.Reset{Task: task})
}

func configured(t *testing.T, p *Process) *env.Client {
	t.Helper()
	c := env.NewClient(p.Conn(), p.Arena())
	require.NoError(t, c.Configure(context.Background(), plugins.Config{Lanes: 1}))
	return c
}

func TestStartAndStop(t *testing.T) {
	for _, arena := range []int{0, 1 << 20} {
		s := supervisor(t, Options{ArenaBytes: arena})
		p, err := s.Start(context.Background(), launch(t, "good"))
		require.NoError(t, err)
		c := configured(t, p)
		info, err := c.Info(context.Background())
		require.NoError(t, err)
		require.Equal(t, "toy", info.Name)
		require.Equal(t, arena > 0, p.Arena() != nil)

		stat, err := os.Stat(s.folder.path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), stat.Mode().Perm())
		pgid, err := unix.Getpgid(p.PID())
		require.NoError(t, err)
		require.Equal(t, p.PID(), pgid, "it leads a process group")

		p.Stop()
		require.True(t, gone(p.PID()))
		require.Equal(t, "exited with status 0", p.ExitReason(), "it stopped by itself")
		p.Stop() // a second call does nothing
		left, err := filepath.Glob(filepath.Join(s.folder.path, "plugin*"))
		require.NoError(t, err)
		require.Empty(t, left, "its socket folder is removed")
		s.Close()
		require.NoDirExists(t, s.folder.path)
		_, err = s.Start(context.Background(), launch(t, "good"))
		require.Equal(t, plugins.Canceled, plugins.KindOf(err))
	}
}

func TestStartFailures(t *testing.T) {
	for _, c := range []struct {
		mode    string
		kind    plugins.ErrorKind
		message string
		detail  string
	}{
		{"prints", plugins.Corrupt, `env toy: printed on stdout before the handshake: "hello from an import"`,
			"hello from an import"},
		{"prints and dies", plugins.Corrupt,
			`printed on stdout before the handshake: "Traceback: no such module"; then it exited with status 3`, ""},
		{"ends", plugins.Unavailable, "env toy: exited with status 0 before its handshake", ""},
		{"dies", plugins.Unavailable, "env toy: exited with status 7 before its handshake",
			"libEGL.so.1: cannot open shared object file"},
		{"hangs", plugins.Deadline, "did not finish its handshake within 700ms", "loading a large model"},
		{"newer", plugins.Mismatch, "uses protocol version 9, this srpo uses 1", ""},
		{"no certificate", plugins.Corrupt, "sent no TLS certificate in its handshake", ""},
		{"liar", plugins.Unavailable, "finished its handshake, but could not be reached", ""},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			o := Options{}
			if c.mode == "hangs" {
				o.StartTimeout = 700 * time.Millisecond
			}
			s := supervisor(t, o)
			_, err := s.Start(context.Background(), launch(t, c.mode))
			require.ErrorContains(t, err, c.message)
			var e *plugins.Error
			require.True(t, errors.As(err, &e))
			require.Equal(t, c.kind, e.Kind, err)
			require.Contains(t, e.Detail, c.detail)
			require.NotEmpty(t, e.Hint)
			require.Empty(t, s.live)
			requireNoProcess(t, s)
		})
	}
	t.Run("ends", func(t *testing.T) {
		_, err := supervisor(t, Options{}).Start(context.Background(), launch(t, "ends"))
		require.Equal(
			t,
			"check that the program calls srpo.serve(...) in Python, or sdk.ServeSim or a similar function in Go; "+
				"it printed nothing",
			plugins.AsError(err).Hint,
		)
	})
	t.Run("prints without end", func(t *testing.T) {
		_, err := supervisor(t, Options{}).Start(context.Background(), launch(t, "prints without end"))
		require.ErrorContains(
			t,
			err,
			`printed on stdout before the handshake: "`+strings.Repeat("0123456789", 8)+`..."`,
		)
		for _, line := range strings.Split(plugins.AsError(err).Detail, "\n") {
			require.LessOrEqual(t, len(line), maxQuotedDetail+len("..."))
		}
	})
	t.Run("no such program", func(t *testing.T) {
		s := supervisor(t, Options{ArenaBytes: 1 << 16})
		l := launch(t, "")
		l.Argv = []string{"/nonexistent/program"}
		_, err := s.Start(context.Background(), l)
		require.ErrorContains(t, err, "could not be started")
		require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	})
	t.Run("cancelled", func(t *testing.T) {
		s := supervisor(t, Options{})
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(200*time.Millisecond, cancel)
		_, err := s.Start(ctx, launch(t, "hangs"))
		require.Equal(t, plugins.Canceled, plugins.KindOf(err), err)
		requireNoProcess(t, s)
	})
}

// requireNoProcess checks that no process of the supervisor is left.
func requireNoProcess(t *testing.T, s *Supervisor) {
	t.Helper()
	require.Eventually(
		t,
		func() bool { return len(findTagged(s.folder.tag)) == 0 },
		2*time.Second,
		20*time.Millisecond,
	)
}

func TestEnvironment(t *testing.T) {
	hostEnviron = func() []string {
		return append(
			os.Environ(),
			"SECRET_TOKEN=hunter2",
			"LC_ALL=C.UTF-8",
			"NVIDIA_VISIBLE_DEVICES=0",
			"MY_EXTRA=yes",
			"WANDB_API_KEY=k",
			"WANDB_MODE=offline",
			"HF_TOKEN=t",
		)
	}
	t.Cleanup(func() { hostEnviron = os.Environ })
	s := supervisor(t, Options{EnvAllow: []string{"MY_EXTRA", "WANDB_MODE", "toy:HF_*", "other:SECRET_TOKEN"}})
	l := launch(t, "good")
	l.Env["LC_ALL"] = "POSIX" // the plugin's variable takes precedence
	p, err := s.Start(context.Background(), l)
	require.NoError(t, err)
	configured(t, p)
	r, err := reset(t, p, "environ")
	require.NoError(t, err)
	got := map[string]string{}
	for _, kv := range strings.Split(r.Observation.Instruction, "\n") {
		name, value, _ := strings.Cut(kv, "=")
		got[name] = value
	}
	require.NotContains(t, got, "SECRET_TOKEN")
	require.NotContains(t, got, "WANDB_API_KEY")
	require.Equal(t, "yes", got["MY_EXTRA"])
	require.Equal(t, "t", got["HF_TOKEN"], "allowed for this plugin")
	require.Equal(t, "offline", got["WANDB_MODE"])
	require.Equal(t, "POSIX", got["LC_ALL"])
	require.Equal(t, "0", got["NVIDIA_VISIBLE_DEVICES"])
	require.Equal(t, os.Getenv("PATH"), got["PATH"])
	require.Equal(t, "3", got[plugins.LifelineEnv])
	here, err := os.Getwd()
	require.NoError(t, err)
	require.Equal(t, here, got[plugins.WorkingFolderEnv])
	require.NotContains(t, got, plugins.ArenaEnv, "there is no arena")

	r, err = reset(t, p, "stdin")
	require.NoError(t, err)
	require.Equal(t, "0 bytes, <nil>", r.Observation.Instruction, "stdin is empty")
}

func TestChildrenEndWithTheirPlugin(t *testing.T) {
	for _, mode := range []string{"holder", "holder:session"} {
		for _, end := range []string{"stop", "kill", "crash"} {
			t.Run(mode+" "+end, func(t *testing.T) {
				t.Parallel()
				s := supervisor(t, Options{})
				p, err := s.Start(context.Background(), launch(t, mode))
				require.NoError(t, err)
				configured(t, p)
				r, err := reset(t, p, "child")
				require.NoError(t, err)
				require.False(t, gone(r.EpisodeSteps))
				switch end {
				case "stop":
					p.Stop()
				case "kill":
					p.Kill()
				case "crash":
					_, err = reset(t, p, "exit")
					require.Error(t, err)
				}
				requireGone(t, p.PID())
				requireGone(t, r.EpisodeSteps)
				select {
				case <-p.gone:
				case <-time.After(2 * time.Second):
					if end != "stop" {
						t.Fatal("its resources were not released")
					}
				}
			})
		}
	}
}

func TestStubbornIsKilled(t *testing.T) {
	s := supervisor(t, Options{StopGrace: 200 * time.Millisecond})
	p, err := s.Start(context.Background(), launch(t, "stubborn"))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(p.PID(), syscall.SIGSTOP)) // a plugin that answers no call, not even Shutdown
	p.Stop()
	require.True(t, gone(p.PID()))
	require.Equal(t, "was stopped by srpo", p.ExitReason())
}

func TestLogAndLastWords(t *testing.T) {
	dir := t.TempDir()
	s := supervisor(t, Options{LogDir: dir})
	p, err := s.Start(context.Background(), launch(t, "shouts"))
	require.NoError(t, err)
	p.Stop()
	require.Equal(t, "line 58\nline 59", p.LastLines(2))
	require.Len(t, strings.Split(p.LastLines(1000), "\n"), recentLines)
	log, err := os.ReadFile(filepath.Join(dir, "env-toy.log"))
	require.NoError(t, err)
	for i := range 60 {
		require.Contains(t, string(log), fmt.Sprintf("err  line %d\n", i))
	}
}

// TestHostKilled kills a host with SIGKILL: no process is left after 2 s, and the next host removes its
// folder.
func TestHostKilled(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	base := t.TempDir()
	if len(base) > 40 {
		base, err = os.MkdirTemp("/tmp", "k")
		require.NoError(t, err)
		defer os.RemoveAll(base)
	}
	t.Setenv("XDG_RUNTIME_DIR", base)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	host, err := os.StartProcess(
		exe,
		[]string{exe},
		&os.ProcAttr{Files: []*os.File{nil, w, os.Stderr}, Env: append(os.Environ(), modeEnv+"=host:"+t.TempDir())},
	)
	require.NoError(t, err)
	w.Close()
	var pids []int
	buf := make([]byte, 1000)
	n, err := r.Read(buf)
	require.NoError(t, err)
	for _, f := range strings.Fields(string(buf[:n])) {
		pid, err := strconv.Atoi(f)
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	require.Len(t, pids, 3) // a plugin, a plugin and its child
	for _, pid := range pids {
		require.False(t, gone(pid))
	}
	left, err := filepath.Glob(filepath.Join(base, folderPrefix+"*"))
	require.NoError(t, err)
	require.Len(t, left, 1)

	// Another host that starts meanwhile does not disturb it.
	s, err := New(Options{})
	require.NoError(t, err)
	s.Close()
	require.DirExists(t, left[0])
	for _, pid := range pids {
		require.False(t, gone(pid))
	}

	require.NoError(t, host.Kill())
	_, err = host.Wait()
	require.NoError(t, err)
	for _, pid := range pids {
		requireGone(t, pid)
	}
	s, err = New(Options{})
	require.NoError(t, err)
	defer s.Close()
	require.NoDirExists(t, left[0], "the next host removes it")
}

// TestSweepKillsOrphans: a process that outlived its host, because it had no lifeline yet or moved to
// another session, is killed by the next host.
func TestSweepKillsOrphans(t *testing.T) {
	base, err := os.MkdirTemp("/tmp", "k")
	require.NoError(t, err)
	defer os.RemoveAll(base)
	t.Setenv("XDG_RUNTIME_DIR", base)
	f, err := makeRunFolder(base)
	require.NoError(t, err)
	orphan, err := os.StartProcess(
		"/bin/sleep",
		[]string{"sleep", "300"},
		&os.ProcAttr{Env: []string{tagEnv + "=" + f.tag + "/1"}, Sys: &syscall.SysProcAttr{Setsid: true}},
	)
	require.NoError(t, err)
	s := supervisor(t, Options{})
	require.False(t, gone(orphan.Pid), "its host is alive")
	s.Close()
	f.owner.Close() // as when the host dies
	supervisor(t, Options{})
	_, err = orphan.Wait()
	require.NoError(t, err)
	require.NoDirExists(t, f.path)

	again, err := makeRunFolder(base)
	require.NoError(t, err)
	again.owner.Close()
	folders, processes := Sweep()
	require.Contains(t, folders, again.path)
	require.Zero(t, processes)
}

func killedHost(logs string) {
	s, err := New(Options{LogDir: logs})
	if err != nil {
		panic(err)
	}
	exe, _ := os.Executable()
	var out []string
	for _, mode := range []string{"good", "holder"} {
		p, err := s.Start(
			context.Background(),
			Launch{
				Kind: plugins.Env,
				Name: "toy",
				Argv: []string{exe},
				Env:  map[string]string{modeEnv: mode, "GORACE": "atexit_sleep_ms=0"},
			},
		)
		if err != nil {
			panic(err)
		}
		c := env.NewClient(p.Conn(), nil)
		if err := c.Configure(context.Background(), plugins.Config{Lanes: 1}); err != nil {
			panic(err)
		}
		out = append(out, strconv.Itoa(p.PID()))
		r, err := c.Reset(context.Background(), env.Reset{Task: "child"})
		if err != nil {
			panic(err)
		}
		if r.EpisodeSteps != 0 {
			out = append(out, strconv.Itoa(r.EpisodeSteps))
		}
	}
	fmt.Println(strings.Join(out, " "))
	select {}
}

// A process that starts after the run folder was moved away must not create it again.
func TestScratchInAFolderThatWasMoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	s := supervisor(t, Options{LogDir: filepath.Join(dir, "plugins")})
	scratch, err := s.Scratch("env-toy-1")
	require.NoError(t, err)
	require.DirExists(t, scratch)
	require.NoError(t, os.Rename(dir, dir+"-away"))
	_, err = s.Scratch("env-toy-2")
	require.Equal(t, plugins.Exhausted, plugins.KindOf(err))
	require.NoDirExists(t, dir)
}
