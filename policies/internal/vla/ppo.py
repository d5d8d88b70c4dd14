"""PPO (Schulman et al., 2017) on recorded chunks of actions, for any kind of action distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import srpo_sdk as srpo
import torch

from vla.optimiser import swapped
from vla.ranks import RankGroup


class Sample(Protocol):
    """An observation with the chunk that was chosen for it. Only the network knows its fields."""

    @property
    def nbytes(self) -> int: ...


class ActionDistribution(Protocol):
    """The distribution of a policy at chosen chunks, by term, float32 [B, T].

    A term is the smallest part of a chunk that has a log-probability: a token, or one number of an action.
    """

    log_probs: torch.Tensor

    def entropy(self) -> torch.Tensor: ...

    def kl(self, reference: Any) -> torch.Tensor:
        """KL(self || reference)."""


class Network(Protocol):
    """What an update needs of a network.

    Args:
        chunk: number of actions in a chunk.
    """

    chunk: int

    def batches(self, samples: Sequence[Any]) -> Iterator[list[int]]:
        """Yields the indices of samples that share a forward pass. All samples of a batch have the same T."""

    def evaluate_actions(self, samples: Sequence[Any], temperature: float) -> ActionDistribution:
        """Returns the distribution at the chosen chunks of one batch, computed in the same way as when acting."""

    def was_drawn(self, sample: Any) -> bool:
        """Whether the chunk was drawn at random, so that it has a log-probability."""

    def mask_and_advantage(self, sample: Any, executed: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (mask, advantage), float32 [T] each, when the first `executed` actions of the chunk were executed.

        Args:
            values: advantages, [1] for the trajectory or [executed] for the actions.
        """

    def terms_per_ratio(self, terms: int) -> int:
        """How many consecutive terms, of T terms, share one ratio."""


@dataclass
class Categorical:
    """Distributions over tokens.

    Args:
        all_log_probs: float32 [B, T, V].
        chosen: the chosen tokens, int64 [B, T].
    """

    all_log_probs: torch.Tensor
    chosen: torch.Tensor

    @property
    def log_probs(self) -> torch.Tensor:
        return self.all_log_probs.gather(-1, self.chosen[..., None])[..., 0]

    def entropy(self) -> torch.Tensor:
        return -(self.all_log_probs.exp() * self.all_log_probs).sum(-1)

    def kl(self, reference: Categorical) -> torch.Tensor:
        """KL(self || reference), exact: over all tokens that can be drawn."""
        return (self.all_log_probs.exp() * (self.all_log_probs - reference.all_log_probs)).sum(-1)


@dataclass
class RecordedChunk:
    """A chunk that was acted, as an update needs it.

    Args:
        step: env steps executed before it.
        sample: the observation and the chosen chunk.
        log_probs: float32 [T], of its terms at the temperature of the call.
    """

    step: int
    sample: Sample
    log_probs: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.sample.nbytes + self.log_probs.nbytes + 400


@dataclass(frozen=True)
class TrainingChunk:
    """A recorded chunk with its part in an update.

    Args:
        mask, advantage: float32 [T], see `Network.mask_and_advantage`.
        ratios: number of ratios that it has.
        weight: of each ratio in the loss.
    """

    record: RecordedChunk
    mask: np.ndarray
    advantage: np.ndarray
    ratios: int
    weight: float


def training_chunks(
    update: srpo.Update, records: dict[str, list[RecordedChunk]], network: Network, by_trajectory: bool
) -> list[TrainingChunk]:
    """Returns the recorded chunks of which at least one action was executed, ordered by trajectory and step.

    Args:
        records: by trajectory.
        by_trajectory: all trajectories have the same weight in the loss; else all ratios have.

    Raises:
        srpo.Error: "not found" for a trajectory that was not recorded, "invalid" if nothing was executed or a chunk
            was chosen greedily.
    """
    out: list[TrainingChunk] = []
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
            executed = min(network.chunk, t.steps - r.step)
            if executed <= 0:
                continue
            if not network.was_drawn(r.sample):
                raise srpo.Error(
                    "invalid", "was acted greedily, which has no log-probability to learn from", place=place,
                    hint="sample with a temperature",
                )  # fmt: skip
            values = t.values if len(t.values) == 1 else t.values[r.step : r.step + executed]
            mask, advantage = network.mask_and_advantage(r.sample, executed, values)
            ratios = int(mask.reshape(-1, network.terms_per_ratio(len(mask))).any(1).sum())
            part.append((r, mask, advantage, ratios))
        total = sum(ratios for *_, ratios in part)
        out += [TrainingChunk(*x, 1 / total if by_trajectory else 1.0) for x in part]
    if not out:
        raise srpo.Error(
            "invalid",
            f"no executed step in {len(update.trajectories)} trajectories",
            hint="an update needs at least one",
        )
    return out


