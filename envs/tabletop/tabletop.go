// Package tabletop is an environment without dependencies: a small robot arm over a table, two coloured
// blocks and a plate of the same colour for each, seen from the front. The blocks can be brought to their
// plates in either order. A block can be missed, pushed, grasped badly, dropped or put down next to its
// plate.
//
// The physics is quasi-static and simple (see world), and images come from a small rasteriser. Both are
// pure Go, so one process can run thousands of lanes. An episode is a function of task, start state, seed
// and actions, bit for bit, on any lane. Between processor architectures the last bits may differ,
// because the Go compiler may fuse multiplications and additions.
package tabletop

import (
	"context"
	"encoding/binary"
	"iter"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

const (
	cameraName  = "front"
	cameraSize  = 64
	cameraLimit = 1024
	maxLanes    = 1024
	actionDim   = 4
	proprioDim  = 4

	// actionSlack is how far an action may exceed its range by rounding; it is clipped. More is an error.
	actionSlack = 1e-6
)

var actionNames = []string{"dx", "dy", "dz", "gripper"}

// Tabletop implements [env.Env]. Make one with [New]. Lanes are independent and may be used concurrently.
type Tabletop struct {
	jitter, tolerance float64
	height, width     int
	lanes             []lane
	backdrops         []backdrop // one per task
	canvases          sync.Pool
}

// backdrop is the static part of a task's image, drawn when it is first needed.
type backdrop struct {
	once   sync.Once
	canvas *canvas
}

// lane is one episode in progress.
type lane struct {
	world    world
	task     int
	seed     uint64
	first    int // index of the block that the expert prefers
	failing  *failing
	steps    int
	maxSteps int
	state    laneState
	pcg      rand.PCG
	rng      *rand.Rand
}

// laneState is the state of a lane's episode.
type laneState int

const (
	idle laneState = iota
	running
	ended
)

// New returns an env that must be configured before use.
func New() env.Env { return &Tabletop{} }

var settings = []plugins.Setting{
	{Name: "jitter", Default: 0.017, Min: plugins.Bound(0), Max: plugins.Bound(0.04),
		Doc: "maximum shift of each block along x and y in a start state, uniform, in metres; " +
			"the gripper's maximum shift is half of it"},
	{Name: "grasp_tolerance", Default: 0.02, Min: plugins.Bound(0.004), Max: plugins.Bound(0.03),
		Doc: "maximum distance along x and y between gripper and block centre for a grasp, in metres; " +
			"it also widens the open jaw"},
}

// Info implements [plugins.Plugin].
func (t *Tabletop) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: "tabletop", Kind: plugins.Env, Version: "1", MaxLanes: maxLanes, Settings: settings,
		Doc:      "A small arm sorts coloured blocks onto plates; pure Go, nothing to install.",
		Versions: map[string]string{"go": runtime.Version()}}, nil
}

// Configure implements [plugins.Plugin]. The only camera supports any size from 8 to 1024 pixels per side.
func (t *Tabletop) Configure(_ context.Context, c plugins.Config) error {
	s, err := plugins.Resolve(settings, c.Settings)
	if err != nil {
		return err
	}
	lanes := max(c.Lanes, 1)
	if lanes > maxLanes {
		return plugins.Errorf(plugins.Invalid, "%d lanes exceed the maximum of one process", lanes).
			WithHint("request at most %d lanes, or start several processes", maxLanes)
	}
	height, width, err := imageSize(c.Cameras)
	if err != nil {
		return err
	}
	t.jitter, t.tolerance = s.Float("jitter"), s.Float("grasp_tolerance")
	t.height, t.width = height, width
	t.lanes, t.backdrops = make([]lane, lanes), make([]backdrop, len(layouts))
	t.canvases = sync.Pool{New: func() any { return newCanvas(frontCamera, t.width, t.height) }}
	for i := range t.lanes {
		l := &t.lanes[i]
		l.rng = rand.New(&l.pcg)
	}
	return nil
}

// imageSize returns the camera's height and width in pixels for the given requests.
func imageSize(requests []plugins.CameraRequest) (height, width int, err error) {
	for _, r := range requests {
		h, w := r.Height, r.Width
		if err := checkCamera(r.Name); err != nil {
			return 0, 0, err
		}
		if h == 0 && w == 0 {
			h, w = cameraSize, cameraSize
		}
		if h < 8 || w < 8 || h > cameraLimit || w > cameraLimit {
			return 0, 0, plugins.Errorf(plugins.Invalid, "camera %q cannot be rendered at %d x %d", r.Name, h, w).
				WithHint("request 8 to %d pixels per side", cameraLimit)
		}
		if height != 0 && (h != height || w != width) {
			return 0, 0, plugins.Errorf(plugins.Invalid, "camera %q was requested at %d x %d and at %d x %d",
				r.Name, height, width, h, w).WithHint("request one size: policy and encoder share this camera")
		}
		height, width = h, w
	}
	if height == 0 {
		return cameraSize, cameraSize, nil
	}
	return height, width, nil
}

