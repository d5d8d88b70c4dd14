package main

import (
	"io/fs"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/encoders/dinov2"
	"github.com/srpo-dev/srpo/encoders/generic"
	"github.com/srpo-dev/srpo/encoders/vjepa2"
	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/plugins"
)

// TestListedSettings compares the settings in plugin.toml with those that the sources declare, because the host refuses
// settings that plugin.toml does not list.
func TestListedSettings(t *testing.T) {
	sources := map[string][]string{
		"libero":      {"libero_sim/lane.py"},
		"libero-plus": {"libero_sim/lane.py", "plus_env.py"},
		"openvla":     {"settings.py"},
		"pi0":         {"vla_lerobot/settings.py", "settings.py"},
		"pi0-fast":    {"vla_lerobot/settings.py", "settings.py"},
		"remote":      {"remote_policy.py"},
	}
	declared := regexp.MustCompile(`\bSetting\(\s*"(\w+)"`)
	served := map[string]plugins.Plugin{"generic": generic.New(), "dinov2": dinov2.New(), "vjepa2": vjepa2.New()}
	for _, files := range embedded {
		m, err := manifest.Load(files, "embedded")
		require.NoError(t, err)
		var want []string
		if p := served[m.Name]; p != nil {
			info, err := p.Info(t.Context())
			require.NoError(t, err)
			for _, s := range info.Settings {
				want = append(want, s.Name)
			}
		}
		for _, name := range sources[m.Name] {
			text, err := fs.ReadFile(files, name)
			require.NoError(t, err, "update the sources of %s in this test", m.Name)
			for _, found := range declared.FindAllSubmatch(text, -1) {
				want = append(want, string(found[1]))
			}
		}
		require.NotEmpty(t, want, m.Name)
		require.ElementsMatch(t, want, m.Settings, "settings of %s/plugin.toml", m.Name)
	}
}
