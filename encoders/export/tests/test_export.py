"""Tests of the export of random checkpoints of the published architectures, and of damaged ones.

They need the packages of requirements.txt.
"""

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import checkpoint
import clips
import export
import graph
import network
import random_checkpoint
from talk import Refused

ENCODERS = Path(__file__).resolve().parents[2]
torch.set_num_threads(1)


class Recorder:
    """Records reports."""

    def __init__(self):
        self.phases, self.messages = [], []

    def phase(self, name, *_, **__):
        if name not in self.phases:
            self.phases.append(name)

    def message(self, text):
        self.messages.append(text)


def arguments(family, model, out, **more):
    default = {"half": False, "revision": "", "frames": None, "clips": "", "threads": 1}
    return Namespace(**{**default, "family": family, "model": str(model), "out": str(out), **more})


def run(*a, **more):
    recorder = Recorder()
    return export.export(arguments(*a, **more), recorder), recorder


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """A V-JEPA 2 checkpoint that tests copy before they change it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints") / "video"
    random_checkpoint.vjepa2(
        folder, patch_size=8, crop_size=32, frames_per_clip=4, hidden_size=24, num_attention_heads=2
    )
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A DINOv2 checkpoint."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints") / "pictures"
    random_checkpoint.dinov2(folder, 48, 42, image_size=56, hidden_size=24, num_attention_heads=2)
    return folder


@pytest.fixture
def copy(video, tmp_path):
    return Path(shutil.copytree(video, tmp_path / "copy"))


def metadata(path, key):
    return json.loads({p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}[key])


def test_vjepa2(video, tmp_path):
    out = tmp_path / "deep" / "v.onnx"
    result, recorder = run("vjepa2", video, out)
    assert recorder.phases == ["loading", "reference", "exporting", "writing", "verifying"]
    assert result["verified"]["largest_relative_difference"] < 1e-5
    assert result["bytes"] == out.stat().st_size
    card = metadata(out, "srpo.encoder")
    assert card == result["card"]
    assert (card["dimension"], card["frames"], card["input"]["layout"], card["default_output"]) == (
        24,
        4,
        "BTCHW",
        "mean",
    )
    assert card["preprocess"]["resize"] == 36 and card["preprocess"]["interpolation"] == "bilinear"
    assert metadata(out, "srpo.verified") == result["verified"]
    session = onnxruntime.InferenceSession(str(out))
    x = np.random.default_rng(0).standard_normal((5, 4, 3, 32, 32), dtype=np.float32)
    together = session.run(None, {"pixel_values_videos": x})[0]
    alone = np.concatenate([session.run(None, {"pixel_values_videos": x[i : i + 1]})[0] for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.linalg.norm(together[0] - together[1]) > 0.01 * np.linalg.norm(together[0])
    assert list(tmp_path.joinpath("deep").iterdir()) == [out]
    text = out.read_bytes()
    for own in (str(ENCODERS).encode(), b"site-packages", str(tmp_path).encode()):
        assert own not in text


def test_other_number_of_frames(video, tmp_path):
    result, _ = run("vjepa2", video, tmp_path / "v.onnx", frames=10)
    assert result["card"]["frames"] == 10
    assert result["verified"]["largest_relative_difference"] < 1e-5
    with pytest.raises(Refused, match="not a multiple of the checkpoint's tubelet of 2") as e:
        run("vjepa2", video, tmp_path / "v.onnx", frames=7)
    assert e.value.hint == "--frames 6"


@pytest.mark.parametrize("registers", [None, 3])
def test_dinov2(tmp_path, registers):
    torch.manual_seed(1)
    more = {} if registers is None else {"num_register_tokens": registers}
    model = random_checkpoint.dinov2(
        tmp_path / "c", 64, 56, image_size=42, hidden_size=24, num_attention_heads=2, **more
    )
    result, _ = run("dinov2", tmp_path / "c", tmp_path / "d.onnx")
    assert result["verified"]["largest_relative_difference"] < 1e-5
    assert result["card"]["outputs"] == {"cls": "cls", "patches": "patches"}
    x = torch.randn(3, 3, 56, 56)
    cls, patches = onnxruntime.InferenceSession(str(tmp_path / "d.onnx")).run(
        ["cls", "patches"], {"pixel_values": x.numpy()}
    )
    with torch.no_grad():
        want = model(pixel_values=x)
    np.testing.assert_allclose(cls, want.pooler_output.numpy(), atol=1e-5)
    np.testing.assert_allclose(patches, want.last_hidden_state[:, 1 + (registers or 0) :].mean(1).numpy(), atol=1e-5)


def test_half(video, tmp_path):
    result, _ = run("vjepa2", video, tmp_path / "v.onnx", half=True)
    assert 1e-6 < result["verified"]["largest_relative_difference"] < 3e-3
    model = onnx.load(tmp_path / "v.onnx")
    large = [i for i in model.graph.initializer if np.prod(i.dims) > 100 and i.data_type != onnx.TensorProto.INT64]
    assert large and all(i.data_type == onnx.TensorProto.FLOAT16 for i in large)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_scores_are_not_materialised(video, tmp_path):
    run("vjepa2", video, tmp_path / "v.onnx")
    kinds = [n.op_type for n in onnx.load(tmp_path / "v.onnx").graph.node]
    assert kinds.count("MultiHeadAttention") == 2 and "Softmax" not in kinds
    assert "Sin" not in kinds and "Cos" not in kinds  # tables, computed once


def test_rotary_tables_are_the_published_ones():
    for head, frames in ((12, 4), (16, 6), (8, 2), (64, 4)):
        c = random_checkpoint.transformers.VJEPA2Config(
            patch_size=8,
            crop_size=24,
            frames_per_clip=4,
            hidden_size=2 * head,
            num_attention_heads=2,
            num_hidden_layers=1,
            pred_hidden_size=12,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
        )
        layer = random_checkpoint.transformers.VJEPA2Model(c).encoder.layer[0].attention
        tokens = frames // 2 * 9
        x = torch.randn(2, 2, tokens, head)
        want = layer.apply_rotary_embeddings(x, layer.get_position_ids(torch.zeros(2, tokens, 2 * head)))
        torch.testing.assert_close(network.rotate(x, *network.rotary_tables(c, frames)), want, atol=2e-6, rtol=0)


def test_large_weights_are_in_a_second_file(video, tmp_path, monkeypatch):
    out = tmp_path / "v.onnx"
    run("vjepa2", video, out)
    small = out.stat().st_size
    monkeypatch.setattr(graph, "INLINE_BYTES", 1000)
    stale = tmp_path / f"v-{'0' * 12}-4.data"
    stale.write_bytes(b"of an earlier export")
    other = tmp_path / f"v-half-{'0' * 12}-4.data"
    other.write_bytes(b"of the model v-half")
    result, _ = run("vjepa2", video, out)
    weight_files = [p for p in tmp_path.glob("v-*.data") if p != other]
    assert len(weight_files) == 1 and out.stat().st_size < small and not stale.exists() and other.exists()
    assert result["bytes"] == out.stat().st_size + weight_files[0].stat().st_size
    assert onnxruntime.InferenceSession(str(out)).run(
        None, {"pixel_values_videos": np.zeros((1, 4, 3, 32, 32), np.float32)}
    )
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for p in (out, weight_files[0]):  # the location is relative
        shutil.move(p, moved)
    assert onnxruntime.InferenceSession(str(moved / "v.onnx"))


def test_wrong_graph_is_refused_and_not_kept(video, tmp_path, monkeypatch):
    out = tmp_path / "v.onnx"
    run("vjepa2", video, out)
    before = out.read_bytes()
    real = graph.export

    def wrong(wrapper, sample):
        with torch.no_grad():
            wrapper.model.encoder.layernorm.bias += 0.01
        return real(wrapper, sample)

    monkeypatch.setattr(graph, "export", wrong)
    with pytest.raises(
        Refused, match=r"differs from torch by \d\.\d+e-0\d of a vector's length .* more than 1e-04"
    ) as e:
        run("vjepa2", video, out)
    assert e.value.kind == "corrupt"
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


def test_own_clips(video, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    np.savez_compressed(folder / "a.npz", frames=clips.scenes(1, 9, 40, 50)[0])
    np.save(folder / "b.npy", clips.scenes(2, 3, 40, 40)[1])  # shorter than the network's
    result, _ = run("vjepa2", video, tmp_path / "v.onnx", clips=str(folder))
    assert result["verified"]["pictures"] == "clips"
    np.save(folder / "c.npy", np.zeros((3, 4, 5)))
    with pytest.raises(Refused, match=r"it contains float64 \[3, 4, 5\]"):
        run("vjepa2", video, tmp_path / "v.onnx", clips=str(folder))


# The goldens of generic are checked only in Go, because its installation makes the model file.
GOLDENS = sorted(p for name in ("dinov2", "vjepa2") for p in (ENCODERS / name / "testdata").glob("*.json"))


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda p: p.stem)
def test_preprocessing_is_the_published_one(golden):
    g = json.loads(golden.read_text())
    card = metadata(golden.with_suffix(".onnx"), "srpo.encoder")
    p = card["preprocess"]
    for c in g["clips"]:
        frames = np.array(Image.open(golden.parent / c["file"])).reshape(c["frames"], c["height"], c["width"], 3)
        want = np.array(Image.open(golden.parent / c["crop"])).reshape(c["frames"], p["crop"], p["crop"], 3)
        got = clips.preprocess(frames, card) * torch.tensor(p["std"]).view(3, 1, 1) + torch.tensor(p["mean"]).view(
            3, 1, 1
        )
        np.testing.assert_allclose(got.permute(0, 2, 3, 1).numpy() / p["rescale"], want, atol=1e-3)


def edit(folder, name, **changes):
    value = json.loads((folder / name).read_text())
    for k, v in changes.items():
        if v is None:
            value.pop(k, None)
        else:
            value[k] = v
    (folder / name).write_text(json.dumps(value))


def weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def truncate(folder, size=None):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: size if size is not None else len(data) // 2])


PRE = "video_preprocessor_config.json"
NORM = "encoder.layernorm.weight"
BAD = {
    "no config": (lambda f: (f / "config.json").unlink(), "not found", "has no config.json", "add the missing file"),
    "config in pieces": (
        lambda f: (f / "config.json").write_text("{"),
        "corrupt",
        "it is not JSON",
        "the file again",
    ),
    "another architecture": (
        lambda f: edit(f, "config.json", model_type="llama"),
        "mismatch",
        'model_type = "llama"',
        "vjepa2",
    ),
    "the other family": (
        lambda f: edit(f, "config.json", model_type="dinov2"),
        "mismatch",
        "another architecture",
        "srpo encoder export dinov2 --model",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "not found", "no model.safetensors", "copy"),
    "old weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "not found",
        "no model.safetensors",
        "save_pretrained",
    ),
    "truncated": (truncate, "corrupt", r"truncated: it has \d+ bytes, \d+ according to its header", "the file again"),
    "truncated header": (lambda f: truncate(f, 100), "corrupt", "truncated within its header", "the file again"),
    "truncated to nothing": (lambda f: truncate(f, 3), "corrupt", "truncated: 3 bytes", "the file again"),
    "no safetensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"<html>not found</html>" * 99),
        "corrupt",
        "not a safetensors file",
        "the file again",
    ),
    "a missing shard": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}'),
        "not found",
        "lacks x.safetensors",
        "copy the missing files",
    ),
    "NaN": (
        lambda f: weights(f, lambda t: t[NORM].__setitem__(3, float("nan"))),
        "corrupt",
        "layernorm.weight has 1 values that are NaN",
        "use another checkpoint",
    ),
    "a missing weight": (
        lambda f: weights(f, lambda t: t.pop(NORM)),
        "corrupt",
        "lacks 1 of its network's weights, such as encoder.layernorm.weight",
        "the same checkpoint",
    ),
    "a field of another version": (
        lambda f: edit(f, "config.json", use_rope_interleave=True, hierarchical_layers=[0, 1]),
        "unsupported",
        "does not know 2 of its fields, which may change the network: hierarchical_layers, use_rope_interleave",
        "V-JEPA 2.1 cannot be exported",
    ),
    "a field with another value": (
        lambda f: edit(f, "config.json", use_SiLU=True, is_causal=0),
        "unsupported",
        "2 of its fields, which may change the network: is_causal, use_SiLU",
        "delete a field only if it does not change the network",
    ),
    "another class": (
        lambda f: edit(f, "config.json", architectures=["VJEPA21Model"]),
        "unsupported",
        "architectures names VJEPA21Model, which model_type vjepa2 does not have",
        "V-JEPA 2.1",
    ),
    "its own code": (
        lambda f: edit(f, "config.json", auto_map={"AutoModel": "mine.Model"}),
        "unsupported",
        "auto_map",
        "V-JEPA 2",
    ),
    "an adapter": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        "unsupported",
        "has an adapter",
        "merge_and_unload",
    ),
    "weights of another version": (
        lambda f: weights(f, lambda t: t.update({"encoder.embeddings.video_mod_embed": torch.ones(1, 1, 24)})),
        "mismatch",
        "the network that config.json describes has no place for 1 of the weights: encoder.embeddings.video_mod_embed",
        "V-JEPA 2.1 cannot be exported",
    ),
    "more layers than in config": (
        lambda f: edit(f, "config.json", num_hidden_layers=1),
        "mismatch",
        "the weights have 2 layers, num_hidden_layers in config.json is 1",
        "the same checkpoint",
    ),
    "fewer layers than in config": (
        lambda f: edit(f, "config.json", num_hidden_layers=None),
        "mismatch",
        "the weights have 2 layers, num_hidden_layers in config.json is 24",
        "the same checkpoint",
    ),
    "two networks": (
        lambda f: weights(f, lambda t: t.update({"vjepa2." + NORM: torch.ones(24)})),
        "corrupt",
        "1 of the weights occur twice, with and without vjepa2. before the name: encoder.layernorm.weight",
        "keep one",
    ),
    "weights in two forms": (
        lambda f: (
            shutil.copy(f / "model.safetensors", f / "1.safetensors"),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.safetensors"}}'),
        ),
        "invalid",
        "has model.safetensors and, in model.safetensors.index.json, other weight files",
        "one checkpoint",
    ),
    "another shape": (lambda f: edit(f, "config.json", hidden_size=36), "corrupt", ".", "the same checkpoint"),
    "no preprocessing": (lambda f: (f / PRE).unlink(), "not found", f"has no {PRE}", "add the missing file"),
    "another crop": (
        lambda f: edit(f, PRE, crop_size=64),
        "mismatch",
        "crop_size is 64, but 32 in config.json",
        "the same checkpoint",
    ),
    "no mean": (lambda f: edit(f, PRE, image_mean=None), "invalid", "image_mean is not a list of three", "published"),
    "no rescaling": (
        lambda f: edit(f, PRE, do_rescale=False),
        "invalid",
        "do not support do_rescale = false",
        "published",
    ),
    "nearest": (lambda f: edit(f, PRE, resample=0), "invalid", "resample = 0", "published"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_checkpoints(case, copy, tmp_path):
    damage, kind, message, hint = BAD[case]
    damage(copy)
    with pytest.raises(Refused, match=message) as e:
        run("vjepa2", copy, tmp_path / "out" / "v.onnx")
    assert e.value.kind == kind and hint in e.value.hint and e.value.hint.strip()
    assert not (tmp_path / "out").exists()


def test_registers_under_the_type_without_are_refused(tmp_path):
    folder = tmp_path / "c"
    random_checkpoint.dinov2(
        folder, 48, 42, image_size=42, hidden_size=24, num_attention_heads=2, num_register_tokens=3
    )
    edit(folder, "config.json", model_type="dinov2", architectures=["Dinov2Model"])
    with pytest.raises(Refused, match="may change the network: num_register_tokens") as e:
        run("dinov2", folder, tmp_path / "d.onnx")
    assert e.value.kind == "unsupported" and "model_type dinov2_with_registers" in e.value.hint
    edit(folder, "config.json", num_register_tokens=None)
    with pytest.raises(Refused, match="has no place for 1 of the weights: embeddings.register_tokens") as e:
        run("dinov2", folder, tmp_path / "d.onnx")
    assert e.value.kind == "mismatch" and "model_type dinov2_with_registers" in e.value.hint


def test_heads_and_harmless_fields_are_accepted(video, pictures, tmp_path):
    """A classifier, its prefix, a missing predictor or mask token, and fields that change nothing."""
    config = transformers.VJEPA2Config.from_pretrained(video)
    model = transformers.VJEPA2ForVideoClassification(config)
    folder = tmp_path / "classifier"
    model.save_pretrained(folder)
    shutil.copy(video / PRE, folder)
    edit(folder, "config.json", torch_dtype="float32", image_size=32, use_SiLU=False, x=None)
    run("vjepa2", folder, tmp_path / "classifier.onnx")
    folder = Path(shutil.copytree(video, tmp_path / "bare"))
    weights(folder, lambda t: [t.pop(k) for k in list(t) if k.startswith("predictor.")])
    bare, _ = run("vjepa2", folder, tmp_path / "bare.onnx")
    assert bare["verified"]["largest_relative_difference"] < 1e-5
    folder = Path(shutil.copytree(pictures, tmp_path / "frames"))
    weights(folder, lambda t: t.pop("embeddings.mask_token"))
    run("dinov2", folder, tmp_path / "d.onnx")


def test_the_table_of_networks_is_that_of_transformers(video, pictures, tmp_path):
    """networks.json has the config fields of transformers' classes, and patterns for all names of their weights."""
    registers = tmp_path / "registers"
    random_checkpoint.dinov2(
        registers,
        48,
        42,
        image_size=42,
        hidden_size=24,
        num_attention_heads=2,
        num_register_tokens=3,
        use_swiglu_ffn=True,
    )
    for folder in (video, pictures, registers):
        kind = json.loads((folder / "config.json").read_text())["model_type"]
        table = checkpoint.NETWORKS[kind]
        default = type(transformers.AutoConfig.from_pretrained(folder))()
        common = set(checkpoint.NETWORKS["metadata"])
        fields = {k for k in default.to_dict() if not k.startswith("_")}
        assert fields - common == set(table["fields"])
        assert set(transformers.PreTrainedConfig().to_dict()) <= common
        assert table["layers"] == default.num_hidden_layers
        for name in table["classes"]:
            assert isinstance(default, getattr(transformers, name).config_class)
        names = set(checkpoint.header(folder / "model.safetensors")) - {"__metadata__"}
        patterns = "|".join([table["heads"], *table["weights"]])
        assert names and [n for n in names if not re.search(patterns, n)] == []


