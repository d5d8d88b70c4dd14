package bounded

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(path, []byte("12345678"), 0o644))
	data, err := ReadFile(path, 8)
	require.NoError(t, err)
	require.Equal(t, "12345678", string(data))
	_, err = ReadFile(path, 7)
	require.ErrorIs(t, err, ErrTooLarge)
	require.EqualError(t, err, "it has 8 bytes, and at most 7 are read")
	_, err = ReadFile(path+"x", 7)
	require.ErrorIs(t, err, fs.ErrNotExist)

	// A sparse file of a terabyte costs nothing.
	require.NoError(t, os.Truncate(path, 1<<40))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = ReadFile(path, Small)
	require.ErrorContains(t, err, "it has 1099511627776 bytes")
	_, err = ReadFS(os.DirFS(filepath.Dir(path)), "f", Small)
	require.ErrorContains(t, err, "it has 1099511627776 bytes")
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))

	// Nor does a file without an end.
	if _, err := os.Stat("/dev/zero"); err == nil {
		_, err = ReadFile("/dev/zero", 1000)
		require.ErrorContains(t, err, "at most 1000 are read")
	}
}
