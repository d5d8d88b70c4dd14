//go:build !faults

package fault

import "syscall"

// On reports whether this build follows fault plans.
const On = false

// Point is a point at which the host may be killed.
func Point(string) {}

// Torn reports whether the write at this point must be cut in the middle. The caller then writes half and calls
// Die.
func Torn(string) bool { return false }

// Die ends the process as SIGKILL does.
func Die() {}

// Call is a point around a call to a plugin. The plan may kill the plugin, with signal, or the host before, during
// or after the call. The caller calls the returned function at the end of the call.
func Call(_ string, _ func(syscall.Signal)) func() { return func() {} }
