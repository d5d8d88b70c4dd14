package rollout

import (
	"context"
	"encoding/binary"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// process is a Worker over a fake plugin. The plugin decides when it dies, and is replaced after Failed.
type process[T any] struct {
	make   func(p *process[T]) T
	budget int // restarts; < 0: any number

	mu          sync.Mutex
	incarnation uint64
	client      T
	alive       bool
	reported    int // calls of Failed that replaced the process
	causes      []error
}

func newProcess[T any](make func(*process[T]) T) *process[T] {
	return &process[T]{make: make, budget: -1}
}

func (p *process[T]) Client(ctx context.Context) (T, uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var none T
	if ctx.Err() != nil {
		return none, 0, ctx.Err()
	}
	if !p.alive {
		if p.budget >= 0 && int(p.incarnation) > p.budget {
			return none, 0, plugins.Errorf(plugins.Unavailable, "the restart budget of %d is spent", p.budget)
		}
		p.incarnation++
		p.client, p.alive = p.make(p), true
	}
	return p.client, p.incarnation, nil
}

func (p *process[T]) Failed(incarnation uint64, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if incarnation == p.incarnation && p.alive {
		p.alive = false
		p.reported++
		p.causes = append(p.causes, cause)
	}
}

var errGone = plugins.Errorf(plugins.Unavailable, "connection reset")

// plugin implements the part of the contract that no test uses.
type plugin struct{}

func (plugin) Info(context.Context) (plugins.Info, error)      { return plugins.Info{}, nil }
func (plugin) Configure(context.Context, plugins.Config) error { return nil }

// world configures fake envs: when they are slow, die, hang or give bad replies.
type world struct {
	t testing.TB
	// jitter makes calls take a random time.
	jitter bool
	// die reports whether the process dies in call n, counted over all envs.
	die func(call int64) bool
	// before runs in each call. It may block, or return an error instead of the call's result.
	before func(ctx context.Context, lane int, e Episode) error
	// alter changes a reply.
	alter func(e Episode, r *env.Transition)
	calls atomic.Int64
	// size is the edge of images, in pixels.
	size int
}

var fakeSpec = plugins.EnvSpec{
	Cameras: []plugins.Camera{{Name: "front", Height: 4, Width: 4, View: "third_person"}},
	Action: plugins.ActionSpace{
		Names:  []string{"x", "y"},
		Low:    []float32{-1, -1},
		High:   []float32{1, 1},
		RateHz: 20,
	},
	Proprio: []string{"a", "b"}, Expert: true, RecordCamera: "front",
}

// fakeEnv is a chaotic system: each step hashes the state with the action; some states are the end.
type fakeEnv struct {
	plugin
	*world
	dead  atomic.Bool
	lanes []*fakeLane
}

type fakeLane struct {
	busy    atomic.Bool
	id      Episode // set by Reset
	state   uint64
	steps   int
	max     int
	running bool
	// Buffers that the next call overwrites, like shared memory.
	image, recorded []byte
}

func (w *world) process(lanes int) *process[env.Env] {
	return newProcess(func(*process[env.Env]) env.Env {
		e := &fakeEnv{world: w}
		for range lanes {
			e.lanes = append(e.lanes, &fakeLane{})
		}
		return e
	})
}

func (e *fakeEnv) Describe(context.Context) (plugins.EnvSpec, error) { return fakeSpec, nil }
func (e *fakeEnv) Tasks(context.Context) iter.Seq2[env.Task, error]  { return nil }
func (w *world) edge() int                                           { return max(w.size, 4) }
func (l *fakeLane) pixels(buf []byte, n int) []byte                  { return paint(buf, l.state, n) }
func (l *fakeLane) roll(parts ...any)                                { l.state = Seed(l.state, parts...) }
func (l *fakeLane) fails() bool                                      { return l.state%31 == 0 }
func (l *fakeLane) succeeds() bool                                   { return l.state%17 == 0 }
func paint(buf []byte, state uint64, n int) []byte {
	for i := range n {
		buf = append(buf, byte(state>>(8*(i%8)))^byte(i))
	}
	return buf
}

// enter begins every call.
func (e *fakeEnv) enter(ctx context.Context, lane int) (*fakeLane, error) {
	l := e.lanes[lane]
	if !l.busy.CompareAndSwap(false, true) {
		e.t.Errorf("two calls at the same time on lane %d", lane)
	}
	if e.jitter {
		time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
	}
	if e.die != nil && e.die(e.calls.Add(1)) {
		e.dead.Store(true)
	}
	if e.dead.Load() {
		return l, errGone
	}
	if e.before != nil {
		if err := e.before(ctx, lane, l.id); err != nil {
			return l, err
		}
	}
	return l, ctx.Err()
}

func (e *fakeEnv) Reset(ctx context.Context, r env.Reset) (env.Transition, error) {
	e.lanes[r.Lane].id = Episode{Task: r.Task, StartState: r.StartState, Seed: r.Seed}
	l, err := e.enter(ctx, r.Lane)
	defer l.busy.Store(false)
	if err != nil {
		return env.Transition{}, err
	}
	l.state, l.steps, l.running, l.max = Seed(r.Seed, r.Task, r.StartState), 0, true, r.MaxSteps
	if l.max == 0 {
		l.max = fakeTask(r.Task).MaxSteps
	}
	return e.reply(l, r.Render, nil, 0, nil)
}

func (e *fakeEnv) Step(ctx context.Context, s env.Step) (env.Transition, error) {
	return e.step(ctx, s.Lane, s.Render, false, func(*fakeLane) plugins.Tensor { return s.Actions })
}

func (e *fakeEnv) StepExpert(ctx context.Context, s env.ExpertStep) (env.Transition, error) {
	t, err := e.step(ctx, s.Lane, s.Render, true, func(l *fakeLane) plugins.Tensor {
		v := make([]float32, 2*s.Steps)
		for i := range v {
			v[i] = float32(2*unit(Seed(l.id.Seed, "expert", l.steps, i))-1) * min(1, 0.5+s.Noise)
		}
		return plugins.Floats(v, s.Steps, 2)
	})
	if s.Noise > 0 && err == nil { // no intended action is above 0.1
		v := t.Actions.Float32s()
		for i := range v {
			v[i] *= 0.1
		}
		t.Intended = plugins.Floats(v, t.StepsDone, 2)
	}
	return t, err
}

// step executes the actions that act returns. The reply has the actions if the expert acts.
func (e *fakeEnv) step(ctx context.Context, lane int, r env.Render, expert bool,
	act func(*fakeLane) plugins.Tensor) (env.Transition, error) {
	l, err := e.enter(ctx, lane)
	defer l.busy.Store(false)
	if err != nil {
		return env.Transition{}, err
	}
	if !l.running {
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "no episode is running")
	}
	actions := act(l)
	var frames []byte
	done := 0
	for done < actions.Shape[0] && l.running {
		l.roll(binary.LittleEndian.Uint64(actions.Data[8*done:]))
		done++
		l.steps++
		if r.Record != "" && l.steps%r.RecordEvery == 0 {
			frames = l.pixels(frames, e.edge()*e.edge()*3)
		}
		l.running = !l.succeeds() && !l.fails() && l.steps < l.max
	}
	var executed []byte
	if expert {
		executed = actions.Data[:8*done]
	}
	return e.reply(l, r, frames, done, executed)
}

