"""Folders in the published format: safetensors with an index, config.json, dataset_statistics.json, tokenizer.json,
preprocessor_config.json. Reading checks every tensor; writing gives a folder that the original code loads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import srpo_sdk as srpo
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer

from modeling import Architecture, OpenVLA, file_name

INDEX = "model.safetensors.index.json"
ONE_FILE = "model.safetensors"
STATISTICS = "dataset_statistics.json"
# Backbones of configuration_prismatic.py for a config.json that does not list them itself.
_BACKBONES = {
    "dinosiglip-vit-so-224px": (["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"], [224, 224]),
    "dinosiglip-vit-so-384px": (["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_384"], [384, 384]),
    "siglip-vit-so400m": (["vit_so400m_patch14_siglip_224"], [224]),
    "siglip-vit-so400m-384px": (["vit_so400m_patch14_siglip_384"], [384]),
    "dinov2-vit-l": (["vit_large_patch14_reg4_dinov2.lvd142m"], [224]),
}
# Files that a saved folder takes over from the folder it came from, byte for byte.
_CARRIED = re.compile(
    r"(tokenizer.*|special_tokens_map\.json|added_tokens\.json|preprocessor_config\.json|processor_config\.json|"
    r"generation_config\.json|(configuration|modeling|processing)_prismatic\.py|train_utils\.py|constants\.py)"
)
# What OpenVLA-OFT's published fine-tuning writes beside the model when a head gives the actions as numbers, or when the
# model reads proprio, too. config.json does not tell.
_PARTS = re.compile(r"(action_head|noisy_action_projector|proprio_projector)--.*\.pt")
_FETCHED = ["*.json", "*.safetensors", "*.py", "tokenizer*"]  # of a hub's files
_MOST_CARRIED = 32 << 20  # bytes of one such file; a tokenizer has 2 MB


@dataclass
class Source:
    """What a folder holds beside its weights.

    Args:
        folder: where it was read.
        config: config.json.
        statistics: action statistics by data set: {"key": {"action": {"q01": [...], "q99": [...], "mask": [...]}}}.
        carried: small files that a saved folder takes over, by name.
    """

    folder: str
    config: dict[str, Any]
    statistics: dict[str, Any]
    carried: dict[str, bytes] = field(default_factory=dict)

    @property
    def own(self) -> dict[str, Any]:
        """What srpo keeps in config.json for itself."""
        return self.config.get("srpo", {})

    def architecture(self) -> Architecture:
        """Raises `srpo.Error` ("mismatch") for a config that is not OpenVLA's."""
        place = os.path.join(self.folder, "config.json")
        kind = self.config.get("model_type")
        if kind != "openvla":
            raise srpo.Error(
                "mismatch",
                f"the checkpoint's model_type is {kind!r}, want 'openvla'",
                place=place,
                hint="give the folder of an OpenVLA or OpenVLA-OFT checkpoint; other models have plugins of their own",
            )
        backbone = self.config.get("vision_backbone_id", "")
        ids, sizes = _BACKBONES.get(backbone, (None, None))
        ids, sizes = self.config.get("timm_model_ids") or ids, self.config.get("image_sizes") or sizes
        text = dict(self.config.get("text_config") or {})
        if not ids or not sizes or len(ids) != len(sizes) or len(ids) > 2:
            raise srpo.Error(
                "mismatch",
                f"unknown vision backbone {backbone!r}",
                place=place,
                hint=f"known: {', '.join(_BACKBONES)}, or one or two timm_model_ids with image_sizes",
            )
        if text.get("model_type", "llama") != "llama":
            raise srpo.Error("mismatch", f"the language model is a {text['model_type']}, want a llama", place=place)
        if self.config.get("n_action_bins", 256) != 256:
            raise srpo.Error("mismatch", f"n_action_bins is {self.config['n_action_bins']}, want 256", place=place)
        return Architecture(
            tuple(ids),
            tuple(sizes),
            text,
            self.config.get("pad_to_multiple_of", 64),
            tuple(self.config.get("timm_model_args", ())),
        )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of tokenizer.json; its template puts BOS in front."""
        place = os.path.join(self.folder, "tokenizer.json")
        if "tokenizer.json" not in self.carried:
            raise srpo.Error(
                "not found",
                "the checkpoint has no tokenizer.json",
                place=self.folder,
                hint="copy it from the model that this one was trained from",
            )
        try:
            return Tokenizer.from_buffer(self.carried["tokenizer.json"])
        except Exception as e:  # tokenizers raises plain exceptions
            raise srpo.Error("corrupt", f"cannot be read: {e}", place=place) from e


def locate(name: str) -> str:
    """Returns the folder of a checkpoint: a local one, or a hub id's, from the user's own hub cache, srpo's, or
    downloaded.
    """
    if os.path.isdir(name):
        return name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise srpo.Error(
            "not found",
            f"no folder {name!r}",
            place="setting checkpoint",
            hint="give a folder with config.json and *.safetensors, or a hub id as 'owner/name'",
        )
    if there := _cached(name):
        return there
    from huggingface_hub import list_repo_files, snapshot_download

    print(f"fetching {name} from the hub into srpo's cache")
    try:
        _tokens_alone(list_repo_files(name), name)  # before 15 GB come for nothing
        return snapshot_download(name, allow_patterns=_FETCHED)
    except srpo.Error:
        raise
    except Exception as e:
        raise srpo.Error(
            "not found",
            f"{name!r} is no folder, and cannot be fetched from the hub: "
            f"{str(e).splitlines()[0] if str(e) else type(e).__name__}",
            place="setting checkpoint",
            hint="download it by other means and give its folder",
        ) from e


def _cached(name: str) -> str:
    """A hub id's folder in the user's own hub cache, if all weights are there; else empty. The plugin's HF_HOME is
    srpo's cache, which nothing else fills.
    """
    from huggingface_hub import snapshot_download

    try:
        user = os.path.join(os.path.expanduser("~"), ".cache", "huggingface", "hub")
        folder = snapshot_download(name, cache_dir=user, local_files_only=True, allow_patterns=_FETCHED)
        shards(folder)
        return folder if os.path.isfile(os.path.join(folder, "config.json")) else ""
    except Exception:
        return ""


def _tokens_alone(names: Iterable[str], place: str) -> None:
    """Refuses a checkpoint with parts that the plugin lacks, whose tokens it would act by without them."""
    if parts := sorted(filter(_PARTS.fullmatch, names)):
        raise srpo.Error(
            "unsupported",
            f"the checkpoint's actions need more than tokens, picture and instruction: it has {', '.join(parts)}",
            place=place,
            hint="give an OpenVLA-OFT that was fine-tuned with discrete tokens and without proprio, or an OpenVLA",
        )


def read_source(folder: str) -> Source:
    """Reads what a folder holds beside weights. Raises `srpo.Error` for a folder that is no checkpoint."""
    path = os.path.join(folder, "config.json")
    if not os.path.isfile(path):
        adapter = any(os.path.isfile(os.path.join(folder, f, "adapter_config.json")) for f in ("", "lora_adapter"))
        hint = (
            "this folder holds a LoRA adapter alone: set checkpoint to the model it belongs to, and adapter to this"
            if adapter
            else "an OpenVLA checkpoint has config.json, *.safetensors, tokenizer.json and dataset_statistics.json"
        )
        raise srpo.Error("not found", "no config.json: this is no checkpoint", place=folder, hint=hint)
    config = _json(path)
    statistics = config.get("norm_stats") or {}
    if os.path.isfile(os.path.join(folder, STATISTICS)):
        statistics = _json(os.path.join(folder, STATISTICS))
    _tokens_alone(os.listdir(folder), folder)
    carried = {}
    for name in sorted(os.listdir(folder)):
        file = os.path.join(folder, name)
        if _CARRIED.fullmatch(name) and os.path.isfile(file) and os.path.getsize(file) <= _MOST_CARRIED:
            with open(file, "rb") as f:
                carried[name] = f.read()
    return Source(folder, config, statistics, carried)


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as f:
            value = json.load(f)
        if not isinstance(value, dict):
            raise ValueError(f"is a {type(value).__name__}, want an object")
        return value
    except (ValueError, OSError) as e:
        raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint="copy the file again") from e


def shards(folder: str) -> list[str]:
    """Lists the weight files of a folder, all present; raises `srpo.Error` where one is missing."""
    index = os.path.join(folder, INDEX)
    if os.path.isfile(index):
        where = _json(index).get("weight_map")
        if not isinstance(where, dict) or not all(isinstance(n, str) for n in where.values()):
            raise srpo.Error(
                "corrupt", "weight_map does not say which file each tensor is in", place=index, hint="copy it again"
            )
        names = sorted(set(where.values()))
        missing = [n for n in names if not os.path.isfile(os.path.join(folder, n))]
        if missing or not names:
            raise srpo.Error(
                "corrupt",
                f"shards are missing: {', '.join(missing) or 'all'}",
                place=index,
                hint="copy the checkpoint again",
            )
        return [os.path.join(folder, n) for n in names]
    if os.path.isfile(os.path.join(folder, ONE_FILE)):
        return [os.path.join(folder, ONE_FILE)]
    hint = "this folder holds no weights"
    if os.path.isdir(os.path.join(folder, "lora_adapter")):
        hint = "it was saved with save_merged = false, an adapter alone: set checkpoint to the model that it was "
        hint += "trained on, and lora_rank as it was, or adapter to its lora_adapter"
    elif any(n.endswith((".bin", ".pt")) for n in os.listdir(folder)):
        hint = "weights must be safetensors; convert the .bin or .pt files"
    raise srpo.Error("not found", f"neither {INDEX} nor {ONE_FILE}", place=folder, hint=hint)


def tensors(files: Iterable[str]) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yields (file, name, tensor) one after another. Raises `srpo.Error` ("corrupt") for a file cut short."""
    for path in files:
        try:
            with safe_open(path, "pt") as f:
                for name in f.keys():  # noqa: SIM118  not a dictionary
                    yield path, name, f.get_tensor(name)
        except (SafetensorError, OSError) as e:
            raise srpo.Error(
                "corrupt", f"cannot be read: {e}", place=path, hint="the file was cut short or changed: copy it again"
            ) from e


