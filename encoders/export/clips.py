"""Clips that the exporter verifies with, and their preprocessing."""

from pathlib import Path

import numpy as np
import torch

from talk import Refused


def scenes(count: int, frames: int, height: int = 96, width: int = 120, noise: float = 4) -> list[np.ndarray]:
    """Generates clips of discs that move over a shaded ground, uint8 [frames, height, width, 3] each.

    Clip k is the same in each call. noise is the standard deviation of the pixel noise, of 255.
    """
    out = []
    for k in range(count):
        rng = np.random.default_rng(k)
        y, x = np.mgrid[0:height, 0:width] / height
        ground = np.stack([(0.5 + 0.4 * np.sin(a * x + b * y + c)) for a, b, c in rng.uniform(-6, 6, (3, 3))], -1)
        discs = [
            (rng.uniform(0.1, 0.9, 2), rng.uniform(-0.5, 0.5, 2), rng.uniform(0.05, 0.2), rng.uniform(0, 1, 3))
            for _ in range(4)
        ]
        clip = np.empty((frames, height, width, 3), np.uint8)
        for t in range(frames):
            picture = ground.copy()
            s = t / max(1, frames - 1)
            for start, motion, radius, colour in discs:
                py, px = start + s * motion
                picture[(y - py) ** 2 + (x - px) ** 2 < radius**2] = colour
            clip[t] = np.clip(255 * picture + noise * rng.standard_normal(picture.shape), 0, 255)
        out.append(clip)
    return out


def load(path: Path) -> np.ndarray:
    """Reads a clip, uint8 [T, H, W, 3], from a .npz or .npy file.

    Raises Refused: corrupt (numpy cannot read it) or invalid (another type or shape).
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        array = loaded
        if not isinstance(loaded, np.ndarray):
            array = loaded["frames" if "frames" in loaded else loaded.files[0]]
    except Exception as e:  # numpy passes on the errors of zipfile and its parsers
        raise Refused("corrupt", f"numpy cannot read it: {e}", "remove the file, or write it again", str(path)) from e
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        what = f"it contains {array.dtype} {list(array.shape)}"
        raise Refused("invalid", what, "a clip is uint8 [T, H, W, 3]", str(path))
    return array


def read(folder: Path, max_clips: int) -> list[np.ndarray]:
    """Reads the first max_clips clips of a folder of .npz and .npy files, sorted by name.

    Raises Refused: not found (the folder has no clips), and the errors of load.
    """
    paths = sorted([*folder.rglob("*.npz"), *folder.rglob("*.npy")])
    if not paths:
        raise Refused("not found", f"{folder} has no clips", "a clip is a .npz or .npy file with uint8 [T, H, W, 3]")
    return [load(path) for path in paths[:max_clips]]


def indices(length: int, frames: int) -> np.ndarray:
    """The indices of frames frames of a clip with length frames, int [frames].

    They are evenly spaced and include the first and the last. A shorter clip is repeated from its beginning.
    """
    if length < frames:
        return np.arange(frames) % length
    return np.linspace(0, length - 1, frames).astype(int)


def sample(clip: np.ndarray, frames: int) -> np.ndarray:
    """The frames of a clip that indices selects, uint8 [frames, H, W, 3]."""
    return clip[indices(len(clip), frames)]


def preprocess(clip: np.ndarray, card: dict) -> torch.Tensor:
    """Preprocesses a clip, uint8 [T, H, W, 3], as in the model card: float32 [T, 3, crop, crop]."""
    return normalise(cropped(clip, card["preprocess"]), card["preprocess"])


def cropped(clip: np.ndarray, p: dict) -> torch.Tensor:
    """Resizes and crops a clip, uint8 [T, H, W, 3], to uint8 [T, 3, crop, crop]. p is the card's preprocess."""
    x = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2)
    h, w = x.shape[-2:]
    to = (p["resize"], p["resize"])
    if p["resize_mode"] == "short_side":
        to = (p["resize"], int(p["resize"] * w / h)) if h <= w else (int(p["resize"] * h / w), p["resize"])
    if to != (h, w):
        # On uint8, as in the published processors: rounded and clamped between the two directions.
        x = torch.nn.functional.interpolate(
            x, to, mode=p["interpolation"], align_corners=False, antialias=p["antialias"]
        )
    top, left = (to[0] - p["crop"]) // 2, (to[1] - p["crop"]) // 2
    return x[..., top : top + p["crop"], left : left + p["crop"]]


def normalise(pixels: torch.Tensor, p: dict) -> torch.Tensor:
    """Normalises uint8 [..., 3, H, W] to the float32 input of the network. p is the card's preprocess."""
    mean, std = (torch.tensor(p[k]).view(3, 1, 1) for k in ("mean", "std"))
    return (pixels.float() * p["rescale"] - mean) / std
