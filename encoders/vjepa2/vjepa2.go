// Package vjepa2 encodes clips with a V-JEPA 2 of any size: the world model of the paper (arXiv 2511.15605, 2506.09985). One vector is the mean over all
// tokens of the encoder's last layer.
package vjepa2

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
	return frozen.New(frozen.Network{Name: "vjepa2", Version: "0.1.0", Family: "vjepa2",
		Doc: "V-JEPA 2 on clips, the mean over its tokens; frames, sizes and preprocessing are those of the model file."})
}
