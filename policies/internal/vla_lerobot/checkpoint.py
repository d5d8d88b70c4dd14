"""Reads and writes lerobot's policy folders: config.json, model.safetensors, and the processors' files with statistics.
Reading checks every tensor. lerobot can load what is written.

In addition to lerobot's files, a folder that srpo wrote contains `tokenizer/` (and `action_tokenizer/`), which lerobot
downloads from the hub by name, and srpo.json. Folders of openpi's conversion to PyTorch can be read as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import draccus
import numpy as np
import srpo_sdk as srpo
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import nn

from vla_lerobot import normalise
from vla_lerobot.normalise import ACTION, STATE
from vla_lerobot.sizes import Sizes

CONFIG, WEIGHTS, OWN = "config.json", "model.safetensors", "srpo.json"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
_NORMALISING = ((PREPROCESSOR, "normalizer_processor"), (POSTPROCESSOR, "unnormalizer_processor"))  # file and step
TOKENIZER, ACTION_TOKENIZER = "tokenizer", "action_tokenizer"
_PROCESSOR = re.compile(r"policy_(pre|post)processor.*\.(json|safetensors)")
_TOKENIZER = re.compile(
    r"tokenizer\.(json|model)|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|processor_config\.json|"
    r"processing_action_tokenizer\.py"
)
_PADDING = 1e-6  # openpi's quantiles of zeros differ from 0 by the width of a bin of its histogram, 1e-10
_MAX_FILE_BYTES = 64 << 20  # of each tokenizer or processor file; PaliGemma's tokenizer.json has 35 MB
_FILES = "a lerobot checkpoint has config.json, model.safetensors, policy_preprocessor.json, policy_postprocessor.json "
_FILES += "and the .safetensors files that these two name"
PLUGINS = {"pi0": "pi0", "pi0_fast": "pi0-fast"}  # plugins by lerobot's policy type


@dataclass
class Source:
    """The content of a checkpoint folder without its weights.

    Args:
        folder: where it was read.
        config: lerobot's configuration, PI0Config or PI0FastConfig.
        statistics: by "action" and "observation.state", see `normalise`.
        own: content of srpo.json.
        processors: the processors' files, bytes by name.
        tokenizer, action_tokenizer: their files, bytes by name; empty if the folder has none.
        padded: the number of dimensions to which openpi may have padded data before it computed statistics; 0: none.
    """

    folder: str
    config: Any
    statistics: dict[str, dict[str, np.ndarray]]
    own: dict[str, Any] = field(default_factory=dict)
    processors: dict[str, bytes] = field(default_factory=dict)
    tokenizer: dict[str, bytes] = field(default_factory=dict)
    action_tokenizer: dict[str, bytes] = field(default_factory=dict)
    padded: int = 0

    def drop_padding(self, key: str, dim: int) -> None:
        """Drops padding from the statistics of key and sets its feature's shape to the rest.

        Until June 2025 openpi padded actions and states with zeros to the network's 32 dimensions before it computed
        statistics. The first dim numbers are kept if all others are zeros, and else all numbers up to the last one
        that is not 0, so that the error for another env names the checkpoint's own dimensions.
        """
        values = {name: np.asarray(v).reshape(-1) for name, v in self.statistics.get(key, {}).items()}
        if not self.padded or any(len(v) != self.padded for v in values.values()):
            return
        used = ~np.all([np.abs(v) <= _PADDING for v in values.values()], axis=0)
        keep = max(dim, int(np.flatnonzero(used).max(initial=-1)) + 1)
        if keep >= self.padded:
            return
        self.statistics[key] = {name: v[:keep] for name, v in values.items()}
        features = self.config.output_features if key == ACTION else self.config.input_features
        features[key] = type(features[key])(features[key].type, (keep,))
        print(f"statistics of {key}: the first {keep} of {self.padded} numbers are used, the rest is padding")

    @property
    def sizes(self) -> Sizes | None:
        """The sizes of a small network; None: lerobot's own sizes."""
        return Sizes(**self.own["sizes"]) if "sizes" in self.own else None

    @property
    def place(self) -> str:
        return os.path.join(self.folder, PREPROCESSOR)


def locate(name: str) -> str:
    """Returns the folder of a checkpoint: a local one, or that of a hub id in the local cache. Nothing is downloaded.

    Raises:
        srpo.Error: "not found".
    """
    if os.path.isdir(name):
        return name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or os.path.exists(name):
        raise srpo.Error(
            "not found", f"no folder {name!r}", place="setting checkpoint", hint=f"give a folder; {_FILES}"
        )
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, local_files_only=True)
    except Exception as e:
        raise srpo.Error(
            "not found",
            f"{name!r} is neither a folder nor in the local hub cache; nothing is downloaded",
            place="setting checkpoint",
            hint=f"download its files and give their folder: {_FILES}",
        ) from e


