package export

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/srpo-dev/srpo/plugins"
)

// Card is what an exported model says of itself, under the key "srpo.encoder" of its metadata.
type Card struct {
	// Format of the card, 1.
	Format int    `json:"format"`
	Family string `json:"family"`
	// Source is the checkpoint's folder or hub id, Revision the hub's, SHA256 over its weight files.
	Source   string `json:"source"`
	Revision string `json:"revision"`
	SHA256   string `json:"sha256"`
	Exporter string `json:"exporter"`
	Licence  string `json:"licence,omitempty"`
	// Dimension of an embedding; Frames a clip, 1: frame by frame.
	Dimension int `json:"dimension"`
	Frames    int `json:"frames"`
	Input     struct {
		Name   string `json:"name"`
		Layout string `json:"layout"`
		Height int    `json:"height"`
		Width  int    `json:"width"`
		DType  string `json:"dtype"`
	} `json:"input"`
	// Outputs by their meaning: mean, cls, patches. Each is float32 [B, Dimension].
	Outputs       map[string]string `json:"outputs"`
	DefaultOutput string            `json:"default_output"`
	Preprocess    struct {
		Resize        int        `json:"resize"`
		ResizeMode    string     `json:"resize_mode"`
		Interpolation string     `json:"interpolation"`
		Antialias     bool       `json:"antialias"`
		Crop          int        `json:"crop"`
		Rescale       float64    `json:"rescale"`
		Mean          [3]float64 `json:"mean"`
		Std           [3]float64 `json:"std"`
	} `json:"preprocess"`
}

// Verified says how an exported model was compared with torch, under the key "srpo.verified".
type Verified struct {
	// LargestRelativeDifference of an embedding to torch's: |a - b| / |b|, Euclidean.
	LargestRelativeDifference float64 `json:"largest_relative_difference"`
	Tolerance                 float64 `json:"tolerance"`
	Clips                     int     `json:"clips"`
	Batches                   []int   `json:"batches"`
	Pictures                  string  `json:"pictures"`
	Half                      bool    `json:"half"`
	ONNXRuntime               string  `json:"onnxruntime"`
	SecondsAClip              float64 `json:"seconds_a_clip"`
}

// The fields of ONNX's ModelProto and StringStringEntryProto that matter here (onnx.proto).
const (
	modelMetadata = 14
	entryKey      = 1
	entryValue    = 2
	// maxMetadata bounds an entry, bytes.
	maxMetadata = 1 << 20
)

// ReadCard reads the card of an exported model without reading its weights. Errors: NotFound (no such file), Corrupt
// (no ONNX file, or cut off), Mismatch (an ONNX file that srpo did not export, or one of a newer format).
func ReadCard(path string) (Card, Verified, error) {
	var c Card
	var v Verified
	fail := func(kind plugins.ErrorKind, format string, args ...any) (Card, Verified, error) {
		return c, v, plugins.Errorf(kind, format, args...).WithPlace("%s", path).
			WithHint("export it again: srpo encoder export NAME --model CHECKPOINT --out %s", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return c, v, plugins.Errorf(plugins.NotFound, "%w", err).
			WithHint("give the .onnx file that srpo encoder export wrote")
	}
	defer f.Close()
	meta, err := metadata(f)
	switch {
	case errors.Is(err, errNotONNX), errors.Is(err, io.ErrUnexpectedEOF):
		return fail(plugins.Corrupt, "%w", err)
	case err != nil:
		return c, v, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", path).
			WithHint("see that the file can be read")
	}
	text, ok := meta["srpo.encoder"]
	if !ok {
		return fail(plugins.Mismatch, "the file has no srpo.encoder in its metadata: srpo did not export it")
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return fail(plugins.Corrupt, "its card: %w", err)
	}
	if c.Format != 1 {
		return fail(plugins.Mismatch, "its card has format %d, this srpo reads 1", c.Format)
	}
	if text, ok := meta["srpo.verified"]; ok {
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return fail(plugins.Corrupt, "how it was verified: %w", err)
		}
	}
	return c, v, nil
}

var errNotONNX = errors.New("it is no ONNX file")

// metadata reads the metadata of a ModelProto and skips everything else.
func metadata(f *os.File) (map[string]string, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, errors.New("it is a folder")
	}
	r := &fields{file: f, buffered: bufio.NewReaderSize(f, 1<<16), left: info.Size()}
	out := map[string]string{}
	seen := 0
	for r.left > 0 {
		number, kind, err := r.tag()
		if err != nil {
			return nil, err
		}
		// ModelProto has varints and length-prefixed fields with small numbers only.
		if number > 100 || kind != protowire.VarintType && kind != protowire.BytesType {
			return nil, errNotONNX
		}
		n, err := r.varint()
		if err != nil {
			return nil, err
		}
		seen++
		if kind == protowire.VarintType {
			continue
		}
		if n > uint64(r.left) {
			return nil, fmt.Errorf("it is cut off: %w", io.ErrUnexpectedEOF)
		}
		if number != modelMetadata {
			if err := r.skip(int64(n)); err != nil {
				return nil, err
			}
			continue
		}
		if n > maxMetadata {
			return nil, errNotONNX
		}
		entry := make([]byte, n)
		if _, err := io.ReadFull(r.buffered, entry); err != nil {
			return nil, err
		}
		r.left -= int64(n)
		key, value, err := pair(entry)
		if err != nil {
			return nil, err
		}
		out[key] = value
	}
	if seen == 0 {
		return nil, errNotONNX
	}
	return out, nil
}

// fields reads a message's fields one after the other; left bytes are still to come.
type fields struct {
	file     *os.File
	buffered *bufio.Reader
	left     int64
}

func (r *fields) varint() (uint64, error) {
	n, err := binary.ReadUvarint(count{r})
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, fmt.Errorf("it is cut off: %w", io.ErrUnexpectedEOF)
	}
	if err != nil { // longer than 64 bits
		return 0, errNotONNX
	}
	return n, nil
}

func (r *fields) tag() (protowire.Number, protowire.Type, error) {
	n, err := r.varint()
	if err != nil {
		return 0, 0, err
	}
	number, kind := protowire.DecodeTag(n)
	if number < 1 {
		return 0, 0, errNotONNX
	}
	return number, kind, nil
}

// skip passes over n bytes, large fields without reading them.
func (r *fields) skip(n int64) error {
	r.left -= n
	if held := int64(r.buffered.Buffered()); n > held {
		if _, err := r.file.Seek(n-held, io.SeekCurrent); err != nil {
			return err
		}
		r.buffered.Reset(r.file)
		return nil
	}
	_, err := r.buffered.Discard(int(n))
	return err
}

// count takes each byte that is read off what is left.
type count struct{ r *fields }

func (c count) ReadByte() (byte, error) {
	b, err := c.r.buffered.ReadByte()
	if err == nil {
		c.r.left--
	}
	return b, err
}

// pair decodes a StringStringEntryProto.
func pair(entry []byte) (key, value string, err error) {
	for len(entry) > 0 {
		number, kind, n := protowire.ConsumeTag(entry)
		if n < 0 || kind != protowire.BytesType {
			return "", "", errNotONNX
		}
		text, m := protowire.ConsumeBytes(entry[n:])
		if m < 0 {
			return "", "", errNotONNX
		}
		switch number {
		case entryKey:
			key = string(text)
		case entryValue:
			value = string(text)
		}
		entry = entry[n+m:]
	}
	return key, value, nil
}
