package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/policies/tiny"
	"github.com/srpo-dev/srpo/sdk"
)

// TestMain makes the test binary serve as the programs that the tests start: the commands srpo and badplugin of the
// scripts, and the built-in plugins, for which srpo starts its own executable. That is named srpo in scripts, and like
// the test binary in tests that call Main.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "plugin" && os.Args[2] == "serve" {
		// Not os.Exit: GORACE does not reach plugins, and without it the race detector sleeps for a second at the end.
		syscall.Exit(Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	if os.Getenv("SRPO_TEST_MAIN") != "" { // srpo, for tests that kill it
		syscall.Exit(Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	testscript.Main(tests{m}, map[string]func(){
		"srpo":      func() { os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr)) },
		"badplugin": func() { badPlugin(os.Args[1]); syscall.Exit(0) },
	})
}

type tests struct{ m *testing.M }

func (t tests) Run() int {
	defer removeSmallRun()
	return t.m.Run()
}

// badPlugin serves a plugin that violates the contract in a way that depends on the mode.
func badPlugin(mode string) {
	if mode == "stubborn" { // the server stops, but the process does not
		signal.Ignore(syscall.SIGTERM)
		defer func() { select {} }()
	}
	switch mode {
	case "encoder", "blind", "fragile":
		sdk.ServeEncoder(badEncoder{mode})
		return
	case "once", "always", "nan", "nans", "diverges", "infinite":
		sdk.ServePolicy(faultyPolicy{tiny.New(), mode})
		return
	case "ranked":
		sdk.ServePolicy(&rankedPolicy{Policy: tiny.New()})
		return
	case "mortal":
		(&badSim{}).dieAtStart()
	}
	newSim := func(plugins.Config, int) (sdk.Sim, error) { return &badSim{mode: mode}, nil }
	if mode == "shy" { // the expert supports no task
		newSim = func(plugins.Config, int) (sdk.Sim, error) { return shySim{&badSim{mode: mode}}, nil }
	}
	sdk.ServeSim(sdk.SimSpec{
		Info: plugins.Info{Name: "bad", Version: "0.1.0", Doc: "violates the contract"},
		Env: plugins.EnvSpec{Cameras: []plugins.Camera{
			{Name: "main", Height: 8, Width: 8, View: "third_person"},
		}, Proprio: []string{"x"},
			Action: plugins.ActionSpace{
				Names: []string{"x"}, Low: []float32{-1}, High: []float32{1}, Meaning: "nothing",
			}, Expert: mode == "shy"},
		Tasks: []env.Task{{ID: "bad/task", Suite: "bad", Instruction: "do nothing", StartStates: 2, MaxSteps: 20}},
		New:   newSim,
	})
}

// shySim has an expert that gives up at once, as LIBERO's does for suites other than libero_object.
type shySim struct{ *badSim }

func (shySim) Expert() ([]float32, bool) { return nil, false }

type badSim struct {
	mode       string
	x          float32
	episodes   int
	succeeds   bool
	nanProprio bool
}

func (b *badSim) Reset(_ string, _ int, seed uint64) error {
	b.x, b.succeeds = 0, b.mode == "coin" && seed%2 == 0
	switch b.mode {
	case "mortal":
		b.dieAtStart()
	case "careless":
		b.x = rand.Float32()
		// Like a C library or a child process. The output of fmt.Println goes to the log.
		_, _ = syscall.Write(1, []byte("resetting\n"))
	case "dies":
		fmt.Fprintln(os.Stderr, "simulator: out of memory")
		os.Exit(9)
	}
	return b.failTenthReset()
}
func (b *badSim) Step([]float32) (sdk.Outcome, error) {
	return sdk.Outcome{Success: b.succeeds, Terminated: b.succeeds}, nil
}
func (b *badSim) Proprio() []float32 {
	if b.nanProprio {
		return []float32{float32(math.NaN())}
	}
	return []float32{b.x}
}
func (b *badSim) Render(_ string, h, w int) []byte {
	picture := make([]byte, h*w*3)
	picture[0] = 255 // so that embeddings are not zero
	return picture
}

// TestRequirementsOfTemplates checks that `srpo plugin init` writes the same requirements of srpo_sdk as the example
// has, which CI installs.
func TestRequirementsOfTemplates(t *testing.T) {
	for _, name := range []string{"requirements.in", "requirements.txt"} {
		want, err := os.ReadFile("../../examples/reach-python/" + name)
		require.NoError(t, err)
		got, err := templates.ReadFile("templates/python/all/" + name)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), name)
	}
}
