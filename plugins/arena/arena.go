// Package arena is the shared memory in which the host and a plugin on one machine exchange tensors.
//
// The host makes one arena per plugin process. It is an anonymous memory file that is sealed against growing and
// shrinking, so that neither side can remove memory that the other uses. The plugin inherits its descriptor and
// maps it. The host does all bookkeeping: it grants a [Slot], names it in a message, and releases it when the call
// ends. When the process of the plugin ends, the host drops the arena.
//
// The 64 bytes before each slot are a header, little-endian: generation uint64, length uint64. The host writes a
// new generation with every grant, and zero with every release. If the generation in the header differs from that
// in a message, the reference is stale, and the reader returns an error instead of the frames of another call.
package arena

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/plugins"
)

const (
	header = 64
	// Align is the alignment of slots and of the tensors inside a slot, bytes.
	Align = 64
)

// Arena is a mapped shared-memory file. Hosts make it with [New], and plugins with [Map].
type Arena struct {
	mu   sync.RWMutex // guards mem against Close during a copy
	mem  []byte
	file *os.File // host side only

	alloc sync.Mutex
	free  []span // sorted by offset, never adjacent; host side only
	gen   uint64
}

type span struct{ off, len int }

// New makes an arena of at least size bytes, on the host's side. Errors: Unsupported where the system has no
// sealed memory files (every system but Linux), Exhausted where there is not enough memory.
func New(size int) (*Arena, error) {
	if size < 4096 {
		size = 4096
	}
	size = (size + 4095) &^ 4095
	file, err := newSealedFile(size)
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		file.Close()
		return nil, noMemory(size, "mmap", err)
	}
	return &Arena{mem: mem, file: file, free: []span{{0, size}}}, nil
}

// noMemory is the error of a step that fails while an arena of size bytes is made.
func noMemory(size int, step string, err error) error {
	return plugins.Errorf(plugins.Exhausted, "no shared memory of %d MB: %s: %w", size>>20, step, err).
		WithHint(`lower [host] arena_mb, or set [host] arena = "off"`)
}

// Map maps an inherited arena, on the plugin's side. It refuses a descriptor that is smaller than size, or not
// sealed.
func Map(fd int, size int) (*Arena, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, plugins.Errorf(plugins.Corrupt, "arena descriptor %d: %w", fd, err)
	}
	if size <= 0 || st.Size < int64(size) {
		return nil, plugins.Errorf(plugins.Corrupt, "arena has %d bytes, the host reports %d", st.Size, size)
	}
	if !sealed(fd) {
		return nil, plugins.Errorf(plugins.Corrupt, "arena descriptor %d is not sealed against shrinking", fd)
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, plugins.Errorf(plugins.Exhausted, "mapping an arena of %d bytes: %w", size, err)
	}
	return &Arena{mem: mem}, nil
}

// File returns the file that the plugin's process must inherit.
func (a *Arena) File() *os.File { return a.file }

// Size returns the number of bytes.
func (a *Arena) Size() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.mem)
}

// Close unmaps the arena after running copies have ended. Later calls return an error of kind Unavailable.
func (a *Arena) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mem == nil {
		return nil
	}
	err := unix.Munmap(a.mem)
	a.mem = nil
	if a.file != nil {
		a.file.Close()
	}
	return err
}

// Slot is a region that the host grants for one call.
type Slot struct {
	Offset, Length int
	Generation     uint64
	arena          *Arena
}

// Grant reserves n bytes. It returns an error of kind Exhausted if there is no room; the message then carries the
// tensor.
func (a *Arena) Grant(n int) (*Slot, error) {
	if n <= 0 {
		return nil, plugins.Errorf(plugins.Invalid, "arena slot of %d bytes", n)
	}
	need := header + (n+Align-1)&^(Align-1)
	a.alloc.Lock()
	defer a.alloc.Unlock()
	for i, s := range a.free {
		if s.len < need {
			continue
		}
		if s.len == need {
			a.free = append(a.free[:i], a.free[i+1:]...)
		} else {
			a.free[i] = span{s.off + need, s.len - need}
		}
		a.gen++
		slot := &Slot{Offset: s.off + header, Length: n, Generation: a.gen, arena: a}
		if err := a.stamp(slot, slot.Generation); err != nil {
			return nil, err
		}
		return slot, nil
	}
	return nil, plugins.Errorf(plugins.Exhausted, "no room for %d bytes in the arena", n)
}

func (a *Arena) stamp(s *Slot, generation uint64) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.mem == nil {
		return closed()
	}
	binary.LittleEndian.PutUint64(a.mem[s.Offset-header:], generation)
	binary.LittleEndian.PutUint64(a.mem[s.Offset-header+8:], uint64(s.Length))
	return nil
}

