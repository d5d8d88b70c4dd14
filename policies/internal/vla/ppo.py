"""PPO on recorded chunks, whatever a chunk's log-probability is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import srpo_sdk as srpo
import torch

from vla.optimiser import swapped
from vla.ranks import Crew


class Sample(Protocol):
    """What was seen and chosen; a network's own affair but for its size."""

    @property
    def bytes(self) -> int: ...


class Judgement(Protocol):
    """What a policy says of chosen chunks, term by term, float32 [B, T]. A term is the finest part of a chunk that has
    a log-probability: a token, or a number of an action.
    """

    log_probs: torch.Tensor

    def entropy(self) -> torch.Tensor: ...

    def kl(self, start: Any) -> torch.Tensor:
        """KL(self || start)."""


class Network(Protocol):
    """What an update needs of a network.

    Args:
        chunk: actions in a chunk.
    """

    chunk: int

    def batches(self, samples: Sequence[Any]) -> Iterator[list[int]]:
        """Indices of samples that share a forward pass and have as many terms."""

    def judge(self, samples: Sequence[Any], temperature: float) -> Judgement:
        """Judges the samples of one batch, as acting did."""

    def learnable(self, sample: Any) -> bool:
        """Whether the sample was chosen at random."""

    def lesson(self, sample: Any, valid: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mask, advantage), float32 [T] each, when the first valid actions were executed; values: [1] or [valid]."""

    def per_unit(self, terms: int) -> int:
        """Terms, of so many, that one ratio is made of."""


@dataclass
class Categorical:
    """Distributions over tokens, log-probabilities [B, T, V], at those that were chosen, int64 [B, T]."""

    scores: torch.Tensor
    chosen: torch.Tensor

    @property
    def log_probs(self) -> torch.Tensor:
        return self.scores.gather(-1, self.chosen[..., None])[..., 0]

    def entropy(self) -> torch.Tensor:
        return -(self.scores.exp() * self.scores).sum(-1)

    def kl(self, start: Any) -> torch.Tensor:
        """Exact, over all tokens that can be drawn."""
        return (self.scores.exp() * (self.scores - start.scores)).sum(-1)


@dataclass
class Record:
    """A chunk that was acted: what an update needs of it.

    Args:
        step: env steps executed before it.
        sample: what was seen and chosen.
        log_probs: float32 [T], of its terms at the temperature of the call.
    """

    step: int
    sample: Sample
    log_probs: np.ndarray

    @property
    def bytes(self) -> int:
        return self.sample.bytes + self.log_probs.nbytes + 400


@dataclass(frozen=True)
class Lesson:
    """A record with what an update says of it.

    Args:
        mask, advantage: float32 [T], see `Network.lesson`.
        units: ratios that it has.
        weight: of each ratio in the loss.
    """

    record: Record
    mask: np.ndarray
    advantage: np.ndarray
    units: int
    weight: float


def lessons(
    update: srpo.Update, records: dict[str, list[Record]], network: Network, by_trajectory: bool
) -> list[Lesson]:
    """The recorded chunks of which at least one action was executed, in the order of trajectories and steps.

    by_trajectory: every trajectory weighs the same, else every ratio does.

    Raises:
        srpo.Error: "not found" for a trajectory that was not recorded, "invalid" when nothing was executed or a chunk
            was chosen greedily.
    """
    out: list[Lesson] = []
    for t in update.trajectories:
        place = f"episode {t.trajectory}"
        if not records.get(t.trajectory):
            raise srpo.Error(
                "not found",
                "nothing was recorded",
                place=place,
                hint="act with record set, and do not forget before the update",
            )
        part = []
        for r in records[t.trajectory]:
            valid = min(network.chunk, t.steps - r.step)
            if valid <= 0:
                continue
            if not network.learnable(r.sample):
                raise srpo.Error(
                    "invalid", "was acted greedily, which has no log-probability to learn from", place=place,
                    hint="sample with a temperature",
                )  # fmt: skip
            values = t.values if len(t.values) == 1 else t.values[r.step : r.step + valid]
            mask, advantage = network.lesson(r.sample, valid, values)
            units = int(mask.reshape(-1, network.per_unit(len(mask))).any(1).sum())
            part.append((r, mask, advantage, units))
        total = sum(units for *_, units in part)
        out += [Lesson(*x, 1 / total if by_trajectory else 1.0) for x in part]
    if not out:
        raise srpo.Error(
            "invalid",
            f"no executed step in {len(update.trajectories)} trajectories",
            hint="an update needs at least one",
        )
    return out


@dataclass
class Sums:
    """Totals over ratios and chunks."""

    units: float = 0.0
    ratio: float = 0.0
    most: float = 0.0
    clipped: float = 0.0
    chunks: float = 0.0
    kl: float = 0.0
    kl_old: float = 0.0
    entropy: float = 0.0
    loss: float = 0.0

    def add(self, other: Sums) -> None:
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            setattr(self, f.name, max(mine, theirs) if f.name == "most" else mine + theirs)


@dataclass(frozen=True)
class Ppo:
    """One update: PPO (Schulman et al., 2017). See `gradient` for what is minimised.

    Args:
        crew: the processes that share each mini-batch; their policies' method `ppo` calls `gradient`.
        name: of the plugin, for hints.
    """

    network: Network
    crew: Crew
    lr: float
    mini_batch: int
    name: str

    def run(self, update: srpo.Update, todo: list[Lesson], progress: Callable[[float], None]) -> srpo.Statistics:
        h = update.hyperparameters
        size = min(h.mini_batch or self.mini_batch, len(todo))
        whole = sum(x.weight * x.units for x in todo)
        steps, done, losses, norms = 0, 0, [], []
        every, last = Sums(), Sums()
        statistics = srpo.Statistics(samples=len(todo))
        for epoch in range(h.epochs):
            order = np.random.Generator(np.random.Philox(key=update.seed + (epoch << 64))).permutation(len(todo))
            last = Sums()
            for at in range(0, len(order), size):
                part = [todo[i] for i in order[at : at + size]]
                batches = [[part[i] for i in b] for b in self.network.batches([x.record.sample for x in part])]
                ends = [done, *(done + np.cumsum([len(b) for b in batches]))]

                def tick(n: int, ends: list[int] = ends) -> None:
                    progress(float(ends[n] / (h.epochs * len(todo))))

                share = whole * len(part) / len(todo)
                sums = Sums()
                for some in self.crew.share("ppo", batches, h, update.temperature, share, tick=tick):
                    sums.add(some)
                done += len(part)
                if steps == 0:
                    statistics.first_ratio = sums.ratio / sums.units
                    if h.kl_beta:
                        statistics.extra["first_kl"] = sums.kl / sums.chunks
                norm = self.crew.all("step", self.lr)[0]
                if not math.isfinite(norm + sums.loss):
                    raise srpo.Error(
                        "diverged",
                        f"loss or gradient is not finite at step {steps}",
                        hint=f"lower policy.{self.name}.lr, or set update.clip_dual",
                    )
                steps += 1
                losses.append(sums.loss)
                norms.append(norm)
                every.add(sums)
                last.add(sums)
        self.crew.all("zero")
        if steps:
            statistics.loss, statistics.grad_norm = float(np.mean(losses)), float(np.mean(norms))
            statistics.clip_fraction = every.clipped / every.units
            statistics.entropy, kl_old = every.entropy / every.units, last.kl_old / last.chunks
            statistics.kl = last.kl / last.chunks if h.kl_beta else kl_old
            statistics.extra |= {"ratio": every.ratio / every.units, "ratio_max": every.most, "kl_old": kl_old}
        statistics.extra |= {"steps": float(steps), "lr": self.lr}
        return statistics


@dataclass(frozen=True)
class Objective:
    """What an update minimises, over ratios with the weights of `lessons`:

        max(-r A, -clip(r, 1 - clip_low, 1 + clip_high) A), at most -clip_dual A where A < 0
        + kl_beta KL(pi || pi_start)

    r = exp(log pi - log pi_old), summed over the unit's terms that were executed; A is their mean advantage. KL is
    exact, of the unit's distributions, at the update's temperature; pi_start is the policy before the first update that
    asks for it. Where nothing asks for it, what is reported is the estimate r - 1 - log r of KL(pi_old || pi), pi_old
    being the policy that acted (Schulman's k3: not biased, never negative); it is `kl_old` in the statistics in any
    case. Both are sums over a chunk's ratios, means over the chunks of the last epoch.

    Args:
        parameters: those that learn, by name.
        start: the starting policy's values of them; None: kl_beta is 0.
        share: the sum of weights that the gradient is divided by.
    """

    network: Network
    parameters: dict[str, torch.nn.Parameter]
    start: dict[str, torch.Tensor] | None
    hyperparameters: srpo.Hyperparameters
    temperature: float
    share: float

    def gradient(self, part: Sequence[Lesson], sums: Sums) -> None:
        """Adds the gradient of some chunks, which share a forward pass, and what they count."""
        h, t = self.hyperparameters, self.temperature
        samples = [x.record.sample for x in part]
        start = None if self.start is None else self._starting(samples)
        now = self.network.judge(samples, t)
        scores = now.log_probs
        old, mask, advantage = (
            torch.from_numpy(np.stack(rows)).to(scores.device)
            for rows in zip(*[(x.record.log_probs, x.mask, x.advantage) for x in part])
        )
        weight = torch.tensor([[x.weight] for x in part], device=scores.device)
        per = self.network.per_unit(mask.shape[1])

        def units(x: torch.Tensor) -> torch.Tensor:
            return (x * mask).reshape(len(part), -1, per).sum(-1)

        count = units(torch.ones_like(mask))
        executed = (count > 0).float()
        gain = units(advantage) / count.clamp(min=1)
        log_ratio = units(scores - old).clamp(-20, 20)
        ratio = torch.exp(log_ratio)
        plain, bounded = -ratio * gain, -ratio.clamp(1 - h.clip_low, 1 + h.clip_high) * gain
        loss = torch.maximum(plain, bounded)
        cut = bounded > plain
        if h.clip_dual:
            worst = -h.clip_dual * gain
            cut = cut | ((gain < 0) & (loss > worst))
            loss = torch.where(gain < 0, torch.minimum(loss, worst), loss)
        if start is not None:
            kl = units(now.kl(start))
            loss = loss + h.kl_beta * kl
            sums.kl += float(kl.detach().sum())
        loss = (loss * executed * weight).sum() / self.share
        loss.backward()
        sums.loss += float(loss.detach())
        sums.units += float(executed.sum())
        sums.ratio += float((ratio.detach() * executed).sum())
        sums.most = max(sums.most, float((ratio.detach() * executed).max()))
        sums.clipped += float((cut * executed).sum())
        sums.kl_old += float(((ratio - 1 - log_ratio).detach() * executed).sum())
        sums.entropy += float(units(now.entropy().detach()).sum())
        sums.chunks += len(part)

    @torch.no_grad()
    def _starting(self, samples: list[Sample]) -> Judgement:
        with swapped(self.parameters, self.start):
            return self.network.judge(samples, self.temperature)
