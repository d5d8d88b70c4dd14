"""Reads and writes folders in the published format: safetensors with an index, config.json, dataset_statistics.json,
tokenizer.json, preprocessor_config.json. Reading checks every tensor. The original code can load what is written.
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
# The backbones that configuration_prismatic.py knows, for a config.json that does not list them itself.
_BACKBONES = {
    "dinosiglip-vit-so-224px": (["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"], [224, 224]),
    "dinosiglip-vit-so-384px": (["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_384"], [384, 384]),
    "siglip-vit-so400m": (["vit_so400m_patch14_siglip_224"], [224]),
    "siglip-vit-so400m-384px": (["vit_so400m_patch14_siglip_384"], [384]),
    "dinov2-vit-l": (["vit_large_patch14_reg4_dinov2.lvd142m"], [224]),
}
# Files that a saved folder copies from the folder that the model was loaded from.
_CARRIED = re.compile(
    r"(tokenizer.*|special_tokens_map\.json|added_tokens\.json|preprocessor_config\.json|processor_config\.json|"
    r"generation_config\.json|(configuration|modeling|processing)_prismatic\.py|train_utils\.py|constants\.py)"
)
# Files that OpenVLA-OFT's published fine-tuning writes beside the model if a head predicts continuous actions, or if
# the model reads proprio. config.json does not mention them.
_UNSUPPORTED_PARTS = re.compile(r"(action_head|noisy_action_projector|proprio_projector)--.*\.pt")
_DOWNLOADED = ["*.json", "*.safetensors", "*.py", "tokenizer*"]  # of a hub repository
_MAX_CARRIED_BYTES = 32 << 20  # of each file; a tokenizer has 2 MB


@dataclass
class Source:
    """The content of a checkpoint folder without its weights.

    Args:
        folder: where it was read.
        config: content of config.json.
        statistics: action statistics by data set: {"key": {"action": {"q01": [...], "q99": [...], "mask": [...]}}}.
        carried: small files that a saved folder copies, bytes by name.
    """

    folder: str
    config: dict[str, Any]
    statistics: dict[str, Any]
    carried: dict[str, bytes] = field(default_factory=dict)

    @property
    def own(self) -> dict[str, Any]:
        """The fields that srpo adds to config.json."""
        return self.config.get("srpo", {})

    def architecture(self) -> Architecture:
        """The network's shape. Raises `srpo.Error` ("mismatch") for a config that is not OpenVLA's."""
        place = os.path.join(self.folder, "config.json")
        kind = self.config.get("model_type")
        if kind != "openvla":
            raise srpo.Error(
                "mismatch",
                f"the checkpoint's model_type is {kind!r}, want 'openvla'",
                place=place,
                hint="give the folder of an OpenVLA or OpenVLA-OFT checkpoint; for other models use other plugins",
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
            raise srpo.Error("mismatch", f"the language model is a {text['model_type']}, want llama", place=place)
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
        """The tokenizer of tokenizer.json, which prepends BOS. Raises `srpo.Error` ("not found" or "corrupt")."""
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
    """Returns the folder of a checkpoint.

    Args:
        name: a local folder, or a hub id. A hub id is looked up in the user's hub cache, then in srpo's, and downloaded
            into srpo's if it is in neither.

    Raises:
        srpo.Error: "not found", or "unsupported" before a checkpoint that cannot be used is downloaded.
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
    if cached := _user_cache(name):
        return cached
    from huggingface_hub import list_repo_files, snapshot_download

    print(f"downloading {name} from the hub into srpo's cache")
    try:
        _check_parts(list_repo_files(name), name)  # before 15 GB are downloaded
        return snapshot_download(name, allow_patterns=_DOWNLOADED)
    except srpo.Error:
        raise
    except Exception as e:
        raise srpo.Error(
            "not found",
            f"{name!r} is not a folder, and cannot be downloaded from the hub: "
            f"{str(e).splitlines()[0] if str(e) else type(e).__name__}",
            place="setting checkpoint",
            hint="download it by other means and give its folder",
        ) from e


def _user_cache(name: str) -> str:
    """Returns the folder of a hub id in the user's hub cache if it is complete, else "". The plugin's HF_HOME is srpo's
    own cache.
    """
    from huggingface_hub import snapshot_download

    try:
        user = os.path.join(os.path.expanduser("~"), ".cache", "huggingface", "hub")
        folder = snapshot_download(name, cache_dir=user, local_files_only=True, allow_patterns=_DOWNLOADED)
        weight_files(folder)
        return folder if os.path.isfile(os.path.join(folder, "config.json")) else ""
    except Exception:
        return ""


