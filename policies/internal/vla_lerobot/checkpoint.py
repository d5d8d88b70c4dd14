"""lerobot's policy folders: config.json, model.safetensors, the processors' files with statistics. Reading checks every
tensor; writing gives a folder that lerobot loads.

Beside lerobot's files a folder that srpo wrote holds `tokenizer/` (and `action_tokenizer/`), which lerobot fetches from
the hub by name, and srpo.json. A folder of openpi's conversion to PyTorch is read, too.
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
_NORMALISING = ((PREPROCESSOR, "normalizer_processor"), (POSTPROCESSOR, "unnormalizer_processor"))  # file, its step
TOKENIZER, ACTION_TOKENIZER = "tokenizer", "action_tokenizer"
_PROCESSOR = re.compile(r"policy_(pre|post)processor.*\.(json|safetensors)")
_TOKENIZER = re.compile(
    r"tokenizer\.(json|model)|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|processor_config\.json|"
    r"processing_action_tokenizer\.py"
)
_MOST = 64 << 20  # bytes of one such file; PaliGemma's tokenizer.json has 35 MB
_FILES = "a lerobot checkpoint has config.json, model.safetensors, policy_preprocessor.json, policy_postprocessor.json "
_FILES += "and the .safetensors files that these two name"
PLUGINS = {"pi0": "pi0", "pi0_fast": "pi0-fast"}  # lerobot's types that have a plugin


@dataclass
class Source:
    """What a folder holds beside its weights.

    Args:
        folder: where it was read.
        config: lerobot's configuration, PI0Config or PI0FastConfig.
        statistics: by "action" and "observation.state", see `normalise`.
        own: srpo.json.
        processors: the processors' files, bytes by name.
        tokenizer, action_tokenizer: their files, bytes by name; empty where the folder has none.
    """

    folder: str
    config: Any
    statistics: dict[str, dict[str, np.ndarray]]
    own: dict[str, Any] = field(default_factory=dict)
    processors: dict[str, bytes] = field(default_factory=dict)
    tokenizer: dict[str, bytes] = field(default_factory=dict)
    action_tokenizer: dict[str, bytes] = field(default_factory=dict)

    @property
    def sizes(self) -> Sizes | None:
        """Of a small network; None: lerobot's own."""
        return Sizes(**self.own["sizes"]) if "sizes" in self.own else None

    @property
    def place(self) -> str:
        return os.path.join(self.folder, PREPROCESSOR)


def locate(name: str) -> str:
    """The folder of a checkpoint: a local one, or that of a hub id in the local cache. Nothing is downloaded."""
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
            f"{name!r} is no folder and not in the local hub cache, and nothing is downloaded here",
            place="setting checkpoint",
            hint=f"bring its files and give their folder: {_FILES}",
        ) from e


def read_source(folder: str, kind: str, config_class: type) -> Source:
    """Reads what a folder holds beside weights.

    Args:
        kind: lerobot's type that is wanted, "pi0" or "pi0_fast".
        config_class: its configuration.

    Raises:
        srpo.Error: "not found" for a folder that is no checkpoint, "mismatch" for another architecture, "corrupt".
    """
    path = os.path.join(folder, CONFIG)
    if not os.path.isfile(path):
        raise srpo.Error("not found", "no config.json: this is no checkpoint", place=folder, hint=_FILES)
    raw = read_json(path)
    if "type" not in raw and "action_horizon" in raw and kind == "pi0":
        return _openpi(folder, raw, config_class)
    if raw.get("type") != kind:
        other = PLUGINS.get(raw.get("type", ""))
        raise srpo.Error(
            "mismatch",
            f"the checkpoint's type is {raw.get('type')!r}, want {kind!r}",
            place=path,
            hint=f"use --policy {other}" if other else "other models have plugins of their own: srpo plugin list",
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
    """config.json's object as lerobot's configuration; its device is "cpu" (the plugin moves what it builds)."""
    try:
        with draccus.config_type("json"), tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "c.json")
            with open(path, "w", encoding="utf-8") as f:
                json.dump({**raw, "device": "cpu"}, f)
            config = draccus.parse(config_class, path, args=[])
        config.validate_features()
        return config
    except (Exception, SystemExit) as e:  # draccus raises what it likes
        text = str(e).strip().splitlines()
        raise srpo.Error(
            "corrupt",
            f"lerobot cannot read it: {text[0] if text else type(e).__name__}",
            place=place,
            hint="the file was changed, or is of another version of lerobot than the plugin's",
        ) from e


