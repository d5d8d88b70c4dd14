package wire

import (
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	pb "github.com/srpo-dev/srpo/plugins/proto/srpov1"
)

// inlineBelow is the size in bytes below which the message carries a tensor even if there is an arena.
const inlineBelow = 4096

// Call manages the tensors of one call on the host's side: one slot per tensor of the request, and one grant for the
// tensors of the reply. Without an arena, or without room in it, the messages carry the tensors.
type Call struct {
	arena  *arena.Arena
	slots  []*arena.Slot
	grant  *arena.Slot
	copied uint64 // bytes of the grant that were read
}

// Begin starts a call. The arena may be nil.
func Begin(a *arena.Arena) *Call { return &Call{arena: a} }

// Release releases all slots.
func (c *Call) Release() {
	for _, s := range c.slots {
		s.Release()
	}
	c.grant.Release()
}

// Expect grants room for a reply whose tensors have the given sizes in bytes. It returns nil without an arena or
// room.
func (c *Call) Expect(sizes ...int) *pb.Slot {
	if c.arena == nil {
		return nil
	}
	total := 0
	for _, n := range sizes {
		if n >= inlineBelow {
			total += round(n)
		}
	}
	if total == 0 {
		return nil
	}
	slot, err := c.arena.Grant(total)
	if err != nil { // the arena is full, so the reply carries the tensors
		return nil
	}
	c.grant = slot
	return &pb.Slot{Offset: uint64(slot.Offset), Length: uint64(slot.Length), Generation: slot.Generation}
}

// Put converts a tensor of the request to a message.
func (c *Call) Put(t plugins.Tensor) (*pb.Tensor, error) {
	m, err := describe(t)
	if m == nil || err != nil {
		return nil, err
	}
	if c.arena != nil && len(t.Data) >= inlineBelow {
		if slot, err := c.arena.Grant(len(t.Data)); err == nil {
			c.slots = append(c.slots, slot)
			if err := slot.Write(0, t.Data); err != nil {
				return nil, err
			}
			m.Data = &pb.Tensor_Slot{
				Slot: &pb.Slot{Offset: uint64(slot.Offset), Length: uint64(slot.Length), Generation: slot.Generation},
			}
			return m, nil
		}
	}
	m.Data = &pb.Tensor_Inline{Inline: t.Data}
	return m, nil
}

// Read converts a message of the reply to a tensor with its own data.
func (c *Call) Read(m *pb.Tensor) (plugins.Tensor, error) {
	return read(m, func(s *pb.Slot) ([]byte, error) {
		if c.grant == nil {
			return nil, plugins.Errorf(plugins.Corrupt, "the reply refers to an arena slot that was not granted")
		}
		// The tensors do not overlap: a reply that refers to one frame a thousand times must not cause a thousand
		// copies.
		if s.Length > uint64(c.grant.Length)-c.copied {
			return nil, plugins.Errorf(plugins.Corrupt,
				"the reply's tensors have more bytes than the %d that were granted", c.grant.Length)
		}
		c.copied += s.Length
		return c.grant.Copy(s.Offset, s.Length, s.Generation)
	})
}

// View converts a message of the request to a tensor, on the plugin's side. The tensor aliases the arena during
// the call.
func View(a *arena.Arena, m *pb.Tensor) (plugins.Tensor, error) {
	return read(m, func(s *pb.Slot) ([]byte, error) {
		if a == nil {
			return nil, plugins.Errorf(plugins.Corrupt, "the request refers to an arena, but Configure received none")
		}
		return a.View(s.Offset, s.Length, s.Generation)
	})
}

// Reply manages the tensors of a reply on the plugin's side. It puts them into the granted slot one after another
// while there is room, and the others into the message.
type Reply struct {
	mem  []byte
	base uint64
	gen  uint64
	used int
}

// Answer begins a reply. The arena and the grant may be nil.
func Answer(a *arena.Arena, grant *pb.Slot) (*Reply, error) {
	if a == nil || grant == nil {
		return &Reply{}, nil
	}
	mem, err := a.View(grant.Offset, grant.Length, grant.Generation)
	if err != nil {
		return nil, err
	}
	return &Reply{mem: mem, base: grant.Offset, gen: grant.Generation}, nil
}

// Put converts a tensor of the reply to a message.
func (r *Reply) Put(t plugins.Tensor) (*pb.Tensor, error) {
	m, err := describe(t)
	if m == nil || err != nil {
		return nil, err
	}
	if len(t.Data) < inlineBelow || r.used+len(t.Data) > len(r.mem) {
		m.Data = &pb.Tensor_Inline{Inline: t.Data}
		return m, nil
	}
	copy(r.mem[r.used:], t.Data)
	m.Data = &pb.Tensor_Slot{
		Slot: &pb.Slot{Offset: r.base + uint64(r.used), Length: uint64(len(t.Data)), Generation: r.gen},
	}
	r.used += round(len(t.Data))
	return m, nil
}

// describe makes the message without its data. It returns nil for the zero tensor.
func describe(t plugins.Tensor) (*pb.Tensor, error) {
	if t.IsZero() {
		return nil, nil
	}
	n := plugins.Elements(t.Shape)
	if n < 0 || t.DType.Size() == 0 || n*t.DType.Size() != len(t.Data) {
		return nil, plugins.Errorf(plugins.Internal, "tensor %v %v has %d bytes", t.DType, t.Shape, len(t.Data))
	}
	m := &pb.Tensor{Dtype: pb.DType(t.DType), Shape: make([]int64, len(t.Shape))}
	for i, d := range t.Shape {
		m.Shape[i] = int64(d)
	}
	return m, nil
}

func read(m *pb.Tensor, slot func(*pb.Slot) ([]byte, error)) (plugins.Tensor, error) {
	if m == nil {
		return plugins.Tensor{}, nil
	}
	t := plugins.Tensor{DType: plugins.DType(m.Dtype)}
	if t.DType.Size() == 0 {
		return t, plugins.Errorf(plugins.Corrupt, "tensor with unknown element type %d", m.Dtype)
	}
	if len(m.Shape) > 8 {
		return t, plugins.Errorf(plugins.Corrupt, "tensor with %d dimensions", len(m.Shape))
	}
	t.Shape = make([]int, len(m.Shape))
	for i, d := range m.Shape {
		if d < 0 || d > plugins.MaxElements {
			return t, plugins.Errorf(plugins.Corrupt, "tensor with shape %v", m.Shape)
		}
		t.Shape[i] = int(d)
	}
	n := plugins.Elements(t.Shape)
	if n < 0 {
		return t, plugins.Errorf(plugins.Corrupt, "tensor with shape %v", m.Shape)
	}
	switch d := m.Data.(type) {
	case *pb.Tensor_Inline:
		t.Data = d.Inline
	case *pb.Tensor_Slot:
		if d.Slot == nil {
			return t, plugins.Errorf(plugins.Corrupt, "tensor with an empty slot")
		}
		b, err := slot(d.Slot)
		if err != nil {
			return t, err
		}
		t.Data = b
	}
	if n*t.DType.Size() != len(t.Data) {
		return t, plugins.Errorf(plugins.Corrupt, "tensor %v %v has %d bytes", t.DType, t.Shape, len(t.Data))
	}
	if t.Data == nil {
		t.Data = []byte{}
	}
	return t, nil
}

func round(n int) int { return (n + arena.Align - 1) &^ (arena.Align - 1) }
