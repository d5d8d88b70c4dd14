"""pi0-fast: a chunk of actions as a string of FAST tokens that a language model generates.

A string begins with "Action: " and ends with "|". By default only tokens that such a string can have are drawn: the
beginning is fixed, then FAST's tokens or the end are drawn, and log-probabilities are log_softmax(logits / temperature)
over these tokens. With `vocabulary = "full"` all tokens are drawn from the whole vocabulary, as in lerobot.

BOS follows the prompt, within the part in which all tokens attend to each other, as in lerobot's sampling. In lerobot's
training it is the first of the tokens with causal attention, which gives other log-probabilities. Acting and updates
here use the first form; imitation, which is lerobot's training, uses the second.
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
from vla_lerobot.imitation import Example, states_of
from vla_lerobot.network import Batch, ChosenChunk, Network, NetworkOptions, Sample

# Strings are padded to a multiple of this, so that strings of different length share a forward pass. The padded length
# depends on the string alone, not on the batch.
_BUCKET = 16


@dataclass
class TokenString:
    """A chunk as the model generated it.

    Args:
        ids: int64 [n], token ids of the whole vocabulary, including the end.
        fixed: number of tokens at the beginning that were not drawn.
    """

    ids: np.ndarray
    fixed: int

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes

    @property
    def padded_length(self) -> int:
        return -(-len(self.ids) // _BUCKET) * _BUCKET


class TokenNetwork(Network):
    """pi0-fast. A term of a log-probability is one token."""

    kind, modelling, config_class = "pi0_fast", modeling_pi0_fast, PI0FastConfig
    make_processors = staticmethod(make_pi0_fast_pre_post_processors)

    def __init__(self, folder: str, options: NetworkOptions, env: srpo.EnvSpec):
        super().__init__(folder, options, env)
        own = options.own
        self.max_tokens = own["max_tokens"] or self.config.max_decoding_steps
        if own["attention"] != "auto":
            self.joined.paligemma.model.language_model.config._attn_implementation = own["attention"]
        self.beginning = self.string_tokenizer.encode("Action: ", add_special_tokens=False)
        self.end = self.string_tokenizer.convert_tokens_to_ids("|")
        rows = self.head.out_features
        last = self.string_tokenizer.vocab_size - 1 - self.config.fast_skip_tokens
        if not 0 <= last - self.fast.size + 1 <= last < rows or not 0 <= self.end < rows:
            raise srpo.Error(
                "mismatch",
                f"{self.fast.size} FAST tokens end at token {last} of {rows}",
                place=self.source.folder,
                hint="the tokenizers belong to another model: use PaliGemma's and the checkpoint's FAST tokenizer",
            )
        self.last_fast_id = last  # FAST's token t has the id last_fast_id - t
        ids = [last - t for t in range(self.fast.size)] + [self.end]
        # The ids that can be drawn, int64, sorted; None: all.
        self.allowed = torch.tensor(sorted(ids), device=options.device) if own["vocabulary"] == "action" else None
        if self.allowed is not None and self.max_tokens <= len(self.beginning):
            hint = "256 is usual"
            raise srpo.Error("invalid", f"max_tokens is {self.max_tokens}", place="setting max_tokens", hint=hint)

    @staticmethod
    def build(config: PI0FastConfig, tokenizer: Any) -> nn.Module:
        return modeling_pi0_fast.PI0FastPytorch(config, paligemma_tokenizer=tokenizer)

    @property
    def joined(self) -> Any:
        return self.model.paligemma_with_expert

    @property
    def head(self) -> nn.Module:
        return self.joined.paligemma.lm_head

    def _load_tokenizer(self) -> Any:
        text_tokenizer = super()._load_tokenizer()
        self.string_tokenizer = checkpoint.text_tokenizer(
            self.source.tokenizer, add_eos_token=True, add_bos_token=False
        )
        folder = self.options.own["action_tokenizer"]
        files = checkpoint.tokenizer_files(folder, "") if folder else self.source.action_tokenizer
        files = files if files or folder else self._cached_fast()
        self.fast = Fast(files, folder or self.source.folder)
        self.source.action_tokenizer = files
        return text_tokenizer

    def _cached_fast(self) -> dict[str, bytes]:
        from huggingface_hub import snapshot_download

        try:
            name = self.config.action_tokenizer_name
            folder = name if os.path.isdir(name) else snapshot_download(name, local_files_only=True)
            return checkpoint.tokenizer_files(folder, "")
        except Exception:
            return {}

    def text(self, instruction: str, state: np.ndarray) -> str:
        """As lerobot's Pi0FastPrepareStateAndLanguageTokenizerProcessorStep: the state in 256 bins of [-1, 1]."""
        bins = np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1
        task = instruction.strip().replace("_", " ").replace("\n", " ")
        return f"Task: {task}, State: {' '.join(map(str, bins))};\n"

    # Tokens and actions.

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """Normalised actions float32 [chunk_size, D] of a string: of its tokens before the end, without "Action: "."""
        ids, beginning = list(ids), self.beginning
        if self.end in ids:
            ids = ids[: ids.index(self.end)]
        at = 0
        while at <= len(ids) - len(beginning):
            if ids[at : at + len(beginning)] == beginning:
                del ids[at : at + len(beginning)]
            else:
                at += 1
        return self.fast.decode([self.last_fast_id - i for i in ids], self.config.chunk_size, self.dim)

    # The network.

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the tokens that can be drawn, float32 [..., V]."""
        if self.allowed is None:
            return self.head(hidden).float()
        weight = self.head.weight[self.allowed]
        return nn.functional.linear(hidden.to(weight.dtype), weight).float()

    def _prompt(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch's (tokens, masks) with BOS appended."""
        bos = torch.full((len(batch.tokens), 1), self.tokenizer.bos_token_id, device=batch.tokens.device)
        return torch.cat([batch.tokens, bos], 1), torch.cat([batch.masks, torch.ones_like(bos, dtype=torch.bool)], 1)

    def _cast(self, x: torch.Tensor) -> torch.Tensor:
        """Casts embeddings to the dtype of the language model, as lerobot does."""
        first = self.joined.paligemma.model.language_model.layers[0].self_attn.q_proj.weight
        return x.to(torch.bfloat16) if first.dtype == torch.bfloat16 else x

    @contextlib.contextmanager
    def _eval_mode(self) -> Iterator[None]:
        """Turns gradient checkpointing off, with which there is no cache."""
        training = self.trunk.training
        self.trunk.eval()
        try:
            yield
        finally:
            self.trunk.train(training)

    # Acting.

    @torch.no_grad()
    def act(
        self, samples: Sequence[Sample], seeds: Sequence[int], temperature: float, greedy: bool
    ) -> list[ChosenChunk]:
        """Chooses a chunk for each sample. The log-probability of the whole string is reported for its first action.

        Raises:
            srpo.Error: "diverged" if the network's output is not finite.
        """
        chosen: list[Sample] = []
        with self._eval_mode():
            for some in self.slices(len(samples)):
                part = [samples[i] for i in some]
                draws = [
                    None if greedy else np.random.Generator(np.random.Philox(key=seeds[i])).random(self.max_tokens)
                    for i in some
                ]
                strings = self._generate(part, draws, temperature)
                chosen += [replace(s, chosen=x) for s, x in zip(part, strings)]
        out: list[Any] = [None] * len(samples)
        for batch in self.batches(chosen):
            srpo.report_progress()
            part = [chosen[i] for i in batch]
            # Computed in the same way as in an update.
            rows = self.evaluate_actions(part, temperature).log_probs.cpu().numpy()
            for i, s, terms in zip(batch, part, rows):
                mask, _ = self.mask_and_advantage(s, 1, np.zeros(1))
                terms = terms * mask
                log_probs = np.zeros(self.chunk, np.float32)
                log_probs[0] = terms.sum()
                actions = self.to_env(self.decode(s.chosen.ids)[: self.chunk], s.state)
                out[i] = ChosenChunk(actions, log_probs, terms, s)
        return out

    def _generate(self, samples: list[Sample], draws: list[Any], temperature: float) -> list[TokenString]:
        """Generates tokens one after another, with a cache.

        Args:
            draws: uniform in [0, 1), [max_tokens] for each sample; None: greedy.
        """
        full, draws = self.pad(samples), self.pad(draws)
        device = self.options.device
        batch = self.batch_tensors(full)
        embeddings, padding, attention, _, _ = self.model.embed_prefix_fast(
            batch.images, batch.image_masks, *self._prompt(batch)
        )
        embeddings = self._cast(embeddings)
        (hidden, _), cache = self.joined.forward(
            attention_mask=prepare_attention_masks_4d(attention, dtype=embeddings.dtype),
            position_ids=torch.cumsum(padding, 1) - 1,
            past_key_values=None,
            inputs_embeds=[embeddings, None],
            use_cache=True,
            adarms_cond=[None, None],
        )
        fixed = self.beginning if self.allowed is not None else []
        ids: list[list[int]] = [[] for _ in full]
        done = [False] * len(full)
        for n in range(self.max_tokens):
            srpo.report_progress()
            if n < len(fixed):
                tokens = [fixed[n]] * len(full)
            else:
                logits = self._logits(hidden[:, -1])
                if not torch.isfinite(logits).all():
                    raise srpo.Error(
                        "diverged",
                        "the network's output is not finite",
                        hint="start from an earlier checkpoint, and lower the learning rate",
                    )
                rows = logits.double().cpu().numpy()
                tokens = [draw_token(x, None if d is None else d[n], temperature) for x, d in zip(rows, draws)]
                if self.allowed is not None:
                    tokens = [int(self.allowed[i]) for i in tokens]
            for i, token in enumerate(tokens):
                if not done[i]:
                    ids[i].append(token)
                    done[i] = token == self.end
            if all(done[: len(samples)]) or n == self.max_tokens - 1:
                break
            column = torch.tensor(tokens, device=device)[:, None]
            padding = torch.cat([padding, torch.ones_like(column, dtype=torch.bool)], 1)
            step = self._cast(self.joined.embed_language_tokens(column))
            (hidden, _), cache = self.joined.forward(
                attention_mask=prepare_attention_masks_4d(padding[:, None], dtype=step.dtype),
                position_ids=padding.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                inputs_embeds=[step, None],
                use_cache=True,
                adarms_cond=[None, None],
            )
        return [TokenString(np.array(x, np.int64), len(fixed)) for x in ids[: len(samples)]]

    def batches(self, samples: Sequence[Sample], size: int = 0) -> Iterator[list[int]]:
        groups: dict[int, list[int]] = {}
        for i, s in enumerate(samples):
            groups.setdefault(s.chosen.padded_length, []).append(i)
        for length in sorted(groups):
            for some in self.slices(len(groups[length]), size):
                yield [groups[length][i] for i in some]

    # Updates, see `vla.ppo.Network`.

    def evaluate_actions(self, samples: Sequence[Sample], temperature: float) -> Categorical:
        """The distributions that the tokens of each string were drawn from, for samples of one batch, in one pass."""
        full = self.pad(samples)
        device = self.options.device
        batch = self.batch_tensors(full)
        length = full[0].chosen.padded_length
        ids, masks = torch.zeros(len(full), length, dtype=torch.long), torch.zeros(len(full), length, dtype=torch.bool)
        for n, s in enumerate(full):
            ids[n, : len(s.chosen.ids)] = torch.from_numpy(s.chosen.ids)
            masks[n, : len(s.chosen.ids)] = True
        ids, masks = ids.to(device), masks.to(device)
        hidden = self._teacher_forced(batch.images, batch.image_masks, *self._prompt(batch), ids, masks)
        all_log_probs = torch.log_softmax(self._logits(hidden[:, -length - 1 : -1]) / temperature, -1)
        if self.allowed is not None:
            # Fixed tokens and padding are not among the allowed ones. They get index 0, and the mask excludes them.
            at = torch.searchsorted(self.allowed, ids).clamp(max=len(self.allowed) - 1)
            ids = torch.where(self.allowed[at] == ids, at, 0)
        return Categorical(all_log_probs[: len(samples)], ids[: len(samples)])

    def _teacher_forced(
        self,
        images: list[torch.Tensor],
        image_masks: list[torch.Tensor],
        tokens: torch.Tensor,
        masks: torch.Tensor,
        string_ids: torch.Tensor,
        string_masks: torch.Tensor,
    ) -> torch.Tensor:
        """Hidden states of a prompt followed by a string, as in lerobot's training."""
        embeddings, padding, attention, _, _ = self.model.embed_prefix_fast(
            images, image_masks, tokens, masks, string_ids, string_masks
        )
        embeddings = self._cast(embeddings)
        (hidden, _), _ = self.joined.forward(
            attention_mask=prepare_attention_masks_4d(attention, dtype=embeddings.dtype),
            position_ids=torch.cumsum(padding, 1) - 1,
            past_key_values=None,
            inputs_embeds=[embeddings, None],
            use_cache=False,
            adarms_cond=[None, None],
        )
        return hidden

    def was_drawn(self, sample: Sample) -> bool:
        return True

    def mask_and_advantage(self, sample: Sample, executed: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """FAST's tokens are frequencies, so that each token affects all actions of the chunk. If any action was
        executed, all drawn tokens count, with the mean advantage of the executed actions.
        """
        s = sample.chosen
        mask = np.zeros(s.padded_length, np.float32)
        mask[s.fixed : len(s.ids)] = executed > 0
        return mask, mask * np.float32(np.mean(values))

    def terms_per_ratio(self, terms: int) -> int:
        return {"chunk": terms, "token": 1}[self.options.own["ratio"]]

    # Imitation.

    def _chunk(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Normalised actions [chunk_size, D] of the env's actions [N, D], of which the last one is repeated."""
        rows = np.minimum(np.arange(self.config.chunk_size), len(actions) - 1)
        return self.actions.normalise(self.to_data(actions[rows], state))

    def check_examples(self, examples: Sequence[Example]) -> None:
        """Checks that the tokens of every chunk are decoded to the chunk's own coefficients.

        Raises:
            srpo.Error: "invalid" if the FAST tokenizer cannot represent a chunk.
        """
        chunks, lost = 0, []
        for e in examples:
            srpo.report_progress()
            states = states_of(self, e)
            for t in range(len(e.actions)):
                why = self.fast.lost(self._chunk(e.actions[t : t + self.config.chunk_size], states[t]))
                chunks += 1
                if why:
                    lost.append((f"demonstration {e.id}, step {t}", why))
        if lost:
            place, why = lost[0]
            raise srpo.Error(
                "invalid",
                f"the FAST tokenizer cannot represent {len(lost)} of {chunks} chunks of the demonstrations: {why}",
                place=place,
                hint="use the published tokenizer (lerobot/fast-action-tokenizer), or one that was fitted to more "
                "demonstrations; for coefficients far out of range, check that actions and statistics have the same "
                "units",
            )

    def imitation_target(
        self, sample: Sample, actions: np.ndarray, weights: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[Any, float]:
        """The target is (token ids, factor); the weight is the number of tokens that are predicted.

        Raises:
            srpo.Error: "invalid" for actions that need too many tokens.
        """
        tokens = self.fast.encode(self._chunk(actions, sample.state))
        fast_ids = [self.last_fast_id - t for t in tokens]
        writer = self.string_tokenizer
        ids = [writer.bos_token_id, *self.beginning, *fast_ids, *writer.encode("|")]
        limit = self.config.max_action_tokens
        if len(ids) > limit:
            raise srpo.Error(
                "invalid",
                f"a chunk of a demonstration has {len(ids)} tokens, the checkpoint takes {limit}",
                place=f"{len(actions)} actions",
                hint="raise max_action_tokens in config.json, or check that actions and statistics have the same units",
            )
        factor = 1.0 if weights is None else float(np.mean(weights))
        return (np.array(ids, np.int64), factor), float(len(ids) - 1)

    def imitation_losses(self, part: Sequence[tuple[Sample, Any]]) -> torch.Tensor:
        """The sum of the cross-entropies of each string's tokens."""
        device = self.options.device
        batch = self.batch_tensors([s for s, _ in part])
        length = max(len(ids) for _, (ids, _) in part)
        ids = torch.zeros(len(part), length, dtype=torch.long)
        masks = torch.zeros(len(part), length, dtype=torch.bool)
        for n, (_, (x, _)) in enumerate(part):
            ids[n, : len(x)] = torch.from_numpy(x)
            masks[n, : len(x)] = True
        ids, masks = ids.to(device), masks.to(device)
        hidden = self._teacher_forced(*batch.prefix, ids, masks)
        keep = masks[:, 1:]
        logits = self.head(hidden[:, -length:-1][keep])
        losses = torch.zeros(keep.shape, dtype=torch.float32, device=device)
        losses[keep] = nn.functional.cross_entropy(logits.float(), ids[:, 1:][keep], reduction="none")
        factors = torch.tensor([factor for _, (_, factor) in part], device=device, dtype=torch.float32)
        return losses.sum(1) * factors


def draw_token(logits: np.ndarray, draw: float | None, temperature: float) -> int:
    """Draws an index by the inverse of the cumulative distribution.

    Args:
        logits: float64 [V].
        draw: uniform in [0, 1); None: the most likely index.
    """
    if draw is None:
        return int(logits.argmax())
    p = np.exp((logits - logits.max()) / temperature).cumsum()
    return int(min((p <= draw * p[-1]).sum(), len(p) - 1))
