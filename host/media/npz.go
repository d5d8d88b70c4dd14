package media

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// npyTypes are NumPy's names of the types of tensors.
var npyTypes = map[plugins.DType]string{plugins.Uint8: "|u1", plugins.Float32: "<f4"}

// EncodeNPZ writes a tensor as a compressed .npz with one array, which numpy.load reads (NEP 1, version 1.0). Errors: Invalid for a type that tensors do not
// have, and those of w.
func EncodeNPZ(w io.Writer, name string, t plugins.Tensor) error {
	return EncodeArrays(w, map[string]plugins.Tensor{name: t})
}

// EncodeArrays is EncodeNPZ for several arrays, in the order of their names.
func EncodeArrays(w io.Writer, arrays map[string]plugins.Tensor) error {
	z := zip.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(arrays)) {
		t := arrays[name]
		head, err := npyHead(t)
		if err != nil {
			return err
		}
		f, err := z.Create(name + ".npy")
		if err != nil {
			return err
		}
		if _, err := f.Write(head); err != nil {
			return err
		}
		if _, err := f.Write(t.Data); err != nil {
			return err
		}
	}
	return z.Close()
}

func npyHead(t plugins.Tensor) ([]byte, error) {
	kind, ok := npyTypes[t.DType]
	if !ok {
		return nil, plugins.Errorf(plugins.Invalid, "a tensor of type %v has no form in .npz", t.DType).WithHint("uint8 and float32 have")
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
	return append(data, head...), nil
}
