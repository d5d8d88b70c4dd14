package env

import (
	"context"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/internal/wire"
	pb "github.com/srpo-dev/srpo/plugins/proto/srpov1"
)

// Plugin serves and dispenses an env through go-plugin. The plugin's process sets Impl, and the host sets Arena.
type Plugin struct {
	plugin.NetRPCUnsupportedPlugin
	Impl  Env
	Arena *arena.Arena
}

// GRPCServer registers Impl.
func (p *Plugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	Register(s, p.Impl)
	return nil
}

// GRPCClient returns a *Client.
func (p *Plugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, cc *grpc.ClientConn) (any, error) {
	return NewClient(cc, p.Arena), nil
}

// Register serves impl on s. Make s with serve.Options, so that errors keep their parts.
func Register(s grpc.ServiceRegistrar, impl Env) {
	base := wire.NewServer(impl, plugins.Env)
	pb.RegisterPluginServer(s, base)
	pb.RegisterEnvPluginServer(s, &server{base: base, impl: impl})
}

type server struct {
	pb.UnimplementedEnvPluginServer
	base *wire.Server
	impl Env
}

func (s *server) DescribeEnv(ctx context.Context, _ *pb.DescribeEnvRequest) (*pb.EnvSpec, error) {
	spec, err := s.impl.Describe(ctx)
	if err != nil {
		return nil, err
	}
	return wire.FromEnvSpec(spec), nil
}

func (s *server) Tasks(_ *pb.TasksRequest, stream grpc.ServerStreamingServer[pb.Task]) error {
	for t, err := range s.impl.Tasks(stream.Context()) {
		if err != nil {
			return err
		}
		m := &pb.Task{
			Id:          t.ID,
			Suite:       t.Suite,
			Instruction: t.Instruction,
			StartStates: uint32(t.StartStates),
			MaxSteps:    uint32(t.MaxSteps),
			Tags:        t.Tags,
			Unavailable: t.Unavailable,
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) Reset(ctx context.Context, m *pb.ResetRequest) (*pb.StepReply, error) {
	run, err := s.base.Enter("Reset lane %d", m.Lane)
	if err != nil {
		return nil, err
	}
	defer run.Leave()
	t, err := s.impl.Reset(
		ctx,
		Reset{
			Lane:       int(m.Lane),
			Task:       m.Task,
			StartState: int(m.StartState),
			Seed:       m.Seed,
			MaxSteps:   int(m.MaxSteps),
			Render:     toRender(m.Render),
		},
	)
	if err != nil {
		return nil, plugins.AsError(err).WithPlace("task %s, start state %d", m.Task, m.StartState)
	}
	return s.reply(t, m.Grant)
}

func (s *server) Step(ctx context.Context, m *pb.StepRequest) (*pb.StepReply, error) {
	run, err := s.base.Enter("Step lane %d", m.Lane)
	if err != nil {
		return nil, err
	}
	defer run.Leave()
	t, err := s.step(ctx, m)
	if err != nil {
		return nil, err
	}
	return s.reply(t, m.Grant)
}

func (s *server) step(ctx context.Context, m *pb.StepRequest) (Transition, error) {
	if x := m.Expert; x != nil {
		return StepExpert(ctx, s.impl, ExpertStep{Lane: int(m.Lane), Steps: int(x.Steps), Noise: x.Noise,
			Failure: x.Failure, Render: toRender(m.Render)})
	}
	actions, err := wire.View(s.base.Arena(), m.Actions)
	if err != nil {
		return Transition{}, err
	}
	if err := actions.Check("actions", plugins.Float32, -1, -1); err != nil {
		e := plugins.AsError(err)
		e.Kind = plugins.Invalid
		return Transition{}, e
	}
	return s.impl.Step(ctx, Step{Lane: int(m.Lane), Actions: actions, Render: toRender(m.Render)})
}

func (s *server) reply(t Transition, grant *pb.Slot) (*pb.StepReply, error) {
	r, err := wire.Answer(s.base.Arena(), grant)
	if err != nil {
		return nil, err
	}
	m := &pb.StepReply{
		StepsDone:    uint32(t.StepsDone),
		EpisodeSteps: uint32(t.EpisodeSteps),
		Success:      t.Success,
		Terminated:   t.Terminated,
		Truncated:    t.Truncated,
		Progress:     t.Progress,
		Observation:  &pb.Observation{Instruction: t.Observation.Instruction},
	}
	if len(t.Observation.Images) > 0 {
		m.Observation.Images = make(map[string]*pb.Tensor, len(t.Observation.Images))
	}
	for name, img := range t.Observation.Images {
		if m.Observation.Images[name], err = r.Put(img); err != nil {
			return nil, err
		}
	}
	if m.Observation.Proprio, err = r.Put(t.Observation.Proprio); err != nil {
		return nil, err
	}
	if m.Recorded, err = r.Put(t.Recorded); err != nil {
		return nil, err
	}
	if m.Actions, err = r.Put(t.Actions); err != nil {
		return nil, err
	}
	m.Intended, err = r.Put(t.Intended)
	return m, err
}

func toRender(m *pb.Render) Render {
	return Render{Observe: m.GetObserve(), Record: m.GetRecord(), RecordEvery: int(m.GetRecordEvery())}
}
