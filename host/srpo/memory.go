package srpo

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"sort"
)

// Memory contains the embeddings of the newest successes of each task, up to a bound per task. It is not safe for
// concurrent use.
type Memory struct {
	perTask int
	tasks   map[string][]remembered // each sorted by remembered.before
}

type remembered struct {
	id        string
	iteration int
	embedding []float64
}

// before is the order in which successes are kept: newer iterations first and, inside one, by a hash of the ID,
// so that a full memory does not favour the first groups of a batch.
func (a remembered) before(b remembered) bool {
	if a.iteration != b.iteration {
		return a.iteration > b.iteration
	}
	if ha, hb := hashOfID(a.id), hashOfID(b.id); ha != hb {
		return ha < hb
	}
	return a.id < b.id
}

func hashOfID(id string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(id)) // never fails
	return h.Sum64()
}

// NewMemory returns an empty memory of at most perTask successes per task, 1 or more.
func NewMemory(perTask int) (*Memory, error) {
	if perTask < 1 {
		return nil, fmt.Errorf("srpo: a memory of %d successes per task is empty; use 1 or more", perTask)
	}
	return &Memory{perTask: perTask, tasks: map[string][]remembered{}}, nil
}

// Remember adds the successes of a batch, after ScoreBatch. It copies the embeddings, leaves out unusable ones
// (dim 0 is their most frequent size), and drops the oldest successes above the bound. It replaces a success
// with the same ID.
func (m *Memory) Remember(iteration, dim int, rollouts []Rollout) {
	if dim == 0 {
		dim = embeddingSize(rollouts)
	}
	for _, r := range rollouts {
		if !r.Success || CheckEmbedding(r.Embedding, dim) != "" {
			continue
		}
		kept := m.tasks[r.Task]
		kept = slices.DeleteFunc(kept, func(s remembered) bool { return s.id == r.ID })
		m.tasks[r.Task] = append(
			kept,
			remembered{id: r.ID, iteration: iteration, embedding: slices.Clone(r.Embedding)},
		)
	}
	for task, kept := range m.tasks {
		sort.Slice(kept, func(i, j int) bool { return kept[i].before(kept[j]) })
		m.tasks[task] = append([]remembered(nil), kept[:min(len(kept), m.perTask)]...)
	}
}

// Len returns the number of successes of a task.
func (m *Memory) Len(task string) int { return len(m.tasks[task]) }

// memoryMagic begins a serialised memory. Its last byte is the version of the layout.
const memoryMagic = "srpo-mem\x01"

// MarshalBinary serialises the memory for a checkpoint. Equal memories give equal bytes. The layout after the
// magic is little-endian, and a string is its length, a uint32, and its bytes:
//
//	perTask uint32, number of tasks uint32, then for each task in the order of names:
//	name string, number of successes uint32, then for each: id string, iteration int64, size uint32, size * float64
func (m *Memory) MarshalBinary() ([]byte, error) {
	le := binary.LittleEndian
	text := func(b []byte, s string) []byte { return append(le.AppendUint32(b, uint32(len(s))), s...) }
	b := []byte(memoryMagic)
	b = le.AppendUint32(b, uint32(m.perTask))
	b = le.AppendUint32(b, uint32(len(m.tasks)))
	for _, task := range slices.Sorted(maps.Keys(m.tasks)) {
		b = text(b, task)
		b = le.AppendUint32(b, uint32(len(m.tasks[task])))
		for _, s := range m.tasks[task] {
			b = text(b, s.id)
			b = le.AppendUint64(b, uint64(int64(s.iteration)))
			b = le.AppendUint32(b, uint32(len(s.embedding)))
			for _, v := range s.embedding {
				b = le.AppendUint64(b, math.Float64bits(v))
			}
		}
	}
	return b, nil
}

// UnmarshalBinary replaces the memory by one that MarshalBinary serialised. An error leaves the memory
// unchanged. It checks the layout only; checkpoints have checksums for the content.
func (m *Memory) UnmarshalBinary(data []byte) error {
	r := memoryReader{data: data}
	if string(r.take(len(memoryMagic))) != memoryMagic {
		return fmt.Errorf("srpo: not a memory that this version can read: it does not begin with %q", memoryMagic)
	}
	perTask := int(r.uint32())
	tasks := map[string][]remembered{}
	for range r.uint32() {
		task := r.text()
		kept := []remembered{}
		for range r.uint32() {
			s := remembered{id: r.text(), iteration: int(int64(r.uint64()))}
			packed := r.take(8 * int(r.uint32()))
			for ; len(packed) > 0; packed = packed[8:] {
				s.embedding = append(s.embedding, math.Float64frombits(binary.LittleEndian.Uint64(packed)))
			}
			if r.short {
				break
			}
			kept = append(kept, s)
		}
		if r.short {
			break
		}
		tasks[task] = kept
	}
	switch {
	case r.short:
		return fmt.Errorf(
			"srpo: the memory ends early, after %d bytes; the checkpoint is damaged, use the previous one",
			len(data),
		)
	case r.at != len(data):
		return fmt.Errorf(
			"srpo: %d bytes follow the memory's end at byte %d; the checkpoint is damaged, use the previous one",
			len(data)-r.at, r.at)
	case perTask < 1:
		return fmt.Errorf(
			"srpo: the memory has a bound of %d successes per task; the checkpoint is damaged, use the previous one",
			perTask,
		)
	}
	m.perTask, m.tasks = perTask, tasks
	return nil
}

// memoryReader reads front to back. Beyond the end it returns zeros and sets short.
type memoryReader struct {
	data  []byte
	at    int
	short bool
}

func (r *memoryReader) take(n int) []byte {
	if r.short || n < 0 || n > len(r.data)-r.at {
		r.short = true
		return nil
	}
	r.at += n
	return r.data[r.at-n : r.at]
}

func (r *memoryReader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *memoryReader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *memoryReader) text() string { return string(r.take(int(r.uint32()))) }
