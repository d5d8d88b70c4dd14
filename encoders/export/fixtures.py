"""Makes the goldens of the Go tests: small models with random weights, and the embeddings that torch computes with
them.

    python fixtures.py ENCODERS_FOLDER

writes ENCODERS_FOLDER/vjepa2/testdata and ENCODERS_FOLDER/dinov2/testdata. NAME.onnx is exported by export.py.
NAME.json lists clips. Each has a PNG with its frames below each other, a PNG with the frames after the published
preprocessing of transformers (resized and cropped, not yet normalised), and the embeddings of these by the published
network in torch. This needs torchvision besides the requirements.
"""

import json
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

import clips
import random_checkpoint
from export import export
from talk import Reports

# Name, config, --half, and the height, width and noise of each clip.
VJEPA2 = [
    (
        "patch16-8x64",
        {"patch_size": 16, "crop_size": 64, "frames_per_clip": 8, "hidden_size": 16, "num_attention_heads": 1},
        False,
        [(64, 64, 0), (72, 96, 0)],
    ),
    (
        "patch8-16x32",
        {"patch_size": 8, "crop_size": 32, "frames_per_clip": 16, "hidden_size": 24, "num_attention_heads": 2},
        False,
        [(40, 56, 2), (56, 40, 0), (32, 32, 0)],
    ),
    (
        "patch8-4x48-half",
        {"patch_size": 8, "crop_size": 48, "frames_per_clip": 4, "hidden_size": 32, "num_attention_heads": 4},
        True,
        [(50, 70, 4), (128, 128, 0)],
    ),
]
# Name, config, the sizes in pixels that pictures are resized and cropped to, and the height, width and noise of each
# clip.
DINOV2 = [
    ("plain-42", {"image_size": 56, "hidden_size": 24, "num_attention_heads": 2}, 48, 42, [(64, 64, 0), (60, 80, 4)]),
    (
        "registers-56",
        {"image_size": 42, "hidden_size": 24, "num_attention_heads": 2, "num_register_tokens": 4},
        64,
        56,
        [(90, 64, 4), (128, 128, 0)],
    ),
]


def published(model, processor, frames: np.ndarray, normalise: bool = True) -> torch.Tensor:
    """Applies the published preprocessing to frames, uint8 [T, H, W, 3].

    Returns [T, 3, crop, crop], with values from 0 to 255 if not normalised.
    """
    off = {} if normalise else {"do_rescale": False, "do_normalize": False}
    if isinstance(processor, transformers.VJEPA2VideoProcessor):
        return processor(torch.from_numpy(frames).permute(0, 3, 1, 2), return_tensors="pt", **off)[
            "pixel_values_videos"
        ][0]
    return processor(list(frames), return_tensors="pt", **off)["pixel_values"]


def embed(model, pixels: torch.Tensor) -> dict[str, list[list[float]]]:
    """The embeddings of the published network by output: one row for the clip (V-JEPA 2) or per frame (DINOv2)."""
    with torch.inference_mode():
        if model.config.model_type == "vjepa2":
            return {
                "mean": model(pixel_values_videos=pixels[None], skip_predictor=True).last_hidden_state.mean(1).tolist()
            }
        out = model(pixel_values=pixels)
        skip = 1 + getattr(model.config, "num_register_tokens", 0)
        return {"cls": out.pooler_output.tolist(), "patches": out.last_hidden_state[:, skip:].mean(1).tolist()}


def strip(frames: np.ndarray, path: Path) -> str:
    """Writes uint8 [T, H, W, 3] as one picture with the frames below each other. Returns its name."""
    Image.fromarray(np.ascontiguousarray(frames).reshape(-1, *frames.shape[2:])).save(path, optimize=True)
    return path.name


def make(out: Path, name: str, family: str, half: bool, make_checkpoint, sizes) -> None:
    """Writes one model and its golden to the folder out. make_checkpoint(folder) saves and returns the network."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(len(name))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / name
        model = make_checkpoint(checkpoint)
        processor = (
            transformers.VJEPA2VideoProcessor if family == "vjepa2" else transformers.BitImageProcessor
        ).from_pretrained(checkpoint)
        arguments = Namespace(
            family=family,
            model=str(checkpoint),
            out=str(out / f"{name}.onnx"),
            half=half,
            revision="",
            frames=None,
            clips="",
            threads=1,
        )
        verified = export(arguments, Reports())["verified"]
    golden = {
        "model": f"{name}.onnx",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "largest_relative_difference": verified["largest_relative_difference"],
        "clips": [],
    }
    count = model.config.frames_per_clip if family == "vjepa2" else 3
    for i, (h, w, noise) in enumerate(sizes):
        frames = clips.scenes(i + 1, count, h, w, noise)[i]
        pixels = published(model, processor, frames, normalise=False).permute(0, 2, 3, 1).numpy().astype(np.uint8)
        golden["clips"].append(
            {
                "frames": count,
                "height": h,
                "width": w,
                "file": strip(frames, out / f"{name}-{i}.png"),
                "crop": strip(pixels, out / f"{name}-{i}-crop.png"),
                "embeddings": embed(model, published(model, processor, frames)),
            }
        )
    (out / f"{name}.json").write_text(json.dumps(golden, indent=1) + "\n")


def main(encoders: Path) -> None:
    for name, config, half, sizes in VJEPA2:
        make(
            encoders / "vjepa2" / "testdata",
            name,
            "vjepa2",
            half,
            lambda folder, c=config: random_checkpoint.vjepa2(folder, **c),
            sizes,
        )
    for name, config, resize, crop, sizes in DINOV2:
        make(
            encoders / "dinov2" / "testdata",
            name,
            "dinov2",
            False,
            lambda folder, c=config, r=resize, k=crop: random_checkpoint.dinov2(folder, r, k, **c),
            sizes,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
