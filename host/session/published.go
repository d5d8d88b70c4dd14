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
	// checkpointSetting is what a policy calls the setting that takes a checkpoint in its published format.
	checkpointSetting = "checkpoint"
	// SavedStateFile is a file of every folder that a Python policy saved (sdk/python), and of no published one.
	SavedStateFile = "srpo_sdk.json"
)

// givePublished looks at run.checkpoint. Where it is no folder of ours, and the policy has a setting for published checkpoints, it returns the folder, and
// settings with it; else settings as they are.
func givePublished(cfg *config.Config, name string, info plugins.Info, settings plugins.Settings) (folder string, out plugins.Settings, err error) {
	given := cfg.Run.Checkpoint
	if given == "" {
		return "", settings, nil
	}
	if ours(given) {
		return "", withBase(given, info, settings), nil
	}
	for _, d := range info.Settings {
		if _, text := d.Default.(string); d.Name != checkpointSetting || !text {
			continue
		}
		if there := settings.String(checkpointSetting); there != "" {
			return "", nil, plugins.Errorf(plugins.Invalid, "two published checkpoints are given: %s, and policy.%s.%s = %s", given, name, checkpointSetting, there).
				WithPlace("%s", cfg.Origin("run.checkpoint")).WithHint("leave one of them out")
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

// withBase gives a policy that cannot begin without a published checkpoint (openvla) the one that it saved itself, so that --checkpoint RUN is enough; the state
// is loaded on top of it. Whoever names another base, or a preset, keeps it.
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

// ours says whether a folder is a run, a checkpoint of one, what a policy saved, or none at all.
func ours(folder string) bool {
	info, err := os.Stat(folder)
	if err != nil || !info.IsDir() {
		return true // whoever loads it says so
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