def read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as f:
            value = json.load(f)
        if not isinstance(value, dict):
            raise ValueError(f"is a {type(value).__name__}, want an object")
        return value
    except (ValueError, OSError) as e:
        raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint="copy the file again") from e


def _files(folder: str, pattern: re.Pattern[str]) -> dict[str, bytes]:
    out = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if pattern.fullmatch(name) and os.path.isfile(path) and os.path.getsize(path) <= _MOST:
            out[name] = Path(path).read_bytes()
    return out


def tokenizer_files(folder: str, sub: str) -> dict[str, bytes]:
    """A tokenizer's files in a sub-folder; the text tokenizer's may lie in the folder itself."""
    found = _files(os.path.join(folder, sub), _TOKENIZER)
    return found or (_files(folder, _TOKENIZER) if sub == TOKENIZER else {})


def text_tokenizer(files: Mapping[str, bytes], **options: Any) -> Any:
    """A tokenizer's files as transformers loads them."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)


def _normalisers(processors: Mapping[str, bytes], place: str) -> list[str]:
    """Names of the state files of the normalising steps, the preprocessor's first."""
    names = []
    for file, step in _NORMALISING:
        if file not in processors:
            continue
        try:
            for s in json.loads(processors[file])["steps"]:
                if s.get("registry_name") == step and s.get("state_file"):
                    names.append(s["state_file"])
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise srpo.Error("corrupt", f"{file} cannot be read: {e!r}", place=place, hint="copy it again") from e
    return names


def _statistics(folder: str, processors: Mapping[str, bytes]) -> dict[str, dict[str, np.ndarray]]:
    out: dict[str, dict[str, np.ndarray]] = {}
    for name in _normalisers(processors, folder):
        path = os.path.join(folder, name)
        if name not in processors:
            raise srpo.Error("not found", "the processor names this file, and it is missing", place=path, hint=_FILES)
        try:
            arrays = load_arrays(path)
        except (SafetensorError, OSError, ValueError) as e:
            raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint="copy the file again") from e
        for full, value in arrays.items():
            key, _, stat = full.rpartition(".")
            out.setdefault(key, {})[stat] = value
    return out


def _openpi(folder: str, raw: dict[str, Any], config_class: type) -> Source:
    """A folder that openpi's convert_jax_model_to_pytorch wrote: its config.json, weights without lerobot's prefix, and
    assets/*/norm_stats.json, of which there must be one.
    """
    found = sorted(Path(folder).glob("**/norm_stats.json"))
    if len(found) != 1:
        raise srpo.Error(
            "not found",
            f"an openpi checkpoint with {len(found)} files norm_stats.json",
            place=folder,
            hint="bring assets/NAME/norm_stats.json of the one data set that it was trained on",
        )
    stats = read_json(str(found[0])).get("norm_stats", {})
    statistics = {}
    for ours, theirs in ((STATE, "state"), (ACTION, "actions")):
        given = stats.get(theirs)
        if not isinstance(given, dict) or "mean" not in given or "std" not in given:
            raise srpo.Error("corrupt", f"no mean and std of {theirs}", place=str(found[0]), hint="copy it again")
        statistics[ours] = {k: np.asarray(v, np.float32) for k, v in given.items() if v is not None}
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
    if "image_resolution" in own:  # small ones
        config["image_resolution"] = own["image_resolution"]
    decoded = decode(config_class, config, os.path.join(folder, CONFIG))
    return Source(folder, decoded, statistics, own, {}, tokenizer_files(folder, TOKENIZER))


