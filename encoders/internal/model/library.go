package model

import (
	"os"
	"path/filepath"
	"regexp"

	"github.com/srpo-dev/srpo/plugins"
)

// oldest is the first ONNX Runtime that has the C API of onnxruntime_go v1.27.0 (24).
const oldest = "1.24.1"

// environment is the variable with the plugin's Python environment, in which the package onnxruntime brings the
// library.
const environment = "VIRTUAL_ENV"

// FindLibrary is the path of libonnxruntime: what was given, or else the one in the plugin's environment.
func FindLibrary(given string) (string, error) {
	if given != "" {
		if info, err := os.Stat(given); err != nil || info.IsDir() {
			return "", plugins.Errorf(plugins.NotFound, "there is no library %s", given).WithHint(
				"the setting library wants the path of libonnxruntime.so, %s or newer; leave it out to take "+
					"the plugin's own",
				oldest,
			)
		}
		return filepath.Abs(given)
	}
	venv := os.Getenv(environment)
	if venv == "" {
		return "", plugins.Errorf(plugins.NotFound,
			"no libonnxruntime: the plugin was started without its environment").
			WithHint("start it by srpo, or give the library's path in the setting library")
	}
	found, _ := filepath.Glob(
		filepath.Join(venv, "lib", "python3.*", "site-packages", "onnxruntime", "capi", "libonnxruntime.so*"),
	)
	if len(found) == 0 {
		found, _ = filepath.Glob(
			filepath.Join(venv, "lib", "python3.*", "site-packages", "onnxruntime", "capi", "libonnxruntime*.dylib"),
		)
	}
	if len(found) == 0 {
		return "", plugins.Errorf(plugins.NotFound, "there is no libonnxruntime in %s", venv).
			WithHint("srpo plugin install NAME --repair, or give the library's path in the setting library")
	}
	return found[0], nil
}

var versionInName = regexp.MustCompile(`\.so\.(\d+\.\d+\.\d+)$`)

// ownVersion is the version of the plugin's own library, by its file name; empty: unknown.
func ownVersion() string {
	path, err := FindLibrary("")
	if v := versionInName.FindStringSubmatch(path); err == nil && v != nil {
		return v[1]
	}
	return ""
}
