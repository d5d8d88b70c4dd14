"""`srpo_state`, the folder in a saved checkpoint with what continues training: optimiser state and KL reference."""

from __future__ import annotations

import json
import os
from typing import Any

import srpo_sdk as srpo
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vla.optimiser import StateMismatchError

STATE_FOLDER = "srpo_state"
ADAPTER_FOLDER = "lora_adapter"
_TENSORS, _REST = "state.safetensors", "state.json"
# Bytes per file. Writing a file takes as much memory again, and the state of a whole model has 100 GB.
_MAX_FILE_BYTES = 5 << 30
_KEYS = {"rank", "alpha", "base", "steps", "names", "start"}


def save(
    folder: str,
    tensors: dict[str, torch.Tensor],
    steps: dict[str, float],
    names: list[str],
    reference: dict[str, torch.Tensor] | None,
    adapter: tuple[int, float, str],
) -> None:
    """Writes `srpo_state` into a checkpoint folder.

    Args:
        tensors, steps: of the optimiser, see `optimiser.Optimiser.state`.
        names: of the trainable parameters.
        reference: the KL reference's values of these parameters; None: there is none yet.
        adapter: LoRA's rank and alpha, and the fingerprint of the weights that it belongs to; without LoRA
            (0, alpha, "").
    """
    tensors = dict(tensors)
    if reference is not None:
        tensors.update({f"start.{n}": t for n, t in reference.items()})
    place = os.path.join(folder, STATE_FOLDER)
    os.mkdir(place)
    parts, room = [[]], _MAX_FILE_BYTES
    for n, t in tensors.items():
        size = t.numel() * t.element_size()
        if parts[-1] and size > room:
            parts.append([])
            room = _MAX_FILE_BYTES
        parts[-1].append(n)
        room -= size
    files = [_TENSORS] if len(parts) == 1 else [f"state-{i:05d}.safetensors" for i in range(1, len(parts) + 1)]
    for file, part in zip(files, parts):
        srpo.report_progress()
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
        "start": reference is not None,
    }
    with open(os.path.join(place, _REST), "w", encoding="utf-8") as f:
        json.dump(state, f)


def load(folder: str, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Reads `srpo_state` of a checkpoint folder.

    Args:
        name: of the plugin, for hints.

    Returns:
        (state, tensors): the content of state.json, and all tensors by name.

    Raises:
        srpo.Error: "not found" or "corrupt".
    """
    place = os.path.join(folder, STATE_FOLDER)
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
        raise srpo.Error("corrupt", f"cannot be read: {e}", place=place, hint="use an earlier checkpoint") from e
    tensors: dict[str, torch.Tensor] = {}
    for file in state.get("files", [_TENSORS]):
        srpo.report_progress()
        path = os.path.join(place, file)
        try:
            tensors.update(load_file(path))
        except (SafetensorError, OSError) as e:
            raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint="use an earlier checkpoint") from e
    return state, tensors


def reference(
    state: dict[str, Any], tensors: dict[str, torch.Tensor], parameters: dict[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor] | None:
    """Returns the KL reference from what `load` returned, by the names of the parameters; None if there is none.

    Raises:
        StateMismatchError: a tensor is missing or has another shape.
    """
    if not state["start"]:
        return None
    for n, p in parameters.items():
        if f"start.{n}" not in tensors:
            raise StateMismatchError(f"start.{n} is missing")
        if tensors[f"start.{n}"].shape != p.shape:
            raise StateMismatchError(f"start.{n} is {list(tensors[f'start.{n}'].shape)}, want {list(p.shape)}")
    # Copies, because the alignment of tensors that safetensors reads is that of the file, and sums over numbers with
    # another alignment than torch's own can differ in their last bits.
    return {n: tensors[f"start.{n}"].clone() for n in parameters} or None


def mismatch(folder: str, reason: Exception) -> srpo.Error:
    """The error for a folder whose state does not fit its weights."""
    message = f"weights and state do not fit together: {reason}"
    return srpo.Error("corrupt", message, place=folder, hint="use an earlier checkpoint")
