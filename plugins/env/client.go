package env

import (
	"context"
	"errors"
	"io"
	"iter"
	"math"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/internal/wire"
	pb "github.com/srpo-dev/srpo/plugins/proto/srpov1"
)

// Bounds of what a plugin may reply. The host lists tasks and start states to split and to evaluate them.
const (
	maxTasks       = 1 << 20
	maxStartStates = 1 << 20
	maxSteps       = 1 << 24
)

// Client is an [Env] and [Expert] in another process. The caller owns the tensors that it returns.
type Client struct {
	wire.Client
	rpc pb.EnvPluginClient

	mu      sync.Mutex
	spec    *plugins.EnvSpec
	cameras map[string]int // bytes per frame, by camera
}

var (
	_ Env    = (*Client)(nil)
	_ Expert = (*Client)(nil)
)

// NewClient makes the client of an env plugin over a connection. Without an arena, the messages carry the frames.
func NewClient(cc grpc.ClientConnInterface, a *arena.Arena) *Client {
	return &Client{Client: wire.NewClient(cc, a), rpc: pb.NewEnvPluginClient(cc)}
}

// Configure implements [plugins.Plugin].
func (c *Client) Configure(ctx context.Context, cfg plugins.Config) error {
	if err := c.Client.Configure(ctx, cfg); err != nil {
		return err
	}
	spec, err := c.Describe(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cameras = map[string]int{}
	for _, cam := range spec.Cameras {
		c.cameras[cam.Name] = cam.Height * cam.Width * 3
	}
	for _, r := range cfg.Cameras {
		if r.Height > 0 {
			c.cameras[r.Name] = r.Height * r.Width * 3
		}
	}
	return nil
}

// Describe implements [Env]. It asks the plugin once.
func (c *Client) Describe(ctx context.Context) (plugins.EnvSpec, error) {
	c.mu.Lock()
	known := c.spec
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	m, err := wire.Do(ctx, c.rpc.DescribeEnv, &pb.DescribeEnvRequest{})
	if err != nil {
		return plugins.EnvSpec{}, err
	}
	s := wire.ToEnvSpec(m)
	if err := s.Action.Check(); err != nil {
		return s, err
	}
	if len(s.Cameras) > 64 || s.Action.Dim() > 4096 || len(s.Proprio) > 4096 {
		return s, plugins.Errorf(plugins.Corrupt,
			"the env describes %d cameras, %d action dimensions, %d proprio values", len(s.Cameras), s.Action.Dim(),
			len(s.Proprio))
	}
	record := s.RecordCamera == ""
	for _, cam := range s.Cameras {
		if cam.Name == "" || cam.Height < 1 || cam.Width < 1 || cam.Height > 8192 || cam.Width > 8192 {
			return s, plugins.Errorf(plugins.Corrupt, "the env describes camera %q of %d x %d pixels", cam.Name,
				cam.Height, cam.Width)
		}
		record = record || cam.Name == s.RecordCamera
	}
	if !record {
		return s, plugins.Errorf(plugins.Corrupt, "the env records camera %q, which it does not describe",
			s.RecordCamera)
	}
	c.mu.Lock()
	c.spec = &s
	c.mu.Unlock()
	return s, nil
}

// Tasks implements [Env].
func (c *Client) Tasks(ctx context.Context) iter.Seq2[Task, error] {
	return func(yield func(Task, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var trailer metadata.MD
		stream, err := c.rpc.Tasks(ctx, &pb.TasksRequest{}, grpc.Trailer(&trailer))
		if err != nil {
			yield(Task{}, wire.FromStatus(err, trailer))
			return
		}
		seen := map[string]bool{}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Task{}, wire.FromStatus(err, stream.Trailer()))
				return
			}
			t := Task{
				ID:          wire.Text(m.Id),
				Suite:       wire.Text(m.Suite),
				Instruction: wire.Text(m.Instruction),
				StartStates: int(m.StartStates),
				MaxSteps:    int(m.MaxSteps),
				Tags:        m.Tags,
				Unavailable: wire.Text(m.Unavailable),
			}
			switch {
			case t.ID == "":
				err = plugins.Errorf(plugins.Corrupt, "task %d has no id", len(seen))
			case seen[t.ID]:
				err = plugins.Errorf(plugins.Corrupt, "task %q is listed twice", t.ID)
			case len(seen) >= maxTasks:
				err = plugins.Errorf(plugins.Corrupt, "the env lists more than %d tasks", maxTasks)
			case t.Unavailable == "" && (t.StartStates < 1 || t.MaxSteps < 1):
				err = plugins.Errorf(plugins.Corrupt, "task %q has %d start states and %d steps", t.ID, t.StartStates,
					t.MaxSteps)
			case t.StartStates > maxStartStates || t.MaxSteps > maxSteps:
				err = plugins.Errorf(plugins.Corrupt, "task %q has %d start states and %d steps, more than %d and %d",
					t.ID, m.StartStates, m.MaxSteps, maxStartStates, maxSteps).
					WithHint("declare fewer start states; random events in an episode can follow from its seed")
			}
			if err != nil {
				yield(t, err)
				return
			}
			seen[t.ID] = true
			if !yield(t, nil) {
				return
			}
		}
	}
}

// sizes returns the size in bytes of each tensor of a reply.
func (c *Client) sizes(r Render, steps int) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var n []int
	for _, name := range r.Observe {
		n = append(n, c.cameras[name])
	}
	if r.Record != "" && r.RecordEvery > 0 {
		n = append(n, c.cameras[r.Record]*(steps/r.RecordEvery+1))
	}
	return n
}

