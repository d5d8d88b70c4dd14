package plugins

import (
	"encoding/binary"
	"math"
)

// DType is the type of a tensor's elements, in the order of srpo.v1.DType.
type DType int

// The element types.
const (
	Uint8 DType = iota + 1
	Float32
	Float64
	Int64
)

// Size returns the number of bytes of an element, or 0 for an unknown type.
func (d DType) Size() int {
	switch d {
	case Uint8:
		return 1
	case Float32:
		return 4
	case Float64, Int64:
		return 8
	}
	return 0
}

func (d DType) String() string {
	switch d {
	case Uint8:
		return "uint8"
	case Float32:
		return "float32"
	case Float64:
		return "float64"
	case Int64:
		return "int64"
	}
	return "unknown"
}

// Tensor is a dense array in C order, little-endian. Data can alias shared memory that is valid during one call
// only: use [Tensor.Clone] to keep it.
type Tensor struct {
	DType DType
	Shape []int
	Data  []byte
}

// MaxElements bounds the number of elements of a tensor that a plugin sends, so that a bad shape cannot make the
// host allocate without limit.
const MaxElements = 1 << 30

// Elements returns the product of the shape, or -1 if a dimension is negative or the product is above [MaxElements].
func Elements(shape []int) int {
	n := 1
	for _, d := range shape {
		if d < 0 || d > MaxElements {
			return -1
		}
		if n *= d; n > MaxElements {
			return -1
		}
	}
	return n
}

// IsZero reports whether t is the zero value, which means that there is no tensor.
func (t Tensor) IsZero() bool { return t.DType == 0 && t.Data == nil }

// Check returns an error of kind [Corrupt] unless t has the element type and the shape. A -1 in shape matches any
// size.
func (t Tensor) Check(what string, d DType, shape ...int) error {
	ok := t.DType == d && len(t.Shape) == len(shape)
	for i := 0; ok && i < len(shape); i++ {
		ok = shape[i] == -1 || shape[i] == t.Shape[i]
	}
	if !ok {
		return Errorf(Corrupt, "%s is %v %v, want %v %v (-1: any)", what, t.DType, t.Shape, d, shape)
	}
	if n := Elements(t.Shape); n < 0 || n*d.Size() != len(t.Data) {
		return Errorf(Corrupt, "%s has shape %v but %d bytes", what, t.Shape, len(t.Data))
	}
	return nil
}

// Clone returns a copy of t with its own data.
func (t Tensor) Clone() Tensor {
	t.Data = append([]byte(nil), t.Data...)
	t.Shape = append([]int(nil), t.Shape...)
	return t
}

// Bytes makes a uint8 tensor that aliases data.
func Bytes(data []byte, shape ...int) Tensor { return Tensor{DType: Uint8, Shape: shape, Data: data} }

// Floats makes a float32 tensor with a copy of v. Without a shape it has one dimension.
func Floats(v []float32, shape ...int) Tensor {
	if len(shape) == 0 {
		shape = []int{len(v)}
	}
	b := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(x))
	}
	return Tensor{DType: Float32, Shape: shape, Data: b}
}

// Float32s returns a copy of the elements of a float32 tensor, or nil for another type.
func (t Tensor) Float32s() []float32 {
	if t.DType != Float32 {
		return nil
	}
	v := make([]float32, len(t.Data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
	}
	return v
}
