package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/supervise"
)

// workersPlugin is an env in Python with 4 worker processes and a child process that moves to another session and keeps
// stdout and stderr open.
const workersPlugin = `import srpo_sdk as srpo  # isort: skip
import multiprocessing, os, subprocess, time
import numpy as np

def work(pipe):
    pipe.send(0)  # the worker is ready
    while True:
        pipe.send(pipe.recv() + 1)

class Workers(srpo.Env):
    info = srpo.Info("workers", "0.1.0", doc="has worker processes")
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
                theirs.close()  # the pipe breaks when the worker ends
                self.workers.append((p, mine))
            for _, pipe in self.workers:
                pipe.recv()
            self.sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            with open(os.environ["PIDS"], "a") as f:
                print(os.getpid(), *[p.pid for p, _ in self.workers], self.sleeper.pid, file=f)
    def step(self, action):
        for p, pipe in self.workers:
            pipe.send(1)  # raises if the worker has ended
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

// leftovers lists the processes of a run with this home folder, and the entries of its temporary folder. Arenas have no
// name and exist as long as a process that maps them.
func leftovers(home, tmp string) (list []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		if pid, _ := strconv.Atoi(filepath.Base(p)); pid != os.Getpid() && isProcessOf(home, pid) {
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

// isProcessOf reports whether a process is running and has this home folder. The environment of a zombie is empty.
func isProcessOf(home string, pid int) bool {
	environ, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(environ, []byte("HOME="+home+"\x00"))
}

// maxCleanup is the time within which everything must be gone. On an idle machine it takes less than 2 s, which
// docs/results/nobody.sh checks. Here other tests may run at the same time.
const maxCleanup = 20 * time.Second

// TestNothingIsLeftOver checks that no process, socket or temporary folder is left after a run, however it ends:
// neither of the host nor of its plugins and their workers. The next start removes what a killed host could not
// remove, and child processes in other sessions.
func TestNothingIsLeftOver(t *testing.T) {
	w := newWorkersFolder(t)
	signals := func(list ...syscall.Signal) func(*os.Process, []int) {
		return func(host *os.Process, _ []int) {
			for _, s := range list {
				_ = host.Signal(s)
			}
		}
	}
	for _, c := range []struct {
		name string
		code int
		// end ends the host, or a process of the plugin's. It is nil for a run that ends by itself.
		end func(host *os.Process, plugin []int)
		// victim is "host", "plugin" or "worker".
		victim string
		// needsSweep allows the host to leave files and the child in another session to the next start.
		needsSweep bool
	}{
		{"normal end", 0, nil, "", false},
		{"SIGINT", 130, signals(syscall.SIGINT), "host", false},
		{"SIGTERM", 130, signals(syscall.SIGTERM), "host", false},
		{"twice SIGINT", 130, signals(syscall.SIGINT, syscall.SIGINT), "host", true},
		{"SIGKILL of the host", -1, signals(syscall.SIGKILL), "host", true},
		{"an end without any cleaning up, as in a panic", 2, signals(syscall.SIGQUIT), "host", true},
		{
			"SIGKILL of the plugin", 130,
			func(_ *os.Process, p []int) { _ = syscall.Kill(p[0], syscall.SIGKILL) }, "plugin", false,
		},
		// The plugin returns an error for the dead worker, and is replaced after the second error.
		{
			"SIGKILL of a worker", 130,
			func(_ *os.Process, p []int) { _ = syscall.Kill(p[2], syscall.SIGKILL) }, "worker", false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.start(t, c.end == nil)
			if c.end != nil {
				r.waitFor(t, "first iteration", func() bool { return r.iterations() >= 1 })
				plugins := w.pids()
				require.NotEmpty(t, plugins)
				c.end(r.cmd.Process, plugins[0])
				if c.victim != "host" {
					r.checkReplaced(t, plugins, c.victim == "plugin")
					_ = r.cmd.Process.Signal(syscall.SIGINT)
				}
			}
			code := r.exitCode(t)
			ended := time.Now()
			require.Equal(t, c.code, code, r.out.String())
			if c.needsSweep {
				r.checkSweep(t, ended, c.code == -1)
			}
			r.waitFor(t, "empty folders and no process", func() bool { return len(leftovers(w.home, w.tmp)) == 0 })
			t.Logf("nothing was left after %.2f s", time.Since(ended).Seconds()) // parsed by docs/results/nobody.sh
			require.Less(t, time.Since(ended), maxCleanup)
		})
	}
}

// workersFolder is a working folder with the package of workersPlugin and the configuration of a run.
type workersFolder struct{ dir, cache, home, tmp string }

func newWorkersFolder(t *testing.T) *workersFolder {
	t.Helper()
	source, err := filepath.Abs("../..")
	require.NoError(t, err)
	cache, whyNot := pythonCache(source)
	if whyNot != "" {
		t.Skip(whyNot)
	}
	dir, err := os.MkdirTemp("", "sl") // a short path, because the paths of sockets start with it
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	pkg := filepath.Join(dir, "workers")
	require.NoError(t, os.Mkdir(pkg, 0o755))
	requirements, err := os.ReadFile(filepath.Join(source, "examples/reach-python/requirements.txt"))
	require.NoError(t, err)
	for path, text := range map[string]string{
		"workers/plugin.py":        workersPlugin,
		"workers/requirements.txt": string(requirements),
		"workers/plugin.toml": "name = \"workers\"\nkind = \"env\"\nversion = \"0.1.0\"\nprotocol = 1\n" +
			"[python]\nversion = \">=3.10\"\n[env]\nPIDS = \"" + filepath.Join(dir, "pids") + "\"\n",
		"run.toml": workersRun,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644))
	}
	return &workersFolder{dir, cache, filepath.Join(dir, "home"), filepath.Join(dir, "t")}
}

// pids returns the process IDs of each plugin process that has started: its own, those of its 4 workers, and that of
// the child in another session. The newest is last.
func (w *workersFolder) pids() (list [][]int) {
	data, _ := os.ReadFile(filepath.Join(w.dir, "pids"))
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

// start starts a run in an empty run folder. A short run has one iteration.
func (w *workersFolder) start(t *testing.T, short bool) *workersHost {
	t.Helper()
	for _, d := range []string{w.home, w.tmp} {
		require.NoError(t, os.RemoveAll(d))
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	_ = os.Remove(filepath.Join(w.dir, "pids"))
	require.NoError(t, os.RemoveAll(filepath.Join(w.dir, "r")))
	args := []string{"run", "--config", "run.toml", "--out", "r"}
	if short {
		args = append(args, "--iterations", "1")
	}
	program, err := os.Executable()
	require.NoError(t, err)
	r := &workersHost{workersFolder: w, cmd: exec.Command(program, args...), ended: make(chan error, 1)}
	r.cmd.Dir = w.dir
	r.cmd.Env = append(
		os.Environ(), "SRPO_TEST_MAIN=1", "SRPO_CACHE="+w.cache, "HOME="+w.home, "TMPDIR="+w.tmp, "XDG_RUNTIME_DIR=",
		"NO_COLOR=1", "GORACE=atexit_sleep_ms=0",
	)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	require.NoError(t, r.cmd.Start())
	go func() { r.ended <- r.cmd.Wait() }()
	return r
}

// workersHost is a running srpo in a workersFolder.
type workersHost struct {
	*workersFolder
	cmd   *exec.Cmd
	out   bytes.Buffer // complete after exitCode
	ended chan error
}

// waitFor polls a condition, and fails the test after 2 minutes.
func (r *workersHost) waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for limit := time.Now().Add(2 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			_ = r.cmd.Process.Kill()
			t.Fatalf("%s: not reached in 2 minutes\n%s\n%s", what,
				strings.Join(leftovers(r.home, r.tmp), "\n"), r.out.Bytes())
		}
	}
}

// iterations returns the number of committed iterations.
func (r *workersHost) iterations() int {
	data, _ := os.ReadFile(filepath.Join(r.dir, "r/metrics.jsonl"))
	return bytes.Count(data, []byte("\n"))
}

// checkReplaced checks that all processes of the first plugin end and another plugin process starts. If timed, they
// must end within maxCleanup.
func (r *workersHost) checkReplaced(t *testing.T, before [][]int, timed bool) {
	t.Helper()
	began := time.Now()
	r.waitFor(t, "end of the plugin's processes", func() bool {
		return !slices.ContainsFunc(before[0], func(pid int) bool { return isProcessOf(r.home, pid) })
	})
	if timed {
		elapsed := time.Since(began)
		t.Logf("no process of the plugin was left after %.2f s", elapsed.Seconds())
		require.Less(t, elapsed, maxCleanup)
	}
	r.waitFor(t, "another plugin process", func() bool { return len(r.pids()) > len(before) })
}

// exitCode waits for the end of the host.
func (r *workersHost) exitCode(t *testing.T) int {
	t.Helper()
	var err error
	r.waitFor(t, "end of the host", func() bool {
		select {
		case err = <-r.ended:
			return true
		default:
			return false
		}
	})
	return exitCode(err)
}

// checkSweep checks that all processes end but the child in another session, which only the next start can find, and
// then sweeps as the next start does. If killed, the sweep must find a folder and a process.
func (r *workersHost) checkSweep(t *testing.T, ended time.Time, killed bool) {
	t.Helper()
	r.waitFor(t, "end of all processes", func() bool {
		processes := leftovers(r.home, filepath.Join(r.dir, "none"))
		return !slices.ContainsFunc(processes, func(p string) bool { return !strings.Contains(p, "sleep 1000") })
	})
	t.Logf("only the process in another session was left after %.2f s", time.Since(ended).Seconds())
	require.Less(t, time.Since(ended), maxCleanup)
	t.Setenv("TMPDIR", r.tmp)
	t.Setenv("XDG_RUNTIME_DIR", "")
	folders, processes := supervise.Sweep()
	if killed {
		require.NotEmpty(t, folders)
		require.NotZero(t, processes)
	}
}
