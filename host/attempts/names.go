package attempts

import (
	"os"
	"path/filepath"

	"golang.org/x/text/unicode/norm"
)

// findFile returns the path of a file or folder whose name may be written in another Unicode normalization form: a Mac
// stores "é" as two characters (NFD) where a spreadsheet writes one (NFC). It returns path itself and the error of
// os.Stat if there is no such file.
func findFile(path string) (string, error) {
	_, err := os.Stat(path)
	if err == nil {
		return path, nil
	}
	parent := filepath.Dir(path)
	if parent == path || norm.NFC.String(path) == norm.NFD.String(path) {
		return path, err
	}
	dir, parentErr := findFile(parent)
	if parentErr != nil {
		return path, err
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if sameName(e.Name(), filepath.Base(path)) {
			return filepath.Join(dir, e.Name()), nil
		}
	}
	return path, err
}

// sameName reports whether two names are equal up to their Unicode normalization form.
func sameName(a, b string) bool { return a == b || norm.NFC.String(a) == norm.NFC.String(b) }
