//go:build cgo

package model

import (
	"strings"
	"sync"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/srpo-dev/srpo/plugins"
)

// loaded is the library of this process. A process can load only one.
var loaded struct {
	sync.Mutex
	path string
}

// Load loads libonnxruntime, once per process. Errors: NotFound, Mismatch (the library is too old), Corrupt
// (it is not libonnxruntime) and Invalid (another library is loaded).
func Load(path string) error {
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.path == path {
		return nil
	}
	if loaded.path != "" {
		return plugins.Errorf(plugins.Invalid, "cannot load %s: %s is already loaded", path, loaded.path).
			WithHint("start the plugin again: a process can load only one library")
	}
	ort.SetSharedLibraryPath(path)
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		message := err.Error()
		switch {
		case strings.Contains(message, "ORT API base: 2"): // it lacks the required C API
			version := "is older"
			if v := versionInName.FindStringSubmatch(path); v != nil {
				version = "is " + v[1]
			}
			return plugins.Errorf(plugins.Mismatch, "ONNX Runtime %s or newer is needed, %s %s", oldest, path, version).
				WithHint("set the setting library to a newer one, or leave it out to use the plugin's own")
		case strings.Contains(message, "OrtGetApiBase"):
			return plugins.Errorf(plugins.Corrupt, "%s is not libonnxruntime", path).
				WithHint("set the setting library to the path of libonnxruntime.so")
		}
		return plugins.Errorf(plugins.Corrupt, "%s cannot be loaded: %w", path, err).
			WithHint("check that the library is for this machine, or leave the setting library out")
	}
	loaded.path = path
	return nil
}

// Version returns the version of the loaded library. If none is loaded, it returns the version in the file
// name of the plugin's own library, or "" if that is unknown. It does not load the library, because a
// setting may select another one.
func Version() string {
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.path != "" {
		return ort.GetVersion()
	}
	return ownVersion()
}
