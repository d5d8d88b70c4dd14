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

// RunOf returns the run folder that a folder belongs to: the folder itself, or the run of a checkpoint. ok is
// false for a folder that belongs to no run.
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

// FindPolicyAndHash returns the absolute path of the policy's folder that run.checkpoint names, and a hash of
// its files. It warns about newer checkpoints that are damaged.
func FindPolicyAndHash(cfg *config.Config, checkpoint string, term *report.Terminal) (folder, sum string, err error) {
	if info, err := os.Stat(checkpoint); err != nil || !info.IsDir() {
		return "", "", plugins.Errorf(plugins.NotFound, "no folder %s", checkpoint).
			WithPlace("%s", cfg.Origin("run.checkpoint")).
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
		return "", "", plugins.Errorf(plugins.Invalid, "the policy's folder cannot be read: %w", err).
			WithPlace("%s", folder).
			WithHint("check its permissions")
	}
	return folder, sum, nil
}

// hashFolder returns a SHA-256 of the names and bytes of all files in a folder.
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

// RequireCheckpoint returns an error unless run.checkpoint is a folder.
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
		WithHint("give a run folder, one of its checkpoints, a folder that the policy saved, or a published " +
			"checkpoint; a model hub's name goes into the policy's own setting, such as policy.openvla.checkpoint")
}

// FindPolicy returns the policy's folder inside a folder: for a run, that of its newest good checkpoint; for a
// checkpoint, its own; any other folder is returned unchanged. damaged are the errors of newer checkpoints of a
// run. The files of checkpoints are compared with their checksums.
func FindPolicy(folder string) (policy string, damaged []error, err error) {
	c, damaged, err := store.Latest(folder)
	if err == nil {
		return c.PolicyDir(), damaged, nil
	}
	if run, ok := RunOf(folder); len(damaged) > 0 || ok && filepath.Clean(run) == filepath.Clean(folder) {
		return "", nil, err // a run without a good checkpoint
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

// DamagedWarning returns the warning about a checkpoint that cannot be used.
func DamagedWarning(err error) string {
	return fmt.Sprintf("%v; the previous checkpoint is used", err)
}

// PolicyFolder returns the policy's folder inside a run or a checkpoint. Any other folder, and a damaged one,
// is returned unchanged.
func PolicyFolder(folder string) string {
	if policy, _, err := FindPolicy(folder); err == nil {
		return policy
	}
	return folder
}
