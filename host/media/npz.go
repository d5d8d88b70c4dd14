package media

import (
	"archive/zip"
	"bufio"
	"bytes"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// arrayNames are the names under which an .npz may contain a clip. The first one that exists is used.
var arrayNames = []string{"frames", "video", "images", "rgb", "arr_0"}

func openNpz(path string) (Clip, error) {
	z, err := zip.OpenReader(path)
	if err != nil {
		return Clip{}, invalid("this is not an .npz file: %w", err)
	}
	defer z.Close()
	arrays := map[string]*zip.File{}
	var names []string
	for _, f := range z.File {
		if name, ok := strings.CutSuffix(f.Name, ".npy"); ok {
			arrays[name] = f
			names = append(names, name)
		}
	}
	var file *zip.File
	for _, name := range arrayNames {
		if file == nil {
			file = arrays[name]
		}
	}
	switch {
	case file == nil && len(names) == 1:
		file = arrays[names[0]]
	case file == nil && len(names) == 0:
		return Clip{}, invalid("the .npz file contains no array")
	case file == nil:
		return Clip{}, invalid("the .npz file contains %s; the video must be called %s", strings.Join(names, ", "),
			strings.Join(arrayNames, ", "))
	}
	r, err := file.Open()
	if err != nil {
		return Clip{}, invalid("the .npz file cannot be read: %w", err)
	}
	defer r.Close()
	buffered := bufio.NewReaderSize(r, 1<<20)
	clip, err := readNpy(buffered)
	if err != nil {
		return Clip{}, err
	}
	if _, err := io.Copy(io.Discard, buffered); err != nil { // the checksum is verified at the end
		return Clip{}, invalid("the .npz file is damaged: %w", err)
	}
	return clip, nil
}

// maxArrayBytes bounds one array of an .npz file.
const maxArrayBytes = 4 << 30

// ReadArrays reads the named arrays of an .npz file, uint8 and float32. Names that do not exist are left out of the
// result. The error is Invalid for a file that is damaged or contains other types.
func ReadArrays(path string, names []string) (map[string]plugins.Tensor, error) {
	z, err := zip.OpenReader(path)
	if err != nil {
		return nil, invalid("this is not an .npz file: %w", err)
	}
	defer z.Close()
	out := map[string]plugins.Tensor{}
	for _, f := range z.File {
		name := strings.TrimSuffix(f.Name, ".npy")
		if !slices.Contains(names, name) {
			continue
		}
		t, err := readArray(f)
		if err != nil {
			return nil, invalid("array %s: %w", name, err)
		}
		out[name] = t
	}
	return out, nil
}

func readArray(f *zip.File) (t plugins.Tensor, err error) {
	r, err := f.Open()
	if err != nil {
		return t, err
	}
	defer r.Close()
	h, err := readNpyHeader(r)
	if err != nil {
		return t, err
	}
	size := 1
	switch h.descr {
	case "|u1", "u1":
		t.DType = plugins.Uint8
	case "<f4":
		t.DType, size = plugins.Float32, 4
	default:
		return t, invalid("its numbers are %q, not uint8 or float32", h.descr)
	}
	n := h.elements()
	if h.Fortran || n < 0 || n > maxArrayBytes/size {
		return t, invalid("it has shape (%s), Fortran order %t", ShapeString(h.Shape), h.Fortran)
	}
	t.Shape, t.Data = h.Shape, make([]byte, 0, min(n*size, 1<<20))
	b := bytes.NewBuffer(t.Data)
	if _, err := io.CopyN(b, r, int64(n*size)); err != nil {
		return t, invalid("it ends before its %d numbers", n)
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // the checksum is verified at the end
		return t, err
	}
	t.Data = b.Bytes()
	return t, nil
}

// EncodeNPZ writes a tensor as a compressed .npz file with one array, which numpy.load reads (NEP 1, version 1.0).
// Errors: Invalid for an unsupported element type, and the errors of w.
func EncodeNPZ(w io.Writer, name string, t plugins.Tensor) error {
	return EncodeArrays(w, map[string]plugins.Tensor{name: t})
}

// EncodeArrays writes several arrays like [EncodeNPZ], in the order of their names.
func EncodeArrays(w io.Writer, arrays map[string]plugins.Tensor) error {
	z := zip.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(arrays)) {
		t := arrays[name]
		head, err := encodeNpyHeader(t)
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
