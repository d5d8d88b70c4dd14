// Package pi0fast carries the pi0-fast plugin's own files. The package that the srpo binary unpacks holds those of pi0.Shared and openvla.Shared beside them.
package pi0fast

import "embed"

// Files are the plugin's own: plugin.toml at the root.
//
//go:embed plugin.toml requirements.txt *.py
var Files embed.FS
