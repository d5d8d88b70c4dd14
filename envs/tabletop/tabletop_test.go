package tabletop

import (
	"context"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/sdk/plugintest"
	"github.com/stretchr/testify/require"
)

// TestContract runs the conformance tests over gRPC, with and without the arena.
func TestContract(t *testing.T) { plugintest.TestEnv(t, New, nil) }

// TestExpertSucceeds checks that the expert succeeds from every start state of every task, in both
// orders, before 90 % of the step limit.
func TestExpertSucceeds(t *testing.T) {
	e := open(t, 1, 0, nil)
	for task := range tasks(t, e) {
		for _, noise := range []float32{0, 0.1} {
			orders := map[int]int{}
			for state := range task.StartStates {
				seed := uint64(state)
				tr := reset(t, e, env.Reset{Task: task.ID, StartState: state, Seed: seed})
				require.Zero(t, *tr.Progress)
				first := -1
				for !tr.Done() {
					tr = stepExpert(t, e, env.ExpertStep{Steps: 1, Noise: noise})
					w := &e.(*Tabletop).lanes[0].world
					for i := range w.n {
						if first < 0 && w.placed(i) {
							first = i
						}
					}
				}
				require.True(t, tr.Success, "%s, start state %d, noise %g: stopped at %.1f", task.ID, state, noise,
					*tr.Progress)
				require.True(t, tr.Terminated)
				require.False(t, tr.Truncated)
				require.Equal(t, 1.0, *tr.Progress)
				require.Less(t, tr.EpisodeSteps, task.MaxSteps*9/10)
				orders[first]++
			}
			if strings.Contains(task.ID, "two_blocks") {
				require.Greater(t, orders[0], 10, "red first")
				require.Greater(t, orders[1], 10, "blue first")
			}
		}
	}
}

// TestSameOnEveryLane checks that an episode depends on task, start state and seed only, not on the lane,
// on earlier episodes there or on other lanes.
func TestSameOnEveryLane(t *testing.T) {
	const lanes = 8
	e := open(t, lanes, 32, nil)
	episodes := make([][]env.Transition, lanes)
	var wait sync.WaitGroup
	for lane := range lanes {
		wait.Go(func() {
			// Give every lane a different history.
			reset(t, e, env.Reset{Lane: lane, Task: "tabletop/one_block", StartState: lane, Seed: uint64(lane)})
			stepExpert(t, e, env.ExpertStep{Lane: lane, Steps: 3 + lane, Noise: 0.4})
			render := env.Render{Observe: []string{"front"}, Record: "front", RecordEvery: 3}
			tr := reset(t, e, env.Reset{Lane: lane, Task: "tabletop/two_blocks", StartState: 7, Seed: 99,
				Render: render})
			episodes[lane] = append(episodes[lane], tr)
			for !tr.Done() {
				tr = stepExpert(t, e, env.ExpertStep{Lane: lane, Steps: 8, Noise: 0.25, Render: render})
				episodes[lane] = append(episodes[lane], tr)
			}
		})
	}
	wait.Wait()
	for lane := 1; lane < lanes; lane++ {
		require.Equal(t, episodes[0], episodes[lane], "lane %d", lane)
	}
}

// TestReplay checks that replaying the expert's actions in chunks of another size gives the same episode.
func TestReplay(t *testing.T) {
	e := open(t, 2, 0, nil)
	at := env.Reset{Task: "tabletop/two_blocks", StartState: 11, Seed: 5}
	reset(t, e, at)
	whole := stepExpert(t, e, env.ExpertStep{Steps: 500, Noise: 0.2})
	at.Lane = 1
	reset(t, e, at)
	var last env.Transition
	for from := 0; from < whole.StepsDone; from += 7 {
		to := min(from+7, whole.StepsDone)
		last = step(t, e, env.Step{Lane: 1, Actions: plugins.Tensor{DType: plugins.Float32,
			Shape: []int{to - from, 4},
			Data:  whole.Actions.Data[16*from : 16*to]}})
		require.Equal(t, to, last.EpisodeSteps)
	}
	require.Equal(t, whole.Observation, last.Observation)
	require.Equal(t, whole.Success, last.Success)
	require.Equal(t, whole.Progress, last.Progress)
	require.Equal(t, e.(*Tabletop).lanes[0].world.blocks, e.(*Tabletop).lanes[1].world.blocks)
}

