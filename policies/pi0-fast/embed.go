// Package pi0fast carries the pi0-fast plugin, a Python package, so that the srpo binary can unpack it into the
// user's cache.
package pi0fast

import (
	"embed"
	"io/fs"

	"github.com/srpo-dev/srpo/policies/internal/vla"
	vlalerobot "github.com/srpo-dev/srpo/policies/internal/vla_lerobot"
)

// Files is the plugin's own folder: plugin.toml at its root.
//
//go:embed plugin.toml requirements.txt *.py
var Files embed.FS

// Shared are the Python packages that the plugin imports, by name.
var Shared = map[string]fs.FS{"vla": vla.Files, "vla_lerobot": vlalerobot.Files}
