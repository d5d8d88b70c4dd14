package train

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// FuzzState reads any host.json and memory.bin with correct checksums. They are read, or refused with the
// folder's name.
func FuzzState(f *testing.F) {
	s, err := newState()
	require.NoError(f, err)
	s.EnvSteps, s.UpdateID, s.ReferenceDistances["a"] = 5, 3, 0.5
	text, err := json.Marshal(s)
	require.NoError(f, err)
	memory, err := s.memory.MarshalBinary()
	require.NoError(f, err)
	f.Add(text, memory)
	f.Add([]byte(`{"env_steps":1e30}`), memory)
	f.Add([]byte(`{"yardsticks":null,"anchors":{"a":[null]}}`), memory)
	f.Add([]byte("{}"), append(memory[:len(memory)-4:len(memory)-4], 255, 255, 255, 255))
	dir := f.TempDir()
	c := &store.Checkpoint{Dir: dir, Files: map[string]store.File{}}
	f.Fuzz(func(t *testing.T, text, memory []byte) {
		require.NoError(t, os.WriteFile(dir+"/"+stateFile, text, 0o644))
		require.NoError(t, os.WriteFile(dir+"/"+memoryFile, memory, 0o644))
		c.Files[stateFile], c.Files[memoryFile] = store.File{Size: int64(len(text))}, store.File{
			Size: int64(len(memory)),
		}
		s, err := readState(c)
		if err != nil {
			if e := plugins.AsError(err); e.Kind != plugins.Corrupt || e.Place != dir || e.Hint == "" {
				t.Fatalf("kind %v, place %q, hint %q: %v", e.Kind, e.Place, e.Hint, err)
			}
			return
		}
		require.NotNil(t, s.ReferenceDistances, "the map can be written to")
		require.GreaterOrEqual(t, s.EnvSteps, int64(0))
		_, err = s.memory.MarshalBinary()
		require.NoError(t, err)
	})
}
