package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/srpo-dev/srpo/encoders/internal/frames"
	"github.com/srpo-dev/srpo/plugins"
)

// cardKey is the key of a model's card in the metadata of its file.
const cardKey = "srpo.encoder"

// Card is what a model file says of itself; `srpo encoder export` writes it.
type Card struct {
	Format int `json:"format"`
	// Family is "vjepa2", "dinov2" or "efficientnet".
	Family string `json:"family"`
	// Source is the checkpoint that the model was made from, Revision and SHA256 which state of it.
	Source   string `json:"source"`
	Revision string `json:"revision"`
	SHA256   string `json:"sha256"`
	Exporter string `json:"exporter"`
	Licence  string `json:"licence"`
	// Dimension is the length of each output's rows.
	Dimension int `json:"dimension"`
	// Frames of a clip; 1: the network sees single frames.
	Frames int   `json:"frames"`
	Input  Input `json:"input"`
	// Outputs are the names in the graph of "mean", "cls" and "patches", those that the family has.
	Outputs    map[string]string `json:"outputs"`
	Default    string            `json:"default_output"`
	Preprocess frames.Recipe     `json:"preprocess"`

	text string
}

// Input is the graph's only input.
type Input struct {
	Name string `json:"name"`
	// Layout is "BTCHW" for clips, "BCHW" for frames.
	Layout string `json:"layout"`
	Height int    `json:"height"`
	Width  int    `json:"width"`
	// DType is "float32" or "float16".
	DType string `json:"dtype"`
}

// Elements is how many numbers one clip or frame has.
func (c Card) Elements() int { return c.Frames * 3 * c.Input.Height * c.Input.Width }

// remedy is how a model file that will do is made.
func remedy(family string) string {
	if family == "efficientnet" {
		return "leave the setting out to take the model that the plugin made when it was installed, or srpo " +
			"plugin install generic --repair"
	}
	return fmt.Sprintf("make a model file: srpo encoder export %s --model CHECKPOINT", family)
}

// readCard reads and checks the card in a file's metadata. family is the one that is wanted.
func readCard(f *File, family string) (c Card, err error) {
	text, ok := f.Metadata[cardKey]
	if !ok {
		return c, plugins.Errorf(
			plugins.Mismatch,
			"%s says nothing of what it is: it lacks the model card that srpo writes into its metadata", f.Path,
		).WithHint("%s", remedy(family))
	}
	corrupt := func(format string, args ...any) error {
		return plugins.Errorf(plugins.Corrupt, "the model card in %s: %w", f.Path, fmt.Errorf(format, args...)).
			WithHint("%s", remedy(family))
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return c, corrupt("%w", err)
	}
	c.text = text
	if c.Format != 1 {
		return c, plugins.Errorf(plugins.Mismatch,
			"the model card in %s has format %d, this srpo reads format 1", f.Path, c.Format).
			WithHint("use the srpo that made it, or %s", remedy(family))
	}
	if c.Family != family {
		return c, plugins.Errorf(plugins.Mismatch,
			"%s holds a model of the family %s (%s), not %s", f.Path, c.Family, c.Source, family).
			WithHint("use it with the encoder %s, or %s", plugin(c.Family), remedy(family))
	}
	layout := "BTCHW"
	if c.Frames == 1 && c.Input.Layout == "BCHW" {
		layout = "BCHW"
	}
	switch {
	case c.Dimension < 1 || c.Dimension > 1<<20:
		return c, corrupt("dimension %d", c.Dimension)
	case c.Frames < 1 || c.Frames > 4096:
		return c, corrupt("%d frames", c.Frames)
	case c.Input.Layout != layout:
		return c, corrupt("layout %q for clips of %d frames", c.Input.Layout, c.Frames)
	case c.Input.DType != "float32" && c.Input.DType != "float16":
		return c, corrupt("input of type %q", c.Input.DType)
	case c.Input.Height != c.Preprocess.Crop || c.Input.Width != c.Preprocess.Crop:
		return c, corrupt(
			"an input of %d x %d for pictures of %d x %[3]d", c.Input.Height, c.Input.Width, c.Preprocess.Crop,
		)
	case c.Outputs[c.Default] == "":
		return c, corrupt("default_output %q is none of %v", c.Default, c.OutputNames())
	}
	if err := c.Preprocess.Check(); err != nil {
		return c, corrupt("preprocess: %w", err)
	}
	if !slices.Contains(f.Inputs, c.Input.Name) {
		return c, corrupt("its graph has no input %q but %v", c.Input.Name, f.Inputs)
	}
	if want := map[string]int{"float32": typeFloat, "float16": typeHalf}[c.Input.DType]; f.Types[c.Input.Name] != want {
		return c, corrupt("its graph has an input of type %d of ONNX, not %s", f.Types[c.Input.Name], c.Input.DType)
	}
	for what, name := range c.Outputs {
		if !slices.Contains(f.Outputs, name) {
			return c, corrupt("its graph has no output %q (%s) but %v", name, what, f.Outputs)
		}
		if is := f.Types[name]; is != typeFloat && is != typeHalf {
			return c, corrupt("its graph has an output %q of type %d of ONNX, neither float32 nor float16", name, is)
		}
	}
	return c, nil
}

// plugin is the encoder that runs a family.
func plugin(family string) string {
	if family == "efficientnet" {
		return "generic"
	}
	return family
}

// Hash is over the whole card, the hash of the weights in it, so that it changes whenever the vectors may.
func (c Card) Hash() string { sum := sha256.Sum256([]byte(c.text)); return hex.EncodeToString(sum[:]) }

// OutputNames are the outputs that can be asked for, sorted.
func (c Card) OutputNames() []string {
	names := make([]string, 0, len(c.Outputs))
	for n := range c.Outputs {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// String names the model for logs and errors.
func (c Card) String() string {
	words := []string{c.Family, filepath.Base(c.Source)}
	if c.Revision != "" {
		words = append(words, c.Revision)
	}
	shape := fmt.Sprintf("%d numbers from %d x %d pixels", c.Dimension, c.Input.Height, c.Input.Width)
	if c.Frames > 1 {
		shape += fmt.Sprintf(" x %d frames", c.Frames)
	}
	return fmt.Sprintf("%s (%s, sha256 %.12s)", strings.Join(words, " "), shape, c.SHA256)
}