// Release makes all references to the slot stale and its memory free. A second call, or a call on nil, does nothing.
func (s *Slot) Release() {
	if s == nil || s.arena == nil {
		return
	}
	a := s.arena
	s.arena = nil
	_ = a.stamp(s, 0)
	a.alloc.Lock()
	defer a.alloc.Unlock()
	back := span{s.Offset - header, header + (s.Length+Align-1)&^(Align-1)}
	i := 0
	for i < len(a.free) && a.free[i].off < back.off {
		i++
	}
	a.free = append(a.free, span{})
	copy(a.free[i+1:], a.free[i:])
	a.free[i] = back
	if i+1 < len(a.free) && a.free[i].off+a.free[i].len == a.free[i+1].off {
		a.free[i].len += a.free[i+1].len
		a.free = append(a.free[:i+1], a.free[i+2:]...)
	}
	if i > 0 && a.free[i-1].off+a.free[i-1].len == a.free[i].off {
		a.free[i-1].len += a.free[i].len
		a.free = append(a.free[:i], a.free[i+1:]...)
	}
}

// Available returns the number of free bytes, including headers, on the host's side.
func (a *Arena) Available() int {
	a.alloc.Lock()
	defer a.alloc.Unlock()
	n := 0
	for _, s := range a.free {
		n += s.len
	}
	return n
}

// View returns the bytes of a slot that a message names, without a copy. Only plugins use it, because their
// mapping exists as long as the process.
func (a *Arena) View(offset, length, generation uint64) ([]byte, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.view(offset, length, generation)
}

func (a *Arena) view(offset, length, generation uint64) ([]byte, error) {
	if a.mem == nil {
		return nil, closed()
	}
	size := uint64(len(a.mem))
	if offset < header || offset > size || length > size-offset || offset%Align != 0 {
		return nil, plugins.Errorf(plugins.Corrupt, "arena reference [%d, +%d) outside of %d bytes, or not aligned",
			offset, length, size)
	}
	if generation == 0 {
		return nil, plugins.Errorf(plugins.Corrupt, "arena reference without a generation")
	}
	g := binary.LittleEndian.Uint64(a.mem[offset-header:])
	granted := binary.LittleEndian.Uint64(a.mem[offset-header+8:])
	if g != generation {
		return nil, plugins.Errorf(plugins.Corrupt, "stale arena reference: generation %d, now %d", generation, g)
	}
	if length > granted {
		return nil, plugins.Errorf(plugins.Corrupt, "arena reference of %d bytes into a slot of %d", length, granted)
	}
	return a.mem[offset : offset+length : offset+length], nil
}

// Write copies data to an offset within the slot.
func (s *Slot) Write(at int, data []byte) error {
	a := s.arena
	if a == nil {
		return plugins.Errorf(plugins.Internal, "write to a released arena slot")
	}
	if at < 0 || at+len(data) > s.Length {
		return plugins.Errorf(plugins.Internal, "write of %d bytes at %d into an arena slot of %d", len(data), at,
			s.Length)
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.mem == nil {
		return closed()
	}
	parallelCopy(a.mem[s.Offset+at:s.Offset+at+len(data)], data)
	return nil
}

// bytesPerCopier is the size of a frame, which one processor copies. Several processors copy a clip, because one
// does not use the full bandwidth of the memory.
const bytesPerCopier = 2 << 20

// parallelCopy copies src to dst, which has the same length. It uses several processors if the data is long.
func parallelCopy(dst, src []byte) {
	parts := min(len(src)/bytesPerCopier, runtime.GOMAXPROCS(0), 4)
	if parts < 2 {
		copy(dst, src)
		return
	}
	var others sync.WaitGroup
	each := (len(src) + parts - 1) / parts
	for at := each; at < len(src); at += each {
		end := min(at+each, len(src))
		others.Go(func() { copy(dst[at:end], src[at:end]) })
	}
	copy(dst[:each], src[:each])
	others.Wait()
}

// Copy returns a copy of the region of the slot that the plugin's reply names by absolute offset. The host copies,
// because a plugin could write to the region after its reply, and because the memory is dropped with the plugin.
func (s *Slot) Copy(offset, length, generation uint64) ([]byte, error) {
	a := s.arena
	if a == nil {
		return nil, plugins.Errorf(plugins.Internal, "read from a released arena slot")
	}
	lo, hi := uint64(s.Offset), uint64(s.Offset+s.Length)
	if generation != s.Generation || offset < lo || offset > hi || length > hi-offset {
		return nil, plugins.Errorf(plugins.Corrupt,
			"the reply names arena bytes [%d, +%d) generation %d, granted were [%d, %d) generation %d", offset,
			length, generation, lo, hi, s.Generation)
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.mem == nil {
		return nil, closed()
	}
	return append(make([]byte, 0, length), a.mem[offset:offset+length]...), nil
}

func closed() error {
	return plugins.Errorf(plugins.Unavailable, "the arena is closed")
}

// String returns a description for logs.
func (a *Arena) String() string { return fmt.Sprintf("arena of %d MB", a.Size()>>20) }
