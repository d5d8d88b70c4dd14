// Package tabletop is an environment that needs nothing installed: a small robot arm over a table, two coloured blocks and a plate of the same colour for
// each, seen from the front. The blocks may be brought to their plates in either order, and each can be missed, pushed, grasped badly, dropped or put
// down beside its plate on the way.
//
// The physics is quasi-static and simple (see world), the picture comes from a small rasteriser, and both are pure Go: thousands of lanes run in one process,
// and an episode is a function of task, start state, seed and actions, bit for bit, on whichever lane it runs. (Between processor architectures the last bits
// may differ, where the Go compiler fuses multiplications with additions.)
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

	// What a policy's rounding may add to the range of an action before it is refused; it is clipped.
	actionSlack = 1e-6
)

// Tabletop implements [env.Env]. Make one with [New]; lanes are independent and may be used at the same time.
type Tabletop struct {
	jitter, tolerance float64
	height, width     int
	lanes             []lane
	sets              []set // one a task
	canvases          sync.Pool
}

// set is a task's backdrop, drawn when it is first needed.
type set struct {
	once     sync.Once
	backdrop *canvas
}

// lane is one episode in progress.
type lane struct {
	world    world
	task     int
	seed     uint64
	first    int // the block that the expert prefers
	failing  *failing
	steps    int
	maxSteps int
	state    laneState
	pcg      rand.PCG
	rng      *rand.Rand
}

type laneState int

const (
	idle laneState = iota
	running
	ended
)

// New makes an env that is yet to be configured.
func New() env.Env { return &Tabletop{} }

var settings = []plugins.Setting{
	{Name: "jitter", Default: 0.017, Min: plugins.Bound(0), Max: plugins.Bound(0.04),
		Doc: "how far a start state shifts each block along x and y, evenly within plus and minus this, m; the gripper starts within half of it"},
	{Name: "grasp_tolerance", Default: 0.02, Min: plugins.Bound(0.004), Max: plugins.Bound(0.03),
		Doc: "how far the gripper may be off a block's middle, along x and y, and still grasp it, m; it widens the open jaw as well"},
}

// Info implements [plugins.Plugin].
func (t *Tabletop) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: "tabletop", Kind: plugins.Env, Version: "1", MaxLanes: maxLanes, Settings: settings,
		Doc:      "A small arm sorts coloured blocks onto plates; pure Go, nothing to install.",
		Versions: map[string]string{"go": runtime.Version()}}, nil
}

// Configure implements [plugins.Plugin]. The one camera can be asked for at any size from 8 to 1024 pixels a side.
func (t *Tabletop) Configure(_ context.Context, c plugins.Config) error {
	s, err := plugins.Resolve(settings, c.Settings)
	if err != nil {
		return err
	}
	lanes := max(c.Lanes, 1)
	if lanes > maxLanes {
		return plugins.Errorf(plugins.Invalid, "%d lanes are more than one process of this env holds", lanes).WithHint("ask for at most %d, or start several processes", maxLanes)
	}
	height, width := 0, 0
	for _, r := range c.Cameras {
		h, w := r.Height, r.Width
		if err := knownCamera(r.Name); err != nil {
			return err
		}
		if h == 0 && w == 0 {
			h, w = cameraSize, cameraSize
		}
		if h < 8 || w < 8 || h > cameraLimit || w > cameraLimit {
			return plugins.Errorf(plugins.Invalid, "camera %q cannot be rendered at %d x %d", r.Name, h, w).WithHint("each side can have 8 to %d pixels", cameraLimit)
		}
		if height != 0 && (h != height || w != width) {
			return plugins.Errorf(plugins.Invalid, "camera %q was asked for at %d x %d and at %d x %d", r.Name, height, width, h, w).
				WithHint("policy and encoder share this camera: ask for one size")
		}
		height, width = h, w
	}
	if height == 0 {
		height, width = cameraSize, cameraSize
	}
	t.jitter, t.tolerance = s.Float("jitter"), s.Float("grasp_tolerance")
	t.height, t.width = height, width
	t.lanes, t.sets = make([]lane, lanes), make([]set, len(layouts))
	t.canvases = sync.Pool{New: func() any { return newCanvas(frontCamera, t.width, t.height) }}
	for i := range t.lanes {
		l := &t.lanes[i]
		l.rng = rand.New(&l.pcg)
	}
	return nil
}