def load_weights(model: OpenVLA, folder: str, dtype: torch.dtype, device: torch.device) -> str:
    """Fills a model that has no weights yet. Returns a fingerprint of what was read.

    Raises:
        srpo.Error: "corrupt" for files cut short, missing tensors or numbers that are not finite; "mismatch" for
            tensors of another shape or name.
    """
    wanted = {file_name(name): name for name, _ in model.named_parameters()}
    parameters = dict(model.named_parameters())
    loaded: dict[str, torch.Tensor] = {}
    digest = hashlib.sha256()
    for path, name, tensor in tensors(shards(folder)):
        srpo.heartbeat()
        own = wanted.get(name) or (name if name in parameters else None)
        if own is None:
            raise srpo.Error(
                "mismatch",
                f"tensor {name} belongs to another architecture",
                place=path,
                hint="config.json and the weights do not fit together",
            )
        if tensor.shape != parameters[own].shape:
            raise srpo.Error(
                "mismatch",
                f"tensor {name} is {list(tensor.shape)}, want {list(parameters[own].shape)}",
                place=path,
                hint="config.json and the weights do not fit together",
            )
        if not torch.isfinite(tensor).all():
            raise srpo.Error(
                "corrupt",
                f"tensor {name} has numbers that are not finite",
                place=path,
                hint="the training that made it diverged: take an earlier checkpoint",
            )
        flat = tensor.reshape(-1)
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(torch.cat([flat[:256], flat[-256:]]).float().numpy().tobytes())
        loaded[own] = tensor.to(device=device, dtype=dtype)
    missing = sorted(set(parameters) - set(loaded))
    if missing:
        raise srpo.Error(
            "corrupt",
            f"{len(missing)} tensors are missing, the first is {file_name(missing[0])}",
            place=folder,
            hint="copy the checkpoint again",
        )
    model.load_state_dict(loaded, strict=False, assign=True)
    return digest.hexdigest()


