//go:build !linux

package arena

import (
	"os"

	"github.com/srpo-dev/srpo/plugins"
)

// newSealedFile fails: only Linux has memory files that can be sealed. Without a seal a plugin could shrink the
// file, and the host would die of SIGBUS.
func newSealedFile(int) (*os.File, error) {
	return nil, plugins.Errorf(plugins.Unsupported, "no shared memory: only Linux has sealed memory files").
		WithHint(`set [host] arena = "off"`)
}

func sealed(int) bool { return false }
