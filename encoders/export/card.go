package export

import (
	"encoding/json"
	"errors"
	"os"

	"github.com/srpo-dev/srpo/encoders/internal/model"
	"github.com/srpo-dev/srpo/plugins"
)

// Card describes an exported model. It is in the metadata of the file, under the key "srpo.encoder".
type Card = model.Card

// Verified reports how an exported model was compared with torch. It is in the metadata of the file, under the key
// "srpo.verified".
type Verified struct {
	// LargestRelativeDifference of an embedding to torch's: |a - b| / |b|, Euclidean.
	LargestRelativeDifference float64 `json:"largest_relative_difference"`
	Tolerance                 float64 `json:"tolerance"`
	Clips                     int     `json:"clips"`
	Batches                   []int   `json:"batches"` // their sizes
	Pictures                  string  `json:"pictures"`
	Half                      bool    `json:"half"`
	ONNXRuntime               string  `json:"onnxruntime"`
	SecondsPerClip            float64 `json:"seconds_a_clip"`
}

// ReadCard returns the card of an exported model without reading its weights. Errors: NotFound (the file cannot be
// opened), Invalid (it cannot be read), Corrupt (truncated, or not an ONNX file) and Mismatch (an ONNX file that srpo
// did not export, or one with a newer card).
func ReadCard(path string) (c Card, v Verified, err error) {
	fail := func(kind plugins.ErrorKind, format string, args ...any) (Card, Verified, error) {
		return c, v, plugins.Errorf(kind, format, args...).WithPlace("%s", path).
			WithHint("export it again: srpo encoder export NAME --model CHECKPOINT --out %s", path)
	}
	metadata, err := readMetadata(path)
	switch {
	case errors.Is(err, model.ErrNotONNX), errors.Is(err, model.ErrTruncated):
		return fail(plugins.Corrupt, "%w", err)
	case err != nil:
		return c, v, err
	}
	text, ok := metadata[model.CardKey]
	if !ok {
		return fail(plugins.Mismatch, "srpo did not export the file: it has no %s in its metadata", model.CardKey)
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return fail(plugins.Corrupt, "invalid model card: %w", err)
	}
	if c.Format != model.CardFormat {
		return fail(plugins.Mismatch, "the model card has format %d, this srpo reads format %d",
			c.Format, model.CardFormat)
	}
	if text, ok := metadata["srpo.verified"]; ok {
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return fail(plugins.Corrupt, "invalid srpo.verified in its metadata: %w", err)
		}
	}
	return c, v, nil
}

// readMetadata returns the metadata of an ONNX file. Errors: those of [model.ReadMetadata], NotFound and Invalid.
func readMetadata(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, plugins.Errorf(plugins.NotFound, "%w", err).
			WithHint("give the .onnx file that srpo encoder export wrote")
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = errors.New("it is a folder")
	}
	var metadata map[string]string
	if err == nil {
		metadata, err = model.ReadMetadata(f, info.Size())
	}
	if err == nil || errors.Is(err, model.ErrNotONNX) || errors.Is(err, model.ErrTruncated) {
		return metadata, err
	}
	return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", path).WithHint("make the file readable")
}
