// Package liberoplus carries the LIBERO-Plus plugin's own files. The package that the srpo binary unpacks holds those of libero.Shared beside them.
package liberoplus

import "embed"

// Files are the plugin's own: plugin.toml at the root.
//
//go:embed plugin.toml requirements.txt levels.txt *.py
var Files embed.FS
