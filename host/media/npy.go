package media

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

// openNpy reads a clip from a .npy file, uint8 [T, H, W, 3].
func openNpy(path string) (Clip, error) {
	f, err := os.Open(path)
	if err != nil {
		return Clip{}, invalid("it cannot be read: %w", err)
	}
	defer f.Close()
	return readNpy(bufio.NewReaderSize(f, 1<<20))
}

func readNpy(r *bufio.Reader) (Clip, error) {
	h, err := readNpyHeader(r)
	if err != nil {
		return Clip{}, err
	}
	if err := h.clip(); err != nil {
		return Clip{}, err
	}
	height, width := h.Shape[1], h.Shape[2]
	if height > 1<<16 || width > 1<<16 || height*width*3 > MaxBytes { // before memory is allocated
		return Clip{}, invalid("its frames are too large: %d x %d pixels", width, height)
	}
	t := &frameSampler{bounds: defaultBounds}
	size := height * width * 3
	for n := range h.Shape[0] {
		if t.skipsNext() && n < h.Shape[0]-1 {
			if _, err := r.Discard(size); err != nil {
				return Clip{}, invalid("the array ends at frame %d of %d", n+1, h.Shape[0])
			}
			t.seen++
			continue
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(r, frame); err != nil {
			return Clip{}, invalid("the array ends at frame %d of %d", n+1, h.Shape[0])
		}
		if err := t.add(height, width, frame); err != nil {
			return Clip{}, err
		}
	}
	return t.clip()
}

// NpyHeader describes the array of a .npy file (NumPy's format 1.0 to 3.0).
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
		return h, invalid("this is not a .npy array")
	}
	n := int(binary.LittleEndian.Uint16(head[8:]))
	if head[6] >= 2 {
		more := make([]byte, 2)
		if _, err := io.ReadFull(r, more); err != nil {
			return h, invalid("the array ends in its header")
		}
		n = int(binary.LittleEndian.Uint32(append(head[8:10:10], more...)))
	}
	if n > 1<<16 {
		return h, invalid("the array's header has %d bytes", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return h, invalid("the array ends in its header")
	}
	descr, fortran, shape := npyDescr.FindSubmatch(text), npyFortran.FindSubmatch(text), npyShape.FindSubmatch(text)
	if descr == nil || fortran == nil || shape == nil {
		return h, invalid("the array's header cannot be read: %q (an array of objects?)",
			strings.TrimSpace(string(text)))
	}
	h.descr, h.Fortran = string(descr[1]), string(fortran[1]) == "True"
	for _, w := range strings.Split(string(shape[1]), ",") {
		if w = strings.TrimSuffix(strings.TrimSpace(w), "L"); w == "" {
			continue
		}
		d, err := strconv.Atoi(w)
		if err != nil || d < 0 {
			return h, invalid("the array's shape is (%s)", shape[1])
		}
		h.Shape = append(h.Shape, d)
	}
	return h, nil
}

// elements returns the number of elements, -1 when it overflows.
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
		return invalid("the array has shape %s, not frames x height x width x 3", ShapeString(h.Shape))
	case h.descr != "|u1" && h.descr != "u1":
		return invalid("the array's numbers are %q, not uint8", h.descr)
	case h.Fortran:
		return invalid("the array is in Fortran order; save numpy.ascontiguousarray of it")
	case h.Shape[0] == 0:
		return invalid("the video is empty: it has no frame")
	case h.Shape[1] == 0 || h.Shape[2] == 0:
		return invalid("the video has no pixels: %s", ShapeString(h.Shape))
	}
	return nil
}

func ShapeString(shape []int) string {
	dims := make([]string, len(shape))
	for i, d := range shape {
		dims[i] = strconv.Itoa(d)
	}
	return strings.Join(dims, " x ")
}

// invalid returns the error of one file that cannot be used. Its message becomes the problem of an attempt.
func invalid(format string, args ...any) error {
	return plugins.Errorf(plugins.Invalid, format, args...)
}

// ReadVector reads a .npy file with one vector, shape [N] or [1, N], of type float16, float32 or float64.
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
		return nil, invalid("the array has shape (%s), not one vector", ShapeString(h.Shape))
	}
	return numbers, nil
}

// ReadFloats reads a .npy file with an array of any shape and up to 2^28 numbers of type float16, float32 or float64.
func ReadFloats(path string) (h NpyHeader, out []float64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, nil, invalid("it does not exist")
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
		return h, nil, invalid("the array's numbers are %q, not little-endian floats", h.descr)
	case n < 0 || n > 1<<28:
		return h, nil, invalid("the array has shape (%s), which is too large", ShapeString(h.Shape))
	case err != nil || int64(n*size) > info.Size():
		return h, nil, invalid("the array ends before its %d numbers", n)
	}
	data := make([]byte, n*size)
	if _, err := io.ReadFull(r, data); err != nil {
		return h, nil, invalid("the array ends before its %d numbers", n)
	}
	out = make([]float64, n)
	for i := range out {
		switch size {
		case 2:
			out[i] = float16(binary.LittleEndian.Uint16(data[2*i:]))
		case 4:
			out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
		default:
			out[i] = math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:]))
		}
	}
	return h, out, nil
}

// float16 returns the value of an IEEE 754 binary16.
func float16(b uint16) float64 {
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

// npyTypes are NumPy's names of the element types of tensors.
var npyTypes = map[plugins.DType]string{plugins.Uint8: "|u1", plugins.Float32: "<f4"}

func encodeNpyHeader(t plugins.Tensor) ([]byte, error) {
	kind, ok := npyTypes[t.DType]
	if !ok {
		return nil, plugins.Errorf(plugins.Invalid, "a tensor of type %v cannot be written as .npz", t.DType).
			WithHint("convert it to uint8 or float32")
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
