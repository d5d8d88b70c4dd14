package media

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// NpyHeader is what a .npy file says of its array (NumPy's format 1.0 to 3.0).
type NpyHeader struct {
	// descr is the element type, such as "|u1" or "<f4".
	descr   string
	Fortran bool
	Shape   []int
}

var (
	npyDescr   = regexp.MustCompile(`'descr':\s*'([^']*)'`)
	npyFortran = regexp.MustCompile(`'fortran_order':\s*(True|False)`)
	npyShape   = regexp.MustCompile(`'shape':\s*\(([^)]*)\)`)
)

// readNpyHeader reads the header and leaves r at the first element.
func readNpyHeader(r io.Reader) (h NpyHeader, err error) {
	head := make([]byte, 10)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:6]) != "\x93NUMPY" {
		return h, bad("this is no .npy array")
	}
	n := int(binary.LittleEndian.Uint16(head[8:]))
	if head[6] >= 2 {
		more := make([]byte, 2)
		if _, err := io.ReadFull(r, more); err != nil {
			return h, bad("the array ends in its header")
		}
		n = int(binary.LittleEndian.Uint32(append(head[8:10:10], more...)))
	}
	if n > 1<<16 {
		return h, bad("the array's header has %d bytes", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return h, bad("the array ends in its header")
	}
	descr, fortran, shape := npyDescr.FindSubmatch(text), npyFortran.FindSubmatch(text), npyShape.FindSubmatch(text)
	if descr == nil || fortran == nil || shape == nil {
		return h, bad("the array's header cannot be read: %q (an array of objects?)", strings.TrimSpace(string(text)))
	}
	h.descr, h.Fortran = string(descr[1]), string(fortran[1]) == "True"
	for _, w := range strings.Split(string(shape[1]), ",") {
		if w = strings.TrimSuffix(strings.TrimSpace(w), "L"); w == "" {
			continue
		}
		d, err := strconv.Atoi(w)
		if err != nil || d < 0 {
			return h, bad("the array's shape is (%s)", shape[1])
		}
		h.Shape = append(h.Shape, d)
	}
	return h, nil
}

// elements is the number of elements, -1 when it is beyond all bounds.
func (h NpyHeader) elements() int {
	n := 1
	for _, d := range h.Shape {
		if d != 0 && n > math.MaxInt/8/d {
			return -1
		}
		n *= d
	}
	return n
}

// clip checks that the array is a clip, uint8 [T, H, W, 3].
func (h NpyHeader) clip() error {
	switch {
	case len(h.Shape) != 4 || h.Shape[3] != 3:
		return bad("the array has shape %s, not frames x height x width x 3", ShapeString(h.Shape))
	case h.descr != "|u1" && h.descr != "u1":
		return bad("the array's numbers are %q, not uint8", h.descr)
	case h.Fortran:
		return bad("the array is in Fortran order; save numpy.ascontiguousarray of it")
	case h.Shape[0] == 0:
		return bad("the video is empty: it has no frame")
	case h.Shape[1] == 0 || h.Shape[2] == 0:
		return bad("the video has no pixels: %s", ShapeString(h.Shape))
	}
	return nil
}

func ShapeString(shape []int) string {
	words := make([]string, len(shape))
	for i, d := range shape {
		words[i] = strconv.Itoa(d)
	}
	return strings.Join(words, " x ")
}

// bad is what is wrong with a single file; it becomes an attempt's problem.
func bad(format string, args ...any) error { return plugins.Errorf(plugins.Invalid, format, args...) }

// ReadVector reads an array of one dimension (or 1 x N), float32, float64 or float16.
func ReadVector(path string) ([]float64, error) {
	h, numbers, err := ReadFloats(path)
	if err != nil {
		return nil, err
	}
	long := 0
	for _, d := range h.Shape {
		if d > 1 {
			long++
		}
	}
	if long > 1 || len(numbers) == 0 {
		return nil, bad("the array has shape (%s), not one vector", ShapeString(h.Shape))
	}
	return numbers, nil
}

// ReadFloats reads an array of floats of any shape, up to 2^28 of them.
func ReadFloats(path string) (h NpyHeader, out []float64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, nil, bad("it is not there")
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	if h, err = readNpyHeader(r); err != nil {
		return h, nil, err
	}
	n := h.elements()
	size := map[string]int{"<f2": 2, "<f4": 4, "<f8": 8}[h.descr]
	switch info, err := f.Stat(); {
	case size == 0:
		return h, nil, bad("the array's numbers are %q, not little-endian floats", h.descr)
	case n < 0 || n > 1<<28:
		return h, nil, bad("the array has shape (%s), which is too large", ShapeString(h.Shape))
	case err != nil || int64(n*size) > info.Size():
		return h, nil, bad("the array ends before its %d numbers", n)
	}
	data := make([]byte, n*size)
	if _, err := io.ReadFull(r, data); err != nil {
		return h, nil, bad("the array ends before its %d numbers", n)
	}
	out = make([]float64, n)
	for i := range out {
		switch size {
		case 2:
			out[i] = half(binary.LittleEndian.Uint16(data[2*i:]))
		case 4:
			out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
		default:
			out[i] = math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:]))
		}
	}
	return h, out, nil
}

// mostArray bounds one array of an .npz, bytes.
const mostArray = 4 << 30

// ReadArrays reads arrays of an .npz by name, uint8 and float32; those that are not there are left out. Errors: Invalid for a file that is damaged or holds
// something else.
func ReadArrays(path string, names []string) (map[string]plugins.Tensor, error) {
	z, err := zip.OpenReader(path)
	if err != nil {
		return nil, bad("this is no .npz file: %w", err)
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
			return nil, bad("array %s: %w", name, err)
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
		return t, bad("its numbers are %q, not uint8 or float32", h.descr)
	}
	n := h.elements()
	if h.Fortran || n < 0 || n > mostArray/size {
		return t, bad("it has shape (%s), Fortran order %t", ShapeString(h.Shape), h.Fortran)
	}
	t.Shape, t.Data = h.Shape, make([]byte, 0, min(n*size, 1<<20))
	b := bytes.NewBuffer(t.Data)
	if _, err := io.CopyN(b, r, int64(n*size)); err != nil {
		return t, bad("it ends before its %d numbers", n)
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // the checksum is compared at the end
		return t, err
	}
	t.Data = b.Bytes()
	return t, nil
}

// half is the value of an IEEE 754 binary16.
func half(b uint16) float64 {
	sign, exponent, fraction := 1.0, int(b>>10&31), float64(b&1023)
	if b>>15 != 0 {
		sign = -1
	}
	switch exponent {
	case 0:
		return sign * math.Ldexp(fraction, -24)
	case 31:
		if fraction != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}
