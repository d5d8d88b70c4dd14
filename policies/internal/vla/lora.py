"""Low-rank adapters (LoRA, Hu et al., 2021), in the file format of the package peft.

peft itself is not used: it depends on accelerate and psutil, and wraps the whole model, while here an adapter is two
tensors per layer that an update trains, saves and compares with the reference.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator

import srpo_sdk as srpo
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vla import sharding

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


class LoRALinear(nn.Module):
    """A linear layer with a low-rank term: W x + (alpha / rank) B A x. A and B are float32."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        self.layer, self.scale = layer.requires_grad_(False), alpha / rank
        device = layer.weight.device
        # A is Gaussian with std 1 / rank and B is 0: peft's init_lora_weights = "gaussian", which OpenVLA's code uses.
        self.lora_A = nn.Parameter((torch.randn(rank, layer.in_features, generator=generator) / rank).to(device))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))

    # Attributes of nn.Linear that models read.

    @property
    def weight(self) -> torch.Tensor:
        return self.layer.weight

    @property
    def in_features(self) -> int:
        return self.layer.in_features

    @property
    def out_features(self) -> int:
        return self.layer.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = nn.functional.linear(nn.functional.linear(x.to(self.lora_A.dtype), self.lora_A), self.lora_B)
        return self.layer(x) + (self.scale * low).to(x.dtype)

    @torch.no_grad()
    def merged(self) -> torch.Tensor:
        """The weight with the adapter added, in the dtype of the layer."""
        w = self.layer.weight
        return (w.float() + self.scale * (self.lora_B @ self.lora_A).float()).to(w.dtype)


def add_adapters(
    model: nn.Module, rank: int, alpha: float, seed: int, select: Callable[[str], bool] = lambda name: True
) -> None:
    """Gives every linear layer but the head an adapter (peft's "all-linear") and freezes the rest of the model.

    Args:
        seed: of the adapters' initial values.
        select: whether the layer of this name gets an adapter.
    """
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        for child, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear) and child != "lm_head" and not isinstance(module, LoRALinear):
                if select(f"{name}.{child}" if name else child):
                    setattr(module, child, LoRALinear(layer, rank, alpha, generator))


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Yields (name of the layer, adapter) in the model's order."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear))


def save(model: nn.Module, folder: str, rank: int, alpha: float, base: str) -> None:
    """Writes the adapters into a folder that peft can load. base is the name of the model that they belong to."""
    os.makedirs(folder, exist_ok=True)
    names = [name for name, _ in adapters(model)]
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": names,
        "base_model_name_or_path": base,
        "init_lora_weights": "gaussian",
        "inference_mode": False,
    }
    with open(os.path.join(folder, CONFIG), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
    tensors = {}
    for name, m in adapters(model):
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = m.lora_A.detach().cpu().contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = m.lora_B.detach().cpu().contiguous()
    save_file(tensors, os.path.join(folder, WEIGHTS), {"format": "pt"})


def fingerprint(folder: str) -> str:
    """SHA-256 of an adapter's weight file."""
    with open(os.path.join(folder, WEIGHTS), "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_config(folder: str) -> tuple[int, float]:
    """Returns (rank, alpha) of an adapter's folder.

    Raises:
        srpo.Error: "not found" without adapter_config.json, "corrupt" for a config that is not plain LoRA.
    """
    path = os.path.join(folder, CONFIG)
    try:
        with open(path, encoding="utf-8") as f:
            c = json.load(f)
        if c.get("peft_type", "LORA") != "LORA" or c.get("use_dora") or c.get("use_rslora") or c.get("rank_pattern"):
            raise ValueError("only plain LoRA adapters with one rank for all layers are supported")
        return int(c["r"]), float(c["lora_alpha"])
    except FileNotFoundError as e:
        raise srpo.Error("not found", "not a LoRA adapter: there is no adapter_config.json", place=folder) from e
    except (ValueError, KeyError, TypeError) as e:
        raise srpo.Error("corrupt", f"cannot be used: {e!r}", place=path) from e


@torch.no_grad()
def load(model: nn.Module, folder: str) -> None:
    """Fills the adapters of a model from a folder. Adapters that the file lacks keep B = 0, and have no effect.

    Args:
        model: with adapters of the same rank, see `add_adapters`.

    Raises:
        srpo.Error: "corrupt" for a file that cannot be read; "mismatch" for tensors of another name, rank or shape.
    """
    path = os.path.join(folder, WEIGHTS)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as e:
        raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint="copy the adapter again") from e
    own = dict(adapters(model))
    for name, tensor in tensors.items():
        layer, _, part = name.removeprefix(_PREFIX).removesuffix(".weight").removesuffix(".default").rpartition(".")
        if layer not in own or part not in ("lora_A", "lora_B"):
            raise srpo.Error(
                "mismatch",
                f"the adapter has {name}, which the model lacks",
                place=path,
                hint="set checkpoint to the model that the adapter was trained on",
            )
        parameter = getattr(own[layer], part)
        if tensor.shape != parameter.shape or not torch.isfinite(tensor).all():
            raise srpo.Error(
                "mismatch", f"{name} is {list(tensor.shape)}, want {list(parameter.shape)} and finite", place=path
            )
        sharding.copy_into(parameter, tensor)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Adds the adapters to the weights and removes them."""
    for _, module in list(model.named_modules()):
        for child, layer in list(module.named_children()):
            if isinstance(layer, LoRALinear):
                layer.layer.weight.copy_(layer.merged())
                setattr(module, child, layer.layer)


def merged_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Callable[[], torch.Tensor]]]:
    """Yields (name as without adapters, parameter, function that returns its merged value) in the model's order."""
    merged = dict(adapters(model))
    for name, p in model.named_parameters():
        layer, _, last = name.rpartition(".")
        if layer in merged:  # lora_A, lora_B
            continue
        owner = layer.removesuffix(".layer")
        if layer == owner or owner not in merged:
            yield name, p, p.detach
        else:
            yield f"{owner}.{last}", p, merged[owner].merged if last == "weight" else p.detach
