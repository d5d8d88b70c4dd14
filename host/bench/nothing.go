package bench

import (
	"context"
	"iter"
	"math"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Name is what the plugins of this package are served as.
const Name = "nothing"

// actionDim and proprioDim are those of a usual arm.
const (
	actionDim  = 7
	proprioDim = 8
)

// mostLanes bounds the lanes of one process.
const mostLanes = 1024

// Env does nothing: each step gives the same observation, and an episode ends only by its length.
type Env struct {
	most, steps [mostLanes]int
	seen        env.Observation
	frame       plugins.Tensor
	length      int
}

var _ env.Env = (*Env)(nil)

// NewEnv makes an env that does nothing.
func NewEnv() *Env { return &Env{} }

// Info implements [plugins.Plugin].
func (e *Env) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: Name, Kind: plugins.Env, Version: "0.1.0", Protocol: plugins.Protocol,
		Doc: "does nothing", MaxLanes: mostLanes,
		Settings: []plugins.Setting{{Name: "frame", Default: int64(64), Min: plugins.Bound(1),
			Max: plugins.Bound(1024), Doc: "side of the camera's picture, pixels"},
			{Name: "steps", Default: int64(1_000_000), Min: plugins.Bound(1),
				Doc: "length of an episode where Reset names none"}}}, nil
}

// Configure makes the one observation there is.
func (e *Env) Configure(_ context.Context, c plugins.Config) error {
	s, err := plugins.Resolve(mustInfo(e).Settings, c.Settings)
	if err != nil {
		return err
	}
	side := int(s["frame"].(int64))
	e.length = int(s["steps"].(int64))
	pixels := make([]byte, side*side*3)
	for i := range pixels {
		pixels[i] = byte(i * 7)
	}
	e.frame = plugins.Bytes(pixels, side, side, 3)
	e.seen = env.Observation{Instruction: "do nothing", Proprio: plugins.Floats(make([]float32, proprioDim))}
	return nil
}

func mustInfo(p plugins.Plugin) plugins.Info {
	info, _ := p.Info(context.Background())
	return info
}

// Describe implements [env.Env].
func (e *Env) Describe(context.Context) (plugins.EnvSpec, error) {
	s := plugins.EnvSpec{Cameras: []plugins.Camera{{Name: "main", Height: 64, Width: 64, View: "third_person",
		AnySize: true}}, RecordCamera: "main"}
	if !e.frame.IsZero() {
		s.Cameras[0].Height, s.Cameras[0].Width = e.frame.Shape[0], e.frame.Shape[1]
	}
	for range actionDim {
		s.Action.Names = append(s.Action.Names, "a"+string(rune('0'+len(s.Action.Names))))
		s.Action.Low, s.Action.High = append(s.Action.Low, -1), append(s.Action.High, 1)
	}
	for i := range proprioDim {
		s.Proprio = append(s.Proprio, "p"+string(rune('0'+i)))
	}
	return s, nil
}

// Tasks implements [env.Env].
func (e *Env) Tasks(context.Context) iter.Seq2[env.Task, error] {
	return func(yield func(env.Task, error) bool) {
		yield(env.Task{ID: Name, Suite: Name, Instruction: "do nothing", StartStates: 4096,
			MaxSteps: max(1, e.length)}, nil)
	}
}

// Reset implements [env.Env].
func (e *Env) Reset(_ context.Context, r env.Reset) (env.Transition, error) {
	if r.Lane < 0 || r.Lane >= mostLanes {
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "lane %d of %d", r.Lane, mostLanes)
	}
	e.most[r.Lane], e.steps[r.Lane] = r.MaxSteps, 0
	if r.MaxSteps <= 0 {
		e.most[r.Lane] = e.length
	}
	return e.see(r.Lane, 0, r.Render), nil
}

// Step implements [env.Env].
func (e *Env) Step(_ context.Context, s env.Step) (env.Transition, error) {
	if s.Lane < 0 || s.Lane >= mostLanes || len(s.Actions.Shape) != 2 {
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "lane %d of %d, actions %v", s.Lane, mostLanes,
			s.Actions.Shape)
	}
	n := min(s.Actions.Shape[0], e.most[s.Lane]-e.steps[s.Lane])
	e.steps[s.Lane] += n
	return e.see(s.Lane, n, s.Render), nil
}

func (e *Env) see(lane, done int, r env.Render) env.Transition {
	t := env.Transition{Observation: e.seen, StepsDone: done, EpisodeSteps: e.steps[lane],
		Truncated: e.steps[lane] == e.most[lane]}
	if len(r.Observe) > 0 {
		t.Observation.Images = map[string]plugins.Tensor{"main": e.frame}
	}
	return t
}

