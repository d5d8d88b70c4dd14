"""Makes checkpoints with random weights in the format of transformers, for tests, goldens and the parity table."""

import json
from pathlib import Path

import torch
import transformers

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def vjepa2(folder: Path, **config):
    """Saves a V-JEPA 2 with a small predictor and returns it. It has 2 layers unless config sets num_hidden_layers."""
    small = {
        "tubelet_size": 2,
        "num_hidden_layers": 2,
        "pred_hidden_size": 12,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
        "pred_num_mask_tokens": 2,
    }
    model = _random(transformers.VJEPA2Model(transformers.VJEPA2Config(**{**small, **config})), folder)
    crop = model.config.crop_size
    _write(
        folder / "video_preprocessor_config.json",
        {
            "video_processor_type": "VJEPA2VideoProcessor",
            "crop_size": {"height": crop, "width": crop},
            "do_center_crop": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": MEAN,
            "image_std": STD,
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": int(crop * 256 / 224)},
        },
    )
    return model


def dinov2(folder: Path, resize: int, crop: int, **config):
    """Saves a DINOv2 and returns it. It has registers if config sets num_register_tokens, and 2 layers by default."""
    kind = "Dinov2WithRegisters" if "num_register_tokens" in config else "Dinov2"
    c = getattr(transformers, kind + "Config")(**{"patch_size": 14, "num_hidden_layers": 2, **config})
    model = _random(getattr(transformers, kind + "Model")(c), folder)
    _write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "BitImageProcessor",
            "crop_size": {"height": crop, "width": crop},
            "do_center_crop": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": MEAN,
            "image_std": STD,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": resize},
        },
    )
    return model


def _random(model, folder: Path):
    """Draws weights large enough that every part of the network changes its output, and saves the model."""
    transformers.logging.set_verbosity_error()
    large = 0.08 * (48 / model.config.hidden_size) ** 0.5
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1 and "norm" not in name and "lambda" not in name:
                p.normal_(0, 0.1)
            elif p.ndim > 1:
                p.normal_(0, large)
    model.eval().save_pretrained(folder)
    return model


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