// Describe implements [env.Env]: one third-person camera, four action dimensions, four proprio entries.
func (t *Tabletop) Describe(context.Context) (plugins.EnvSpec, error) {
	h, w := t.height, t.width
	if h == 0 {
		h, w = cameraSize, cameraSize
	}
	return plugins.EnvSpec{
		Cameras: []plugins.Camera{{Name: cameraName, Height: h, Width: w, View: "third_person", AnySize: true}},
		Action: plugins.ActionSpace{
			Names: slices.Clone(actionNames), Low: []float32{-1, -1, -1, -1}, High: []float32{1, 1, 1, 1},
			Meaning: "end-effector delta, 1 is 4 cm a step; gripper speed, -1 open +1 close", RateHz: rateHz,
		},
		Proprio: []string{"gripper_x [m]", "gripper_y [m]", "gripper_z [m]", "finger_gap [m]"},
		Expert:  true, ExpertFailures: failures, RecordCamera: cameraName,
	}, nil
}

// Tasks implements [env.Env].
func (t *Tabletop) Tasks(context.Context) iter.Seq2[env.Task, error] {
	return func(yield func(env.Task, error) bool) {
		for _, l := range layouts {
			if !yield(l.task, nil) {
				return
			}
		}
	}
}

// Reset implements [env.Env]. The start state alone determines all positions. The seed determines which
// block the expert prefers, its noise, and how far a dropped block tumbles.
func (t *Tabletop) Reset(ctx context.Context, r env.Reset) (env.Transition, error) {
	if err := ctx.Err(); err != nil {
		return env.Transition{}, contextError(err)
	}
	l, err := t.lane(r.Lane)
	if err != nil {
		return env.Transition{}, err
	}
	layout, err := findTask(r.Task)
	if err != nil {
		return env.Transition{}, err
	}
	if r.StartState < 0 || r.StartState >= layout.task.StartStates {
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "task %s has no start state %d", r.Task,
			r.StartState).
			WithHint("use a start state from 0 to %d", layout.task.StartStates-1)
	}
	if r.MaxSteps < 0 {
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "the maximum number of steps is %d", r.MaxSteps).
			WithHint("use 1 or more, or 0 for the task's default of %d", layout.task.MaxSteps)
	}
	if err := checkRender(r.Render); err != nil {
		return env.Transition{}, err
	}
	for i := range layouts {
		if layouts[i] == layout {
			l.task = i
		}
	}
	l.seed, l.steps, l.state, l.maxSteps = r.Seed, 0, running, r.MaxSteps
	if l.maxSteps == 0 {
		l.maxSteps = layout.task.MaxSteps
	}
	reseed(&l.pcg, r.Seed, 0)
	l.first, l.failing = l.rng.IntN(layout.n), nil
	l.world = world{jawMax: 2*blockHalf + 2*t.tolerance, slack: t.tolerance, noise: l.tumble}
	layout.start(&l.world, r.StartState, t.jitter)

	out := env.Transition{}
	if r.Render.Record != "" && r.Render.RecordEvery > 0 {
		out.Recorded = plugins.Bytes(t.render(l, nil), 1, t.height, t.width, 3)
	}
	t.observe(l, r.Render, &out)
	return out, nil
}

// Step implements [env.Env]. It checks the whole chunk before it executes any action.
func (t *Tabletop) Step(ctx context.Context, s env.Step) (env.Transition, error) {
	l, err := t.runningLane(s.Lane, s.Render)
	if err != nil {
		return env.Transition{}, err
	}
	n, err := checkChunk(s.Actions)
	if err != nil {
		return env.Transition{}, err
	}
	return t.steps(ctx, l, n, s.Render, func(i int) (a [actionDim]float64) {
		for k := range a {
			a[k] = min(max(floatAt(s.Actions.Data, i*actionDim+k), -1), 1)
		}
		return a
	})
}

