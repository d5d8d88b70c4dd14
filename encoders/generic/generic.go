// Package generic is a real pretrained encoder that needs nothing from the user: EfficientNet-Lite0, trained on ImageNet, whose weights a package of its
// environment carries. It is no world model: it sees frames, not motion.
package generic

import (
	"embed"

	"github.com/srpo-dev/srpo/encoders/internal/frozen"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// Files is the package: plugin.toml at its root.
//
//go:embed plugin.toml requirements.txt make_model.py
var Files embed.FS

// New makes an encoder with the default settings; Configure may change them, and loads the network.
func New() encoder.Encoder {
	return frozen.New(frozen.Network{Name: "generic", Version: "0.1.0", Family: "efficientnet", FrameWise: true, Made: "GENERIC_MODEL",
		Doc: "EfficientNet-Lite0 on single frames (ImageNet weights), the mean of its features over clip and picture."})
}