def read_source(folder: str, kind: str, config_class: type) -> Source:
    """Reads a checkpoint folder without its weights.

    Args:
        kind: the expected policy type of lerobot, "pi0" or "pi0_fast".
        config_class: lerobot's configuration class of that type.

    Raises:
        srpo.Error: "not found" for a folder that is not a checkpoint, "mismatch" for another architecture, "corrupt".
    """
    path = os.path.join(folder, CONFIG)
    if not os.path.isfile(path):
        raise srpo.Error("not found", "not a checkpoint: there is no config.json", place=folder, hint=_FILES)
    raw = read_json(path)
    if "type" not in raw and "action_horizon" in raw and kind == "pi0":
        return _openpi(folder, raw, config_class)
    if raw.get("type") != kind:
        other = PLUGINS.get(raw.get("type", ""))
        raise srpo.Error(
            "mismatch",
            f"the checkpoint's type is {raw.get('type')!r}, want {kind!r}",
            place=path,
            hint=f"use --policy {other}" if other else "for other models use other plugins, see srpo plugin list",
        )
    config = decode(config_class, {k: v for k, v in raw.items() if k != "type"}, path)
    processors = _files(folder, _PROCESSOR)
    own = read_json(os.path.join(folder, OWN)) if os.path.isfile(os.path.join(folder, OWN)) else {}
    return Source(
        folder,
        config,
        _statistics(folder, processors),
        own,
        processors,
        tokenizer_files(folder, TOKENIZER),
        tokenizer_files(folder, ACTION_TOKENIZER),
    )


def decode(config_class: type, raw: dict[str, Any], place: str) -> Any:
    """Decodes the content of config.json into lerobot's configuration. Its device is "cpu"; the network is moved later.

    Raises:
        srpo.Error: "corrupt".
    """
    try:
        with draccus.config_type("json"), tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "c.json")
            with open(path, "w", encoding="utf-8") as f:
                json.dump({**raw, "device": "cpu"}, f)
            config = draccus.parse(config_class, path, args=[])
        config.validate_features()
        return config
    except (Exception, SystemExit) as e:  # draccus raises exceptions of many types
        text = str(e).strip().splitlines()
        raise srpo.Error(
            "corrupt",
            f"lerobot cannot read it: {text[0] if text else type(e).__name__}",
            place=place,
            hint="the file was changed, or is from another version of lerobot than the plugin uses",
        ) from e


def read_json(path: str) -> dict[str, Any]:
    """Reads a JSON object. Raises `srpo.Error` ("corrupt")."""
    try:
        with open(path, encoding="utf-8") as f:
            value = json.load(f)
        if not isinstance(value, dict):
            raise ValueError(f"it is a {type(value).__name__}, want an object")
        return value
    except (ValueError, OSError) as e:
        raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint="copy the file again") from e


def _files(folder: str, pattern: re.Pattern[str]) -> dict[str, bytes]:
    """The files of a folder that match the pattern, bytes by name."""
    out = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if pattern.fullmatch(name) and os.path.isfile(path) and os.path.getsize(path) <= _MAX_FILE_BYTES:
            out[name] = Path(path).read_bytes()
    return out


def tokenizer_files(folder: str, sub: str) -> dict[str, bytes]:
    """A tokenizer's files in a subfolder, bytes by name. Those of the text tokenizer may be in the folder itself."""
    files = _files(os.path.join(folder, sub), _TOKENIZER)
    return files or (_files(folder, _TOKENIZER) if sub == TOKENIZER else {})


