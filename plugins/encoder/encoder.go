// Package encoder is the contract of encoders: frozen networks that turn a clip of frames into one vector.
package encoder

import (
	"context"

	"github.com/srpo-dev/srpo/plugins"
)

// Encoder embeds clips. A clip that cannot be embedded gets a vector of NaN, so that the others are not lost.
type Encoder interface {
	plugins.Plugin
	// Describe returns the length of the vectors and what the encoder reads.
	Describe(ctx context.Context) (Spec, error)
	// Encode returns one vector of Spec.Dimension numbers per clip, uint8 [T, H, W, 3] with T >= 1. The vector of
	// a clip does not depend on the other clips.
	Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error)
}

// Windower is an encoder that embeds clip[:end] for several ends at less cost than one by one. For other encoders
// the server calls Encode.
type Windower interface {
	// EncodeWindows returns one vector per end, where 1 <= end <= T.
	EncodeWindows(ctx context.Context, clip plugins.Tensor, ends []int) ([][]float32, error)
}

// Spec describes an encoder.
type Spec struct {
	// Dimension is the length of a vector.
	Dimension int
	// Frames is the number of frames that the encoder samples from a clip. 0 means all.
	Frames int
	// Height and Width are the size to which the encoder resizes frames. 0 means that it does not.
	Height, Width int
	// Batch is the preferred number of clips per call. 0 means any number.
	Batch int
	// FrameWise reports whether the encoder encodes frame by frame, so that windows cost no more than the clip.
	FrameWise bool
	// Model identifies the weights, e.g. by a hash. The same version, settings and model give the same vector for
	// the same clip. It is "" if version and settings determine the vectors.
	Model string
}

// progressKey is the key of the function that records progress, in the context of a served call.
type progressKey struct{}

// ReportProgress restarts the host's deadline for the call with this context, [host] encode_timeout_s. Call it
// after each run of the network. It does nothing on a context that is not of a served call.
func ReportProgress(ctx context.Context) {
	if record, ok := ctx.Value(progressKey{}).(func()); ok {
		record()
	}
}
