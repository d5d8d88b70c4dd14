// Package embeddings remembers what was computed from a video, by what it was computed from: the content of the video, and the encoder with its version,
// package and settings. An entry that is damaged is as good as none, and is made again.
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

// magic begins every entry; another one is another format.
const magic = "srpo-e1\n"

// Cache is a folder of entries. Its methods may be called from several goroutines, and from several processes at the same time.
type Cache struct {
	// Dir is made when the first entry is put.
	Dir string

	hits, misses, damaged atomic.Int64
}

// Key names an entry: a hash over what it was computed from.
type Key [sha256.Size]byte

// KeyOf hashes parts, each with its length, so that no two lists of parts are taken for each other.
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

// Get returns an entry's bytes. ok is false when there is none, or a damaged one, which is removed.
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

// checksum is over the key too, so that an entry under another's name is no entry.
func checksum(k Key, body []byte) Key {
	h := sha256.New()
	h.Write(k[:])
	h.Write(body)
	return Key(h.Sum(nil))
}

// Put keeps an entry. Its file gets its name when it is whole. Error: Exhausted when it cannot be written; nothing is lost by going on.
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
		return plugins.Errorf(plugins.Exhausted, "an embedding cannot be kept: %w", err).WithPlace("%s", c.Dir).WithHint("set SRPO_CACHE to a folder that can be written to and has room")
	}
	return nil
}

// Counts says how many lists of vectors were found and not found, and how many entries of any kind were damaged.
func (c *Cache) Counts() (hits, misses, damaged int) {
	return int(c.hits.Load()), int(c.misses.Load()), int(c.damaged.Load())
}

// Vectors returns rows of float32; ok as in [Cache.Get], and false for an entry that holds no rows.
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

// PutVectors keeps rows of one size. Rows with a number that is not finite are not kept: whatever went wrong may go right another time.
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

// JSON reads an entry that [Cache.PutJSON] wrote.
func (c *Cache) JSON(k Key, v any) bool {
	data, ok := c.Get(k)
	return ok && json.Unmarshal(data, v) == nil
}

// PutJSON keeps a value as JSON.
func (c *Cache) PutJSON(k Key, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return plugins.AsError(err)
	}
	return c.Put(k, data)
}

// Identity is an encoder in words that change whenever its vectors may: name, version, the hash of its package, its libraries' versions, its
// settings, and the model that it says its vectors come from: a file of weights may be replaced at the same path.
func Identity(info plugins.Info, hash string, settings plugins.Settings, spec encoder.Spec) string {
	words := []string{info.Name, info.Version, hash, fmt.Sprint(spec.Dimension), fmt.Sprintf("%q", spec.Model)}
	var more []string
	for name, v := range info.Versions {
		more = append(more, fmt.Sprintf("%q=%q", name, v))
	}
	for name, v := range settings {
		more = append(more, fmt.Sprintf("set %q=%#v", name, v))
	}
	sort.Strings(more)
	return strings.Join(append(words, more...), "\n")
}

// HashSource hashes the bytes of a video: a file, or the files of a folder with their names.
func HashSource(path string) (string, error) {
	h := sha256.New()
	one := func(path string) error {
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
		err = one(path)
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
			return one(p)
		})
	}
	return hex.EncodeToString(h.Sum(nil)), err
}

// HashFrames hashes a clip: its shape and its pixels.
func HashFrames(t plugins.Tensor) string {
	h := sha256.New()
	fmt.Fprintf(h, "%v\n", t.Shape)
	h.Write(t.Data)
	return hex.EncodeToString(h.Sum(nil))
}
