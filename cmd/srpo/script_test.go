package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/srpo-dev/srpo/host/dataset"
	"github.com/srpo-dev/srpo/host/supervise/catalog"
	"github.com/srpo-dev/srpo/host/supervise/pyenv"
	"github.com/srpo-dev/srpo/plugins"
)

// TestScripts runs the scripts in testdata/script, which check the output of the command line.
//
// The scripts may use these commands besides those of testscript:
//
//	fails CODE ARG...               runs srpo ARG..., which must end with this exit code
//	interrupt FILE PATTERN ARG...   runs srpo ARG..., and sends SIGINT when FILE matches PATTERN;
//	                                it must exit with 130
//	strike FILE PATTERN ARG...      the same with SIGKILL
//	same FILE FILE...               the files must be equal byte by byte
//	videos DIR                      writes videos of two tasks with labels.csv: 5 successes and 4 failures each
func TestScripts(t *testing.T) {
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	goVars := map[string]string{}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOROOT", "GOTOOLCHAIN"} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		goVars[name] = strings.TrimSpace(string(out))
	}
	python, noPython := pythonCache(source)
	lerobot, noLeRobot := lerobotCache(t.TempDir())
	testscript.Run(t, testscript.Params{
		Dir:             "testdata/script",
		ContinueOnError: true,
		UpdateScripts:   os.Getenv("SRPO_UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			if err := os.MkdirAll(home, 0o755); err != nil {
				return err
			}
			for name, value := range goVars {
				e.Setenv(name, value)
			}
			e.Setenv("HOME", home)
			e.Setenv("SRPO_CACHE", filepath.Join(e.WorkDir, "cache"))
			e.Setenv("SRPO_SOURCE", source)
			e.Setenv("PYTHON_CACHE", python)
			e.Setenv("LEROBOT_CACHE", lerobot)
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			e.Setenv("NO_COLOR", "1")
			return nil
		},
		Condition: func(name string) (bool, error) {
			whyNot, ok := map[string]string{"python": noPython, "lerobot": noLeRobot}[name]
			if !ok {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			if whyNot != "" {
				t.Logf("[%s] is not tested here: %s", name, whyNot)
			}
			return whyNot == "", nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"fails": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				if got := exitCode(ts.Exec("srpo", args[1:]...)); got != want {
					ts.Fatalf("srpo %s ended with code %d, want %d", strings.Join(args[1:], " "), got, want)
				}
			},
			"interrupt": func(ts *testscript.TestScript, _ bool, args []string) {
				interrupt(ts, args, syscall.SIGINT, 130)
			},
			"strike": func(ts *testscript.TestScript, _ bool, args []string) {
				interrupt(ts, args, syscall.SIGKILL, -1)
			},
			"videos": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(writeVideos(ts.MkAbs(args[0])))
			},
			"same": func(ts *testscript.TestScript, neg bool, args []string) {
				first := ts.ReadFile(args[0])
				for _, f := range args[1:] {
					if (ts.ReadFile(f) == first) == neg {
						ts.Fatalf("%s and %s: equal is %t", args[0], f, !neg)
					}
				}
			},
		},
	})
}

// pythonCache returns the user's cache if it contains the Python environment that new plugins of `srpo plugin init`
// use. Otherwise it returns the reason. Tests install nothing.
func pythonCache(source string) (cache, whyNot string) {
	pkg, err := (&catalog.Catalog{}).Open(filepath.Join(source, "examples", "reach-python"))
	if err != nil {
		return "", err.Error()
	}
	return cacheWith(pkg, "srpo plugin install ./examples/reach-python")
}

// lerobotCache is like pythonCache, for the environment that reads and writes LeRobot data sets.
func lerobotCache(scratch string) (cache, whyNot string) {
	pkg, err := (&catalog.Catalog{
		Embedded: []fs.FS{dataset.LeRobotFiles()}, Cache: scratch,
	}).Find(plugins.Encoder, "lerobot")
	if err != nil {
		return "", err.Error()
	}
	return cacheWith(pkg, "srpo data show FOLDER of a LeRobot data set installs it")
}

// cacheWith returns the user's cache if the environment of a package is installed in it, otherwise the reason.
func cacheWith(pkg catalog.Package, hint string) (cache, whyNot string) {
	cache, err := pyenv.CacheDir()
	if err != nil {
		return "", err.Error()
	}
	m := pkg.Manifest.Python
	s := pyenv.Spec{Name: pkg.Name, Python: m.Requirement, Requirements: filepath.Join(pkg.Dir, m.Requirements)}
	if !pyenv.Installed(s, pyenv.Options{Cache: cache}) {
		return "", "the environment of " + pkg.Name + " is not installed: " + hint
	}
	return cache, ""
}

func exitCode(err error) int {
	var e *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.ExitCode()
	}
	return -1
}

// interrupt runs srpo args[2:], sends a signal to its process group when the file args[0] matches the pattern
// args[1], and checks the exit code. The output is written to the file "interrupted".
func interrupt(ts *testscript.TestScript, args []string, signal syscall.Signal, code int) {
	file, pattern := ts.MkAbs(args[0]), regexp.MustCompile(args[1])
	cmd := exec.Command("srpo", args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOME", "SRPO_CACHE", "GORACE", "NO_COLOR", "PATH", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ts.Check(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	limit := time.After(60 * time.Second)
	for sent := false; ; {
		select {
		case err := <-done:
			ts.Check(os.WriteFile(ts.MkAbs("interrupted"), out.Bytes(), 0o644))
			if got := exitCode(err); got != code {
				ts.Fatalf(
					"srpo %s ended with code %d, want %d:\n%s", strings.Join(args[2:], " "), got, code, out.Bytes(),
				)
			}
			return
		case <-limit:
			_ = cmd.Process.Kill()
			ts.Fatalf("srpo %s did not end:\n%s", strings.Join(args[2:], " "), out.Bytes())
		case <-time.After(20 * time.Millisecond):
			if text, err := os.ReadFile(file); err == nil && !sent && pattern.Match(text) {
				sent = true
				ts.Check(syscall.Kill(-cmd.Process.Pid, signal)) // to the whole group, as a terminal does
			}
		}
	}
}
