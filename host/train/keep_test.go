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
