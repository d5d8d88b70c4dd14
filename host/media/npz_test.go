package media

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// The bytes follow numpy.lib.format: magic, version 1.0, and a Python literal as header that ends with a line
// feed at a multiple of 64 bytes.
func TestEncodeNPZ(t *testing.T) {
	for _, c := range []struct {
		tensor plugins.Tensor
		header string
	}{
		{plugins.Bytes([]byte{1, 2, 3, 4, 5, 6}, 1, 2, 1, 3),
			"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 1, 3,), }"},
		{plugins.Floats([]float32{1.5}, 1), "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"},
	} {
		var out bytes.Buffer
		require.NoError(t, EncodeNPZ(&out, "frames", c.tensor))
		z, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len()))
		require.NoError(t, err)
		require.Len(t, z.File, 1)
		require.Equal(t, "frames.npy", z.File[0].Name)
		f, err := z.File[0].Open()
		require.NoError(t, err)
		data, err := io.ReadAll(f)
		require.NoError(t, err)
		require.Equal(t, "\x93NUMPY\x01\x00", string(data[:8]))
		head := 10 + int(data[8]) + int(data[9])<<8
		require.Zero(t, head%64)
		require.Equal(t, byte('\n'), data[head-1])
		require.Contains(t, string(data[10:head]), c.header)
		require.Equal(t, c.tensor.Data, data[head:])
	}
	require.Error(t, EncodeNPZ(io.Discard, "x", plugins.Tensor{}))
	require.ErrorIs(t, EncodeNPZ(full{}, "x", plugins.Floats(make([]float32, 1<<20), 1<<20)), errFull)
}

var errFull = errors.New("full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
