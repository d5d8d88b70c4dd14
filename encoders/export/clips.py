"""Clips to verify with, and what is done to them before a network sees them."""

from pathlib import Path

import numpy as np
import torch

from talk import Refused


def scenes(count: int, frames: int, height: int = 96, width: int = 120, noise: float = 4) -> list[np.ndarray]:
    """Clips of discs that move over a shaded ground, uint8 [frames, height, width, 3] each, the same each time."""
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
            for at, way, size, colour in discs:
                py, px = at + s * way
                picture[(y - py) ** 2 + (x - px) ** 2 < size**2] = colour
            clip[t] = np.clip(255 * picture + noise * rng.standard_normal(picture.shape), 0, 255)
        out.append(clip)
    return out


def load(path: Path) -> np.ndarray:
    """The clip in a .npz or .npy file: uint8 [T, H, W, 3]. Raises Refused: corrupt, invalid (another type or shape)."""
    try:
        loaded = np.load(path, allow_pickle=False)
        array = loaded
        if not isinstance(loaded, np.ndarray):
            array = loaded["frames" if "frames" in loaded else loaded.files[0]]
    except Exception as e:  # numpy raises what zipfile and its parsers do
        raise Refused("corrupt", f"numpy cannot read it: {e}", "remove the file, or write it again", str(path)) from e
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        what = f"it holds {array.dtype} {list(array.shape)}"
        raise Refused("invalid", what, "a clip is uint8 [T, H, W, 3]", str(path))
    return array


def read(folder: Path, most: int) -> list[np.ndarray]:
    """Up to so many clips from a folder of .npz and .npy files, sorted by name. Raises Refused as load does, and not
    found where there is none.
    """
    paths = sorted([*folder.rglob("*.npz"), *folder.rglob("*.npy")])
    if not paths:
        raise Refused("not found", f"{folder} has no clips", "a clip is a .npz or .npy file with uint8 [T, H, W, 3]")
    return [load(path) for path in paths[:most]]


def places(length: int, frames: int) -> np.ndarray:
    """Which of length frames to take: evenly spaced, first and last among them; a shorter clip begins again."""
    if length < frames:
        return np.arange(frames) % length
    return np.linspace(0, length - 1, frames).astype(int)


def sample(clip: np.ndarray, frames: int) -> np.ndarray:
    """As many pictures of a clip, see places."""
    return clip[places(len(clip), frames)]


def preprocess(clip: np.ndarray, card: dict) -> torch.Tensor:
    """A clip uint8 [T, H, W, 3] as normalised floats [T, 3, crop, crop], as the model card's preprocess says."""
    return normalise(cropped(clip, card["preprocess"]), card["preprocess"])


def cropped(clip: np.ndarray, p: dict) -> torch.Tensor:
    """A clip uint8 [T, H, W, 3], resized and cut: uint8 [T, 3, crop, crop]."""
    x = torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 3, 1, 2)
    h, w = x.shape[-2:]
    to = (p["resize"], p["resize"])
    if p["resize_mode"] == "short_side":
        to = (p["resize"], int(p["resize"] * w / h)) if h <= w else (int(p["resize"] * h / w), p["resize"])
    if to != (h, w):
        # On uint8, as the published processors do it: rounded, and clamped between the two directions.
        x = torch.nn.functional.interpolate(
            x, to, mode=p["interpolation"], align_corners=False, antialias=p["antialias"]
        )
    top, left = (to[0] - p["crop"]) // 2, (to[1] - p["crop"]) // 2
    return x[..., top : top + p["crop"], left : left + p["crop"]]


def normalise(pixels: torch.Tensor, p: dict) -> torch.Tensor:
    """uint8 [..., 3, H, W] as the floats that a network sees."""
    mean, std = (torch.tensor(p[k]).view(3, 1, 1) for k in ("mean", "std"))
    return (pixels.float() * p["rescale"] - mean) / std
