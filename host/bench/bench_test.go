package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
	"github.com/srpo-dev/srpo/plugins/serve"
)

// roleEnv makes the test binary a plugin or a helper program instead of a test.
const roleEnv = "BENCH_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "env":
		serveRole(plugins.Env, &env.Plugin{Impl: NewEnv()})
	case "policy":
		serveRole(plugins.Policy, &policy.Plugin{Impl: NewPolicy()})
	case "encoder":
		serveRole(plugins.Encoder, &encoder.Plugin{Impl: NewEncoder()})
	case "vector": // replaces gymnasium's, with 50 microseconds per step
		for d := json.NewDecoder(os.Stdin); ; {
			var ask struct{ Lanes, Frame int }
			if d.Decode(&ask) != nil {
				return
			}
			fmt.Println(`{"us": 50, "steps": 10, "warm": 10}`)
		}
	case "dies":
		fmt.Fprintln(os.Stderr, "ModuleNotFoundError: gymnasium")
		os.Exit(3)
	}
}

// serveRole serves a plugin as the SDK does. The packages of the host do not import the SDK.
func serveRole(kind plugins.Kind, p plugin.Plugin) {
	if fd, err := strconv.Atoi(os.Getenv(plugins.LifelineEnv)); err == nil {
		syscall.CloseOnExec(fd)
		go func() {
			_, _ = io.Copy(io.Discard, os.NewFile(uintptr(fd), "lifeline"))
			_ = syscall.Kill(-os.Getpid(), syscall.SIGKILL)
		}()
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugins.Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{plugins.Protocol: {string(kind): p}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o,
				serve.Options()...)...)
		},
		Logger: hclog.NewNullLogger(),
	})
}

func role(t *testing.T, kind plugins.Kind, name string) supervise.Launch {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	return supervise.Launch{Kind: kind, Name: Name, Argv: []string{exe}, Env: map[string]string{roleEnv: name,
		"GORACE": "atexit_sleep_ms=0"}}
}

func tools(t *testing.T) Tools {
	t.Helper()
	return Tools{Env: role(t, plugins.Env, "env"), Policy: role(t, plugins.Policy, "policy"),
		Encoder: role(t, plugins.Encoder, "encoder"), ArenaMB: 16,
		Progress: func(string, ...any) {}}
}

// vector makes vector.py start the test binary in the given role.
func vector(t *testing.T, tools *Tools, as string) {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "vector.py"), []byte("#!/bin/sh\nexec '"+exe+"'\n"), 0o755))
	tools.Python = supervise.Launch{Name: "bench", Dir: dir, Argv: []string{"/bin/sh",
		filepath.Join(dir, "encoder.py")}, Env: map[string]string{roleEnv: as}}
}

func TestOverhead(t *testing.T) {
	x := tools(t)
	vector(t, &x, "vector")
	s, err := Overhead(t.Context(), x, OverheadOptions{Lanes: []int{2}, Frames: []int{16}, Repeats: 2,
		Seconds: 0.01, ProcessPerLane: true})
	require.NoError(t, err)
	require.Len(t, s.Tables, 2, "wall time and processor time")
	for _, table := range s.Tables {
		require.Len(t, table.Rows, 1)
		for _, row := range table.Rows {
			require.Len(t, row.Cells, len(table.Columns))
			require.Equal(t, 2.0, row.Values["lanes"])
			require.Equal(t, 50.0, row.Values["gymnasium_us"])
			for _, way := range []string{"chunk8", "chunk1", "chunk1_env", "alone_chunk8", "alone_chunk1_env"} {
				us := row.Values[way+"_us"]
				require.Positive(t, us, way)
				require.False(t, math.IsInf(us, 0), way)
				require.InDelta(t, us/50, row.Values[way+"_ratio"], us/25, way)
				require.Contains(t, row.Values, way+"_cpu_us")
			}
		}
	}

	var b bytes.Buffer
	r := NewReport("srpo bench")
	r.Sections = []Section{s}
	require.NoError(t, r.Markdown(&b))
	require.Contains(t, b.String(), "| lanes | gymnasium | chunk 8, policy process |")
	require.Equal(t, 2*(2+1), strings.Count(b.String(), "\n|"))
	_, err = json.Marshal(r)
	require.NoError(t, err, "no value is NaN")
}

func TestOverheadWithoutPython(t *testing.T) {
	s, err := Overhead(t.Context(), tools(t), OverheadOptions{Lanes: []int{2}, Frames: []int{0}, Repeats: 1,
		Seconds: 0.01})
	require.NoError(t, err)
	require.Contains(t, s.Text, "Without gymnasium")
	require.Equal(t, "-", s.Tables[0].Rows[0].Cells[1])
	_, err = json.Marshal(s)
	require.NoError(t, err)

	x := tools(t)
	vector(t, &x, "dies")
	_, err = Overhead(t.Context(), x, OverheadOptions{Lanes: []int{2}, Frames: []int{8}, Repeats: 1, Seconds: 0.01})
	require.Error(t, err)
	require.Equal(t, plugins.Unavailable, plugins.KindOf(err))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Overhead(ctx, tools(t), OverheadOptions{Lanes: []int{2}, Frames: []int{8}})
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
}

