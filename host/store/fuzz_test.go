package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// withChecksum returns a MANIFEST with a valid checksum, so that fuzzing reaches the code after the check.
func withChecksum(text []byte) []byte {
	return fmt.Appendf(bytes.Clone(text), "\n%x\n", sha256.Sum256(text))
}

// requireDamage checks that err reports damage at place, with a hint.
func requireDamage(t testing.TB, err error, place string) {
	t.Helper()
	e := plugins.AsError(err)
	if e.Place == "" || e.Hint == "" || e.Kind != plugins.Corrupt && e.Kind != plugins.Mismatch {
		t.Fatalf("kind %v, place %q, hint %q: %v", e.Kind, e.Place, e.Hint, err)
	}
	require.Contains(t, e.Place, place)
}

// FuzzSums writes any bytes into a checkpoint's MANIFEST. It is refused with an error that names it, or its numbers and
// paths are valid.
func FuzzSums(f *testing.F) {
	f.Add([]byte(`{"format":1,"iteration":3,"created":"2026-01-02T03:04:05Z","success_rate":0.5,` +
		`"metrics_bytes":10,"events_bytes":20,"files":{` +
		`"host.json":{"size":2,"sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}}}`))
	f.Add([]byte(`{"format":1,"iteration":-1,"metrics_bytes":-5,"files":{"../x":{}}}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"files":{"":{"size":0},"policy":{},"a/../b":{}}}`))
	dir := memoryDir(f)
	require.NoError(f, os.Mkdir(filepath.Join(dir, policyDir), 0o755))
	require.NoError(f, os.WriteFile(filepath.Join(dir, "host.json"), []byte("{}"), 0o644))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, data := range [][]byte{text, withChecksum(text)} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, sumsFile), data, 0o644))
			c, err := OpenCheckpoint(dir)
			if err != nil {
				requireDamage(t, err, dir)
				continue
			}
			require.GreaterOrEqual(t, c.Iteration, 0)
			require.GreaterOrEqual(t, c.MetricsBytes, int64(0))
			for name := range c.Files {
				require.True(t, filepath.IsLocal(name))
			}
		}
	})
}

// FuzzRunManifest writes any bytes into a run's manifest.json.
func FuzzRunManifest(f *testing.F) {
	text, err := json.Marshal(Manifest{
		FormatVersion: 1, Name: "a", Seed: math.MaxUint64, StartStates: &StartStates{Used: "all"},
		Plugins: []Plugin{{Kind: plugins.Env}},
	})
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`{"format_version":1,"seed":5}`))
	f.Add([]byte(`{"format_version":9}`))
	dir := memoryDir(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, manifestFile), text, 0o644))
		if m, err := readManifest(dir); err != nil {
			requireDamage(t, err, manifestFile)
		} else {
			require.Equal(t, FormatVersion, m.FormatVersion)
		}
	})
}

// FuzzLines appends any bytes to committed lines of metrics and events, as a crash or an editor may. Reading returns
// every valid line and names the others. Resuming restores exactly what was committed, and the next commit can be read.
func FuzzLines(f *testing.F) {
	metrics := `{"iteration":4,"kl":null,"seconds_by_phase":{"rollout":1,"x":null},"entropy":1e400}`
	f.Add([]byte(metrics+"\n"), []byte(`{"type":"warn`))
	f.Add([]byte("nonsense\n[]\n\n{}\n"), []byte("{\"type\":\"warning\",\"iteration\":4}\n"))
	f.Add([]byte{}, bytes.Repeat([]byte("x"), 9000))
	work := memoryDir(f)
	n := 0
	f.Fuzz(func(t *testing.T, metrics, events []byte) {
		n++
		dir := filepath.Join(work, fmt.Sprint(n))
		defer os.RemoveAll(dir)
		r, err := Create(dir, manifest(), []byte("x"))
		require.NoError(t, err)
		require.NoError(t, commit(r, 1))
		require.NoError(t, r.Close())
		for name, data := range map[string][]byte{metricsFile: metrics, eventsFile: events} {
			file, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = file.Write(data)
			require.NoError(t, err)
			require.NoError(t, file.Close())
		}
		rec, err := Read(dir)
		require.NoError(t, err)
		require.NotEmpty(t, rec.Metrics)
		r, err = Open(dir)
		require.NoError(t, err)
		defer r.Close()
		c, warnings, err := r.Resume()
		require.NoError(t, err)
		require.Empty(t, warnings)
		require.Equal(t, 1, c.Iteration)
		require.NoError(t, commit(r, 2))
		require.Equal(t, []int{1, 2}, iterations(t, dir))
		rec, err = Read(dir)
		require.NoError(t, err)
		require.Empty(t, rec.Problems)
	})
}

// FuzzMetrics reads any line. It is refused, or writing and reading it again gives the same line.
func FuzzMetrics(f *testing.F) {
	text, err := json.Marshal(metricsOf(2))
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`{"iteration":1.5}`))
	f.Add([]byte(`{"seconds":null,"seconds_by_phase":null,"x":"y","z":-0.0}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var m, back Metrics
		if json.Unmarshal(line, &m) != nil {
			return
		}
		once, err := json.Marshal(m)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(once, &back))
		twice, err := json.Marshal(back)
		require.NoError(t, err)
		require.Equal(t, string(once), string(twice))
	})
}

// Files that are too large are refused by their size and not read.
func TestHugeFilesAreNotRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	r, err := Create(dir, manifest(), []byte("x"))
	require.NoError(t, err)
	require.NoError(t, commit(r, 1))
	require.NoError(t, r.Close())
	sums := filepath.Join(checkpointsDir, "000001", sumsFile)
	for _, name := range []string{manifestFile, configFile, metricsFile, eventsFile, sums} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			old, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(path, 1<<40))
			defer func() { require.NoError(t, os.WriteFile(path, old, 0o644)) }()
			if name == sums {
				_, err := OpenCheckpoint(filepath.Dir(path))
				require.ErrorContains(t, err, "it has 1099511627776 bytes")
				return
			}
			rec, err := Read(dir)
			require.NoError(t, err)
			require.Len(t, rec.Problems, 1)
			require.Contains(t, rec.Problems[0], "it has 1099511627776 bytes")
		})
	}
}
