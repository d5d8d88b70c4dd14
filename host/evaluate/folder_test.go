package evaluate

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/rollout"
	"github.com/srpo-dev/srpo/plugins"
)

// A folder of another evaluation is refused with what differs and with a remedy that depends on it.
func TestFolderOfAnotherEvaluation(t *testing.T) {
	now := map[string]string{
		"checkpoint":      "abc",
		"seed":            "0",
		"states":          "all",
		"max_steps":       "0",
		"env plugin":      "libero 0.1.0 f00",
		"policy.tiny.std": "0.035",
	}
	old := func(name, value string) map[string]string {
		m := maps.Clone(now)
		if m[name] = value; value == "" {
			delete(m, name)
		}
		return m
	}
	e := &evaluation{Options: Options{Dir: "e"}, identity: now}
	require.NoError(t, e.checkSame(maps.Clone(now), true))
	for _, c := range []struct {
		old    map[string]string
		detail string
		hint   string
	}{
		{old("policy.tiny.std", "0.018"), "policy.tiny.std: 0.018 in the folder, 0.035 now", "give another " +
			"--out, or continue with its original settings: --config e/srpo.toml"},
		{old("seed", "7"), "seed: 7 in the folder, 0 now", "give another --out, or continue with " +
			"its original settings: --config e/srpo.toml"},
		{old("states", "test"), "states: test in the folder, all now", "give another --out"},
		{old("checkpoint", "def"), "checkpoint: def in the folder, abc now", "give another --out"},
		{old("env plugin", "libero 0.1.0 bad"), "env plugin: libero 0.1.0 bad in the folder, libero 0.1.0 f00 now",
			"a plugin has changed since: give another --out, or continue with the version of srpo that began it, " +
				"see e/eval.json"},
		{old("policy.tiny.std", ""), "policy.tiny.std: nothing in the folder, 0.035 now", "a plugin has changed " +
			"since: give another --out, or continue with the version of srpo that began it, see e/eval.json"},
	} {
		err := plugins.AsError(e.checkSame(c.old, true))
		require.Equal(t, plugins.Mismatch, err.Kind)
		require.Contains(t, err.Message, "nothing was changed")
		require.Equal(t, c.detail, err.Detail)
		require.Equal(t, c.hint, err.Hint, c.detail)
	}
}

// Shards divide the trials: each belongs to exactly one of them.
func TestShardsDivideTheTrials(t *testing.T) {
	trials := make([]rollout.Trial, 100)
	for i := range trials {
		trials[i].StartState = i
	}
	seen := map[int]bool{}
	for i := range 7 {
		e := &evaluation{Options: Options{Shard: i + 1, Shards: 7}}
		for _, trial := range e.shard(trials) {
			require.False(t, seen[trial.StartState])
			seen[trial.StartState] = true
		}
	}
	require.Len(t, seen, 100)
}
