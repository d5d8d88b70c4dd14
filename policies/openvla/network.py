"""The model with all that surrounds it: tokenizer, pictures, statistics; batches of fixed shape."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import srpo_sdk as srpo
import torch

import actions
import checkpoint
import pictures
from modeling import EMPTY, OpenVLA, file_name
from vla import lora, sharding
from vla.ppo import Categorical

# Prompts are padded to a multiple of this, so that tasks of different length share a forward pass. The padded length of
# a prompt is its own affair, not that of the batch.
_BUCKET = 16


@dataclass(frozen=True)
class Choice:
    """How a network is to be run; the plugin's settings that matter here."""

    kind: str  # "openvla-oft" or "openvla"
    chunk: int
    causal: bool
    attention: str
    dtype: torch.dtype
    device: torch.device
    micro_batch: int
    unnorm_key: str
    libero: bool  # gripper
    jpeg: bool
    crop: bool
    compile: bool
    rank: int  # of LoRA; 0: the whole model learns
    alpha: float
    seed: int  # of a new adapter
    dim: int  # action dimensions of the env
    statistics: str  # "auto", "keep" or "compute"


@dataclass
class Sample:
    """One thing to look at.

    Args:
        frame: uint8 [224, 224, 3], see `pictures.frame`.
        ids: the prompt.
        tokens: the action's choices 0 to 255, int64 [chunk * dim]; None: not chosen yet.
    """

    frame: np.ndarray
    ids: tuple[int, ...]
    tokens: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        return self.frame.nbytes + 8 * len(self.ids) + (0 if self.tokens is None else self.tokens.nbytes)


