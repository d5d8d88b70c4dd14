package frozen

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/srpo-dev/srpo/encoders/internal/frames"
	"github.com/srpo-dev/srpo/encoders/internal/model"
	"github.com/srpo-dev/srpo/encoders/internal/modeltest"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// network returns an encoder's network and the path of a fixture with a card for frames or clips.
// means.onnx embeds a frame as the means of its channels; endless.onnx never ends.
func network(t *testing.T, fixture string, clip bool) (Network, string) {
	t.Helper()
	modeltest.Environment(t, "vjepa2")
	card := model.Card{Format: 1, Family: "efficientnet", Source: "fixture", Dimension: 3, Frames: 1,
		Input:   model.Input{Name: "pixel_values", Layout: "BCHW", Height: 4, Width: 4, DType: "float32"},
		Outputs: map[string]string{"mean": "mean"}, DefaultOutput: "mean",
		Preprocess: frames.Recipe{
			Resize: 4, ResizeMode: "exact", Interpolation: "bilinear", Antialias: true, Crop: 4, Rescale: 1,
			Mean: []float64{0, 0, 0}, Std: []float64{1, 1, 1},
		}}
	if clip {
		card.Input.Layout = "BTCHW"
	}
	return Network{
		Name: "means", Version: "1", Family: "efficientnet", FrameWise: true,
	}, modeltest.Carded(t, "../model/testdata/"+fixture, card)
}

// served serves an encoder over gRPC and returns a client.
func served(t *testing.T, e encoder.Encoder) *encoder.Client {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer()
	encoder.Register(s, e)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	cc, err := grpc.NewClient("passthrough:///plugin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return encoder.NewClient(cc, nil)
}

// TestCancelOverRPC checks that canceling a call ends the run of the network in the plugin, and that the
// plugin stays usable.
func TestCancelOverRPC(t *testing.T) {
	n, path := network(t, "endless.onnx", false)
	e := New(n)
	client := served(t, e)
	require.NoError(t, client.Configure(t.Context(), plugins.Config{
		Settings: plugins.Settings{"model": path, "threads": int64(1), "provider": "cpu"}, WorldSize: 1,
	}))
	clip := modeltest.Noise(1, 3, 4, 4)
	for _, call := range []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := client.Encode(ctx, []plugins.Tensor{clip}); return err },
		func(ctx context.Context) error { _, err := client.EncodeWindows(ctx, clip, []int{1, 3}); return err },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- call(ctx) }()
		for !e.session.Busy() { // wait until the network runs
			select {
			case err := <-done:
				t.Fatalf("the call ended without being canceled: %v", err)
			default:
				runtime.Gosched()
			}
		}
		cancel()
		require.Equal(t, plugins.Canceled, plugins.KindOf(<-done))
		for e.session.Busy() { // wait until the run has ended in the plugin
			runtime.Gosched()
		}
	}
}

// TestLibrarySetting checks that another library can be selected after a call to Info. It runs in a process
// of its own, because a process can load only one library.
func TestLibrarySetting(t *testing.T) {
	if path := os.Getenv("FROZEN_TEST_LIBRARY"); path != "" {
		e := New(Network{Name: "means", Version: "1", Family: "efficientnet", FrameWise: true})
		before, err := e.Info(t.Context())
		require.NoError(t, err)
		s := plugins.Settings{
			"model": os.Getenv("FROZEN_TEST_MODEL"), "library": path, "provider": "cpu", "threads": int64(1),
		}
		require.NoError(t, e.Configure(t.Context(), plugins.Config{Settings: s}))
		after, err := e.Info(t.Context())
		require.NoError(t, err)
		require.Regexp(t, `^1\.\d+\.\d+$`, before.Versions["onnxruntime"])
		require.Equal(t, before.Versions, after.Versions)
		return
	}
	_, path := network(t, "means.onnx", false)
	own, err := model.FindLibrary("")
	require.NoError(t, err)
	other := filepath.Join(t.TempDir(), "libonnxruntime.so")
	require.NoError(t, os.Symlink(own, other))
	cmd := exec.Command(os.Args[0], "-test.run=^TestLibrarySetting$")
	cmd.Env = append(os.Environ(), "FROZEN_TEST_LIBRARY="+other, "FROZEN_TEST_MODEL="+path)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// TestLayout checks that a frame-wise encoder refuses a model that takes clips.
func TestLayout(t *testing.T) {
	n, path := network(t, "means.onnx", true)
	err := New(n).Configure(t.Context(), plugins.Config{Settings: plugins.Settings{"model": path, "provider": "cpu"}})
	require.Equal(t, plugins.Mismatch, plugins.KindOf(err), err)
	require.ErrorContains(t, err, "BTCHW")
}

// TestMeans checks that frames are resized, embedded and averaged, also when clips of different sizes share
// batches.
func TestMeans(t *testing.T) {
	n, path := network(t, "means.onnx", false)
	e := modeltest.Configured(t,
		New(n), plugins.Settings{"model": path, "batch": int64(5), "provider": "cpu", "threads": int64(1)})
	var clips []plugins.Tensor
	for length := 1; length <= 9; length++ {
		side := 4 * length
		data := make([]byte, length*side*side*3)
		for i := range data { // frame t: red 10t, green 20t, blue 7
			data[i] = []byte{byte(10 * (i / (side * side * 3))), byte(20 * (i / (side * side * 3))), 7}[i%3]
		}
		clips = append(clips, plugins.Bytes(data, length, side, side, 3))
	}
	rows, err := e.Encode(t.Context(), clips)
	require.NoError(t, err)
	for i, row := range rows {
		mean := float32(i) / 2 // of 0 to i
		require.Equal(t, []float32{10 * mean, 20 * mean, 7}, row)
	}
	windows, err := e.(encoder.Windower).EncodeWindows(t.Context(), clips[8], []int{9, 2})
	require.NoError(t, err)
	require.Equal(t, [][]float32{{40, 80, 7}, {5, 10, 7}}, windows)
}
