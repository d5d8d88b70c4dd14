"""Writes a checkpoint with under a million random weights in lerobot's format, for tests and trial runs on a CPU."""

from __future__ import annotations

import os
import zlib

import numpy as np
import srpo_sdk as srpo
import torch
from torch import nn

from vla_lerobot import checkpoint, normalise, small_tokenizer
from vla_lerobot.normalise import ACTION, STATE
from vla_lerobot.sizes import Sizes, patched

SIDE = 112  # input size of the network in pixels


def features(env: srpo.EnvSpec) -> dict:
    """The input and output features of config.json for an env: one image, proprio, action."""
    return {
        "input_features": {
            "observation.images.image": {"type": "VISUAL", "shape": [3, SIDE, SIDE]},
            STATE: {"type": "STATE", "shape": [len(env.proprio) or 1]},
        },
        "output_features": {ACTION: {"type": "ACTION", "shape": [env.action.dim]}},
        "image_resolution": [SIDE, SIDE],
    }


def statistics(env: srpo.EnvSpec) -> dict:
    """Stand-in statistics: the range of the env's actions, and -1 to 1 for its proprio."""
    one = np.ones(len(env.proprio) or 1, np.float32)
    return {
        ACTION: normalise.range_statistics(np.array(env.action.low), np.array(env.action.high)),
        STATE: normalise.range_statistics(-one, one),
    }


def weight(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """Random values of one parameter, float32. They depend only on its name, the shape and the seed."""
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    x = rng.standard_normal(tuple(shape)).astype(np.float32)
    if len(shape) == 1:
        # Gemma's norms multiply by 1 + weight, and those of the vision tower by weight.
        mean = 1.0 if "layer_norm" in name or "post_layernorm.weight" in name else 0.0
        return torch.from_numpy((mean if name.endswith("weight") else 0.0) + 0.02 * x)
    if "position_embedding" in name:
        return torch.from_numpy(0.1 * x)
    if "embed_tokens" in name or "lm_head" in name:
        return torch.from_numpy(x / np.sqrt(shape[-1]).astype(np.float32))
    return torch.from_numpy(x / np.sqrt(np.prod(shape[1:])).astype(np.float32))


@torch.no_grad()
def fill(model: nn.Module, seed: int) -> None:
    """Gives all parameters random values."""
    for name, p in model.named_parameters():
        p.copy_(weight(name, p.shape, seed))


def write(folder: str, seed: int, network: type, config: dict, env: srpo.EnvSpec, **carried) -> None:
    """Writes a checkpoint into an existing folder. The same arguments produce the same bytes.

    Args:
        network: the class, a subclass of `vla_lerobot.network.Network`.
        config: content of config.json without the features.
        carried: more fields of `checkpoint.Source`.
    """
    place = os.path.join(folder, checkpoint.CONFIG)
    decoded = checkpoint.decode(network.config_class, {**config, **features(env)}, place)
    sizes = Sizes()
    with patched(network.modelling, sizes, SIDE):
        model = network.build(decoded, None)
    fill(model, seed)
    tokenizer = small_tokenizer.files(sizes.vocabulary)
    own = {"sizes": sizes.json()}
    source = checkpoint.Source(folder, decoded, statistics(env), own, tokenizer=tokenizer, **carried)
    weights = [(f"model.{n}", p.detach) for n, p in model.named_parameters()]
    checkpoint.write(folder, source, weights, network.make_processors, checkpoint.text_tokenizer(tokenizer))
