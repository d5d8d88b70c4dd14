"""Compares numbers with those of the original code.

If SRPO_APART names a file, the largest difference of each kind is appended to it, for docs/results/parity-policies.md
(see openvla/tests/parity/page.py).
"""

import atexit
import json
import os
from pathlib import Path

import numpy as np

DIFFERENCES: dict[str, list[float]] = {}  # [largest difference, tolerance] by what was compared


def within(what: str, actual, original, tolerance: float) -> None:
    """Asserts that two arrays or tensors of the same shape differ by at most tolerance anywhere; NaN fails."""
    a, b = (np.asarray(x.detach() if hasattr(x, "detach") else x, np.float64) for x in (actual, original))
    assert a.shape == b.shape, f"{what}: {a.shape} and {b.shape}"
    largest = float(np.abs(a - b).max())
    DIFFERENCES[what] = [max(DIFFERENCES.get(what, [0.0])[0], largest), tolerance]
    assert largest <= tolerance, f"{what}: they differ by {largest:.3g}, at most {tolerance:.3g} is allowed"


def write_differences() -> None:
    """Appends one JSON line per kind. The plugin's name is that of the folder in which the tests run."""
    if (file := os.environ.get("SRPO_APART")) and DIFFERENCES:
        with open(file, "a", encoding="utf-8") as f:
            for what, (largest, tolerance) in DIFFERENCES.items():
                row = {"plugin": Path.cwd().name, "what": what, "apart": largest, "most": tolerance}
                f.write(json.dumps(row) + "\n")


atexit.register(write_differences)
