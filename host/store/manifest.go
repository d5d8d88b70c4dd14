package store

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/plugins"
)

// Manifest records how a run was started.
type Manifest struct {
	FormatVersion int       `json:"format_version"`
	Name          string    `json:"name"`
	Created       time.Time `json:"created"`
	// Host is the version of srpo, and Go that of the compiler. Platform is such as "linux/amd64". Machine describes
	// the machine: cores, memory, GPU.
	Host     string            `json:"host"`
	Go       string            `json:"go,omitempty"`
	Platform string            `json:"platform,omitempty"`
	Machine  map[string]string `json:"machine,omitempty"`
	// Command is the command line. Resumed has one entry per resumption.
	Command []string  `json:"command"`
	Resumed []Resumed `json:"resumed,omitempty"`
	Seed    uint64    `json:"seed,string"`
	// WorkingFolder is the folder in which the run was started. Relative paths in its settings start there, and
	// srpo.lock is in it.
	WorkingFolder string `json:"working_folder,omitempty"`
	// Plugins in use, with the hashes of their packages.
	Plugins []Plugin `json:"plugins"`
	// Tasks are the ids of the tasks trained on.
	Tasks       []string     `json:"tasks,omitempty"`
	StartStates *StartStates `json:"start_states,omitempty"`
	// Checkpoint is the policy folder that the run started from, with the hash of its files. Empty: the run began
	// with imitation or fresh weights.
	Checkpoint     string `json:"checkpoint,omitempty"`
	CheckpointHash string `json:"checkpoint_hash,omitempty"`
}

// Resumed records one resumption of a run.
type Resumed struct {
	Time      time.Time `json:"time"`
	Iteration int       `json:"iteration"`
	Command   []string  `json:"command"`
	Host      string    `json:"host"`
	// Plugins in use from then on, if one of them differs from those that the run started with.
	Plugins []Plugin `json:"plugins,omitempty"`
}

// Plugin identifies a plugin that a run used.
type Plugin struct {
	Kind     plugins.Kind `json:"kind"`
	Name     string       `json:"name"`
	Version  string       `json:"version"`
	Protocol int          `json:"protocol"`
	// Hash covers every file of the plugin's package, as in srpo.lock.
	Hash     string            `json:"hash,omitempty"`
	Path     string            `json:"path,omitempty"`
	Versions map[string]string `json:"versions,omitempty"`
}

// StartStates records the split of start states, or of tasks, and the side that the run trains on.
type StartStates struct {
	// Used is "all", "train" or "test". By is what was divided: "start" (the start states of each task) or "task".
	Used          string  `json:"used"`
	TrainFraction float64 `json:"train_fraction"`
	By            string  `json:"by,omitempty"`
	// Train and Test are the indices of start states by task, if start states were divided.
	Train map[string][]int `json:"train,omitempty"`
	Test  map[string][]int `json:"test,omitempty"`
	// TrainTasks and TestTasks are the ids of tasks, if tasks were divided.
	TrainTasks []string `json:"train_tasks,omitempty"`
	TestTasks  []string `json:"test_tasks,omitempty"`
}

// ReadManifest reads the manifest of a run folder. Errors are those of [Open].
func ReadManifest(dir string) (Manifest, error) {
	m, err := readManifest(dir)
	if err != nil {
		return Manifest{}, err
	}
	return *m, nil
}

func readManifest(dir string) (*Manifest, error) {
	path := filepath.Join(dir, manifestFile)
	data, err := bounded.ReadFile(path, bounded.Small)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, plugins.Errorf(plugins.NotFound, "there is no run here: %s is missing", manifestFile).
			WithPlace("%s", dir).WithHint("give the folder of a run, such as runs/NAME")
	}
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "cannot be read: %w", err).
			WithPlace("%s", path).WithHint("check the file's permissions")
	}
	var version struct {
		V *int `json:"format_version"`
	}
	newRun := "start a new run from a policy folder under " + filepath.Join(dir, checkpointsDir)
	damaged := func(why string) error {
		return plugins.Errorf(plugins.Corrupt, "the manifest is damaged: %s", why).WithPlace("%s", path).
			WithHint("restore the file from a backup, or %s", newRun)
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, damaged(err.Error())
	}
	if version.V == nil {
		return nil, damaged("it has no format_version")
	}
	if *version.V != FormatVersion {
		age := "a newer"
		if *version.V < FormatVersion {
			age = "an older"
		}
		return nil, plugins.Errorf(plugins.Mismatch,
			"the folder has format %d, made by %s srpo; this srpo reads format %d", *version.V, age, FormatVersion).
			WithPlace("%s", path).WithHint("use the srpo that made it, or %s", newRun)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, damaged(err.Error())
	}
	return &m, nil
}
