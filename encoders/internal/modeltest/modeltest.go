// Package modeltest has what the tests of the ONNX encoders share: the plugins' locked Python environments,
// and clips with the embeddings that torch computes for them.
package modeltest

import (
	"encoding/json"
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// installed maps the name of a plugin to the function that installs it once and returns the result.
var installed sync.Map

// Environment sets the environment variables of an encoder's locked Python environment, as srpo does. If it
// is not installed, it is installed first (some tens of megabytes, once per machine). It returns the folder
// of the files that the installation made. The test fails if the environment cannot be installed.
func Environment(t testing.TB, name string) (files string) {
	t.Helper()
	install, _ := installed.LoadOrStore(name, sync.OnceValues(func() (out struct{ Folder, Files string }, err error) {
		cmd := exec.Command("go", "run", "github.com/srpo-dev/srpo/cmd/srpo", "plugin", "install", name, "--json")
		if program := os.Getenv("SRPO_TEST_PROGRAM"); program != "" {
			cmd = exec.Command(program, "plugin", "install", name, "--json")
		}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		stdout, err := cmd.Output()
		if err != nil {
			return out, plugins.Errorf(plugins.Unavailable,
				"%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
		}
		return out, json.Unmarshal(stdout, &out)
	}))
	out, err := install.(func() (struct{ Folder, Files string }, error))()
	require.NoError(t, err, "the environment of the encoder %s", name)
	require.DirExists(t, out.Folder)
	t.Setenv("VIRTUAL_ENV", out.Folder)
	return out.Files
}

// Golden is testdata/NAME.json: clips with the embeddings that torch computes for them with one model.
// encoders/export/fixtures.py writes it.
type Golden struct {
	Model string
	// Worst is the largest relative difference between the model file and torch, as measured at export.
	Worst float64 `json:"largest_relative_difference"`
	Clips []Clip
	// Folder is the folder of the files.
	Folder string `json:"-"`
}

// Clip is one clip of a golden.
type Clip struct {
	Frames, Height, Width int
	// File is a picture with the frames below each other. Crop has the frames after the published
	// preprocessing.
	File, Crop string
	// Embeddings are the vectors of each output: one for the clip, or one per frame.
	Embeddings map[string][][]float32
}

// Goldens reads all goldens of a folder.
func Goldens(t testing.TB, folder string) []Golden {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	var all []Golden
	for _, name := range names {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		g := Golden{Folder: folder}
		require.NoError(t, json.Unmarshal(data, &g), name)
		require.NotEmpty(t, g.Clips, name)
		all = append(all, g)
	}
	return all
}

// Path returns the path of the model file.
func (g Golden) Path() string { return filepath.Join(g.Folder, g.Model) }

// Strip reads a picture with count frames below each other as uint8 [count, H, W, 3].
func (g Golden) Strip(t testing.TB, file string, count int) plugins.Tensor {
	t.Helper()
	f, err := os.Open(filepath.Join(g.Folder, file))
	require.NoError(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	require.NoError(t, err)
	h, w := img.Bounds().Dy(), img.Bounds().Dx()
	data := make([]byte, 0, h*w*3)
	for y := range h {
		for x := range w {
			r, g, b, _ := img.At(x, y).RGBA()
			data = append(data, byte(r>>8), byte(g>>8), byte(b>>8))
		}
	}
	require.Zero(t, h%count)
	return plugins.Bytes(data, count, h/count, w, 3)
}

// Configured configures an encoder and returns it.
func Configured(t testing.TB, e encoder.Encoder, s plugins.Settings) encoder.Encoder {
	t.Helper()
	require.NoError(t, e.Configure(t.Context(), plugins.Config{Settings: s, WorldSize: 1}))
	return e
}

// Difference returns |a - b| / |b|, Euclidean.
func Difference(t testing.TB, a, b []float32) float64 {
	t.Helper()
	require.Len(t, a, len(b))
	var d, n float64
	for i := range a {
		d += float64(a[i]-b[i]) * float64(a[i]-b[i])
		n += float64(b[i]) * float64(b[i])
	}
	return math.Sqrt(d / n)
}

// Mean returns the mean of rows, summed in float64 like the encoders do.
func Mean(rows [][]float32) []float32 {
	out := make([]float32, len(rows[0]))
	for k := range out {
		sum := 0.0
		for _, r := range rows {
			sum += float64(r[k])
		}
		out[k] = float32(sum / float64(len(rows)))
	}
	return out
}

// Cut returns clip[:end].
func Cut(clip plugins.Tensor, end int) plugins.Tensor {
	return plugins.Bytes(clip.Data[:end*len(clip.Data)/clip.Shape[0]], append([]int{end}, clip.Shape[1:]...)...)
}

// Noise returns a clip of slowly changing noise, uint8 [t, h, w, 3].
func Noise(seed, t, h, w int) plugins.Tensor {
	data := make([]byte, t*h*w*3)
	x := uint32(seed*2654435761 + 1)
	for i := range data {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		if data[i] = byte(x); i >= h*w*3 {
			data[i] = data[i-h*w*3] + byte(x>>24)%9
		}
	}
	return plugins.Bytes(data, t, h, w, 3)
}

// Carded copies a model file to a new folder, adds a card (encoded as JSON), and returns the path of the
// copy. Appending to a protocol buffer adds fields to it; of two entries with the same key the later one
// counts.
func Carded(t testing.TB, file string, card any) string {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	text, err := json.Marshal(card)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), filepath.Base(file))
	require.NoError(t, os.WriteFile(path, append(data, Metadata("srpo.encoder", string(text))...), 0o644))
	return path
}

// Metadata returns an entry of a model file's metadata, to be appended to the file.
func Metadata(key, value string) []byte {
	const modelMetadata, entryKey, entryValue = 14, 1, 2 // field numbers of onnx.proto
	var e []byte
	e = protowire.AppendString(protowire.AppendTag(e, entryKey, protowire.BytesType), key)
	e = protowire.AppendString(protowire.AppendTag(e, entryValue, protowire.BytesType), value)
	return protowire.AppendBytes(protowire.AppendTag(nil, modelMetadata, protowire.BytesType), e)
}
