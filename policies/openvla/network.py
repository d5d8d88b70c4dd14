"""A loaded checkpoint: the model with tokenizer, image processing and statistics, and batches of fixed shape."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import srpo_sdk as srpo
import torch

import actions
import checkpoint
import image_processing
from modeling import SPACE, OpenVLA, file_name
from vla import lora, sharding
from vla.ppo import Categorical

# Prompts are padded to a multiple of this, so that tasks with prompts of different length share a forward pass. The
# padded length depends on the prompt alone, not on the batch.
_BUCKET = 16


@dataclass(frozen=True)
class NetworkOptions:
    """How to run a network: the plugin's settings that matter here."""

    kind: str  # "openvla-oft", "openvla" or "auto"
    chunk: int
    causal: bool
    attention: str
    dtype: torch.dtype
    device: torch.device
    micro_batch: int
    unnorm_key: str
    libero: bool  # the gripper's convention, see `actions.Normaliser`
    jpeg: bool
    crop: bool
    compile: bool
    rank: int  # of LoRA; 0: the whole model is trained
    alpha: float
    seed: int  # of new adapters
    dim: int  # action dimensions of the env
    statistics: str  # "auto", "keep" or "compute"


@dataclass
class Sample:
    """One observation, and the chunk that was chosen for it.

    Args:
        frame: uint8 [224, 224, 3], see `image_processing.preprocess`.
        ids: token ids of the prompt.
        tokens: action tokens 0 to 255, int64 [chunk * dim]; None: not chosen yet.
    """

    frame: np.ndarray
    ids: tuple[int, ...]
    tokens: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return self.frame.nbytes + 8 * len(self.ids) + (0 if self.tokens is None else self.tokens.nbytes)