def _check_parts(names: Iterable[str], place: str) -> None:
    """Raises "unsupported" for a checkpoint with parts that the plugin does not implement: its tokens mean nothing."""
    if parts := sorted(filter(_UNSUPPORTED_PARTS.fullmatch, names)):
        raise srpo.Error(
            "unsupported",
            f"only discrete tokens from image and instruction are supported, and the checkpoint has {', '.join(parts)}",
            place=place,
            hint="give OpenVLA, or an OpenVLA-OFT that was fine-tuned with discrete tokens and without proprio",
        )


def read_source(folder: str) -> Source:
    """Reads a checkpoint folder without its weights.

    Raises:
        srpo.Error: "not found" for a folder that is not a checkpoint, "unsupported", or "corrupt".
    """
    path = os.path.join(folder, "config.json")
    if not os.path.isfile(path):
        adapter = any(os.path.isfile(os.path.join(folder, f, "adapter_config.json")) for f in ("", "lora_adapter"))
        hint = (
            "the folder has only a LoRA adapter: set checkpoint to its model, and adapter to this folder"
            if adapter
            else "an OpenVLA checkpoint has config.json, *.safetensors, tokenizer.json and dataset_statistics.json"
        )
        raise srpo.Error("not found", "not a checkpoint: there is no config.json", place=folder, hint=hint)
    config = _json(path)
    statistics = config.get("norm_stats") or {}
    if os.path.isfile(os.path.join(folder, STATISTICS)):
        statistics = _json(os.path.join(folder, STATISTICS))
    _check_parts(os.listdir(folder), folder)
    carried = {}
    for name in sorted(os.listdir(folder)):
        file = os.path.join(folder, name)
        if _CARRIED.fullmatch(name) and os.path.isfile(file) and os.path.getsize(file) <= _MAX_CARRIED_BYTES:
            with open(file, "rb") as f:
                carried[name] = f.read()
    return Source(folder, config, statistics, carried)


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as f:
            value = json.load(f)
        if not isinstance(value, dict):
            raise ValueError(f"it is a {type(value).__name__}, want an object")
        return value
    except (ValueError, OSError) as e:
        raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint="copy the file again") from e


def weight_files(folder: str) -> list[str]:
    """Returns the paths of a folder's weight files.

    Raises:
        srpo.Error: "not found" without weights, "corrupt" if the index cannot be used or a file is missing.
    """
    index = os.path.join(folder, INDEX)
    if os.path.isfile(index):
        where = _json(index).get("weight_map")
        if not isinstance(where, dict) or not all(isinstance(n, str) for n in where.values()):
            raise srpo.Error(
                "corrupt", "weight_map does not map tensors to files", place=index, hint="copy the file again"
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
    hint = "the folder has no weights"
    if os.path.isdir(os.path.join(folder, "lora_adapter")):
        hint = "it was saved with save_merged = false and has only an adapter: set checkpoint to the model that it was "
        hint += "trained on, and lora_rank to its rank, or adapter to its lora_adapter"
    elif any(n.endswith((".bin", ".pt")) for n in os.listdir(folder)):
        hint = "weights must be safetensors; convert the .bin or .pt files"
    raise srpo.Error("not found", f"neither {INDEX} nor {ONE_FILE}", place=folder, hint=hint)


def tensors(files: Iterable[str]) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yields (file, name, tensor). Raises `srpo.Error` ("corrupt") for a file that cannot be read."""
    for path in files:
        try:
            with safe_open(path, "pt") as f:
                for name in f.keys():  # noqa: SIM118  f is not a dictionary
                    yield path, name, f.get_tensor(name)
        except (SafetensorError, OSError) as e:
            raise srpo.Error(
                "corrupt", f"cannot be read: {e}", place=path, hint="the file was truncated or changed: copy it again"
            ) from e


def load_weights(model: OpenVLA, folder: str, dtype: torch.dtype, device: torch.device) -> str:
    """Loads the weights of a folder into a model that has none.

    Returns:
        A fingerprint: SHA-256 over the names, shapes and some numbers of all tensors.

    Raises:
        srpo.Error: "corrupt" for truncated files, missing tensors or numbers that are not finite; "mismatch" for
            tensors of another shape or name.
    """
    wanted = {file_name(name): name for name, _ in model.named_parameters()}
    parameters = dict(model.named_parameters())
    loaded: dict[str, torch.Tensor] = {}
    digest = hashlib.sha256()
    for path, name, tensor in tensors(weight_files(folder)):
        srpo.report_progress()
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
                hint="its training diverged: use an earlier checkpoint",
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
        folder: exists already.
        source: config, statistics and carried files.
        weights: (name as in the files, function that returns the tensor). One file's tensors are in memory at a time.
        sizes: bytes of each tensor by name.
        shard_bytes: maximum bytes per file, unless one tensor is larger.
        tick: called before each file.
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
