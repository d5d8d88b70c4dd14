package store

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// The full disk is a tmpfs of 300 KiB.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("srpo-test", dir, "tmpfs", 0, "size=300k"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	r, err := Create(filepath.Join(dir, "r"), manifest(), []byte("x"))
	require.NoError(t, err)
	require.NoError(t, commit(r, 1))
	// Another program fills the disk.
	filler, err := os.Create(filepath.Join(dir, "filler"))
	require.NoError(t, err)
	_, err = filler.Write(make([]byte, 400<<10))
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, filler.Close())

	var full error
	for i := 0; i < 200 && full == nil; i++ { // the last page of events.jsonl has room for some
		full = r.Append(Event{Type: Warning, Message: strings.Repeat("x", 100)})
	}
	for what, err := range map[string]error{
		"event": full, "commit": commit(r, 2),
		"manifest": r.UpdateManifest(func(m *Manifest) { m.Name = strings.Repeat("y", 10000) }),
	} {
		e := plugins.AsError(err)
		require.NotNil(t, e, what)
		require.Equal(t, plugins.Exhausted, e.Kind, what)
		require.Contains(t, e.Message, "no space left on device", what)
		require.Contains(t, e.Hint, "MiB free", what)
		require.Contains(t, e.Hint, "iteration 1 is committed", what)
		require.True(t, strings.HasPrefix(e.Place, dir), what)
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "filler")))
	require.NoError(t, r.Close())
	r, err = Open(filepath.Join(dir, "r"))
	require.NoError(t, err)
	c, warnings, err := r.Resume()
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, 1, c.Iteration)
	require.NoError(t, commit(r, 2))
	require.NoError(t, r.Close())

	// A read-only file system.
	require.NoError(t, syscall.Mount("srpo-test", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=300k"))
	_, err = Open(filepath.Join(dir, "r"))
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))
	require.Contains(t, plugins.AsError(err).Hint, "read-only")
	rec, err := Read(filepath.Join(dir, "r"))
	require.NoError(t, err)
	require.Len(t, rec.Metrics, 2)
}
