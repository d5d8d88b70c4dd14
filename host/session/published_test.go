package session

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/plugins"
)

func TestPublishedCheckpoint(t *testing.T) {
	dir := t.TempDir()
	folder := func(name, file string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(path, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(path, file), []byte("{}"), 0o644))
		return path
	}
	published, saved, checkpoint := folder("published", "config.json"), folder("saved", "srpo_sdk.json"), folder(
		"checkpoint",
		"MANIFEST",
	)
	takes := plugins.Info{Settings: []plugins.Setting{{Name: "checkpoint", Default: ""}}}
	for _, c := range []struct {
		given string
		info  plugins.Info
		want  string
	}{
		{published, takes, published}, {saved, takes, ""}, {checkpoint, takes, ""},
		{filepath.Join(dir, "missing"), takes, ""}, {"", takes, ""}, {published, plugins.Info{}, ""},
	} {
		cfg := config.Default()
		cfg.Run.Checkpoint = c.given
		settings := plugins.Settings{"checkpoint": ""}
		got, out, err := withPublished(cfg, "p", c.info, settings)
		require.NoError(t, err)
		require.Equal(t, c.want, got, c.given)
		require.Equal(t, c.want, out.String("checkpoint"))
		require.Empty(t, settings.String("checkpoint"), "the recorded settings do not change")
	}
	// A policy that was saved in its published format is its own base, unless the settings name another one or
	// a preset.
	for _, name := range []string{"config.json", "model.safetensors"} {
		require.NoError(t, os.WriteFile(filepath.Join(saved, name), []byte("{}"), 0o644))
	}
	base := takes
	base.Settings = append(base.Settings, plugins.Setting{Name: "preset", Default: ""})
	for want, given := range map[string]plugins.Settings{
		saved:     {"checkpoint": "", "preset": ""},
		"":        {"checkpoint": "", "preset": "tiny"},
		"another": {"checkpoint": "another", "preset": ""},
	} {
		cfg := config.Default()
		cfg.Run.Checkpoint = saved
		got, out, err := withPublished(cfg, "p", base, given)
		require.NoError(t, err)
		require.Empty(t, got, "its state is loaded")
		require.Equal(t, want, out.String("checkpoint"))
	}
	cfg := config.Default()
	cfg.Run.Checkpoint = published
	_, _, err := withPublished(cfg, "p", takes, plugins.Settings{"checkpoint": "another"})
	require.ErrorContains(t, err, "two published checkpoints are given")
	cfg.Run.Checkpoint = filepath.Join(dir, "missing")
	require.Equal(t, plugins.NotFound, plugins.KindOf(RequireCheckpoint(cfg)))
	cfg.Run.Checkpoint = filepath.Join(published, "config.json")
	require.ErrorContains(t, RequireCheckpoint(cfg), "is a file")
}