// Policy does nothing: it answers the same chunk to everybody, or a wave that moves an arm about.
type Policy struct {
	chunk, dim int
	see        bool
	wave       float64
	result     policy.Result
}

var _ policy.Policy = (*Policy)(nil)

// NewPolicy makes a policy that does nothing.
func NewPolicy() *Policy { return &Policy{} }

// Info implements [plugins.Plugin].
func (p *Policy) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: Name, Kind: plugins.Policy, Version: "0.1.0", Protocol: plugins.Protocol,
		Doc: "does nothing", Settings: []plugins.Setting{
			{Name: "chunk", Default: int64(8), Min: plugins.Bound(1), Max: plugins.Bound(1024),
				Doc: "actions in a chunk"},
			{Name: "see", Default: true, Doc: "read the env's recording camera"},
			{Name: "wave", Default: 0.0, Min: plugins.Bound(0), Max: plugins.Bound(1),
				Doc: "amplitude of the actions, sines of 40 steps with a phase for each dimension; 0: zeros"},
		}}, nil
}

// Configure implements [plugins.Plugin].
func (p *Policy) Configure(_ context.Context, c plugins.Config) error {
	s, err := plugins.Resolve(mustInfo(p).Settings, c.Settings)
	if err != nil {
		return err
	}
	if c.Env == nil {
		return plugins.Errorf(plugins.Invalid, "no env was named")
	}
	p.chunk, p.see, p.wave, p.dim = int(s["chunk"].(int64)), s["see"].(bool), s["wave"].(float64), c.Env.Action.Dim()
	p.result = policy.Result{Actions: plugins.Floats(make([]float32, p.chunk*p.dim), p.chunk, p.dim)}
	return nil
}

// Describe implements [policy.Policy].
func (p *Policy) Describe(context.Context) (policy.Spec, error) {
	s := policy.Spec{Chunk: p.chunk}
	if p.see {
		s.Cameras = []plugins.CameraRequest{{}}
	}
	return s, nil
}

// Act implements [policy.Policy].
func (p *Policy) Act(_ context.Context, a policy.Act) ([]policy.Result, error) {
	results := make([]policy.Result, len(a.Items))
	for i, item := range a.Items {
		results[i] = p.result
		if p.wave > 0 {
			v := make([]float32, p.chunk*p.dim)
			for j := range v {
				step, d := item.Step+j/p.dim, j%p.dim
				v[j] = float32(p.wave * math.Sin(2*math.Pi*(float64(step)/40+float64(d)/float64(p.dim))))
			}
			results[i].Actions = plugins.Floats(v, p.chunk, p.dim)
		}
	}
	return results, nil
}

// Update implements [policy.Policy]: there is nothing to learn.
func (p *Policy) Update(context.Context, policy.Update, func(float64)) (policy.Statistics, error) {
	return policy.Statistics{}, plugins.Errorf(plugins.Unsupported, "a policy that does nothing learns nothing")
}

// Forget implements [policy.Policy].
func (p *Policy) Forget(context.Context, []string) error { return nil }

// Save implements [policy.Policy].
func (p *Policy) Save(context.Context, string) error { return nil }

// Load implements [policy.Policy].
func (p *Policy) Load(context.Context, string) (uint64, error) { return 0, nil }

// Encoder does nothing: it answers zeros.
type Encoder struct{ read bool }

var _ encoder.Encoder = (*Encoder)(nil)

// NewEncoder makes an encoder that does nothing.
func NewEncoder() *Encoder { return &Encoder{} }

// Info implements [plugins.Plugin].
func (e *Encoder) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: Name, Kind: plugins.Encoder, Version: "0.1.0", Protocol: plugins.Protocol,
		Doc:      "does nothing",
		Settings: []plugins.Setting{{Name: "read", Default: false, Doc: "look at every byte"}}}, nil
}

// Configure implements [plugins.Plugin].
func (e *Encoder) Configure(_ context.Context, c plugins.Config) error {
	s, err := plugins.Resolve(mustInfo(e).Settings, c.Settings)
	if err == nil {
		e.read = s["read"].(bool)
	}
	return err
}

// Describe implements [encoder.Encoder].
func (e *Encoder) Describe(context.Context) (encoder.Spec, error) {
	return encoder.Spec{Dimension: 1}, nil
}

// Encode implements [encoder.Encoder].
func (e *Encoder) Encode(_ context.Context, clips []plugins.Tensor) ([][]float32, error) {
	rows := make([][]float32, len(clips))
	for i, c := range clips {
		rows[i] = []float32{0}
		if e.read {
			most := byte(0)
			for _, b := range c.Data {
				most = max(most, b)
			}
			rows[i][0] = float32(most)
		}
	}
	return rows, nil
}
