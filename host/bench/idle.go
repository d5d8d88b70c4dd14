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

// Name is the name of the plugins in this package.
const Name = "idle"

// actionDim and proprioDim are those of a usual robot arm.
const (
	actionDim  = 7
	proprioDim = 8
)

// maxLanes limits the lanes of one process.
const maxLanes = 1024

// Env is an env that does nothing. Each step returns the same observation, and episodes end by their length.
type Env struct {
	limit, steps [maxLanes]int
	observation  env.Observation
	frame        plugins.Tensor
	length       int
}

var _ env.Env = (*Env)(nil)

// NewEnv returns an env that does nothing.
func NewEnv() *Env { return &Env{} }

// Info implements [plugins.Plugin].
func (e *Env) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: Name, Kind: plugins.Env, Version: "0.1.0", Protocol: plugins.Protocol,
		Doc: "does nothing", MaxLanes: maxLanes,
		Settings: []plugins.Setting{{Name: "frame", Default: int64(64), Min: plugins.Bound(1),
			Max: plugins.Bound(1024), Doc: "side of a frame in pixels"},
			{Name: "steps", Default: int64(1_000_000), Min: plugins.Bound(1),
				Doc: "length of an episode if Reset sets no limit"}}}, nil
}

// Configure implements [plugins.Plugin].
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
	e.observation = env.Observation{Instruction: "do nothing", Proprio: plugins.Floats(make([]float32, proprioDim))}
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
	if r.Lane < 0 || r.Lane >= maxLanes {
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "lane %d of %d", r.Lane, maxLanes)
	}
	e.limit[r.Lane], e.steps[r.Lane] = r.MaxSteps, 0
	if r.MaxSteps <= 0 {
		e.limit[r.Lane] = e.length
	}
	return e.transition(r.Lane, 0, r.Render), nil
}

// Step implements [env.Env].
func (e *Env) Step(_ context.Context, s env.Step) (env.Transition, error) {
	if s.Lane < 0 || s.Lane >= maxLanes || len(s.Actions.Shape) != 2 {
		return env.Transition{}, plugins.Errorf(plugins.Invalid, "lane %d of %d, actions %v", s.Lane, maxLanes,
			s.Actions.Shape)
	}
	n := min(s.Actions.Shape[0], e.limit[s.Lane]-e.steps[s.Lane])
	e.steps[s.Lane] += n
	return e.transition(s.Lane, n, s.Render), nil
}

func (e *Env) transition(lane, done int, r env.Render) env.Transition {
	t := env.Transition{Observation: e.observation, StepsDone: done, EpisodeSteps: e.steps[lane],
		Truncated: e.steps[lane] == e.limit[lane]}
	if len(r.Observe) > 0 {
		t.Observation.Images = map[string]plugins.Tensor{"main": e.frame}
	}
	return t
}

// Policy is a policy that learns nothing. It returns the same chunk for every observation, or sine waves.
type Policy struct {
	chunk, dim int
	observe    bool
	wave       float64
	result     policy.Result
}

var _ policy.Policy = (*Policy)(nil)

// NewPolicy returns a policy that does nothing.
func NewPolicy() *Policy { return &Policy{} }

// Info implements [plugins.Plugin].
func (p *Policy) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: Name, Kind: plugins.Policy, Version: "0.1.0", Protocol: plugins.Protocol,
		Doc: "does nothing", Settings: []plugins.Setting{
			{Name: "chunk", Default: int64(8), Min: plugins.Bound(1), Max: plugins.Bound(1024),
				Doc: "actions in a chunk"},
			{Name: "observe", Default: true, Doc: "request the env's recording camera"},
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
		return plugins.Errorf(plugins.Invalid, "the configuration contains no env")
	}
	p.chunk, p.observe, p.wave, p.dim = int(s["chunk"].(int64)), s["observe"].(bool), s["wave"].(float64),
		c.Env.Action.Dim()
	p.result = policy.Result{Actions: plugins.Floats(make([]float32, p.chunk*p.dim), p.chunk, p.dim)}
	return nil
}

// Describe implements [policy.Policy].
func (p *Policy) Describe(context.Context) (policy.Spec, error) {
	s := policy.Spec{Chunk: p.chunk}
	if p.observe {
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

// Update implements [policy.Policy]. It returns an error.
func (p *Policy) Update(context.Context, policy.Update, func(float64)) (policy.Statistics, error) {
	return policy.Statistics{}, plugins.Errorf(plugins.Unsupported, "the idle policy cannot be trained")
}

// Forget implements [policy.Policy].
func (p *Policy) Forget(context.Context, []string) error { return nil }

// Save implements [policy.Policy].
func (p *Policy) Save(context.Context, string) error { return nil }

// Load implements [policy.Policy].
func (p *Policy) Load(context.Context, string) (uint64, error) { return 0, nil }

// Encoder is an encoder that returns zeros or, with the setting read, the largest byte of the clip.
type Encoder struct{ read bool }

var _ encoder.Encoder = (*Encoder)(nil)

// NewEncoder returns an encoder that does nothing.
func NewEncoder() *Encoder { return &Encoder{} }

// Info implements [plugins.Plugin].
func (e *Encoder) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: Name, Kind: plugins.Encoder, Version: "0.1.0", Protocol: plugins.Protocol,
		Doc:      "does nothing",
		Settings: []plugins.Setting{{Name: "read", Default: false, Doc: "read every byte of a clip"}}}, nil
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
			largest := byte(0)
			for _, b := range c.Data {
				largest = max(largest, b)
			}
			rows[i][0] = float32(largest)
		}
	}
	return rows, nil
}
