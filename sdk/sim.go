package sdk

import (
	"context"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// Sim is one lane of an environment, stepped one action at a time: the short way to write an env. [SimEnv] does the rest of the contract: lanes, chunks,
// recording, truncation, refusing bad actions.
type Sim interface {
	// Reset begins an episode. The task is one of SimSpec.Tasks, the start state within its range.
	Reset(task string, startState int, seed uint64) error
	// Step executes one action, checked and within its range. Success ends the episode.
	Step(action []float32) (Outcome, error)
	// Proprio is the proprio vector of the present state; nil: none.
	Proprio() []float32
	// Render draws the present state, uint8 [height, width, 3].
	Render(camera string, height, width int) []byte
}

// Expert is a [Sim] with a scripted expert.
type Expert interface {
	// Expert is the expert's next action in the present state; ok is false where it has none.
	Expert() (action []float32, ok bool)
}

// Failing is a [Sim] whose expert can fail on purpose in the ways of EnvSpec.ExpertFailures, which shows what a reward makes of failures.
type Failing interface {
	// FailingExpert is the expert's next action in an episode that is to fail in the given way; ok is false where it has none.
	FailingExpert(failure string) (action []float32, ok bool)
}

// Progress is a [Sim] that knows how far its task has come, 0 to 1.
type Progress interface{ Progress() float64 }

// Outcome of one step.
type Outcome struct {
	Success bool
	// Terminated ends the episode without success (something fell off the table).
	Terminated bool
}

// SimSpec describes an environment made of [Sim] lanes.
type SimSpec struct {
	Info  plugins.Info
	Env   plugins.EnvSpec
	Tasks []env.Task
	// New makes lane number lane.
	New func(c plugins.Config, lane int) (Sim, error)
}

// ServeSim serves an environment made of [Sim] lanes. It does not return.
func ServeSim(s SimSpec) { ServeEnv(SimEnv(s)) }

// SimEnv makes an env of [Sim] lanes.
func SimEnv(s SimSpec) env.Env {
	e := &simEnv{spec: s, tasks: map[string]env.Task{}}
	for _, t := range s.Tasks {
		e.tasks[t.ID] = t
	}
	e.spec.Info.Kind = plugins.Env
	if len(s.Tasks) > 0 && len(s.Env.Cameras) > 0 && s.Env.RecordCamera == "" {
		e.spec.Env.RecordCamera = s.Env.Cameras[0].Name
	}
	return e
}

type simEnv struct {
	spec    SimSpec
	tasks   map[string]env.Task
	cameras map[string]plugins.CameraRequest
	lanes   []*simLane
}

type simLane struct {
	mu    sync.Mutex
	sim   Sim
	task  env.Task
	seed  uint64
	steps int
	most  int
	open  bool
}

func (e *simEnv) Info(context.Context) (plugins.Info, error)        { return e.spec.Info, nil }
func (e *simEnv) Describe(context.Context) (plugins.EnvSpec, error) { return e.spec.Env, nil }

func (e *simEnv) Configure(_ context.Context, c plugins.Config) error {
	e.cameras = map[string]plugins.CameraRequest{}
	for _, cam := range e.spec.Env.Cameras {
		e.cameras[cam.Name] = plugins.CameraRequest{Name: cam.Name, Height: cam.Height, Width: cam.Width}
	}
	for _, r := range c.Cameras {
		have, ok := e.cameras[r.Name]
		if !ok {
			return plugins.Errorf(plugins.NotFound, "no camera %q", r.Name)
		}
		if r.Height > 0 {
			have.Height, have.Width = r.Height, r.Width
		}
		e.cameras[r.Name] = have
	}
	e.lanes = nil
	for i := range c.Lanes {
		s, err := e.spec.New(c, i)
		if err != nil {
			return err
		}
		e.lanes = append(e.lanes, &simLane{sim: s})
	}
	return nil
}

func (e *simEnv) Tasks(context.Context) iter.Seq2[env.Task, error] {
	return func(yield func(env.Task, error) bool) {
		for _, t := range e.spec.Tasks {
			if !yield(t, nil) {
				return
			}
		}
	}
}

func (e *simEnv) lane(i int) (*simLane, error) {
	if i < 0 || i >= len(e.lanes) {
		return nil, plugins.Errorf(plugins.Invalid, "lane %d of %d", i, len(e.lanes))
	}
	return e.lanes[i], nil
}

func (e *simEnv) Reset(_ context.Context, r env.Reset) (env.Transition, error) {
	l, err := e.lane(r.Lane)
	if err != nil {
		return env.Transition{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := e.tasks[r.Task]
	if !ok {
		return env.Transition{}, plugins.Errorf(plugins.NotFound, "no task %q", r.Task)
	}
	if r.StartState < 0 || r.StartState >= t.StartStates {
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "start state %d; task %q has %d", r.StartState, t.ID, t.StartStates)
	}
	if err := e.check(r.Render); err != nil {
		return env.Transition{}, err
	}
	if err := l.sim.Reset(r.Task, r.StartState, r.Seed); err != nil {
		return env.Transition{}, err
	}
	l.task, l.seed, l.steps, l.most, l.open = t, r.Seed, 0, t.MaxSteps, true
	if r.MaxSteps > 0 {
		l.most = r.MaxSteps
	}
	var tr env.Transition
	if r.Render.Record != "" && r.Render.RecordEvery > 0 {
		if err := e.record(l, &tr, r.Render.Record); err != nil {
			return tr, err
		}
	}
	return tr, e.observe(l, &tr, r.Render)
}

func (e *simEnv) Step(ctx context.Context, s env.Step) (env.Transition, error) {
	l, err := e.lane(s.Lane)
	if err != nil {
		return env.Transition{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open {
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "step on lane %d, whose episode has ended or not begun", s.Lane)
	}
	if err := e.check(s.Render); err != nil {
		return env.Transition{}, err
	}
	dim := e.spec.Env.Action.Dim()
	var given []float32
	n := s.Expert
	if n == 0 {
		if given, err = e.spec.Env.Action.Clip(s.Actions); err != nil {
			return env.Transition{}, err
		}
		n = len(given) / dim
	}
	var tr env.Transition
	var done []float32
	for i := 0; i < n && l.open; i++ {
		if err := ctx.Err(); err != nil {
			return tr, plugins.Errorf(plugins.Canceled, "after %d of %d actions: %w", i, n, err)
		}
		var a []float32
		if s.Expert > 0 {
			next, ok, err := e.expert(l.sim, s.ExpertFailure)
			if err != nil {
				return tr, err
			}
			if !ok {
				break // it gives up: the host sees fewer steps than it asked for
			}
			a = Noisy(e.spec.Env.Action, next, s.ExpertNoise, l.seed, l.steps)
			done = append(done, a...)
		} else {
			a = given[i*dim : (i+1)*dim]
		}
		o, err := l.sim.Step(a)
		if err != nil {
			return tr, err
		}
		l.steps++
		tr.StepsDone++
		tr.Success = o.Success
		tr.Terminated = o.Success || o.Terminated
		tr.Truncated = !tr.Terminated && l.steps >= l.most
		l.open = !tr.Done()
		if s.Render.Record != "" && s.Render.RecordEvery > 0 && l.steps%s.Render.RecordEvery == 0 {
			if err := e.record(l, &tr, s.Render.Record); err != nil {
				return tr, err
			}
		}
	}
	if s.Expert > 0 && tr.StepsDone > 0 { // of one that gave up at once there are none
		tr.Actions = plugins.Floats(done, tr.StepsDone, dim)
	}
	return tr, e.observe(l, &tr, s.Render)
}

// expert is the next action of a sim's expert; ok is false where it gives up.
func (e *simEnv) expert(sim Sim, failure string) (action []float32, ok bool, err error) {
	if failure != "" {
		x, can := sim.(Failing)
		if !can || !slices.Contains(e.spec.Env.ExpertFailures, failure) {
			return nil, false, plugins.Errorf(plugins.Unsupported, "the expert cannot fail by %q", failure)
		}
		action, ok = x.FailingExpert(failure)
		return action, ok, nil
	}
	x, can := sim.(Expert)
	if !can {
		return nil, false, plugins.Errorf(plugins.Unsupported, "this env has no expert")
	}
	action, ok = x.Expert()
	return action, ok, nil
}

func (e *simEnv) check(r env.Render) error {
	for _, name := range append([]string{r.Record}, r.Observe...) {
		if _, ok := e.cameras[name]; !ok && name != "" {
			return plugins.Errorf(plugins.NotFound, "no camera %q", name)
		}
	}
	return nil
}

func (e *simEnv) image(l *simLane, camera string) ([]byte, plugins.CameraRequest, error) {
	c := e.cameras[camera]
	img := l.sim.Render(camera, c.Height, c.Width)
	if len(img) != c.Height*c.Width*3 {
		return nil, c, plugins.Errorf(plugins.Internal, "Render of camera %q gave %d bytes, want %d x %d x 3", camera, len(img), c.Height, c.Width)
	}
	return img, c, nil
}

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
		tr.Observation.Images[name] = plugins.Bytes(append([]byte(nil), img...), c.Height, c.Width, 3)
	}
	return nil
}

// Noisy adds Gaussian noise of the given std to an expert's action and clips it to its range. The noise depends on the episode's seed and step alone, so
// that it is the same however the steps are cut into chunks.
func Noisy(space plugins.ActionSpace, action []float32, std float32, seed uint64, step int) []float32 {
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
