// Package dinov2 encodes clips with a DINOv2 of any size, with registers or without (arXiv 2304.07193, 2309.16588), frame by frame: one vector is the mean
// over the frames of the class token, or of the mean of the patch tokens.
package dinov2

import (
	"embed"

	"github.com/srpo-dev/srpo/encoders/internal/frozen"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// Files is the package: plugin.toml at its root.
//
//go:embed plugin.toml requirements.txt requirements-gpu.txt
var Files embed.FS

// New makes an encoder with the default settings; Configure wants a model file, and loads it.
func New() encoder.Encoder {
	return frozen.New(frozen.Network{Name: "dinov2", Version: "0.1.0", Family: "dinov2", FrameWise: true, Poolings: []string{"cls", "patches"},
		Doc: "DINOv2 on single frames, the mean over the clip of the class token or of the patches."})
}
