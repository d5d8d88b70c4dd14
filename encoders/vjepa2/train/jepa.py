"""The V-JEPA objective, on the V-JEPA 2 of transformers.

An encoder sees a part of a clip. A predictor predicts, from its output, the embeddings of the other part by a target
encoder, which is a moving average of the encoder (V-JEPA 2, arXiv 2506.09985; masks and schedules as in V-JEPA, arXiv
2404.08471).
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Blocks:
    """A kind of mask: count blocks, each of a share of the picture's area, over all frames of the clip."""

    count: int
    share: float
    low_aspect: float = 0.75
    high_aspect: float = 1.5


# The published masks: eight small blocks, and two large ones.
MASKS = (Blocks(8, 0.15), Blocks(2, 0.7))


def draw(rng: np.random.Generator, blocks: Blocks, depth: int, side: int) -> np.ndarray:
    """Draws a mask, bool [depth, side, side], that is true for hidden tokens: the union of the blocks.

    At least one position is visible and at least one is hidden. side must be at least 2.
    """
    hidden = np.zeros((side, side), bool)
    for _ in range(blocks.count):
        aspect = math.exp(rng.uniform(math.log(blocks.low_aspect), math.log(blocks.high_aspect)))
        area = blocks.share * side * side
        height = min(side, max(1, round(math.sqrt(area * aspect))))
        width = min(side, max(1, round(math.sqrt(area / aspect))))
        if height * width == side * side:
            width -= 1
        top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
        previous = hidden.copy()
        hidden[top : top + height, left : left + width] = True
        if hidden.all():
            hidden = previous
    return np.broadcast_to(hidden, (depth, side, side))


def masks(rng: np.random.Generator, blocks: Blocks, batch: int, depth: int, side: int):
    """Draws masks for a batch. Returns the ids of visible tokens, int64 [batch, n], and hidden ones, int64 [batch, m].

    Ids ascend. n and m are the minimum over the batch. Additional tokens of a clip are dropped at random.
    """
    visible, hidden = [], []
    for _ in range(batch):
        mask = draw(rng, blocks, depth, side).reshape(-1)
        visible.append(np.flatnonzero(~mask))
        hidden.append(np.flatnonzero(mask))

    def truncate(rows):
        n = min(len(r) for r in rows)
        return torch.from_numpy(np.stack([np.sort(rng.permutation(r)[:n]) for r in rows]))

    return truncate(visible), truncate(hidden)


def gather(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Selects tokens [B, N, D] by ids [B, n]. Returns [B, n, D]."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def encode_visible(encoder: nn.Module, videos: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Encodes only the visible tokens [B, n] of videos [B, T, 3, H, W]. Returns [B, n, D]."""
    tokens = gather(encoder.embeddings(videos), visible)
    for layer in encoder.layer:
        tokens = layer(tokens, visible)[0]
    return encoder.layernorm(tokens)


class Jepa(nn.Module):
    """The trained encoder and predictor, and the target encoder that follows the encoder."""

    def __init__(self, model):
        super().__init__()
        self.encoder, self.predictor, self.config = model.encoder, model.predictor, model.config
        self.target = copy.deepcopy(model.encoder).requires_grad_(False).eval()
        self.depth = model.config.frames_per_clip // model.config.tubelet_size
        self.side = model.config.crop_size // model.config.patch_size

    def loss(self, videos: torch.Tensor, masks) -> torch.Tensor:
        """The mean L1 distance to the layer-normed latents of the target, over pairs of visible and hidden tokens."""
        with torch.no_grad():
            want = self.target(videos).last_hidden_state
            want = functional.layer_norm(want, want.shape[-1:])
        total = videos.new_zeros(())
        for visible, hidden in masks:
            tokens = encode_visible(self.encoder, videos, visible)
            # The predictor expects the tokens of the whole clip and selects the visible ones.
            ids = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
            whole = tokens.new_zeros(tokens.shape[0], self.depth * self.side**2, tokens.shape[-1]).scatter(
                1, ids, tokens
            )
            predicted = self.predictor(whole, [visible], [hidden]).last_hidden_state
            total = total + functional.l1_loss(predicted, gather(want, hidden))
        return total / len(masks)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Updates the target: target = momentum * target + (1 - momentum) * encoder."""
        for t, e in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            t.lerp_(e, 1 - momentum)

    @torch.no_grad()
    def embed(self, videos: torch.Tensor) -> torch.Tensor:
        """Embeds videos as the exported encoder does: the mean over the tokens of the target, [B, D]."""
        return self.target(videos).last_hidden_state.mean(1)


def health(embeddings: torch.Tensor) -> dict[str, float]:
    """Measures whether embeddings [n, D] of different clips have collapsed.

    spread is the root mean square distance from their mean, divided by the norm of the mean. It is 0 if all are the
    same. rank is the effective rank: the exponential of the entropy of the normalised singular values of the centred
    embeddings. It is at most min(n - 1, D), and 1 if all are on one line.
    """
    mean = embeddings.mean(0)
    centred = embeddings - mean
    spread = float(centred.norm(dim=1).square().mean().sqrt() / mean.norm().clamp_min(1e-12))
    s = torch.linalg.svdvals(centred.double())
    p = s / s.sum().clamp_min(1e-300)
    return {"spread": spread, "rank": float(torch.exp(-(p * p.clamp_min(1e-300).log()).sum()))}


def cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from start at share 0 to end at share 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
