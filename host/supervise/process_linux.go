package supervise

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// awaitExit returns when the child process has ended, and leaves it a zombie (WNOWAIT).
func awaitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// killTagged kills every process of this user whose tag equals tag, or starts with tag and a slash. It
// returns their number.
func killTagged(tag string) int {
	n := 0
	for _, pid := range findTagged(tag) {
		// The id may have passed to another process meanwhile. The descriptor pins the process; the second
		// check makes sure that it is the right one.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if hasTag(pid, tag) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
			n++
		}
		_ = unix.Close(fd)
	}
	return n
}

// findTagged returns the ids of the other processes with the tag.
func findTagged(tag string) (pids []int) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && pid != os.Getpid() && hasTag(pid, tag) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// hasTag reports whether the environment of a process contains the tag, or one below it.
func hasTag(pid int, tag string) bool {
	// Reading fails for a process of another user, and gives nothing for a zombie.
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for _, v := range bytes.Split(b, []byte{0}) {
		rest, ok := bytes.CutPrefix(v, []byte(tagEnv+"="+tag))
		if ok && (len(rest) == 0 || rest[0] == '/') {
			return true
		}
	}
	return false
}
