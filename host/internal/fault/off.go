//go:build !faults

package fault

import "syscall"

// On reports whether this build follows fault plans.
const On = false

// Point is a point at which the host may be killed.
func Point(string) {}

// Torn says whether the write at this point is to be cut in the middle; who asks then writes half and calls
// Die.
func Torn(string) bool { return false }

// Die ends the process as SIGKILL does.
func Die() {}

// Call is a call to a plugin, during which or around which the plugin, which signal reaches, or the host
// may be killed. The function that it returns is to be called at the call's end.
func Call(_ string, _ func(syscall.Signal)) func() { return func() {} }
