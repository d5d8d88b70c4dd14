"""How far apart an original's numbers and ours are: held within a bound, and the largest of each kind noted where
SRPO_APART names a file, for docs/results/parity-policies.md (parity/page.py).
"""

import atexit
import json
import os
from pathlib import Path

import numpy as np

SEEN: dict[str, list[float]] = {}  # largest difference and bound by what was compared


def within(what: str, ours, originals, most: float) -> None:
    """Compares numbers of one shape, tensors or not; a difference above most, or one that is no number, fails."""
    a, b = (np.asarray(x.detach() if hasattr(x, "detach") else x, np.float64) for x in (ours, originals))
    assert a.shape == b.shape, f"{what}: {a.shape} and {b.shape}"
    largest = float(np.abs(a - b).max())
    SEEN[what] = [max(SEEN.get(what, [0.0])[0], largest), most]
    assert largest <= most, f"{what}: {largest:.3g} apart, at most {most:.3g} is allowed"


def note() -> None:
    """Adds a line for each kind to the file, under the name of the plugin in whose folder the tests run."""
    if (file := os.environ.get("SRPO_APART")) and SEEN:
        with open(file, "a", encoding="utf-8") as f:
            for what, (largest, most) in SEEN.items():
                f.write(json.dumps({"plugin": Path.cwd().name, "what": what, "apart": largest, "most": most}) + "\n")


atexit.register(note)
