// Package pythonsdk carries the Python package srpo_sdk, so that one srpo binary is all that a plugin's author or user needs: the host writes it out and
// puts it on PYTHONPATH.
package pythonsdk

import "embed"

// Files holds the folder srpo_sdk: its modules and the generated messages, without tests.
//
//go:embed srpo_sdk/*.py srpo_sdk/_proto/*.py
var Files embed.FS
