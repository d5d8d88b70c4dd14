// Package pythonsdk contains the Python package srpo_sdk, so that a plugin's author or user needs only the srpo
// binary. The host unpacks it and puts it on PYTHONPATH.
package pythonsdk

import "embed"

// Files contains the folder srpo_sdk with its modules and the generated messages, without tests and type stubs.
//
//go:embed srpo_sdk/*.py srpo_sdk/_proto/*.py
var Files embed.FS
