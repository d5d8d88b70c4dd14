package supervise

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/plugins"
)

// loaderConfig is the dynamic loader's list of folders; a variable for tests.
var loaderConfig = "/etc/ld.so.conf"

// libraryFolders lists where the dynamic loader looks: LD_LIBRARY_PATH, the loader's configuration, and the folders that need no configuration.
func libraryFolders() []string {
	dirs := filepath.SplitList(os.Getenv("LD_LIBRARY_PATH"))
	dirs = append(dirs, readLoaderConfig(loaderConfig, 0)...)
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	for _, base := range []string{"/lib", "/usr/lib", "/usr/local/lib"} {
		dirs = append(dirs, base, base+"64")
		if triplet != "" {
			dirs = append(dirs, filepath.Join(base, triplet))
		}
	}
	return dirs
}

func readLoaderConfig(path string, depth int) []string {
	f, err := os.Open(path)
	if err != nil || depth > 8 {
		return nil
	}
	defer f.Close()
	var dirs []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case fields[0] == "include":
			for _, pattern := range fields[1:] {
				if !filepath.IsAbs(pattern) {
					pattern = filepath.Join(filepath.Dir(path), pattern)
				}
				found, _ := filepath.Glob(pattern)
				for _, p := range found {
					dirs = append(dirs, readLoaderConfig(p, depth+1)...)
				}
			}
		case filepath.IsAbs(fields[0]):
			dirs = append(dirs, fields[0])
		}
	}
	return dirs
}

// CheckLibraries makes sure that the shared libraries of a package are there, before anything is downloaded. Nothing is loaded for that.
func CheckLibraries(list []manifest.System) error {
	if runtime.GOOS != "linux" { // the names are those of Linux libraries
		return nil
	}
	var missing, packages []string
	var dirs []string
	for _, s := range list {
		if dirs == nil {
			dirs = libraryFolders()
		}
		found := false
		for _, d := range dirs {
			if _, err := os.Stat(filepath.Join(d, s.Library)); err == nil {
				found = true
				break
			}
		}
		if !found {
			missing = append(missing, s.Library)
			if s.Apt != "" {
				packages = append(packages, s.Apt)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	e := plugins.Errorf(plugins.NotFound, "needs %s, which this machine does not have", strings.Join(missing, " and "))
	if len(packages) > 0 {
		return e.WithHint("on Debian and Ubuntu: sudo apt-get install %s; if it lies in a folder of its own, name that in LD_LIBRARY_PATH", strings.Join(packages, " "))
	}
	return e.WithHint("install it; if it lies in a folder of its own, name that in LD_LIBRARY_PATH")
}
