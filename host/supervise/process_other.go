//go:build !linux

package supervise

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// awaitExit returns when the child process has ended, and leaves it a zombie. It uses kqueue: waitid of
// macOS also returns for a process that is only stopped.
func awaitExit(pid int) {
	for !exitNotice(pid) {
		time.Sleep(100 * time.Millisecond) // no descriptor or no memory for a queue right now
	}
}

// exitNotice waits for the end of the child process. It returns false when the system cannot watch it now.
func exitNotice(pid int) bool {
	queue, err := unix.Kqueue()
	if err != nil {
		return false
	}
	defer unix.Close(queue)
	change := unix.Kevent_t{Fflags: unix.NOTE_EXIT}
	unix.SetKevent(&change, pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT)
	for {
		events := make([]unix.Kevent_t, 1)
		n, err := unix.Kevent(queue, []unix.Kevent_t{change}, events, nil)
		switch {
		case err == unix.EINTR:
		case err == unix.ESRCH: // it has ended already
			return true
		case err != nil || n == 0:
			return false
		case events[0].Flags&unix.EV_ERROR != 0:
			return syscall.Errno(events[0].Data) == unix.ESRCH
		default:
			return true
		}
	}
}

// killTagged does nothing: without /proc and pidfd there is no safe way to find a process by its
// environment. Process groups and the lifeline remain.
func killTagged(string) int { return 0 }

// findTagged returns nothing; see killTagged.
func findTagged(string) []int { return nil }
