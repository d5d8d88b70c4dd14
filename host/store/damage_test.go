package store

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// Each file of the newest checkpoint is truncated to every length and has a bit flipped in every byte. Each time the
// previous checkpoint is used, with a warning.
func TestEveryTruncationAndFlipIsFound(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "r")
	r, err := Create(dir, manifest(), []byte("x"))
	require.NoError(t, err)
	defer r.Close()
	for i := 1; i <= 2; i++ {
		p, err := r.Begin(i)
		require.NoError(t, err)
		weights := []byte(strings.Repeat("weights", 20))
		require.NoError(t, os.WriteFile(filepath.Join(p.PolicyDir(), "weights"), weights, 0o644))
		require.NoError(t, p.WriteFile("host.json", []byte(`{"env_steps": 12345}`)))
		require.NoError(t, p.Commit(metricsOf(i)))
	}
	cases := 0
	check := func(path, what string, at int) {
		cases++
		c, bad, err := r.Latest()
		require.NoError(t, err)
		require.Equal(t, 1, c.Iteration, "%s of %s at %d", what, path, at)
		require.Len(t, bad, 1)
		e := plugins.AsError(bad[0])
		require.Equal(t, plugins.Corrupt, e.Kind)
		require.Equal(t, path, e.Place)
	}
	require.NoError(t, filepath.WalkDir(r.checkpointDir(2), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		for n := range whole {
			require.NoError(t, os.WriteFile(path, whole[:n], 0o644))
			check(path, "truncation", n)
			changed := append([]byte{}, whole...)
			changed[n] ^= 1 << (n % 8)
			require.NoError(t, os.WriteFile(path, changed, 0o644))
			check(path, "flip", n)
		}
		return os.WriteFile(path, whole, 0o644)
	}))
	require.Greater(t, cases, 800)
	c, bad, err := r.Latest()
	require.NoError(t, err)
	require.Equal(t, 2, c.Iteration)
	require.Empty(t, bad)
}

// A checkpoint that was copied to the name of another iteration is not used.
func TestCopiedCheckpoint(t *testing.T) {
	r := newRun(t)
	for i := 1; i <= 2; i++ {
		require.NoError(t, commit(r, i))
	}
	require.NoError(t, os.CopyFS(r.checkpointDir(7), os.DirFS(r.checkpointDir(1))))
	c, warnings, err := r.Resume()
	require.NoError(t, err)
	require.Equal(t, 2, c.Iteration)
	require.Equal(t, r.checkpointDir(2), c.Dir)
	require.Len(t, warnings, 1)
	require.ErrorContains(t, warnings[0], "the folder was copied or renamed: it contains iteration 1")
}

// Retention never removes the only undamaged checkpoint.
func TestRetentionKeepsTheLastGoodOne(t *testing.T) {
	for _, damage := range []func(t *testing.T, dir string){
		func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "policy/weights")) },
		func(t *testing.T, dir string) { flip(t, filepath.Join(dir, sumsFile)) },
		func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, sumsFile))) },
	} {
		r := newRun(t)
		r.Keep = 1
		require.NoError(t, commit(r, 6)) // the highest success rate, 0.6
		damage(t, r.checkpointDir(6))
		require.NoError(t, commit(r, 8))
		require.Contains(t, r.Checkpoints(), 8)
		r.Keep = 2
		require.NoError(t, commit(r, 9))
		damage(t, r.checkpointDir(9))
		require.NoError(t, r.Close())

		again, err := Open(r.Dir()) // this Run has verified none of them
		require.NoError(t, err)
		defer again.Close()
		again.Keep = 1
		require.Nil(t, again.Committed())
		require.NoError(t, again.Retain())
		c, bad, err := again.Latest()
		require.NoError(t, err, "an undamaged checkpoint is left")
		require.Equal(t, 8, c.Iteration)
		require.Len(t, bad, 1)
		c, _, err = again.Resume()
		require.NoError(t, err)
		require.Equal(t, 8, again.Committed().Iteration)
		require.NoError(t, again.Retain())
		require.DirExists(t, c.Dir)
	}
}

