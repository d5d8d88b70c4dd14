package model

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/srpo-dev/srpo/plugins"
)

// oldest is the first ONNX Runtime that has the C API of onnxruntime_go v1.27.0 (24).
const oldest = "1.24.1"

// environment is the variable with the plugin's Python environment, in which the package onnxruntime brings the library.
const environment = "VIRTUAL_ENV"

// FindLibrary is the path of libonnxruntime: what was given, or else the one in the plugin's environment.
func FindLibrary(given string) (string, error) {
	if given != "" {
		if info, err := os.Stat(given); err != nil || info.IsDir() {
			return "", plugins.Errorf(plugins.NotFound, "there is no library %s", given).
				WithHint("the setting library wants the path of libonnxruntime.so, %s or newer; leave it out to take the plugin's own", oldest)
		}
		return filepath.Abs(given)
	}
	venv := os.Getenv(environment)
	if venv == "" {
		return "", plugins.Errorf(plugins.NotFound, "no libonnxruntime: the plugin was started without its environment").
			WithHint("start it by srpo, or give the library's path in the setting library")
	}
	found, _ := filepath.Glob(filepath.Join(venv, "lib", "python3.*", "site-packages", "onnxruntime", "capi", "libonnxruntime.so*"))
	if len(found) == 0 {
		found, _ = filepath.Glob(filepath.Join(venv, "lib", "python3.*", "site-packages", "onnxruntime", "capi", "libonnxruntime*.dylib"))
	}
	if len(found) == 0 {
		return "", plugins.Errorf(plugins.NotFound, "there is no libonnxruntime in %s", venv).WithHint("srpo plugin install NAME --repair, or give the library's path in the setting library")
	}
	return found[0], nil
}

// loaded is the one library of this process.
var loaded struct {
	sync.Mutex
	path string
}

var versionInName = regexp.MustCompile(`\.so\.(\d+\.\d+\.\d+)$`)

// Load loads libonnxruntime, once for the process. Errors: NotFound, Mismatch for one that is too old, Corrupt for what is no such library.
func Load(path string) error {
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.path == path {
		return nil
	}
	if loaded.path != "" {
		return plugins.Errorf(plugins.Invalid, "%s is loaded already, %s cannot be too", loaded.path, path).WithHint("one process has one library: start the plugin again")
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
			return plugins.Errorf(plugins.Corrupt, "%s is not libonnxruntime", path).WithHint("the setting library wants the path of libonnxruntime.so")
		}
		return plugins.Errorf(plugins.Corrupt, "%s cannot be loaded: %w", path, err).WithHint("see that it is the library for this machine, or leave the setting library out")
	}
	loaded.path = path
	return nil
}

// Version is that of the loaded library, or of the plugin's own, by its name: looking does not load it, since settings may name another. Empty: unknown.
func Version() string {
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.path != "" {
		return ort.GetVersion()
	}
	path, err := FindLibrary("")
	if v := versionInName.FindStringSubmatch(path); err == nil && v != nil {
		return v[1]
	}
	return ""
}
