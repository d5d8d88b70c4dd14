package supervise

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/serve"
)

// modeEnv makes the test binary a plugin (or a host) instead of a test. Its value selects which.
const modeEnv = "SUPERVISE_TEST_MODE"

func TestMain(m *testing.M) {
	mode, rest, _ := strings.Cut(os.Getenv(modeEnv), ":")
	if mode == "" {
		os.Exit(m.Run())
	}
	play(mode, rest)
	os.Exit(0)
}

func play(mode, rest string) {
	switch mode {
	case "host": // a host that will be killed; see TestHostKilled
		killedHost(rest)
	case "neighbour": // another local user; see TestNeighbour
		neighbour(rest)
	case "good":
		serveEnv(&toy{})
	case "no heartbeat": // an SDK without heartbeats
		_ = os.Unsetenv(plugins.HeartbeatEnv)
		serveEnv(&toy{})
	case "prints":
		fmt.Println("hello from an import")
		serveEnv(&toy{})
	case "prints without end":
		fmt.Print(strings.Repeat("0123456789", 300_000))
	case "ends":
	case "prints and dies":
		fmt.Println("Traceback: no such module")
		os.Exit(3)
	case "dies":
		fmt.Fprintln(os.Stderr, "libEGL.so.1: cannot open shared object file")
		os.Exit(7)
	case "hangs":
		fmt.Fprintln(os.Stderr, "loading a large model")
		select {}
	case "newer":
		handshake := plugins.Handshake
		handshake.ProtocolVersion = 9
		plugin.Serve(
			&plugin.ServeConfig{
				HandshakeConfig:  handshake,
				VersionedPlugins: map[int]plugin.PluginSet{9: {"env": &env.Plugin{Impl: &toy{}}}},
				GRPCServer:       plugin.DefaultGRPCServer,
				Logger:           hclog.NewNullLogger(),
			},
		)
	case "no certificate":
		fmt.Println("1|1|unix|/nowhere|grpc")
		select {}
	case "liar": // a handshake without a server
		fmt.Println("1|1|unix|/nowhere|grpc|" + strings.Repeat("A", 60))
		select {}
	case "holder": // a child that holds stdout and stderr, in another session if rest is "session"
		child := exec.Command("sleep", "300")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: rest == "session"}
		if err := child.Start(); err != nil {
			panic(err)
		}
		serveEnv(&toy{child: child.Process.Pid})
	case "stubborn": // does not stop when asked: its server ignores the controller
		go func() { select {} }()
		serveEnv(&toy{})
		select {}
	case "shouts": // fills its log
		for i := range 60 {
			fmt.Fprintf(os.Stderr, "line %d\n", i)
		}
		serveEnv(&toy{})
	}
}

// stderr is the real one of the process: go-plugin's server replaces os.Stderr by a pipe, whose content is
// lost when the process exits.
var stderr = os.Stderr

// serveEnv does the same as sdk.ServeEnv. Packages of the host do not import the SDK.
func serveEnv(impl env.Env) {
	if fd, err := strconv.Atoi(os.Getenv(plugins.LifelineEnv)); err == nil {
		syscall.CloseOnExec(fd)
		go func() {
			_, _ = io.Copy(io.Discard, os.NewFile(uintptr(fd), "lifeline"))
			_ = syscall.Kill(-os.Getpid(), syscall.SIGKILL)
		}()
	}
	serve.Heartbeat()
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugins.Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{plugins.Protocol: {"env": &env.Plugin{Impl: impl}}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, serve.Options()...)...)
		},
		Logger: hclog.NewNullLogger(),
	})
}

// toy is an env whose tasks are commands: the task of a Reset determines what happens.
type toy struct {
	child int
	count atomic.Int64
}

func (t *toy) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: "toy", Kind: plugins.Env, Version: "1", MaxLanes: 4}, nil
}

func (t *toy) Configure(_ context.Context, c plugins.Config) error {
	if c.Seed == 13 {
		return plugins.Errorf(plugins.Invalid, "13 is not a seed")
	}
	if c.Seed == 14 {
		fmt.Fprintln(stderr, "dying while being configured")
		os.Exit(4)
	}
	return nil
}

func (t *toy) Describe(context.Context) (plugins.EnvSpec, error) {
	return plugins.EnvSpec{
		Action: plugins.ActionSpace{Names: []string{"x"}, Low: []float32{-1}, High: []float32{1}},
	}, nil
}

func (t *toy) Tasks(context.Context) iter.Seq2[env.Task, error] {
	return func(yield func(env.Task, error) bool) {
		yield(env.Task{ID: "a", StartStates: 1, MaxSteps: 10}, nil)
	}
}

func (t *toy) Reset(ctx context.Context, r env.Reset) (env.Transition, error) {
	command, rest, _ := strings.Cut(r.Task, ":")
	switch command {
	case "exit":
		fmt.Fprintln(stderr, "mj_step: Nan in qacc")
		os.Exit(5)
	case "panic":
		go panic("simulator fault")
		select {}
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "hang":
		<-make(chan int)
	case "work": // computes for the given time
		long, err := time.ParseDuration(rest)
		if err != nil {
			panic(err)
		}
		for began := time.Now(); time.Since(began) < long; {
		}
	case "corrupt":
		return env.Transition{Success: true}, nil // without Terminated, which the client refuses
	case "refuse":
		return env.Transition{}, plugins.Errorf(plugins.NotFound, "no such task").WithHint("try another")
	case "environ":
		return env.Transition{Observation: env.Observation{Instruction: strings.Join(os.Environ(), "\n")}}, nil
	case "getenv":
		return env.Transition{Observation: env.Observation{Instruction: os.Getenv(rest)}}, nil
	case "child":
		return env.Transition{EpisodeSteps: t.child}, nil
	case "stdin":
		b, err := io.ReadAll(os.Stdin)
		return env.Transition{
			Observation: env.Observation{Instruction: fmt.Sprintf("%d bytes, %v", len(b), err)},
		}, nil
	case "soon": // dies a little after the answer
		time.AfterFunc(50*time.Millisecond, func() { os.Exit(6) })
	}
	return env.Transition{EpisodeSteps: int(t.count.Add(1))}, nil
}

func (t *toy) Step(context.Context, env.Step) (env.Transition, error) {
	return env.Transition{StepsDone: 1}, nil
}
