"""Supervised fine-tuning on demonstrations with the network's own loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import srpo_sdk as srpo

from vla.ranks import RankGroup
from vla_lerobot.network import Network


@dataclass
class Example:
    """A demonstration.

    Args:
        frames: uint8 [T, H, W, 3] for each camera of `Network.cameras`.
        proprio: float32 [T, S]; None: the env has none.
        actions: float32 [T, D], in the env's units.
        weights: float32 [T], a factor on the loss of each step; None: all 1.
        id: of the demonstration, for errors.
    """

    instruction: str
    frames: list[np.ndarray]
    proprio: np.ndarray | None
    actions: np.ndarray
    weights: np.ndarray | None = None
    id: str = ""


def collect(network: Network, demonstrations: Iterable[srpo.Demonstration], max_mb: int, name: str) -> list[Example]:
    """Reads all demonstrations. Failed ones without weights are skipped.

    Args:
        max_mb: memory limit in MiB.
        name: of the plugin, for hints.

    Raises:
        srpo.Error: "invalid" for a demonstration that does not fit, or if none is left; "exhausted" beyond max_mb.
    """
    out: list[Example] = []
    failed = used = 0
    for d in demonstrations:
        srpo.report_progress()
        if not d.success and d.weights is None:
            failed += 1
            continue
        place = f"demonstration {d.id}"
        if d.actions.shape[1] != network.dim or not len(d.actions):
            raise srpo.Error("invalid", f"actions are {list(d.actions.shape)}, want [T, {network.dim}]", place=place)
        missing = [c for c in network.cameras if c not in d.images]
        if missing:
            raise srpo.Error(
                "invalid",
                f"no image from camera {missing[0]!r}, only from {sorted(d.images)}",
                place=place,
                hint=f"set policy.{name}.cameras to cameras of the env",
            )
        if len(network.env.proprio) and d.proprio is None:
            raise srpo.Error("invalid", "no proprio", place=place, hint="record it with the env of the run")
        frames = [np.array(d.images[c]) for c in network.cameras]
        used += sum(f.nbytes for f in frames)
        if used > max_mb << 20:
            raise srpo.Error(
                "exhausted",
                f"the demonstrations take more than demo_mb = {max_mb}",
                place=place,
                hint=f"raise policy.{name}.demo_mb, or give fewer demonstrations",
            )
        proprio = None if d.proprio is None else np.array(d.proprio)
        out.append(Example(d.instruction, frames, proprio, np.array(d.actions), d.weights, d.id))
    if not out:
        raise srpo.Error(
            "invalid",
            f"no successful demonstration, {failed} failed ones",
            hint="record some with the env's expert, or use a trained checkpoint",
        )
    if not any(e.weights is None or e.weights.any() for e in out):
        raise srpo.Error("invalid", "all weights are 0", hint="give the steps to learn from a weight above 0")
    return out


def states_of(network: Network, e: Example) -> np.ndarray:
    """Returns the states of an example, float32 [T, S]: its proprio, or 0 if the env has none."""
    if e.proprio is not None and len(network.env.proprio):
        return e.proprio
    return np.zeros((len(e.actions), network.config.input_features["observation.state"].shape[0]), np.float32)


def statistics_data(network: Network, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the data from which statistics are computed: (actions [N, D] as in a data set, states [M, S]).

    Relative actions are those of all whole chunks, since they depend on the state at the start of the chunk.
    """
    size = network.config.chunk_size if network.relative.any() else 1
    actions, states = [], []
    for e in examples:
        state = states_of(network, e)
        states.append(state)
        for t in range(len(e.actions)):
            actions.append(network.to_data(e.actions[t : t + size], state[t]))
    return np.concatenate(actions), np.concatenate(states)


@dataclass(frozen=True)
class Imitation:
    """Training on examples.

    Args:
        lr: the maximum learning rate.
        batch: samples per optimiser step.
        micro_batch: maximum number of samples in a forward pass.
        warm_up: share of the steps in which the learning rate grows to lr.
        final: the learning rate decays along a cosine to final * lr; 1: it is constant.
        name: of the plugin, for hints.
    """

    network: Network
    ranks: RankGroup
    lr: float
    batch: int
    micro_batch: int
    warm_up: float
    final: float
    name: str

    def learning_rate(self, step: int, steps: int) -> float:
        """The learning rate of a step: linear from lr / (warm-up steps + 1), then lerobot's cosine."""
        warm = int(self.warm_up * steps)
        if step < warm:
            return self.lr * (step + 1) / (warm + 1)
        return self.lr * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * step / steps)))

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
            weight_sum = sum(weight for _, _, weight in drawn)
            parts = [[drawn[i][:2] for i in some] for some in self.network.slices(len(drawn), micro_batch)]
            loss = sum(self.ranks.call_split("imitation_gradient", parts, weight_sum))
            norm = self.ranks.call_all("optimiser_step", self.learning_rate(step, steps))[0]
            if not math.isfinite(loss + norm):
                raise srpo.Error(
                    "diverged",
                    f"loss or gradient is not finite at step {step}",
                    hint=f"lower policy.{self.name}.imitate_lr",
                )
            mean = loss if math.isnan(mean) else 0.95 * mean + 0.05 * loss
            progress((step + 1) / steps, mean)
        self.ranks.call_all("zero_grad")
        return mean

    def _draw(self, examples: list[Example], starts: np.ndarray, rng: np.random.Generator) -> tuple:
        """Draws a step of a demonstration. Returns (sample, target, weight), see `Network.imitation_target`.

        Args:
            starts: cumulative number of steps before each example, and the total.
        """
        at = int(rng.integers(starts[-1]))
        which = int(np.searchsorted(starts, at, "right")) - 1
        e, t, net = examples[which], at - starts[which], self.network
        size = net.config.chunk_size
        proprio = None if e.proprio is None else e.proprio[t]
        sample = net.sample([f[t] for f in e.frames], proprio, e.instruction)
        weights = None if e.weights is None else e.weights[t : t + size]
        return sample, *net.imitation_target(sample, e.actions[t : t + size], weights, rng)