// A commit reads the files of its checkpoint once, for their checksums. It does not read them again to remove older
// checkpoints: they may be many GB.
func TestCommitReadsTheFilesOnce(t *testing.T) {
	r := newRun(t)
	r.Keep = 1
	const size = 4 << 20
	read := func() (n int64) {
		data, err := os.ReadFile("/proc/self/io")
		if err != nil {
			t.Skip("the system does not count the bytes that a process reads")
		}
		_, err = fmt.Sscanf(string(data), "rchar: %d", &n)
		require.NoError(t, err)
		return n
	}
	for i := 1; i <= 3; i++ {
		p, err := r.Begin(i)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(p.PolicyDir(), "weights"), make([]byte, size), 0o644))
		before := read()
		require.NoError(t, p.Commit(metricsOf(i)))
		c := r.Committed()
		require.Less(t, read()-before, int64(size+size/2))
		latest, _, err := r.Latest()
		require.NoError(t, err)
		require.Equal(t, latest, c)
	}
	require.Equal(t, []int{3}, r.Checkpoints())
}

// If the run folder is removed or moved away during the run, the run ends with an error that reports this, and nothing
// is created in its place.
func TestVanishedFolder(t *testing.T) {
	for name, vanish := range map[string]func(dir string) error{
		"removed": os.RemoveAll,
		"moved":   func(dir string) error { return os.Rename(dir, dir+"-away") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t)
			require.NoError(t, commit(r, 1))
			p, err := r.Begin(2)
			require.NoError(t, err)
			require.NoError(t, vanish(r.Dir()))
			for what, err := range map[string]error{
				"write": p.WriteFile("host.json", nil), "commit": p.Commit(metricsOf(2)), "again": commit(r, 3),
				"report": r.WriteFile("report.html", nil),
			} {
				e := plugins.AsError(err)
				require.NotNil(t, e, what)
				require.Equal(t, plugins.NotFound, e.Kind, what)
				require.Contains(t, e.Hint, "the run folder was removed or moved: restore it", what)
			}
			require.NoDirExists(t, r.Dir())
			explained := plugins.AsError(r.Explain(plugins.Errorf(plugins.Internal, "the policy cannot save").
				WithHint("see its log")))
			require.Equal(t, plugins.NotFound, explained.Kind)
			require.Equal(t, "the run folder no longer exists: the policy cannot save", explained.Message)
			require.Contains(t, explained.Hint, "the run folder was removed or moved")
			if name == "moved" {
				c, _, err := Latest(r.Dir() + "-away")
				require.NoError(t, err)
				require.Equal(t, 1, c.Iteration)
			}
		})
	}
}

// A run folder whose host died at any step of its creation is created again by the next host. A file of the user is
// never removed.
func TestPartlyCreatedFolder(t *testing.T) {
	fileNames := []string{
		checkpointsDir + "/", episodesDir + "/", pendingPrefix + configFile, configFile, metricsFile, eventsFile,
		pendingPrefix + manifestFile,
	}
	for n := range fileNames {
		dir := t.TempDir()
		for _, name := range append([]string{lockFile}, fileNames[:n+1]...) {
			if strings.HasSuffix(name, "/") {
				require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
				continue
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
		}
		_, err := Open(dir)
		require.Equal(t, plugins.NotFound, plugins.KindOf(err))
		r, err := Create(dir, manifest(), []byte("new"))
		require.NoError(t, err, fileNames[n])
		require.NoError(t, commit(r, 0))
		require.NoFileExists(t, filepath.Join(dir, pendingPrefix+configFile))
		require.NoError(t, r.Close())
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, configFile), []byte("the user's"), 0o644))
	for range 2 { // the first leaves its lock file
		_, err := Create(dir, manifest(), nil)
		require.Equal(t, plugins.Invalid, plugins.KindOf(err))
	}
	data, err := os.ReadFile(filepath.Join(dir, configFile))
	require.NoError(t, err)
	require.Equal(t, "the user's", string(data))
}
