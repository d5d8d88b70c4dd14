package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/supervise"
)

// workersPlugin is an env in Python whose process holds 4 worker processes and a child that left for a session of its
// own, with stdout and stderr.
const workersPlugin = `import srpo_sdk as srpo  # isort: skip
import multiprocessing, os, subprocess, time
import numpy as np

def work(pipe):
    pipe.send(0)  # it is up, however long its imports took
    while True:
        pipe.send(pipe.recv() + 1)

class Workers(srpo.Env):
    info = srpo.Info("workers", "0.1.0", doc="holds workers")
    @classmethod
    def describe(cls, settings):
        return srpo.EnvSpec(
            [srpo.Camera("top", 16, 16)], srpo.ActionSpace(["x"], low=[-1], high=[1], meaning="x"), ["x"])
    @classmethod
    def tasks(cls, settings):
        yield srpo.Task("a", "a", "do", start_states=4, max_steps=4)
    def reset(self, task, start_state, seed):
        self.x = seed % 2
        if not hasattr(self, "workers"):
            spawn = multiprocessing.get_context("spawn")
            self.workers = []
            for _ in range(4):
                mine, theirs = spawn.Pipe()
                p = spawn.Process(target=work, args=(theirs,))
                p.start()
                theirs.close()  # so that the end of a worker is the end of its pipe
                self.workers.append((p, mine))
            for _, pipe in self.workers:
                pipe.recv()
            self.sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            with open(os.environ["PIDS"], "a") as f:
                print(os.getpid(), *[p.pid for p, _ in self.workers], self.sleeper.pid, file=f)
    def step(self, action):
        for p, pipe in self.workers:
            pipe.send(1)  # one that is gone is a broken pipe, one that is slow is waited for
            pipe.recv()
        time.sleep(0.01)
        return srpo.Step(success=bool(self.x))
    def proprio(self):
        return np.float32([self.x])
    def render(self, camera):
        return np.full((16, 16, 3), 7 + 100 * self.x, np.uint8)

if __name__ == "__main__":
    srpo.serve(Workers)
`

const workersRun = `[run]
env = "./workers"
iterations = 1000
lanes = 2
videos = 0
solved_after = 0
[rollout]
groups = 1
group_size = 4
keep_low = 0
keep_high = 1
[reward]
kind = "binary"
[update]
epochs = 1
[imitate]
demos = 0
[policy.tiny]
hidden = 16
vision = 8
conv = ["4,8,8"]
`

