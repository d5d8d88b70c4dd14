// Package remote carries the plugin for policies on a server, a Python package, so that the srpo binary can unpack it
// into the user's cache.
package remote

import "embed"

// Files is the plugin's package: plugin.toml at its root.
//
//go:embed plugin.toml requirements.txt *.py
var Files embed.FS