def text_tokenizer(files: Mapping[str, bytes], **options: Any) -> Any:
    """Loads a tokenizer with transformers from its files, bytes by name."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)


def _normalisers(processors: Mapping[str, bytes], place: str) -> list[str]:
    """Names of the state files of the normalising steps: that of the preprocessor first."""
    names = []
    for file, step in _NORMALISING:
        if file not in processors:
            continue
        try:
            for s in json.loads(processors[file])["steps"]:
                if s.get("registry_name") == step and s.get("state_file"):
                    names.append(s["state_file"])
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise srpo.Error("corrupt", f"{file} cannot be read: {e!r}", place=place, hint="copy the file again") from e
    return names


def _statistics(folder: str, processors: Mapping[str, bytes]) -> dict[str, dict[str, np.ndarray]]:
    out: dict[str, dict[str, np.ndarray]] = {}
    for name in _normalisers(processors, folder):
        path = os.path.join(folder, name)
        if name not in processors:
            raise srpo.Error("not found", "a processor refers to this file, which is missing", place=path, hint=_FILES)
        try:
            arrays = load_arrays(path)
        except (SafetensorError, OSError, ValueError) as e:
            raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint="copy the file again") from e
        for full, value in arrays.items():
            key, _, stat = full.rpartition(".")
            out.setdefault(key, {})[stat] = value
    return out


def _openpi(folder: str, raw: dict[str, Any], config_class: type) -> Source:
    """Reads a folder that openpi's convert_jax_model_to_pytorch wrote: config.json, weights without lerobot's prefix,
    and exactly one assets/*/norm_stats.json.
    """
    files = sorted(Path(folder).glob("**/norm_stats.json"))
    if len(files) != 1:
        raise srpo.Error(
            "not found",
            f"an openpi checkpoint with {len(files)} files norm_stats.json",
            place=folder,
            hint="add assets/NAME/norm_stats.json of the data set that it was trained on",
        )
    stats = read_json(str(files[0])).get("norm_stats", {})
    statistics = {}
    for key, openpi_key in ((STATE, "state"), (ACTION, "actions")):
        values = stats.get(openpi_key)
        if not isinstance(values, dict) or "mean" not in values or "std" not in values:
            raise srpo.Error("corrupt", f"no mean and std of {openpi_key}", place=str(files[0]), hint="copy it again")
        statistics[key] = {k: np.asarray(v, np.float32) for k, v in values.items() if v is not None}
    cameras = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    side = [3, 224, 224]
    config = {
        "chunk_size": raw["action_horizon"],
        "n_action_steps": raw["action_horizon"],
        "max_action_dim": raw.get("action_dim", 32),
        "max_state_dim": raw.get("action_dim", 32),
        "paligemma_variant": raw.get("paligemma_variant", "gemma_2b"),
        "action_expert_variant": raw.get("action_expert_variant", "gemma_300m"),
        "input_features": {
            **{f"observation.images.{c}": {"type": "VISUAL", "shape": side} for c in cameras},
            STATE: {"type": "STATE", "shape": [len(statistics[STATE]["mean"])]},
        },
        "output_features": {ACTION: {"type": "ACTION", "shape": [len(statistics[ACTION]["mean"])]}},
    }
    own = read_json(os.path.join(folder, OWN)) if os.path.isfile(os.path.join(folder, OWN)) else {}
    if "image_resolution" in own:  # a small network
        config["image_resolution"] = own["image_resolution"]
    decoded = decode(config_class, config, os.path.join(folder, CONFIG))
    tokenizer = tokenizer_files(folder, TOKENIZER)
    return Source(folder, decoded, statistics, own, {}, tokenizer, padded=config["max_action_dim"])


def load_weights(model: nn.Module, folder: str, prefix: str, unused: Callable[[str], bool] = lambda name: False) -> str:
    """Loads the weights of a folder into a network.

    The text embedding and head are one matrix in PaliGemma. If the file has only one of them, it is used for both.

    Args:
        prefix: of the names in lerobot's files, which the network's names do not have. openpi's files lack it.
        unused: whether the network does not use the tensor of this name. It may be missing then, and becomes 0.

    Returns:
        A fingerprint: SHA-256 over the names, shapes and some numbers of all tensors.

    Raises:
        srpo.Error: "not found" without a file; "corrupt" for a truncated file, missing tensors or numbers that are not
            finite; "mismatch" for tensors of another shape or name.
    """
    path = os.path.join(folder, WEIGHTS)
    if not os.path.isfile(path):
        adapter = os.path.isdir(os.path.join(folder, "lora_adapter"))
        hint = "it was saved with save_merged = false and has only an adapter: set checkpoint to the model that it was "
        hint += "trained on, and lora_rank to its rank"
        raise srpo.Error("not found", f"no {WEIGHTS}", place=folder, hint=hint if adapter else _FILES)
    own = model.state_dict()
    text = {
        "paligemma_with_expert.paligemma.lm_head.weight",
        "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight",
    }
    loaded: set[str] = set()
    digest = hashlib.sha256()
    try:
        with safe_open(path, "pt") as f:
            for full in sorted(f.keys()):
                srpo.report_progress()
                tensor = f.get_tensor(full)
                name = full.removeprefix(prefix)
                name = re.sub(r"^time_mlp_", "action_time_mlp_", name)  # the name in some of openpi's files
                if name not in own:
                    raise _mismatch(path, f"tensor {full} belongs to another architecture")
                if tensor.shape != own[name].shape:
                    raise _mismatch(path, f"tensor {full} is {list(tensor.shape)}, want {list(own[name].shape)}")
                if not torch.isfinite(tensor).all():
                    raise srpo.Error(
                        "corrupt",
                        f"tensor {full} has numbers that are not finite",
                        place=path,
                        hint="its training diverged: use an earlier checkpoint",
                    )
                flat = tensor.reshape(-1)
                digest.update(f"{name} {list(tensor.shape)}".encode())
                digest.update(torch.cat([flat[:256], flat[-256:]]).float().numpy().tobytes())
                own[name].copy_(tensor)
                loaded.add(name)
    except (SafetensorError, OSError) as e:
        raise srpo.Error(
            "corrupt", f"cannot be read: {e}", place=path, hint="the file was truncated or changed: copy it again"
        ) from e
    if len(text & loaded) == 1:
        ((present,), (absent,)) = text & loaded, text - loaded
        own[absent].copy_(own[present])
        loaded.add(absent)
    for name in set(own) - loaded:
        if unused(name):
            own[name].zero_()
            loaded.add(name)
    missing = sorted(set(own) - loaded)
    if missing:
        raise srpo.Error(
            "corrupt",
            f"{len(missing)} tensors are missing, the first is {prefix}{missing[0]}",
            place=path,
            hint="copy the checkpoint again",
        )
    return digest.hexdigest()


