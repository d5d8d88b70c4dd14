package main

import (
	"fmt"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A child that a plugin leaves behind is named; one that has been killed is gone, also before anybody has waited for it.
func TestLiving(t *testing.T) {
	child := exec.Command("sleep", "60")
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, child.Start())
	group := child.Process.Pid
	require.Equal(t, []string{fmt.Sprintf("%d sleep", group)}, living(group))
	require.NoError(t, child.Process.Kill())
	require.Eventually(t, func() bool { return len(living(group)) == 0 }, 10*time.Second, 5*time.Millisecond)
	require.Error(t, child.Wait(), "it was killed")
	require.Empty(t, living(group))
}