// Describe implements [env.Env]: one third-person camera, four actions, four numbers of proprio.
func (t *Tabletop) Describe(context.Context) (plugins.EnvSpec, error) {
	h, w := t.height, t.width
	if h == 0 {
		h, w = cameraSize, cameraSize
	}
	return plugins.EnvSpec{
		Cameras: []plugins.Camera{{Name: cameraName, Height: h, Width: w, View: "third_person", AnySize: true}},
		Action: plugins.ActionSpace{
			Names: []string{"dx", "dy", "dz", "gripper"}, Low: []float32{-1, -1, -1, -1}, High: []float32{1, 1, 1, 1},
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

// Reset implements [env.Env]. The start state alone decides where everything is; the seed decides which block the expert prefers, its noise, and how far
// a dropped block tumbles.
func (t *Tabletop) Reset(ctx context.Context, r env.Reset) (env.Transition, error) {
	if err := ctx.Err(); err != nil {
		return env.Transition{}, stopped(err)
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
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "task %s has no start state %d", r.Task, r.StartState).WithHint("they are 0 to %d", layout.task.StartStates-1)
	}
	if r.MaxSteps < 0 {
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "an episode of at most %d steps makes no sense", r.MaxSteps).WithHint("0 takes the task's own, %d", layout.task.MaxSteps)
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
	// The open jaw is as much wider than a block as the tolerance asks for.
	l.world = world{jawMax: 2*blockHalf + 2*t.tolerance, slack: t.tolerance, noise: l.tumble}
	layout.start(&l.world, r.StartState, t.jitter)

	out := env.Transition{}
	if r.Render.Record != "" && r.Render.RecordEvery > 0 {
		out.Recorded = plugins.Bytes(t.picture(l, nil), 1, t.height, t.width, 3)
	}
	t.finish(l, r.Render, &out)
	return out, nil
}

// Step implements [env.Env]. It refuses a bad chunk as a whole, before any of its actions is executed.
func (t *Tabletop) Step(ctx context.Context, s env.Step) (env.Transition, error) {
	l, err := t.lane(s.Lane)
	if err != nil {
		return env.Transition{}, err
	}
	switch l.state {
	case idle:
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "lane %d has no episode", s.Lane).WithHint("call Reset first")
	case ended:
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "the episode on lane %d is over after %d steps", s.Lane, l.steps).WithHint("call Reset after Terminated or Truncated")
	}
	if err := checkRender(s.Render); err != nil {
		return env.Transition{}, err
	}
	n, err := chunk(s)
	if err != nil {
		return env.Transition{}, err
	}

	var out env.Transition
	var frames, executed, intended []byte
	if s.Expert > 0 {
		executed = make([]byte, 0, 4*actionDim*min(n, l.maxSteps-l.steps, 1024))
	}
	if most := s.Render.Frames(l.steps, min(n, l.maxSteps-l.steps)); most > 0 {
		frames = make([]byte, 0, min(most, 64)*t.height*t.width*3)
	}
	recorded := 0
	for i := 0; i < n && l.state == running; i++ {
		if i%64 == 0 {
			if err := ctx.Err(); err != nil {
				// Part of the chunk is done and nobody will see it: the episode cannot go on.
				l.state = idle
				return env.Transition{}, stopped(err)
			}
		}
		var a [actionDim]float64
		if s.Expert > 0 {
			var meant [actionDim]float64
			a, meant = l.expert(s.ExpertNoise, s.ExpertFailure)
			executed = appendFloats(executed, a)
			if s.ExpertNoise > 0 {
				intended = appendFloats(intended, meant)
			}
		} else {
			for k := range a {
				a[k] = min(max(number(s.Actions.Data, i*actionDim+k), -1), 1)
			}
		}
		l.world.step(a)
		l.steps++
		out.StepsDone++
		out.Success = l.world.success()
		out.Terminated = out.Success
		out.Truncated = !out.Terminated && l.steps >= l.maxSteps
		if out.Done() {
			l.state = ended
		}
		if s.Render.Frames(l.steps-1, 1) == 1 {
			frames = t.picture(l, frames)
			recorded++
		}
	}
	if recorded > 0 {
		out.Recorded = plugins.Bytes(frames, recorded, t.height, t.width, 3)
	}
	if s.Expert > 0 {
		out.Actions = plugins.Tensor{DType: plugins.Float32, Shape: []int{out.StepsDone, actionDim}, Data: executed}
		if intended != nil {
			out.Intended = plugins.Tensor{DType: plugins.Float32, Shape: []int{out.StepsDone, actionDim}, Data: intended}
		}
	}
	t.finish(l, s.Render, &out)
	return out, nil
}

func appendFloats(to []byte, a [actionDim]float64) []byte {
	for _, v := range a {
		to = binary.LittleEndian.AppendUint32(to, math.Float32bits(float32(v)))
	}
	return to
}

// finish fills in what Reset and Step have in common.
func (t *Tabletop) finish(l *lane, r env.Render, out *env.Transition) {
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
		out.Observation.Images = map[string]plugins.Tensor{cameraName: plugins.Bytes(t.picture(l, nil), t.height, t.width, 3)}
	}
}

// expert is the scripted expert's action and what it meant without noise, both in float32 precision, as they would come back over the wire, so that replaying the
// action gives the same episode.
func (l *lane) expert(noise float32, failure string) (a, meant [actionDim]float64) {
	if failure == "" {
		a = l.world.expert(l.first)
	} else {
		if l.failing == nil || l.failing.way != failure {
			reseed(&l.pcg, l.seed, 1<<32)
			l.failing = newFailing(failure, &l.world, l.rng)
		}
		a = l.failing.action(&l.world, l.first)
	}
	if noise > 0 {
		reseed(&l.pcg, l.seed, 2*uint64(l.steps)+1)
	}
	for k := range a {
		meant[k] = float64(float32(min(max(a[k], -1), 1)))
		if noise > 0 {
			a[k] += float64(noise) * l.rng.NormFloat64()
		}
		a[k] = float64(float32(min(max(a[k], -1), 1)))
	}
	return a, meant
}

