"""PPO on recorded chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import srpo_sdk as srpo
import torch

from network import Network, Sample, log_probs
from optimiser import Optimiser, swapped


@dataclass
class Record:
    """A chunk that was acted: what an update needs of it.

    Args:
        step: env steps executed before it.
        sample: what was seen, with the tokens that were chosen.
        log_probs: float32 [slots], of these tokens at the temperature of the call.
    """

    step: int
    sample: Sample
    log_probs: np.ndarray

    @property
    def bytes(self) -> int:
        s = self.sample
        return s.frame.nbytes + s.tokens.nbytes + self.log_probs.nbytes + 8 * len(s.ids) + 400


@dataclass(frozen=True)
class Lesson:
    """A record with what an update says of it.

    Args:
        tokens: those that were executed, from the first on.
        advantage: float32 [tokens].
        weight: of each token in the loss.
    """

    record: Record
    tokens: int
    advantage: np.ndarray
    weight: float


def lessons(
    update: srpo.Update, records: dict[str, list[Record]], chunk: int, dim: int, by_trajectory: bool
) -> list[Lesson]:
    """The recorded chunks that were executed, in the order of trajectories and steps.

    by_trajectory: every trajectory weighs the same, as in siiRL, which takes the mean over a trajectory's tokens first;
    else every token does.

    Raises:
        srpo.Error: "not found" for a trajectory that was not recorded, "invalid" when nothing was executed.
    """
    out: list[Lesson] = []
    for t in update.trajectories:
        if not records.get(t.trajectory):
            raise srpo.Error(
                "not found",
                "nothing was recorded",
                place=f"episode {t.trajectory}",
                hint="act with record set, and do not forget before the update",
            )
        part = []
        for r in records[t.trajectory]:
            valid = min(chunk, t.steps - r.step)
            if valid <= 0:
                continue
            values = t.values if len(t.values) == 1 else t.values[r.step : r.step + valid]
            advantage = np.repeat(np.broadcast_to(values, valid), dim).astype(np.float32)
            part.append((r, valid * dim, advantage))
        total = sum(tokens for _, tokens, _ in part)
        out += [Lesson(r, n, a, 1 / total if by_trajectory else 1.0) for r, n, a in part]
    if not out:
        raise srpo.Error(
            "invalid",
            f"no executed step in {len(update.trajectories)} trajectories",
            hint="an update needs at least one",
        )
    return out


@dataclass
class Sums:
    """Totals over tokens and chunks."""

    tokens: float = 0.0
    ratio: float = 0.0
    most: float = 0.0
    clipped: float = 0.0
    chunks: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True)
class Ppo:
    """One update: PPO (Schulman et al., 2017) with a ratio for every token, as siiRL does it.

    Minimised, over executed tokens with the weights of `lessons`:

        max(-r A, -clip(r, 1 - clip_low, 1 + clip_high) A), at most -clip_dual A where A < 0
        + kl_beta KL(pi || pi_start)

    r = exp(log pi - log pi_old), A the trajectory's or the step's. KL is exact: over all 256 action tokens, at the
    update's temperature; pi_start is the policy before the first update that asks for it.

    Args:
        start: the starting policy's values of the parameters that learn, by name; None: kl_beta is 0.
    """

    network: Network
    optimiser: Optimiser
    start: dict[str, torch.Tensor] | None
    lr: float
    mini_batch: int

    def run(self, update: srpo.Update, todo: list[Lesson], progress: Callable[[float], None]) -> srpo.Statistics:
        h = update.hyperparameters
        size = min(h.mini_batch or self.mini_batch, len(todo))
        whole = sum(x.weight * x.tokens for x in todo)
        steps, done, losses, norms = 0, 0, [], []
        every, last = Sums(), Sums()
        statistics = srpo.Statistics(samples=len(todo))
        for epoch in range(h.epochs):
            order = np.random.Generator(np.random.Philox(key=update.seed + (epoch << 64))).permutation(len(todo))
            last = Sums()
            for at in range(0, len(order), size):
                part = [todo[i] for i in order[at : at + size]]
                share = whole * len(part) / len(todo)
                self.optimiser.zero()
                sums = Sums()
                for batch in self.network.batches([x.record.sample for x in part]):
                    self._micro_batch([part[i] for i in batch], update, share, sums)
                    done += len(batch)
                    progress(done / (h.epochs * len(todo)))
                if steps == 0:
                    statistics.first_ratio = sums.ratio / sums.tokens
                    statistics.extra["first_kl"] = sums.kl / sums.chunks
                norm = self.optimiser.step(self.lr)
                if not math.isfinite(norm + sums.loss):
                    raise srpo.Error(
                        "internal",
                        f"loss or gradient is not finite at step {steps}",
                        hint="lower policy.openvla.lr, or set update.clip_dual",
                    )
                steps += 1
                losses.append(sums.loss)
                norms.append(norm)
                for total in (every, last):
                    for name in ("tokens", "ratio", "clipped", "chunks", "kl", "entropy"):
                        setattr(total, name, getattr(total, name) + getattr(sums, name))
                    total.most = max(total.most, sums.most)
        self.optimiser.zero()
        if steps:
            statistics.loss, statistics.grad_norm = float(np.mean(losses)), float(np.mean(norms))
            statistics.clip_fraction = every.clipped / every.tokens
            statistics.entropy, statistics.kl = every.entropy / every.tokens, last.kl / last.chunks
            statistics.extra |= {"ratio": every.ratio / every.tokens, "ratio_max": every.most}
        statistics.extra |= {"steps": float(steps), "lr": self.lr}
        return statistics

    def _micro_batch(self, part: Sequence[Lesson], update: srpo.Update, share: float, sums: Sums) -> None:
        """Adds the gradient of some chunks, which share a forward pass, and what they count."""
        h, t = update.hyperparameters, update.temperature
        samples = [x.record.sample for x in part]
        start = None if self.start is None else self._starting_scores(samples, t)
        logits = self.network.logits(samples)
        device = logits.device
        tokens = torch.from_numpy(np.stack([s.tokens for s in samples]))
        now = log_probs(logits, tokens, t)
        old = torch.from_numpy(np.stack([x.record.log_probs for x in part])).to(device)
        mask, advantage, weight = (torch.zeros(now.shape, device=device) for _ in range(3))
        for i, x in enumerate(part):
            mask[i, : x.tokens] = 1
            advantage[i, : x.tokens] = torch.from_numpy(x.advantage).to(device)
            weight[i, : x.tokens] = x.weight
        ratio = torch.exp((now - old).clamp(-20, 20))
        plain, bounded = -ratio * advantage, -ratio.clamp(1 - h.clip_low, 1 + h.clip_high) * advantage
        loss = torch.maximum(plain, bounded)
        cut = bounded > plain
        if h.clip_dual:
            worst = -h.clip_dual * advantage
            cut = cut | ((advantage < 0) & (loss > worst))
            loss = torch.where(advantage < 0, torch.minimum(loss, worst), loss)
        scores = torch.log_softmax(logits / t, -1)
        if start is not None:
            kl = (scores.exp() * (scores - start)).sum(-1)
            loss = loss + h.kl_beta * kl
            sums.kl += float((kl.detach() * mask).sum())
        loss = (loss * weight).sum() / share
        loss.backward()
        entropy = -(scores.exp() * scores).sum(-1).detach()
        sums.loss += float(loss.detach())
        sums.tokens += float(mask.sum())
        sums.ratio += float((ratio.detach() * mask).sum())
        sums.most = max(sums.most, float((ratio.detach() * mask).max()))
        sums.clipped += float((cut * mask).sum())
        sums.entropy += float((entropy * mask).sum())
        sums.chunks += len(part)

    @torch.no_grad()
    def _starting_scores(self, samples: list[Sample], temperature: float) -> torch.Tensor:
        with swapped(self.optimiser.parameters, self.start):
            return torch.log_softmax(self.network.logits(samples) / temperature, -1)