def _mismatch(path: str, message: str) -> srpo.Error:
    return srpo.Error("mismatch", message, place=path, hint="config.json and the weights do not fit together")


def write(
    folder: str,
    source: Source,
    weights: Iterable[tuple[str, Callable[[], torch.Tensor]]] | None,
    make_processors: Callable[..., tuple[Any, Any]],
    tokenizer: Any,
) -> None:
    """Writes a folder that lerobot loads.

    Args:
        folder: exists already.
        source: configuration, statistics and files to copy.
        weights: (name as in the file, function that returns the tensor); None: no weights are written.
        make_processors: lerobot's function that creates the two processors, for a source that has none.
        tokenizer: the text tokenizer for these processors.
    """
    source.config._save_pretrained(Path(folder))
    if weights is not None:
        save_file(
            {n: make().contiguous().cpu() for n, make in weights}, os.path.join(folder, WEIGHTS), {"format": "pt"}
        )
    processors = source.processors or _new_processors(source, make_processors, tokenizer)
    statistics = {key: values for key in (ACTION, STATE) if (values := source.statistics.get(key))}
    if statistics:
        processors = _with_state_files(processors)
    for name, data in processors.items():
        Path(folder, name).write_bytes(data)
    for name in _normalisers(processors, folder):
        path = os.path.join(folder, name)
        arrays = load_arrays(path) if os.path.isfile(path) else {}
        for key, values in statistics.items():
            arrays = {full: v for full, v in arrays.items() if not full.startswith(f"{key}.")}
            arrays.update({f"{key}.{s}": np.asarray(v) for s, v in values.items()})
        # safetensors 0.8 writes arrays that are not contiguous in the order of their memory, without an error.
        save_arrays({full: np.ascontiguousarray(v) for full, v in arrays.items()}, path)
    for sub, files in ((TOKENIZER, source.tokenizer), (ACTION_TOKENIZER, source.action_tokenizer)):
        if files:
            os.makedirs(os.path.join(folder, sub), exist_ok=True)
        for name, data in files.items():
            Path(folder, sub, name).write_bytes(data)
    with open(os.path.join(folder, OWN), "w", encoding="utf-8") as f:
        json.dump(source.own, f, indent=2)


def _with_state_files(processors: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns the processors with the name of a statistics file in each normalising step, as lerobot names it. lerobot
    omits the name in a step without statistics, as in a checkpoint for fine-tuning.
    """
    out = dict(processors)
    for file, kind in _NORMALISING:
        config = json.loads(out.get(file, b'{"steps": []}'))
        unnamed = [(n, s) for n, s in enumerate(config["steps"]) if s.get("registry_name") == kind]
        unnamed = [(n, s) for n, s in unnamed if not s.get("state_file")]
        for n, step in unnamed:
            step["state_file"] = f"{file.removesuffix('.json')}_step_{n}_{kind}.safetensors"
        if unnamed:
            out[file] = json.dumps(config, indent=2).encode()
    return out


def _new_processors(source: Source, make: Callable[..., tuple[Any, Any]], tokenizer: Any) -> dict[str, bytes]:
    """The processors' files as lerobot writes them for a new policy, bytes by name."""
    from lerobot.processor import tokenizer_processor as t

    # lerobot would download the tokenizers from the hub, although the files contain only their names.
    loader = mock.Mock(from_pretrained=lambda *_, **__: tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.object(t, "AutoTokenizer", loader), mock.patch.object(t, "AutoProcessor", loader):
            pre, post = make(source.config, {k: dict(v) for k, v in source.statistics.items()})
        pre.save_pretrained(folder)
        post.save_pretrained(folder)
        return _files(folder, _PROCESSOR)


def has_data_statistics(statistics: normalise.Statistics) -> bool:
    """Whether the statistics of actions were computed from data; else they are missing or the env's ranges."""
    values = statistics.get(ACTION, {})
    return bool(values) and ("count" not in values or float(np.asarray(values["count"]).reshape(-1)[0]) > 0)
