// Package liberosim carries the Python package libero_sim, which the plugins libero and libero-plus share.
package liberosim

import "embed"

// Files is the Python package, without the modules for tests.
//
//go:embed *.py
var Files embed.FS
