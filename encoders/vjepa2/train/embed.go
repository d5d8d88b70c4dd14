// Package train embeds the Python program behind `srpo encoder train`, which runs in the environment of
// encoders/export.
package train

import "embed"

// Files is the program, with train.py at its root. It imports modules of encoders/export.
//
//go:embed train.py jepa.py
var Files embed.FS
