package train

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// A run warns about a reward that cannot be distinguished from chance, but not when it can, or when there are too few
// outcomes.
func TestWarningAboutAnUninformativeReward(t *testing.T) {
	audit := func(n int, informed bool) (m store.Metrics, output string, events []store.Event) {
		var out bytes.Buffer
		folder, err := store.Create(filepath.Join(t.TempDir(), "run"), store.Manifest{}, nil)
		require.NoError(t, err)
		defer folder.Close()
		cfg := config.Default()
		cfg.Report.AuditEvery = 2
		r := &run{Options: Options{Terminal: report.NewTerminal(&out)}, cfg: cfg, folder: folder}
		rng := rand.New(rand.NewPCG(3, uint64(n)))
		it := &result{}
		for k := range 2 * n {
			success := k%2 == 0
			h := []float64{rng.NormFloat64(), rng.NormFloat64(), 5}
			if informed && !success {
				h[0] += 9
			}
			id := fmt.Sprint(k)
			x := sample{Episode: rollout.Episode{ID: id, Task: "t", Success: success, FrameCount: 7}}
			x.Scored.Rollout = srpo.Rollout{ID: id, Task: "t", Success: success, Embedding: h}
			it.samples = append(it.samples, x)
		}
		it.samples[0].Scored.Embedding = nil
		batch, err := srpo.ScoreBatch(rolloutsOf(it.samples), srpo.Known{}, cfg.RewardOptions(3))
		require.NoError(t, err)
		for k, s := range batch.Rollouts {
			it.samples[k].Scored = s
		}
		m = store.Metrics{Extra: map[string]float64{}, Clusters: 1}
		it.iteration = 1
		require.NoError(t, r.audit(it, &m))
		require.Empty(t, m.Extra, "not in every iteration")
		it.iteration = 2
		require.NoError(t, r.audit(it, &m))
		rec, err := store.Read(folder.Dir())
		require.NoError(t, err)
		return m, out.String(), rec.Events
	}
	m, output, events := audit(20, false)
	require.Less(t, m.Extra["audit_auroc_low"], 0.5)
	require.Equal(t, 1.0/40, m.Extra["audit_dropped_share"])
	require.Equal(t, 0.5, m.Extra["audit_length_auroc"])
	require.Contains(t, output,
		"warning: iteration 2: the reward is not shown to tell success from failure: AUROC 0.")
	require.Len(t, events, 1)
	require.Equal(t, store.Warning, events[0].Type)
	require.NotEmpty(t, events[0].Hint)

	m, output, events = audit(20, true)
	require.Equal(t, 1.0, m.Extra["audit_auroc"])
	require.Empty(t, output)
	require.Empty(t, events)
	_, output, _ = audit(4, false)
	require.Empty(t, output, "four of each are too few")
}

// A clip that cannot be written ends the iteration with its error, and the clips that wait are dropped.
func TestClipsThatCannotBeWritten(t *testing.T) {
	folder, err := store.Create(filepath.Join(t.TempDir(), "run"), store.Manifest{}, nil)
	require.NoError(t, err)
	defer folder.Close()
	require.NoError(t,
		os.WriteFile(filepath.Join(folder.Dir(), "clips"), nil, 0o644)) // a file where the folder should be
	cfg := config.Default()
	cfg.Run.KeepClips = "all"
	r := &run{cfg: cfg, folder: folder}
	plan := rollout.Plan{}
	w := r.saveClips(&plan, 1)
	for i := range 30 {
		plan.OnFrames(rollout.Episode{ID: fmt.Sprint(i), Frames: plugins.Bytes(make([]byte, 6), 2, 1, 1, 3)})
	}
	err = w.close()
	require.Error(t, err)
	require.True(t, strings.Contains(plugins.AsError(err).Place, "clips"), err)
	cfg.Run.KeepClips = "none"
	require.NoError(t, r.saveClips(&plan, 1).close())
}
