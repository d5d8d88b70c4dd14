package export

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/srpo-dev/srpo/plugins"
)

func TestCheckConfig(t *testing.T) {
	for _, c := range []struct {
		kind, config, want string
	}{
		{"vjepa2", `{"model_type": "vjepa2", "architectures": ["VJEPA2ForVideoClassification"], "id2label": {"0": "a"},
			"torch_dtype": "float32", "image_size": 256, "use_SiLU": false, "x": null, "_commit": "a"}`, ""},
		{"vjepa2", `{"use_rope_interleave": true, "hierarchical_layers": [0, 1, 2]}`,
			"does not know 2 of its fields, which may change the network: hierarchical_layers, use_rope_interleave"},
		{"vjepa2", `{"use_SiLU": true}`, "use_SiLU"},
		{"vjepa2", `{"is_causal": 0}`, "is_causal"},
		{"vjepa2", `{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}`, "a, b, c, d and 2 more"},
		{"vjepa2", `{"auto_map": {"AutoModel": "mine.Model"}}`, "auto_map"},
		{"vjepa2", `{"architectures": ["VJEPA21Model"]}`, "architectures names VJEPA21Model"},
		{"dinov2", `{"num_register_tokens": 0}`, ""},
		{"dinov2", `{"num_register_tokens": 4}`, "num_register_tokens"},
		{"dinov2", `{"architectures": ["Dinov2WithRegistersModel"]}`, "architectures names Dinov2WithRegistersModel"},
		{"dinov2_with_registers", `{"num_register_tokens": 4, "interpolate_antialias": true}`, ""},
	} {
		var config map[string]any
		if err := json.Unmarshal([]byte(c.config), &config); err != nil {
			t.Fatal(err)
		}
		expect(t, c.config, CheckConfig(config, c.kind), plugins.Unsupported, c.want)
	}
}

// expect checks that err is nil, if want is empty, or a plugins.Error of this kind with want in its message and a hint.
func expect(t *testing.T, name string, err error, kind plugins.ErrorKind, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	var e *plugins.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Hint == "" || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want %v with %q and a hint", name, err, kind, want)
	}
}

func writeWeights(t *testing.T, path string, names ...string) {
	t.Helper()
	entries := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	for i, name := range names {
		entries[name] = map[string]any{"dtype": "F32", "shape": []int{1}, "data_offsets": []int{4 * i, 4*i + 4}}
	}
	header, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	data := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	data = append(append(data, header...), make([]byte, 4*len(names))...)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCheckWeights(t *testing.T) {
	two := map[string]any{"num_hidden_layers": 2.0}
	video := []string{
		"encoder.embeddings.patch_embeddings.proj.weight", "encoder.layer.0.attention.query.weight",
		"encoder.layer.1.mlp.fc1.bias", "encoder.layernorm.weight", "predictor.layer.7.norm1.weight",
	}
	frames := []string{
		"embeddings.cls_token", "embeddings.mask_token", "encoder.layer.0.attention.attention.key.bias",
		"encoder.layer.1.layer_scale1.lambda1", "layernorm.bias",
	}
	for _, c := range []struct {
		name, kind, want string
		config           map[string]any
		weights          []string
	}{
		{"plain", "vjepa2", "", two, video},
		{
			"classifier", "vjepa2", "", two, append([]string{
				"classifier.weight", "pooler.query_tokens",
			}, prefixed("vjepa2.", video)...),
		},
		{"2.1", "vjepa2",
			"the network that config.json describes has no place for 2 of the weights: encoder.embeddings.img_mod_embed, " +
				"encoder.layernorms.0.weight", two, append([]string{
				"encoder.layernorms.0.weight", "encoder.embeddings.img_mod_embed",
			}, video...)},
		{"more layers", "vjepa2", "the weights have 3 layers, num_hidden_layers in config.json is 2", two,
			append([]string{"encoder.layer.2.norm1.weight"}, video...)},
		{"fewer layers", "vjepa2", "the weights have 2 layers, num_hidden_layers in config.json is 24", nil, video},
		{"frames", "dinov2", "", two, frames},
		{"registers as plain", "dinov2",
			"the network that config.json describes has no place for 1 of the weights: embeddings.register_tokens",
			two, append([]string{"embeddings.register_tokens"}, frames...)},
		{"registers", "dinov2_with_registers", "", two, append([]string{"embeddings.register_tokens"}, frames...)},
	} {
		folder := t.TempDir()
		writeWeights(t, filepath.Join(folder, "model.safetensors"), c.weights...)
		expect(t, c.name, CheckWeights(folder, c.config, c.kind), plugins.Mismatch, c.want)
	}
}

func prefixed(prefix string, names []string) (out []string) {
	for _, name := range names {
		out = append(out, prefix+name)
	}
	return out
}

func TestCheckWeightsFindsBadFiles(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "model.safetensors")
	check := func() error { return CheckWeights(folder, map[string]any{"num_hidden_layers": 1.0}, "vjepa2") }
	expect(t, "none", check(), plugins.NotFound, "has no model.safetensors")
	for _, c := range []struct{ name, content, want string }{
		{"empty", "abc", "truncated: 3 bytes"},
		{"page", strings.Repeat("<html>", 9), "not a safetensors file"},
		{"no JSON", "\x02\x00\x00\x00\x00\x00\x00\x00xx", "not a safetensors file"},
	} {
		if err := os.WriteFile(path, []byte(c.content), 0o644); err != nil {
			t.Fatal(err)
		}
		expect(t, c.name, check(), plugins.Corrupt, c.want)
	}
	writeWeights(t, path, "encoder.layer.0.norm1.weight")
	if err := check(); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-1); err != nil {
		t.Fatal(err)
	}
	expect(t, "truncated", check(), plugins.Corrupt, "according to its header")

	index := filepath.Join(folder, "model.safetensors.index.json")
	if err := os.WriteFile(
		index, []byte(`{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}`), 0o644,
	); err != nil {
		t.Fatal(err)
	}
	expect(t, "no shard", check(), plugins.NotFound, "has no 1.safetensors")
	writeWeights(t, filepath.Join(folder, "1.safetensors"), "encoder.layer.0.norm1.weight")
	writeWeights(t, filepath.Join(folder, "2.safetensors"), "encoder.layer.0.norm3.weight")
	expect(t, "shards", check(), plugins.Mismatch, "encoder.layer.0.norm3.weight")
}