class Network:
    """A loaded checkpoint.

    Args:
        folder: of the checkpoint.
        options: how to run it.
        space: the env's actions, used to compute missing statistics.

    Raises:
        srpo.Error: for a folder that is not a usable checkpoint, or does not fit the env.
    """

    def __init__(self, folder: str, options: NetworkOptions, space: srpo.ActionSpace):
        self.source = checkpoint.read_source(folder)
        own = self.source.own
        self.kind = own.get("kind", "openvla-oft") if options.kind == "auto" else options.kind
        self.chunk = 1 if self.kind == "openvla" else options.chunk or own.get("chunk", 8)
        self.options = options
        self.tokenizer = self.source.tokenizer()
        self._read_statistics(folder, space)
        architecture = self.source.architecture()
        self.processor = image_processing.read_processor(architecture.image_sizes, self.source.carried, folder)
        try:
            self.model = OpenVLA(architecture, options.attention)
        except Exception as e:  # timm and transformers raise exceptions of many types
            text = str(e).strip().splitlines()
            raise srpo.Error(
                "mismatch",
                f"no network can be built from it: {text[0] if text else type(e).__name__}",
                place=os.path.join(folder, "config.json"),
                hint="the file was changed, or belongs to another architecture: use that of the weights",
            ) from e
        self.fingerprint = checkpoint.load_weights(self.model, folder, options.dtype, options.device)
        self.model.finish_loading(options.device)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        if options.rank:
            lora.add_adapters(self.model, options.rank, options.alpha, options.seed)
        self._parallel_hidden = self.model.parallel_hidden
        self._teacher_forced_hidden = self.model.teacher_forced_hidden
        if options.compile:
            self._parallel_hidden = torch.compile(self.model.parallel_hidden)
            self._teacher_forced_hidden = torch.compile(self.model.teacher_forced_hidden)
        self.sharded: sharding.ShardedModel | None = None

    def shard(self) -> None:
        """Shards the weights among the processes of torch.distributed."""
        if self.sharded is None:
            self.sharded = sharding.ShardedModel(self.model, self.model.blocks(), self.options.device)

    def _read_statistics(self, folder: str, space: srpo.ActionSpace) -> None:
        options, place = self.options, os.path.join(folder, checkpoint.STATISTICS)
        key = options.unnorm_key or self.source.own.get("unnorm_key", "")
        try:
            self.key = actions.select_key(self.source.statistics, key, place)
        except srpo.Error:
            if options.statistics != "compute":
                raise
            self.key = key or "srpo"
            ranges = actions.range_statistics(space, options.libero, self.key)
            self.source.statistics = {**self.source.statistics, **ranges}
        self.use_statistics(self.source.statistics)
        if self.normaliser.dim != options.dim:
            raise srpo.Error(
                "mismatch",
                f"the statistics of {self.key!r} have {self.normaliser.dim} action dimensions, the env has "
                f"{options.dim}: {', '.join(space.names)}",
                place=place,
                hint="choose an env with the actions that the checkpoint was trained for, or another unnorm_key; to "
                'fine-tune it for this env, set unnorm_key to a new name, and statistics = "compute"',
            )

    def use_statistics(self, statistics: dict) -> None:
        """Replaces the action statistics, which are by data set. The network's own key must be among them."""
        self.source.statistics = statistics
        place = os.path.join(self.source.folder, checkpoint.STATISTICS)
        self.normaliser = actions.read_normaliser(statistics, self.key, self.options.libero, place)

    @property
    def has_data_statistics(self) -> bool:
        """Whether the statistics were computed from data; else they are the env's ranges."""
        return self.source.statistics[self.key].get("num_transitions") != 0

    @property
    def slots(self) -> int:
        """Number of action tokens in a chunk."""
        return self.chunk * self.normaliser.dim

    def prompt(self, instruction: str) -> tuple[int, ...]:
        """Token ids of the published prompt for an instruction.

        Raises:
            srpo.Error: "corrupt" for a token outside the model's vocabulary.
        """
        ids = self.tokenizer.encode(f"In: What action should the robot take to {instruction.lower()}?\nOut:").ids
        if not ids or ids[-1] != SPACE:
            ids = [*ids, SPACE]
        rows = self.model.language_model.get_input_embeddings().num_embeddings
        if max(ids) >= rows:
            raise srpo.Error(
                "corrupt",
                f"the tokenizer returns token {max(ids)}, but the model has {rows}",
                place=self.source.folder,
                hint="tokenizer.json belongs to another model: use that of the model this one was trained from",
            )
        return tuple(ids)

    def batches(self, samples: Sequence[Sample], size: int = 0) -> Iterator[list[int]]:
        """Yields the indices of samples that share a forward pass.

        The shape of a batch depends only on the prompts of its samples: `batch_tensors` pads it to micro_batch samples.

        Args:
            size: maximum number of samples in a batch; 0: micro_batch.
        """
        groups: dict[int, list[int]] = {}
        for i, s in enumerate(samples):
            groups.setdefault(self._padded_length(s), []).append(i)
        for length in sorted(groups):
            step = size or self.options.micro_batch
            for at in range(0, len(groups[length]), step):
                yield groups[length][at : at + step]

    def act_batches(self, samples: Sequence[Sample]) -> Iterator[list[int]]:
        """Yields the indices of samples that share a forward pass in acting."""
        return self.batches(samples)

    def _padded_length(self, s: Sample) -> int:
        # OpenVLA's tokens follow the prompt's end, so its prompts cannot be padded.
        return len(s.ids) if self.kind == "openvla" else -(-len(s.ids) // _BUCKET) * _BUCKET

    def batch_tensors(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Returns (ids [B, L], lengths [B], images) with B = micro_batch: copies of the first sample fill the batch."""
        options = self.options
        full = [*samples, *[samples[0]] * (options.micro_batch - len(samples))]
        ids = torch.full((len(full), self._padded_length(full[0])), SPACE)
        for row, s in zip(ids, full):
            row[: len(s.ids)] = torch.tensor(s.ids)
        lengths = torch.tensor([len(s.ids) for s in full])
        images = [x.to(options.device, options.dtype) for x in self.processor([s.frame for s in full])]
        return ids.to(options.device), lengths.to(options.device), images

    def hidden(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Hidden states that predict the action tokens and the token after them.

        Args:
            samples: of one batch. OpenVLA needs their tokens.

        Returns:
            [B, slots + 1, hidden].
        """
        ids, lengths, images = self.batch_tensors(samples)
        if self.kind == "openvla-oft":
            out = self._parallel_hidden(ids, lengths, images, self.slots, self.options.causal)
        else:
            full = [*samples, *[samples[0]] * (len(ids) - len(samples))]
            tokens = torch.from_numpy(np.stack([s.tokens for s in full])).to(ids.device)
            out = self._teacher_forced_hidden(ids, self.model.first_action + tokens, images)
        return out[: len(samples)]

    def logits(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Logits of the action tokens, float32 [B, slots, 256], for samples of one batch."""
        return self.model(lambda: self.model.action_logits(self.hidden(samples)[:, :-1]))

    # `vla.ppo.Network`.

    def evaluate_actions(self, samples: Sequence[Sample], temperature: float) -> Categorical:
        """Distributions over the 256 action tokens for samples of one batch. A term is a token."""
        all_log_probs = torch.log_softmax(self.logits(samples) / temperature, -1)
        chosen = torch.from_numpy(np.stack([s.tokens for s in samples])).to(all_log_probs.device)
        return Categorical(all_log_probs, chosen)

    def was_drawn(self, sample: Sample) -> bool:
        return True

    def mask_and_advantage(self, sample: Sample, executed: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask, advantage = np.zeros((2, self.chunk, self.normaliser.dim), np.float32)
        mask[:executed] = 1
        advantage[:executed] = np.broadcast_to(values, executed)[:, None]
        return mask.reshape(-1), advantage.reshape(-1)

    def terms_per_ratio(self, terms: int) -> int:
        """One ratio per token, as in siiRL."""
        return 1

    @torch.no_grad()
    def act(
        self, samples: Sequence[Sample], seeds: Sequence[int], temperature: float, greedy: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Chooses a chunk for each sample.

        Returns:
            (action tokens int64 [slots], their log-probabilities float32 [slots]) for each sample. A log-probability is
            log_softmax(logits / temperature) over the 256 action tokens.

        Raises:
            srpo.Error: "diverged" if the network's output is not finite.
        """
        out: list = [None] * len(samples)
        for batch in self.batches(samples):
            srpo.report_progress()
            some = [samples[i] for i in batch]
            draws = [
                None if greedy else np.random.Generator(np.random.Philox(key=seeds[i])).random(self.slots)
                for i in batch
            ]
            if self.kind == "openvla":
                some = self._generate(some, draws, temperature)
                logits = self.logits(some)
            else:
                logits = self.logits(some)
                tokens = [draw_tokens(x, d, temperature) for x, d in zip(logits, draws)]
                some = [replace(s, tokens=t) for s, t in zip(some, tokens)]
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

    def _generate(self, samples: list[Sample], draws: list, temperature: float) -> list[Sample]:
        """OpenVLA: chooses tokens one after another with a cache. Log-probabilities are computed afterwards, with
        teacher forcing as in an update.
        """
        ids, _, images = self.batch_tensors(samples)

        def choose(i: int, logits: torch.Tensor) -> torch.Tensor:
            rows = [
                draw_tokens(logits[b : b + 1], None if d is None else d[i : i + 1], temperature)[0]
                for b, d in enumerate(draws)
            ]
            return torch.tensor(rows + rows[:1] * (len(ids) - len(rows)), device=ids.device)

        tokens = self.model(lambda: self.model.generate(ids, images, self.slots, choose)) - self.model.first_action
        return [replace(s, tokens=t) for s, t in zip(samples, tokens.cpu().numpy())]

    def env_actions(self, tokens: np.ndarray) -> np.ndarray:
        """Action tokens [slots] as actions float32 [chunk, dim] in the env's units."""
        return self.normaliser.to_env(actions.from_tokens(tokens).reshape(self.chunk, -1))

    def weights(self) -> tuple[list, dict[str, int]]:
        """The arguments weights and sizes of `checkpoint.write`, with adapters merged."""
        makers, sizes = [], {}
        for name, p, make in lora.merged_parameters(self.model):
            makers.append((file_name(name), make))
            sizes[file_name(name)] = p.numel() * p.element_size()
        return makers, sizes


def draw_tokens(logits: torch.Tensor, draws: np.ndarray | None, temperature: float) -> np.ndarray:
    """Draws action tokens by the inverse of the cumulative distribution, in float64.

    Args:
        logits: [n, 256].
        draws: uniform in [0, 1), [n]; None: the most likely tokens.

    Returns:
        int64 [n].
    """
    x = logits.double().cpu().numpy()
    if draws is None:
        return x.argmax(-1)
    p = np.exp((x - x.max(-1, keepdims=True)) / temperature).cumsum(-1)
    return np.minimum((p <= draws[:, None] * p[:, -1:]).sum(-1), x.shape[-1] - 1)


def log_probs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities float32 [..., n] of tokens [..., n] under logits [..., n, 256]."""
    all_log_probs = torch.log_softmax(logits / temperature, -1)
    return all_log_probs.gather(-1, tokens.to(logits.device)[..., None])[..., 0]