// TestExpertIntended checks that a noisy expert returns the actions that it would have taken without
// noise, and that without noise Intended is empty.
func TestExpertIntended(t *testing.T) {
	e := open(t, 2, 0, nil)
	at := env.Reset{Task: "tabletop/two_blocks", StartState: 3, Seed: 5}
	other := at
	other.Lane = 1
	reset(t, e, at)
	for steps := range 20 {
		noisy := stepExpert(t, e, env.ExpertStep{Steps: 1, Noise: 0.3})
		require.NotEqual(t, noisy.Actions, noisy.Intended)
		// Bring the other lane to the same state, where its expert acts without noise.
		reset(t, e, other)
		for range steps {
			stepExpert(t, e, env.ExpertStep{Lane: 1, Steps: 1, Noise: 0.3})
		}
		calm := stepExpert(t, e, env.ExpertStep{Lane: 1, Steps: 1})
		require.Equal(t, calm.Actions, noisy.Intended)
		require.True(t, calm.Intended.IsZero())
	}
}

// TestSeedsDiffer checks that seeds change the expert's noise and start states change the observation.
func TestSeedsDiffer(t *testing.T) {
	e := open(t, 1, 0, nil)
	run := func(state int, seed uint64) env.Transition {
		reset(t, e, env.Reset{Task: "tabletop/two_blocks", StartState: state, Seed: seed})
		return stepExpert(t, e, env.ExpertStep{Steps: 10, Noise: 0.2})
	}
	a, b, c := run(0, 1), run(0, 2), run(1, 1)
	require.NotEqual(t, a.Actions, b.Actions)
	require.NotEqual(t, a.Observation.Proprio, c.Observation.Proprio)
	require.Equal(t, a, run(0, 1))
}

// TestRecordEvery checks that recorded frames are counted from the episode's start for any chunk size,
// and that Reset returns frame 0.
func TestRecordEvery(t *testing.T) {
	e := open(t, 1, 16, nil)
	for _, every := range []int{1, 2, 3, 7, 50} {
		for _, chunk := range []int{1, 5, 8} {
			render := env.Render{Record: "front", RecordEvery: every}
			tr := reset(t, e, env.Reset{Task: "tabletop/one_block", Seed: 1, Render: render})
			require.NoError(t, tr.Recorded.Check("frame", plugins.Uint8, 1, 16, 16, 3))
			frames := 1
			for !tr.Done() {
				before := tr.EpisodeSteps
				tr = stepExpert(t, e, env.ExpertStep{Steps: chunk, Render: render})
				want := render.Frames(before, tr.StepsDone)
				if want == 0 {
					require.True(t, tr.Recorded.IsZero())
				} else {
					require.NoError(t, tr.Recorded.Check("frames", plugins.Uint8, want, 16, 16, 3))
				}
				frames += want
			}
			require.Equal(t, 1+tr.EpisodeSteps/every, frames)
			require.Nil(t, tr.Observation.Images, "not requested")
		}
	}
	render := env.Render{Record: "front", RecordEvery: 0}
	require.True(t, reset(t, e, env.Reset{Task: "tabletop/one_block", Render: render}).Recorded.IsZero())
}

// TestRecordedIsObserved checks that a recorded frame equals the observed frame of that step.
func TestRecordedIsObserved(t *testing.T) {
	e := open(t, 1, 48, nil)
	render := env.Render{Observe: []string{"front"}, Record: "front", RecordEvery: 4}
	tr := reset(t, e, env.Reset{Task: "tabletop/two_blocks", Render: render})
	require.Equal(t, tr.Observation.Images["front"].Data, tr.Recorded.Data)
	for range 4 {
		before := tr.Observation.Images["front"].Clone()
		tr = stepExpert(t, e, env.ExpertStep{Steps: 8, Render: render})
		now := tr.Observation.Images["front"].Data
		require.Equal(t, now, tr.Recorded.Data[len(now):])
		require.NotEqual(t, before.Data, now)
	}
}

