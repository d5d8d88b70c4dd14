package store

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// The lock is flock(2), which earlier versions of srpo call directly, so the lock excludes them too.
func TestLockIsFlock(t *testing.T) {
	r := newRun(t)
	f, err := os.OpenFile(filepath.Join(r.Dir(), lockFile), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	try := func() error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
	require.ErrorIs(t, try(), syscall.EWOULDBLOCK)
	require.NoError(t, r.Close())
	require.NoError(t, try())
	_, err = Open(r.Dir())
	require.Equal(t, plugins.Unavailable, plugins.KindOf(err))
}
