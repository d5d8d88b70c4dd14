package policy

import (
	"context"
	"errors"
	"io"
	"iter"
	"math"

	"google.golang.org/grpc"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/internal/wire"
	pb "github.com/srpo-dev/srpo/plugins/proto/srpov1"
)

// Client is a [Policy], [Imitator] and [RunBeginner] in another process.
type Client struct {
	wire.Client
	rpc pb.PolicyPluginClient
}

var (
	_ Policy      = (*Client)(nil)
	_ Imitator    = (*Client)(nil)
	_ RunBeginner = (*Client)(nil)
)

// NewClient makes the client of a policy plugin over a connection. Without an arena, the messages carry the images.
func NewClient(cc grpc.ClientConnInterface, a *arena.Arena) *Client {
	return &Client{Client: wire.NewClient(cc, a), rpc: pb.NewPolicyPluginClient(cc)}
}

// Describe implements [Policy].
func (c *Client) Describe(ctx context.Context) (Spec, error) {
	m, err := wire.Do(ctx, c.rpc.DescribePolicy, &pb.DescribePolicyRequest{})
	if err != nil {
		return Spec{}, err
	}
	s := Spec{
		Cameras:     wire.ToCameraRequests(m.Cameras),
		Proprio:     m.Proprio,
		Action:      wire.ToActionSpace(m.Action),
		Chunk:       int(m.Chunk),
		Trainable:   m.Trainable,
		CanImitate:  m.CanImitate,
		Parameters:  int(min(m.Parameters, math.MaxInt64)),
		MaxBatch:    int(m.MaxBatch),
		WeighsSteps: m.WeighsSteps,
	}
	if s.Chunk < 1 || s.Chunk > 4096 || len(s.Cameras) > 64 {
		return s, plugins.Errorf(plugins.Corrupt, "the policy describes chunks of %d actions and %d cameras", s.Chunk,
			len(s.Cameras))
	}
	if s.Action.Dim() > 0 {
		if err := s.Action.Check(); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Act implements [Policy].
func (c *Client) Act(ctx context.Context, a Act) ([]Result, error) {
	call := wire.Begin(c.Arena)
	defer call.Release()
	req := &pb.ActRequest{Greedy: a.Greedy, Temperature: a.Temperature, Record: a.Record}
	for _, it := range a.Items {
		o := &pb.Observation{Instruction: it.Observation.Instruction, Images: map[string]*pb.Tensor{}}
		var err error
		for name, img := range it.Observation.Images {
			if o.Images[name], err = call.Put(img); err != nil {
				return nil, err
			}
		}
		if o.Proprio, err = call.Put(it.Observation.Proprio); err != nil {
			return nil, err
		}
		req.Items = append(req.Items,
			&pb.ActItem{Trajectory: it.Trajectory, Step: uint32(it.Step), Seed: it.Seed, Observation: o})
	}
	m, err := wire.Do(ctx, c.rpc.Act, req)
	if err != nil {
		return nil, err
	}
	if len(m.Results) != len(a.Items) {
		return nil, plugins.Errorf(plugins.Corrupt, "the policy returned %d results for %d observations",
			len(m.Results), len(a.Items))
	}
	out := make([]Result, len(m.Results))
	for i, r := range m.Results {
		t, err := call.Read(r.Actions)
		if err == nil {
			err = t.Check("actions", plugins.Float32, -1, -1)
		}
		var lp plugins.Tensor
		if err == nil {
			lp, err = call.Read(r.LogProbs)
		}
		if err == nil && !lp.IsZero() {
			err = lp.Check("log_probs", plugins.Float32,
				-1) // the host compares their number with the actions, per episode
		}
		if err != nil {
			return nil, plugins.AsError(err).
				WithPlace("the policy's result for %s step %d", a.Items[i].Trajectory, a.Items[i].Step)
		}
		out[i] = Result{Actions: t, LogProbs: lp.Float32s()}
	}
	return out, nil
}

// Update implements [Policy].
func (c *Client) Update(ctx context.Context, u Update, progress func(float64)) (Statistics, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h := u.Hyperparameters
	req := &pb.UpdateRequest{
		UpdateId:    u.ID,
		Temperature: u.Temperature,
		Seed:        u.Seed,
		Hyperparameters: &pb.Hyperparameters{ClipLow: h.ClipLow,
			ClipHigh: h.ClipHigh, ClipDual: h.ClipDual, KlBeta: h.KLBeta, Epochs: uint32(h.Epochs),
			MiniBatch: uint32(h.MiniBatch)},
	}
	for _, t := range u.Trajectories {
		req.Trajectories = append(req.Trajectories,
			&pb.TrajectoryAdvantage{Trajectory: t.Trajectory, Advantages: t.Values, Steps: uint32(t.Steps)})
	}
	stream, err := c.rpc.Update(ctx, req)
	if err != nil {
		return Statistics{}, wire.FromStatus(err, nil)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return Statistics{}, plugins.Errorf(plugins.Corrupt, "the policy ended an update without statistics")
		}
		if err != nil {
			return Statistics{}, wire.FromStatus(err, stream.Trailer())
		}
		if m.Statistics == nil {
			if progress != nil {
				progress(m.Progress)
			}
			continue
		}
		s := m.Statistics
		return Statistics{
			Loss:           s.Loss,
			KL:             s.Kl,
			ClipFraction:   s.ClipFraction,
			GradNorm:       s.GradNorm,
			Entropy:        s.Entropy,
			FirstRatio:     s.FirstRatio,
			Samples:        int(min(s.Samples, math.MaxInt64)),
			Extra:          s.Extra,
			AlreadyApplied: m.AlreadyApplied,
		}, nil
	}
}

// Forget implements [Policy].
func (c *Client) Forget(ctx context.Context, trajectories []string) error {
	_, err := wire.Do(ctx, c.rpc.Forget, &pb.ForgetRequest{Trajectories: trajectories})
	return err
}

// Imitate implements [Imitator]. The messages carry the demonstrations, because the plugin keeps them longer than
// a slot of the arena lives.
func (c *Client) Imitate(ctx context.Context, im Imitate, demos iter.Seq2[Demonstration, error],
	progress func(done, loss float64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Imitate(ctx)
	if err != nil {
		return wire.FromStatus(err, nil)
	}
	bytes := wire.Begin(nil)
	send := func() error {
		header := &pb.ImitateHeader{UpdateId: im.ID, Seed: im.Seed, Steps: uint32(im.Steps)}
		if err := stream.Send(&pb.ImitateRequest{Message: &pb.ImitateRequest_Header{Header: header}}); err != nil {
			return err
		}
		for d, err := range demos {
			if err != nil {
				return err
			}
			m := &pb.Demonstration{
				Id:          d.ID,
				Instruction: d.Instruction,
				Success:     d.Success,
				Images:      map[string]*pb.Tensor{},
			}
			for name, img := range d.Images {
				if m.Images[name], err = bytes.Put(img); err != nil {
					return err
				}
			}
			if m.Proprio, err = bytes.Put(d.Proprio); err != nil {
				return err
			}
			if m.Actions, err = bytes.Put(d.Actions); err != nil {
				return err
			}
			if d.Weights != nil {
				if m.Weights, err = bytes.Put(plugins.Floats(d.Weights, len(d.Weights))); err != nil {
					return err
				}
			}
			message := &pb.ImitateRequest_Demonstration{Demonstration: m}
			if err := stream.Send(&pb.ImitateRequest{Message: message}); err != nil {
				return err
			}
		}
		return stream.CloseSend()
	}
	if err := send(); err != nil &&
		!errors.Is(err, io.EOF) { // io.EOF: the plugin ended the call, and Recv returns its error
		return plugins.AsError(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return plugins.Errorf(plugins.Corrupt, "the policy ended Imitate before it was done")
		}
		if err != nil {
			return wire.FromStatus(err, stream.Trailer())
		}
		if progress != nil {
			progress(m.Progress, m.Loss)
		}
		if m.Done {
			return nil
		}
	}
}

// Save implements [Policy].
func (c *Client) Save(ctx context.Context, folder string) error {
	_, err := wire.Do(ctx, c.rpc.Save, &pb.SaveRequest{Folder: folder})
	return err
}

// Load implements [Policy].
func (c *Client) Load(ctx context.Context, folder string) (uint64, error) {
	return c.load(ctx, &pb.LoadRequest{Folder: folder})
}

// BeginRun implements [RunBeginner].
func (c *Client) BeginRun(ctx context.Context, folder string) (uint64, error) {
	return c.load(ctx, &pb.LoadRequest{Folder: folder, Fresh: true})
}

func (c *Client) load(ctx context.Context, req *pb.LoadRequest) (uint64, error) {
	m, err := wire.Do(ctx, c.rpc.Load, req)
	if err != nil {
		return 0, err
	}
	return m.UpdateId, nil
}

func toObservation(s *wire.Server, m *pb.Observation) (env.Observation, error) {
	o := env.Observation{Instruction: m.GetInstruction(), Images: map[string]plugins.Tensor{}}
	var err error
	for name, img := range m.GetImages() {
		if o.Images[name], err = wire.View(s.Arena(), img); err != nil {
			return o, err
		}
		if err := o.Images[name].Check("the image of camera "+name, plugins.Uint8, -1, -1, 3); err != nil {
			return o, err
		}
	}
	o.Proprio, err = wire.View(s.Arena(), m.GetProprio())
	return o, err
}