// TestImageShowsTheWorld checks, at several sizes, that blocks and plates have their colours where the
// camera sees them and that there is a shadow below the gripper.
func TestImageShowsTheWorld(t *testing.T) {
	for _, size := range [][2]int{{64, 64}, {256, 256}, {48, 96}, {33, 17}} {
		e := New()
		cameras := []plugins.CameraRequest{{Name: "front", Height: size[0], Width: size[1]}}
		require.NoError(t, e.Configure(t.Context(), plugins.Config{Cameras: cameras}))
		look := env.Render{Observe: []string{"front"}}
		for state := range 10 {
			tr := reset(t, e, env.Reset{Task: "tabletop/two_blocks", StartState: state, Render: look})
			image := tr.Observation.Images["front"]
			require.NoError(t, image.Check("image", plugins.Uint8, size[0], size[1], 3))
			if size[0] < 40 {
				continue // too coarse for the checks below
			}
			w := &e.(*Tabletop).lanes[0].world
			c := newCanvas(frontCamera, size[1], size[0])
			at := func(x, y, z float64) (r, g, b int) {
				p := c.project(vec{x, y, z})
				o := (int(p.y/samples)*size[1] + int(p.x/samples)) * 3
				return int(image.Data[o]), int(image.Data[o+1]), int(image.Data[o+2])
			}
			for i := range w.n {
				b := w.blocks[i].pos
				red, green, blue := at(b[0], b[1]-blockHalf, blockHalf)
				place := w.layout.places[i]
				plateRed, plateGreen, plateBlue := at(place[0], place[1], plateHeight)
				if i == 0 {
					require.Greater(t, red, 2*max(green, blue), "size %v state %d", size, state)
					require.Greater(t, plateRed, plateGreen+40)
				} else {
					require.Greater(t, blue, 2*max(red, green)-80, "size %v state %d", size, state)
					require.Greater(t, plateBlue, plateRed+40)
				}
			}
			shadow, _, _ := at(w.grip[0], w.grip[1]-0.01, 0)
			plain, _, _ := at(0, -0.15, 0)
			require.Less(t, shadow, plain*4/5, "size %v state %d", size, state)
		}
	}
}

// TestAllocations checks that a step allocates its reply only, and an image its bytes only.
func TestAllocations(t *testing.T) {
	e := open(t, 1, 64, nil)
	still := plugins.Floats(make([]float32, 4*8), 8, 4)
	look := env.Render{Observe: []string{"front"}}
	run := func(r env.Render) float64 {
		reset(t, e, env.Reset{Task: "tabletop/two_blocks", MaxSteps: 1 << 20})
		return testing.AllocsPerRun(100, func() {
			if _, err := e.Step(t.Context(), env.Step{Actions: still, Render: r}); err != nil {
				t.Fatal(err)
			}
		})
	}
	require.LessOrEqual(t, run(env.Render{}), 4.0)
	require.LessOrEqual(t, run(look), 9.0)
}

// TestEnds checks truncation, success, and the error after an episode's end.
func TestEnds(t *testing.T) {
	e := open(t, 1, 0, nil)
	still := plugins.Floats(make([]float32, 32), 8, 4)
	reset(t, e, env.Reset{Task: "tabletop/one_block", MaxSteps: 11})
	tr := step(t, e, env.Step{Actions: still})
	require.False(t, tr.Done())
	tr = step(t, e, env.Step{Actions: still})
	require.Equal(t, 3, tr.StepsDone)
	require.Equal(t, 11, tr.EpisodeSteps)
	require.True(t, tr.Truncated)
	require.False(t, tr.Terminated)
	require.False(t, tr.Success)
	_, err := e.Step(t.Context(), env.Step{Actions: still})
	requireError(t, err, plugins.Invalid, "ended after 11 steps")
	// A success at the step limit terminates the episode and does not truncate it.
	reset(t, e, env.Reset{Task: "tabletop/one_block"})
	need := stepExpert(t, e, env.ExpertStep{Steps: 500}).EpisodeSteps
	reset(t, e, env.Reset{Task: "tabletop/one_block", MaxSteps: need})
	tr = stepExpert(t, e, env.ExpertStep{Steps: 500})
	require.True(t, tr.Success && tr.Terminated && !tr.Truncated)
}

