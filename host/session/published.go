package session

import (
	"maps"
	"os"
	"path/filepath"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/plugins"
)

// PublishedConfigFile is in every folder of a published format that policies here write.
const PublishedConfigFile = "config.json"

const (
	// checkpointSetting is the setting of a policy that takes a checkpoint in its published format.
	checkpointSetting = "checkpoint"
	// SavedStateFile is in every folder that a Python policy saved (sdk/python), and in no published one.
	SavedStateFile = "srpo_sdk.json"
)

// withPublished returns settings with run.checkpoint in the policy's setting for published checkpoints, and the
// folder. When run.checkpoint was made by srpo, or the policy has no such setting, folder is empty.
func withPublished(
	cfg *config.Config,
	name string,
	info plugins.Info,
	settings plugins.Settings,
) (folder string, out plugins.Settings, err error) {
	given := cfg.Run.Checkpoint
	if given == "" {
		return "", settings, nil
	}
	if madeBySRPO(given) {
		return "", withBase(given, info, settings), nil
	}
	for _, d := range info.Settings {
		if _, text := d.Default.(string); d.Name != checkpointSetting || !text {
			continue
		}
		if set := settings.String(checkpointSetting); set != "" {
			return "", nil, plugins.Errorf(plugins.Invalid, "two published checkpoints are given: %s, and "+
				"policy.%s.%s = %s", given, name, checkpointSetting, set).
				WithPlace("%s", cfg.Origin("run.checkpoint")).
				WithHint("give only one of them")
		}
		if folder, err = filepath.Abs(given); err != nil {
			return "", nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", cfg.Origin("run.checkpoint"))
		}
		out = maps.Clone(settings)
		out[checkpointSetting] = folder
		return folder, out, nil
	}
	return "", settings, nil
}

// withBase adds the saved policy itself as the published checkpoint of a policy that cannot start without one
// (openvla), so that --checkpoint RUN is enough. The saved state is loaded afterwards. A base or a preset in
// the settings is kept.
func withBase(given string, info plugins.Info, settings plugins.Settings) plugins.Settings {
	saved := PolicyFolder(given)
	for _, name := range []string{PublishedConfigFile, SavedStateFile} {
		if _, err := os.Stat(filepath.Join(saved, name)); err != nil {
			return settings
		}
	}
	takes := false
	for _, d := range info.Settings {
		value, text := settings[d.Name].(string)
		takes = takes || d.Name == checkpointSetting && text && value == ""
		if d.Name == "preset" && text && value != "" {
			return settings
		}
	}
	weights, _ := filepath.Glob(filepath.Join(saved, "*.safetensors"))
	abs, err := filepath.Abs(saved)
	if !takes || len(weights) == 0 || err != nil {
		return settings
	}
	out := maps.Clone(settings)
	out[checkpointSetting] = abs
	return out
}

// madeBySRPO reports whether a folder is a run, a checkpoint, or what a policy saved. It returns true for a
// folder that does not exist, which loading reports.
func madeBySRPO(folder string) bool {
	info, err := os.Stat(folder)
	if err != nil || !info.IsDir() {
		return true
	}
	if run, ok := RunOf(folder); ok && run != "" {
		return true
	}
	for _, name := range []string{"MANIFEST", SavedStateFile} {
		if _, err := os.Stat(filepath.Join(folder, name)); err == nil {
			return true
		}
	}
	return false
}
