// Package libero carries the LIBERO plugin, a Python package, so that the srpo binary can unpack it into the user's
// cache.
package libero

import (
	"embed"
	"io/fs"

	liberosim "github.com/srpo-dev/srpo/envs/internal/libero_sim"
)

// Files is the plugin's own folder: plugin.toml at its root.
//
//go:embed plugin.toml requirements.txt *.py
var Files embed.FS

// Shared are the Python packages that the plugin imports, by name.
var Shared = map[string]fs.FS{"libero_sim": liberosim.Files}
