"""Normalisation by lerobot's data-set statistics, of actions and state.

Statistics are {"action": {"mean": [D], ...}, "observation.state": {...}}. The config's normalization_mapping determines
which of them are used. The arithmetic is that of lerobot's NormalizerProcessorStep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import srpo_sdk as srpo

ACTION, STATE = "action", "observation.state"
NEEDED = {
    "IDENTITY": (),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
Statistics = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Normaliser:
    """Normalises one kind of vector.

    Args:
        mode: a key of `NEEDED`.
        a, b: the two statistics that the mode needs, float32 [D]; empty for IDENTITY.
    """

    mode: str
    a: np.ndarray
    b: np.ndarray
    eps: float = 1e-8

    def _span(self) -> np.ndarray:
        span = self.b - self.a
        return np.where(span == 0, np.float32(self.eps), span)

    def normalise(self, x: np.ndarray) -> np.ndarray:
        """[..., D] in the data set's units to float32 [..., D] in the network's."""
        x = np.asarray(x, np.float32)
        if self.mode == "IDENTITY":
            return x
        if self.mode == "MEAN_STD":
            return (x - self.a) / (self.b + np.float32(self.eps))
        return np.float32(2) * (x - self.a) / self._span() - np.float32(1)

    def unnormalise(self, x: np.ndarray) -> np.ndarray:
        """[..., D] in the network's units to float32 [..., D] in the data set's."""
        x = np.asarray(x, np.float32)
        if self.mode == "IDENTITY":
            return x
        if self.mode == "MEAN_STD":
            return x * self.b + self.a
        return (x + np.float32(1)) / np.float32(2) * self._span() + self.a


def make_normaliser(statistics: Statistics, key: str, mode: str, dim: int, place: str) -> Normaliser:
    """Returns the normaliser of "action" or "observation.state".

    Args:
        key: which of the two.
        mode: a key of `NEEDED`.
        dim: expected number of dimensions.
        place: for errors.

    Raises:
        srpo.Error: "not found" if statistics that the mode needs are missing, "corrupt" for numbers that cannot be
            used, "mismatch" for another number of dimensions, "unsupported" for an unknown mode.
    """
    if mode not in NEEDED:
        raise srpo.Error("unsupported", f"normalisation {mode!r} of {key}", place=place, hint=f"known: {[*NEEDED]}")
    if mode == "IDENTITY":
        return Normaliser(mode, np.zeros(0, np.float32), np.zeros(0, np.float32))
    values = statistics.get(key, {})
    missing = [n for n in NEEDED[mode] if n not in values]
    if missing:
        raise srpo.Error(
            "not found",
            f"no statistics {', '.join(f'{key}.{n}' for n in missing)}, which normalisation {mode} needs",
            place=place,
            hint="add policy_preprocessor.json with its .safetensors of the training run, or set "
            'statistics = "compute" and imitate first',
        )
    a, b = (np.asarray(values[n], np.float32).reshape(-1) for n in NEEDED[mode])
    if a.shape != b.shape or not np.isfinite(a + b).all():
        raise srpo.Error("corrupt", f"statistics of {key} are not finite lists of the same length", place=place)
    if len(a) != dim:
        raise srpo.Error(
            "mismatch",
            f"statistics of {key} have {len(a)} numbers, want {dim}",
            place=place,
            hint="choose an env with the actions and proprio that the checkpoint was trained for",
        )
    return Normaliser(mode, a, b)


def compute_statistics(x: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of data [N, D] under lerobot's names: float32 [D] each, and "count" [1]."""
    x = np.asarray(x, np.float64)
    quantiles = {f"q{q:02d}": np.quantile(x, q / 100, axis=0) for q in (1, 10, 50, 90, 99)}
    values = {"min": x.min(0), "max": x.max(0), "mean": x.mean(0), "std": x.std(0), **quantiles}
    return {**{n: v.astype(np.float32) for n, v in values.items()}, "count": np.array([len(x)], np.float32)}


def range_statistics(low: np.ndarray, high: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics that cover the range [low, high], for a policy that has seen no data; count is 0."""
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    middle, half = (low + high) / 2, (high - low) / 2
    return {
        **{n: low for n in ("min", "q01", "q10")},
        **{n: high for n in ("max", "q90", "q99")},
        **{n: middle for n in ("mean", "q50")},
        "std": half,
        "count": np.zeros(1, np.float32),
    }
