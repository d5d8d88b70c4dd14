"""OpenVLA and OpenVLA-OFT (discrete tokens) as one plain module on current releases of timm and transformers.

Two vision transformers encode the image, a projector maps their patches to embeddings, and a Llama reads
``[BOS, patches, prompt]``. OpenVLA continues that text by one action, one token per dimension (Kim et al., 2024).
OpenVLA-OFT gets empty slots for a whole chunk of actions and predicts all of them in one pass (Kim et al., 2025).

Parameter names are those of the published checkpoints, except timm's ``gamma``, which the files call ``scale_factor``
(see `file_name`).
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

STOP = 2  # </s>, after the action slots
SPACE = 29871  # the space after "Out:", which all prompts in training end with
BINS = 256  # action tokens; they are the last ones of the vocabulary before its padding


@dataclass(frozen=True)
class Architecture:
    """The fields of config.json that determine the shape of the network.

    Args:
        timm_ids: names of the backbones; one, or two that are fused.
        image_sizes: height and width in pixels, one per backbone.
        text: arguments of transformers' LlamaConfig.
        padding: number of rows that the vocabulary was padded by (`pad_to_multiple_of`).
        timm_arguments: overrides of the backbones' own sizes, for small ones.
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
    """One or two vision transformers. Features are those of the second-to-last block, without the norm."""

    def __init__(self, a: Architecture):
        super().__init__()
        arguments = a.timm_arguments or ({},) * len(a.timm_ids)
        models = [
            timm.create_model(name, pretrained=False, num_classes=0, img_size=size, **extra)
            for name, size, extra in zip(a.timm_ids, a.image_sizes, arguments)
        ]
        self.featurizer = models[0]
        if a.fused:
            self.fused_featurizer = models[1]
        self.embed_dim = sum(m.embed_dim for m in models)
        self.patches = models[0].patch_embed.num_patches

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Normalised images [B, 3, S, S], one tensor per backbone, to features [B, patches, embed_dim]."""
        out = [_features(self.featurizer, images[0])]
        if len(images) == 2:
            out.append(_features(self.fused_featurizer, images[1]))
        return torch.cat(out, dim=2)


def _features(vit: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return vit.forward_intermediates(
        x, indices=[len(vit.blocks) - 2], stop_early=True, output_fmt="NLC", intermediates_only=True
    )[0]


class Projector(nn.Module):
    """Patches to text embeddings: three linear layers after two backbones, two after one."""

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
    """The network. It is created without weights, on torch's meta device: load weights, then call `finish_loading`.

    Args:
        a: its shape.
        attention: of the language model, "sdpa" or "eager".
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

    def finish_loading(self, device: torch.device) -> OpenVLA:
        """Creates the buffers that are computed instead of loaded, and moves everything to the device."""
        llama = self.language_model.model
        llama.rotary_emb = LlamaRotaryEmbedding(config=llama.config)
        return self.to(device).eval()

    def forward(self, work: Callable[[], Any]) -> Any:
        """Returns work(), which uses the methods below, as one forward pass. FSDP hooks this method."""
        return work()

    @property
    def patches(self) -> int:
        return self.vision_backbone.patches

    @property
    def first_action(self) -> int:
        """The id of the first action token, 31744. Action tokens are counted from here, 0 to 255."""
        return self.vocabulary - BINS

    def blocks(self) -> Iterator[nn.Module]:
        """Yields all transformer blocks."""
        yield from self.vision_backbone.featurizer.blocks
        if self.architecture.fused:
            yield from self.vision_backbone.fused_featurizer.blocks
        yield from self.language_model.model.layers

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Turns gradient checkpointing of all transformer blocks on or off."""
        self.vision_backbone.featurizer.set_grad_checkpointing(on)
        if self.architecture.fused:
            self.vision_backbone.fused_featurizer.set_grad_checkpointing(on)
        if on:
            self.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.language_model.gradient_checkpointing_disable()

    def embed(self, ids: torch.Tensor, images: list[torch.Tensor]) -> torch.Tensor:
        """Embeddings of [BOS, patches, rest of the prompt]: ids [B, L] to [B, patches + L, hidden]."""
        text = self.language_model.get_input_embeddings()(ids)
        patches = self.projector(self.vision_backbone(images))
        return torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)

    def parallel_hidden(
        self, ids: torch.Tensor, lengths: torch.Tensor, images: list[torch.Tensor], slots: int, causal: bool
    ) -> torch.Tensor:
        """OpenVLA-OFT: the hidden states that predict each action slot, and the stop token last.

        Args:
            ids: prompts [B, L], padded on the right with any id.
            lengths: [B], without padding.
            images: normalised [B, 3, S, S], one tensor per backbone.
            slots: action tokens in a chunk (chunk * action dimensions).
            causal: each position attends to the positions before it only. In the published training every position
                attends to all others (transformers-openvla-oft replaces Llama's SDPA mask), so False is the usual case.

        Returns:
            [B, slots + 1, hidden], before the head.
        """
        batch, longest = ids.shape
        text = self.language_model.get_input_embeddings()(ids)
        patches = self.projector(self.vision_backbone(images))
        stop = self.language_model.get_input_embeddings()(ids.new_full((batch, 1), STOP))
        # The slots follow the prompt directly. Padding is moved to the end, where it is masked.
        size = patches.shape[1] + longest + slots + 1
        at = torch.arange(size, device=ids.device)
        end = (patches.shape[1] + lengths)[:, None]  # of the prompt
        tail = torch.cat([text.new_zeros(batch, slots, text.shape[2]), stop], dim=1)
        x = torch.cat([text[:, :1], patches, text[:, 1:], torch.zeros_like(tail)], dim=1)
        in_tail = (at >= end) & (at < end + slots + 1)
        x = torch.where(in_tail[..., None], _place(tail, end, size), x)
        x = torch.where((at < end + slots + 1)[..., None], x, torch.zeros_like(x))
        visible = (at < end + slots + 1)[:, None, None, :].expand(batch, 1, size, size)
        if causal:
            visible = visible & (at[None, :] <= at[:, None])
        mask = torch.zeros(visible.shape, dtype=x.dtype, device=x.device).masked_fill(
            ~visible, torch.finfo(x.dtype).min
        )
        out = self.language_model.model(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state
        # A slot is predicted by the position before it, as in any language model.
        rows = end - 1 + torch.arange(slots + 1, device=ids.device)
        return out.gather(1, rows[..., None].expand(-1, -1, out.shape[2]))

    def teacher_forced_hidden(
        self, ids: torch.Tensor, tokens: torch.Tensor, images: list[torch.Tensor]
    ) -> torch.Tensor:
        """OpenVLA: the hidden states that predict each of the given tokens, and the token after them.

        Args:
            ids: prompts [B, L], all of the same length.
            tokens: token ids of the action, [B, n].
            images: as in `parallel_hidden`.

        Returns:
            [B, n + 1, hidden], before the head.
        """
        x = self.embed(torch.cat([ids, tokens], dim=1), images)
        out = self.language_model.model(inputs_embeds=x, use_cache=False).last_hidden_state
        return out[:, -tokens.shape[1] - 1 :]

    @torch.no_grad()
    def generate(
        self,
        ids: torch.Tensor,
        images: list[torch.Tensor],
        n: int,
        choose: Callable[[int, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """OpenVLA: generates n action tokens one after another.

        Args:
            choose: choose(i, logits float32 [B, 256]) returns the i-th action tokens, int64 [B], 0 to 255.

        Returns:
            Token ids int64 [B, n].
        """
        cache = DynamicCache(config=self.language_model.config)
        x = self.embed(ids, images)
        tokens = []
        # Gradient checkpointing needs training mode, in which transformers does not use a cache.
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
        """Logits of the action tokens only: [..., hidden] to float32 [..., 256]."""
        head = self.language_model.lm_head
        if isinstance(head, nn.Linear):
            return nn.functional.linear(hidden, head.weight[self.first_action : self.vocabulary]).float()
        return head(hidden)[..., self.first_action : self.vocabulary].float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] to float32 [..., vocabulary with padding]."""
        return self.language_model.lm_head(hidden).float()


def _place(tail: torch.Tensor, start: torch.Tensor, size: int) -> torch.Tensor:
    """Places tail [B, n, H] at position start [B, 1] of [B, size, H]. Other positions repeat its first or last row."""
    index = (torch.arange(size, device=tail.device) - start).clamp(0, tail.shape[1] - 1)
    return tail.gather(1, index[..., None].expand(-1, -1, tail.shape[2]))


def file_name(parameter: str) -> str:
    """The name that a parameter has in a published checkpoint."""
    head, _, last = parameter.rpartition(".")
    return f"{head}.scale_factor" if last == "gamma" else parameter