class Network:
    """A checkpoint, loaded.

    Args:
        folder: where it lies.
        choice: how to run it.
        space: the env's actions, for statistics that are still to be computed.
    """

    def __init__(self, folder: str, choice: Choice, space: srpo.ActionSpace):
        self.source = checkpoint.read_source(folder)
        own = self.source.own
        self.kind = own.get("kind", "openvla-oft") if choice.kind == "auto" else choice.kind
        self.chunk = 1 if self.kind == "openvla" else choice.chunk or own.get("chunk", 8)
        self.choice = choice
        self.tokenizer = self.source.tokenizer()
        self._read_statistics(folder, space)
        architecture = self.source.architecture()
        self.see = pictures.processor(architecture.image_sizes, self.source.carried, folder)
        try:
            self.model = OpenVLA(architecture, choice.attention)
        except Exception as e:  # timm and transformers raise what they like
            text = str(e).strip().splitlines()
            raise srpo.Error(
                "mismatch",
                f"no network can be built of it: {text[0] if text else type(e).__name__}",
                place=os.path.join(folder, "config.json"),
                hint="the file was changed, or belongs to another architecture: take that of the weights",
            ) from e
        self.fingerprint = checkpoint.load_weights(self.model, folder, choice.dtype, choice.device)
        self.model.ready(choice.device)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        if choice.rank:
            lora.adapt(self.model, choice.rank, choice.alpha, choice.seed)
        self._slots, self._follow = self.model.slots, self.model.follow
        if choice.compile:
            self._slots, self._follow = torch.compile(self.model.slots), torch.compile(self.model.follow)
        self.shards: sharding.Shards | None = None

    def divide(self) -> None:
        """Divides the weights among the processes of torch.distributed."""
        if self.shards is None:
            self.shards = sharding.Shards(self.model, self.model.blocks(), self.choice.device)

    def _read_statistics(self, folder: str, space: srpo.ActionSpace) -> None:
        c, place = self.choice, os.path.join(folder, checkpoint.STATISTICS)
        key = c.unnorm_key or self.source.own.get("unnorm_key", "")
        try:
            self.key = actions.choose(self.source.statistics, key, place)
        except srpo.Error:
            if c.statistics != "compute":
                raise
            self.key = key or "srpo"
            self.source.statistics = {**self.source.statistics, **actions.ranges(space, c.libero, self.key)}
        self.use_statistics(self.source.statistics)
        if self.normaliser.dim != c.dim:
            raise srpo.Error(
                "mismatch",
                f"the statistics of {self.key!r} have {self.normaliser.dim} action dimensions, the env has {c.dim}: "
                f"{', '.join(space.names)}",
                place=place,
                hint="choose an env with the actions that the checkpoint was trained for, or another unnorm_key; to "
                'fine-tune it for this env, an unnorm_key that it does not have, with statistics = "compute"',
            )

    def use_statistics(self, statistics: dict) -> None:
        """Takes over action statistics by data set; the network's own key is among them."""
        self.source.statistics = statistics
        place = os.path.join(self.source.folder, checkpoint.STATISTICS)
        self.normaliser = actions.normaliser(statistics, self.key, self.choice.libero, place)

    @property
    def measured(self) -> bool:
        """Whether the statistics come from data (and are no stand-in)."""
        return self.source.statistics[self.key].get("num_transitions") != 0

    @property
    def slots(self) -> int:
        """Action tokens in a chunk."""
        return self.chunk * self.normaliser.dim

    def prompt(self, instruction: str) -> tuple[int, ...]:
        """Token ids of the published prompt for an instruction. Raises `srpo.Error` for ids beyond the vocabulary."""
        ids = self.tokenizer.encode(f"In: What action should the robot take to {instruction.lower()}?\nOut:").ids
        if not ids or ids[-1] != EMPTY:
            ids = [*ids, EMPTY]
        rows = self.model.language_model.get_input_embeddings().num_embeddings
        if max(ids) >= rows:
            raise srpo.Error(
                "corrupt",
                f"the tokenizer gives token {max(ids)}, the model knows {rows}",
                place=self.source.folder,
                hint="tokenizer.json belongs to another model: take that of the model it was trained from",
            )
        return tuple(ids)

    def batches(self, samples: Sequence[Sample], most: int = 0) -> Iterator[list[int]]:
        """Yields the indices of samples that share a forward pass, at most micro_batch of them, or most. A sample's
        batch depends, in shape, on its own prompt alone: `tensors` fills incomplete ones up.
        """
        groups: dict[int, list[int]] = {}
        for i, s in enumerate(samples):
            groups.setdefault(self._length(s), []).append(i)
        for length in sorted(groups):
            size = most or self.choice.micro_batch
            for at in range(0, len(groups[length]), size):
                yield groups[length][at : at + size]

    def passes(self, samples: Sequence[Sample]) -> Iterator[list[int]]:
        """Yields the indices of samples that acting takes in one forward pass."""
        return self.batches(samples)

    def _length(self, s: Sample) -> int:
        # Without slots there is nothing behind the prompt that could be moved up, so one length is one batch.
        return len(s.ids) if self.kind == "openvla" else -(-len(s.ids) // _BUCKET) * _BUCKET

    def tensors(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """(ids [B, L], lengths [B], pictures), filled up to micro_batch by copies of the first sample."""
        c = self.choice
        full = [*samples, *[samples[0]] * (c.micro_batch - len(samples))]
        ids = torch.full((len(full), self._length(full[0])), EMPTY)
        for row, s in zip(ids, full):
            row[: len(s.ids)] = torch.tensor(s.ids)
        lengths = torch.tensor([len(s.ids) for s in full])
        seen = [p.to(c.device, c.dtype) for p in self.see([s.frame for s in full])]
        return ids.to(c.device), lengths.to(c.device), seen

    def hidden(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Hidden states [B, slots + 1, hidden] that predict the action's tokens and what follows, for samples of one
        batch; OpenVLA's need their tokens.
        """
        ids, lengths, seen = self.tensors(samples)
        if self.kind == "openvla-oft":
            out = self._slots(ids, lengths, seen, self.slots, self.choice.causal)
        else:
            full = [*samples, *[samples[0]] * (len(ids) - len(samples))]
            chosen = torch.from_numpy(np.stack([s.tokens for s in full])).to(ids.device)
            out = self._follow(ids, self.model.first_action + chosen, seen)
        return out[: len(samples)]

    def logits(self, samples: Sequence[Sample]) -> torch.Tensor:
        """float32 [B, slots, 256], of the action tokens, for samples of one batch."""
        return self.model(lambda: self.model.action_logits(self.hidden(samples)[:, :-1]))

    # What `learning` asks for.

    def judge(self, samples: Sequence[Sample], temperature: float) -> Categorical:
        """Distributions over the 256 action tokens, for samples of one batch; a term is a token."""
        scores = torch.log_softmax(self.logits(samples) / temperature, -1)
        return Categorical(scores, torch.from_numpy(np.stack([s.tokens for s in samples])).to(scores.device))

    def learnable(self, sample: Sample) -> bool:
        return True

    def lesson(self, sample: Sample, valid: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mask, advantage), float32 [slots] each, when the first valid actions were executed."""
        mask, advantage = np.zeros((2, self.chunk, self.normaliser.dim), np.float32)
        mask[:valid] = 1
        advantage[:valid] = np.broadcast_to(values, valid)[:, None]
        return mask.reshape(-1), advantage.reshape(-1)

    def per_unit(self, terms: int) -> int:
        """A ratio for every token, as siiRL has it."""
        return 1

    @torch.no_grad()
    def act(
        self, samples: Sequence[Sample], seeds: Sequence[int], temperature: float, greedy: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(choices int64 [slots], their log-probabilities float32 [slots]) of each sample.

        The log-probability of a token is log_softmax(logits / temperature) over the 256 action tokens.
        """
        out: list = [None] * len(samples)
        for batch in self.batches(samples):
            srpo.heartbeat()
            some = [samples[i] for i in batch]
            draws = [
                None if greedy else np.random.Generator(np.random.Philox(key=seeds[i])).random(self.slots)
                for i in batch
            ]
            if self.kind == "openvla":
                some = self._generated(some, draws, temperature)
                logits = self.logits(some)
            else:
                logits = self.logits(some)
                picked = [pick(x, d, temperature) for x, d in zip(logits, draws)]
                some = [replace(s, tokens=t) for s, t in zip(some, picked)]
            if not torch.isfinite(logits).all():
                raise srpo.Error(
                    "diverged",
                    "the network's output is not finite",
                    hint="start from an earlier checkpoint, and lower the learning rate",
                )
            scores = log_probs(logits, torch.from_numpy(np.stack([s.tokens for s in some])), temperature)
            for i, s, score in zip(batch, some, scores.cpu().numpy()):
                out[i] = (s.tokens, score)
        return out

    def _generated(self, samples: list[Sample], draws: list, temperature: float) -> list[Sample]:
        """OpenVLA: tokens one after another with a cache. Log-probabilities are taken afterwards, teacher forced, since
        an update computes them so.
        """
        ids, _, seen = self.tensors(samples)

        def choose(i: int, logits: torch.Tensor) -> torch.Tensor:
            rows = [
                pick(logits[b : b + 1], None if d is None else d[i : i + 1], temperature)[0]
                for b, d in enumerate(draws)
            ]
            return torch.tensor(rows + rows[:1] * (len(ids) - len(rows)), device=ids.device)

        tokens = self.model(lambda: self.model.generate(ids, seen, self.slots, choose)) - self.model.first_action
        return [replace(s, tokens=t) for s, t in zip(samples, tokens.cpu().numpy())]

    def env_actions(self, choices: np.ndarray) -> np.ndarray:
        """Choices [slots] as actions float32 [chunk, dim] in the env's units."""
        return self.normaliser.to_env(actions.centre(choices).reshape(self.chunk, -1))

    def weights(self) -> tuple[list, dict[str, int]]:
        """What `checkpoint.write` wants: names with makers of tensors, adapters merged, and bytes by name."""
        made, sizes = [], {}
        for name, p, make in lora.whole(self.model):
            made.append((file_name(name), make))
            sizes[file_name(name)] = p.numel() * p.element_size()
        return made, sizes


def pick(logits: torch.Tensor, draws: np.ndarray | None, temperature: float) -> np.ndarray:
    """Choices int64 [n] from logits [n, 256] by uniform draws [n] (inverse of the cumulative distribution, in float64),
    or the most likely ones without draws.
    """
    x = logits.double().cpu().numpy()
    if draws is None:
        return x.argmax(-1)
    p = np.exp((x - x.max(-1, keepdims=True)) / temperature).cumsum(-1)
    return np.minimum((p <= draws[:, None] * p[:, -1:]).sum(-1), x.shape[-1] - 1)


def log_probs(logits: torch.Tensor, choices: torch.Tensor, temperature: float) -> torch.Tensor:
    """float32 [..., n] of choices [..., n] under logits [..., n, 256]."""
    scores = torch.log_softmax(logits / temperature, -1)
    return scores.gather(-1, choices.to(logits.device)[..., None])[..., 0]