// tumble is evenly random from 0 to 1, from the episode's seed and step, whoever acts.
func (l *lane) tumble() float64 {
	reseed(&l.pcg, l.seed, 2*uint64(l.steps)+2)
	return l.rng.Float64()
}

// picture appends the lane's view, uint8 [height, width, 3], to out.
func (t *Tabletop) picture(l *lane, out []byte) []byte {
	s := &t.sets[l.task]
	s.once.Do(func() {
		s.backdrop = newCanvas(frontCamera, t.width, t.height)
		backdrop(s.backdrop, layouts[l.task])
	})
	c := t.canvases.Get().(*canvas)
	defer t.canvases.Put(c)
	copy(c.colour, s.backdrop.colour)
	copy(c.depth, s.backdrop.depth)
	draw(c, &l.world)
	size := t.height * t.width * 3
	if cap(out)-len(out) < size {
		out = append(make([]byte, 0, len(out)+max(size, len(out))), out...)
	}
	out = out[:len(out)+size]
	c.write(out[len(out)-size:])
	return out
}

func (t *Tabletop) lane(i int) (*lane, error) {
	if len(t.lanes) == 0 {
		return nil, plugins.Errorf(plugins.Invalid, "the env has not been configured").WithHint("call Configure first")
	}
	if i < 0 || i >= len(t.lanes) {
		return nil, plugins.Errorf(plugins.Invalid, "there is no lane %d", i).WithHint("the env was configured with %d lanes, from 0", len(t.lanes))
	}
	return &t.lanes[i], nil
}

// chunk returns the number of actions in s after looking at all of them.
func chunk(s env.Step) (int, error) {
	if !(s.ExpertNoise >= 0) || math.IsInf(float64(s.ExpertNoise), 0) {
		return 0, plugins.Errorf(plugins.Invalid, "expert noise cannot be %g", s.ExpertNoise).WithHint("it is a standard deviation in action units, 0 or more")
	}
	switch {
	case s.Expert < 0:
		return 0, plugins.Errorf(plugins.Invalid, "the expert cannot act for %d steps", s.Expert).WithHint("ask for 1 or more")
	case s.ExpertFailure != "" && !slices.Contains(failures, s.ExpertFailure):
		return 0, plugins.Errorf(plugins.Unsupported, "the expert cannot fail by %q", s.ExpertFailure).WithHint("one of %s", strings.Join(failures, ", "))
	case s.Expert > 0 && !s.Actions.IsZero():
		return 0, plugins.Errorf(plugins.Invalid, "both actions and the expert were given").WithHint("leave one of the two out")
	case s.Expert > 0:
		return s.Expert, nil
	}
	if err := s.Actions.Check("actions", plugins.Float32, -1, actionDim); err != nil {
		e := plugins.AsError(err)
		e.Kind = plugins.Invalid
		return 0, e.WithHint("give float32 [n, %d]: dx, dy, dz, gripper", actionDim)
	}
	n := s.Actions.Shape[0]
	if n == 0 {
		return 0, plugins.Errorf(plugins.Invalid, "the chunk has no actions").WithHint("give at least one")
	}
	for i := range n * actionDim {
		v := number(s.Actions.Data, i)
		if !(math.Abs(v) <= 1+actionSlack) { // NaN too
			return 0, plugins.Errorf(plugins.Invalid, "action %d has %s = %g", i/actionDim, [...]string{"dx", "dy", "dz", "gripper"}[i%actionDim], v).
				WithHint("every number of an action is within -1 and 1")
		}
	}
	return n, nil
}

func number(data []byte, i int) float64 {
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
}

func checkRender(r env.Render) error {
	for _, name := range r.Observe {
		if err := knownCamera(name); err != nil {
			return err
		}
	}
	if r.RecordEvery < 0 {
		return plugins.Errorf(plugins.Invalid, "a frame cannot be recorded every %d steps", r.RecordEvery).WithHint("0 records none, 1 all")
	}
	if r.Record == "" {
		return nil
	}
	return knownCamera(r.Record)
}

func knownCamera(name string) error {
	if name == cameraName {
		return nil
	}
	hint := "the only one is \"" + cameraName + "\""
	if strings.EqualFold(name, cameraName) {
		hint = "did you mean \"" + cameraName + "\"?"
	}
	return plugins.Errorf(plugins.NotFound, "there is no camera %q", name).WithHint("%s", hint)
}

// stopped is the error for a context that is over.
func stopped(err error) error {
	kind := plugins.Canceled
	if err == context.DeadlineExceeded {
		kind = plugins.Deadline
	}
	return plugins.Errorf(kind, "stopped: %w", err)
}