@dataclass
class Totals:
    """Sums over ratios and chunks; ratio_max is a maximum."""

    ratios: float = 0.0
    ratio_sum: float = 0.0
    ratio_max: float = 0.0
    clipped: float = 0.0
    chunks: float = 0.0
    kl: float = 0.0
    kl_old: float = 0.0
    entropy: float = 0.0
    loss: float = 0.0

    def add(self, other: Totals) -> None:
        for f in fields(self):
            a, b = getattr(self, f.name), getattr(other, f.name)
            setattr(self, f.name, max(a, b) if f.name == "ratio_max" else a + b)


@dataclass(frozen=True)
class PPO:
    """One update. `Objective` defines what is minimised.

    Args:
        ranks: the processes that share each mini-batch. Their policies' method `ppo_gradient` uses `Objective`.
        lr: learning rate.
        mini_batch: chunks per optimiser step if the update does not set it.
        name: of the plugin, for hints.
    """

    network: Network
    ranks: RankGroup
    lr: float
    mini_batch: int
    name: str

    def run(
        self, update: srpo.Update, chunks: list[TrainingChunk], progress: Callable[[float], None]
    ) -> srpo.Statistics:
        """Makes all steps of the update.

        Args:
            progress: called with the share of the work that is done, up to 1.

        Raises:
            srpo.Error: "diverged" if the loss or gradient is not finite. The weights may have changed.
        """
        h = update.hyperparameters
        size = min(h.mini_batch or self.mini_batch, len(chunks))
        total_weight = sum(x.weight * x.ratios for x in chunks)
        steps, done, losses, norms = 0, 0, [], []
        all_epochs, last_epoch = Totals(), Totals()
        statistics = srpo.Statistics(samples=len(chunks))
        for epoch in range(h.epochs):
            rng = np.random.Generator(np.random.Philox(key=update.seed + (epoch << 64)))
            order = rng.permutation(len(chunks))
            last_epoch = Totals()
            for at in range(0, len(order), size):
                part = [chunks[i] for i in order[at : at + size]]
                batches = [[part[i] for i in b] for b in self.network.batches([x.record.sample for x in part])]
                done_after = [done, *(done + np.cumsum([len(b) for b in batches]))]

                def tick(n: int, done_after: list[int] = done_after) -> None:
                    progress(float(done_after[n] / (h.epochs * len(chunks))))

                weight_sum = total_weight * len(part) / len(chunks)
                totals = Totals()
                for rank in self.ranks.call_split(
                    "ppo_gradient", batches, h, update.temperature, weight_sum, tick=tick
                ):
                    totals.add(rank)
                done += len(part)
                if steps == 0:
                    statistics.first_ratio = totals.ratio_sum / totals.ratios
                    if h.kl_beta:
                        statistics.extra["first_kl"] = totals.kl / totals.chunks
                norm = self.ranks.call_all("optimiser_step", self.lr)[0]
                if not math.isfinite(norm + totals.loss):
                    raise srpo.Error(
                        "diverged",
                        f"loss or gradient is not finite at step {steps}",
                        hint=f"lower policy.{self.name}.lr, or set update.clip_dual",
                    )
                steps += 1
                losses.append(totals.loss)
                norms.append(norm)
                all_epochs.add(totals)
                last_epoch.add(totals)
        self.ranks.call_all("zero_grad")
        if steps:
            statistics.loss, statistics.grad_norm = float(np.mean(losses)), float(np.mean(norms))
            statistics.clip_fraction = all_epochs.clipped / all_epochs.ratios
            statistics.entropy = all_epochs.entropy / all_epochs.ratios
            kl_old = last_epoch.kl_old / last_epoch.chunks
            statistics.kl = last_epoch.kl / last_epoch.chunks if h.kl_beta else kl_old
            statistics.extra |= {
                "ratio": all_epochs.ratio_sum / all_epochs.ratios,
                "ratio_max": all_epochs.ratio_max,
                "kl_old": kl_old,
            }
        statistics.extra |= {"steps": float(steps), "lr": self.lr}
        return statistics


