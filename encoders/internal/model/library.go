package model

import (
	"os"
	"path/filepath"
	"regexp"

	"github.com/srpo-dev/srpo/plugins"
)

// oldest is the first ONNX Runtime with version 24 of the C API, which onnxruntime_go v1.27.0 requires.
const oldest = "1.24.1"

// environment is the variable with the path of the plugin's Python environment. Its package onnxruntime has
// the library.
const environment = "VIRTUAL_ENV"

// FindLibrary returns the path of libonnxruntime: the value of the setting library or, if it is empty, the library in
// the plugin's environment. Errors: NotFound.
func FindLibrary(setting string) (string, error) {
	if setting != "" {
		if info, err := os.Stat(setting); err != nil || info.IsDir() {
			return "", plugins.Errorf(plugins.NotFound, "there is no library %s", setting).
				WithHint("set the setting library to the path of libonnxruntime.so, %s or newer, "+
					"or leave it out to use the plugin's own", oldest)
		}
		return filepath.Abs(setting)
	}
	venv := os.Getenv(environment)
	if venv == "" {
		return "", plugins.Errorf(plugins.NotFound,
			"no libonnxruntime: the plugin was started without its environment").
			WithHint("let srpo start the plugin, or set the setting library to the path of the library")
	}
	for _, name := range []string{"libonnxruntime.so*", "libonnxruntime*.dylib"} {
		pattern := filepath.Join(venv, "lib", "python3.*", "site-packages", "onnxruntime", "capi", name)
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0], nil
		}
	}
	return "", plugins.Errorf(plugins.NotFound, "there is no libonnxruntime in %s", venv).
		WithHint("srpo plugin install NAME --repair, or set the setting library to the path of the library")
}

var versionInName = regexp.MustCompile(`\.so\.(\d+\.\d+\.\d+)$`)

// ownVersion returns the version in the file name of the plugin's own library, or "" if it is unknown.
func ownVersion() string {
	path, err := FindLibrary("")
	if v := versionInName.FindStringSubmatch(path); err == nil && v != nil {
		return v[1]
	}
	return ""
}
