package supervise

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/srpo-dev/srpo/host/supervise/manifest"
	"github.com/srpo-dev/srpo/plugins"
)

// loaderConfig is the file with the folders of the dynamic loader. Tests replace it.
var loaderConfig = "/etc/ld.so.conf"

// libraryFolders returns the folders of the dynamic loader: LD_LIBRARY_PATH, its configuration and its
// defaults.
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

// CheckLibraries checks that the shared libraries of a package are installed, without loading them. The
// error, of kind NotFound, names the missing ones. Outside Linux it checks nothing, as the names are those
// of Linux libraries.
func CheckLibraries(list []manifest.System) error {
	if runtime.GOOS != "linux" || len(list) == 0 {
		return nil
	}
	dirs := libraryFolders()
	var missing, packages []string
	for _, s := range list {
		found := slices.ContainsFunc(dirs, func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, s.Library))
			return err == nil
		})
		if found {
			continue
		}
		missing = append(missing, s.Library)
		if s.Apt != "" {
			packages = append(packages, s.Apt)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	e := plugins.Errorf(
		plugins.NotFound,
		"needs %s, which this machine does not have",
		strings.Join(missing, " and "),
	)
	const elsewhere = "if it is in another folder, add that to LD_LIBRARY_PATH"
	if len(packages) > 0 {
		return e.WithHint("on Debian and Ubuntu: sudo apt-get install %s; %s", strings.Join(packages, " "), elsewhere)
	}
	return e.WithHint("install it; %s", elsewhere)
}