// TestBadInput checks the errors for bad configurations, resets and steps, and their hints.
func TestBadInput(t *testing.T) {
	_, err := New().Reset(t.Context(), env.Reset{Task: "tabletop/two_blocks"})
	requireError(t, err, plugins.Invalid, "not been configured")
	for want, c := range map[string]plugins.Config{
		"lanes":            {Lanes: 1025},
		"no camera":        {Cameras: []plugins.CameraRequest{{Name: "wrist"}}},
		"cannot be render": {Cameras: []plugins.CameraRequest{{Name: "front", Height: 4, Width: 64}}},
		"requested at": {Cameras: []plugins.CameraRequest{{Name: "front"},
			{Name: "front", Height: 32, Width: 32}}},
		"jitter":          {Settings: plugins.Settings{"jitter": 0.5}},
		"unknown setting": {Settings: plugins.Settings{"jiter": 0.01}},
	} {
		err := New().Configure(t.Context(), c)
		require.ErrorContains(t, err, want)
		require.NotEmpty(t, plugins.AsError(err).Hint)
	}

	e := open(t, 2, 0, nil)
	good := plugins.Floats([]float32{0, 0, 0, -1}, 1, 4)
	_, err = e.Step(t.Context(), env.Step{Actions: good})
	requireError(t, err, plugins.Invalid, "no episode")
	for want, r := range map[string]env.Reset{
		"no lane":        {Lane: 2, Task: "tabletop/two_blocks"},
		"no start state": {Task: "tabletop/two_blocks", StartState: 50},
		"no camera":      {Task: "tabletop/two_blocks", Render: env.Render{Observe: []string{"wrist"}}},
		"steps is -1":    {Task: "tabletop/two_blocks", MaxSteps: -1},
		"every -1":       {Task: "tabletop/two_blocks", Render: env.Render{RecordEvery: -1}},
	} {
		_, err := e.Reset(t.Context(), r)
		require.ErrorContains(t, err, want)
		require.NotEmpty(t, plugins.AsError(err).Hint)
	}
	_, err = e.Reset(t.Context(), env.Reset{Task: "tabletop/two_block"})
	requireError(t, err, plugins.NotFound, "no task")
	require.Contains(t, plugins.AsError(err).Hint, "tabletop/two_blocks")
	_, err = e.Reset(t.Context(), env.Reset{Task: "one_block"})
	require.Contains(t, plugins.AsError(err).Hint, "tabletop/one_block")
	_, err = e.Reset(t.Context(), env.Reset{Task: "make tea"})
	require.Contains(t, plugins.AsError(err).Hint, "the tasks are")

	reset(t, e, env.Reset{Task: "tabletop/two_blocks"})
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for want, s := range map[string]env.Step{
		"gripper = NaN": {Actions: plugins.Floats([]float32{0, 0, 0, -1, 0, 0, 0, nan}, 2, 4)},
		"dy = -Inf":     {Actions: plugins.Floats([]float32{0, inf, 0, -1}, 1, 4)},
		"dx = 1.00001":  {Actions: plugins.Floats([]float32{1.00001, 0, 0, -1}, 1, 4)},
		"no actions":    {Actions: plugins.Floats(nil, 0, 4)},
		"want float32":  {Actions: plugins.Floats([]float32{0, 0, 0}, 1, 3)},
		"actions is":    {Actions: plugins.Bytes([]byte{0, 0, 0, 0}, 1, 4)},
		"but 4 bytes": {Actions: plugins.Tensor{DType: plugins.Float32, Shape: []int{1, 4},
			Data: []byte{0, 0, 0, 0}}},
		"no camera": {Actions: good, Render: env.Render{Record: "Front", RecordEvery: 1}},
	} {
		_, err := e.Step(t.Context(), s)
		require.ErrorContains(t, err, want)
		require.NotEmpty(t, plugins.AsError(err).Hint, want)
	}
	for want, s := range map[string]env.ExpertStep{
		"for -3 steps": {Steps: -3},
		"noise is NaN": {Steps: 1, Noise: nan},
		"no camera":    {Steps: 1, Render: env.Render{Record: "Front", RecordEvery: 1}},
	} {
		_, err := env.StepExpert(t.Context(), e, s)
		require.ErrorContains(t, err, want)
		require.NotEmpty(t, plugins.AsError(err).Hint)
	}

	// No action of the refused chunks was executed.
	require.Equal(t, 1, step(t, e, env.Step{Actions: good}).EpisodeSteps)
	// Rounding errors are accepted.
	step(t, e, env.Step{Actions: plugins.Floats([]float32{1.0000005, -1.0000005, 0, 1}, 1, 4)})

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = env.StepExpert(ctx, e, env.ExpertStep{Steps: 1})
	requireError(t, err, plugins.Canceled, "canceled")
}

// requireError checks an error's text and kind.
func requireError(t *testing.T, err error, kind plugins.ErrorKind, text string) {
	t.Helper()
	require.ErrorContains(t, err, text)
	require.Equal(t, kind, plugins.KindOf(err))
}

func reset(t testing.TB, e env.Env, r env.Reset) env.Transition {
	t.Helper()
	tr, err := e.Reset(t.Context(), r)
	require.NoError(t, err)
	return tr
}

func stepExpert(t testing.TB, e env.Env, s env.ExpertStep) env.Transition {
	t.Helper()
	tr, err := env.StepExpert(t.Context(), e, s)
	require.NoError(t, err)
	return tr
}

func step(t testing.TB, e env.Env, s env.Step) env.Transition {
	t.Helper()
	tr, err := e.Step(t.Context(), s)
	require.NoError(t, err)
	return tr
}

// tasks iterates over the env's tasks.
func tasks(t testing.TB, e env.Env) func(func(env.Task) bool) {
	return func(yield func(env.Task) bool) {
		for task, err := range e.Tasks(t.Context()) {
			require.NoError(t, err)
			if !yield(task) {
				return
			}
		}
	}
}
