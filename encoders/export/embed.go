// Package export embeds the Python program behind `srpo encoder export`, which runs in a Python environment
// of its own, and reads the cards of the models that it exports.
package export

import (
	"embed"
	"strings"
)

// Files is the program, with export.py and the requirements.txt of its environment at its root.
//
//go:embed requirements.txt export.py checkpoint.py network.py graph.py clips.py talk.py networks.json episodes/*.npz
var Files embed.FS

// Requirements of the Python environment. requirements.txt is locked for the version Python. The sizes include CUDA,
// which torch depends on.
const (
	Python     = "3.11"
	DownloadMB = 2960
	DiskMB     = 5750
)

// Families are the encoders whose checkpoints can be exported, with the files of a checkpoint and the values of
// model_type in its config.json.
var Families = map[string]struct{ Files, ModelTypes []string }{
	"vjepa2": {
		Files:      []string{"config.json", "model.safetensors", "video_preprocessor_config.json"},
		ModelTypes: []string{"vjepa2"},
	},
	"dinov2": {
		Files:      []string{"config.json", "model.safetensors", "preprocessor_config.json"},
		ModelTypes: []string{"dinov2", "dinov2_with_registers"},
	},
}

// FilesOf lists the files of a checkpoint for a sentence: "a, b and c". family is a key of [Families].
func FilesOf(family string) string {
	files := Families[family].Files
	last := len(files) - 1
	return strings.Join(files[:last], ", ") + " and " + files[last]
}
