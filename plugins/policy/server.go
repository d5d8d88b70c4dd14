package policy

import (
	"context"
	"errors"
	"io"
	"math"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/internal/wire"
	pb "github.com/srpo-dev/srpo/plugins/proto/srpov1"
)

// Plugin serves and dispenses a policy through go-plugin. The plugin's process sets Impl, and the host sets Arena.
type Plugin struct {
	plugin.NetRPCUnsupportedPlugin
	Impl  Policy
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
func Register(s grpc.ServiceRegistrar, impl Policy) {
	base := wire.NewServer(impl, plugins.Policy)
	pb.RegisterPluginServer(s, base)
	pb.RegisterPolicyPluginServer(s, &server{base: base, impl: impl})
}

type server struct {
	pb.UnimplementedPolicyPluginServer
	base *wire.Server
	impl Policy
}

func (s *server) DescribePolicy(ctx context.Context, _ *pb.DescribePolicyRequest) (*pb.PolicySpec, error) {
	d, err := s.impl.Describe(ctx)
	if err != nil {
		return nil, err
	}
	_, imitates := s.impl.(Imitator)
	return &pb.PolicySpec{
		Cameras:     wire.FromCameraRequests(d.Cameras),
		Proprio:     d.Proprio,
		Action:      wire.FromActionSpace(d.Action),
		Chunk:       uint32(d.Chunk),
		Trainable:   d.Trainable,
		CanImitate:  d.CanImitate && imitates,
		Parameters:  uint64(d.Parameters),
		MaxBatch:    uint32(d.MaxBatch),
		WeighsSteps: d.WeighsSteps && imitates,
	}, nil
}

func (s *server) Act(ctx context.Context, m *pb.ActRequest) (*pb.ActReply, error) {
	run, err := s.base.Enter("Act on %d observations", len(m.Items))
	if err != nil {
		return nil, err
	}
	defer run.Leave()
	a := Act{Greedy: m.Greedy, Temperature: m.Temperature, Record: m.Record, Items: make([]Item, len(m.Items))}
	for i, it := range m.Items {
		o, err := toObservation(s.base, it.Observation)
		if err != nil {
			return nil, plugins.AsError(err).WithPlace("%s step %d", it.Trajectory, it.Step)
		}
		a.Items[i] = Item{Trajectory: it.Trajectory, Step: int(it.Step), Seed: it.Seed, Observation: o}
	}
	results, err := s.impl.Act(ctx, a)
	if err != nil {
		return nil, err
	}
	answer, err := wire.Answer(s.base.Arena(), nil)
	if err != nil {
		return nil, err
	}
	reply := &pb.ActReply{}
	for _, r := range results {
		w := &pb.ActResult{}
		if w.Actions, err = answer.Put(r.Actions); err != nil {
			return nil, err
		}
		if r.LogProbs != nil {
			if w.LogProbs, err = answer.Put(plugins.Floats(r.LogProbs)); err != nil {
				return nil, err
			}
		}
		reply.Results = append(reply.Results, w)
	}
	return reply, nil
}

func (s *server) Update(m *pb.UpdateRequest, stream grpc.ServerStreamingServer[pb.UpdateReply]) error {
	run, err := s.base.Enter("Update %d", m.UpdateId)
	if err != nil {
		return err
	}
	defer run.Leave()
	h := m.GetHyperparameters()
	u := Update{
		ID:          m.UpdateId,
		Temperature: m.Temperature,
		Seed:        m.Seed,
		Hyperparameters: Hyperparameters{ClipLow: h.GetClipLow(), ClipHigh: h.GetClipHigh(),
			ClipDual: h.GetClipDual(), KLBeta: h.GetKlBeta(), Epochs: int(h.GetEpochs()),
			MiniBatch: int(h.GetMiniBatch())},
	}
	for _, t := range m.Trajectories {
		u.Trajectories = append(u.Trajectories,
			Advantage{Trajectory: t.Trajectory, Values: t.Advantages, Steps: int(t.Steps)})
	}
	st, err := s.impl.Update(stream.Context(), u, func(done float64) {
		run.Progress()
		_ = stream.Send(&pb.UpdateReply{Progress: done}) // the context ends if the host is gone
	})
	if err != nil {
		return err
	}
	return stream.Send(
		&pb.UpdateReply{
			Progress:       1,
			AlreadyApplied: st.AlreadyApplied,
			Statistics: &pb.UpdateStatistics{Loss: st.Loss, Kl: st.KL,
				ClipFraction: st.ClipFraction, GradNorm: st.GradNorm, Entropy: st.Entropy, FirstRatio: st.FirstRatio,
				Samples: uint64(st.Samples), Extra: st.Extra},
		},
	)
}

func (s *server) Forget(ctx context.Context, m *pb.ForgetRequest) (*pb.ForgetReply, error) {
	return &pb.ForgetReply{}, s.impl.Forget(ctx, m.Trajectories)
}

func (s *server) Imitate(stream grpc.BidiStreamingServer[pb.ImitateRequest, pb.ImitateReply]) error {
	im, ok := s.impl.(Imitator)
	if !ok {
		return plugins.Errorf(plugins.Unsupported, "this policy does not learn from demonstrations").
			WithHint("give a trained checkpoint: --checkpoint FOLDER")
	}
	run, err := s.base.Enter("Imitate")
	if err != nil {
		return err
	}
	defer run.Leave()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.GetHeader()
	if h == nil {
		return plugins.Errorf(plugins.Invalid, "Imitate begins with a demonstration instead of the header")
	}
	demos := func(yield func(Demonstration, error) bool) {
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Demonstration{}, err)
				return
			}
			d, err := s.demonstration(m.GetDemonstration())
			if !yield(d, err) || err != nil {
				return
			}
			run.Progress()
		}
	}
	last := 0.0
	err = im.Imitate(
		stream.Context(),
		Imitate{ID: h.UpdateId, Seed: h.Seed, Steps: int(h.Steps)},
		demos,
		func(done, loss float64) {
			run.Progress()
			last = loss
			_ = stream.Send(&pb.ImitateReply{Progress: done, Loss: loss})
		},
	)
	if err != nil {
		return err
	}
	return stream.Send(&pb.ImitateReply{Progress: 1, Loss: last, Done: true})
}

