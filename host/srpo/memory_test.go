package srpo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func successes(task string, iteration, n int) (out []Rollout) {
	for i := range n {
		out = append(
			out,
			Rollout{
				ID:        fmt.Sprintf("%s/%d/%d", task, iteration, i),
				Task:      task,
				Success:   true,
				Embedding: []float64{float64(iteration), float64(i)},
			},
		)
	}
	return out
}

func ids(m *Memory, task string) (out []string) {
	for _, s := range m.tasks[task] {
		out = append(out, s.id)
	}
	return out
}

func TestMemoryKeepsTheNewest(t *testing.T) {
	m, err := NewMemory(3)
	require.NoError(t, err)
	m.Remember(1, 0, successes("a", 1, 2))
	m.Remember(2, 0, append(successes("a", 2, 2), successes("b", 2, 1)...))
	assert.Equal(t, 3, m.Len("a"))
	assert.Equal(t, 1, m.Len("b"))
	assert.ElementsMatch(t, []string{"a/2/0", "a/2/1"}, ids(m, "a")[:2])
	m.Remember(3, 0, successes("a", 3, 9))
	assert.Equal(t, 3, m.Len("a"))
	for _, id := range ids(m, "a") {
		assert.Contains(t, id, "a/3/")
	}
	assert.NotEqual(t, []string{"a/3/0", "a/3/1", "a/3/2"}, ids(m, "a"), "not the first groups only")
	assert.Zero(t, m.Len("never seen"))
}

func TestMemoryContainsUsableSuccesses(t *testing.T) {
	m, err := NewMemory(9)
	require.NoError(t, err)
	rollouts := successes("a", 1, 2)
	m.Remember(1, 2, append(rollouts,
		Rollout{ID: "failure", Task: "a", Embedding: []float64{1, 2}},
		Rollout{ID: "nan", Task: "a", Success: true, Embedding: []float64{1, math.NaN()}},
		Rollout{ID: "zero", Task: "a", Success: true, Embedding: []float64{0, 0}},
		Rollout{ID: "size", Task: "a", Success: true, Embedding: []float64{1}},
	))
	assert.ElementsMatch(t, []string{"a/1/0", "a/1/1"}, ids(m, "a"))
	rollouts[0].Embedding[0] = 99 // the memory has a copy
	for _, s := range m.tasks["a"] {
		assert.Equal(t, 1.0, s.embedding[0])
	}
	m.Remember(2, 2, successes("a", 1, 2)[:1]) // the same ID again, replaced
	assert.Equal(t, []string{"a/1/0", "a/1/1"}, ids(m, "a"))
	_, err = NewMemory(0)
	assert.ErrorContains(t, err, "use 1 or more")
}

func TestMemoryBytes(t *testing.T) {
	rng := rand.New(rand.NewPCG(20, 1))
	batch := append(successes("a", 1, 5), successes("b", 1, 5)...)
	for i := range batch {
		batch[i].Embedding = gauss(rng, 6, 1)
	}
	shuffled := make([]Rollout, len(batch))
	for to, from := range rng.Perm(len(batch)) {
		shuffled[to] = batch[from]
	}
	m, err := NewMemory(4)
	require.NoError(t, err)
	m.Remember(-1, 6, batch)
	other, err := NewMemory(4)
	require.NoError(t, err)
	other.Remember(-1, 6, shuffled)

	data, err := m.MarshalBinary()
	require.NoError(t, err)
	same, err := other.MarshalBinary()
	require.NoError(t, err)
	assert.Equal(t, data, same, "the order of rollouts does not matter")

	var back Memory
	require.NoError(t, back.UnmarshalBinary(data))
	assert.Equal(t, *m, back)
	assert.Equal(t, 4, back.perTask)
	back.Remember(2, 6, batch[:1])
	changed, err := back.MarshalBinary()
	require.NoError(t, err)
	assert.NotEqual(t, data, changed)
}

func TestDamagedMemoryIsRefused(t *testing.T) {
	m, err := NewMemory(2)
	require.NoError(t, err)
	m.Remember(1, 0, append(successes("a", 1, 2), successes("b", 1, 1)...))
	data, err := m.MarshalBinary()
	require.NoError(t, err)
	back, err := NewMemory(7)
	require.NoError(t, err)
	for n := range data {
		require.Error(t, back.UnmarshalBinary(data[:n]), "cut to %d bytes", n)
	}
	assert.Equal(t, 7, back.perTask, "an error leaves the memory unchanged")
	assert.ErrorContains(t, back.UnmarshalBinary(append(append([]byte(nil), data...), 0)), "1 bytes follow")
	assert.ErrorContains(t, back.UnmarshalBinary([]byte("something else entirely")),
		"not a memory that this version can read")
	empty := append([]byte(memoryMagic), make([]byte, 8)...)
	assert.ErrorContains(t, back.UnmarshalBinary(empty), "bound of 0 successes")
	rng := rand.New(rand.NewPCG(21, 1))
	for range 500 { // a wrong byte must not cause a panic
		damaged := append([]byte(nil), data...)
		damaged[rng.IntN(len(damaged))] ^= byte(1 + rng.IntN(255))
		_ = back.UnmarshalBinary(damaged)
	}
}
