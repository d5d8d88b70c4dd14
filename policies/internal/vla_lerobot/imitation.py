"""Supervised fine-tuning on demonstrations with the network's own loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import srpo_sdk as srpo

from vla.ranks import Crew
from vla_lerobot.network import Network


@dataclass
class Example:
    """One demonstration.

    Args:
        frames: uint8 [T, H, W, 3] a camera of `Network.cameras`.
        proprio: float32 [T, S]; None: the env has none.
        actions: float32 [T, D], the env's.
        weights: float32 [T], a factor on the loss of each step; None: all 1.
    """

    instruction: str
    frames: list[np.ndarray]
    proprio: np.ndarray | None
    actions: np.ndarray
    weights: np.ndarray | None = None


def collect(network: Network, demonstrations: Iterable[srpo.Demonstration], most_mb: int, name: str) -> list[Example]:
    """Reads all demonstrations; failed ones without weights are left out.

    Raises:
        srpo.Error: "invalid" for one that does not fit, or when none is left; "exhausted" beyond most_mb.
    """
    out: list[Example] = []
    failed = used = 0
    for d in demonstrations:
        srpo.heartbeat()
        weights = getattr(d, "weights", None)
        if not d.success and weights is None:
            failed += 1
            continue
        place = f"demonstration {d.id}"
        if d.actions.shape[1] != network.dim or not len(d.actions):
            raise srpo.Error("invalid", f"actions are {list(d.actions.shape)}, want [T, {network.dim}]", place=place)
        missing = [c for c in network.cameras if c not in d.images]
        if missing:
            raise srpo.Error(
                "invalid",
                f"no picture from camera {missing[0]!r}, only from {sorted(d.images)}",
                place=place,
                hint=f"set policy.{name}.cameras to cameras of the env",
            )
        if len(network.env.proprio) and d.proprio is None:
            raise srpo.Error("invalid", "no proprio", place=place, hint="record it with the env that is trained in")
        frames = [np.array(d.images[c]) for c in network.cameras]
        used += sum(f.nbytes for f in frames)
        if used > most_mb << 20:
            raise srpo.Error(
                "exhausted",
                f"the demonstrations take more than demo_mb = {most_mb}",
                place=place,
                hint=f"raise policy.{name}.demo_mb, or give fewer demonstrations",
            )
        proprio = None if d.proprio is None else np.array(d.proprio)
        out.append(Example(d.instruction, frames, proprio, np.array(d.actions), weights))
    if not out:
        raise srpo.Error(
            "invalid",
            f"no successful demonstration, {failed} failed ones",
            hint="record some with the env's expert, or use a trained checkpoint",
        )
    if not any(e.weights is None or e.weights.any() for e in out):
        raise srpo.Error("invalid", "all weights are 0", hint="give steps that are worth learning a weight above 0")
    return out


def windows(network: Network, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """(actions [N, D] as a data set holds them, states [M, S]) that statistics are made of. Actions that are counted
    from the state are those of each whole chunk.
    """
    size = network.config.chunk_size if network.relative.any() else 1
    actions, states = [], []
    for e in examples:
        state = np.zeros((len(e.actions), network.config.input_features["observation.state"].shape[0]), np.float32)
        if e.proprio is not None and len(network.env.proprio):
            state = e.proprio
        states.append(state)
        for t in range(len(e.actions)):
            actions.append(network.data(e.actions[t : t + size], state[t]))
    return np.concatenate(actions), np.concatenate(states)


@dataclass(frozen=True)
class Imitation:
    """The training itself.

    Args:
        batch: samples in a gradient step.
        micro_batch: those in a forward pass at most; nothing acts here that a batch's shape could change.
        warm_up: share of the steps in which the learning rate grows to lr.
        final: the share of lr to which it falls along a cosine; 1: constant.
    """

    network: Network
    crew: Crew
    lr: float
    batch: int
    micro_batch: int
    warm_up: float
    final: float
    name: str

    def rate(self, step: int, steps: int) -> float:
        """Learning rate: linear from lr / (warm-up + 1), then lerobot's cosine."""
        warm = int(self.warm_up * steps)
        if step < warm:
            return self.lr * (step + 1) / (warm + 1)
        return self.lr * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * step / steps)))

    def run(self, examples: list[Example], steps: int, seed: int, progress: Callable[[float, float], None]) -> float:
        """Makes the steps and returns the loss, averaged over the last of them; one that is not finite is an error."""
        starts = np.cumsum([0] + [len(e.actions) for e in examples])
        mean = math.nan
        most = min(self.micro_batch, -(-self.batch // self.crew.size))
        for step in range(steps):
            rng = np.random.Generator(np.random.Philox(key=seed + (step << 64)))
            drawn = [self._draw(examples, starts, rng) for _ in range(self.batch)]
            whole = sum(share for _, _, share in drawn)
            batches = [[drawn[i][:2] for i in some] for some in self.network.slices(len(drawn), most)]
            loss = sum(self.crew.share("teach", batches, whole))
            norm = self.crew.all("step", self.rate(step, steps))[0]
            if not math.isfinite(loss + norm):
                raise srpo.Error(
                    "diverged",
                    f"loss or gradient is not finite at step {step}",
                    hint=f"lower policy.{self.name}.imitate_lr",
                )
            mean = loss if math.isnan(mean) else 0.95 * mean + 0.05 * loss
            progress((step + 1) / steps, mean)
        self.crew.all("zero")
        return mean

    def _draw(self, examples: list[Example], starts: np.ndarray, rng: np.random.Generator) -> tuple:
        """(sample, target, share) of a step of a demonstration."""
        at = int(rng.integers(starts[-1]))
        which = int(np.searchsorted(starts, at, "right")) - 1
        e, t, net = examples[which], at - starts[which], self.network
        size = net.config.chunk_size
        proprio = None if e.proprio is None else e.proprio[t]
        sample = net.sample([f[t] for f in e.frames], proprio, e.instruction)
        weights = None if e.weights is None else e.weights[t : t + size]
        return sample, *net.target(sample, e.actions[t : t + size], weights, rng)
