package embed

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
)

// magic begins every entry and identifies the format.
const magic = "srpo-e1\n"

// Cache is a folder of entries that are named by what they were computed from. A damaged entry counts as
// missing and is computed again. The methods are safe for concurrent use, also by several processes.
type Cache struct {
	// Dir is created when the first entry is put.
	Dir string

	hits, misses, damaged atomic.Int64
}

// OpenCache returns the cache in dir; with an empty dir, one in a temporary folder, which remove removes.
func OpenCache(dir string) (c *Cache, remove func(), err error) {
	if dir != "" {
		return &Cache{Dir: dir}, func() {}, nil
	}
	if dir, err = os.MkdirTemp("", "srpo-embeddings-"); err != nil {
		return nil, nil, plugins.Errorf(plugins.Exhausted, "the temporary cache of embeddings: %w", err).
			WithHint("free some space in the temporary folder")
	}
	return &Cache{Dir: dir}, func() { _ = os.RemoveAll(dir) }, nil
}

// Key names an entry. It is a hash of what the entry was computed from.
type Key [sha256.Size]byte

// KeyOf hashes the parts with their lengths, so that different lists of parts have different keys.
func KeyOf(parts ...string) Key {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		io.WriteString(h, p)
	}
	return Key(h.Sum(nil))
}

func (c *Cache) path(k Key) string {
	name := hex.EncodeToString(k[:])
	return filepath.Join(c.Dir, name[:2], name[2:])
}

// Get returns the bytes of an entry. ok is false when the entry does not exist or is damaged. A damaged entry
// is removed.
func (c *Cache) Get(k Key) (data []byte, ok bool) {
	file, err := os.ReadFile(c.path(k))
	if err != nil {
		return nil, false
	}
	body := len(file) - sha256.Size
	if body < len(magic) || string(file[:len(magic)]) != magic || checksum(k, file[:body]) != Key(file[body:]) {
		_ = os.Remove(c.path(k))
		c.damaged.Add(1)
		return nil, false
	}
	return file[len(magic):body], true
}

// checksum includes the key, so that an entry under the name of another one is invalid.
func checksum(k Key, body []byte) Key {
	h := sha256.New()
	h.Write(k[:])
	h.Write(body)
	return Key(h.Sum(nil))
}

// Put stores an entry. Its file is renamed into place once it is complete. The error is Exhausted when the
// entry cannot be written. The caller may continue without it.
func (c *Cache) Put(k Key, data []byte) error {
	path := c.path(k)
	body := append([]byte(magic), data...)
	sum := checksum(k, body)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	var f *os.File
	if err == nil {
		f, err = os.CreateTemp(filepath.Dir(path), ".tmp-")
	}
	if err == nil {
		_, err = f.Write(append(body, sum[:]...))
		if e := f.Close(); err == nil {
			err = e
		}
		if err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}
	if err != nil {
		return plugins.Errorf(plugins.Exhausted, "an embedding cannot be cached: %w", err).
			WithPlace("%s", c.Dir).
			WithHint("set SRPO_CACHE to a folder that can be written to and has room")
	}
	return nil
}

// Counts returns how many lists of vectors were found, how many were missing, and how many entries of any kind were
// damaged.
func (c *Cache) Counts() (hits, misses, damaged int) {
	return int(c.hits.Load()), int(c.misses.Load()), int(c.damaged.Load())
}

// Vectors returns the rows of an entry that [Cache.PutVectors] stored. ok is false as in [Cache.Get], and when
// the entry has another form.
func (c *Cache) Vectors(k Key) (rows [][]float32, ok bool) {
	defer func() {
		if ok {
			c.hits.Add(1)
		} else {
			c.misses.Add(1)
		}
	}()
	data, ok := c.Get(k)
	if !ok || len(data) < 8 {
		return nil, false
	}
	n, dim := int(binary.LittleEndian.Uint32(data)), int(binary.LittleEndian.Uint32(data[4:]))
	if data = data[8:]; len(data) != 4*n*dim {
		return nil, false
	}
	rows = make([][]float32, n)
	for i := range rows {
		rows[i] = make([]float32, dim)
		for j := range rows[i] {
			rows[i][j] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*(i*dim+j):]))
		}
	}
	return rows, true
}

// PutVectors stores rows of equal length. Rows with a number that is not finite are not stored, because another
// attempt may succeed.
func (c *Cache) PutVectors(k Key, rows [][]float32) error {
	var b bytes.Buffer
	dim := 0
	if len(rows) > 0 {
		dim = len(rows[0])
	}
	head := make([]byte, 8)
	binary.LittleEndian.PutUint32(head, uint32(len(rows)))
	binary.LittleEndian.PutUint32(head[4:], uint32(dim))
	b.Write(head)
	word := make([]byte, 4)
	for _, row := range rows {
		if len(row) != dim {
			return nil
		}
		for _, v := range row {
			if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
				return nil
			}
			binary.LittleEndian.PutUint32(word, math.Float32bits(v))
			b.Write(word)
		}
	}
	return c.Put(k, b.Bytes())
}

// JSON reads an entry that [Cache.PutJSON] stored into v. It returns false when there is none.
func (c *Cache) JSON(k Key, v any) bool {
	data, ok := c.Get(k)
	return ok && json.Unmarshal(data, v) == nil
}

// PutJSON stores a value as JSON.
func (c *Cache) PutJSON(k Key, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return plugins.AsError(err)
	}
	return c.Put(k, data)
}

// Identity returns a text that changes whenever the embeddings of an encoder may change. It contains the name, the
// version, the hash of the package, the versions of libraries, the settings, and the model that the encoder reports,
// because a file of weights may be replaced at the same path.
func Identity(info plugins.Info, hash string, settings plugins.Settings, spec encoder.Spec) string {
	parts := []string{info.Name, info.Version, hash, fmt.Sprint(spec.Dimension), fmt.Sprintf("%q", spec.Model)}
	var more []string
	for name, v := range info.Versions {
		more = append(more, fmt.Sprintf("%q=%q", name, v))
	}
	for name, v := range settings {
		more = append(more, fmt.Sprintf("set %q=%#v", name, v))
	}
	sort.Strings(more)
	return strings.Join(append(parts, more...), "\n")
}

// HashSource returns a hash of the bytes of a video: a file, or the files of a folder with their names.
func HashSource(path string) (string, error) {
	h := sha256.New()
	addFile := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		fmt.Fprintf(h, "file %s\n", strings.ToLower(filepath.Ext(path)))
		err = addFile(path)
	} else {
		err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			size, err := d.Info()
			if err != nil {
				return err
			}
			fmt.Fprintf(h, "\n%q %d\n", d.Name(), size.Size())
			return addFile(p)
		})
	}
	return hex.EncodeToString(h.Sum(nil)), err
}

// HashFrames returns a hash of a clip: its shape and its pixels.
func HashFrames(t plugins.Tensor) string {
	h := sha256.New()
	fmt.Fprintf(h, "%v\n", t.Shape)
	h.Write(t.Data)
	return hex.EncodeToString(h.Sum(nil))
}