// StepExpert implements [env.Expert].
func (t *Tabletop) StepExpert(ctx context.Context, s env.ExpertStep) (env.Transition, error) {
	l, err := t.runningLane(s.Lane, s.Render)
	if err != nil {
		return env.Transition{}, err
	}
	if s.Failure != "" && !slices.Contains(failures, s.Failure) {
		return env.Transition{}, plugins.Errorf(plugins.Unsupported, "unknown expert failure %q", s.Failure).
			WithHint("use one of %s", strings.Join(failures, ", "))
	}
	executed := make([]byte, 0, 4*actionDim*min(s.Steps, l.maxSteps-l.steps, 1024))
	var intended []byte
	out, err := t.steps(ctx, l, s.Steps, s.Render, func(int) [actionDim]float64 {
		a, undisturbed := l.expert(s.Noise, s.Failure)
		executed = appendFloats(executed, a)
		if s.Noise > 0 {
			intended = appendFloats(intended, undisturbed)
		}
		return a
	})
	if err != nil {
		return out, err
	}
	out.Actions = plugins.Tensor{DType: plugins.Float32, Shape: []int{out.StepsDone, actionDim}, Data: executed}
	if intended != nil {
		out.Intended = plugins.Tensor{DType: plugins.Float32, Shape: []int{out.StepsDone, actionDim}, Data: intended}
	}
	return out, nil
}

// runningLane returns a lane with a running episode. It also checks what the call must render.
func (t *Tabletop) runningLane(i int, r env.Render) (*lane, error) {
	l, err := t.lane(i)
	if err != nil {
		return nil, err
	}
	switch l.state {
	case idle:
		return nil, plugins.Errorf(plugins.Invalid, "lane %d has no episode", i).WithHint("call Reset first")
	case ended:
		return nil, plugins.Errorf(plugins.Invalid, "the episode on lane %d ended after %d steps", i, l.steps).
			WithHint("call Reset after Terminated or Truncated")
	}
	return l, checkRender(r)
}

// steps executes up to n actions, until the episode ends. next returns the action with the given index.
func (t *Tabletop) steps(ctx context.Context, l *lane, n int, r env.Render,
	next func(i int) [actionDim]float64) (env.Transition, error) {
	var out env.Transition
	var frames []byte
	if maxFrames := r.Frames(l.steps, min(n, l.maxSteps-l.steps)); maxFrames > 0 {
		frames = make([]byte, 0, min(maxFrames, 64)*t.height*t.width*3)
	}
	recorded := 0
	for i := 0; i < n && l.state == running; i++ {
		if i%64 == 0 {
			if err := ctx.Err(); err != nil {
				l.state = idle // part of the chunk was executed but is not returned, so the episode cannot continue
				return env.Transition{}, contextError(err)
			}
		}
		l.step(next(i), &out)
		if r.Frames(l.steps-1, 1) == 1 {
			frames = t.render(l, frames)
			recorded++
		}
	}
	if recorded > 0 {
		out.Recorded = plugins.Bytes(frames, recorded, t.height, t.width, 3)
	}
	t.observe(l, r, &out)
	return out, nil
}

// step executes one action and updates the outcome in out.
func (l *lane) step(action [actionDim]float64, out *env.Transition) {
	l.world.step(action)
	l.steps++
	out.StepsDone++
	out.Success = l.world.success()
	out.Terminated = out.Success
	out.Truncated = !out.Terminated && l.steps >= l.maxSteps
	if out.Done() {
		l.state = ended
	}
}

// appendFloats appends a to the bytes of a float32 tensor.
func appendFloats(to []byte, a [actionDim]float64) []byte {
	for _, v := range a {
		to = binary.LittleEndian.AppendUint32(to, math.Float32bits(float32(v)))
	}
	return to
}

// observe fills in the observation and progress of out.
func (t *Tabletop) observe(l *lane, r env.Render, out *env.Transition) {
	w := &l.world
	progress := w.progress()
	out.Progress, out.EpisodeSteps = &progress, l.steps
	out.Observation.Instruction = w.layout.task.Instruction
	p := make([]byte, 0, 4*proprioDim)
	for _, v := range [proprioDim]float64{w.grip[0], w.grip[1], w.grip[2], w.gap} {
		p = binary.LittleEndian.AppendUint32(p, math.Float32bits(float32(v)))
	}
	out.Observation.Proprio = plugins.Tensor{DType: plugins.Float32, Shape: []int{proprioDim}, Data: p}
	if len(r.Observe) > 0 {
		image := plugins.Bytes(t.render(l, nil), t.height, t.width, 3)
		out.Observation.Images = map[string]plugins.Tensor{cameraName: image}
	}
}

