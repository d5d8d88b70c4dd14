package session

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// RunOf returns the run folder that a policy's folder belongs to: itself, or the run of a checkpoint. ok is false for a folder that belongs to no run.
func RunOf(folder string) (run string, ok bool) {
	for _, dir := range []string{folder, filepath.Join(folder, "..", ".."), filepath.Join(folder, "..", "..", "..")} {
		if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "srpo.toml")); err == nil {
			return filepath.Clean(dir), true
		}
	}
	return "", false
}

// FindPolicyAndHash finds the policy's folder that run.checkpoint names, an absolute path, and hashes it. The terminal is told of damaged checkpoints that are newer.
func FindPolicyAndHash(cfg *config.Config, checkpoint string, term *report.Terminal) (folder, sum string, err error) {
	if info, err := os.Stat(checkpoint); err != nil || !info.IsDir() {
		return "", "", plugins.Errorf(plugins.NotFound, "no folder %s", checkpoint).WithPlace("%s", cfg.Origin("run.checkpoint")).
			WithHint("give a run folder, one of its checkpoints, or a policy's own folder")
	}
	saved, damaged, err := FindPolicy(checkpoint)
	if err != nil {
		return "", "", err
	}
	for _, d := range damaged {
		term.Warn("%s", DamagedWarning(d))
	}
	if folder, err = filepath.Abs(saved); err != nil {
		return "", "", plugins.Errorf(plugins.Invalid, "%w", err)
	}
	if sum, err = hashFolder(folder); err != nil {
		return "", "", plugins.Errorf(plugins.Invalid, "the policy's folder cannot be read: %w", err).WithPlace("%s", folder).WithHint("check its permissions")
	}
	return folder, sum, nil
}

// hashFolder is a SHA-256 over the names and bytes of every file in a folder.
func hashFolder(dir string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		one := sha256.New()
		if _, err := io.Copy(one, f); err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %x\n", filepath.ToSlash(name), one.Sum(nil))
		return nil
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}

// RequireCheckpoint refuses a run.checkpoint that is no folder, before anything is made of it.
func RequireCheckpoint(cfg *config.Config) error {
	given := cfg.Run.Checkpoint
	info, err := os.Stat(given)
	if err == nil && info.IsDir() {
		return nil
	}
	what := "there is no folder %s"
	if err == nil {
		what = "%s is a file"
	}
	return plugins.Errorf(plugins.NotFound, what, given).WithPlace("%s", cfg.Origin("run.checkpoint")).
		WithHint("give a run folder, one of its checkpoints, a folder that the policy saved, or a published checkpoint; a model hub's name goes into the policy's own setting, such as policy.openvla.checkpoint")
}

// FindPolicy finds the policy's own folder that a folder means: of a run the one in its newest good checkpoint, newer ones that are damaged come back; of a
// checkpoint its own; any other folder is meant itself. Files of checkpoints are compared with their checksums, so that nobody trains on, or measures, weights that
// are no longer those that were committed.
func FindPolicy(folder string) (policy string, damaged []error, err error) {
	c, damaged, err := store.Latest(folder)
	if err == nil {
		return c.PolicyDir(), damaged, nil
	}
	if run, ok := RunOf(folder); len(damaged) > 0 || ok && filepath.Clean(run) == filepath.Clean(folder) {
		return "", nil, err // it is a run: damaged, or without a checkpoint
	}
	checkpoint, inside := folder, ""
	if abs, err := filepath.Abs(folder); err == nil && filepath.Base(abs) == "policy" {
		if _, err := os.Stat(filepath.Join(filepath.Dir(abs), "MANIFEST")); err == nil {
			checkpoint, inside = filepath.Dir(abs), folder
		}
	}
	if _, err := os.Stat(filepath.Join(checkpoint, "MANIFEST")); err != nil {
		return folder, nil, nil
	}
	if c, err = store.OpenCheckpoint(checkpoint); err != nil {
		return "", nil, err
	}
	if inside != "" {
		return inside, nil, nil
	}
	return c.PolicyDir(), nil, nil
}

// DamagedWarning says that a newer checkpoint was left out.
func DamagedWarning(err error) string {
	return fmt.Sprintf("%v; the checkpoint before it is used", err)
}

// PolicyFolder returns the policy's own folder inside a checkpoint or a run folder; any other folder, and one that is damaged, is returned as it is.
func PolicyFolder(folder string) string {
	if policy, _, err := FindPolicy(folder); err == nil {
		return policy
	}
	return folder
}
