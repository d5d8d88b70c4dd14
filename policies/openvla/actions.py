"""Action tokens and data-set statistics: from tokens to actions in the env's units, and back.

A dimension in [-1, 1] has 256 tokens but 255 values: the bins lie between 256 edges, and exactly 1 has a token of its
own, whose value is that of the last bin, as in the published code. Statistics are the published ones: the 1st and 99th
percentile of each dimension map to -1 and 1. Dimensions whose `mask` is false (the gripper) are not normalised; the
gripper is 0 closed and 1 open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import srpo_sdk as srpo

from modeling import BINS

EDGES = np.linspace(-1, 1, BINS)
CENTERS = (EDGES[:-1] + EDGES[1:]) / 2  # 255 of them
LIBERO_GRIPPER = "gripper -1 open"  # in ActionSpace.meaning


def from_tokens(tokens: np.ndarray) -> np.ndarray:
    """Normalised actions, float64, of action tokens 0 to 255, any shape.

    As the published ``bin_centers[clip(32000 - token_id - 1, 0, 254)]`` with ``token_id = 31744 + token``: the highest
    token is the lowest action.
    """
    return CENTERS[np.clip(BINS - 1 - tokens, 0, BINS - 2)]


def to_tokens(normalised: np.ndarray) -> np.ndarray:
    """Action tokens 0 to 255 of normalised actions, which are clipped to [-1, 1]. As the published tokenizer."""
    return BINS - np.digitize(np.clip(normalised, -1, 1), EDGES)


@dataclass(frozen=True)
class Normaliser:
    """The statistics of one data set, with the gripper's convention.

    Args:
        q01, q99: float64 [D].
        mask: bool [D]; False: the dimension is not normalised.
        libero: the last dimension is the gripper as in LIBERO: 0 closed and 1 open in the data, -1 open and +1 close in
            the env.
    """

    q01: np.ndarray
    q99: np.ndarray
    mask: np.ndarray
    libero: bool

    @property
    def dim(self) -> int:
        return len(self.q01)

    def to_env(self, normalised: np.ndarray) -> np.ndarray:
        """Normalised actions [..., D] to float32 in the env's units. LIBERO's gripper becomes -1 or +1."""
        out = np.where(self.mask, 0.5 * (normalised + 1) * (self.q99 - self.q01 + 1e-8) + self.q01, normalised)
        if self.libero:
            out[..., -1] = -np.sign(2 * out[..., -1] - 1)
        return out.astype(np.float32)

    def from_env(self, actions: np.ndarray) -> np.ndarray:
        """The env's actions [..., D] to float64 in [-1, 1]. A dimension that never moves becomes 0."""
        out = to_data(actions, self.libero)
        span = self.q99 - self.q01
        scaled = 2 * (out - self.q01) / (span + 1e-8) - 1
        return np.where(self.mask, np.where(span == 0, 0, np.clip(scaled, -1, 1)), np.clip(out, -1, 1))


def to_data(actions: np.ndarray, libero: bool) -> np.ndarray:
    """The env's actions [..., D] as a data set stores them, float64: LIBERO's gripper as 0 closed, 1 open."""
    out = np.array(actions, np.float64)
    if libero:
        out[..., -1] = np.clip((1 - out[..., -1]) / 2, 0, 1)
    return out


def libero_gripper(setting: str, space: srpo.ActionSpace | None) -> bool:
    """Whether LIBERO's gripper convention applies: by the setting, or by the action space if the setting is "auto"."""
    if setting != "auto":
        return setting == "libero"
    return space is not None and bool(space.names) and space.names[-1] == "gripper" and LIBERO_GRIPPER in space.meaning


def compute_statistics(actions: np.ndarray, libero: bool, key: str, trajectories: int) -> dict[str, Any]:
    """Statistics of the env's actions [N, D] in the format of dataset_statistics.json.

    Args:
        libero: see `Normaliser`.
        key: the name of the data set.
        trajectories: number of demonstrations that the actions are from.
    """
    data = to_data(actions, libero)
    mask = [True] * data.shape[1]
    if libero:
        mask[-1] = False
    values = {
        "mean": data.mean(0),
        "std": data.std(0),
        "max": data.max(0),
        "min": data.min(0),
        "q01": np.quantile(data, 0.01, axis=0),
        "q99": np.quantile(data, 0.99, axis=0),
    }
    action = {name: value.tolist() for name, value in values.items()}
    return {key: {"action": {**action, "mask": mask}, "num_transitions": len(data), "num_trajectories": trajectories}}


def range_statistics(space: srpo.ActionSpace, libero: bool, key: str) -> dict[str, Any]:
    """Statistics that cover the env's whole action range, for a policy that has seen no data; num_transitions is 0."""
    low, high = np.array(space.low, np.float64), np.array(space.high, np.float64)
    mask = [True] * len(low)
    if libero:
        mask[-1], low[-1], high[-1] = False, 0, 1
    zero = np.zeros_like(low)
    values = {"mean": zero, "std": zero, "max": high, "min": low, "q01": low, "q99": high}
    action = {name: value.tolist() for name, value in values.items()}
    return {key: {"action": {**action, "mask": mask}, "num_transitions": 0, "num_trajectories": 0}}


def select_key(statistics: Mapping[str, Any], key: str, place: str) -> str:
    """Returns the key of the statistics to use: key, or key with "_no_noops" appended, or the only one if key is empty.

    Raises:
        srpo.Error: "not found".
    """
    for name in (key, f"{key}_no_noops"):
        if key and name in statistics:
            return name
    if not key and len(statistics) == 1:
        return next(iter(statistics))
    if not statistics:
        raise srpo.Error(
            "not found",
            "the checkpoint has no action statistics: neither dataset_statistics.json nor norm_stats in config.json",
            place=place,
            hint='add dataset_statistics.json of its training run, or set statistics = "compute" and imitate first',
        )
    known = ", ".join(sorted(statistics)[:40])
    if key:
        raise srpo.Error(
            "not found",
            f"the checkpoint has no statistics for the data set {key!r}",
            place=place,
            hint=f'set unnorm_key to one of: {known}; or statistics = "compute" and imitate first',
        )
    raise srpo.Error(
        "not found",
        f"the checkpoint has statistics of {len(statistics)} data sets",
        place=place,
        hint=f"set unnorm_key to one of: {known}",
    )


def read_normaliser(statistics: Mapping[str, Any], key: str, libero: bool, place: str) -> Normaliser:
    """Reads the statistics of one data set.

    Raises:
        srpo.Error: "corrupt" for numbers that cannot be used.
    """
    try:
        action = statistics[key]["action"]
        q01, q99 = np.array(action["q01"], np.float64), np.array(action["q99"], np.float64)
        mask = np.array(action.get("mask", [True] * len(q01)), bool)
        if q01.ndim != 1 or not q01.shape == q99.shape == mask.shape or not np.isfinite(q01 + q99).all():
            raise ValueError("q01, q99 and mask must be finite lists of the same length")
    except (KeyError, TypeError, ValueError) as e:
        raise srpo.Error(
            "corrupt",
            f"statistics of {key!r} cannot be used: {e!r}",
            place=place,
            hint='want {"action": {"q01": [...], "q99": [...], "mask": [...]}}',
        ) from e
    return Normaliser(q01, q99, mask, libero)
