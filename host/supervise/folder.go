package supervise

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/srpo-dev/srpo/host/internal/bounded"
	"github.com/srpo-dev/srpo/plugins"
)

const (
	folderPrefix = "srpo-run-"
	ownerFile    = "host.json"
	// maxFolder is the longest path of the folder. The path of a Unix socket has at most 104 bytes on macOS
	// and 107 on Linux, and go-plugin appends two random names.
	maxFolder = 60
	// orphanAge is the age from which a folder without an owner file is an orphan of a host that died while
	// it made it.
	orphanAge = time.Hour
)

// runFolder is a run's private folder (mode 0700) for sockets. Its owner file is locked while the host
// lives, so other hosts can tell it from an orphan. The lock ends with the process, however that ends, and
// works across PID namespaces.
type runFolder struct {
	path  string
	tag   string
	owner *flock.Flock
}

// owner is the content of the owner file.
type owner struct {
	PID int `json:"pid"`
	// Tag is in the environment of every process of the run, see [tagEnv].
	Tag     string    `json:"tag"`
	Started time.Time `json:"started"`
}

// newRunFolder makes the folder in the first of $XDG_RUNTIME_DIR, the temporary folder and /tmp that is
// short enough and writable.
func newRunFolder() (*runFolder, error) {
	var tried []string
	for _, base := range runFolderBases() {
		sweep(base)
		f, err := makeRunFolder(base)
		if err == nil {
			return f, nil
		}
		tried = append(tried, err.Error())
	}
	return nil, plugins.Errorf(plugins.Exhausted, "no folder for plugin sockets: %s", strings.Join(tried, "; ")).
		WithHint("make the temporary folder writable, or set TMPDIR to a short path that is")
}

func runFolderBases() []string {
	var out []string
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), os.TempDir(), "/tmp"} {
		if base != "" && len(base)+len(folderPrefix)+12 <= maxFolder && !slices.Contains(out, base) {
			out = append(out, base)
		}
	}
	return out
}

// Sweep removes what earlier hosts left, as every [New] does. It returns the removed folders and the number
// of killed plugin processes.
func Sweep() (folders []string, processes int) {
	for _, base := range runFolderBases() {
		f, n := sweep(base)
		folders, processes = append(folders, f...), processes+n
	}
	return folders, processes
}

func makeRunFolder(base string) (*runFolder, error) {
	dir, err := os.MkdirTemp(base, folderPrefix) // mode 0700
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 12)
	_, _ = rand.Read(secret) // never fails
	f := &runFolder{path: dir, tag: hex.EncodeToString(secret)}
	fail := func(err error) (*runFolder, error) {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	// It is locked before it gets its name, so that no other host finds it unlocked.
	tmp := filepath.Join(dir, ".owner")
	f.owner = flock.New(tmp, flock.SetFlag(os.O_CREATE|os.O_EXCL|os.O_RDWR), flock.SetPermissions(0o600))
	if _, err = f.owner.TryLock(); err != nil {
		return fail(err)
	}
	text, err := json.Marshal(owner{PID: os.Getpid(), Tag: f.tag, Started: time.Now().UTC()})
	if err == nil {
		err = os.WriteFile(tmp, append(text, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, ownerFile))
	}
	if err != nil {
		_ = f.owner.Close()
		return fail(err)
	}
	return f, nil
}

func (f *runFolder) remove() {
	_ = os.RemoveAll(f.path)
	_ = f.owner.Close()
}

// sweep removes what earlier hosts left in base: their folders, and those of their plugins that still run.
func sweep(base string) (folders []string, processes int) {
	dirs, _ := filepath.Glob(filepath.Join(base, folderPrefix+"*"))
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
			continue
		}
		var st unix.Stat_t
		if unix.Lstat(dir, &st) != nil || int(st.Uid) != os.Getuid() {
			continue
		}
		path := filepath.Join(dir, ownerFile)
		lock := flock.New(path, flock.SetFlag(os.O_RDONLY))
		gone, err := lock.TryLock()
		if err != nil {
			if _, err := os.Lstat(filepath.Join(dir, ".owner")); err == nil &&
				time.Since(info.ModTime()) > orphanAge {
				_ = os.RemoveAll(dir)
				folders = append(folders, dir)
			}
			continue
		}
		if !gone {
			continue // its host lives
		}
		var o owner
		if text, err := bounded.ReadFile(path, bounded.Small); err == nil && json.Unmarshal(text, &o) == nil &&
			o.Tag != "" {
			processes += killTagged(o.Tag)
		}
		_ = os.RemoveAll(dir)
		folders = append(folders, dir)
		_ = lock.Close()
	}
	return folders, processes
}