func (s *server) demonstration(m *pb.Demonstration) (Demonstration, error) {
	d := Demonstration{
		ID:          m.GetId(),
		Instruction: m.GetInstruction(),
		Success:     m.GetSuccess(),
		Images:      map[string]plugins.Tensor{},
	}
	fail := func(err error) (Demonstration, error) {
		return d, plugins.AsError(err).WithPlace("demonstration %s", d.ID)
	}
	var err error
	if d.Actions, err = wire.View(s.base.Arena(), m.GetActions()); err != nil {
		return fail(err)
	}
	if err := d.Actions.Check("actions", plugins.Float32, -1, -1); err != nil {
		return fail(err)
	}
	steps := d.Actions.Shape[0]
	for name, img := range m.GetImages() {
		x, err := wire.View(s.base.Arena(), img)
		if err == nil {
			err = x.Check("the images of camera "+name, plugins.Uint8, steps, -1, -1, 3)
		}
		if err != nil {
			return fail(err)
		}
		d.Images[name] = x
	}
	if d.Proprio, err = wire.View(s.base.Arena(), m.GetProprio()); err != nil {
		return fail(err)
	}
	if !d.Proprio.IsZero() {
		if err := d.Proprio.Check("proprio", plugins.Float32, steps, -1); err != nil {
			return fail(err)
		}
	}
	if m.GetWeights() != nil {
		w, err := wire.View(s.base.Arena(), m.GetWeights())
		if err == nil {
			err = w.Check("weights", plugins.Float32, steps)
		}
		if err != nil {
			return fail(err)
		}
		d.Weights = w.Float32s()
		for t, v := range d.Weights {
			if f := float64(v); !(f >= 0) || math.IsInf(f, 0) {
				return fail(
					plugins.Errorf(plugins.Invalid, "the weight of step %d is %v", t, v).
						WithHint("use finite weights of 0 or more"),
				)
			}
		}
	}
	return d, nil
}

func (s *server) Save(ctx context.Context, m *pb.SaveRequest) (*pb.SaveReply, error) {
	run, err := s.base.Enter("Save")
	if err != nil {
		return nil, err
	}
	defer run.Leave()
	return &pb.SaveReply{}, s.impl.Save(ctx, m.Folder)
}

func (s *server) Load(ctx context.Context, m *pb.LoadRequest) (*pb.LoadReply, error) {
	run, err := s.base.Enter("Load")
	if err != nil {
		return nil, err
	}
	defer run.Leave()
	var id uint64
	if m.Fresh {
		id, err = BeginRun(ctx, s.impl, m.Folder)
	} else {
		id, err = s.impl.Load(ctx, m.Folder)
	}
	return &pb.LoadReply{UpdateId: id}, err
}
