"""From a camera's frame to what the network sees, as the published evaluation code does it with TensorFlow and PIL.

1. JPEG, quality 95, there and back (the training data were stored so), 2. Lanczos to 224 x 224, 3. the middle 0.9 of
the area, bilinear, back to 224 x 224, 4. bicubic to each backbone's size, 5. each backbone's mean and std. Steps 1 to 3
end in uint8, which is what the policy records.
"""

from __future__ import annotations

import functools
import io
import json
from typing import Any

import numpy as np
import simplejpeg
import srpo_sdk as srpo
import torch
from PIL import Image

SIDE = 224
AREA = 0.9
_RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
IMAGENET = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
HALF = [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]


def frame(picture: np.ndarray, jpeg: bool, cut: bool) -> np.ndarray:
    """Steps 1 to 3: uint8 [H, W, 3] to uint8 [224, 224, 3]; cut: whether there is step 3."""
    return crop(uncropped(picture, jpeg), cut)


def uncropped(picture: np.ndarray, jpeg: bool) -> np.ndarray:
    """Steps 1 and 2: what training keeps of a demonstration, uint8 [224, 224, 3]."""
    return _lanczos(_jpeg(picture) if jpeg else picture)


def crop(picture: np.ndarray, cut: bool = True) -> np.ndarray:
    """Step 3, uint8 [224, 224, 3] to the same; without cut the picture itself."""
    side = np.sqrt(np.float32(AREA))
    start = (np.float32(1) - side) / 2
    return quantised(window(picture, start, start, side)) if cut else picture


def _jpeg(picture: np.ndarray) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=95, subsampling="4:2:0")
    # TensorFlow decodes with libjpeg's fast cosine transform, up to 17 in 255 off the accurate one that PIL uses.
    return simplejpeg.decode_jpeg(data.getvalue(), fastdct=True, fastupsample=False)


