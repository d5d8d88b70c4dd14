package arena

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/plugins"
)

// newSealedFile makes an anonymous memory file of size bytes that can neither grow nor shrink.
func newSealedFile(size int) (*os.File, error) {
	fd, err := unix.MemfdCreate("srpo-arena", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, plugins.Errorf(plugins.Unsupported, "no shared memory: memfd_create: %w", err).
			WithHint(`set [host] arena = "off"`)
	}
	file := os.NewFile(uintptr(fd), "srpo-arena")
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		file.Close()
		return nil, noMemory(size, "ftruncate", err)
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		file.Close()
		return nil, noMemory(size, "seal", err)
	}
	return file, nil
}

// sealed reports whether the memory file cannot be shrunk.
func sealed(fd int) bool {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	return err == nil && seals&unix.F_SEAL_SHRINK != 0
}
