package serve

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/srpo-dev/srpo/plugins"
)

// Heartbeat tells the host from now on that this process lives, from a goroutine of its own: one byte into the pipe that [plugins.HeartbeatEnv] names. A host
// that is used to it and hears nothing in a call knows that the process is stopped, however long the call may take. Without the variable it does nothing.
func Heartbeat() {
	var fd, every int
	_, err := fmt.Sscanf(os.Getenv(plugins.HeartbeatEnv), "%d,%d", &fd, &every)
	if err != nil || fd < 3 || every < 1 {
		return
	}
	_ = os.Unsetenv(plugins.HeartbeatEnv) // a child of ours must not write to a number that means something else there
	syscall.CloseOnExec(fd)
	if syscall.SetNonblock(fd, true) != nil { // a host that does not read must not hold us up
		return
	}
	go func() {
		for {
			if _, err := syscall.Write(fd, []byte{1}); err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR) {
				return // nobody listens any more
			}
			time.Sleep(time.Duration(every) * time.Millisecond)
		}
	}()
}
