package encoder

import (
	"context"

	"google.golang.org/grpc"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/internal/wire"
	pb "github.com/srpo-dev/srpo/plugins/proto/srpov1"
)

// maxDimension bounds the length of a vector.
const maxDimension = 1 << 20

// Client is an [Encoder] and [Windower] in another process.
type Client struct {
	wire.Client
	rpc pb.EncoderPluginClient
}

var (
	_ Encoder  = (*Client)(nil)
	_ Windower = (*Client)(nil)
)

// NewClient makes the client of an encoder plugin over a connection. Without an arena, the messages carry the clips.
func NewClient(cc grpc.ClientConnInterface, a *arena.Arena) *Client {
	return &Client{Client: wire.NewClient(cc, a), rpc: pb.NewEncoderPluginClient(cc)}
}

// Describe implements [Encoder].
func (c *Client) Describe(ctx context.Context) (Spec, error) {
	m, err := wire.Do(ctx, c.rpc.DescribeEncoder, &pb.DescribeEncoderRequest{})
	if err != nil {
		return Spec{}, err
	}
	s := Spec{
		Dimension: int(m.Dimension),
		Frames:    int(m.Frames),
		Height:    int(m.Height),
		Width:     int(m.Width),
		Batch:     int(m.Batch),
		FrameWise: m.FrameWise,
		Model:     wire.Text(m.Model),
	}
	if s.Dimension < 1 || s.Dimension > maxDimension {
		return s, plugins.Errorf(plugins.Corrupt, "the encoder describes vectors of %d numbers", s.Dimension)
	}
	return s, nil
}

// Encode implements [Encoder].
func (c *Client) Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error) {
	call := wire.Begin(c.Arena)
	defer call.Release()
	req := &pb.EncodeRequest{}
	for _, clip := range clips {
		m, err := call.Put(clip)
		if err != nil {
			return nil, err
		}
		req.Clips = append(req.Clips, m)
	}
	m, err := wire.Do(ctx, c.rpc.Encode, req)
	if err != nil {
		return nil, err
	}
	return rows(call, m, len(clips))
}

// EncodeWindows implements [Windower].
func (c *Client) EncodeWindows(ctx context.Context, clip plugins.Tensor, ends []int) ([][]float32, error) {
	call := wire.Begin(c.Arena)
	defer call.Release()
	req := &pb.EncodeWindowsRequest{}
	var err error
	if req.Clip, err = call.Put(clip); err != nil {
		return nil, err
	}
	for _, e := range ends {
		req.Ends = append(req.Ends, uint32(e))
	}
	m, err := wire.Do(ctx, c.rpc.EncodeWindows, req)
	if err != nil {
		return nil, err
	}
	return rows(call, m, len(ends))
}

func rows(call *wire.Call, m *pb.EncodeReply, n int) ([][]float32, error) {
	t, err := call.Read(m.Embeddings)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, nil
	}
	if err := t.Check("the encoder's reply", plugins.Float32, n, -1); err != nil {
		return nil, err
	}
	v, d := t.Float32s(), t.Shape[1]
	out := make([][]float32, n)
	for i := range out {
		out[i] = v[i*d : (i+1)*d : (i+1)*d]
	}
	return out, nil
}