def load_weights(model: nn.Module, folder: str, prefix: str, unused: Callable[[str], bool] = lambda name: False) -> str:
    """Fills a network. Returns a fingerprint of what was read.

    Args:
        prefix: that the names of lerobot's files have and the network's do not; it may be missing (openpi).
        unused: of a tensor's name; where true it may be missing, and becomes 0. The text's embedding and head, one
            matrix in PaliGemma, stand in for each other.

    Raises:
        srpo.Error: "not found" without a file; "corrupt" for one cut short, missing tensors or numbers that are not
            finite; "mismatch" for tensors of another shape or name.
    """
    path = os.path.join(folder, WEIGHTS)
    if not os.path.isfile(path):
        adapter = os.path.isdir(os.path.join(folder, "lora_adapter"))
        hint = "it was saved with save_merged = false, an adapter alone: set checkpoint to the model that it was "
        hint += "trained on, and lora_rank as it was"
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
                srpo.heartbeat()
                tensor = f.get_tensor(full)
                name = full.removeprefix(prefix)
                name = re.sub(r"^time_mlp_", "action_time_mlp_", name)  # as some of openpi's files call it
                if name not in own:
                    raise _misfit(path, f"tensor {full} belongs to another architecture")
                if tensor.shape != own[name].shape:
                    raise _misfit(path, f"tensor {full} is {list(tensor.shape)}, want {list(own[name].shape)}")
                if not torch.isfinite(tensor).all():
                    raise srpo.Error(
                        "corrupt",
                        f"tensor {full} has numbers that are not finite",
                        place=path,
                        hint="the training that made it diverged: take an earlier checkpoint",
                    )
                flat = tensor.reshape(-1)
                digest.update(f"{name} {list(tensor.shape)}".encode())
                digest.update(torch.cat([flat[:256], flat[-256:]]).float().numpy().tobytes())
                own[name].copy_(tensor)
                loaded.add(name)
    except (SafetensorError, OSError) as e:
        raise srpo.Error(
            "corrupt", f"cannot be read: {e}", place=path, hint="the file was cut short or changed: copy it again"
        ) from e
    if len(text & loaded) == 1:
        ((there,), (other,)) = text & loaded, text - loaded
        own[other].copy_(own[there])
        loaded.add(other)
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


def _misfit(path: str, message: str) -> srpo.Error:
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
        folder: an existing one.
        source: configuration, statistics and files to carry over.
        weights: (name as in the file, maker of the tensor); None: none are written.
        make_processors: lerobot's maker of the two processors, for a source that has none.
        tokenizer: the text tokenizer, which these are made with.
    """
    source.config._save_pretrained(Path(folder))
    if weights is not None:
        save_file(
            {n: make().contiguous().cpu() for n, make in weights}, os.path.join(folder, WEIGHTS), {"format": "pt"}
        )
    processors = source.processors or _new_processors(source, make_processors, tokenizer)
    own = {key: of for key in (ACTION, STATE) if (of := source.statistics.get(key))}
    if own:
        processors = _with_state_files(processors)
    for name, data in processors.items():
        Path(folder, name).write_bytes(data)
    for name in _normalisers(processors, folder):
        path = os.path.join(folder, name)
        arrays = load_arrays(path) if os.path.isfile(path) else {}
        for key, of in own.items():
            arrays = {full: v for full, v in arrays.items() if not full.startswith(f"{key}.")}
            arrays.update({f"{key}.{s}": np.asarray(v) for s, v in of.items()})
        save_arrays(arrays, path)
    for sub, files in ((TOKENIZER, source.tokenizer), (ACTION_TOKENIZER, source.action_tokenizer)):
        if files:
            os.makedirs(os.path.join(folder, sub), exist_ok=True)
        for name, data in files.items():
            Path(folder, sub, name).write_bytes(data)
    with open(os.path.join(folder, OWN), "w", encoding="utf-8") as f:
        json.dump(source.own, f, indent=2)


def _with_state_files(processors: Mapping[str, bytes]) -> dict[str, bytes]:
    """The processors with a file of statistics named in each normalising step, as lerobot calls it. lerobot leaves it
    out of a step that has none, as in a checkpoint that is still to be fine-tuned.
    """
    out = dict(processors)
    for file, kind in _NORMALISING:
        config = json.loads(out.get(file, b'{"steps": []}'))
        bare = [(n, s) for n, s in enumerate(config["steps"]) if s.get("registry_name") == kind]
        bare = [(n, s) for n, s in bare if not s.get("state_file")]
        for n, step in bare:
            step["state_file"] = f"{file.removesuffix('.json')}_step_{n}_{kind}.safetensors"
        if bare:
            out[file] = json.dumps(config, indent=2).encode()
    return out


def _new_processors(source: Source, make: Callable[..., tuple[Any, Any]], tokenizer: Any) -> dict[str, bytes]:
    """The processors' files as lerobot itself writes them for a new policy."""
    from lerobot.processor import tokenizer_processor as t

    # The maker fetches the tokenizers from the hub, only to write their names down.
    found = mock.Mock(from_pretrained=lambda *_, **__: tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.object(t, "AutoTokenizer", found), mock.patch.object(t, "AutoProcessor", found):
            pre, post = make(source.config, {k: dict(v) for k, v in source.statistics.items()})
        pre.save_pretrained(folder)
        post.save_pretrained(folder)
        return _files(folder, _PROCESSOR)


def measured(statistics: normalise.Statistics) -> bool:
    """Whether the action's statistics come from data (and are no stand-in, nor missing)."""
    of = statistics.get(ACTION, {})
    return bool(of) and ("count" not in of or float(np.asarray(of["count"]).reshape(-1)[0]) > 0)
