package serve

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/srpo-dev/srpo/plugins"
)

// Heartbeat starts a goroutine that writes one byte at a time into the pipe that [plugins.HeartbeatEnv] names. A
// host that has received heartbeats and receives none during a call knows that the process is stopped, however
// long the call may take. Without the variable, Heartbeat does nothing.
func Heartbeat() {
	var fd, every int
	_, err := fmt.Sscanf(os.Getenv(plugins.HeartbeatEnv), "%d,%d", &fd, &every)
	if err != nil || fd < 3 || every < 1 {
		return
	}
	_ = os.Unsetenv(plugins.HeartbeatEnv) // the descriptor means something else in a child process
	syscall.CloseOnExec(fd)
	if syscall.SetNonblock(fd, true) != nil { // a host that does not read must not block the plugin
		return
	}
	go func() {
		for {
			if _, err := syscall.Write(fd, []byte{1}); err != nil && !errors.Is(err, syscall.EAGAIN) &&
				!errors.Is(err, syscall.EINTR) {
				return // the host is gone
			}
			time.Sleep(time.Duration(every) * time.Millisecond)
		}
	}()
}
