// Package export carries the program behind `srpo encoder export`, Python in an environment of its own, and reads the
// cards of the models that it makes.
package export

import "embed"

// Files is the program: export.py at its root, and requirements.txt of its environment.
//
//go:embed requirements.txt export.py checkpoint.py network.py graph.py clips.py talk.py episodes/*.npz
var Files embed.FS

// Python is the version that requirements.txt is locked for; DownloadMB and DiskMB are what its environment takes:
// torch brings CUDA along.
const (
	Python     = "3.11"
	DownloadMB = 2960
	DiskMB     = 5750
)

// Families are the encoders whose checkpoints can be exported, with the files that such a checkpoint has and its
// model_types in config.json.
var Families = map[string]struct{ Files, ModelTypes []string }{
	"vjepa2": {[]string{"config.json", "model.safetensors", "video_preprocessor_config.json"}, []string{"vjepa2"}},
	"dinov2": {
		[]string{
			"config.json", "model.safetensors", "preprocessor_config.json",
		}, []string{"dinov2", "dinov2_with_registers"},
	},
}
