// Package generic is a pretrained encoder that needs nothing from the user: EfficientNet-Lite0, trained on
// ImageNet. Its weights come from a package of its Python environment. It is not a world model: it sees
// frames, not motion.
package generic

import (
	"embed"

	"github.com/srpo-dev/srpo/encoders/internal/frozen"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// Files is the plugin package, with plugin.toml at its root.
//
//go:embed plugin.toml requirements.txt make_model.py
var Files embed.FS

// New returns an encoder with the default settings. Configure loads the network.
func New() encoder.Encoder {
	return frozen.New(frozen.Network{
		Name: "generic", Version: "0.1.0", Family: "efficientnet", FrameWise: true, ModelEnv: "GENERIC_MODEL",
		Doc: "EfficientNet-Lite0 on single frames (ImageNet weights): its features, averaged over clip and picture.",
	})
}
