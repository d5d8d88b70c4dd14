package host

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/embeddings"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// numbered is a clip of n frames of 1 x 1 pixel, frame t being t.
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
	require.Equal(t, make([]int, 16), order(still(f)))
	require.Equal(t, []int{0, 1, 2, 3, 4}, order(f), "the clip itself is as it was")
}

func TestGrid(t *testing.T) {
	require.Equal(t, []int{1, 2, 3}, gridOf(3, 8))
	require.Equal(t, []int{12, 25, 37, 50, 62, 75, 87, 100}, gridOf(100, 8))
	for frames := 1; frames < 300; frames++ {
		ends := gridOf(frames, 32)
		require.Equal(t, frames, ends[len(ends)-1])
		for k := 1; k < len(ends); k++ {
			require.Greater(t, ends[k], ends[k-1])
		}
	}
}

// scripted is an encoder of one number a clip, its length, and the worker that keeps it alive; what it is asked for is noted.
type scripted struct {
	encoder.Encoder
	asked []string
	// fails says what a call fails with; nil: nothing.
	fails func(call int) error
}

func (s *scripted) Client(context.Context) (encoder.Encoder, uint64, error) { return s, 1, nil }
func (s *scripted) Failed(uint64, error)                                    {}

func (s *scripted) EncodeWindows(_ context.Context, _ plugins.Tensor, ends []int) ([][]float32, error) {
	s.asked = append(s.asked, fmt.Sprint(ends))
	if s.fails != nil {
		if err := s.fails(len(s.asked)); err != nil {
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
	s.asked = append(s.asked, fmt.Sprint(len(clips), " clips"))
	if s.fails != nil {
		if err := s.fails(len(s.asked)); err != nil {
			return nil, err
		}
	}
	var rows [][]float32
	for _, c := range clips {
		rows = append(rows, []float32{float32(c.Shape[0])})
	}
	return rows, nil
}

func embedderOf(t *testing.T, s *scripted, spec encoder.Spec) *embedder {
	video := filepath.Join(t.TempDir(), "a.npy")
	writeNpy(t, video, 7)
	c := &clips{list: &attempts.List{Attempts: []attempts.Attempt{{ID: "a", Task: "t", Video: video}}}, cache: &embeddings.Cache{Dir: t.TempDir()},
		term: report.NewTerminal(io.Discard)}
	require.NoError(t, c.look(t.Context()))
	require.Empty(t, c.list.Attempts[0].Problem)
	return &embedder{startedEncoder: &startedEncoder{worker: s, label: "encoder scripted", spec: spec}, clips: c, cache: c.cache}
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

// Windows that share no work go in calls of the encoder's batch, and what was made before a stop is not made again.
func TestWindowsGoInBatches(t *testing.T) {
	stop := plugins.Errorf(plugins.Canceled, "stopped")
	s := &scripted{fails: func(call int) error {
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
	require.Equal(t, []string{"[1 3]", "[4 6]", "[7]", "[7]"}, s.asked)

	for _, spec := range []encoder.Spec{{Dimension: 1, Batch: 2, FrameWise: true}, {Dimension: 1}} {
		s := &scripted{}
		_, err = embedderOf(t, s, spec).windows(t.Context(), 0, []int{1, 3, 7})
		require.NoError(t, err)
		require.Equal(t, []string{"[1 3 7]"}, s.asked, "all share the work of the clip, or the encoder takes any number")
	}
}

// An encoder that is lost twice on a clip says why, and what to do.
func TestLostTwiceSaysWhy(t *testing.T) {
	s := &scripted{fails: func(call int) error {
		return plugins.Errorf(plugins.Deadline, "EncodeWindows did not answer within 10m0s, time %d", call).WithHint("raise [host] encode_timeout_s")
	}}
	_, err := embedderOf(t, s, encoder.Spec{Dimension: 1}).windows(t.Context(), 0, []int{7})
	require.ErrorContains(t, err, "did not answer within 10m0s, time 2")
	require.Equal(t, "raise [host] encode_timeout_s", plugins.AsError(err).Hint)
	require.Len(t, s.asked, 2)
}

// An attempt whose first frame cannot be embedded leaves "nothing happened" to the next one of its task.
func TestAnchorsPassOverABadClip(t *testing.T) {
	s := &scripted{fails: func(call int) error {
		if call == 1 {
			return plugins.Errorf(plugins.Internal, "no")
		}
		return nil
	}}
	e := embedderOf(t, s, encoder.Spec{Dimension: 1})
	second := filepath.Join(t.TempDir(), "b.npy")
	writeNpy(t, second, 5)
	e.clips.list.Attempts = append(e.clips.list.Attempts, attempts.Attempt{ID: "b", Task: "t", Video: second})
	require.NoError(t, e.clips.look(t.Context()))
	anchors, err := e.anchors(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string][]float64{"t": {16}}, anchors)
}

// A video that changes between two looks is refused as often as it is asked for, so that no vector of the new frames is remembered as one of the old.
func TestChangedVideoIsRefusedEachTime(t *testing.T) {
	e := embedderOf(t, &scripted{}, encoder.Spec{Dimension: 1})
	c := e.clips
	c.kept, c.order = map[int]plugins.Tensor{}, nil // as after many other videos
	writeNpy(t, c.list.Attempts[0].Video, 9)
	for range 2 {
		_, err := c.frames(t.Context(), 0)
		require.ErrorContains(t, err, "it has changed while it was looked at")
	}
}

// A run doubts its reward when it cannot be told from chance, and says nothing while it can, or while there is too little to say.
func TestRunDoubtsABlindReward(t *testing.T) {
	audit := func(n int, informed bool) (m store.Metrics, said string, events []store.Event) {
		var out bytes.Buffer
		folder, err := store.Create(filepath.Join(t.TempDir(), "run"), store.Manifest{}, nil)
		require.NoError(t, err)
		defer folder.Close()
		cfg := config.Default()
		cfg.Report.AuditEvery = 2
		r := &run{Options: Options{Terminal: report.NewTerminal(&out)}, cfg: cfg, folder: folder}
		rng := rand.New(rand.NewPCG(3, uint64(n)))
		result := &rollout.Result{}
		var rollouts []srpo.Rollout
		for g := range 2 {
			var group rollout.Group
			for k := range n {
				success := k%2 == 0
				h := []float64{rng.NormFloat64(), rng.NormFloat64(), 5}
				if informed && !success {
					h[0] += 9
				}
				group.Episodes = append(group.Episodes, rollout.Episode{FrameCount: 7})
				rollouts = append(rollouts, srpo.Rollout{ID: fmt.Sprintf("%d/%d", g, k), Task: "t", Success: success, Embedding: h})
			}
			result.Groups = append(result.Groups, group)
		}
		rollouts[0].Embedding = nil
		scored, err := srpo.ScoreBatch(rollouts, srpo.Known{}, cfg.RewardOptions(3))
		require.NoError(t, err)
		m = store.Metrics{Extra: map[string]float64{}, Clusters: 1}
		require.NoError(t, r.audit(1, result, rollouts, scored, &m))
		require.Empty(t, m.Extra, "not in every iteration")
		require.NoError(t, r.audit(2, result, rollouts, scored, &m))
		rec, err := store.Read(folder.Dir())
		require.NoError(t, err)
		return m, out.String(), rec.Events
	}
	m, said, events := audit(20, false)
	require.Less(t, m.Extra["audit_auroc_low"], 0.5)
	require.Equal(t, 1.0/40, m.Extra["audit_dropped_share"])
	require.Equal(t, 0.5, m.Extra["audit_length_auroc"])
	require.Contains(t, said, "warning: iteration 2: the reward is not shown to tell success from failure: AUROC 0.")
	require.Len(t, events, 1)
	require.Equal(t, store.Warning, events[0].Type)
	require.NotEmpty(t, events[0].Hint)

	m, said, events = audit(20, true)
	require.Equal(t, 1.0, m.Extra["audit_auroc"])
	require.Empty(t, said)
	require.Empty(t, events)
	_, said, _ = audit(4, false)
	require.Empty(t, said, "four of each say nothing")
}

// A disk that is full ends the iteration with its reason; clips that wait are let go.
func TestClipsThatCannotBeKept(t *testing.T) {
	folder, err := store.Create(filepath.Join(t.TempDir(), "run"), store.Manifest{}, nil)
	require.NoError(t, err)
	defer folder.Close()
	require.NoError(t, os.WriteFile(filepath.Join(folder.Dir(), "clips"), nil, 0o644)) // a file where the folder should be
	cfg := config.Default()
	cfg.Run.KeepClips = "all"
	r := &run{cfg: cfg, folder: folder}
	plan := rollout.Plan{}
	k := r.keepClips(&plan, 1)
	for i := range 30 {
		plan.OnFrames(rollout.Episode{ID: fmt.Sprint(i), Frames: plugins.Bytes(make([]byte, 6), 2, 1, 1, 3)})
	}
	err = k.close()
	require.Error(t, err)
	require.True(t, strings.Contains(plugins.AsError(err).Place, "clips"), err)
	cfg.Run.KeepClips = "none"
	require.NoError(t, r.keepClips(&plan, 1).close())
}
