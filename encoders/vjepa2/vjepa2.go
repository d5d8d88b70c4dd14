// Package vjepa2 encodes clips with V-JEPA 2 of any size (arXiv 2506.09985), the world model of the SRPO
// paper (arXiv 2511.15605). The vector of a clip is the mean over all tokens of the encoder's last layer.
package vjepa2

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
		Name: "vjepa2", Version: "0.1.0", Family: "vjepa2",
		Doc: "V-JEPA 2 on clips: the mean over its tokens. The model file specifies frames, sizes and preprocessing.",
	})
}
