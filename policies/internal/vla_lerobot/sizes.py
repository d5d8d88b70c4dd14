"""Builds small networks of lerobot's own classes.

lerobot's modelling files support gemma_2b and gemma_300m, a vocabulary of 257152 and one vision tower only. For trial
runs on a CPU, these are replaced by small ones while a network is built. Nothing else of lerobot's code is patched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """The sizes of a small network. Attention has 8 heads, as lerobot's code requires, and one key-value head.

    Args:
        width, mlp: of the language model.
        expert_width, expert_mlp: of the action expert; unused in pi0-fast.
        depth: number of layers of both.
        head: size of an attention head.
        vocabulary: number of tokens.
        vision_width, vision_mlp, vision_depth, vision_heads, patch: of the vision tower.
    """

    width: int = 64
    mlp: int = 192
    expert_width: int = 64
    expert_mlp: int = 192
    depth: int = 3
    head: int = 16
    vocabulary: int = 2048
    vision_width: int = 64
    vision_mlp: int = 128
    vision_depth: int = 2
    vision_heads: int = 4
    patch: int = 14

    def json(self) -> dict[str, Any]:
        return asdict(self)


@contextlib.contextmanager
def patched(modelling: ModuleType, sizes: Sizes | None, side: int) -> Iterator[None]:
    """Within it, lerobot's modelling module builds networks of these sizes, for images of side x side pixels.

    Args:
        modelling: such as lerobot.policies.pi0.modeling_pi0.
        sizes: None: lerobot's own sizes.
    """
    if sizes is None:
        yield
        return
    paligemma = modelling.PaliGemmaForConditionalGenerationWithPiGemma
    gemma = getattr(modelling, "PiGemmaForCausalLM", None)  # pi0's expert

    def gemma_config(variant: str) -> Any:
        expert = variant == "gemma_300m"
        return modelling.GemmaConfig(
            width=sizes.expert_width if expert else sizes.width,
            depth=sizes.depth,
            mlp_dim=sizes.expert_mlp if expert else sizes.mlp,
            num_heads=8,
            num_kv_heads=1,
            head_dim=sizes.head,
        )

    def build_paligemma(config: Any) -> Any:
        v = config.vision_config
        v.hidden_size, v.intermediate_size = sizes.vision_width, sizes.vision_mlp
        v.num_hidden_layers, v.num_attention_heads = sizes.vision_depth, sizes.vision_heads
        v.image_size, v.patch_size = side, sizes.patch
        v.projection_dim = config.projection_dim = config.hidden_size = config.text_config.hidden_size
        config.text_config.vocab_size = config._vocab_size = sizes.vocabulary
        config.image_token_index = sizes.vocabulary - 1
        return paligemma(config=config)

    def build_gemma(config: Any) -> Any:
        config.vocab_size = sizes.vocabulary
        return gemma(config=config)

    replacements = {"get_gemma_config": gemma_config, "PaliGemmaForConditionalGenerationWithPiGemma": build_paligemma}
    if gemma is not None:
        replacements["PiGemmaForCausalLM"] = build_gemma
    originals = {name: getattr(modelling, name) for name in replacements}
    try:
        for name, value in replacements.items():
            setattr(modelling, name, value)
        yield
    finally:
        for name, value in originals.items():
            setattr(modelling, name, value)
