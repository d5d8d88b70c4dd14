package embed

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// numbered returns a clip of n frames of 1 x 1 pixel. The pixel of frame t has the value t.
func numbered(n int) plugins.Tensor {
	var data []byte
	for t := range n {
		data = append(data, byte(t), byte(t), byte(t))
	}
	return plugins.Bytes(data, n, 1, 1, 3)
}

func order(f plugins.Tensor) []int {
	var out []int
	for t := range f.Shape[0] {
		out = append(out, int(f.Data[3*t]))
	}
	return out
}

func TestChangedClips(t *testing.T) {
	f := numbered(5)
	require.Equal(t, []int{4, 3, 2, 1, 0}, order(reversed(f)))
	require.Equal(t, []int{0, 1, 2, 2, 2}, order(stalled(f)))
	require.Equal(t, []int{0, 1, 1, 1}, order(stalled(numbered(4))))
	require.Equal(t, []int{0, 1}, order(first(f, 2)))
	require.Equal(t, make([]int, 16), order(FirstFrameStill(f)))
	require.Equal(t, []int{0, 1, 2, 3, 4}, order(f), "the clip itself does not change")
}

func TestGrid(t *testing.T) {
	require.Equal(t, []int{1, 2, 3}, windowEnds(3, 8))
	require.Equal(t, []int{12, 25, 37, 50, 62, 75, 87, 100}, windowEnds(100, 8))
	for frames := 1; frames < 300; frames++ {
		ends := windowEnds(frames, 32)
		require.Equal(t, frames, ends[len(ends)-1])
		for k := 1; k < len(ends); k++ {
			require.Greater(t, ends[k], ends[k-1])
		}
	}
}

// scripted is an encoder whose embedding of a clip is its length, and its own worker. It records its calls.
type scripted struct {
	encoder.Encoder
	calls []string
	// fail returns the error of the n-th call; nil: calls do not fail.
	fail func(call int) error
}

func (s *scripted) Client(context.Context) (encoder.Encoder, uint64, error) { return s, 1, nil }

func (s *scripted) Failed(uint64, error) {}

func (s *scripted) EncodeWindows(_ context.Context, _ plugins.Tensor, ends []int) ([][]float32, error) {
	s.calls = append(s.calls, fmt.Sprint(ends))
	if s.fail != nil {
		if err := s.fail(len(s.calls)); err != nil {
			return nil, err
		}
	}
	var rows [][]float32
	for _, end := range ends {
		rows = append(rows, []float32{float32(end)})
	}
	return rows, nil
}

func (s *scripted) Encode(_ context.Context, clips []plugins.Tensor) ([][]float32, error) {
	s.calls = append(s.calls, fmt.Sprint(len(clips), " clips"))
	if s.fail != nil {
		if err := s.fail(len(s.calls)); err != nil {
			return nil, err
		}
	}
	var rows [][]float32
	for _, c := range clips {
		rows = append(rows, []float32{float32(c.Shape[0])})
	}
	return rows, nil
}

func embedderOf(t *testing.T, s *scripted, spec encoder.Spec) *Embedder {
	video := filepath.Join(t.TempDir(), "a.npy")
	writeNpy(t, video, 7)
	c := &Clips{List: &attempts.List{Attempts: []attempts.Attempt{{ID: "a", Task: "t", Video: video}}},
		Cache: &Cache{Dir: t.TempDir()}, Terminal: report.NewTerminal(io.Discard)}
	require.NoError(t, c.Scan(t.Context()))
	require.Empty(t, c.List.Attempts[0].Problem)
	return New(&session.Encoder{Worker: s, Label: "encoder scripted", Spec: spec}, c)
}

// writeNpy writes a video of n frames of 1 x 2 pixels.
func writeNpy(t *testing.T, path string, n int) {
	t.Helper()
	head := fmt.Sprintf("{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 1, 2, 3), }\n", n)
	data := append([]byte("\x93NUMPY\x01\x00"), byte(len(head)), 0)
	data = append(data, head...)
	for i := range n * 6 {
		data = append(data, byte(5*i))
	}
	require.NoError(t, os.WriteFile(path, data, 0o644))
}

// Windows that share no work are embedded in calls of the encoder's batch size, and the calls made before a
// stop are not repeated.
func TestWindowsGoInBatches(t *testing.T) {
	stop := plugins.Errorf(plugins.Canceled, "stopped")
	s := &scripted{fail: func(call int) error {
		if call == 3 {
			return stop
		}
		return nil
	}}
	e := embedderOf(t, s, encoder.Spec{Dimension: 1, Batch: 2})
	_, err := e.windows(t.Context(), 0, []int{1, 3, 4, 6, 7})
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
	rows, err := e.windows(t.Context(), 0, []int{1, 3, 4, 6, 7})
	require.NoError(t, err)
	require.Equal(t, [][]float32{{1}, {3}, {4}, {6}, {7}}, rows)
	require.Equal(t, []string{"[1 3]", "[4 6]", "[7]", "[7]"}, s.calls)

	for _, spec := range []encoder.Spec{{Dimension: 1, Batch: 2, FrameWise: true}, {Dimension: 1}} {
		s := &scripted{}
		_, err = embedderOf(t, s, spec).windows(t.Context(), 0, []int{1, 3, 7})
		require.NoError(t, err)
		require.Equal(t, []string{"[1 3 7]"}, s.calls,
			"all windows share the work of the clip, or the encoder has no batch size")
	}
}

// When the encoder's process is lost twice on one clip, the error contains the cause and the remedy.
func TestEncoderLostTwice(t *testing.T) {
	s := &scripted{fail: func(call int) error {
		return plugins.Errorf(plugins.Deadline, "EncodeWindows did not answer within 10m0s, time %d", call).
			WithHint("raise [host] encode_timeout_s")
	}}
	_, err := embedderOf(t, s, encoder.Spec{Dimension: 1}).windows(t.Context(), 0, []int{7})
	require.ErrorContains(t, err, "did not answer within 10m0s, time 2")
	require.Equal(t, "raise [host] encode_timeout_s", plugins.AsError(err).Hint)
	require.Len(t, s.calls, 2)
}

// When the first frame of an attempt cannot be embedded, the anchor comes from the next attempt of its task.
func TestAnchorOfTheNextAttempt(t *testing.T) {
	s := &scripted{fail: func(call int) error {
		if call == 1 {
			return plugins.Errorf(plugins.Internal, "no")
		}
		return nil
	}}
	e := embedderOf(t, s, encoder.Spec{Dimension: 1})
	second := filepath.Join(t.TempDir(), "b.npy")
	writeNpy(t, second, 5)
	e.Clips.List.Attempts = append(e.Clips.List.Attempts, attempts.Attempt{ID: "b", Task: "t", Video: second})
	require.NoError(t, e.Clips.Scan(t.Context()))
	anchors, err := e.Anchors(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string][]float64{"t": {16}}, anchors)
}

// A video that changes between two reads is refused each time, so that no embedding of the new frames is cached
// as one of the old frames.
func TestChangedVideoIsRefused(t *testing.T) {
	e := embedderOf(t, &scripted{}, encoder.Spec{Dimension: 1})
	c := e.Clips
	c.kept, c.order = map[int]plugins.Tensor{}, nil // as after many other videos
	writeNpy(t, c.List.Attempts[0].Video, 9)
	for range 2 {
		_, err := c.Frames(t.Context(), 0)
		require.ErrorContains(t, err, "the video changed while it was in use")
	}
}