@functools.lru_cache(8)
def _lanczos_taps(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(index of the source, its weight), each [taps, 224], of tf.image.resize with lanczos3 and antialiasing from size
    to 224: in float32 and in its order, so that roundings are the same.
    """
    step = np.float32(1) / (np.float32(SIDE) / np.float32(size))
    width = max(step, np.float32(1))
    at = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) * step
    first = np.ceil(at - 3 * width - np.float32(0.5)).astype(int)
    last = np.floor(at + 3 * width - np.float32(0.5)).astype(int)
    first, last = np.maximum(first, 0), np.minimum(last, size - 1)
    source = first + np.arange((last - first).max() + 1)[:, None]
    x = np.abs(source.astype(np.float32) + np.float32(0.5) - at) * (np.float32(1) / width)
    far, t = x.astype(np.float64), np.pi * x.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = np.where(far <= 1e-3, 1.0, 3 * np.sin(t) * np.sin(t / 3) / (t * t)).astype(np.float32)
    w[(far > 3) | (source > last)] = 0
    total = np.zeros(SIDE, np.float32)
    for row in w:
        total += row
    return np.minimum(source, size - 1), w * (np.float32(1) / total)


def _lanczos(picture: np.ndarray) -> np.ndarray:
    x = picture.astype(np.float32)
    for axis in (0, 1):
        out = np.zeros((*x.shape[:axis], SIDE, *x.shape[axis + 1 :]), np.float32)
        for source, w in zip(*_lanczos_taps(x.shape[axis])):
            out += x.take(source, axis) * w.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = out
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def window(picture: np.ndarray, top: float, left: float, side: float) -> np.ndarray:
    """The square window [top, top + side] x [left, left + side] (shares of the picture), bilinear, not antialiased, as
    tf.image.crop_and_resize: uint8 [H, W, 3] to float32 [224, 224, 3] in 0 to 1.
    """
    x = picture.astype(np.float32) / np.float32(255)
    for axis, start in ((0, top), (1, left)):
        last = x.shape[axis] - 1
        at = np.float32(start) * last + np.arange(SIDE, dtype=np.float32) * (np.float32(side) * last / (SIDE - 1))
        low = np.clip(np.floor(at), 0, last).astype(int)
        share = (at - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = x.take(low, axis) * (1 - share) + x.take(np.minimum(low + 1, last), axis) * share
    return x


def quantised(x: np.ndarray) -> np.ndarray:
    """float32 in 0 to 1 to uint8, as tf.image.convert_image_dtype does."""
    return (np.clip(x, 0, 1) * np.float32(255.5)).astype(np.uint8)


def augmented(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture before the crop, uint8 [224, 224, 3], as training sees it: a random window of 0.9 of the area, then
    brightness +-0.2, contrast and saturation 0.8 to 1.2 and hue +-0.05 (the published fine-tuning's `image_aug`).
    """
    side = np.sqrt(np.float32(AREA))
    x = window(picture, rng.uniform(0, 1 - side), rng.uniform(0, 1 - side), side)
    x = x + np.float32(rng.uniform(-0.2, 0.2))
    mean = x.mean((0, 1), keepdims=True)
    x = (x - mean) * np.float32(rng.uniform(0.8, 1.2)) + mean
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    x = grey[..., None] + (x - grey[..., None]) * np.float32(rng.uniform(0.8, 1.2))
    return quantised(_turn_hue(x, rng.uniform(-0.05, 0.05)))


def _turn_hue(x: np.ndarray, turns: float) -> np.ndarray:
    """Turns colours about the grey axis by a share of a full turn (in the YIQ plane)."""
    to = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    c, s = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return x @ (np.linalg.inv(to) @ turn @ to).T.astype(np.float32)


class Processor:
    """Steps 4 and 5, by preprocessor_config.json.

    Args:
        sizes: of the network's backbones, pixels a side.
        config: preprocessor_config.json; empty: the published one of two fused backbones (DINOv2, SigLIP).
        place: for errors.
    """

    def __init__(self, sizes: tuple[int, ...], config: dict[str, Any], place: str):
        default = [IMAGENET, HALF] if len(sizes) == 2 else [HALF]
        self.sizes = sizes
        try:
            means = config.get("means") or [d[0] for d in default]
            stds = config.get("stds") or [d[1] for d in default]
            kinds = config.get("interpolations") or ["bicubic"] * len(sizes)
            inputs = [tuple(s)[-1] for s in config.get("input_sizes") or [(3, s, s) for s in sizes]]
            strategy = config.get("image_resize_strategy", "resize-naive")
            if not len(means) == len(stds) == len(kinds) == len(sizes) or tuple(inputs) != tuple(sizes):
                raise ValueError(f"input_sizes {inputs} with {len(means)} means for backbones of {list(sizes)} pixels")
            if strategy not in ("resize-naive", "resize-crop", "letterbox"):
                raise ValueError(f"image_resize_strategy {strategy!r}")
            # All three strategies are one for a square picture, and step 3 makes it square.
            self.kinds = [_RESAMPLE[k] for k in kinds]
            self.means = [torch.tensor(m, dtype=torch.float32)[:, None, None] for m in means]
            self.stds = [torch.tensor(s, dtype=torch.float32)[:, None, None] for s in stds]
        except (ValueError, KeyError, TypeError) as e:
            raise srpo.Error(
                "mismatch",
                f"preprocessor_config.json does not fit the model: {e}",
                place=place,
                hint="take the file from the model that the checkpoint was trained from",
            ) from e

    def __call__(self, frames: list[np.ndarray]) -> list[torch.Tensor]:
        """uint8 [224, 224, 3] each to float32 [B, 3, S, S], one a backbone."""
        out = []
        for size, kind, mean, std in zip(self.sizes, self.kinds, self.means, self.stds):
            batch = []
            for f in frames:
                if size != SIDE:
                    f = np.asarray(Image.fromarray(f).resize((size, size), kind))
                x = torch.from_numpy(np.array(f)).permute(2, 0, 1).float().div(255)
                batch.append((x - mean) / std)
            out.append(torch.stack(batch))
        return out


def processor(sizes: tuple[int, ...], carried: dict[str, bytes], place: str) -> Processor:
    """The processor of a checkpoint's files."""
    try:
        config = json.loads(carried.get("preprocessor_config.json", b"{}"))
    except ValueError as e:
        raise srpo.Error("corrupt", f"preprocessor_config.json cannot be read: {e}", place=place) from e
    return Processor(sizes, config, place)
