package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/encoders/internal/frames"
	"github.com/srpo-dev/srpo/plugins"
)

// CardKey is the key of the model card in the metadata of a model file.
const CardKey = "srpo.encoder"

// CardFormat is the format of model cards that this srpo reads.
const CardFormat = 1

// Card describes a model file. `srpo encoder export` writes it into the metadata of the file.
type Card struct {
	Format int `json:"format"`
	// Family is "vjepa2", "dinov2" or "efficientnet".
	Family string `json:"family"`
	// Source is the name of the checkpoint's folder or its hub id, Revision is the commit on the hub, and SHA256 covers
	// its weight files.
	Source   string `json:"source"`
	Revision string `json:"revision"`
	SHA256   string `json:"sha256"`
	Exporter string `json:"exporter"`
	Licence  string `json:"licence,omitempty"`
	// Dimension is the length of an embedding.
	Dimension int `json:"dimension"`
	// Frames is the number of frames of a clip; 1 if the network sees single frames.
	Frames int   `json:"frames"`
	Input  Input `json:"input"`
	// Outputs maps "mean", "cls" and "patches", as far as the family has them, to names of the graph's outputs. Each
	// output is [batch, Dimension].
	Outputs       map[string]string `json:"outputs"`
	DefaultOutput string            `json:"default_output"`
	Preprocess    frames.Recipe     `json:"preprocess"`

	text string
}

// Input is the only input of the graph.
type Input struct {
	Name string `json:"name"`
	// Layout is "BTCHW" for clips and "BCHW" for frames.
	Layout string `json:"layout"`
	Height int    `json:"height"`
	Width  int    `json:"width"`
	// DType is "float32" or "float16".
	DType string `json:"dtype"`
}

// Elements returns the number of input values of one clip or frame.
func (c Card) Elements() int { return c.Frames * 3 * c.Input.Height * c.Input.Width }

// remedy is a hint how to get a usable model file of a family.
func remedy(family string) string {
	if family == "efficientnet" {
		return "leave the setting out to use the model that the installation made, " +
			"or repair it: srpo plugin install generic --repair"
	}
	return fmt.Sprintf("make a model file: srpo encoder export %s --model CHECKPOINT", family)
}

// readCard returns the card in the metadata of a file, after checking it against the graph. Errors: Mismatch (no
// card, a newer format, or not the given family) and Corrupt.
func readCard(f *File, family string) (c Card, err error) {
	hint := remedy(family)
	text, ok := f.Metadata[CardKey]
	if !ok {
		return c, plugins.Errorf(plugins.Mismatch, "%s lacks the model card that srpo writes into its metadata",
			f.Path).WithHint("%s", hint)
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return c, plugins.Errorf(plugins.Corrupt, "the model card in %s: %w", f.Path, err).WithHint("%s", hint)
	}
	c.text = text
	if c.Format != CardFormat {
		return c, plugins.Errorf(plugins.Mismatch, "the model card in %s has format %d, this srpo reads format %d",
			f.Path, c.Format, CardFormat).WithHint("use the srpo that made it, or %s", hint)
	}
	if c.Family != family {
		return c, plugins.Errorf(plugins.Mismatch, "%s is a model of the family %s (%s), not %s",
			f.Path, c.Family, c.Source, family).
			WithHint("use it with the encoder %s, or %s", encoderOf(c.Family), hint)
	}
	err = c.check()
	if err == nil {
		err = c.checkGraph(f)
	}
	if err != nil {
		return c, plugins.Errorf(plugins.Corrupt, "the model card in %s: %w", f.Path, err).WithHint("%s", hint)
	}
	return c, nil
}

// check reports the first invalid field of the card.
func (c Card) check() error {
	layout := "BTCHW"
	if c.Frames == 1 && c.Input.Layout == "BCHW" {
		layout = "BCHW"
	}
	switch {
	case c.Dimension < 1 || c.Dimension > 1<<20:
		return fmt.Errorf("dimension %d", c.Dimension)
	case c.Frames < 1 || c.Frames > 4096:
		return fmt.Errorf("%d frames", c.Frames)
	case c.Input.Layout != layout:
		return fmt.Errorf("layout %q for clips of %d frames", c.Input.Layout, c.Frames)
	case c.Input.DType != "float32" && c.Input.DType != "float16":
		return fmt.Errorf("input of type %q", c.Input.DType)
	case c.Input.Height != c.Preprocess.Crop || c.Input.Width != c.Preprocess.Crop:
		return fmt.Errorf("an input of %d x %d for pictures of %d x %[3]d",
			c.Input.Height, c.Input.Width, c.Preprocess.Crop)
	case c.Outputs[c.DefaultOutput] == "":
		return fmt.Errorf("default_output %q is not one of %v", c.DefaultOutput, c.OutputNames())
	}
	if err := c.Preprocess.Check(); err != nil {
		return fmt.Errorf("preprocess: %w", err)
	}
	return nil
}

// checkGraph reports the first input or output of the card that differs from the graph of the file.
func (c Card) checkGraph(f *File) error {
	if !slices.Contains(f.Inputs, c.Input.Name) {
		return fmt.Errorf("the graph has no input %q, only %v", c.Input.Name, f.Inputs)
	}
	want := map[string]int{"float32": typeFloat, "float16": typeHalf}[c.Input.DType]
	if f.Types[c.Input.Name] != want {
		return fmt.Errorf("the input of the graph has the ONNX type %d, not %s", f.Types[c.Input.Name], c.Input.DType)
	}
	for kind, name := range c.Outputs {
		if !slices.Contains(f.Outputs, name) {
			return fmt.Errorf("the graph has no output %q (%s), only %v", name, kind, f.Outputs)
		}
		if actual := f.Types[name]; actual != typeFloat && actual != typeHalf {
			return fmt.Errorf("the output %q of the graph has the ONNX type %d, neither float32 nor float16",
				name, actual)
		}
	}
	return nil
}

// encoderOf returns the name of the encoder that runs models of a family.
func encoderOf(family string) string {
	if family == "efficientnet" {
		return "generic"
	}
	return family
}

// Hash returns the SHA-256 of the card's text in hexadecimal. The card includes the hash of the weights, so Hash
// changes whenever the embeddings may change.
func (c Card) Hash() string {
	sum := sha256.Sum256([]byte(c.text))
	return hex.EncodeToString(sum[:])
}

// OutputNames returns the keys of Outputs, sorted.
func (c Card) OutputNames() []string { return slices.Sorted(maps.Keys(c.Outputs)) }

// String names the model for logs and errors.
func (c Card) String() string {
	parts := []string{c.Family, filepath.Base(c.Source)}
	if c.Revision != "" {
		parts = append(parts, c.Revision)
	}
	shape := fmt.Sprintf("%d numbers from %d x %d pixels", c.Dimension, c.Input.Height, c.Input.Width)
	if c.Frames > 1 {
		shape += fmt.Sprintf(" x %d frames", c.Frames)
	}
	return fmt.Sprintf("%s (%s, sha256 %.12s)", strings.Join(parts, " "), shape, c.SHA256)
}
