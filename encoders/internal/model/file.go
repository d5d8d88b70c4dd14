package model

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/srpo-dev/srpo/plugins"
)

// File describes a model file that is not loaded. ONNX Runtime would read the whole model to get the same information,
// which is 4 GB for ViT-g.
type File struct {
	Path            string
	Metadata        map[string]string
	Inputs, Outputs []string
	// Types are the element types of inputs and outputs by name, in the numbering of TensorProto.DataType.
	Types map[string]int
	// Bytes is the size of the file and of the weight files next to it.
	Bytes int64
	// HalfBytes is the size of the weights in half precision.
	HalfBytes int64
	// External are the weight files, relative to the folder of the model file.
	External []string
}

// Inspect reads the names and the metadata of a model file, and checks that it and its weight files are complete.
// Errors: NotFound, Invalid (not a regular file) and Corrupt (truncated, or not an ONNX model).
func Inspect(path string) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			abs, _ := filepath.Abs(path)
			return nil, plugins.Errorf(plugins.NotFound, "there is no model file %s", abs).
				WithHint("correct the setting model")
		}
		return nil, plugins.Errorf(plugins.NotFound, "cannot open the model file: %w", err).
			WithHint("make it readable, or correct the setting model")
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, plugins.Errorf(plugins.Invalid, "%s is not a file", path).
			WithHint("set the setting model to the path of an .onnx file")
	}
	f := &File{Path: path, Metadata: map[string]string{}, Types: map[string]int{}, Bytes: info.Size()}
	s := &scanner{r: r, file: f, sizes: map[string]int64{}}
	err = s.model(info.Size(), true)
	switch {
	case errors.Is(err, ErrTruncated):
		return nil, plugins.Errorf(plugins.Corrupt,
			"the model file %s is truncated: it ends in the middle of its graph, after %d bytes", path, info.Size()).
			WithHint("copy it again, or export it again")
	case errors.Is(err, ErrNotONNX):
		return nil, plugins.Errorf(plugins.Corrupt, "%s is not an ONNX model: %w", path, err).
			WithHint("set the setting model to the path of a complete .onnx file")
	case err != nil:
		return nil, plugins.Errorf(plugins.Corrupt, "reading the model file %s: %w", path, err).
			WithHint("check that the file is complete and readable")
	case !s.graph:
		return nil, plugins.Errorf(plugins.Corrupt, "%s is not an ONNX model: it has no graph", path).
			WithHint("set the setting model to the path of an .onnx file")
	}
	return f, f.checkExternal(s.sizes)
}

// checkExternal checks that the weight files exist and have at least the given sizes, and adds them to f.
func (f *File) checkExternal(sizes map[string]int64) error {
	for name, size := range sizes {
		path := filepath.Join(filepath.Dir(f.Path), filepath.FromSlash(name))
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return plugins.Errorf(plugins.Corrupt,
				"the model file %s refers to a weight file outside of its folder: %q", f.Path, name).
				WithHint("export the model file again")
		}
		info, err := os.Stat(path)
		if err != nil {
			return plugins.Errorf(plugins.NotFound, "the weight file %s of the model %s is missing", name, f.Path).
				WithHint("put it next to the model file")
		}
		if info.Size() < size {
			return plugins.Errorf(plugins.Corrupt,
				"the weight file %s is truncated: %d bytes instead of %d", path, info.Size(), size).
				WithHint("copy the file again, or export the model again")
		}
		f.External = append(f.External, name)
		f.Bytes += info.Size()
	}
	return nil
}

// ReadMetadata returns the metadata of an ONNX file of size bytes, without reading its graph. Errors: [ErrTruncated],
// [ErrNotONNX] and those of r.
func ReadMetadata(r io.ReaderAt, size int64) (map[string]string, error) {
	if size == 0 {
		return nil, ErrNotONNX
	}
	f := &File{Metadata: map[string]string{}}
	s := &scanner{r: r, file: f}
	return f.Metadata, s.model(size, false)
}

// Errors of files that are not complete ONNX files.
var (
	ErrTruncated = errors.New("it is truncated")
	ErrNotONNX   = errors.New("it is not an ONNX file")
)

// scanner reads the needed messages of a ModelProto and skips the others. Field numbers are those of onnx.proto.
type scanner struct {
	r     io.ReaderAt
	file  *File
	graph bool             // the file has a graph
	sizes map[string]int64 // minimum size of each weight file
}

const (
	modelGraph, modelMetadata                 = 7, 14
	graphInitializer, graphInput, graphOutput = 5, 11, 12
	tensorElement, tensorRaw, tensorExternal  = 2, 9, 13
	entryKey, entryValue                      = 1, 2
	infoName, infoType, tensorType, elementOf = 1, 2, 1, 1
	typeFloat, typeHalf                       = 1, 10
)

// maxText bounds the length of names and metadata, in bytes.
const maxText = 1 << 22

// visitor is called with a field of a message. The content of a length-delimited field is the n bytes at offset at; the
// value of a varint field is encoded there.
type visitor func(number protowire.Number, kind protowire.Type, at, n int64) error

