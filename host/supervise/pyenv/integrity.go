package pyenv

import (
	"bufio"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// integrity hashes the installed files of an environment: the names in site-packages, and the path and size
// of every file in the RECORD of each distribution. changed lists files that are missing, or whose size
// differs from RECORD.
//
// It reads names and sizes only, which takes a fraction of a second for large environments; the installer
// has checked the content. Compiled files are skipped: they come and go, and plugins run with
// PYTHONPYCACHEPREFIX set and do not read them.
func integrity(dir string) (sum string, changed []string, err error) {
	sites, err := filepath.Glob(filepath.Join(dir, "lib", "python3.*", "site-packages"))
	if err != nil || len(sites) != 1 {
		return "", nil, fmt.Errorf("%d folders lib/python3.*/site-packages, want 1", len(sites))
	}
	site := sites[0]
	entries, err := os.ReadDir(site)
	if err != nil {
		return "", nil, err
	}
	h := sha256.New()
	for _, e := range entries { // sorted by name; includes .pth files that were added later
		if e.Name() == "__pycache__" {
			continue
		}
		fmt.Fprintf(h, "%s\n", e.Name())
		if !strings.HasSuffix(e.Name(), ".dist-info") {
			continue
		}
		lines, wrong, err := record(site, e.Name())
		if err != nil {
			return "", nil, err
		}
		changed = append(changed, wrong...)
		for _, l := range lines {
			fmt.Fprintf(h, "%s\n", l)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), changed, nil
}

// record reads the RECORD of a distribution, whose lines are path, hash and size. It returns the path and
// actual size of each file.
func record(site, name string) (lines, changed []string, err error) {
	f, err := os.Open(filepath.Join(site, name, "RECORD"))
	if errors.Is(err, os.ErrNotExist) {
		return []string{"no RECORD"}, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	r := csv.NewReader(bufio.NewReaderSize(f, 1<<16))
	r.FieldsPerRecord = -1
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s/RECORD: %w", name, err)
		}
		path := row[0]
		if strings.Contains(path, "__pycache__/") {
			continue
		}
		full := path
		if !filepath.IsAbs(full) {
			full = filepath.Join(site, path)
		}
		size := int64(-1)
		if info, err := os.Stat(full); err == nil {
			size = info.Size()
		}
		lines = append(lines, fmt.Sprintf("%s %d", path, size))
		switch {
		case size < 0:
			changed = append(changed, path+" is missing")
		case len(row) > 2 && row[2] != "" && row[2] != fmt.Sprint(size):
			changed = append(changed, fmt.Sprintf("%s has %d bytes instead of %s", path, size, row[2]))
		}
	}
	slices.Sort(lines)
	return lines, changed, nil
}
