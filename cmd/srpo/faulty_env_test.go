package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/srpo-dev/srpo/plugins"
)

// failTenthReset is called by Reset of the env of testdata/script/failures.txtar. All of the env's processes together
// count their resets in the folder $ONCE. The tenth one fails, in modes broken and liar also each later one.
func (b *badSim) failTenthReset() error {
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
		b.nanProprio = true
	}
	return nil
}