func (e *fakeEnv) reply(l *fakeLane, r env.Render, frames []byte, done int, executed []byte) (env.Transition, error) {
	n := e.edge()
	if done == 0 && r.Record != "" {
		frames = l.pixels(nil, n*n*3)
	}
	l.recorded = append(l.recorded[:0], frames...)
	l.image = l.pixels(l.image[:0], n*n*3)
	progress := float64(l.state%100) / 100
	t := env.Transition{StepsDone: done, EpisodeSteps: l.steps, Progress: &progress}
	t.Observation = env.Observation{
		Images:      map[string]plugins.Tensor{},
		Instruction: "do " + l.id.Task,
		Proprio:     plugins.Floats([]float32{float32(l.steps), float32(l.state % 7)}),
	}
	for _, c := range r.Observe {
		t.Observation.Images[c] = plugins.Bytes(l.image, n, n, 3)
	}
	if len(frames) > 0 {
		t.Recorded = plugins.Bytes(l.recorded, len(frames)/(n*n*3), n, n, 3)
	}
	if executed != nil {
		t.Actions = plugins.Tensor{DType: plugins.Float32, Shape: []int{done, 2}, Data: executed}
	}
	if done > 0 {
		t.Success = l.succeeds()
		t.Terminated = t.Success || l.fails()
		t.Truncated = !t.Terminated && l.steps >= l.max
	}
	if e.alter != nil {
		id := l.id
		id.Steps = l.steps
		e.alter(id, &t)
	}
	return t, nil
}