// fields calls visit for each field of the message in the bytes from to to-1.
func (s *scanner) fields(from, to int64, visit visitor) error {
	var head [20]byte
	for from < to {
		n, err := s.r.ReadAt(head[:min(int64(len(head)), to-from)], from)
		if n == 0 {
			return err
		}
		number, kind, size := protowire.ConsumeTag(head[:n])
		if size < 0 {
			return fmt.Errorf("%w at byte %d", parseError(size), from)
		}
		at, length := from+int64(size), int64(0)
		switch kind {
		case protowire.VarintType, protowire.BytesType:
			value, size := protowire.ConsumeVarint(head[size:n])
			if size < 0 {
				return fmt.Errorf("%w at byte %d", parseError(size), from)
			}
			length = int64(size)
			if kind == protowire.BytesType {
				at, length = at+int64(size), int64(value)
			}
		case protowire.Fixed32Type:
			length = 4
		case protowire.Fixed64Type:
			length = 8
		default:
			return fmt.Errorf("%w at byte %d", ErrNotONNX, from)
		}
		if length < 0 || length > to-at {
			return ErrTruncated
		}
		if err := visit(number, kind, at, length); err != nil {
			return err
		}
		from = at + length
	}
	return nil
}

// parseError returns the error for a negative length returned by protowire.
func parseError(n int) error {
	if errors.Is(protowire.ParseError(n), io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return ErrNotONNX
}

// text returns the n bytes at offset at.
func (s *scanner) text(at, n int64) (string, error) {
	if n > maxText {
		return "", fmt.Errorf("a text of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := s.r.ReadAt(b, at); err != nil && !(errors.Is(err, io.EOF) && n == 0) {
		return "", err
	}
	return string(b), nil
}

func (s *scanner) varint(at, n int64) (int, error) {
	text, err := s.text(at, n)
	v, _ := protowire.ConsumeVarint([]byte(text))
	return int(v), err
}

// model reads the metadata of a ModelProto of size bytes and, if wanted, the names, types and weights of its graph.
func (s *scanner) model(size int64, graph bool) error {
	return s.fields(0, size, func(number protowire.Number, kind protowire.Type, at, n int64) error {
		switch {
		case number == modelGraph && kind == protowire.BytesType && graph:
			s.graph = true
			return s.inGraph(at, n)
		case number == modelMetadata && kind == protowire.BytesType:
			key, value, err := s.entry(at, n)
			s.file.Metadata[key] = value
			return err
		}
		return nil
	})
}

func (s *scanner) inGraph(at, n int64) error {
	return s.fields(at, at+n, func(number protowire.Number, _ protowire.Type, at, n int64) error {
		switch number {
		case graphInitializer:
			return s.tensor(at, n)
		case graphInput:
			name, err := s.info(at, n)
			s.file.Inputs = append(s.file.Inputs, name)
			return err
		case graphOutput:
			name, err := s.info(at, n)
			s.file.Outputs = append(s.file.Outputs, name)
			return err
		}
		return nil
	})
}

// info returns the name of an input or output, a ValueInfoProto, and records its element type.
func (s *scanner) info(at, n int64) (name string, err error) {
	element := 0
	err = s.fields(at, at+n, func(number protowire.Number, kind protowire.Type, at, n int64) (err error) {
		switch {
		case number == infoName && kind == protowire.BytesType:
			name, err = s.text(at, n)
		case number == infoType && kind == protowire.BytesType:
			element, err = s.elementType(at, n)
		}
		return err
	})
	s.file.Types[name] = element
	return name, err
}

// elementType returns the element type of a tensor's TypeProto; 0: unknown.
func (s *scanner) elementType(at, n int64) (element int, err error) {
	err = s.fields(at, at+n, func(number protowire.Number, kind protowire.Type, at, n int64) error {
		if number != tensorType || kind != protowire.BytesType {
			return nil
		}
		return s.fields(at, at+n, func(number protowire.Number, kind protowire.Type, at, n int64) (err error) {
			if number == elementOf && kind == protowire.VarintType {
				element, err = s.varint(at, n)
			}
			return err
		})
	})
	return element, err
}

// tensor records the size of a weight in half precision, and the weight file of a weight outside of the model file.
func (s *scanner) tensor(at, n int64) error {
	external := map[string]string{} // location, offset and length
	element, size := 0, int64(0)
	err := s.fields(at, at+n, func(number protowire.Number, kind protowire.Type, at, n int64) (err error) {
		switch {
		case number == tensorElement && kind == protowire.VarintType:
			element, err = s.varint(at, n)
		case number == tensorRaw && kind == protowire.BytesType:
			size = n
		case number == tensorExternal && kind == protowire.BytesType:
			var key, value string
			key, value, err = s.entry(at, n)
			external[key] = value
		}
		return err
	})
	if name := external["location"]; name != "" && err == nil {
		number := func(key string) int64 {
			v, _ := strconv.ParseInt(strings.TrimSpace(external[key]), 10, 64)
			return v
		}
		size = number("length")
		s.sizes[name] = max(s.sizes[name], number("offset")+size)
	}
	if element == typeHalf {
		s.file.HalfBytes += size
	}
	return err
}

// entry returns the key and the value of a StringStringEntryProto.
func (s *scanner) entry(at, n int64) (key, value string, err error) {
	err = s.fields(at, at+n, func(number protowire.Number, kind protowire.Type, at, n int64) (err error) {
		switch {
		case kind != protowire.BytesType:
		case number == entryKey:
			key, err = s.text(at, n)
		case number == entryValue:
			value, err = s.text(at, n)
		}
		return err
	})
	return key, value, err
}