// Reset implements [Env].
func (c *Client) Reset(ctx context.Context, r Reset) (Transition, error) {
	call := wire.Begin(c.Arena)
	defer call.Release()
	m, err := wire.Do(
		ctx,
		c.rpc.Reset,
		&pb.ResetRequest{Lane: uint32(r.Lane), Task: r.Task, StartState: uint32(r.StartState), Seed: r.Seed,
			MaxSteps: uint32(r.MaxSteps), Render: fromRender(r.Render), Grant: call.Expect(c.sizes(r.Render, 1)...)},
	)
	if err != nil {
		return Transition{}, err
	}
	return c.transition(call, m, r.Render)
}

// Step implements [Env].
func (c *Client) Step(ctx context.Context, s Step) (Transition, error) {
	call := wire.Begin(c.Arena)
	defer call.Release()
	actions, err := call.Put(s.Actions)
	if err != nil {
		return Transition{}, err
	}
	steps := 0
	if len(s.Actions.Shape) > 0 {
		steps = s.Actions.Shape[0]
	}
	return c.step(ctx, call, &pb.StepRequest{Lane: uint32(s.Lane), Actions: actions}, steps, s.Render)
}

// StepExpert implements [Expert].
func (c *Client) StepExpert(ctx context.Context, s ExpertStep) (Transition, error) {
	call := wire.Begin(c.Arena)
	defer call.Release()
	expert := &pb.Expert{Steps: uint32(max(s.Steps, 0)), Noise: s.Noise, Failure: s.Failure}
	return c.step(ctx, call, &pb.StepRequest{Lane: uint32(s.Lane), Expert: expert}, s.Steps, s.Render)
}

func (c *Client) step(ctx context.Context, call *wire.Call, req *pb.StepRequest, steps int,
	r Render) (Transition, error) {
	req.Render, req.Grant = fromRender(r), call.Expect(c.sizes(r, steps)...)
	m, err := wire.Do(ctx, c.rpc.Step, req)
	if err != nil {
		return Transition{}, err
	}
	return c.transition(call, m, r)
}

func (c *Client) transition(call *wire.Call, m *pb.StepReply, r Render) (Transition, error) {
	t := Transition{
		StepsDone:    int(m.StepsDone),
		EpisodeSteps: int(m.EpisodeSteps),
		Success:      m.Success,
		Terminated:   m.Terminated,
		Truncated:    m.Truncated,
		Progress:     m.Progress,
	}
	bad := func(err error) (Transition, error) {
		return t, plugins.AsError(err).WithPlace("the env's reply")
	}
	if t.Success && !t.Terminated {
		return bad(plugins.Errorf(plugins.Corrupt, "success without terminated"))
	}
	if t.Progress != nil && (math.IsNaN(*t.Progress) || *t.Progress < 0 || *t.Progress > 1) {
		return bad(plugins.Errorf(plugins.Corrupt, "progress is %v, not 0 to 1", *t.Progress))
	}
	t.Observation.Instruction = wire.Text(m.GetObservation().GetInstruction())
	t.Observation.Images = map[string]plugins.Tensor{}
	var err error
	for name, img := range m.GetObservation().GetImages() {
		x, err := call.Read(img)
		if err == nil {
			err = x.Check("the image of camera "+name, plugins.Uint8, -1, -1, 3)
		}
		if err != nil {
			return bad(err)
		}
		t.Observation.Images[name] = x
	}
	for _, name := range r.Observe {
		if _, ok := t.Observation.Images[name]; !ok {
			return bad(plugins.Errorf(plugins.Corrupt, "camera %q was requested and is missing", name))
		}
	}
	if t.Observation.Proprio, err = call.Read(m.GetObservation().GetProprio()); err != nil {
		return bad(err)
	}
	if !t.Observation.Proprio.IsZero() {
		if err := finite("proprio", t.Observation.Proprio); err != nil {
			return bad(err)
		}
	}
	if t.Recorded, err = call.Read(m.Recorded); err != nil {
		return bad(err)
	}
	if !t.Recorded.IsZero() {
		if err := t.Recorded.Check("recorded frames", plugins.Uint8, -1, -1, -1, 3); err != nil {
			return bad(err)
		}
	}
	if t.Actions, err = call.Read(m.Actions); err != nil {
		return bad(err)
	}
	if t.Intended, err = call.Read(m.Intended); err != nil {
		return bad(err)
	}
	for _, x := range []struct {
		what    string
		actions plugins.Tensor
	}{{"executed actions", t.Actions}, {"intended actions", t.Intended}} {
		if x.actions.IsZero() {
			continue
		}
		if err := x.actions.Check(x.what, plugins.Float32, t.StepsDone, -1); err != nil {
			return bad(err)
		}
		if err := finite(x.what, x.actions); err != nil {
			return bad(err)
		}
	}
	return t, nil
}

func finite(what string, t plugins.Tensor) error {
	if t.DType != plugins.Float32 {
		return plugins.Errorf(plugins.Corrupt, "%s is %v, want float32", what, t.DType)
	}
	for i, v := range t.Float32s() {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return plugins.Errorf(plugins.Corrupt, "%s[%d] is %v", what, i, v)
		}
	}
	return nil
}

func fromRender(r Render) *pb.Render {
	return &pb.Render{Observe: r.Observe, Record: r.Record, RecordEvery: uint32(r.RecordEvery)}
}
