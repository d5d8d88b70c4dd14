"""`srpo_state`, the folder beside published files that holds what training goes on with: optimiser, starting policy."""

from __future__ import annotations

import json
import os
from typing import Any

import srpo_sdk as srpo
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vla.optimiser import Misfit

STATE = "srpo_state"
ADAPTER = "lora_adapter"
_TENSORS, _REST = "state.safetensors", "state.json"
_MOST = 5 << 30  # bytes of one file: writing it takes as much memory again, and of a whole model there are 100 GB
_KEYS = {"rank", "alpha", "base", "steps", "names", "start"}


def write(
    folder: str,
    tensors: dict[str, torch.Tensor],
    steps: dict[str, float],
    names: list[str],
    start: dict[str, torch.Tensor] | None,
    adapter: tuple[int, float, str],
) -> None:
    """Writes the folder.

    Args:
        tensors, steps: the optimiser's, see `optimiser.Optimiser.state`.
        names: of the parameters that learn.
        start: the starting policy's values of them; None: there is none yet.
        adapter: rank and alpha of LoRA, and the fingerprint of the weights that it belongs to; (0, alpha, "") without.
    """
    tensors = dict(tensors)
    if start is not None:
        tensors.update({f"start.{n}": t for n, t in start.items()})
    place = os.path.join(folder, STATE)
    os.mkdir(place)
    parts, room = [[]], _MOST
    for n, t in tensors.items():
        size = t.numel() * t.element_size()
        if parts[-1] and size > room:
            parts.append([])
            room = _MOST
        parts[-1].append(n)
        room -= size
    files = [_TENSORS] if len(parts) == 1 else [f"state-{i:05d}.safetensors" for i in range(1, len(parts) + 1)]
    for file, part in zip(files, parts):
        srpo.heartbeat()
        save_file({n: tensors[n].detach().contiguous().cpu() for n in part}, os.path.join(place, file))
    rank, alpha, base = adapter
    state = {
        "format": 1,
        "files": files,
        "base": base,
        "rank": rank,
        "alpha": alpha,
        "steps": steps,
        "names": names,
        "start": start is not None,
    }
    with open(os.path.join(place, _REST), "w", encoding="utf-8") as f:
        json.dump(state, f)


def read(folder: str, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(what `write` was given but the tensors, tensors).

    Args:
        name: of the plugin, for hints.

    Raises:
        srpo.Error: "not found" or "corrupt".
    """
    place = os.path.join(folder, STATE)
    try:
        with open(os.path.join(place, _REST), encoding="utf-8") as f:
            state = json.load(f)
        if state["format"] != 1 or not _KEYS <= set(state):
            raise ValueError(f"format {state['format']}, want 1 with {', '.join(sorted(_KEYS))}")
    except FileNotFoundError as e:
        raise srpo.Error(
            "not found",
            "not a folder that this policy was saved in",
            place=place,
            hint=f"a published checkpoint is given as policy.{name}.checkpoint instead, with imitate.demos = 0",
        ) from e
    except (ValueError, KeyError, TypeError) as e:
        raise srpo.Error("corrupt", f"cannot be read: {e}", place=place, hint="go back to an earlier checkpoint") from e
    tensors: dict[str, torch.Tensor] = {}
    for file in state.get("files", [_TENSORS]):
        srpo.heartbeat()
        path = os.path.join(place, file)
        try:
            tensors.update(load_file(path))
        except (SafetensorError, OSError) as e:
            hint = "go back to an earlier checkpoint"
            raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint=hint) from e
    return state, tensors


def start(
    state: dict[str, Any], tensors: dict[str, torch.Tensor], parameters: dict[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor] | None:
    """The starting policy in what `read` gave, for parameters of the same names. Raises `Misfit`."""
    if not state["start"]:
        return None
    for n, p in parameters.items():
        if f"start.{n}" not in tensors:
            raise Misfit(f"start.{n} is missing")
        if tensors[f"start.{n}"].shape != p.shape:
            raise Misfit(f"start.{n} is {list(tensors[f'start.{n}'].shape)}, want {list(p.shape)}")
    # Copies: what safetensors reads lies where the file has it, and sums over numbers that are not aligned as torch's
    # own are can differ in their last bits.
    return {n: tensors[f"start.{n}"].clone() for n in parameters} or None


def misfit(folder: str, why: Exception) -> srpo.Error:
    """The error for a folder whose parts do not belong to each other."""
    return srpo.Error("corrupt", f"does not fit together: {why}", place=folder, hint="go back to an earlier checkpoint")
