"""Inputs for the original code and the plugin. It imports numpy only, since both environments use it."""

import numpy as np

INSTRUCTIONS = ["pick up the bbq sauce and place it in the basket", "open the top drawer"]
# Frames that both preprocess to the same pixels. Others differ by 1 of 255 in up to 5 of 150,528 numbers.
FRAMES = [3, 13]
TEMPERATURE = 1.6
# name -> (arguments of tiny.write, whether attention is causal)
CASES = {
    "oft": (dict(seed=1, kind="openvla-oft", head=1.0), False),
    "oft-causal": (dict(seed=1, kind="openvla-oft", head=1.0), True),
    "openvla": (dict(seed=2, kind="openvla", head=1.0), True),
}
# Suffix of a case: its checkpoint after the policy has loaded, updated and saved it.
SAVED = "-saved"


def frame(n: int, height: int = 256, width: int = 256) -> np.ndarray:
    """An image with edges, ramps and noise, uint8 [height, width, 3]."""
    rng = np.random.Generator(np.random.PCG64(n))
    y, x = np.mgrid[:height, :width].astype(np.float64)
    out = np.stack([127 + 100 * np.sin(x / (7 + n)), 255 * y / height, 127 + 100 * np.cos((x + y) / 23)], -1)
    for _ in range(12):
        top, left, side = rng.integers(0, height - 40), rng.integers(0, width - 40), rng.integers(8, 40)
        out[top : top + side, left : left + side] = rng.integers(0, 256, 3)
    return np.clip(out + 8 * rng.standard_normal(out.shape), 0, 255).astype(np.uint8)


def tokens(slots: int) -> np.ndarray:
    """Random action tokens 0 to 255 for both instructions, int64 [2, slots]."""
    return np.random.Generator(np.random.PCG64(5)).integers(0, 256, (2, slots))
