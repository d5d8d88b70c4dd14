package main

import (
	"fmt"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRunningProcesses checks that a running child process is listed, and a killed one is not, even before it is waited
// for.
func TestRunningProcesses(t *testing.T) {
	child := exec.Command("sleep", "60")
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, child.Start())
	group := child.Process.Pid
	require.Equal(t, []string{fmt.Sprintf("%d sleep", group)}, runningProcesses(group))
	require.NoError(t, child.Process.Kill())
	require.Eventually(t, func() bool { return len(runningProcesses(group)) == 0 }, 10*time.Second, 5*time.Millisecond)
	require.Error(t, child.Wait(), "it was killed")
	require.Empty(t, runningProcesses(group))
}
