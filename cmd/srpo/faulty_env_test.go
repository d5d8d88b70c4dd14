package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/srpo-dev/srpo/plugins"
)

// misbehave is what the env of testdata/script/failures.txtar does at its tenth Reset, in the folder $ONCE, which all
// of its processes share: once, or (mode broken and liar) at each one from then on.
func (b *badSim) misbehave() error {
	folder := os.Getenv("ONCE")
	if folder == "" {
		return nil
	}
	for i := range 10 {
		f, err := os.OpenFile(filepath.Join(folder, fmt.Sprint(i)), os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			_ = f.Close()
			if i < 9 {
				return nil
			}
			break
		}
		if i == 9 && b.mode != "broken" && b.mode != "liar" {
			return nil
		}
	}
	fmt.Fprintln(os.Stderr, "simulator: joint 3 is past its limit")
	switch b.mode {
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "stopped":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "hung":
		select {}
	case "broken":
		return plugins.Errorf(plugins.Internal, "the arm fell off").WithHint("glue it")
	case "liar":
		b.lies = true
	}
	return nil
}
