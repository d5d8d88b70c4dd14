"""The V-JEPA objective on transformers' own V-JEPA 2: an encoder sees part of a clip, a predictor says what a slowly
following copy of the encoder makes of the rest (V-JEPA 2, arXiv 2506.09985; masks and schedules as in V-JEPA, arXiv
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
    """A kind of mask: count blocks of a share of the picture each, over all of the clip's time."""

    count: int
    share: float
    low_aspect: float = 0.75
    high_aspect: float = 1.5


# The published pair: eight small blocks, and two large ones.
MASKS = (Blocks(8, 0.15), Blocks(2, 0.7))


def draw(rng: np.random.Generator, blocks: Blocks, depth: int, side: int) -> np.ndarray:
    """Which of depth x side x side tokens are hidden, as bool [depth, side, side]: the union of the blocks.

    At least one place stays visible and one is hidden; side is 2 or more.
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
        seen_before = hidden.copy()
        hidden[top : top + height, left : left + width] = True
        if hidden.all():
            hidden = seen_before
    return np.broadcast_to(hidden, (depth, side, side))


def masks(rng: np.random.Generator, blocks: Blocks, batch: int, depth: int, side: int):
    """Token ids that are visible, int64 [batch, n], and hidden, int64 [batch, m], each ascending and without overlap.

    n and m are the least of the batch: what one clip has more is left out at random.
    """
    visible, hidden = [], []
    for _ in range(batch):
        mask = draw(rng, blocks, depth, side).reshape(-1)
        visible.append(np.flatnonzero(~mask))
        hidden.append(np.flatnonzero(mask))

    def even(rows):
        n = min(len(r) for r in rows)
        return torch.from_numpy(np.stack([np.sort(rng.permutation(r)[:n]) for r in rows]))

    return even(visible), even(hidden)


def gather(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """tokens [B, N, D] at ids [B, n]: [B, n, D]."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def see(encoder: nn.Module, videos: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """What the encoder makes of the visible tokens [B, n] alone of videos [B, T, 3, H, W]: [B, n, D]."""
    tokens = gather(encoder.embeddings(videos), visible)
    for layer in encoder.layer:
        tokens = layer(tokens, visible)[0]
    return encoder.layernorm(tokens)


class Jepa(nn.Module):
    """Encoder and predictor that learn, and the target encoder that follows."""

    def __init__(self, model):
        super().__init__()
        self.encoder, self.predictor, self.config = model.encoder, model.predictor, model.config
        self.target = copy.deepcopy(model.encoder).requires_grad_(False).eval()
        self.depth = model.config.frames_per_clip // model.config.tubelet_size
        self.side = model.config.crop_size // model.config.patch_size

    def loss(self, videos: torch.Tensor, drawn) -> torch.Tensor:
        """The mean L1 distance to the target's latents, which are layer-normed, over the masks drawn for the batch."""
        with torch.no_grad():
            want = self.target(videos).last_hidden_state
            want = functional.layer_norm(want, want.shape[-1:])
        total = videos.new_zeros(())
        for visible, hidden in drawn:
            tokens = see(self.encoder, videos, visible)
            # The predictor picks its context out of a whole clip's tokens.
            ids = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
            whole = tokens.new_zeros(tokens.shape[0], self.depth * self.side**2, tokens.shape[-1]).scatter(
                1, ids, tokens
            )
            said = self.predictor(whole, [visible], [hidden]).last_hidden_state
            total = total + functional.l1_loss(said, gather(want, hidden))
        return total / len(drawn)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Moves the target towards the encoder: target = momentum target + (1 - momentum) encoder."""
        for t, e in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            t.lerp_(e, 1 - momentum)

    @torch.no_grad()
    def embed(self, videos: torch.Tensor) -> torch.Tensor:
        """The target's mean over tokens, as the exported encoder gives it: [B, D]."""
        return self.target(videos).last_hidden_state.mean(1)


def health(embeddings: torch.Tensor) -> dict[str, float]:
    """Whether embeddings [n, D] of different clips have collapsed.

    spread: the root mean square distance from their mean, over the mean's length; 0: all the same. rank: the
    exponential of the entropy of the normalised singular values of the centred embeddings (effective rank, at most
    min(n - 1, D)); 1: all on one line.
    """
    mean = embeddings.mean(0)
    centred = embeddings - mean
    spread = float(centred.norm(dim=1).square().mean().sqrt() / mean.norm().clamp_min(1e-12))
    s = torch.linalg.svdvals(centred.double())
    p = s / s.sum().clamp_min(1e-300)
    return {"spread": spread, "rank": float(torch.exp(-(p * p.clamp_min(1e-300).log()).sum()))}


def cosine(start: float, end: float, share: float) -> float:
    """From start at share 0 to end at share 1, as half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
