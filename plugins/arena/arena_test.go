//go:build linux

package arena

import (
	"bytes"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/plugins"
)

func pair(t *testing.T, size int) (host, plug *Arena) {
	t.Helper()
	host, err := New(size)
	require.NoError(t, err)
	t.Cleanup(func() { host.Close() })
	plug, err = Map(int(host.File().Fd()), host.Size())
	require.NoError(t, err)
	t.Cleanup(func() { plug.Close() })
	return host, plug
}

func TestBothSidesSeeTheSameBytes(t *testing.T) {
	host, plug := pair(t, 1<<16)
	s, err := host.Grant(1000)
	require.NoError(t, err)
	require.NoError(t, s.Write(10, []byte("frames")))
	v, err := plug.View(uint64(s.Offset), 1000, s.Generation)
	require.NoError(t, err)
	require.Equal(t, "frames", string(v[10:16]))
	copy(v, "reply")
	got, err := s.Copy(uint64(s.Offset), 5, s.Generation)
	require.NoError(t, err)
	require.Equal(t, "reply", string(got))
}

// Several processors copy a clip in parts. Every part is at its place, for any length.
func TestLongWritesArriveWhole(t *testing.T) {
	host, err := New(64 << 20)
	require.NoError(t, err)
	defer host.Close()
	for _, n := range []int{bytesPerCopier - 1, 2*bytesPerCopier - 1, 2 * bytesPerCopier,
		3*bytesPerCopier + 1, 9*bytesPerCopier + 13} {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(i*7 + i>>11)
		}
		slot, err := host.Grant(n + 2*Align)
		require.NoError(t, err)
		require.NoError(t, slot.Write(Align, data))
		seen, err := host.View(uint64(slot.Offset), uint64(slot.Length), slot.Generation)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, seen[Align:Align+n]), "%d bytes", n)
		require.Equal(t, make([]byte, Align), seen[Align+n:][:Align], "%d bytes, and the bytes after them", n)
		clear(seen)
		slot.Release()
	}
}

func TestStaleAndForeignReferencesAreRefused(t *testing.T) {
	host, plug := pair(t, 1<<16)
	s, err := host.Grant(128)
	require.NoError(t, err)
	off, gen := uint64(s.Offset), s.Generation
	for name, ref := range map[string][3]uint64{
		"outside": {1 << 20, 8, gen}, "overflow": {off, ^uint64(0), gen}, "longer than granted": {off, 129, gen},
		"other generation": {off, 8, gen + 1},
		"no generation":    {off, 8, 0}, "into the header": {off - 64, 8, gen},
		"not aligned": {off + 1, 8, gen}, "at zero": {0, 8, gen},
	} {
		_, err := plug.View(ref[0], ref[1], ref[2])
		require.Equal(t, plugins.Corrupt, plugins.KindOf(err), name)
	}
	_, err = s.Copy(off+100, 29, gen)
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err), "a reply beyond its grant")
	s.Release()
	s.Release()
	_, err = plug.View(off, 8, gen)
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err), "released")
	again, err := host.Grant(128)
	require.NoError(t, err)
	require.Equal(t, int(off), again.Offset)
	_, err = plug.View(off, 8, gen)
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err), "granted to another call")
}

// TestGrantsNeverOverlap grants and releases at random. Live slots keep their bytes, and in the end all memory is
// free.
func TestGrantsNeverOverlap(t *testing.T) {
	host, _ := pair(t, 1<<18)
	all := host.Available()
	rng := rand.New(rand.NewSource(1))
	type live struct {
		s *Slot
		b []byte
	}
	var slots []live
	for i := 0; i < 5000; i++ {
		if rng.Intn(2) == 0 {
			n := 1 + rng.Intn(20000)
			if s, err := host.Grant(n); err == nil {
				b := make([]byte, n)
				rng.Read(b)
				require.NoError(t, s.Write(0, b))
				slots = append(slots, live{s, b})
			} else {
				require.Equal(t, plugins.Exhausted, plugins.KindOf(err))
			}
		} else if len(slots) > 0 {
			j := rng.Intn(len(slots))
			got, err := slots[j].s.Copy(uint64(slots[j].s.Offset), uint64(slots[j].s.Length), slots[j].s.Generation)
			require.NoError(t, err)
			require.True(t, bytes.Equal(got, slots[j].b))
			slots[j].s.Release()
			slots = append(slots[:j], slots[j+1:]...)
		}
	}
	for _, l := range slots {
		l.s.Release()
	}
	require.Equal(t, all, host.Available())
}

func TestSealedAndClosed(t *testing.T) {
	host, _ := pair(t, 1<<16)
	require.Error(t, unix.Ftruncate(int(host.File().Fd()), 0), "the plugin cannot pull the memory away")
	s, err := host.Grant(10)
	require.NoError(t, err)
	require.NoError(t, host.Close())
	require.Equal(t, plugins.Unavailable, plugins.KindOf(s.Write(0, []byte("x"))))
	_, err = host.Grant(10)
	require.Error(t, err)
	_, err = Map(0, 10)
	require.Error(t, err, "not an arena")
}
