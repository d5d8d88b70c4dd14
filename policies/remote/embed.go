// Package remote contains the Python package of the plugin remote, a client of policy servers, so that the srpo
// binary can unpack it into the user's cache.
package remote

import "embed"

// Files is the plugin's package: plugin.toml at its root.
//
//go:embed plugin.toml requirements.txt *.py
var Files embed.FS
