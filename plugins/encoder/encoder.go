// Package encoder is the contract of encoders: frozen networks that turn a clip of frames into one vector.
package encoder

import (
	"context"

	"github.com/srpo-dev/srpo/plugins"
)

// Encoder embeds clips. A clip that cannot be embedded gets a row of NaN, never an error for the others.
type Encoder interface {
	plugins.Plugin
	Describe(ctx context.Context) (Spec, error)
	// Encode returns one vector of Spec.Dimension for each clip, uint8 [T, H, W, 3] with T >= 1.
	Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error)
}

// Windower is an encoder that can embed clip[:end] for several ends more cheaply than one by one. Without it the server calls Encode.
type Windower interface {
	EncodeWindows(ctx context.Context, clip plugins.Tensor, ends []int) ([][]float32, error)
}

// Spec is what an encoder says of itself.
type Spec struct {
	// Dimension is the length of the vector.
	Dimension int
	// Frames it samples from a clip; 0: it uses all.
	Frames int
	// Height and Width it resizes to; 0: any.
	Height, Width int
	// Batch is how many clips it likes to get at once; 0: any.
	Batch int
	// FrameWise says that it encodes frame by frame, so that windows cost no more than the clip.
	FrameWise bool
	// Model names what the vectors come from, e.g. by a hash over the weights: with the same version, settings and model, the same clip gives the same
	// vector. Empty: version and settings say it all.
	Model string
}

// headwayKey is where a served call's context has the function that notes its headway.
type headwayKey struct{}

// ReportProgress notes that the call whose context this is came further, so that the host's deadline for it, [host] encode_timeout_s, begins anew. Call it after
// each run of the network. On a context of no served call it does nothing.
func ReportProgress(ctx context.Context) {
	if note, ok := ctx.Value(headwayKey{}).(func()); ok {
		note()
	}
}