def test_too_large_for_the_memory(video, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MEMORY", 1e9)
    with pytest.raises(Refused, match=r"need about \d+\.\d GB of memory to export, and \d+\.\d GB are free") as e:
        run("vjepa2", video, tmp_path / "v.onnx")
    assert e.value.kind == "exhausted" and list(tmp_path.iterdir()) == []


def test_bad_arguments(video, pictures, tmp_path):
    for more, message in (
        ({"revision": "main"}, "--model is a folder"),
        ({"out": str(tmp_path / "v.bin")}, "does not end with .onnx"),
    ):
        a = arguments("vjepa2", video, tmp_path / "v.onnx")
        vars(a).update(more)
        with pytest.raises(Refused, match=message):
            export.export(a, Recorder())
    with pytest.raises(Refused, match="there is no folder /nowhere/at/all"):
        run("vjepa2", "/nowhere/at/all", tmp_path / "v.onnx")
    with pytest.raises(Refused, match="embeds single frames"):
        run("dinov2", pictures, tmp_path / "d.onnx", frames=4)
    with pytest.raises(Refused, match="is a file"):
        run("dinov2", pictures / "config.json", tmp_path / "d.onnx")


def test_hub_id_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        Refused, match="somebody/vjepa2-none is not on this machine and the model hub cannot be reached"
    ) as e:
        run("vjepa2", "somebody/vjepa2-none", tmp_path / "v.onnx")
    assert e.value.kind == "unavailable"
    for word in ("config.json", "model.safetensors", PRE, "--model ~/models/vjepa2-none"):
        assert word in e.value.hint
