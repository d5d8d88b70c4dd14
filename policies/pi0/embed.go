// Package pi0 carries the pi0 plugin's own files. The package that the srpo binary unpacks holds those of openvla.Shared beside them.
package pi0

import "embed"

// Files are the plugin's own: plugin.toml at the root.
//
//go:embed plugin.toml requirements.txt *.py
var Files embed.FS

// Shared are the modules that pi0-fast is made of, too: whoever serves it puts these files beside its own.
//
//go:embed checkpoint.py imitation.py normalise.py pi_network.py pi_policy.py pi_settings.py sizes.py stand_ins.py tiny.py
var Shared embed.FS
