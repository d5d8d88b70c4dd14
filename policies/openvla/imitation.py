"""Supervised fine-tuning on demonstrations: cross-entropy of the action's tokens, over the whole vocabulary, and of the
stop token, as the published fine-tuning does it; or over the 256 action tokens, among which the policy draws, alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import srpo_sdk as srpo
import torch
from torch import nn

import actions
import pictures
from modeling import STOP
from network import Network, Sample
from vla.ranks import Crew

IGNORED = -100


@dataclass
class Example:
    """One demonstration, ready for training.

    Args:
        frames: uint8 [T, 224, 224, 3], before the crop.
        actions: float32 [T, D], the env's.
        ids: the prompt.
        weights: float32 [T], a factor on the loss of each step's tokens; None: all 1.
    """

    frames: np.ndarray
    actions: np.ndarray
    ids: tuple[int, ...]
    weights: np.ndarray | None = None


def collect(network: Network, demonstrations: Iterable[srpo.Demonstration], camera: str, most_mb: int) -> list[Example]:
    """Reads all demonstrations; failed ones without weights are left out.

    Raises:
        srpo.Error: "invalid" for one that does not fit, or when none is left; "exhausted" beyond most_mb.
    """
    out: list[Example] = []
    failed = used = 0
    for d in demonstrations:
        srpo.heartbeat()
        if not d.success and d.weights is None:
            failed += 1
            continue
        place = f"demonstration {d.id}"
        if d.actions.shape[1] != network.normaliser.dim or not len(d.actions):
            raise srpo.Error(
                "invalid", f"actions are {list(d.actions.shape)}, want [T, {network.normaliser.dim}]", place=place
            )
        if camera not in d.images:
            raise srpo.Error(
                "invalid",
                f"no picture from camera {camera!r}, only from {sorted(d.images)}",
                place=place,
                hint="set policy.openvla.camera to a camera of the env",
            )
        used += len(d.actions) * pictures.SIDE * pictures.SIDE * 3
        if used > most_mb << 20:
            raise srpo.Error(
                "exhausted",
                f"the demonstrations take more than demo_mb = {most_mb}",
                place=place,
                hint="raise policy.openvla.demo_mb, or give fewer demonstrations",
            )
        frames = np.stack([pictures.uncropped(x, network.choice.jpeg) for x in d.images[camera]])
        out.append(Example(frames, np.array(d.actions), network.prompt(d.instruction), d.weights))
    if not out:
        raise srpo.Error(
            "invalid",
            f"no successful demonstration, {failed} failed ones",
            hint="record some with the env's expert, or use a trained checkpoint",
        )
    if not any(e.weights is None or e.weights.any() for e in out):
        raise srpo.Error("invalid", "all weights are 0", hint="give steps that are worth learning a weight above 0")
    return out


@dataclass(frozen=True)
class Imitation:
    """The training itself.

    Args:
        batch: samples in a gradient step.
        micro_batch: those in a forward pass at most; nothing acts here that a batch's shape could change.
        cosine: the learning rate falls to 0 along a cosine; else it is constant, as published.
        augment: `pictures.augmented`; else the middle crop, as in acting.
    """

    network: Network
    crew: Crew
    lr: float
    batch: int
    micro_batch: int
    cosine: bool
    augment: bool

    def run(self, examples: list[Example], steps: int, seed: int, progress: Callable[[float, float], None]) -> float:
        """Makes the steps and returns the loss, averaged over the last of them; one that is not finite is an error."""
        starts = np.cumsum([0] + [len(e.actions) for e in examples])
        mean = math.nan
        most = min(self.micro_batch, -(-self.batch // self.crew.size))
        for step in range(steps):
            rng = np.random.Generator(np.random.Philox(key=seed + (step << 64)))
            drawn = [self._draw(examples, starts, rng) for _ in range(self.batch)]
            batches = self.network.batches([s for s, _, _ in drawn], most)
            loss = sum(self.crew.share("teach", [[drawn[i] for i in some] for some in batches], self.batch))
            lr = self.lr * (0.5 * (1 + math.cos(math.pi * step / steps)) if self.cosine else 1.0)
            norm = self.crew.all("step", lr)[0]
            if not math.isfinite(loss + norm):
                raise srpo.Error(
                    "diverged", f"loss or gradient is not finite at step {step}", hint="lower policy.openvla.imitate_lr"
                )
            mean = loss if math.isnan(mean) else 0.95 * mean + 0.05 * loss
            progress((step + 1) / steps, mean)
        self.crew.all("zero")
        return mean

    def _draw(
        self, examples: list[Example], starts: np.ndarray, rng: np.random.Generator
    ) -> tuple[Sample, np.ndarray, np.ndarray]:
        """A frame of a demonstration with the labels of its chunk, int64 [slots + 1], those behind its end ignored, and
        a factor on the loss of each, float32 [slots + 1]; the stop token's is the mean of the chunk's steps.
        """
        at = int(rng.integers(starts[-1]))
        which = int(np.searchsorted(starts, at, "right")) - 1
        e, t, net = examples[which], at - starts[which], self.network
        frame = pictures.augmented(e.frames[t], rng) if self.augment else pictures.crop(e.frames[t], net.choice.crop)
        chosen = actions.choices(net.normaliser.from_env(e.actions[t : t + net.chunk])).reshape(-1)
        tokens = np.full(net.slots, actions.BINS // 2)
        tokens[: len(chosen)] = chosen
        labels = np.full(net.slots + 1, IGNORED)
        labels[: len(chosen)] = net.model.first_action + chosen
        labels[-1] = STOP
        factors = np.ones(net.slots + 1, np.float32)
        if e.weights is not None:
            steps = e.weights[t : t + net.chunk]
            factors[: len(chosen)] = np.repeat(steps, net.normaliser.dim)
            factors[-1] = steps.mean()
        return Sample(frame, e.ids, tokens), labels, factors


def loss(
    network: Network, part: list[tuple[Sample, np.ndarray, np.ndarray]], whole: float, vocabulary: bool
) -> torch.Tensor:
    """The loss of some of a batch's samples with labels and factors, which share a forward pass.

    Args:
        whole: samples in the batch.
        vocabulary: over the whole vocabulary, and of the stop token; else over the action tokens alone.
    """
    hidden = network.hidden([s for s, _, _ in part])
    labels = torch.from_numpy(np.stack([x for _, x, _ in part])).to(hidden.device)
    if not vocabulary:
        labels[:, -1] = IGNORED
    factors = torch.from_numpy(np.stack([f for _, _, f in part])).to(hidden.device)
    keep = labels != IGNORED
    # The mean over a sample's tokens, then over samples: a chunk at a demonstration's end weighs as much as others.
    weight = (factors * keep / keep.sum(1, keepdim=True))[keep] / whole
    model = network.model
    if vocabulary:
        logits, targets = model.logits(hidden[keep]), labels[keep]
    else:
        logits, targets = model.action_logits(hidden[keep]), labels[keep] - model.first_action
    return (nn.functional.cross_entropy(logits, targets, reduction="none") * weight).sum()
