"""Networks of other sizes than lerobot's code names, made of lerobot's own classes.

Its modelling files know gemma_2b and gemma_300m, a vocabulary of 257152 and one vision tower. For trying things out on
a CPU these are swapped, while a network is built, for small ones; nothing else of lerobot's code is touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """What fixes a small network. Attention always has 8 heads (lerobot's code counts on it) and one of keys.

    Args:
        width, mlp: of the language model.
        expert_width, expert_mlp: of the action expert; unused in pi0-fast.
        depth: layers of both.
        head: numbers a head.
        vocabulary: tokens.
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
def built(module: ModuleType, sizes: Sizes | None, side: int) -> Iterator[None]:
    """Within it, lerobot's modelling module builds networks of these sizes for pictures of side x side pixels; of its
    own ones where sizes is None.
    """
    if sizes is None:
        yield
        return
    pali, causal = module.PaliGemmaForConditionalGenerationWithPiGemma, getattr(module, "PiGemmaForCausalLM", None)

    def config(variant: str) -> Any:
        expert = variant == "gemma_300m"
        return module.GemmaConfig(
            width=sizes.expert_width if expert else sizes.width,
            depth=sizes.depth,
            mlp_dim=sizes.expert_mlp if expert else sizes.mlp,
            num_heads=8,
            num_kv_heads=1,
            head_dim=sizes.head,
        )

    def seeing(config: Any) -> Any:
        v = config.vision_config
        v.hidden_size, v.intermediate_size = sizes.vision_width, sizes.vision_mlp
        v.num_hidden_layers, v.num_attention_heads = sizes.vision_depth, sizes.vision_heads
        v.image_size, v.patch_size = side, sizes.patch
        v.projection_dim = config.projection_dim = config.hidden_size = config.text_config.hidden_size
        config.text_config.vocab_size = config._vocab_size = sizes.vocabulary
        config.image_token_index = sizes.vocabulary - 1
        return pali(config=config)

    def acting(config: Any) -> Any:
        config.vocab_size = sizes.vocabulary
        return causal(config=config)

    swaps = {"get_gemma_config": config, "PaliGemmaForConditionalGenerationWithPiGemma": seeing}
    if causal is not None:
        swaps["PiGemmaForCausalLM"] = acting
    kept = {name: getattr(module, name) for name in swaps}
    try:
        for name, value in swaps.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(module, name, value)
