package lock

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// FuzzLock tests any srpo.lock: it is refused with its path, or is the same after writing and reading.
func FuzzLock(f *testing.F) {
	path := filepath.Join(f.TempDir(), FileName)
	pkg := f.TempDir()
	require.NoError(f, os.WriteFile(filepath.Join(pkg, "plugin \"x\".py"), []byte("x"), 0o755))
	_, err := Check(path, Package{Kind: plugins.Env, Name: "a", Version: "1", Dir: pkg}, false)
	require.NoError(f, err)
	text, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte("version = 1\n[[plugin]]\nfiles = [\"x\"]\n"))
	f.Add([]byte("version = 2\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		require.NoError(t, os.WriteFile(path, text, 0o644))
		lock, err := Load(path)
		if err != nil {
			if e := plugins.AsError(err); e.Place != path || e.Hint == "" ||
				e.Kind != plugins.Corrupt && e.Kind != plugins.Mismatch {
				t.Fatalf("kind %v, place %q, hint %q: %v", e.Kind, e.Place, e.Hint, err)
			}
			return
		}
		require.NoError(t, lock.Write())
		again, err := Load(path)
		require.NoError(t, err)
		require.Equal(t, lock.Entries(), again.Entries())
	})
}
