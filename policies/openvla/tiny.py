"""Writes an OpenVLA with a few million random weights in the published format, for tests and trial runs on a CPU.

python tiny.py FOLDER [--seed 0] [--kind openvla-oft|openvla]
"""

from __future__ import annotations

import argparse
import json
import os
import zlib
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import checkpoint
from modeling import SPACE, OpenVLA, file_name

VOCABULARY = 32064
IDS = ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"]
# Words that are one token in the stand-in tokenizer. It splits others into characters.
_WORDS = """\
In : What action should the robot take to ? Out . , ! - a above alphabet and apple back bag basket beans black
blue bin block both bottle bottom bowl box brown bbq butter cabinet can caddy cheese chocolate close compartment
cookies cream cup cyan dip drawer dressing drop flat frying from front ground green in into it ketchup left lift
light lower middle microwave milk moka mug move near next of off on onto open orange other out over pan pick
place plate pot pudding purple push put rack ramekin ranch red right salad sauce second side slot soup stack
stove table then third tomato top touch towards tray turn under up upper wall white wine with wooden yellow cake
cloth juice knob one pair sticky two top""".split()


def tokenizer() -> Tokenizer:
    """A stand-in for Llama's tokenizer, with the same special ids. Words of LIBERO's tasks are one token each."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    characters = [chr(c) for c in range(33, 127)]
    for piece in [*characters, *("##" + c for c in characters), *sorted(set(_WORDS))]:
        vocabulary.setdefault(piece, len(vocabulary))
    vocabulary["▁"], vocabulary["<PAD>"] = SPACE, 32000
    t = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=200))
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    t.add_special_tokens(["<unk>", "<s>", "</s>", "<PAD>"])
    return t


def config(statistics: dict[str, Any], kind: str, chunk: int, side: int) -> dict[str, Any]:
    """The content of config.json: the published format, with `timm_model_args` and "srpo" added.

    Args:
        side: image size in pixels.
    """
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "auto_map": {
            "AutoConfig": "configuration_prismatic.OpenVLAConfig",
            "AutoModelForVision2Seq": "modeling_prismatic.OpenVLAForActionPrediction",
        },
        "model_type": "openvla",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "llm_backbone_id": "llama2-7b-pure",
        "image_resize_strategy": "resize-naive",
        "use_fused_vision_backbone": True,
        "image_sizes": [side, side],
        "timm_model_ids": IDS,
        "timm_override_act_layers": [None, None],
        "timm_model_args": [
            dict(embed_dim=64, depth=3, num_heads=4, init_values=0.5),
            dict(embed_dim=64, depth=3, num_heads=4, mlp_ratio=4.0),
        ],
        "n_action_bins": 256,
        "pad_token_id": 32000,
        "pad_to_multiple_of": 64,
        "llm_max_length": 2048,
        "text_config": {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 2048,
            "pad_token_id": 32000,
            "torch_dtype": "float32",
        },
        "norm_stats": statistics,
        "torch_dtype": "float32",
        "srpo": {"kind": kind, "chunk": chunk},
    }


def preprocessor(side: int) -> dict[str, Any]:
    """The content of preprocessor_config.json, with the published means and deviations of DINOv2 and SigLIP."""
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "use_fused_vision_backbone": True,
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, side, side]] * 2,
        "interpolations": ["bicubic"] * 2,
        "means": [[0.484375, 0.455078125, 0.40625], [0.5, 0.5, 0.5]],
        "stds": [[0.228515625, 0.2236328125, 0.224609375], [0.5, 0.5, 0.5]],
    }


def weight(name: str, shape: torch.Size, seed: int, head: float) -> np.ndarray:
    """Random values of one parameter, float32. They depend only on its name, the shape, the seed and head."""
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    x = rng.standard_normal(tuple(shape)).astype(np.float32)
    if name.endswith("bias"):
        return 0.02 * x
    if name.endswith("gamma"):
        return 0.5 + 0.1 * x
    if len(shape) == 1:  # norms
        return 1 + 0.05 * x
    if "embed_tokens" in name:
        return 0.3 * x
    if any(part in name for part in ("pos_embed", "cls_token", "reg_token", "latent")):
        return 0.2 * x
    fan = int(np.prod(shape[1:]))
    return x * np.float32((head if "lm_head" in name else 1.0) / np.sqrt(fan))


def statistics(dim: int = 7) -> dict[str, Any]:
    """Stand-in statistics: range -1 to 1, and 0 to 1 for the gripper."""
    low, high = [-1.0] * dim, [1.0] * dim
    low[-1] = 0.0
    action = {
        "q01": low,
        "q99": high,
        "min": low,
        "max": high,
        "mean": [0.0] * dim,
        "std": [1.0] * dim,
        "mask": [True] * (dim - 1) + [False],
    }
    return {"tiny": {"action": action, "num_transitions": 0, "num_trajectories": 0}}


def write(
    folder: str,
    seed: int = 0,
    kind: str = "openvla-oft",
    stats: dict[str, Any] | None = None,
    chunk: int = 8,
    side: int = 112,
    head: float = 0.2,
) -> None:
    """Writes a checkpoint into an existing folder. The same arguments produce the same bytes.

    Args:
        kind: "openvla-oft" or "openvla".
        stats: action statistics by data set; None: `statistics()`.
        chunk: actions in a chunk of openvla-oft.
        side: input size of the backbones in pixels, a multiple of 14.
        head: scale of the output layer's weights. A small scale starts near the uniform distribution.
    """
    stats = statistics() if stats is None else stats
    source = checkpoint.Source(folder, config(stats, kind, chunk if kind == "openvla-oft" else 1, side), stats)
    model = OpenVLA(source.architecture())
    parameters = sorted(model.named_parameters())
    source.carried = {
        "tokenizer.json": tokenizer().to_str(pretty=False).encode(),
        "tokenizer_config.json": _json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
                "pad_token": "<PAD>",
                "model_max_length": 2048,
                "padding_side": "right",
            }
        ),
        "preprocessor_config.json": _json(preprocessor(side)),
    }
    checkpoint.write(
        folder,
        source,
        [(file_name(n), lambda n=n, p=p: torch.from_numpy(weight(n, p.shape, seed, head))) for n, p in parameters],
        {file_name(n): 4 * p.numel() for n, p in parameters},
        5 << 30,
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=("openvla-oft", "openvla"), default="openvla-oft")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    write(args.folder, args.seed, args.kind)
