// Package train carries the program behind `srpo encoder train`, Python that runs in the environment of
// encoders/export.
package train

import "embed"

// Files is the program: train.py at its root. It imports modules of encoders/export.
//
//go:embed train.py jepa.py
var Files embed.FS
