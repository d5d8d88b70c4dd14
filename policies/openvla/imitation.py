"""Supervised fine-tuning on demonstrations: cross-entropy of the action tokens.

Like the published fine-tuning, over the whole vocabulary and with the stop token; or over the 256 action tokens that
the policy draws from.
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
import image_processing
from modeling import STOP
from network import Network, Sample
from vla.ranks import RankGroup

IGNORED = -100


@dataclass
class Example:
    """A demonstration, ready for training.

    Args:
        frames: uint8 [T, 224, 224, 3], resized but not cropped.
        actions: float32 [T, D], in the env's units.
        ids: token ids of the prompt.
        weights: float32 [T], a factor on the loss of each step; None: all 1.
    """

    frames: np.ndarray
    actions: np.ndarray
    ids: tuple[int, ...]
    weights: np.ndarray | None = None


def collect(network: Network, demonstrations: Iterable[srpo.Demonstration], camera: str, max_mb: int) -> list[Example]:
    """Reads all demonstrations. Failed ones without weights are skipped.

    Raises:
        srpo.Error: "invalid" for a demonstration that does not fit, or if none is left; "exhausted" beyond max_mb MiB.
    """
    out: list[Example] = []
    failed = used = 0
    for d in demonstrations:
        srpo.report_progress()
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
                f"no image from camera {camera!r}, only from {sorted(d.images)}",
                place=place,
                hint="set policy.openvla.camera to a camera of the env",
            )
        used += len(d.actions) * image_processing.SIDE * image_processing.SIDE * 3
        if used > max_mb << 20:
            raise srpo.Error(
                "exhausted",
                f"the demonstrations take more than demo_mb = {max_mb}",
                place=place,
                hint="raise policy.openvla.demo_mb, or give fewer demonstrations",
            )
        frames = np.stack([image_processing.resize(x, network.options.jpeg) for x in d.images[camera]])
        out.append(Example(frames, np.array(d.actions), network.prompt(d.instruction), d.weights))
    if not out:
        raise srpo.Error(
            "invalid",
            f"no successful demonstration, {failed} failed ones",
            hint="record some with the env's expert, or use a trained checkpoint",
        )
    if not any(e.weights is None or e.weights.any() for e in out):
        raise srpo.Error("invalid", "all weights are 0", hint="give the steps to learn from a weight above 0")
    return out


@dataclass(frozen=True)
class Imitation:
    """Training on examples.

    Args:
        batch: samples per optimiser step.
        micro_batch: maximum number of samples in a forward pass.
        cosine: decay the learning rate to 0 along a cosine; else it is constant, as published.
        augment: augment images (`image_processing.augment`); else crop them as in acting.
    """

    network: Network
    ranks: RankGroup
    lr: float
    batch: int
    micro_batch: int
    cosine: bool
    augment: bool

    def run(self, examples: list[Example], steps: int, seed: int, progress: Callable[[float, float], None]) -> float:
        """Makes the optimiser steps.

        Args:
            progress: called after each step with (share done, moving average of the loss).

        Returns:
            The moving average of the loss.

        Raises:
            srpo.Error: "diverged" if the loss or gradient is not finite.
        """
        starts = np.cumsum([0] + [len(e.actions) for e in examples])
        mean = math.nan
        micro_batch = min(self.micro_batch, -(-self.batch // self.ranks.size))
        for step in range(steps):
            rng = np.random.Generator(np.random.Philox(key=seed + (step << 64)))
            drawn = [self._draw(examples, starts, rng) for _ in range(self.batch)]
            batches = self.network.batches([s for s, _, _ in drawn], micro_batch)
            parts = [[drawn[i] for i in some] for some in batches]
            loss = sum(self.ranks.call_split("imitation_gradient", parts, self.batch))
            lr = self.lr * (0.5 * (1 + math.cos(math.pi * step / steps)) if self.cosine else 1.0)
            norm = self.ranks.call_all("optimiser_step", lr)[0]
            if not math.isfinite(loss + norm):
                raise srpo.Error(
                    "diverged", f"loss or gradient is not finite at step {step}", hint="lower policy.openvla.imitate_lr"
                )
            mean = loss if math.isnan(mean) else 0.95 * mean + 0.05 * loss
            progress((step + 1) / steps, mean)
        self.ranks.call_all("zero_grad")
        return mean

    def _draw(
        self, examples: list[Example], starts: np.ndarray, rng: np.random.Generator
    ) -> tuple[Sample, np.ndarray, np.ndarray]:
        """Draws a step of a demonstration.

        Args:
            starts: cumulative number of steps before each example, and the total.

        Returns:
            (sample, labels int64 [slots + 1], factors float32 [slots + 1]): labels are token ids, the last one is the
            stop token, and actions after the end of the demonstration are `IGNORED`. Factors multiply the loss of each
            label; the stop token's is the mean of the chunk's steps.
        """
        at = int(rng.integers(starts[-1]))
        which = int(np.searchsorted(starts, at, "right")) - 1
        e, t, net = examples[which], at - starts[which], self.network
        if self.augment:
            frame = image_processing.augment(e.frames[t], rng)
        else:
            frame = image_processing.center_crop(e.frames[t], net.options.crop)
        chosen = actions.to_tokens(net.normaliser.from_env(e.actions[t : t + net.chunk])).reshape(-1)
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
    network: Network, part: list[tuple[Sample, np.ndarray, np.ndarray]], batch_size: float, vocabulary: bool
) -> torch.Tensor:
    """The part of a batch's loss that some of its samples contribute.

    Args:
        part: (sample, labels, factors) as `Imitation` draws them; they share a forward pass.
        batch_size: samples in the whole batch.
        vocabulary: over the whole vocabulary and with the stop token; else over the action tokens only.
    """
    hidden = network.hidden([s for s, _, _ in part])
    labels = torch.from_numpy(np.stack([x for _, x, _ in part])).to(hidden.device)
    if not vocabulary:
        labels[:, -1] = IGNORED
    factors = torch.from_numpy(np.stack([f for _, _, f in part])).to(hidden.device)
    keep = labels != IGNORED
    # Mean over a sample's tokens, then over samples: a chunk at the end of a demonstration weighs as much as others.
    weight = (factors * keep / keep.sum(1, keepdim=True))[keep] / batch_size
    model = network.model
    if vocabulary:
        logits, targets = model.logits(hidden[keep]), labels[keep]
    else:
        logits, targets = model.action_logits(hidden[keep]), labels[keep] - model.first_action
    return (nn.functional.cross_entropy(logits, targets, reduction="none") * weight).sum()
