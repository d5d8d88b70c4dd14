"""pi0-fast: a chunk of actions as a string of FAST tokens that a language model writes.

The string begins with "Action: " and ends with "|". By default only tokens that such a string can have are drawn: the
beginning is given, then FAST's tokens or the end, and log-probabilities are log_softmax(logits / temperature) over
these. `vocabulary = "full"` draws from everything, as lerobot does.

BOS stands where lerobot's sampling puts it: behind the prompt, in the part whose tokens all see each other. lerobot's
training has it as the first of the tokens that see only what is before them, which gives other log-probabilities; here
acting and updates have the first form, and imitation, which is lerobot's training, the second.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import srpo_sdk as srpo
import torch
from lerobot.policies.common.vla_utils import prepare_attention_masks_4d
from lerobot.policies.pi0_fast import modeling_pi0_fast
from lerobot.policies.pi0_fast.configuration_pi0_fast import PI0FastConfig
from lerobot.policies.pi0_fast.processor_pi0_fast import make_pi0_fast_pre_post_processors
from torch import nn

from fast import Fast
from vla.ppo import Categorical
from vla_lerobot import checkpoint
from vla_lerobot.network import Acted, Batch, Network, Sample

# Strings are padded to a multiple of this, so that different ones share a forward pass. The padded length of a string
# is its own affair, not that of the batch.
_BUCKET = 16


@dataclass
class String:
    """A chunk as the model wrote it.

    Args:
        ids: int64 [n], of the whole vocabulary, up to and with the end.
        given: how many of the first were not drawn.
    """

    ids: np.ndarray
    given: int

    @property
    def bytes(self) -> int:
        return self.ids.nbytes

    @property
    def padded(self) -> int:
        return -(-len(self.ids) // _BUCKET) * _BUCKET


class TokenNetwork(Network):
    """pi0-fast. A term of the log-probability is one token's."""

    kind, module, config_class = "pi0_fast", modeling_pi0_fast, PI0FastConfig
    make_processors = staticmethod(make_pi0_fast_pre_post_processors)

    def __init__(self, folder: str, choice: Any, env: srpo.EnvSpec):
        super().__init__(folder, choice, env)
        own = choice.own
        self.most = own["max_tokens"] or self.config.max_decoding_steps
        if own["attention"] != "auto":
            self.joined.paligemma.model.language_model.config._attn_implementation = own["attention"]
        self.start = self.writer.encode("Action: ", add_special_tokens=False)
        self.end = self.writer.convert_tokens_to_ids("|")
        rows = self.head.out_features
        last = self.writer.vocab_size - 1 - self.config.fast_skip_tokens
        if not 0 <= last - self.fast.size + 1 <= last < rows or not 0 <= self.end < rows:
            raise srpo.Error(
                "mismatch",
                f"{self.fast.size} FAST tokens end at token {last} of {rows}",
                place=self.source.folder,
                hint="the tokenizers belong to another model: take PaliGemma's and the checkpoint's FAST tokenizer",
            )
        self.last = last
        action = [last - t for t in range(self.fast.size)] + [self.end]
        self.allowed = torch.tensor(sorted(action), device=choice.device) if own["vocabulary"] == "action" else None
        if self.allowed is not None and self.most <= len(self.start):
            raise srpo.Error("invalid", f"max_tokens is {self.most}", place="setting max_tokens", hint="256 is usual")

    @staticmethod
    def build(config: PI0FastConfig, tokenizer: Any) -> nn.Module:
        return modeling_pi0_fast.PI0FastPytorch(config, paligemma_tokenizer=tokenizer)

    @property
    def joined(self) -> Any:
        return self.model.paligemma_with_expert

    @property
    def head(self) -> nn.Module:
        return self.joined.paligemma.lm_head

    def _tokenizer(self) -> Any:
        text = super()._tokenizer()
        self.writer = checkpoint.text_tokenizer(self.source.tokenizer, add_eos_token=True, add_bos_token=False)
        name = self.choice.own["action_tokenizer"]
        files = checkpoint.tokenizer_files(name, "") if name else self.source.action_tokenizer or self._cached_fast()
        self.fast = Fast(files, name or self.source.folder)
        self.source.action_tokenizer = files
        return text

    def _cached_fast(self) -> dict[str, bytes]:
        from huggingface_hub import snapshot_download

        try:
            name = self.config.action_tokenizer_name
            folder = name if os.path.isdir(name) else snapshot_download(name, local_files_only=True)
            return checkpoint.tokenizer_files(folder, "")
        except Exception:
            return {}

    def text(self, instruction: str, state: np.ndarray) -> str:
        """As lerobot's Pi0FastPrepareStateAndLanguageTokenizerProcessorStep: the state in 256 bins of -1 to 1."""
        bins = np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1
        words = instruction.strip().replace("_", " ").replace("\n", " ")
        return f"Task: {words}, State: {' '.join(map(str, bins))};\n"

    # Tokens and actions.

    def string(self, tokens: Sequence[int]) -> list[int]:
        """FAST's tokens among the vocabulary's."""
        return [self.last - t for t in tokens]

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """Normalised actions float32 [chunk_size, D] of a string: what stands before its end, without "Action: "."""
        ids, start = list(ids), self.start
        if self.end in ids:
            ids = ids[: ids.index(self.end)]
        at = 0
        while at <= len(ids) - len(start):
            if ids[at : at + len(start)] == start:
                del ids[at : at + len(start)]
            else:
                at += 1
        return self.fast.decode([self.last - i for i in ids], self.config.chunk_size, self.dim)

    # The network.

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 [..., V], of the tokens that can be drawn."""
        if self.allowed is None:
            return self.head(hidden).float()
        weight = self.head.weight[self.allowed]
        return nn.functional.linear(hidden.to(weight.dtype), weight).float()

    def _prompt(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens, masks) with BOS behind them."""
        bos = torch.full((len(batch.tokens), 1), self.tokenizer.bos_token_id, device=batch.tokens.device)
        return torch.cat([batch.tokens, bos], 1), torch.cat([batch.masks, torch.ones_like(bos, dtype=torch.bool)], 1)

    def _typed(self, x: torch.Tensor) -> torch.Tensor:
        """As lerobot hands embeddings to the language model."""
        first = self.joined.paligemma.model.language_model.layers[0].self_attn.q_proj.weight
        return x.to(torch.bfloat16) if first.dtype == torch.bfloat16 else x

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """Within it activations are computed once: with gradient checkpointing there is no cache."""
        training = self.trunk.training
        self.trunk.eval()
        try:
            yield
        finally:
            self.trunk.train(training)

    # Acting.

    @torch.no_grad()
    def act(self, samples: Sequence[Sample], seeds: Sequence[int], temperature: float, greedy: bool) -> list[Acted]:
        """One chunk for each sample; the host gets the whole string's log-probability at position 0."""
        chosen: list[Sample] = []
        with self._still():
            for some in self.slices(len(samples)):
                part = [samples[i] for i in some]
                draws = [
                    None if greedy else np.random.Generator(np.random.Philox(key=seeds[i])).random(self.most)
                    for i in some
                ]
                strings = self._write(part, draws, temperature)
                chosen += [replace(s, acted=x) for s, x in zip(part, strings)]
        out: list[Any] = [None] * len(samples)
        for batch in self.batches(chosen):
            srpo.heartbeat()
            part = [chosen[i] for i in batch]
            # The way in which an update computes them.
            rows = self.judge(part, temperature).log_probs.cpu().numpy()
            for i, s, terms in zip(batch, part, rows):
                mask, _ = self.lesson(s, 1, np.zeros(1))
                terms = terms * mask
                positions = np.zeros(self.chunk, np.float32)
                positions[0] = terms.sum()
                actions = self.to_env(self.decode(s.acted.ids)[: self.chunk], s.state)
                out[i] = Acted(actions, positions, terms, s)
        return out

    def _write(self, samples: list[Sample], draws: list[Any], temperature: float) -> list[String]:
        """Tokens one after another, with a cache."""
        full, draws = self.full(samples), self.full(draws)
        device = self.choice.device
        batch = self.tensors(full)
        embedded, padding, seen, _, _ = self.model.embed_prefix_fast(
            batch.images, batch.image_masks, *self._prompt(batch)
        )
        embedded = self._typed(embedded)
        (hidden, _), kept = self.joined.forward(
            attention_mask=prepare_attention_masks_4d(seen, dtype=embedded.dtype),
            position_ids=torch.cumsum(padding, 1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, None],
            use_cache=True,
            adarms_cond=[None, None],
        )
        given = self.start if self.allowed is not None else []
        ids: list[list[int]] = [[] for _ in full]
        done = [False] * len(full)
        for n in range(self.most):
            srpo.heartbeat()
            if n < len(given):
                drawn = [given[n]] * len(full)
            else:
                logits = self._logits(hidden[:, -1])
                if not torch.isfinite(logits).all():
                    raise srpo.Error(
                        "diverged",
                        "the network's output is not finite",
                        hint="start from an earlier checkpoint, and lower the learning rate",
                    )
                rows = logits.double().cpu().numpy()
                drawn = [pick(x, None if d is None else d[n], temperature) for x, d in zip(rows, draws)]
                if self.allowed is not None:
                    drawn = [int(self.allowed[i]) for i in drawn]
            for i, token in enumerate(drawn):
                if not done[i]:
                    ids[i].append(token)
                    done[i] = token == self.end
            if all(done[: len(samples)]) or n == self.most - 1:
                break
            word = torch.tensor(drawn, device=device)[:, None]
            padding = torch.cat([padding, torch.ones_like(word, dtype=torch.bool)], 1)
            step = self._typed(self.joined.embed_language_tokens(word))
            (hidden, _), kept = self.joined.forward(
                attention_mask=prepare_attention_masks_4d(padding[:, None], dtype=step.dtype),
                position_ids=padding.sum(1, keepdim=True) - 1,
                past_key_values=kept,
                inputs_embeds=[step, None],
                use_cache=True,
                adarms_cond=[None, None],
            )
        return [String(np.array(x, np.int64), len(given)) for x in ids[: len(samples)]]

    def batches(self, samples: Sequence[Sample], most: int = 0) -> Iterator[list[int]]:
        groups: dict[int, list[int]] = {}
        for i, s in enumerate(samples):
            groups.setdefault(s.acted.padded, []).append(i)
        for length in sorted(groups):
            for some in self.slices(len(groups[length]), most):
                yield [groups[length][i] for i in some]

    def judge(self, samples: Sequence[Sample], temperature: float) -> Categorical:
        """The distributions that each token of a string was drawn from, for samples of one batch, all at once."""
        full = self.full(samples)
        device = self.choice.device
        batch = self.tensors(full)
        length = full[0].acted.padded
        ids, masks = torch.zeros(len(full), length, dtype=torch.long), torch.zeros(len(full), length, dtype=torch.bool)
        for n, s in enumerate(full):
            ids[n, : len(s.acted.ids)] = torch.from_numpy(s.acted.ids)
            masks[n, : len(s.acted.ids)] = True
        ids, masks = ids.to(device), masks.to(device)
        hidden = self._follow(batch.images, batch.image_masks, *self._prompt(batch), ids, masks)
        scores = torch.log_softmax(self._logits(hidden[:, -length - 1 : -1]) / temperature, -1)
        if self.allowed is not None:
            # Where what was given, or padding, is none of them, the first stands in; `lesson` leaves it out.
            at = torch.searchsorted(self.allowed, ids).clamp(max=len(self.allowed) - 1)
            ids = torch.where(self.allowed[at] == ids, at, 0)
        return Categorical(scores[: len(samples)], ids[: len(samples)])

    def _follow(self, images, image_masks, tokens, masks, ids, known) -> torch.Tensor:
        """Hidden states of a prompt with a string behind it, as in lerobot's training."""
        embedded, padding, seen, _, _ = self.model.embed_prefix_fast(images, image_masks, tokens, masks, ids, known)
        embedded = self._typed(embedded)
        (hidden, _), _ = self.joined.forward(
            attention_mask=prepare_attention_masks_4d(seen, dtype=embedded.dtype),
            position_ids=torch.cumsum(padding, 1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, None],
            use_cache=False,
            adarms_cond=[None, None],
        )
        return hidden

    def learnable(self, sample: Sample) -> bool:
        return True

    def lesson(self, sample: Sample, valid: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mask, advantage), float32 [T] each. Every token has a part in every action (FAST's are frequencies), so as
        soon as one action was executed all tokens that were drawn count, with the mean advantage of the executed ones.
        """
        s = sample.acted
        mask = np.zeros(s.padded, np.float32)
        mask[s.given : len(s.ids)] = valid > 0
        return mask, mask * np.float32(np.mean(values))

    def per_unit(self, terms: int) -> int:
        """Terms that one ratio is made of."""
        return {"chunk": terms, "token": 1}[self.choice.own["ratio"]]

    # Imitation.

    def target(
        self, sample: Sample, actions: np.ndarray, weights: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[Any, float]:
        """What is to be learned at a sample from the env's actions that follow, [N, D], and its share of a batch's
        mean: its tokens. Behind the end of a demonstration the last action is repeated, as lerobot's data sets do it.
        """
        rows = np.minimum(np.arange(self.config.chunk_size), len(actions) - 1)
        tokens = self.fast.encode(self.actions.normal(self.data(actions[rows], sample.state)))
        ids = [self.writer.bos_token_id, *self.start, *self.string(tokens), *self.writer.encode("|")]
        most = self.config.max_action_tokens
        if len(ids) > most:
            raise srpo.Error(
                "invalid",
                f"a chunk of a demonstration has {len(ids)} tokens, the checkpoint takes {most}",
                place=f"{len(actions)} actions",
                hint="raise max_action_tokens in config.json; actions in another unit than the statistics also do it",
            )
        factor = 1.0 if weights is None else float(np.mean(weights))
        return (np.array(ids, np.int64), factor), float(len(ids) - 1)

    def losses(self, part: Sequence[tuple[Sample, Any]]) -> torch.Tensor:
        """float32 [B]: the cross-entropies of a string's tokens, summed."""
        device = self.choice.device
        batch = self.tensors([s for s, _ in part])
        length = max(len(ids) for _, (ids, _) in part)
        ids = torch.zeros(len(part), length, dtype=torch.long)
        known = torch.zeros(len(part), length, dtype=torch.bool)
        for n, (_, (x, _)) in enumerate(part):
            ids[n, : len(x)] = torch.from_numpy(x)
            known[n, : len(x)] = True
        ids, known = ids.to(device), known.to(device)
        hidden = self._follow(*batch.seen, ids, known)
        keep = known[:, 1:]
        logits = self.head(hidden[:, -length:-1][keep])
        each = torch.zeros(keep.shape, dtype=torch.float32, device=device)
        each[keep] = nn.functional.cross_entropy(logits.float(), ids[:, 1:][keep], reduction="none")
        factors = torch.tensor([factor for _, (_, factor) in part], device=device, dtype=torch.float32)
        return each.sum(1) * factors


def pick(logits: np.ndarray, draw: float | None, temperature: float) -> int:
    """An index from logits float64 [V] by a uniform draw (inverse of the cumulative distribution), or the most likely
    one without.
    """
    if draw is None:
        return int(logits.argmax())
    p = np.exp((logits - logits.max()) / temperature).cumsum()
    return int(min((p <= draw * p[-1]).sum(), len(p) - 1))