func TestRig(t *testing.T) {
	x := tools(t)
	for _, processPerLane := range []bool{false, true} {
		r, err := newRig(t.Context(), rigOptions{env: x.Env, policy: &x.Policy, lanes: 3,
			processPerLane: processPerLane, chunk: 4,
			observe: true, arenaMB: 4})
		require.NoError(t, err)
		require.Equal(t, map[bool]int{false: 1, true: 3}[processPerLane], len(r.sched.Envs))
		s, err := r.roll(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, 30, s.steps, "ten steps on each of three lanes")
		require.Positive(t, s.inStep)
		require.Less(t, s.inStep, s.wall)
		n, err := r.length(t.Context(), 0.01)
		require.NoError(t, err)
		require.Zero(t, n%4)
		r.close()
	}
	_, err := newRig(t.Context(), rigOptions{env: x.Env, lanes: 1, chunk: 4, task: "another"})
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
}

func TestClip(t *testing.T) {
	x := tools(t)
	s, err := Clip(t.Context(), x, ClipOptions{Frames: 6, Side: 32, Repeats: 2})
	require.NoError(t, err)
	require.Len(t, s.Tables, 2)
	require.Len(t, s.Tables[0].Rows, 5, "the copy, and Go with two transports, with and without reading")
	require.Len(t, s.Tables[1].Rows, 2)
	for _, table := range s.Tables {
		for _, row := range table.Rows {
			require.Len(t, row.Cells, len(table.Columns))
			require.Len(t, row.Values, 3)
			for name, v := range row.Values {
				require.Positive(t, v, name)
			}
		}
	}
}

func TestEncode(t *testing.T) {
	x := tools(t)
	read := func([]plugins.Setting) (plugins.Settings, error) { return plugins.Settings{"read": true}, nil }
	s, err := Encode(t.Context(), x, EncoderOptions{Encoder: x.Encoder, Resolve: read, Lengths: []int{2, 5},
		Side: 16, Episode: 7, Windows: 3, Repeats: 3})
	require.NoError(t, err)
	require.Len(t, s.Tables, 2)
	require.Len(t, s.Tables[0].Rows, 2)
	require.Len(t, s.Tables[1].Rows, 2)
	for _, table := range s.Tables {
		for _, row := range table.Rows {
			require.Len(t, row.Cells, len(table.Columns))
		}
	}
	require.Positive(t, s.Tables[0].Rows[0].Values["clip_s"])
	require.Equal(t, 1.0, s.Tables[1].Rows[0].Values["curve_each_faster"])
	require.Positive(t, s.Tables[1].Rows[1].Values["curve_together_faster"])

	require.InDelta(t, 0.5, relativeDifference([][]float32{{1, 4}}, [][]float32{{1, 2}}), 1e-6)
	require.True(t, math.IsNaN(relativeDifference([][]float32{{1, 4}}, [][]float32{{1, float32(math.NaN())}})))
	require.Zero(t, relativeDifference([][]float32{{0}}, [][]float32{{0}}))

	s, err = Encode(t.Context(), x, EncoderOptions{Encoder: x.Encoder, Lengths: []int{2}, Side: 16, Episode: -1,
		Repeats: 1})
	require.NoError(t, err)
	require.Len(t, s.Tables, 1)
}

func TestThroughHost(t *testing.T) {
	x := tools(t)
	// The policy's waves are within the env's action range, which the scheduler and the env check.
	whole, inStep, err := throughHost(t.Context(), rigOptions{env: x.Env,
		resolve: fixed(plugins.Settings{"steps": int64(128)}), policy: &x.Policy, lanes: 2, chunk: 8, observe: true,
		wave: 0.5, arenaMB: 4}, 2, 0.01)
	require.NoError(t, err)
	require.Len(t, whole, 2)
	for i := range whole {
		require.Positive(t, whole[i])
		require.Positive(t, inStep[i])
	}
	s, err := Steps(t.Context(), x, StepOptions{Env: x.Env, Resolve: fixed(plugins.Settings{"steps": int64(64)}),
		Lanes: []int{2}, Repeats: 1, Seconds: 0.01})
	require.NoError(t, err)
	require.Len(t, s.Tables[0].Rows, 1)
	require.Positive(t, s.Tables[0].Rows[0].Values["chunk1_per_s"])
}

func TestQuantile(t *testing.T) {
	require.True(t, math.IsNaN(median(nil)))
	require.Equal(t, 3.0, median([]float64{5, 3, 1}))
	require.Equal(t, 2.5, median([]float64{4, 1, 3, 2}))
	require.InDelta(t, 1.3, quantile([]float64{4, 1, 3, 2}, 0.1), 1e-12)
	require.Equal(t, []float64{2, 0.5}, ratios([]float64{4, 1, 9}, []float64{2, 2}))
	require.Equal(t, []float64{2}, ratios([]float64{4, 1, 4}, []float64{0, 0, 2}),
		"a round without measured time has no ratio")
}

func TestCPUSeconds(t *testing.T) {
	before := cpuSeconds(0)
	x := 0.0
	for i := range 100_000_000 {
		x += math.Sqrt(float64(i))
	}
	require.Positive(t, x)
	require.Greater(t, cpuSeconds(0), before)
	require.Zero(t, cpuSeconds(-7))
}

// The Python package has a valid manifest, and its programs compile.
func TestFiles(t *testing.T) {
	m, err := manifest.Load(Files(), "bench")
	require.NoError(t, err)
	require.Equal(t, "bench", m.Name)
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3")
	}
	for _, name := range []string{"encoder.py", "env.py", "vector.py", "libero_lane.py"} {
		out, err := exec.Command(python, "-c", "import ast,sys; ast.parse(open(sys.argv[1]).read())",
			filepath.Join("python", name)).CombinedOutput()
		require.NoError(t, err, string(out))
	}
}
