package tiny

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// FuzzLoad loads checkpoints with arbitrary headers and numbers and a correct checksum. Load either refuses the file
// with a place and a hint and changes nothing, or the policy can act with it.
func FuzzLoad(f *testing.F) {
	p := smallPolicy(f, 1, nil)
	folder := f.TempDir()
	require.NoError(f, p.Save(ctx, folder))
	path := filepath.Join(folder, fileName)
	good, err := os.ReadFile(path)
	require.NoError(f, err)
	const frame = len(fileMagic) + 4
	n := int(binary.LittleEndian.Uint32(good[len(fileMagic):]))
	head, numbers := good[frame:frame+n], good[frame+n:len(good)-sha256.Size]
	f.Add(head, numbers)
	f.Add([]byte("{}"), []byte{})
	f.Add(bytes.Replace(head, []byte(`"horizon":`), []byte(`"horizon":-`), 1), numbers)
	f.Add(bytes.Replace(head, []byte(`"adam.m","shape":[`), []byte(`"adam.m","shape":[1`), 1), numbers)
	f.Add(head, append(binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(math.NaN()))), numbers[4:]...))
	item := policy.Item{Trajectory: "t", Observation: fakeObservation(3), Seed: 4}
	f.Fuzz(func(t *testing.T, head, numbers []byte) {
		data := binary.LittleEndian.AppendUint32([]byte(fileMagic), uint32(len(head)))
		data = append(append(data, head...), numbers...)
		sum := sha256.Sum256(data)
		require.NoError(t, os.WriteFile(path, append(data, sum[:]...), 0o644))
		before := p.state
		if _, err := p.Load(ctx, folder); err != nil {
			e := plugins.AsError(err)
			if e.Kind != plugins.Corrupt && e.Kind != plugins.Mismatch || e.Place == "" || e.Hint == "" {
				t.Fatalf("kind %v, place %q, hint %q: %v", e.Kind, e.Place, e.Hint, err)
			}
			require.Equal(t, before.horizon, p.state.horizon)
			require.Same(t, &before.weights[0], &p.state.weights[0])
			return
		}
		_, err := p.Act(ctx, policy.Act{Items: []policy.Item{item}, Temperature: 1})
		if err != nil && plugins.KindOf(err) != plugins.Diverged { // finite weights may have sums that are not finite
			t.Fatal(err)
		}
	})
}
