package store

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// npyTypes are NumPy's names of the types of tensors.
var npyTypes = map[plugins.DType]string{plugins.Uint8: "|u1", plugins.Float32: "<f4"}

// EncodeNPZ writes a tensor as a compressed .npz with one array, which numpy.load reads (NEP 1, version 1.0). Errors: Invalid for a type that tensors do not
// have, and those of w.
func EncodeNPZ(w io.Writer, name string, t plugins.Tensor) error {
	kind, ok := npyTypes[t.DType]
	if !ok {
		return plugins.Errorf(plugins.Invalid, "a tensor of type %v has no form in .npz", t.DType).WithHint("uint8 and float32 have")
	}
	shape := make([]string, len(t.Shape))
	for i, n := range t.Shape {
		shape[i] = fmt.Sprintf("%d,", n)
	}
	head := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", kind, strings.Join(shape, " "))
	const before = 6 + 2 + 2                                        // magic, version, the header's length
	head += strings.Repeat(" ", 63-(before+len(head)+64)%64) + "\n" // the data begin at a multiple of 64
	data := append([]byte("\x93NUMPY\x01\x00"), 0, 0)
	binary.LittleEndian.PutUint16(data[before-2:], uint16(len(head)))
	data = append(data, head...)

	z := zip.NewWriter(w)
	f, err := z.Create(name + ".npy")
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if _, err := f.Write(t.Data); err != nil {
		return err
	}
	return z.Close()
}