// left lists what a run in a folder has left: processes that have anything to do with the folder, and what is in its
// temporary folder. Arenas have no name; they live as long as a process that maps them.
func left(home, tmp string) (list []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		pid, _ := strconv.Atoi(filepath.Base(p))
		environ, err := os.ReadFile(p + "/environ") // a zombie's is empty
		if err == nil && pid != os.Getpid() && bytes.Contains(environ, []byte("HOME="+home+"\x00")) {
			cmdline, _ := os.ReadFile(p + "/cmdline")
			list = append(list, "process "+filepath.Base(p)+": "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	entries, _ := os.ReadDir(tmp)
	for _, e := range entries {
		list = append(list, filepath.Join(tmp, e.Name()))
	}
	return list
}

// soon is within how long nobody may be left. It is 2 s on an idle machine, which docs/results/nobody.sh checks; here
// other tests run beside this one.
const soon = 20 * time.Second

// Whatever ends a run, soon nobody is left: no process of it, of its plugins or of their workers, no socket, no
// temporary folder. What SIGKILL kept the host from removing, and a child that had left for another session, goes
// with the next start.
func TestNobodyIsLeft(t *testing.T) {
	source, err := filepath.Abs("../..")
	require.NoError(t, err)
	cache, whyNot := pythonCache(source)
	if whyNot != "" {
		t.Skip(whyNot)
	}
	work, err := os.MkdirTemp("", "sl") // short: sockets lie below it
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(work) })
	pkg := filepath.Join(work, "workers")
	require.NoError(t, os.Mkdir(pkg, 0o755))
	requirements, err := os.ReadFile(filepath.Join(source, "examples/reach-python/requirements.txt"))
	require.NoError(t, err)
	for name, text := range map[string]string{"plugin.py": workersPlugin, "requirements.txt": string(requirements),
		"plugin.toml": "name = \"workers\"\nkind = \"env\"\nversion = \"0.1.0\"\nprotocol = 1\n[python]\nversion " +
			"= \">=3.10\"\n[env]\nPIDS = \"" +
			filepath.Join(work,
				"pids") + "\"\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(pkg, name), []byte(text), 0o644))
	}
	require.NoError(t, os.WriteFile(filepath.Join(work, "run.toml"), []byte(workersRun), 0o644))
	program, err := os.Executable()
	require.NoError(t, err)

	// pids are the plugin's, its workers' and its sleeper's, newest processes last.
	pids := func() (list [][]int) {
		data, _ := os.ReadFile(filepath.Join(work, "pids"))
		for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
			var p []int
			for _, f := range strings.Fields(line) {
				pid, _ := strconv.Atoi(f)
				p = append(p, pid)
			}
			if len(p) == 6 {
				list = append(list, p)
			}
		}
		return list
	}
	for _, c := range []struct {
		name string
		code int
		// end ends the run somehow.
		end func(host *os.Process, plugin []int)
		// swept: the host may leave its folder for the next start.
		swept bool
	}{
		{"normal end", 0, nil, false},
		{"SIGINT", 130, func(h *os.Process, _ []int) { _ = h.Signal(syscall.SIGINT) }, false},
		{"SIGTERM", 130, func(h *os.Process, _ []int) { _ = h.Signal(syscall.SIGTERM) }, false},
		{
			"twice SIGINT", 130,
			func(h *os.Process, _ []int) { _ = h.Signal(syscall.SIGINT); _ = h.Signal(syscall.SIGINT) }, true,
		},
		{"SIGKILL of the host", -1, func(h *os.Process, _ []int) { _ = h.Kill() }, true},
		{
			"an end without any cleaning up, as in a panic", 2,
			func(h *os.Process, _ []int) { _ = h.Signal(syscall.SIGQUIT) }, true,
		},
		{"SIGKILL of the plugin", 130, func(h *os.Process, p []int) { _ = syscall.Kill(p[0], syscall.SIGKILL) }, false},
		// the plugin misses it and says so; the second time it is replaced
		{"SIGKILL of a worker", 130, func(h *os.Process, p []int) { _ = syscall.Kill(p[2], syscall.SIGKILL) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			home, tmp := filepath.Join(work, "home"), filepath.Join(work, "t")
			for _, d := range []string{home, tmp} {
				require.NoError(t, os.RemoveAll(d))
				require.NoError(t, os.Mkdir(d, 0o755))
			}
			_ = os.Remove(filepath.Join(work, "pids"))
			require.NoError(t, os.RemoveAll(filepath.Join(work, "r")))
			args := []string{"run", "--config", "run.toml", "--out", "r"}
			if c.end == nil {
				args = append(args, "--iterations", "1")
			}
			cmd := exec.Command(program, args...)
			cmd.Dir = work
			cmd.Env = append(
				os.Environ(), "SRPO_TEST_MAIN=1", "SRPO_CACHE="+cache, "HOME="+home, "TMPDIR="+tmp, "XDG_RUNTIME_DIR=",
				"NO_COLOR=1", "GORACE=atexit_sleep_ms=0",
			)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			require.NoError(t, cmd.Start())
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			wait := func(what string, done func() bool) {
				t.Helper()
				for limit := time.Now().Add(2 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
					if time.Now().After(limit) {
						_ = cmd.Process.Kill()
						t.Fatalf("%s: not in 2 minutes\n%s\n%s", what, strings.Join(left(home, tmp), "\n"), out.Bytes())
					}
				}
			}
			committed := func(n int) func() bool {
				return func() bool {
					data, _ := os.ReadFile(filepath.Join(work, "r/metrics.jsonl"))
					return bytes.Count(data, []byte("\n")) >= n
				}
			}
			if c.end != nil {
				wait("the first iteration", committed(1))
				before := pids()
				require.NotEmpty(t, before)
				c.end(cmd.Process, before[0])
				if strings.Contains(c.name, "plugin") || strings.Contains(c.name, "worker") {
					struck, gone := time.Now(), before[0]
					wait("its whole family gone", func() bool {
						for _, pid := range gone {
							if environ, err := os.ReadFile(
								"/proc/" + strconv.Itoa(pid) + "/environ",
							); err == nil && bytes.Contains(environ, []byte("HOME="+home+"\x00")) {
								return false
							}
						}
						return true
					})
					if strings.Contains(c.name, "plugin") {
						took := time.Since(struck)
						t.Logf("nobody of the plugin's was left after %.2f s", took.Seconds())
						require.Less(t, took, soon)
					}
					wait("another plugin in its place", func() bool { return len(pids()) > len(before) })
					_ = cmd.Process.Signal(syscall.SIGINT)
				}
			}
			var err error
			wait("the host's end", func() bool {
				select {
				case err = <-ended:
					return true
				default:
					return false
				}
			})
			began := time.Now()
			var e *exec.ExitError
			code := 0
			if errors.As(err, &e) {
				code = e.ExitCode()
			}
			require.Equal(t, c.code, code, out.String())
			if c.swept { // by the next start
				// but for the child in a session of its own, which nobody alive knows of
				wait("no process", func() bool {
					for _, p := range left(home, filepath.Join(work, "none")) {
						if !strings.Contains(p, "sleep 1000") {
							return false
						}
					}
					return true
				})
				t.Logf("no process but the one in another session was left after %.2f s", time.Since(began).Seconds())
				require.Less(t, time.Since(began), soon)
				t.Setenv("TMPDIR", tmp)
				t.Setenv("XDG_RUNTIME_DIR", "")
				folders, processes := supervise.Sweep()
				if c.code == -1 {
					require.NotEmpty(t, folders)
					require.NotZero(t, processes)
				}
			}
			wait("nothing is left", func() bool { return len(left(home, tmp)) == 0 })
			t.Logf("nothing was left after %.2f s", time.Since(began).Seconds())
			require.Less(t, time.Since(began), soon)
		})
	}
}
