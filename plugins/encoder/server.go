package encoder

import (
	"context"
	"math"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/internal/wire"
	pb "github.com/srpo-dev/srpo/plugins/proto/srpov1"
)

// Plugin serves and dispenses an encoder through go-plugin. The plugin's process sets Impl, and the host sets Arena.
type Plugin struct {
	plugin.NetRPCUnsupportedPlugin
	Impl  Encoder
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
func Register(s grpc.ServiceRegistrar, impl Encoder) {
	base := wire.NewServer(impl, plugins.Encoder)
	pb.RegisterPluginServer(s, base)
	pb.RegisterEncoderPluginServer(s, &server{base: base, impl: impl})
}

type server struct {
	pb.UnimplementedEncoderPluginServer
	base *wire.Server
	impl Encoder
}

func (s *server) DescribeEncoder(ctx context.Context, _ *pb.DescribeEncoderRequest) (*pb.EncoderSpec, error) {
	d, err := s.impl.Describe(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.EncoderSpec{
		Dimension: uint32(d.Dimension),
		Frames:    uint32(d.Frames),
		Height:    uint32(d.Height),
		Width:     uint32(d.Width),
		Batch:     uint32(d.Batch),
		FrameWise: d.FrameWise,
		Model:     d.Model,
	}, nil
}

func (s *server) Encode(ctx context.Context, m *pb.EncodeRequest) (*pb.EncodeReply, error) {
	run, err := s.base.Enter("Encode %d clips", len(m.Clips))
	if err != nil {
		return nil, err
	}
	defer run.Leave()
	ctx = context.WithValue(ctx, progressKey{}, run.Progress)
	clips := make([]plugins.Tensor, len(m.Clips))
	for i := range clips {
		if clips[i], err = s.clip(m.Clips[i]); err != nil {
			return nil, plugins.AsError(err).WithPlace("clip %d", i)
		}
	}
	out, err := s.impl.Encode(ctx, clips)
	if err != nil {
		return nil, err
	}
	return s.reply(out, len(clips))
}

func (s *server) EncodeWindows(ctx context.Context, m *pb.EncodeWindowsRequest) (*pb.EncodeReply, error) {
	run, err := s.base.Enter("EncodeWindows %d ends", len(m.Ends))
	if err != nil {
		return nil, err
	}
	defer run.Leave()
	ctx = context.WithValue(ctx, progressKey{}, run.Progress)
	clip, err := s.clip(m.Clip)
	if err != nil {
		return nil, err
	}
	ends := make([]int, len(m.Ends))
	for i, e := range m.Ends {
		if ends[i] = int(e); ends[i] < 1 || ends[i] > clip.Shape[0] {
			return nil, plugins.Errorf(plugins.Invalid, "window %d ends at frame %d of %d", i, ends[i], clip.Shape[0])
		}
	}
	if w, ok := s.impl.(Windower); ok {
		out, err := w.EncodeWindows(ctx, clip, ends)
		if err != nil {
			return nil, err
		}
		return s.reply(out, len(ends))
	}
	frame := len(clip.Data) / clip.Shape[0]
	var out [][]float32
	for _, e := range ends { // one at a time, because one clip can fill the memory of a world model
		window := plugins.Bytes(clip.Data[:e*frame], append([]int{e}, clip.Shape[1:]...)...)
		one, err := s.impl.Encode(ctx, []plugins.Tensor{window})
		if err != nil {
			return nil, err
		}
		out = append(out, one...)
		run.Progress()
	}
	return s.reply(out, len(ends))
}

func (s *server) clip(m *pb.Tensor) (plugins.Tensor, error) {
	t, err := wire.View(s.base.Arena(), m)
	if err != nil {
		return t, err
	}
	if err := t.Check("clip", plugins.Uint8, -1, -1, -1, 3); err != nil {
		return t, err
	}
	if t.Shape[0] < 1 {
		return t, plugins.Errorf(plugins.Invalid, "the clip has no frames")
	}
	return t, nil
}

// reply packs n rows. A row of another length becomes NaN, which the host counts as unusable.
func (s *server) reply(rows [][]float32, n int) (*pb.EncodeReply, error) {
	if len(rows) != n {
		return nil, plugins.Errorf(plugins.Internal, "the encoder returned %d vectors for %d clips", len(rows), n)
	}
	d := 0
	for _, r := range rows {
		d = max(d, len(r))
	}
	flat := make([]float32, 0, n*d)
	for _, r := range rows {
		if len(r) != d {
			r = make([]float32, d)
			for j := range r {
				r[j] = float32(math.NaN())
			}
		}
		flat = append(flat, r...)
	}
	answer, err := wire.Answer(s.base.Arena(), nil)
	if err != nil {
		return nil, err
	}
	t, err := answer.Put(plugins.Floats(flat, n, d))
	return &pb.EncodeReply{Embeddings: t}, err
}
