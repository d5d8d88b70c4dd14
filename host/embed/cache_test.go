package embed

import (
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

func TestVectorsAreStored(t *testing.T) {
	c := &Cache{Dir: filepath.Join(t.TempDir(), "new")}
	k := KeyOf("a", "b")
	_, ok := c.Vectors(k)
	require.False(t, ok)
	rows := [][]float32{{1, -2.5, 3e-40}, {4, 5, math.MaxFloat32}}
	require.NoError(t, c.PutVectors(k, rows))
	got, ok := c.Vectors(k)
	require.True(t, ok)
	require.Equal(t, rows, got)
	hits, misses, damaged := c.Counts()
	require.Equal(t, []int{1, 1, 0}, []int{hits, misses, damaged})
	var s string
	require.NoError(t, c.PutJSON(KeyOf("json"), "x"))
	require.True(t, c.JSON(KeyOf("json"), &s))
	require.Equal(t, "x", s)
	_, ok = c.Vectors(KeyOf("json"))
	require.False(t, ok, "an entry of another form is not read as rows")
}

// An entry with a flipped bit, a missing end or another entry's content is removed.
func TestDamagedEntriesAreRemoved(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	k := KeyOf("clip")
	require.NoError(t, c.PutVectors(k, [][]float32{{1, 2}}))
	path := c.path(k)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	damage := 0
	try := func(data []byte, what string) {
		require.NoError(t, os.WriteFile(path, data, 0o644))
		_, ok := c.Vectors(k)
		require.False(t, ok, what)
		damage++
		require.NoFileExists(t, path)
	}
	for i := range whole {
		flipped := append([]byte(nil), whole...)
		flipped[i] ^= 1
		try(flipped, "a flipped bit")
	}
	for _, n := range []int{0, 1, 8, len(whole) - 1} {
		try(whole[:n], "cut off")
	}
	other := KeyOf("another clip")
	require.NoError(t, c.PutVectors(other, [][]float32{{1, 2}}))
	foreign, err := os.ReadFile(c.path(other))
	require.NoError(t, err)
	try(foreign, "another entry's file")
	_, _, damaged := c.Counts()
	require.Equal(t, damage, damaged)
	require.NoError(t, c.PutVectors(k, [][]float32{{1, 2}}))
	_, ok := c.Vectors(k)
	require.True(t, ok)
}

func TestOnlyFiniteVectorsAreStored(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	for _, bad := range [][][]float32{{{float32(math.NaN())}}, {{float32(math.Inf(1))}}, {{1, 2}, {1}}} {
		require.NoError(t, c.PutVectors(KeyOf("x"), bad))
		_, ok := c.Vectors(KeyOf("x"))
		require.False(t, ok)
	}
}

func TestKeysDiffer(t *testing.T) {
	require.NotEqual(t, KeyOf("a", "b"), KeyOf("ab"))
	require.NotEqual(t, KeyOf("a", "b"), KeyOf("b", "a"))
	require.NotEqual(t, KeyOf("1:a"), KeyOf("a"))
	info := plugins.Info{Name: "pixel", Version: "1", Versions: map[string]string{"go": "1", "x": "2"}}
	id := Identity(info, "hash", plugins.Settings{"size": int64(32), "gray": false}, encoder.Spec{Dimension: 3})
	require.Equal(t, id,
		Identity(info, "hash", plugins.Settings{"gray": false, "size": int64(32)}, encoder.Spec{Dimension: 3}))
	for _, other := range []string{
		Identity(info, "other", plugins.Settings{"size": int64(32), "gray": false}, encoder.Spec{Dimension: 3}),
		Identity(info, "hash", plugins.Settings{"size": int64(16), "gray": false}, encoder.Spec{Dimension: 3}),
		Identity(info, "hash", plugins.Settings{"size": "32", "gray": false}, encoder.Spec{Dimension: 3}),
		Identity(info, "hash", plugins.Settings{"size": int64(32), "gray": false}, encoder.Spec{Dimension: 4}),
		Identity(info, "hash", plugins.Settings{"size": int64(32), "gray": false},
			encoder.Spec{Dimension: 3, Model: "other weights"}),
		Identity(plugins.Info{Name: "pixel", Version: "2"}, "hash",
			plugins.Settings{"size": int64(32), "gray": false}, encoder.Spec{Dimension: 3}),
	} {
		require.NotEqual(t, id, other)
	}
}

func TestSourcesAndFrames(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	sum := func(path string) string {
		s, err := HashSource(path)
		require.NoError(t, err)
		return s
	}
	require.Equal(t, sum(write("a.gif", "x")), sum(write("b.gif", "x")), "the content counts, not the name")
	require.NotEqual(t, sum(write("a.gif", "x")), sum(write("a.mp4", "x")))
	write("p/1.png", "ab")
	one := sum(filepath.Join(dir, "p"))
	write("q/1.png", "a")
	write("q/2.png", "b")
	require.NotEqual(t, one, sum(filepath.Join(dir, "q")))
	_, err := HashSource(filepath.Join(dir, "gone"))
	require.Error(t, err)
	data := []byte{1, 2, 3, 4, 5, 6}
	require.NotEqual(t, HashFrames(plugins.Bytes(data, 1, 1, 2, 3)), HashFrames(plugins.Bytes(data, 2, 1, 1, 3)))
}

func TestConcurrentUse(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 50 {
				if c.PutVectors(KeyOf("same"), [][]float32{{1, 2, 3}}) != nil {
					t.Error("put")
				}
				if rows, ok := c.Vectors(KeyOf("same")); !ok || rows[0][2] != 3 {
					t.Error("get")
				}
			}
		})
	}
	wait.Wait()
	_, _, damaged := c.Counts()
	require.Zero(t, damaged)
}

func TestUnwritableCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(dir, nil, 0o644))
	err := (&Cache{Dir: dir}).Put(KeyOf("x"), nil)
	require.Equal(t, plugins.Exhausted, plugins.KindOf(err))
	require.Contains(t, plugins.AsError(err).Hint, "SRPO_CACHE")
}
