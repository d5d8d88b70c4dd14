package export

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/srpo-dev/srpo/encoders/internal/modeltest"
	"github.com/srpo-dev/srpo/plugins"
)

// exported is a model that srpo exported.
const exported = "../vjepa2/testdata/patch8-16x32.onnx"

func TestReadCard(t *testing.T) {
	c, v, err := ReadCard(exported)
	require.NoError(t, err)
	require.Equal(t, "vjepa2", c.Family)
	require.Equal(t, 24, c.Dimension)
	require.Equal(t, 16, c.Frames)
	require.Equal(t, "BTCHW", c.Input.Layout)
	require.Equal(t, 32, c.Input.Height)
	require.Equal(t, map[string]string{"mean": "mean"}, c.Outputs)
	require.Equal(t, 36, c.Preprocess.Resize) // int(32*256/224)
	require.Equal(t, []float64{0.485, 0.456, 0.406}, c.Preprocess.Mean)
	require.Len(t, c.SHA256, 64)
	require.Equal(t, []int{1, 2, 3}, v.Batches)
	require.Less(t, v.LargestRelativeDifference, v.Tolerance)

	c, _, err = ReadCard("../dinov2/testdata/registers-56.onnx")
	require.NoError(t, err)
	require.Equal(t, "cls", c.DefaultOutput)
	require.Len(t, c.Outputs, 2)
	require.Equal(t, 1, c.Frames)
}

func TestReadCardRefuses(t *testing.T) {
	whole, err := os.ReadFile(exported)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		data    []byte
		kind    plugins.ErrorKind
		message string
	}{
		"truncated":        {whole[:len(whole)/2], plugins.Corrupt, "truncated"},
		"truncated length": {[]byte{0x3a, 0x80}, plugins.Corrupt, "truncated"},
		"empty":            {nil, plugins.Corrupt, "not an ONNX file"},
		"text":             {[]byte(strings.Repeat("this is no protobuf at all\n", 9)), plugins.Corrupt, ""},
		"other metadata":   {modeltest.Metadata("author", "somebody"), plugins.Mismatch, "srpo did not export"},
		"newer format":     {modeltest.Metadata("srpo.encoder", `{"format":2}`), plugins.Mismatch, "format 2"},
		"truncated card":   {modeltest.Metadata("srpo.encoder", `{"format":`), plugins.Corrupt, "invalid model card"},
		"length of 70 bits": {
			append([]byte{0x3a}, bytes.Repeat([]byte{0xff}, 11)...), plugins.Corrupt, "not an ONNX file",
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "m.onnx")
			require.NoError(t, os.WriteFile(path, c.data, 0o644))
			_, _, err := ReadCard(path)
			require.Error(t, err)
			e := plugins.AsError(err)
			require.Equal(t, c.kind, e.Kind, err)
			require.Contains(t, e.Message, c.message)
			require.Contains(t, e.Place, path)
			require.NotEmpty(t, e.Hint)
		})
	}
	_, _, err = ReadCard(filepath.Join(t.TempDir(), "none.onnx"))
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
	_, _, err = ReadCard(t.TempDir())
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))
}

// TestReadCardSkipsWeights checks that weights are not read: here they are a hole of 3 GB in a sparse file.
func TestReadCardSkipsWeights(t *testing.T) {
	whole, err := os.ReadFile(exported)
	require.NoError(t, err)
	const hole = 3 << 30
	f, err := os.Create(filepath.Join(t.TempDir(), "large.onnx"))
	require.NoError(t, err)
	defer f.Close()
	head := protowire.AppendVarint(protowire.AppendTag(nil, 7, protowire.BytesType), hole) // the graph
	_, err = f.Write(head)
	require.NoError(t, err)
	_, err = f.WriteAt(whole, int64(len(head))+hole)
	require.NoError(t, err)
	c, _, err := ReadCard(f.Name())
	require.NoError(t, err)
	require.Equal(t, 24, c.Dimension)
}

func FuzzReadCard(f *testing.F) {
	whole, err := os.ReadFile(exported)
	require.NoError(f, err)
	f.Add(whole[len(whole)-3000:])
	f.Add([]byte{0x08, 0x0a, 0x72, 0x02, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "m.onnx")
		require.NoError(t, os.WriteFile(path, data, 0o644))
		_, _, _ = ReadCard(path)
	})
}

func TestFilesAreComplete(t *testing.T) {
	for _, name := range []string{
		"export.py", "checkpoint.py", "network.py", "graph.py", "clips.py", "talk.py", "requirements.txt",
		"episodes/expert.npz",
	} {
		_, err := Files.Open(name)
		require.NoError(t, err)
	}
}
