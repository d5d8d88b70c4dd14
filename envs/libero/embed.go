// Package libero carries the LIBERO plugin, a Python package, so that the srpo binary can unpack it into the user's cache.
package libero

import "embed"

// Files is the plugin's package: plugin.toml at its root.
//
//go:embed plugin.toml requirements.txt *.py
var Files embed.FS

// Shared are the modules that plugins of other benchmarks on LIBERO's scenes are made of, too: whoever serves them puts these files beside their own.
//
//go:embed expert.py failing.py fast_step.py lane.py locations.py osc_kernel.py pick_place.py render.py scene.py soft_reset.py task_table.py
var Shared embed.FS
