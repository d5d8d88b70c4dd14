"""Measures how much exported files differ from torch: the table of docs/results/parity-encoders.md.

It exports checkpoints of many shapes with random weights, including the widths of the published networks.

    python parity.py > TABLE.md
"""

import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import transformers

import random_checkpoint
from export import export

# Name and config of the network, and options of the export. ViT-L, ViT-H and ViT-g have the published widths, heads and
# MLP ratios, but fewer layers, so that a laptop checks them in minutes.
VJEPA2 = [
    (
        "tiny 32 px, 4 frames",
        {"patch_size": 8, "crop_size": 32, "frames_per_clip": 4, "hidden_size": 24, "num_attention_heads": 2},
        {},
    ),
    (
        "tiny 64 px, 16 frames",
        {
            "patch_size": 8,
            "crop_size": 64,
            "frames_per_clip": 16,
            "hidden_size": 48,
            "num_attention_heads": 3,
            "num_hidden_layers": 6,
        },
        {},
    ),
    (
        "tiny 64 px, 64 frames",
        {"patch_size": 16, "crop_size": 64, "frames_per_clip": 64, "hidden_size": 48, "num_attention_heads": 3},
        {},
    ),
    (
        "the same, --frames 16",
        {"patch_size": 16, "crop_size": 64, "frames_per_clip": 64, "hidden_size": 48, "num_attention_heads": 3},
        {"frames": 16},
    ),
    (
        "tiny 64 px, 8 frames, --half",
        {"patch_size": 16, "crop_size": 64, "frames_per_clip": 8, "hidden_size": 48, "num_attention_heads": 3},
        {"half": True},
    ),
    ("ViT-L's width, 2 layers, 256 px, 8 frames", {"crop_size": 256, "frames_per_clip": 8}, {}),
    (
        "ViT-H's width, 1 layer, 256 px, 8 frames",
        {"crop_size": 256, "frames_per_clip": 8, "hidden_size": 1280, "num_hidden_layers": 1},
        {},
    ),
    (
        "ViT-g's width, 1 layer, 384 px, 4 frames",
        {
            "crop_size": 384,
            "frames_per_clip": 4,
            "hidden_size": 1408,
            "num_attention_heads": 22,
            "mlp_ratio": 4.363636363636363,
            "num_hidden_layers": 1,
        },
        {},
    ),
]
# The same, and the sizes in pixels that pictures are resized and cropped to before the options.
DINOV2 = [
    ("tiny, 42 px of 56", {"image_size": 56, "hidden_size": 24, "num_attention_heads": 2}, 48, 42, {}),
    (
        "tiny, 4 registers, 56 px of 42",
        {"image_size": 42, "hidden_size": 24, "num_attention_heads": 2, "num_register_tokens": 4},
        64,
        56,
        {},
    ),
    ("tiny, --half", {"image_size": 56, "hidden_size": 24, "num_attention_heads": 2}, 48, 42, {"half": True}),
    ("ViT-B's width, 3 layers, 224 px of 518", {"image_size": 518, "num_hidden_layers": 3}, 256, 224, {}),
    (
        "ViT-L's width, 4 registers, 2 layers, 224 px of 518",
        {
            "image_size": 518,
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "num_hidden_layers": 2,
            "num_register_tokens": 4,
        },
        256,
        224,
        {},
    ),
]


class Silent:
    """Discards reports."""

    def phase(self, *_, **__):
        pass

    message = phase


def batches(session, sample: np.ndarray) -> float:
    """The largest relative difference between a clip embedded alone and in batches of 2, 3 and 5."""
    name = session.get_inputs()[0].name
    alone = [session.run(None, {name: sample[i : i + 1]}) for i in range(len(sample))]
    worst = 0.0
    for n in (2, 3, 5):
        for output, rows in enumerate(session.run(None, {name: sample[:n]})):
            for i, row in enumerate(rows):
                one = alone[i][output][0]
                worst = max(worst, float(np.linalg.norm(row - one) / np.linalg.norm(one)))
    return worst


def measure(family: str, config: dict, sides: tuple[int, int] | None, options: dict) -> tuple[int, int, float, float]:
    """Exports one network with random weights.

    Returns its number of parameters and of tokens per input, and the largest relative differences between the file and
    torch, and between batches.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        if family == "vjepa2":
            model = random_checkpoint.vjepa2(checkpoint, **config)
            parameters = sum(p.numel() for p in model.encoder.parameters())
            c = model.config
            frames = options.get("frames", c.frames_per_clip)
            tokens = frames // c.tubelet_size * (c.crop_size // c.patch_size) ** 2
            shape = (5, frames, 3, c.crop_size, c.crop_size)
        else:
            model = random_checkpoint.dinov2(checkpoint, *sides, **config)
            parameters = sum(p.numel() for p in model.parameters())
            tokens = 1 + config.get("num_register_tokens", 0) + (sides[1] // 14) ** 2
            shape = (5, 3, sides[1], sides[1])
        del model
        default = {"half": False, "frames": None, "revision": "", "clips": "", "threads": 1}
        out = Path(folder) / "model.onnx"
        arguments = {**default, **options, "family": family, "model": str(checkpoint), "out": str(out)}
        verified = export(Namespace(**arguments), Silent())["verified"]
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(out), session_options)
        sample = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        return parameters, tokens, verified["largest_relative_difference"], batches(session, sample)


def main() -> int:
    """Prints the table. Returns 1 if a network in float32 differs from torch by more than 1e-4."""
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, ONNX Runtime {onnxruntime.__version__},"
        " one thread, CPU.\n"
    )
    print("| family | network | parameters | tokens | against torch | batch of 1 against 2, 3, 5 | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    worst = 0.0
    cases = [("vjepa2", name, config, None, options) for name, config, options in VJEPA2]
    cases += [("dinov2", name, config, (resize, crop), options) for name, config, resize, crop, options in DINOV2]
    for family, name, config, sides, options in cases:
        torch.manual_seed(0)
        began = time.monotonic()
        parameters, tokens, difference, between_batches = measure(family, config, sides, options)
        if not options.get("half"):
            worst = max(worst, difference)
        print(
            f"| {family} | {name} | {parameters / 1e6:.2f} M | {tokens} | {difference:.1e} | {between_batches:.1e} |"
            f" {time.monotonic() - began:.0f} |",
            flush=True,
        )
    print(f"\nLargest in float32: {worst:.1e}; up to 1e-4 is accepted.")
    return 0 if worst <= 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
