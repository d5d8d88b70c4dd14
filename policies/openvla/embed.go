// Package openvla carries the OpenVLA plugin, a Python package, so that the srpo binary can unpack it into the user's cache.
package openvla

import "embed"

// Files is the plugin's package: plugin.toml at its root.
//
//go:embed plugin.toml requirements.txt *.py
var Files embed.FS

// Shared are the modules that other policies are made of, too: whoever serves them puts these files beside their own.
//
//go:embed crew.py learner.py learning.py lora.py optimiser.py saved.py sharding.py
var Shared embed.FS