def write(
    folder: str,
    source: Source,
    weights: Iterable[tuple[str, Callable[[], torch.Tensor]]],
    sizes: dict[str, int],
    shard_bytes: int,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Writes a folder in the published format.

    Args:
        folder: an existing one.
        source: config, statistics and files to carry over.
        weights: (name as in the files, maker of the tensor) in any order; made a shard at a time.
        sizes: bytes of each tensor by name.
        shard_bytes: most bytes in a file.
        tick: called between files.
    """
    parts: list[list[tuple[str, Callable[[], torch.Tensor]]]] = []
    room = shard_bytes
    for name, make in weights:
        if not parts or sizes[name] > room:
            parts.append([])
            room = shard_bytes
        parts[-1].append((name, make))
        room -= sizes[name]
    names = (
        [ONE_FILE]
        if len(parts) == 1
        else [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    )
    for name, part in zip(names, parts):
        tick()
        save_file({n: make().contiguous().cpu() for n, make in part}, os.path.join(folder, name), {"format": "pt"})
    if len(parts) > 1:
        where = {n: name for name, part in zip(names, parts) for n, _ in part}
        _dump(os.path.join(folder, INDEX), {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where})
    _dump(os.path.join(folder, "config.json"), {**source.config, "norm_stats": source.statistics})
    _dump(os.path.join(folder, STATISTICS), source.statistics)
    for name, data in source.carried.items():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)


def _dump(path: str, value: Any) -> None:
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2)
        f.write("\n")
