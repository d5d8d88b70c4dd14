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

// File is what can be known of a model file without loading it. ONNX Runtime reads the whole model for the same; of
// ViT-g that is 4 GB.
type File struct {
	Path            string
	Metadata        map[string]string
	Inputs, Outputs []string
	// Types are the element types of inputs and outputs by name, as TensorProto.DataType counts them.
	Types map[string]int
	// Bytes of the file and of the files beside it that hold weights.
	Bytes int64
	// HalfBytes of them are weights in half precision.
	HalfBytes int64
	// External are the files beside it, relative to its folder.
	External []string
}

// Inspect reads a model file's names and metadata, and sees that it and the weights beside it are as long as they
// say. Errors: NotFound, and Corrupt for what is cut short or no ONNX file.
func Inspect(path string) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			abs, _ := filepath.Abs(path)
			return nil, plugins.Errorf(plugins.NotFound, "there is no model file %s", abs).
				WithHint("correct the setting model")
		}
		return nil, plugins.Errorf(plugins.NotFound, "the model file: %w", err).
			WithHint("make it readable, or correct the setting model")
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, plugins.Errorf(plugins.Invalid, "%s is not a file", path).
			WithHint("the setting model wants the path of an .onnx file")
	}
	f := &File{Path: path, Metadata: map[string]string{}, Types: map[string]int{}, Bytes: info.Size()}
	s := &scanner{r: r, file: f, external: map[string]int64{}}
	err = s.model(info.Size())
	switch {
	case errors.Is(err, errCut):
		return nil, plugins.Errorf(
			plugins.Corrupt, "the model file %s is cut short: it ends in the middle of its graph, after %d bytes", path,
			info.Size(),
		).WithHint("copy it again, or make it anew")
	case errors.Is(err, errForeign):
		return nil, plugins.Errorf(plugins.Corrupt, "%s is not an ONNX model: %w", path, err).
			WithHint("the setting model wants the path of an .onnx file, whole and undamaged")
	case err != nil:
		return nil, plugins.Errorf(plugins.Corrupt, "reading the model file %s: %w", path, err).
			WithHint("see that the file is whole and readable")
	case !s.graph:
		return nil, plugins.Errorf(plugins.Corrupt, "%s is not an ONNX model", path).
			WithHint("the setting model wants the path of an .onnx file")
	}
	for name, need := range s.external {
		beside := filepath.Join(filepath.Dir(path), filepath.FromSlash(name))
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return nil, plugins.Errorf(plugins.Corrupt,
				"the model file %s wants its weights from %q, outside of its folder", path, name).
				WithHint("make it anew")
		}
		info, err := os.Stat(beside)
		if err != nil {
			return nil, plugins.Errorf(plugins.NotFound,
				"the weights of %s lie in a second file, %s, which is not there", path, name).
				WithHint("put it beside the model file")
		}
		if info.Size() < need {
			return nil, plugins.Errorf(plugins.Corrupt,
				"the weights in %s are cut short: %d bytes instead of %d", beside, info.Size(), need).
				WithHint("copy the file again, or make it anew")
		}
		f.External = append(f.External, name)
		f.Bytes += info.Size()
	}
	return f, nil
}

// errCut says that a message is longer than what holds it, errForeign that it is none.
var (
	errCut     = errors.New("cut short")
	errForeign = errors.New("no protocol buffer")
)

// scanner reads the messages of a ModelProto that are needed, and jumps over the others. Field numbers are those of
// onnx.proto.
type scanner struct {
	r     io.ReaderAt
	file  *File
	graph bool
	// external are the files with weights and how long they must be.
	external map[string]int64
}

const (
	modelGraph, modelMetadata                 = 7, 14
	graphInitializer, graphInput, graphOutput = 5, 11, 12
	tensorElement, tensorRaw, tensorExternal  = 2, 9, 13
	entryKey, entryValue                      = 1, 2
	infoName, infoType, tensorType, elementOf = 1, 2, 1, 1
	typeFloat, typeHalf                       = 1, 10
)

// maxText bounds names and metadata.
const maxText = 1 << 22

// fields calls f for each field of the message in bytes from to to; of a length-delimited one at and n are its content.
func (s *scanner) fields(
	from, to int64, f func(number protowire.Number, kind protowire.Type, at, n int64) error,
) error {
	var head [20]byte
	for from < to {
		n, err := s.r.ReadAt(head[:min(int64(len(head)), to-from)], from)
		if n == 0 {
			return err
		}
		number, kind, size := protowire.ConsumeTag(head[:n])
		if size < 0 {
			return fmt.Errorf("%w at byte %d", errForeign, from)
		}
		at, length := from+int64(size), int64(0)
		switch kind {
		case protowire.VarintType:
			_, v := protowire.ConsumeVarint(head[size:n])
			if v < 0 {
				return errCut
			}
			length = int64(v)
		case protowire.Fixed32Type:
			length = 4
		case protowire.Fixed64Type:
			length = 8
		case protowire.BytesType:
			l, v := protowire.ConsumeVarint(head[size:n])
			if v < 0 {
				return errCut
			}
			at, length = at+int64(v), int64(l)
		default:
			return fmt.Errorf("%w at byte %d", errForeign, from)
		}
		if length < 0 || length > to-at {
			return errCut
		}
		if err := f(number, kind, at, length); err != nil {
			return err
		}
		from = at + length
	}
	return nil
}

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

func (s *scanner) model(size int64) error {
	return s.fields(0, size, func(number protowire.Number, kind protowire.Type, at, n int64) error {
		switch {
		case number == modelGraph && kind == protowire.BytesType:
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

// info reads the name of an input or output and notes its element type.
func (s *scanner) info(at, n int64) (name string, err error) {
	element := 0
	err = s.fields(at, at+n, func(number protowire.Number, kind protowire.Type, at, n int64) (err error) {
		switch {
		case number == infoName && kind == protowire.BytesType:
			name, err = s.text(at, n)
		case number == infoType && kind == protowire.BytesType:
			err = s.fields(at, at+n, func(number protowire.Number, kind protowire.Type, at, n int64) error {
				if number != tensorType || kind != protowire.BytesType {
					return nil
				}
				return s.fields(at, at+n, func(number protowire.Number, kind protowire.Type, at, n int64) error {
					if number != elementOf || kind != protowire.VarintType {
						return nil
					}
					element, err = s.varint(at, n)
					return err
				})
			})
		}
		return err
	})
	s.file.Types[name] = element
	return name, err
}

// tensor notes how long a weight is in half precision, and where it lies if not in the file.
func (s *scanner) tensor(at, n int64) error {
	where := map[string]string{}
	element, inside := 0, int64(0)
	err := s.fields(at, at+n, func(number protowire.Number, kind protowire.Type, at, n int64) (err error) {
		switch {
		case number == tensorElement && kind == protowire.VarintType:
			element, err = s.varint(at, n)
		case number == tensorRaw && kind == protowire.BytesType:
			inside = n
		case number == tensorExternal && kind == protowire.BytesType:
			var key, value string
			key, value, err = s.entry(at, n)
			where[key] = value
		}
		return err
	})
	if name := where["location"]; name != "" && err == nil {
		number := func(key string) int64 { v, _ := strconv.ParseInt(strings.TrimSpace(where[key]), 10, 64); return v }
		s.external[name] = max(s.external[name], number("offset")+number("length"))
		inside = number("length")
	}
	if element == typeHalf {
		s.file.HalfBytes += inside
	}
	return err
}

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