// fakePolicy derives actions from a hash of the observation and the item's seed. It checks that the scheduler
// keeps the contract of recording.
type fakePolicy struct {
	plugin
	t      testing.TB
	die    func(call int64) bool
	before func(ctx context.Context, a policy.Act) error
	alter  func(item policy.Item, r *policy.Result)

	calls, items, running, maxRunning atomic.Int64

	mu       sync.Mutex
	recorded map[string][]int // steps by trajectory
	batches  []int
}

func newPolicy(t testing.TB) *fakePolicy { return &fakePolicy{t: t, recorded: map[string][]int{}} }

func (p *fakePolicy) process() *process[policy.Policy] {
	return newProcess(func(*process[policy.Policy]) policy.Policy { return p })
}

const fakeChunk = 3

func (p *fakePolicy) Act(ctx context.Context, a policy.Act) ([]policy.Result, error) {
	n := p.running.Add(1)
	defer p.running.Add(-1)
	for m := p.maxRunning.Load(); n > m && !p.maxRunning.CompareAndSwap(m, n); m = p.maxRunning.Load() {
	}
	call := p.calls.Add(1)
	p.items.Add(int64(len(a.Items)))
	if p.die != nil && p.die(call) {
		return nil, errGone
	}
	if p.before != nil {
		if err := p.before(ctx, a); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batches = append(p.batches, len(a.Items))
	results := make([]policy.Result, len(a.Items))
	for i, item := range a.Items {
		if a.Record {
			steps := p.recorded[item.Trajectory]
			if len(steps) == 0 && item.Step != 0 || len(steps) > 0 && item.Step != steps[len(steps)-1]+fakeChunk {
				p.t.Errorf("%s: step %d follows %v", item.Trajectory, item.Step, steps)
			}
			p.recorded[item.Trajectory] = append(steps, item.Step)
		}
		seed := item.Seed
		if a.Greedy {
			seed = 0
		}
		h := Seed(seed, string(item.Observation.Images["front"].Data), string(item.Observation.Proprio.Data),
			item.Observation.Instruction)
		v, logs := make([]float32, 2*fakeChunk), make([]float32, fakeChunk)
		for k := range v {
			v[k] = float32(2*unit(Seed(h, k)) - 1)
		}
		for k := range logs {
			logs[k] = -float32(unit(Seed(h, "log", k)))
		}
		results[i] = policy.Result{Actions: plugins.Floats(v, fakeChunk, 2), LogProbs: logs}
		if p.alter != nil {
			p.alter(item, &results[i])
		}
	}
	return results, nil
}

func (p *fakePolicy) Forget(_ context.Context, trajectories []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range trajectories {
		delete(p.recorded, t)
	}
	return nil
}

func (p *fakePolicy) Describe(context.Context) (policy.Spec, error) { return policy.Spec{}, nil }
func (p *fakePolicy) Update(context.Context, policy.Update, func(float64)) (policy.Statistics, error) {
	return policy.Statistics{}, nil
}
func (p *fakePolicy) Save(context.Context, string) error           { return nil }
func (p *fakePolicy) Load(context.Context, string) (uint64, error) { return 0, nil }

// fakeEncoder returns a hash of the clip as a vector.
type fakeEncoder struct {
	plugin
	die    func(call int64) bool
	before func(ctx context.Context, clips []plugins.Tensor) error
	alter  func(clip plugins.Tensor, v []float32) []float32
	calls  atomic.Int64

	mu     sync.Mutex
	shapes [][]int
}

const fakeDimension = 5

func (e *fakeEncoder) process() *process[encoder.Encoder] {
	return newProcess(func(*process[encoder.Encoder]) encoder.Encoder { return e })
}

func (e *fakeEncoder) Describe(context.Context) (encoder.Spec, error) { return encoder.Spec{}, nil }
func (e *fakeEncoder) Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error) {
	if call := e.calls.Add(1); e.die != nil && e.die(call) {
		return nil, errGone
	}
	if e.before != nil {
		if err := e.before(ctx, clips); err != nil {
			return nil, err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var out [][]float32
	for _, c := range clips {
		e.shapes = append(e.shapes, c.Shape)
		h := Seed(uint64(c.Shape[0]), string(c.Data))
		v := make([]float32, fakeDimension)
		for i := range v {
			v[i] = float32(unit(Seed(h, i)))
		}
		if e.alter != nil {
			v = e.alter(c, v)
		}
		out = append(out, v)
	}
	return out, nil
}

func fakeTask(id string) env.Task {
	t := env.Task{ID: id, Suite: "fake", Instruction: "do " + id, StartStates: 7, MaxSteps: 20}
	if strings.Contains(id, "hard") {
		t.MaxSteps = 5
	}
	if strings.Contains(id, "long") {
		t.MaxSteps = 61
	}
	return t
}

// setting is a fake run. Tests change it before they run it.
type setting struct {
	world   *world
	policy  *fakePolicy
	encoder *fakeEncoder
	envs    []*process[env.Env]
	s       *Scheduler
	plan    Plan
}

// newSetting creates processes with the given numbers of lanes.
func newSetting(t testing.TB, lanes ...int) *setting {
	w := &world{t: t}
	x := &setting{world: w, policy: newPolicy(t), encoder: &fakeEncoder{}}
	x.s = &Scheduler{Policy: x.policy.process(), Encoder: x.encoder.process(), EnvSpec: fakeSpec,
		PolicySpec: policy.Spec{
			Chunk:    fakeChunk,
			MaxBatch: 16,
		}, EncoderSpec: encoder.Spec{Dimension: fakeDimension, Batch: 4}}
	for _, n := range lanes {
		p := w.process(n)
		x.envs = append(x.envs, p)
		x.s.Envs = append(x.s.Envs, &EnvProc{Worker: p, Lanes: n})
	}
	x.plan = Plan{
		Rules: Rules{
			Observe:      []string{"front"},
			RecordCamera: "front",
			RecordEvery:  2,
			Temperature:  1,
			Record:       true,
			Encode:       true,
		},
		Seed: 11, Iteration: 2, Groups: 5, GroupSize: 4, KeepLow: 0.1, KeepHigh: 0.9, ExtraGroups: 6,
		Tasks: []PlanTask{{Task: fakeTask("a/easy")}, {Task: fakeTask("b/hard")}, {Task: fakeTask("c/long")}},
	}
	return x
}

// chance returns a die function that is true for about one call in n, by seed, and at most maxHits times.
func chance(seed uint64, n int, maxHits int64) func(int64) bool {
	var hits atomic.Int64
	return func(call int64) bool { return Seed(seed, call)%uint64(n) == 0 && hits.Add(1) <= maxHits }
}
