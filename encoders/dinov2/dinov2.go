// Package dinov2 encodes clips frame by frame with DINOv2 of any size, with or without registers (arXiv
// 2304.07193, 2309.16588). The vector of a clip is the mean over its frames of the class token, or of the
// mean of the patch tokens.
package dinov2

import (
	"embed"

	"github.com/srpo-dev/srpo/encoders/internal/frozen"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// Files is the plugin package, with plugin.toml at its root.
//
//go:embed plugin.toml requirements.txt requirements-gpu.txt
var Files embed.FS

// New returns an encoder with the default settings. Configure requires a model file and loads it.
func New() encoder.Encoder {
	return frozen.New(frozen.Network{
		Name: "dinov2", Version: "0.1.0", Family: "dinov2", FrameWise: true, Poolings: []string{"cls", "patches"},
		Doc: "DINOv2 on single frames: the class token or the mean of the patches, averaged over the clip.",
	})
}
