package sdk

import (
	"context"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Sim is one lane of an environment that is stepped one action at a time. [SimEnv] makes an env of such lanes and
// does the rest of the contract: chunks, rendering, recording, truncation and refusing bad actions.
//
// A Sim can also implement [Expert], [FailingExpert] and [Progress].
type Sim interface {
	// Reset begins an episode. The task is the ID of one of SimSpec.Tasks, and startState is in [0,
	// Task.StartStates). A start state must be the same in every run, so choose it by task and startState and not
	// by the seed. The seed is for what happens at random during the episode.
	Reset(task string, startState int, seed uint64) error
	// Step executes one action, float32 [dim], which is already within its range. Success ends the episode.
	Step(action []float32) (Outcome, error)
	// Proprio returns the proprio vector of the current state, float32 [P], or nil if the env has none.
	Proprio() []float32
	// Render draws the current state and returns uint8 [height, width, 3].
	Render(camera string, height, width int) []byte
}

// Expert is a [Sim] with a scripted expert. Implementing it is enough: SimEnv reports the expert to the host.
type Expert interface {
	// Expert returns the expert's next action in the current state, float32 [dim]. It returns ok false if the
	// expert has no action for this task or state; the host then ends the episode.
	Expert() (action []float32, ok bool)
}

// FailingExpert is an [Expert] that can also fail on purpose, which `srpo record --actor fail:WAY` uses to test
// rewards.
type FailingExpert interface {
	// ExpertFailures lists the ways to fail. It returns the same list on every lane.
	ExpertFailures() []string
	// FailingExpert returns the next action of an expert that fails in the given way, as Expert does. The way is
	// the same in all steps of an episode.
	FailingExpert(failure string) (action []float32, ok bool)
}

// Progress is a [Sim] that measures how far its task is done.
type Progress interface {
	// Progress returns 0 to 1 for the current state. It is for audits and never for training.
	Progress() float64
}

// Outcome is the result of one step.
type Outcome struct {
	Success bool
	// Terminated ends the episode without success, for example after something fell off the table.
	Terminated bool
}

// SimSpec describes an environment that is made of [Sim] lanes.
type SimSpec struct {
	Info Info
	// Env describes cameras, actions and proprio. RecordCamera defaults to the first camera. Expert and
	// ExpertFailures are filled in from the interfaces that the lanes implement.
	Env   EnvSpec
	Tasks []Task
	// New makes the lane with the given number, from 0.
	New func(c Config, lane int) (Sim, error)
}

// ServeSim serves an environment that is made of [Sim] lanes. It does not return.
func ServeSim(s SimSpec) { ServeEnv(SimEnv(s)) }

// SimEnv makes an env of [Sim] lanes.
func SimEnv(s SimSpec) env.Env {
	e := &simEnv{spec: s, tasks: map[string]Task{}}
	for _, t := range s.Tasks {
		e.tasks[t.ID] = t
	}
	e.spec.Info.Kind = plugins.Env
	if len(s.Env.Cameras) > 0 && s.Env.RecordCamera == "" {
		e.spec.Env.RecordCamera = s.Env.Cameras[0].Name
	}
	return e
}

type simEnv struct {
	spec    SimSpec
	tasks   map[string]Task
	cameras map[string]CameraRequest // at the sizes to render
	lanes   []*simLane
}

// simLane is a sim with the state of its episode.
type simLane struct {
	mu       sync.Mutex
	sim      Sim
	task     Task
	seed     uint64
	steps    int
	maxSteps int
	running  bool
}

func (e *simEnv) Info(context.Context) (Info, error)        { return e.spec.Info, nil }
func (e *simEnv) Describe(context.Context) (EnvSpec, error) { return e.spec.Env, nil }

func (e *simEnv) Configure(_ context.Context, c Config) error {
	e.cameras = map[string]CameraRequest{}
	for _, cam := range e.spec.Env.Cameras {
		e.cameras[cam.Name] = CameraRequest{Name: cam.Name, Height: cam.Height, Width: cam.Width}
	}
	for _, r := range c.Cameras {
		if err := e.checkCamera(r.Name); err != nil {
			return err
		}
		if r.Height > 0 {
			e.cameras[r.Name] = r
		}
	}
	e.lanes = nil
	for i := range c.Lanes {
		s, err := e.spec.New(c, i)
		if err != nil {
			return err
		}
		e.lanes = append(e.lanes, &simLane{sim: s})
	}
	if len(e.lanes) == 0 {
		return nil
	}
	return e.describeExpert(e.lanes[0].sim)
}

// describeExpert fills in the fields of the env's description that follow from the interfaces of a lane.
func (e *simEnv) describeExpert(s Sim) error {
	_, expert := s.(Expert)
	if e.spec.Env.Expert && !expert {
		return Errorf(Internal, "EnvSpec.Expert is set, but %T does not implement sdk.Expert", s).
			WithHint("give it the method Expert() ([]float32, bool)")
	}
	e.spec.Env.Expert = expert
	failing, ok := s.(FailingExpert)
	if !ok && len(e.spec.Env.ExpertFailures) > 0 {
		return Errorf(Internal, "EnvSpec.ExpertFailures is set, but %T does not implement sdk.FailingExpert", s).
			WithHint("give it the methods ExpertFailures() []string and FailingExpert(string) ([]float32, bool)")
	}
	if ok {
		e.spec.Env.ExpertFailures = failing.ExpertFailures()
	}
	return nil
}

func (e *simEnv) Tasks(context.Context) iter.Seq2[Task, error] {
	return func(yield func(Task, error) bool) {
		for _, t := range e.spec.Tasks {
			if !yield(t, nil) {
				return
			}
		}
	}
}

func (e *simEnv) lane(i int) (*simLane, error) {
	if i < 0 || i >= len(e.lanes) {
		return nil, Errorf(Invalid, "lane %d of %d", i, len(e.lanes))
	}
	return e.lanes[i], nil
}

func (e *simEnv) Reset(_ context.Context, r env.Reset) (env.Transition, error) {
	var tr env.Transition
	l, err := e.lane(r.Lane)
	if err != nil {
		return tr, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := e.tasks[r.Task]
	if !ok {
		return tr, Errorf(NotFound, "no task %q", r.Task)
	}
	if r.StartState < 0 || r.StartState >= t.StartStates {
		return tr, Errorf(Invalid, "start state %d; task %q has %d", r.StartState, t.ID, t.StartStates)
	}
	if err := e.checkRender(r.Render); err != nil {
		return tr, err
	}
	if err := l.sim.Reset(r.Task, r.StartState, r.Seed); err != nil {
		return tr, err
	}
	l.task, l.seed, l.steps, l.maxSteps, l.running = t, r.Seed, 0, t.MaxSteps, true
	if r.MaxSteps > 0 {
		l.maxSteps = r.MaxSteps
	}
	if r.Render.Record != "" && r.Render.RecordEvery > 0 {
		if err := e.record(l, &tr, r.Render.Record); err != nil {
			return tr, err
		}
	}
	return tr, e.observe(l, &tr, r.Render)
}

func (e *simEnv) Step(ctx context.Context, s env.Step) (env.Transition, error) {
	return e.step(s.Lane, s.Render, func(l *simLane, tr *env.Transition) error { return e.stepActions(ctx, l, s, tr) })
}

func (e *simEnv) StepExpert(ctx context.Context, s env.ExpertStep) (env.Transition, error) {
	return e.step(s.Lane, s.Render, func(l *simLane, tr *env.Transition) error { return e.stepExpert(ctx, l, s, tr) })
}

// step calls act, which executes steps, on a lane with a running episode.
func (e *simEnv) step(lane int, r env.Render, act func(*simLane, *env.Transition) error) (env.Transition, error) {
	var tr env.Transition
	l, err := e.lane(lane)
	if err != nil {
		return tr, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running {
		return tr, Errorf(Invalid, "step on lane %d, whose episode has ended or not begun", lane)
	}
	if err := e.checkRender(r); err != nil {
		return tr, err
	}
	if err := act(l, &tr); err != nil {
		return tr, err
	}
	return tr, e.observe(l, &tr, r)
}

// stepActions executes the actions of a chunk until the episode ends.
func (e *simEnv) stepActions(ctx context.Context, l *simLane, s env.Step, tr *env.Transition) error {
	actions, err := e.spec.Env.Action.Clip(s.Actions)
	if err != nil {
		return err
	}
	dim := e.spec.Env.Action.Dim()
	for a := range slices.Chunk(actions, dim) {
		if !l.running {
			return nil
		}
		if err := e.stepOnce(ctx, l, a, s.Render, tr); err != nil {
			return err
		}
	}
	return nil
}

// stepExpert lets the expert act until it has done the requested steps, gives up, or ends the episode.
func (e *simEnv) stepExpert(ctx context.Context, l *simLane, s env.ExpertStep, tr *env.Transition) error {
	expert, err := expertOf(l.sim, s.Failure)
	if err != nil {
		return err
	}
	space := e.spec.Env.Action
	var executed, intended []float32
	for tr.StepsDone < s.Steps && l.running {
		action, ok := expert()
		if !ok {
			break // the host sees fewer steps than it requested
		}
		if len(action) != space.Dim() {
			return Errorf(Internal, "the expert returned %d numbers, an action has %d", len(action), space.Dim())
		}
		disturbed := addNoise(space, action, s.Noise, l.seed, l.steps)
		intended = append(intended, addNoise(space, action, 0, l.seed, l.steps)...)
		executed = append(executed, disturbed...)
		if err := e.stepOnce(ctx, l, disturbed, s.Render, tr); err != nil {
			return err
		}
	}
	if tr.StepsDone > 0 {
		tr.Actions = plugins.Floats(executed, tr.StepsDone, space.Dim())
		if s.Noise > 0 { // the labels of demonstrations are the actions without noise
			tr.Intended = plugins.Floats(intended, tr.StepsDone, space.Dim())
		}
	}
	return nil
}

// expertOf returns the function that gives the expert's next action.
func expertOf(s Sim, failure string) (func() ([]float32, bool), error) {
	if failure != "" {
		x, ok := s.(FailingExpert)
		if !ok || !slices.Contains(x.ExpertFailures(), failure) {
			return nil, Errorf(Unsupported, "the expert cannot fail by %q", failure)
		}
		return func() ([]float32, bool) { return x.FailingExpert(failure) }, nil
	}
	x, ok := s.(Expert)
	if !ok {
		return nil, Errorf(Unsupported, "this env has no expert")
	}
	return x.Expert, nil
}

// addNoise returns an expert's action with Gaussian noise of the given std, clipped to its range. The noise
// depends on the seed and the step of the episode only, so it does not depend on the length of the chunks.
func addNoise(space ActionSpace, action []float32, std float32, seed uint64, step int) []float32 {
	out := make([]float32, len(action))
	rng := rand.New(rand.NewPCG(seed, uint64(step)+0x6e6f697365))
	for i, v := range action {
		if std > 0 {
			v += std * float32(rng.NormFloat64())
		}
		out[i] = min(max(v, space.Low[i]), space.High[i])
	}
	return out
}

// stepOnce executes one action and updates the episode and the transition.
func (e *simEnv) stepOnce(ctx context.Context, l *simLane, action []float32, r env.Render, tr *env.Transition) error {
	if err := ctx.Err(); err != nil {
		return Errorf(plugins.Canceled, "after %d actions: %w", tr.StepsDone, err)
	}
	o, err := l.sim.Step(action)
	if err != nil {
		return err
	}
	l.steps++
	tr.StepsDone++
	tr.Success = o.Success
	tr.Terminated = o.Success || o.Terminated
	tr.Truncated = !tr.Terminated && l.steps >= l.maxSteps
	l.running = !tr.Done()
	if r.Frames(l.steps-1, 1) == 1 {
		return e.record(l, tr, r.Record)
	}
	return nil
}

func (e *simEnv) checkCamera(name string) error {
	if _, ok := e.cameras[name]; ok {
		return nil
	}
	names := make([]string, len(e.spec.Env.Cameras))
	for i, c := range e.spec.Env.Cameras {
		names[i] = c.Name
	}
	return Errorf(NotFound, "no camera %q", name).WithHint("the cameras are %s", strings.Join(names, ", "))
}

func (e *simEnv) checkRender(r env.Render) error {
	for _, name := range append([]string{r.Record}, r.Observe...) {
		if name == "" {
			continue
		}
		if err := e.checkCamera(name); err != nil {
			return err
		}
	}
	return nil
}

// image renders a camera, uint8 [height, width, 3].
func (e *simEnv) image(l *simLane, camera string) ([]byte, CameraRequest, error) {
	c := e.cameras[camera]
	img := l.sim.Render(camera, c.Height, c.Width)
	if len(img) != c.Height*c.Width*3 {
		return nil, c, Errorf(Internal, "Render of camera %q returned %d bytes", camera, len(img)).
			WithHint("return uint8 [%d, %d, 3], which has %d bytes", c.Height, c.Width, c.Height*c.Width*3)
	}
	return img, c, nil
}

// record appends a frame of the recorded camera to the transition.
func (e *simEnv) record(l *simLane, tr *env.Transition, camera string) error {
	img, c, err := e.image(l, camera)
	if err != nil {
		return err
	}
	tr.Recorded.DType = plugins.Uint8
	tr.Recorded.Data = append(tr.Recorded.Data, img...)
	tr.Recorded.Shape = []int{len(tr.Recorded.Data) / len(img), c.Height, c.Width, 3}
	return nil
}

// observe fills in the observation of the current state.
func (e *simEnv) observe(l *simLane, tr *env.Transition, r env.Render) error {
	tr.EpisodeSteps = l.steps
	tr.Observation.Instruction = l.task.Instruction
	if p := l.sim.Proprio(); len(p) > 0 {
		tr.Observation.Proprio = plugins.Floats(p)
	}
	if p, ok := l.sim.(Progress); ok {
		v := math.Min(1, math.Max(0, p.Progress()))
		tr.Progress = &v
	}
	for _, name := range r.Observe {
		img, c, err := e.image(l, name)
		if err != nil {
			return err
		}
		if tr.Observation.Images == nil {
			tr.Observation.Images = map[string]plugins.Tensor{}
		}
		tr.Observation.Images[name] = plugins.Bytes(slices.Clone(img), c.Height, c.Width, 3)
	}
	return nil
}