@dataclass(frozen=True)
class Objective:
    """What an update minimises: the weighted mean over ratios r, with the weights of `training_chunks`, of

        max(-r A, -clip(r, 1 - clip_low, 1 + clip_high) A), at most -clip_dual A where A < 0
        + kl_beta KL(pi || pi_reference)

    where r = exp(log pi - log pi_old), summed over those terms of the ratio that were executed, and A is their mean
    advantage. KL is exact, at the temperature of the update; pi_reference is the policy before the first update with
    kl_beta above 0.

    The statistic `kl_old` estimates KL(pi_old || pi) by the mean of r - 1 - log r, where pi_old is the policy that
    acted. The estimate is unbiased and never negative. With kl_beta = 0 it is also the statistic `kl`. Both are sums
    over the ratios of a chunk, averaged over the chunks of the last epoch.

    Args:
        parameters: the trainable ones, by name.
        reference: the reference policy's values of the parameters; None if kl_beta is 0.
        weight_sum: the sum of weights that the loss is divided by.
    """

    network: Network
    parameters: dict[str, torch.nn.Parameter]
    reference: dict[str, torch.Tensor] | None
    hyperparameters: srpo.Hyperparameters
    temperature: float
    weight_sum: float

    def accumulate_gradient(self, part: Sequence[TrainingChunk], totals: Totals) -> None:
        """Adds the gradient of some chunks, which share a forward pass, to the parameters' gradients; and to totals."""
        h, t = self.hyperparameters, self.temperature
        samples = [x.record.sample for x in part]
        reference = None if self.reference is None else self._evaluate_reference(samples)
        current = self.network.evaluate_actions(samples, t)
        log_probs = current.log_probs
        old, mask, advantage = (
            torch.from_numpy(np.stack(rows)).to(log_probs.device)
            for rows in zip(*[(x.record.log_probs, x.mask, x.advantage) for x in part])
        )
        weight = torch.tensor([[x.weight] for x in part], device=log_probs.device)
        terms = self.network.terms_per_ratio(mask.shape[1])

        def by_ratio(x: torch.Tensor) -> torch.Tensor:
            """Sums [B, T] over the executed terms of each ratio: [B, ratios]."""
            return (x * mask).reshape(len(part), -1, terms).sum(-1)

        count = by_ratio(torch.ones_like(mask))
        executed = (count > 0).float()
        gain = by_ratio(advantage) / count.clamp(min=1)
        log_ratio = by_ratio(log_probs - old).clamp(-20, 20)
        ratio = torch.exp(log_ratio)
        unclipped, clipped = -ratio * gain, -ratio.clamp(1 - h.clip_low, 1 + h.clip_high) * gain
        loss = torch.maximum(unclipped, clipped)
        is_clipped = clipped > unclipped
        if h.clip_dual:
            bound = -h.clip_dual * gain
            is_clipped = is_clipped | ((gain < 0) & (loss > bound))
            loss = torch.where(gain < 0, torch.minimum(loss, bound), loss)
        if reference is not None:
            kl = by_ratio(current.kl(reference))
            loss = loss + h.kl_beta * kl
            totals.kl += float(kl.detach().sum())
        loss = (loss * executed * weight).sum() / self.weight_sum
        loss.backward()
        totals.loss += float(loss.detach())
        totals.ratios += float(executed.sum())
        totals.ratio_sum += float((ratio.detach() * executed).sum())
        totals.ratio_max = max(totals.ratio_max, float((ratio.detach() * executed).max()))
        totals.clipped += float((is_clipped * executed).sum())
        totals.kl_old += float(((ratio - 1 - log_ratio).detach() * executed).sum())
        totals.entropy += float(by_ratio(current.entropy().detach()).sum())
        totals.chunks += len(part)

    @torch.no_grad()
    def _evaluate_reference(self, samples: list[Sample]) -> ActionDistribution:
        with swapped(self.parameters, self.reference):
            return self.network.evaluate_actions(samples, self.temperature)
