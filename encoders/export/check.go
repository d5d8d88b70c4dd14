package export

import (
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
)

//go:embed networks.json
var networksJSON []byte

// A network is an entry of networks.json, which checkpoint.py documents.
type network struct {
	Classes, Fields, Unused, Weights []string
	Layers                           int
	Only                             map[string]any
	Prefix, Heads, Hint              string
}

const sameCheckpoint = "use config.json and weights of the same checkpoint"

// CheckConfig reports whether the exporter knows every field of a config.json that can change the network. kind is its
// model_type, one of those in [Families]. The error, of kind Unsupported, names the unknown fields. export.py checks
// the same.
func CheckConfig(config map[string]any, kind string) error {
	n, metadata := networkOf(kind)
	if names, ok := config["architectures"].([]any); ok {
		for _, name := range names {
			if class := fmt.Sprint(name); !slices.Contains(n.Classes, class) {
				return plugins.Errorf(plugins.Unsupported,
					"architectures names %s, which model_type %s does not have in transformers", class, kind).
					WithHint("%s", n.Hint)
			}
		}
	}
	var unknown []string
	for field, value := range config {
		only, harmless := n.Only[field]
		switch {
		case value == nil, strings.HasPrefix(field, "_"), harmless && reflect.DeepEqual(value, only):
		case !slices.Contains(slices.Concat(metadata, n.Fields, n.Unused), field):
			unknown = append(unknown, field)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return plugins.Errorf(plugins.Unsupported,
		"the exporter does not know %d of its fields, which may change the network: %s", len(unknown), few(unknown)).
		WithHint("%s; delete a field only if it does not change the network", n.Hint)
}

// CheckWeights compares the names of the weights in a checkpoint's folder with the network that its config.json
// describes, without reading the weights. kind is the model_type. It finds files that are missing or truncated
// (NotFound, Corrupt), layers that only one of the two has, and weights that the network has no place for (Mismatch).
// export.py compares all names and shapes.
func CheckWeights(folder string, config map[string]any, kind string) error {
	n, _ := networkOf(kind)
	names, err := weightNames(folder)
	if err != nil {
		return err
	}
	heads := regexp.MustCompile(n.Heads)
	known := regexp.MustCompile(strings.Join(n.Weights, "|"))
	layer := regexp.MustCompile(`^encoder\.layer\.(\d+)\.`)
	layers := 0
	var unexpected []string
	for _, name := range names {
		short := strings.TrimPrefix(name, n.Prefix)
		if heads.MatchString(short) {
			continue
		}
		if !known.MatchString(short) {
			unexpected = append(unexpected, name)
		}
		if m := layer.FindStringSubmatch(short); m != nil {
			if i, err := strconv.Atoi(m[1]); err == nil {
				layers = max(layers, i+1)
			}
		}
	}
	if len(unexpected) > 0 {
		return plugins.Errorf(plugins.Mismatch,
			"the network that config.json describes has no place for %d of the weights: %s", len(unexpected), few(unexpected)).
			WithPlace("%s", folder).WithHint("%s; %s", sameCheckpoint, n.Hint)
	}
	want := float64(n.Layers)
	if given, ok := config["num_hidden_layers"].(float64); ok {
		want = given
	}
	if layers > 0 && float64(layers) != want {
		return plugins.Errorf(plugins.Mismatch,
			"the weights have %d layers, num_hidden_layers in config.json is %v", layers, want).
			WithPlace("%s", folder).WithHint("%s", sameCheckpoint)
	}
	return nil
}

// networkOf returns the entry of a model_type, and the fields that no network uses.
func networkOf(kind string) (n network, metadata []string) {
	var all map[string]json.RawMessage
	err := json.Unmarshal(networksJSON, &all)
	if err == nil {
		err = errors.Join(json.Unmarshal(all["metadata"], &metadata), json.Unmarshal(all[kind], &n))
	}
	if err != nil {
		panic(fmt.Sprintf("networks.json, %s: %v", kind, err)) // it is part of the program
	}
	return n, metadata
}

// few lists the first four names in alphabetical order, and the number of others.
func few(names []string) string {
	slices.Sort(names)
	if len(names) <= 4 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:4], ", "), len(names)-4)
}

// weightNames returns the names of the weights in a folder, from the headers of its weight files.
func weightNames(folder string) ([]string, error) {
	files := []string{"model.safetensors"}
	index := filepath.Join(folder, "model.safetensors.index.json")
	if data, err := os.ReadFile(index); err == nil {
		var shards struct {
			WeightMap map[string]string `json:"weight_map"`
		}
		if err := json.Unmarshal(data, &shards); err != nil {
			return nil, plugins.Errorf(plugins.Corrupt, "%w", err).WithPlace("%s", index).
				WithHint("download the file again")
		}
		files = slices.Compact(slices.Sorted(maps.Values(shards.WeightMap)))
	}
	var names []string
	for _, name := range files {
		path := filepath.Join(folder, name)
		header, err := readHeader(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, plugins.Errorf(plugins.NotFound, "%s has no %s", folder, name).WithPlace("--model").
				WithHint("copy it into the folder, as in the format of transformers; pytorch_model.bin must be " +
					"converted: load it with transformers and save it with save_pretrained")
		}
		if err != nil {
			return nil, plugins.Errorf(plugins.Corrupt, "%w", err).WithPlace("%s", path).
				WithHint("copy or download the file again")
		}
		names = slices.AppendSeq(names, maps.Keys(header))
	}
	return names, nil
}

// readHeader returns the header of a safetensors file without its metadata: the entries by the name of the tensor.
// It checks the length of the file against them.
func readHeader(path string) (map[string]json.RawMessage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return nil, fmt.Errorf("it is truncated: %d bytes", info.Size())
	}
	length := binary.LittleEndian.Uint64(head[:])
	if rest := info.Size() - int64(len(head)); rest < 0 || length > uint64(rest) {
		return nil, errors.New("it is truncated within its header, or not a safetensors file")
	}
	var entries map[string]json.RawMessage
	if err := json.NewDecoder(io.LimitReader(f, int64(length))).Decode(&entries); err != nil {
		return nil, errors.New("it is not a safetensors file")
	}
	delete(entries, "__metadata__")
	end := int64(0)
	for name, entry := range entries {
		var e struct {
			Offsets [2]int64 `json:"data_offsets"`
		}
		if err := json.Unmarshal(entry, &e); err != nil {
			return nil, fmt.Errorf("it is not a safetensors file: %s: %w", name, err)
		}
		end = max(end, e.Offsets[1])
	}
	if want := int64(len(head)) + int64(length) + end; want != info.Size() {
		return nil, fmt.Errorf("it is truncated: it has %d bytes, %d according to its header", info.Size(), want)
	}
	return entries, nil
}
