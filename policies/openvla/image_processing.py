"""From a camera's frame to the network's input, as the published evaluation code does it with TensorFlow and PIL.

1. Encode and decode as JPEG, quality 95, as the training data were stored. 2. Lanczos to 224 x 224. 3. Crop the middle
0.9 of the area, and resize it to 224 x 224, bilinear. 4. Bicubic to the size of each backbone. 5. Normalise by the mean
and std of each backbone. Steps 1 to 3 return uint8, which is what the policy records.
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


def preprocess(image: np.ndarray, jpeg: bool, crop: bool) -> np.ndarray:
    """Steps 1 to 3: uint8 [H, W, 3] to uint8 [224, 224, 3].

    Args:
        jpeg: whether to do step 1.
        crop: whether to do step 3.
    """
    return center_crop(resize(image, jpeg), crop)


def resize(image: np.ndarray, jpeg: bool) -> np.ndarray:
    """Steps 1 and 2, uint8 [H, W, 3] to uint8 [224, 224, 3]: what imitation keeps of a demonstration."""
    return _lanczos(_jpeg(image) if jpeg else image)


def center_crop(image: np.ndarray, crop: bool = True) -> np.ndarray:
    """Step 3, uint8 [224, 224, 3] to the same shape. With crop=False it returns the image itself."""
    side = np.sqrt(np.float32(AREA))
    start = (np.float32(1) - side) / 2
    return to_uint8(crop_window(image, start, start, side)) if crop else image


def _jpeg(image: np.ndarray) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=95, subsampling="4:2:0")
    # TensorFlow decodes with libjpeg's fast cosine transform, which differs from PIL's accurate one by up to 17 of 255.
    return simplejpeg.decode_jpeg(data.getvalue(), fastdct=True, fastupsample=False)


@functools.lru_cache(8)
def _lanczos_taps(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The filter of tf.image.resize with lanczos3 and antialiasing, from size to 224 pixels.

    All operations are in float32 and in TensorFlow's order, so that rounding is the same.

    Returns:
        (source index, weight), each [taps, 224].
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


def _lanczos(image: np.ndarray) -> np.ndarray:
    x = image.astype(np.float32)
    for axis in (0, 1):
        out = np.zeros((*x.shape[:axis], SIDE, *x.shape[axis + 1 :]), np.float32)
        for source, w in zip(*_lanczos_taps(x.shape[axis])):
            out += x.take(source, axis) * w.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = out
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def crop_window(image: np.ndarray, top: float, left: float, side: float) -> np.ndarray:
    """Crops a square window and resizes it, bilinear and without antialiasing, as tf.image.crop_and_resize.

    Args:
        image: uint8 [H, W, 3].
        top, left, side: of the window, as fractions of the image.

    Returns:
        float32 [224, 224, 3] in [0, 1].
    """
    x = image.astype(np.float32) / np.float32(255)
    for axis, start in ((0, top), (1, left)):
        last = x.shape[axis] - 1
        at = np.float32(start) * last + np.arange(SIDE, dtype=np.float32) * (np.float32(side) * last / (SIDE - 1))
        low = np.clip(np.floor(at), 0, last).astype(int)
        share = (at - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = x.take(low, axis) * (1 - share) + x.take(np.minimum(low + 1, last), axis) * share
    return x


def to_uint8(x: np.ndarray) -> np.ndarray:
    """float32 in [0, 1] to uint8, as tf.image.convert_image_dtype."""
    return (np.clip(x, 0, 1) * np.float32(255.5)).astype(np.uint8)


def augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augments a resized image, uint8 [224, 224, 3], as `image_aug` of the published fine-tuning does: a random window
    of 0.9 of the area, then brightness +-0.2, contrast and saturation 0.8 to 1.2, and hue +-0.05.
    """
    side = np.sqrt(np.float32(AREA))
    x = crop_window(image, rng.uniform(0, 1 - side), rng.uniform(0, 1 - side), side)
    x = x + np.float32(rng.uniform(-0.2, 0.2))
    mean = x.mean((0, 1), keepdims=True)
    x = (x - mean) * np.float32(rng.uniform(0.8, 1.2)) + mean
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    x = grey[..., None] + (x - grey[..., None]) * np.float32(rng.uniform(0.8, 1.2))
    return to_uint8(_rotate_hue(x, rng.uniform(-0.05, 0.05)))


def _rotate_hue(x: np.ndarray, turns: float) -> np.ndarray:
    """Rotates the hue of float32 [H, W, 3] about the grey axis of the YIQ space, by a fraction of a full turn."""
    to = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    c, s = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return x @ (np.linalg.inv(to) @ turn @ to).T.astype(np.float32)


class Processor:
    """Steps 4 and 5, as preprocessor_config.json describes them.

    Args:
        sizes: height and width in pixels, one per backbone.
        config: content of preprocessor_config.json; empty: the published one of two fused backbones (DINOv2, SigLIP).
        place: for errors.

    Raises:
        srpo.Error: "mismatch" for a config that does not fit the backbones.
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
            # All three strategies are the same for a square image, which steps 2 and 3 produce.
            self.kinds = [_RESAMPLE[k] for k in kinds]
            self.means = [torch.tensor(m, dtype=torch.float32)[:, None, None] for m in means]
            self.stds = [torch.tensor(s, dtype=torch.float32)[:, None, None] for s in stds]
        except (ValueError, KeyError, TypeError) as e:
            raise srpo.Error(
                "mismatch",
                f"preprocessor_config.json does not fit the model: {e}",
                place=place,
                hint="use the file of the model that the checkpoint was trained from",
            ) from e

    def __call__(self, frames: list[np.ndarray]) -> list[torch.Tensor]:
        """B frames, uint8 [224, 224, 3] each, to float32 [B, 3, S, S], one tensor per backbone."""
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


def read_processor(sizes: tuple[int, ...], files: dict[str, bytes], place: str) -> Processor:
    """Reads the processor from a checkpoint's files, bytes by name. Raises `srpo.Error` ("corrupt", "mismatch")."""
    try:
        config = json.loads(files.get("preprocessor_config.json", b"{}"))
    except ValueError as e:
        raise srpo.Error("corrupt", f"preprocessor_config.json cannot be read: {e}", place=place) from e
    return Processor(sizes, config, place)
