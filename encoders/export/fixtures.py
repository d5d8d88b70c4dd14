"""Small models with random weights of the true architectures, and what torch makes of clips: the goldens of Go's tests.

    python fixtures.py ENCODERS_FOLDER

writes ENCODERS_FOLDER/vjepa2/testdata and ENCODERS_FOLDER/dinov2/testdata: NAME.onnx, made by export.py as any other
checkpoint, and NAME.json with, for each clip, the pictures one below the other as a PNG, the pictures that the published
preprocessing of transformers makes of them (resized and cropped, before they are normalised), likewise, and the
embeddings that the published network in torch gives for those. It needs torchvision besides the requirements.
"""

import json
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import clips
import numpy as np
import torch
import transformers
from export import export
from PIL import Image
from talk import Reports

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# Name, config, --half, and the clips' sizes (height, width, noise).
VJEPA2 = [
    ("patch16-8x64", {"patch_size": 16, "crop_size": 64, "frames_per_clip": 8, "hidden_size": 16, "num_attention_heads": 1},
     False, [(64, 64, 0), (72, 96, 0)]),
    ("patch8-16x32", {"patch_size": 8, "crop_size": 32, "frames_per_clip": 16, "hidden_size": 24, "num_attention_heads": 2},
     False, [(40, 56, 2), (56, 40, 0), (32, 32, 0)]),
    ("patch8-4x48-half", {"patch_size": 8, "crop_size": 48, "frames_per_clip": 4, "hidden_size": 32, "num_attention_heads": 4},
     True, [(50, 70, 4), (128, 128, 0)]),
]
# Here also what pictures are resized and cropped to.
DINOV2 = [
    ("plain-42", {"image_size": 56, "hidden_size": 24, "num_attention_heads": 2}, 48, 42, [(64, 64, 0), (60, 80, 4)]),
    ("registers-56", {"image_size": 42, "hidden_size": 24, "num_attention_heads": 2, "num_register_tokens": 4}, 64, 56,
     [(90, 64, 4), (128, 128, 0)]),
]


def randomise(model) -> None:
    """Weights large enough that every part of the network shows in its output."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1 and "norm" not in name and "lambda" not in name:
                p.normal_(0, 0.1)
            elif p.ndim > 1:
                p.mul_(4)


def vjepa2(folder: Path, config: dict, **more):
    """Saves a random V-JEPA 2 in the format of transformers and returns it with its published processor."""
    small = {"tubelet_size": 2, "num_hidden_layers": 2, "pred_hidden_size": 12, "pred_num_attention_heads": 2,
             "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2}
    model = transformers.VJEPA2Model(transformers.VJEPA2Config(**{**small, **config, **more})).eval()
    randomise(model)
    model.save_pretrained(folder)
    crop = config["crop_size"]
    processor = transformers.VJEPA2VideoProcessor(crop_size={"height": crop, "width": crop}, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(folder)
    return model, processor


def dinov2(folder: Path, config: dict, resize: int, crop: int, **more):
    """Saves a random DINOv2, with registers where the config has some, and returns it with its published processor."""
    kind = "Dinov2WithRegisters" if "num_register_tokens" in config else "Dinov2"
    cls = getattr(transformers, kind + "Config")
    model = getattr(transformers, kind + "Model")(cls(**{"patch_size": 14, "num_hidden_layers": 2, **config, **more})).eval()
    randomise(model)
    model.save_pretrained(folder)
    processor = transformers.BitImageProcessor(size={"shortest_edge": resize}, crop_size={"height": crop, "width": crop},
                                               resample=3, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(folder)
    return model, processor


def published(model, processor, frames: np.ndarray, normalise: bool = True) -> torch.Tensor:
    """What the published preprocessing gives for uint8 [T, H, W, 3]: [T, 3, crop, crop], uint8 when not normalised."""
    off = {} if normalise else {"do_rescale": False, "do_normalize": False}
    if isinstance(processor, transformers.VJEPA2VideoProcessor):
        return processor(torch.from_numpy(frames).permute(0, 3, 1, 2), return_tensors="pt", **off)["pixel_values_videos"][0]
    return processor(list(frames), return_tensors="pt", **off)["pixel_values"]


def embed(model, pixels: torch.Tensor) -> dict[str, list[list[float]]]:
    """The published network's embeddings by output: a row for the clip (V-JEPA 2) or for each frame (DINOv2)."""
    with torch.inference_mode():
        if model.config.model_type == "vjepa2":
            return {"mean": model(pixel_values_videos=pixels[None], skip_predictor=True).last_hidden_state.mean(1).tolist()}
        out = model(pixel_values=pixels)
        skip = 1 + getattr(model.config, "num_register_tokens", 0)
        return {"cls": out.pooler_output.tolist(), "patches": out.last_hidden_state[:, skip:].mean(1).tolist()}


def strip(frames: np.ndarray, path: Path) -> str:
    """Writes uint8 [T, H, W, 3] as one picture, the frames one below the other."""
    Image.fromarray(np.ascontiguousarray(frames).reshape(-1, *frames.shape[2:])).save(path, optimize=True)
    return path.name


def make(out: Path, name: str, family: str, half: bool, make_checkpoint, sizes) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(len(name))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / name
        model, processor = make_checkpoint(checkpoint)
        arguments = Namespace(family=family, model=str(checkpoint), out=str(out / f"{name}.onnx"), half=half, revision="",
                              frames=None, clips="", threads=1)
        verified = export(arguments, Reports())["verified"]
    golden = {"model": f"{name}.onnx", "torch": torch.__version__, "transformers": transformers.__version__,
              "largest_relative_difference": verified["largest_relative_difference"], "clips": []}
    count = model.config.frames_per_clip if family == "vjepa2" else 3
    for i, (h, w, noise) in enumerate(sizes):
        frames = clips.scenes(i + 1, count, h, w, noise)[i]
        pixels = published(model, processor, frames, normalise=False).permute(0, 2, 3, 1).numpy().astype(np.uint8)
        golden["clips"].append({
            "frames": count, "height": h, "width": w, "file": strip(frames, out / f"{name}-{i}.png"),
            "crop": strip(pixels, out / f"{name}-{i}-crop.png"),
            "embeddings": embed(model, published(model, processor, frames)),
        })
    (out / f"{name}.json").write_text(json.dumps(golden, indent=1) + "\n")


def main(encoders: Path) -> None:
    for name, config, half, sizes in VJEPA2:
        make(encoders / "vjepa2" / "testdata", name, "vjepa2", half, lambda f, c=config: vjepa2(f, c), sizes)
    for name, config, resize, crop, sizes in DINOV2:
        make(encoders / "dinov2" / "testdata", name, "dinov2", False,
             lambda f, c=config, r=resize, k=crop: dinov2(f, c, r, k), sizes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
