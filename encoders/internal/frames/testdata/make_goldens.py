"""Makes the goldens of frames_test.go: pictures as the published preprocessing resizes and crops them.

    uv pip install torch==2.15.0 torchvision transformers==5.23.0 pillow==13.0.0 scikit-image
    python make_goldens.py

writes astronaut.png, cat.png and goldens.json next to this file. The two pictures are cut from NASA's portrait of
Eileen Collins (public domain) and from Stefan van der Walt's Chelsea (CC0), both shipped with scikit-image.
goldens.json has the SHA-256 of the crop for each picture and recipe, and every 23rd byte of the crops of the
photographs. The crops come from the processors of V-JEPA 2 and DINOv2 in transformers. torchvision is used for
recipes without a processor and for pictures of a few pixels, whose sides the processors mistake for channels.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import skimage.data
import torch
import transformers
from PIL import Image
from torchvision.transforms import v2 as transforms

HERE = Path(__file__).parent
STEP = 23  # coprime to 3 and to the sides, so that every channel and column is sampled

# Name, resize, mode, interpolation, crop, and the family whose processor is compared.
RECIPES = [
    ("vjepa2-256", 292, "short_side", "bilinear", 256, "vjepa2"),
    ("vjepa2-384", 438, "short_side", "bilinear", 384, "vjepa2"),
    ("dinov2", 256, "short_side", "bicubic", 224, "dinov2"),
    ("generic", 224, "short_side", "bicubic", 224, None),
    ("odd", 61, "short_side", "bicubic", 48, "dinov2"),
    ("small", 73, "short_side", "bilinear", 64, "vjepa2"),
    ("exact", 98, "exact", "bicubic", 98, None),
]
PATTERNS = [(256, 256), (480, 640), (720, 1280), (97, 61), (33, 57), (5, 3), (1, 1), (292, 438), (224, 300)]


def pattern(seed: int, h: int, w: int) -> np.ndarray:
    """Slopes, edges and texture as uint8 [h, w, 3]. frames_test.go has the same function."""
    y, x, c = np.mgrid[0:h, 0:w, 0:3]
    texture, blocks = (x * y + 31 * seed) % 97, 60 * ((x // 9 + y // 7 + seed) % 3)
    return ((x * (c + 3) + 2 * y * (c + 1) + texture + blocks) % 256).astype(np.uint8)


def photographs() -> dict[str, np.ndarray]:
    """The photographs by name, uint8 [h, w, 3]."""
    astronaut = Image.fromarray(skimage.data.astronaut()).crop((60, 0, 460, 320)).resize((200, 160), Image.LANCZOS)
    cat = Image.fromarray(skimage.data.chelsea()).crop((90, 10, 310, 300)).resize((132, 174), Image.LANCZOS)
    return {"astronaut": np.asarray(astronaut), "cat": np.asarray(cat)}


def pillow(pixels: np.ndarray, to: tuple[int, int], interpolation: str, crop: int) -> np.ndarray:
    """Resizes to (height, width) and crops with Pillow, for comparison. Returns uint8 [crop, crop, 3]."""
    picture = Image.fromarray(pixels).resize(to[::-1], Image.Resampling[interpolation.upper()])
    top, left = (to[0] - crop) // 2, (to[1] - crop) // 2
    return np.asarray(picture.crop((left, top, left + crop, top + crop)))


def torchvision(pixels: np.ndarray, to: tuple[int, int], interpolation: str, crop: int) -> np.ndarray:
    """Resizes and crops with torchvision on uint8, as the processors of transformers do."""
    mode = transforms.InterpolationMode[interpolation.upper()]
    x = transforms.functional.resize(torch.from_numpy(pixels.copy()).permute(2, 0, 1), to, mode, antialias=True)
    top, left = (to[0] - crop) // 2, (to[1] - crop) // 2
    return x[:, top : top + crop, left : left + crop].permute(1, 2, 0).numpy()


def resized(h: int, w: int, resize: int, mode: str) -> tuple[int, int]:
    """The (height, width) of a picture of h x w pixels after the resize."""
    if mode == "exact":
        return resize, resize
    return (resize, int(resize * w / h)) if h < w else (int(resize * h / w), resize)


def published(pixels: np.ndarray, resize: int, crop: int, family: str) -> np.ndarray:
    """Resizes and crops with the processor of a family in transformers. Returns uint8 [crop, crop, 3]."""
    raw = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    side = {"height": crop, "width": crop}
    if family == "vjepa2":
        processor = transformers.VJEPA2VideoProcessor(crop_size=side)
        assert processor.size["shortest_edge"] == resize, processor.size
        out = processor(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None], **raw)["pixel_values_videos"][0, 0]
    else:
        processor = transformers.BitImageProcessor(size={"shortest_edge": resize}, crop_size=side, resample=3)
        out = processor([pixels], **raw)["pixel_values"][0]
    return out.permute(1, 2, 0).numpy().astype(np.uint8)


def main() -> None:
    sources = {f"pattern {h} {w}": pattern(h + w, h, w) for h, w in PATTERNS}
    for name, pixels in photographs().items():
        Image.fromarray(pixels).save(HERE / f"{name}.png", optimize=True)
        sources[name] = pixels
    cases, worst = [], 0
    for source, pixels in sources.items():
        for name, resize, mode, interpolation, crop, family in RECIPES:
            to = resized(*pixels.shape[:2], resize, mode)
            picture = torchvision(pixels, to, interpolation, crop)
            if family and min(pixels.shape[:2]) > 5:
                theirs = published(pixels, resize, crop, family)
                assert (theirs == picture).all(), (source, name)
            worst = max(worst, int(np.abs(pillow(pixels, to, interpolation, crop).astype(int) - picture).max()))
            case = {"source": source, "recipe": name, "sha256": hashlib.sha256(picture.tobytes()).hexdigest()}
            if not source.startswith("pattern"):
                case["bytes"] = picture.reshape(-1)[::STEP].tobytes().hex()[:1000]
            cases.append(case)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "pillow": Image.__version__}
    recipes = {r[0]: dict(zip(("resize", "resize_mode", "interpolation", "crop"), r[1:5])) for r in RECIPES}
    text = json.dumps({"versions": versions, "step": STEP, "recipes": recipes, "cases": cases}, indent=1)
    (HERE / "goldens.json").write_text(text + "\n")
    print(f"{len(cases)} cases; Pillow differs by at most {worst} of 255")


if __name__ == "__main__":
    main()
