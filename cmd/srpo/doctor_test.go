package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestProbeEnds checks that a probe that hangs ends at its deadline, with its child processes.
func TestProbeEnds(t *testing.T) {
	long := probeTime
	probeTime = 500 * time.Millisecond
	t.Cleanup(func() { probeTime = long })
	mark := filepath.Join(t.TempDir(), "child")
	_, err := output(t.Context(), os.Environ(), "sh", "-c", "sleep 300 & echo $! > "+mark+"; wait")
	require.EqualError(t, err, "it did not finish within 500ms")
	pid, err := os.ReadFile(mark)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, 10*time.Second, 10*time.Millisecond)

	_, err = output(t.Context(), nil, "sh", "-c", "echo working >&2; echo libEGL: no display >&2; exit 3")
	require.EqualError(t, err, "libEGL: no display", "the last line of stderr")
}

// Doctor and the LIBERO plugins choose the EGL device with the same code, which runs before the drawing.
func TestDoctorChoosesTheDeviceAsThePlugin(t *testing.T) {
	python := filepath.Join(t.TempDir(), "python")
	require.NoError(t, os.WriteFile(python, []byte("#!/bin/sh\necho \"$CUDA_VISIBLE_DEVICES\"\necho \"$3\"\n"), 0o755))
	out, err := drawTriangle(t.Context(), []string{"CUDA_VISIBLE_DEVICES=GPU-8932f937"}, python)
	require.NoError(t, err)
	require.Regexp(t, "(?s)^GPU-8932f937\n.*\ndef prepare\\(\\).*\n    device = prepare\\(\\)", string(out))
}
