//go:build cgo

package model

import (
	"strings"
	"sync"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/srpo-dev/srpo/plugins"
)

// loaded is the one library of this process.
var loaded struct {
	sync.Mutex
	path string
}

// Load loads libonnxruntime, once for the process. Errors: NotFound, Mismatch for one that is too old, Corrupt for
// what is no such library.
func Load(path string) error {
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.path == path {
		return nil
	}
	if loaded.path != "" {
		return plugins.Errorf(plugins.Invalid, "%s is loaded already, %s cannot be too", loaded.path, path).
			WithHint("one process has one library: start the plugin again")
	}
	ort.SetSharedLibraryPath(path)
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		message := err.Error()
		switch {
		case strings.Contains(message, "ORT API base: 2"): // it has no C API of the number asked for
			is := "is older"
			if v := versionInName.FindStringSubmatch(path); v != nil {
				is = "is " + v[1]
			}
			return plugins.Errorf(plugins.Mismatch, "ONNX Runtime %s or newer is needed, %s %s", oldest, path, is).
				WithHint("give a newer one in the setting library, or leave the setting out to take the plugin's own")
		case strings.Contains(message, "OrtGetApiBase"):
			return plugins.Errorf(plugins.Corrupt, "%s is not libonnxruntime", path).
				WithHint("the setting library wants the path of libonnxruntime.so")
		}
		return plugins.Errorf(plugins.Corrupt, "%s cannot be loaded: %w", path, err).
			WithHint("see that it is the library for this machine, or leave the setting library out")
	}
	loaded.path = path
	return nil
}

// Version is that of the loaded library, or of the plugin's own, by its name: looking does not load it, since
// settings may name another. Empty: unknown.
func Version() string {
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.path != "" {
		return ort.GetVersion()
	}
	return ownVersion()
}
