"""OpenVLA and OpenVLA-OFT (discrete tokens) as one plain module on timm's and transformers' current releases.

Two vision transformers look at the picture, a projector turns their patches into words, and a Llama reads
``[BOS, patches, prompt]``. OpenVLA continues that text by one action, a token a dimension. OpenVLA-OFT is given empty
slots for a whole chunk of actions and fills all of them in one pass (Kim et al., 2024 and 2025).

Parameter names are those of the published checkpoints, but for timm's ``gamma``, which the files call ``scale_factor``
(`file_name`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

STOP = 2  # </s>, behind the action slots
EMPTY = 29871  # the space behind "Out:", without which the prompt is none that training saw
BINS = 256  # action tokens, the last ones of the vocabulary before its padding


@dataclass(frozen=True)
class Architecture:
    """What fixes the shape of the network; the fields of config.json that matter here.

    Args:
        timm_ids: names of the backbones; two of them are fused, one is used alone.
        timm_arguments: overrides of a backbone's own sizes, for small ones.
        image_sizes: pixels a side, one a backbone.
        text: of transformers' LlamaConfig.
        padding: rows that the vocabulary was padded by (`pad_to_multiple_of`).
    """

    timm_ids: tuple[str, ...]
    image_sizes: tuple[int, ...]
    text: dict[str, Any]
    padding: int = 64
    timm_arguments: tuple[dict[str, Any], ...] = field(default=())

    @property
    def fused(self) -> bool:
        return len(self.timm_ids) == 2


class VisionBackbone(nn.Module):
    """One or two vision transformers; features are those of the second-to-last block, without its norm."""

    def __init__(self, a: Architecture):
        super().__init__()
        arguments = a.timm_arguments or ({},) * len(a.timm_ids)
        made = [
            timm.create_model(name, pretrained=False, num_classes=0, img_size=size, **extra)
            for name, size, extra in zip(a.timm_ids, a.image_sizes, arguments)
        ]
        self.featurizer = made[0]
        if a.fused:
            self.fused_featurizer = made[1]
        self.embed_dim = sum(m.embed_dim for m in made)
        self.patches = made[0].patch_embed.num_patches

    def forward(self, pictures: list[torch.Tensor]) -> torch.Tensor:
        """Pictures, normalised [B, 3, S, S] a backbone, to features [B, patches, embed_dim]."""
        out = [_features(self.featurizer, pictures[0])]
        if len(pictures) == 2:
            out.append(_features(self.fused_featurizer, pictures[1]))
        return torch.cat(out, dim=2)


def _features(vit: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return vit.forward_intermediates(
        x, indices=[len(vit.blocks) - 2], stop_early=True, output_fmt="NLC", intermediates_only=True
    )[0]


class Projector(nn.Module):
    """Patches to words: three layers behind two backbones, two behind one."""

    def __init__(self, fused: bool, vision: int, text: int):
        super().__init__()
        self.fc1 = nn.Linear(vision, 4 * vision if fused else text)
        self.fc2 = nn.Linear(self.fc1.out_features, text)
        if fused:
            self.fc3 = nn.Linear(text, text)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc2(nn.functional.gelu(self.fc1(x)))
        return self.fc3(nn.functional.gelu(x)) if hasattr(self, "fc3") else x


class OpenVLA(nn.Module):
    """The network. It is made without weights (on torch's meta device): load some, then call `ready`.

    Args:
        a: its shape.
        attention: transformers' attention: "sdpa" or "eager".
    """

    def __init__(self, a: Architecture, attention: str = "sdpa"):
        super().__init__()
        self.architecture = a
        config = LlamaConfig(**{k: v for k, v in a.text.items() if k not in ("model_type", "torch_dtype", "dtype")})
        config._attn_implementation = attention
        with torch.device("meta"):
            self.vision_backbone = VisionBackbone(a)
            self.projector = Projector(a.fused, self.vision_backbone.embed_dim, config.hidden_size)
            self.language_model = LlamaForCausalLM(config)
        self.vocabulary = config.vocab_size - a.padding  # 32000

    def ready(self, device: torch.device) -> OpenVLA:
        """Makes what is computed and not loaded, and moves everything to the device."""
        llama = self.language_model.model
        llama.rotary_emb = LlamaRotaryEmbedding(config=llama.config)
        return self.to(device).eval()

    def forward(self, work: Callable[[], Any]) -> Any:
        """work(), which uses the methods below, as one pass: what comes before and after one (`sharding`) is hooked to
        this method.
        """
        return work()

    @property
    def patches(self) -> int:
        return self.vision_backbone.patches

    @property
    def first_action(self) -> int:
        """The id of the first action token, 31744; a choice 0 to 255 is counted from here."""
        return self.vocabulary - BINS

    def blocks(self) -> Iterator[nn.Module]:
        """All transformer blocks."""
        yield from self.vision_backbone.featurizer.blocks
        if self.architecture.fused:
            yield from self.vision_backbone.fused_featurizer.blocks
        yield from self.language_model.model.layers

    def checkpoint_gradients(self, on: bool) -> None:
        """Turns gradient checkpointing of all transformer blocks on or off."""
        self.vision_backbone.featurizer.set_grad_checkpointing(on)
        if self.architecture.fused:
            self.vision_backbone.fused_featurizer.set_grad_checkpointing(on)
        if on:
            self.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.language_model.gradient_checkpointing_disable()

    def embed(self, ids: torch.Tensor, pictures: list[torch.Tensor]) -> torch.Tensor:
        """[BOS, patches, rest of the prompt] as vectors: ids [B, L] to [B, patches + L, hidden]."""
        words = self.language_model.get_input_embeddings()(ids)
        seen = self.projector(self.vision_backbone(pictures))
        return torch.cat([words[:, :1], seen, words[:, 1:]], dim=1)

    def slots(
        self, ids: torch.Tensor, lengths: torch.Tensor, pictures: list[torch.Tensor], slots: int, causal: bool
    ) -> torch.Tensor:
        """OpenVLA-OFT: the hidden state that predicts each action slot, and last the stop token.

        Args:
            ids: prompts [B, L], of any length up to L, padded at the right with anything.
            lengths: [B], the prompts' own.
            pictures: normalised [B, 3, S, S], one a backbone.
            slots: action tokens in a chunk (chunk * action dimensions).
            causal: each position sees those before it only. The published training lets every position see all
                others (transformers-openvla-oft replaces Llama's SDPA mask), so False is the ordinary case.

        Returns:
            [B, slots + 1, hidden], before the head.
        """
        batch, longest = ids.shape
        words = self.language_model.get_input_embeddings()(ids)
        seen = self.projector(self.vision_backbone(pictures))
        stop = self.language_model.get_input_embeddings()(ids.new_full((batch, 1), STOP))
        # What follows the prompt moves up to it; padding comes last, where its only effect is masked.
        size = seen.shape[1] + longest + slots + 1
        at = torch.arange(size, device=ids.device)
        end = (seen.shape[1] + lengths)[:, None]  # of the prompt
        tail = torch.cat([words.new_zeros(batch, slots, words.shape[2]), stop], dim=1)
        x = torch.cat([words[:, :1], seen, words[:, 1:], torch.zeros_like(tail)], dim=1)
        inside = (at >= end) & (at < end + slots + 1)
        x = torch.where(inside[..., None], _spread(tail, end, size), x)
        x = torch.where((at < end + slots + 1)[..., None], x, torch.zeros_like(x))
        visible = (at < end + slots + 1)[:, None, None, :].expand(batch, 1, size, size)
        if causal:
            visible = visible & (at[None, :] <= at[:, None])
        mask = torch.zeros(visible.shape, dtype=x.dtype, device=x.device).masked_fill(
            ~visible, torch.finfo(x.dtype).min
        )
        out = self.language_model.model(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state
        # The position before a slot predicts it, as in any language model.
        rows = end - 1 + torch.arange(slots + 1, device=ids.device)
        return out.gather(1, rows[..., None].expand(-1, -1, out.shape[2]))

    def follow(self, ids: torch.Tensor, tokens: torch.Tensor, pictures: list[torch.Tensor]) -> torch.Tensor:
        """OpenVLA, teacher forced: the hidden states that predict each of tokens and what follows them.

        Args:
            ids: prompts [B, L], all of the same length.
            tokens: [B, n], the action's.
            pictures: as in `slots`.

        Returns:
            [B, n + 1, hidden], before the head.
        """
        x = self.embed(torch.cat([ids, tokens], dim=1), pictures)
        out = self.language_model.model(inputs_embeds=x, use_cache=False).last_hidden_state
        return out[:, -tokens.shape[1] - 1 :]

    @torch.no_grad()
    def generate(self, ids: torch.Tensor, pictures: list[torch.Tensor], n: int, choose) -> torch.Tensor:
        """OpenVLA: n tokens one after another; choose(i, logits [B, 256]) gives the
        i-th as choices [B] among the action tokens. Returns ids [B, n].
        """
        cache = DynamicCache(config=self.language_model.config)
        x = self.embed(ids, pictures)
        tokens = []
        # In training mode, which gradient checkpointing needs, transformers drops the cache.
        training = self.language_model.training
        self.language_model.eval()
        try:
            for i in range(n):
                out = self.language_model.model(inputs_embeds=x, past_key_values=cache, use_cache=True)
                tokens.append(self.first_action + choose(i, self.action_logits(out.last_hidden_state[:, -1])))
                x = self.language_model.get_input_embeddings()(tokens[-1][:, None])
        finally:
            self.language_model.train(training)
        return torch.stack(tokens, dim=1)

    def action_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head's rows of the action tokens alone: [..., hidden] to float32 [..., 256]."""
        head = self.language_model.lm_head
        if isinstance(head, nn.Linear):
            return nn.functional.linear(hidden, head.weight[self.first_action : self.vocabulary]).float()
        return head(hidden)[..., self.first_action : self.vocabulary].float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] to float32 [..., vocabulary with padding]."""
        return self.language_model.lm_head(hidden).float()


def _spread(tail: torch.Tensor, start: torch.Tensor, size: int) -> torch.Tensor:
    """Lays tail [B, n, H] into [B, size, H] from position start [B, 1] on; elsewhere it repeats its border."""
    index = (torch.arange(size, device=tail.device) - start).clamp(0, tail.shape[1] - 1)
    return tail.gather(1, index[..., None].expand(-1, -1, tail.shape[2]))


def file_name(parameter: str) -> str:
    """The name that a parameter has in a published checkpoint."""
    head, _, last = parameter.rpartition(".")
    return f"{head}.scale_factor" if last == "gamma" else parameter