// expert returns the scripted expert's action with noise and without. Both are rounded to float32, as on
// the wire, so that replaying the action gives the same episode.
func (l *lane) expert(noise float32, failure string) (a, undisturbed [actionDim]float64) {
	if failure == "" {
		a = l.world.expert(l.first)
	} else {
		if l.failing == nil || l.failing.mode != failure {
			reseed(&l.pcg, l.seed, 1<<32)
			l.failing = newFailing(failure, &l.world, l.rng)
		}
		a = l.failing.action(&l.world, l.first)
	}
	if noise > 0 {
		reseed(&l.pcg, l.seed, 2*uint64(l.steps)+1)
	}
	for k := range a {
		undisturbed[k] = float64(float32(min(max(a[k], -1), 1)))
		if noise > 0 {
			a[k] += float64(noise) * l.rng.NormFloat64()
		}
		a[k] = float64(float32(min(max(a[k], -1), 1)))
	}
	return a, undisturbed
}

// tumble returns a random number from 0 to 1 that depends on the episode's seed and step only.
func (l *lane) tumble() float64 {
	reseed(&l.pcg, l.seed, 2*uint64(l.steps)+2)
	return l.rng.Float64()
}

// render appends the lane's image, uint8 [height, width, 3], to out.
func (t *Tabletop) render(l *lane, out []byte) []byte {
	b := &t.backdrops[l.task]
	b.once.Do(func() {
		b.canvas = newCanvas(frontCamera, t.width, t.height)
		drawBackdrop(b.canvas, layouts[l.task])
	})
	c := t.canvases.Get().(*canvas)
	defer t.canvases.Put(c)
	copy(c.colour, b.canvas.colour)
	copy(c.depth, b.canvas.depth)
	drawWorld(c, &l.world)
	size := t.height * t.width * 3
	if cap(out)-len(out) < size {
		out = append(make([]byte, 0, len(out)+max(size, len(out))), out...)
	}
	out = out[:len(out)+size]
	c.write(out[len(out)-size:])
	return out
}

// lane returns lane i, or an Invalid error if it does not exist.
func (t *Tabletop) lane(i int) (*lane, error) {
	if len(t.lanes) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "the env has not been configured").
			WithHint("call Configure first")
	}
	if i < 0 || i >= len(t.lanes) {
		return nil, plugins.Errorf(plugins.Invalid, "there is no lane %d", i).
			WithHint("use a lane from 0 to %d", len(t.lanes)-1)
	}
	return &t.lanes[i], nil
}

// checkChunk checks all actions of a chunk and returns their number.
func checkChunk(actions plugins.Tensor) (int, error) {
	if err := actions.Check("actions", plugins.Float32, -1, actionDim); err != nil {
		e := plugins.AsError(err)
		e.Kind = plugins.Invalid
		return 0, e.WithHint("give float32 [n, %d]: dx, dy, dz, gripper", actionDim)
	}
	n := actions.Shape[0]
	if n == 0 {
		return 0, plugins.Errorf(plugins.Invalid, "the chunk has no actions").WithHint("give at least one")
	}
	for i := range n * actionDim {
		v := floatAt(actions.Data, i)
		if !(math.Abs(v) <= 1+actionSlack) { // also true for NaN
			return 0, plugins.Errorf(plugins.Invalid, "action %d has %s = %g", i/actionDim,
				actionNames[i%actionDim], v).
				WithHint("use values from -1 to 1")
		}
	}
	return n, nil
}

// floatAt returns element i of the bytes of a float32 tensor.
func floatAt(data []byte, i int) float64 {
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
}

// checkRender returns an error for a camera that does not exist or a bad recording interval.
func checkRender(r env.Render) error {
	for _, name := range r.Observe {
		if err := checkCamera(name); err != nil {
			return err
		}
	}
	if r.RecordEvery < 0 {
		return plugins.Errorf(plugins.Invalid, "a frame cannot be recorded every %d steps", r.RecordEvery).
			WithHint("use 1 or more, or 0 to record no frames")
	}
	if r.Record == "" {
		return nil
	}
	return checkCamera(r.Record)
}

// checkCamera returns a NotFound error unless name is the env's camera.
func checkCamera(name string) error {
	if name == cameraName {
		return nil
	}
	hint := "the only camera is \"" + cameraName + "\""
	if strings.EqualFold(name, cameraName) {
		hint = "did you mean \"" + cameraName + "\"?"
	}
	return plugins.Errorf(plugins.NotFound, "there is no camera %q", name).WithHint("%s", hint)
}

// contextError returns the Canceled or Deadline error for the error of a context.
func contextError(err error) error {
	kind := plugins.Canceled
	if err == context.DeadlineExceeded {
		kind = plugins.Deadline
	}
	return plugins.Errorf(kind, "stopped: %w", err)
}
