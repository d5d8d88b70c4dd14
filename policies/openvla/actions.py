"""Action tokens and data-set statistics: from a token to a number in the env's units, and back.

A dimension in [-1, 1] has 256 tokens but 255 values: the bins lie between 256 edges, and exactly 1 has a token of its
own whose value is the last bin's, as in the published code. Statistics are the published ones: 1st and 99th percentile
of each dimension map to -1 and 1; where `mask` is false (the gripper) the number is left as it is, 0 closed and 1 open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import srpo_sdk as srpo

from modeling import BINS

EDGES = np.linspace(-1, 1, BINS)
CENTRES = (EDGES[:-1] + EDGES[1:]) / 2  # 255 of them
LIBERO_GRIPPER = "gripper -1 open"  # in ActionSpace.meaning


def centre(choices: np.ndarray) -> np.ndarray:
    """Normalised actions, float64, of choices 0 to 255 among the action tokens, any shape. The published
    ``bin_centers[clip(32000 - token - 1, 0, 254)]`` with ``token = 31744 + choice``: the highest choice is the lowest
    action.
    """
    return CENTRES[np.clip(BINS - 1 - choices, 0, BINS - 2)]


def choices(normalised: np.ndarray) -> np.ndarray:
    """The choice 0 to 255 that stands for normalised actions, clipped to -1 to 1; the published tokenizer's."""
    return BINS - np.digitize(np.clip(normalised, -1, 1), EDGES)


@dataclass(frozen=True)
class Normaliser:
    """One data set's statistics with the gripper's convention.

    Args:
        q01, q99: float64 [D].
        mask: bool [D]; false: the dimension is not normalised.
        libero: the last dimension is 0 closed, 1 open in the data, and -1 open, +1 close in the env, by its sign.
    """

    q01: np.ndarray
    q99: np.ndarray
    mask: np.ndarray
    libero: bool

    @property
    def dim(self) -> int:
        return len(self.q01)

    def to_env(self, normalised: np.ndarray) -> np.ndarray:
        """Normalised actions [..., D] to float32 in the env's units."""
        out = np.where(self.mask, 0.5 * (normalised + 1) * (self.q99 - self.q01 + 1e-8) + self.q01, normalised)
        if self.libero:
            out[..., -1] = -np.sign(2 * out[..., -1] - 1)
        return out.astype(np.float32)

    def from_env(self, actions: np.ndarray) -> np.ndarray:
        """The env's actions [..., D] to normalised ones, float64 in [-1, 1]; a dimension that never moves becomes 0."""
        out = self.data(actions)
        span = self.q99 - self.q01
        scaled = 2 * (out - self.q01) / (span + 1e-8) - 1
        return np.where(self.mask, np.where(span == 0, 0, np.clip(scaled, -1, 1)), np.clip(out, -1, 1))

    def data(self, actions: np.ndarray) -> np.ndarray:
        """The env's actions as a data set holds them."""
        return to_data(actions, self.libero)


def to_data(actions: np.ndarray, libero: bool) -> np.ndarray:
    """The env's actions [..., D] as a data set holds them: the gripper as 0 closed, 1 open where libero."""
    out = np.array(actions, np.float64)
    if libero:
        out[..., -1] = np.clip((1 - out[..., -1]) / 2, 0, 1)
    return out


def libero_gripper(setting: str, space: srpo.ActionSpace | None) -> bool:
    """Whether LIBERO's gripper convention applies: by the setting, or by what the env says of its actions."""
    if setting != "auto":
        return setting == "libero"
    return space is not None and bool(space.names) and space.names[-1] == "gripper" and LIBERO_GRIPPER in space.meaning


def measure(actions: np.ndarray, libero: bool, key: str, trajectories: int) -> dict[str, Any]:
    """Statistics of actions [N, D] (the env's) as the published dataset_statistics.json has them, under a key."""
    data = to_data(actions, libero)
    mask = [True] * data.shape[1]
    if libero:
        mask[-1] = False
    of = {
        "mean": data.mean(0),
        "std": data.std(0),
        "max": data.max(0),
        "min": data.min(0),
        "q01": np.quantile(data, 0.01, axis=0),
        "q99": np.quantile(data, 0.99, axis=0),
    }
    action = {name: value.tolist() for name, value in of.items()}
    return {key: {"action": {**action, "mask": mask}, "num_transitions": len(data), "num_trajectories": trajectories}}


def ranges(space: srpo.ActionSpace, libero: bool, key: str) -> dict[str, Any]:
    """Statistics that stand for an env's whole range, for a policy that saw no data yet."""
    low, high = np.array(space.low, np.float64), np.array(space.high, np.float64)
    mask = [True] * len(low)
    if libero:
        mask[-1], low[-1], high[-1] = False, 0, 1
    zero = np.zeros_like(low)
    of = {"mean": zero, "std": zero, "max": high, "min": low, "q01": low, "q99": high}
    action = {name: value.tolist() for name, value in of.items()}
    return {key: {"action": {**action, "mask": mask}, "num_transitions": 0, "num_trajectories": 0}}


def choose(statistics: Mapping[str, Any], key: str, place: str) -> str:
    """The key of the statistics to use: the given one, with _no_noops behind it, or the only one there is.

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
            hint='bring dataset_statistics.json of its training run, or set statistics = "compute" and imitate first',
        )
    have = ", ".join(sorted(statistics)[:40])
    if key:
        raise srpo.Error(
            "not found",
            f"the checkpoint has no statistics for the data set {key!r}",
            place=place,
            hint=f'set unnorm_key to one of: {have}; or statistics = "compute" and imitate first',
        )
    raise srpo.Error(
        "not found",
        f"the checkpoint has statistics of {len(statistics)} data sets",
        place=place,
        hint=f"set unnorm_key to one of: {have}",
    )


def normaliser(statistics: Mapping[str, Any], key: str, libero: bool, place: str) -> Normaliser:
    """Reads one data set's statistics; raises `srpo.Error` ("corrupt") for numbers that cannot be used."""
    try:
        action = statistics[key]["action"]
        q01, q99 = np.array(action["q01"], np.float64), np.array(action["q99"], np.float64)
        mask = np.array(action.get("mask", [True] * len(q01)), bool)
        if q01.ndim != 1 or not q01.shape == q99.shape == mask.shape or not np.isfinite(q01 + q99).all():
            raise ValueError("q01, q99 and mask must be finite lists of one length")
    except (KeyError, TypeError, ValueError) as e:
        raise srpo.Error(
            "corrupt",
            f"statistics of {key!r} cannot be used: {e!r}",
            place=place,
            hint='want {"action": {"q01": [...], "q99": [...], "mask": [...]}}',
        ) from e
    return Normaliser(q01, q99, mask, libero)
