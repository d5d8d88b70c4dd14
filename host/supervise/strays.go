package supervise

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// tagEnv is a variable in the environment of every plugin process. A child that moved to another session or process group still carries it.
const tagEnv = "SRPO_PLUGIN_TAG"

// killTagged kills every process of this user whose tag is the given one, or begins with it and a slash; it returns how many it found.
func killTagged(tag string) int {
	n := 0
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || pid == os.Getpid() || !tagged(path, tag) {
			continue
		}
		// The descriptor pins the process, the second look makes sure that it pinned the one we mean.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if tagged(path, tag) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
			n++
		}
		_ = unix.Close(fd)
	}
	return n
}

func tagged(environ, tag string) bool {
	b, err := os.ReadFile(environ) // another user's: not readable; a zombie's: empty
	if err != nil {
		return false
	}
	for _, v := range bytes.Split(b, []byte{0}) {
		if rest, ok := bytes.CutPrefix(v, []byte(tagEnv+"="+tag)); ok && (len(rest) == 0 || rest[0] == '/') {
			return true
		}
	}
	return false
}
