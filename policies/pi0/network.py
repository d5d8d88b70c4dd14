"""pi0: actions by flow matching, made random so that they have log-probabilities.

lerobot's network gives the velocity v(x, t) from noise (t = 1) to actions (t = 0). In K steps of delta = 1 / K, with
x0 = x - v t and x1 = x + v (1 - t), the next x is Gaussian with

    mean = (1 - (t - delta)) x0 + w1 x1          (pi_RL, arXiv 2510.25889; in this notation as its reference code)
    ODE         w1 = t - delta                                 std 0
    Flow-SDE    w1 = t - delta - sigma^2 delta / (2 t)         std sqrt(delta) sigma, sigma = a sqrt(t / (1 - t)),
                where 1 - t of the first step is that of the second
    Flow-Noise  w1 = t - delta                                 std from a small network, 0.08 to 0.16

By default one random step of a chunk is stochastic and the others follow the ODE; its log-probability is that of the
step's Gaussian over the executed actions. Temperature multiplies a, or Flow-Noise's std.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import srpo_sdk as srpo
import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0.processor_pi0 import make_pi0_pre_post_processors
from safetensors.torch import load_file
from torch import nn

from vla_lerobot.network import Acted, Batch, Network, Sample

LOW, HIGH = 0.08, 0.16  # of Flow-Noise's std


@dataclass
class Chain:
    """The stochastic steps of a chunk.

    Args:
        steps: int64 [n], counted from the noise; empty: a greedy chunk.
        before, after: float32 [n, C, A], the chunk before and after each of them, normalised and padded.
    """

    steps: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @property
    def bytes(self) -> int:
        return self.steps.nbytes + self.before.nbytes + self.after.nbytes


@dataclass
class Gaussian:
    """Elementwise normal distributions at what was chosen, [B, n, T] each; terms are summed over n stochastic steps."""

    mean: torch.Tensor
    std: torch.Tensor
    chosen: torch.Tensor

    @property
    def log_probs(self) -> torch.Tensor:
        z = (self.chosen - self.mean) / self.std
        return (-0.5 * z * z - torch.log(self.std) - 0.5 * math.log(2 * math.pi)).sum(1)

    def entropy(self) -> torch.Tensor:
        return (torch.log(self.std) + 0.5 * math.log(2 * math.pi * math.e)).sum(1)

    def kl(self, start: Gaussian) -> torch.Tensor:
        """Exact: log(s0 / s) + (s^2 + (m - m0)^2) / (2 s0^2) - 1/2."""
        ratio = self.std / start.std
        return (-torch.log(ratio) + 0.5 * (ratio**2 + ((self.mean - start.mean) / start.std) ** 2) - 0.5).sum(1)


class NoiseHead(nn.Module):
    """Flow-Noise's std from the expert's features: layers of 128 and 64, log-variance between those of LOW and HIGH."""

    def __init__(self, width: int, dim: int, seed: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, dim))
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers[::2]:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.layers[-1].weight)  # begins in the middle

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        low, high = 2 * math.log(LOW), 2 * math.log(HIGH)
        share = (torch.tanh(self.layers(features.float())) + 1) / 2
        return torch.exp(0.5 * (low + (high - low) * share))


def _sdpa(layers: nn.ModuleList) -> None:
    """Makes layers use torch's fused attention. lerobot sets its own choice in the config that they share before every
    step, so their attention gets a config of its own.
    """

    def typed(module: nn.Module, given: tuple, named: dict) -> tuple[tuple, dict]:
        hidden, mask = named.get("hidden_states"), named.get("attention_mask")
        hidden = given[0] if hidden is None else hidden
        return given, {**named, "attention_mask": None if mask is None else mask.to(hidden.dtype)}

    for layer in layers:
        layer.self_attn.config = copy.copy(layer.self_attn.config)
        layer.self_attn.config._attn_implementation = "sdpa"
        layer.self_attn.register_forward_pre_hook(typed, with_kwargs=True)


class FlowNetwork(Network):
    """pi0. A term of the log-probability is one number of one executed action."""

    kind, module, config_class = "pi0", modeling_pi0, PI0Config
    make_processors = staticmethod(make_pi0_pre_post_processors)

    def __init__(self, folder: str, choice: Any, env: srpo.EnvSpec):
        own = choice.own
        self.noisy = own["method"] == "flow-noise"
        super().__init__(folder, choice, env)
        self.steps = own["denoise_steps"] or self.config.num_inference_steps
        for part in (self.joined.paligemma.model.language_model, self.joined.gemma_expert.model):
            part.config._attn_implementation = "eager"  # as lerobot does before it acts
            if own["attention"] == "sdpa":
                _sdpa(part.layers)
        still = np.random.Generator(np.random.Philox(key=0))
        self.still = still.standard_normal((self.config.chunk_size, self.config.max_action_dim), np.float32)

    @staticmethod
    def build(config: PI0Config, tokenizer: Any) -> nn.Module:
        return modeling_pi0.PI0Pytorch(config)

    def _noise(self) -> nn.Module | None:
        if not self.noisy:
            return None
        sizes = self.source.sizes
        width = sizes.expert_width if sizes else modeling_pi0.get_gemma_config(self.config.action_expert_variant).width
        return NoiseHead(width, self.config.max_action_dim, self.choice.seed)

    def _read_noise(self, folder: str) -> None:
        path = self._noise_file(folder)
        if self.trunk.noise is not None and os.path.isfile(path):
            try:
                self.trunk.noise.load_state_dict(load_file(path))
            except Exception as e:
                raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint="remove it to begin anew") from e

    def _learns(self, name: str) -> bool:
        return "lm_head" not in name  # pi0 writes no text

    @property
    def joined(self) -> Any:
        return self.model.paligemma_with_expert

    def text(self, instruction: str, state: np.ndarray) -> str:
        return instruction if instruction.endswith("\n") else f"{instruction}\n"

    # The velocity.

    def _prefix(self, batch: Batch) -> Any:
        """What all steps share: (state, padding, keys and values); for gradient checkpointing the embeddings."""
        m = self.model
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.choice.expert):
            embedded, padding, kinds = m.embed_prefix(*batch.seen)
            if self.choice.checkpointing:
                return batch.state, padding, (embedded, kinds)
            seen = prepare_attention_masks_4d(make_att_2d_masks(padding, kinds))
            _, kept = self.joined.forward(
                attention_mask=seen,
                position_ids=torch.cumsum(padding, 1) - 1,
                past_key_values=None,
                inputs_embeds=[embedded, None],
                use_cache=True,
            )
        return batch.state, padding, kept

    def _velocity(self, prefix: Any, x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(v [B, C, A], the expert's features [B, C, W]) at x [B, C, A] and t [B]."""
        state, padding, kept = prefix
        features = []
        hook = self.model.action_out_proj.register_forward_pre_hook(lambda _, given: features.append(given[0]))
        try:
            if not self.choice.checkpointing:
                v = self.model.denoise_step(state, padding, kept, x, t)
            else:
                v = self._joint(state, padding, *kept, x, t)
        finally:
            hook.remove()
        return v, features[-1]

    def _joint(self, state, padding, embedded, kinds, x, t) -> torch.Tensor:
        """The velocity in one pass over prefix and actions, as in lerobot's training: the way that can compute
        activations twice.
        """
        m = self.model
        suffix, own_padding, own_kinds, _ = m.embed_suffix(state, x, t)
        if self.joined.paligemma.model.language_model.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16:
            suffix, embedded = suffix.to(torch.bfloat16), embedded.to(torch.bfloat16)
        pads = torch.cat([padding, own_padding], 1)
        both = make_att_2d_masks(pads, torch.cat([kinds, own_kinds], 1))
        (_, out), _ = self.joined.forward(
            attention_mask=prepare_attention_masks_4d(both),
            position_ids=torch.cumsum(pads, 1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, suffix],
            use_cache=False,
            adarms_cond=[None, None],
        )
        return m.action_out_proj(out[:, -self.config.chunk_size :].to(torch.float32))

    def _step(
        self, v: torch.Tensor, features: torch.Tensor, x: torch.Tensor, k: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean, std) of the next x, [B, C, A], when step k [B] is stochastic."""
        delta = 1 / self.steps
        t = (1 - k.to(x) * delta)[:, None, None]
        if self.noisy:
            return x - delta * v, temperature * self.trunk.noise(features)
        behind = torch.where(k[:, None, None] == 0, delta, 1 - t)
        sigma = temperature * self.choice.own["noise_level"] * torch.sqrt(t / behind)
        x0, x1 = x - v * t, x + v * (1 - t)
        mean = x0 * (1 - (t - delta)) + x1 * (t - delta - sigma**2 * delta / (2 * t))
        return mean, (math.sqrt(delta) * sigma).expand_as(mean)

    # Acting.

    @torch.no_grad()
    def act(self, samples: Sequence[Sample], seeds: Sequence[int], temperature: float, greedy: bool) -> list[Acted]:
        """One chunk for each sample. Greedy ones follow the ODE from one fixed noise, and have log-probability 0."""
        out: list[Acted] = []
        for some in self.slices(len(samples)):
            srpo.heartbeat()
            part = [samples[i] for i in some]
            draws = [None if greedy else self._draw(seeds[i]) for i in some]
            prefix, chains, chunks = self._integrate(part, draws, temperature)
            if not all(np.isfinite(c).all() for c in chunks):
                raise srpo.Error(
                    "diverged",
                    "the network's output is not finite",
                    hint="start from an earlier checkpoint, and lower the learning rate",
                )
            chosen = [replace(s, acted=c) for s, c in zip(part, chains)]
            if greedy:
                terms = np.zeros((len(part), self.chunk * self.dim), np.float32)
            else:
                # The way in which an update computes them.
                seen = None if self.choice.checkpointing else prefix
                terms = self.judge(chosen, temperature, seen).log_probs.cpu().numpy()
            for s, x, row in zip(chosen, chunks, terms):
                actions = self.to_env(x[: self.chunk, : self.dim], s.state)
                out.append(Acted(actions, row.reshape(self.chunk, self.dim).sum(1), row, s))
        return out

    def _draw(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(first noise [C, A], stochastic steps [n], their noises [n, C, A]) of an item's seed."""
        rng = np.random.Generator(np.random.Philox(key=seed))
        shape = self.still.shape
        first = rng.standard_normal(shape, np.float32)
        steps = np.arange(self.steps) if self.choice.own["stochastic"] == "all" else rng.integers(self.steps, size=1)
        return first, steps, rng.standard_normal((len(steps), *shape), np.float32)

    def _integrate(
        self, samples: list[Sample], draws: list[Any], temperature: float
    ) -> tuple[Any, list[Chain], list[np.ndarray]]:
        full, draws = self.full(samples), self.full(draws)
        device = self.choice.device
        prefix = self._prefix(self.tensors(full))
        x = torch.from_numpy(np.stack([self.still if d is None else d[0] for d in draws])).to(device)
        kept: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in samples]
        dt = -1.0 / self.steps
        for k in range(self.steps):
            t = torch.tensor(1.0 + k * dt, dtype=torch.float32, device=device).expand(len(full))
            v, features = self._velocity(prefix, x, t)
            after = x + dt * v
            places = {i: int(np.flatnonzero(d[1] == k)[0]) for i, d in enumerate(draws) if d is not None and k in d[1]}
            if places:
                where = torch.full((len(full),), k, device=device)
                mean, std = self._step(v, features, x, where, temperature)
                for i, n in places.items():
                    noise = torch.from_numpy(draws[i][2][n]).to(device)
                    after[i] = mean[i] + std[i] * noise
                    if i < len(samples):
                        kept[i].append((k, x[i].cpu().numpy(), after[i].cpu().numpy()))
            x = after
        empty = np.zeros((0, *self.still.shape), np.float32)
        chains = [
            Chain(
                np.array([k for k, _, _ in rows], np.int64),
                np.stack([b for _, b, _ in rows]) if rows else empty,
                np.stack([a for _, _, a in rows]) if rows else empty,
            )
            for rows in kept
        ]
        return prefix, chains, [row.cpu().numpy() for row in x[: len(samples)]]

    def judge(self, samples: Sequence[Sample], temperature: float, prefix: Any = None) -> Gaussian:
        """The Gaussians of the recorded stochastic steps, for samples of one batch; prefix: theirs, if it is there."""
        full = self.full(samples)
        device = self.choice.device
        prefix = prefix or self._prefix(self.tensors(full))
        rows = []
        for n in range(len(full[0].acted.steps)):
            k = torch.tensor([int(s.acted.steps[n]) for s in full], device=device)
            x = torch.from_numpy(np.stack([s.acted.before[n] for s in full])).to(device)
            y = torch.from_numpy(np.stack([s.acted.after[n] for s in full])).to(device)
            v, features = self._velocity(prefix, x, 1.0 + k.to(torch.float32) * (-1.0 / self.steps))
            mean, std = self._step(v, features, x, k, temperature)
            rows.append([z[: len(samples), : self.chunk, : self.dim].flatten(1) for z in (mean, std, y)])
        mean, std, chosen = (torch.stack(z, 1) for z in zip(*rows))
        return Gaussian(mean, std, chosen)

    def learnable(self, sample: Sample) -> bool:
        """Whether the sample was chosen at random, so that an update can be made of it."""
        return len(sample.acted.steps) > 0

    def lesson(self, sample: Sample, valid: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mask, advantage), float32 [T] each, when the first `valid` actions were executed; values [1] or [valid]."""
        mask, advantage = np.zeros((2, self.chunk, self.dim), np.float32)
        mask[:valid] = 1
        advantage[:valid] = np.broadcast_to(values, valid)[:, None]
        return mask.reshape(-1), advantage.reshape(-1)

    def per_unit(self, terms: int) -> int:
        """Terms that one ratio is made of."""
        return {"chunk": terms, "action": self.dim, "element": 1}[self.choice.own["ratio"]]

    # Imitation.

    def target(
        self, sample: Sample, actions: np.ndarray, weights: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[Any, float]:
        """What is to be learned at a sample from the env's actions that follow, [N, D], and its share of a batch's
        mean. Behind the end of a demonstration the last action is repeated, as lerobot's data sets do it.
        """
        c = self.config
        rows = np.minimum(np.arange(c.chunk_size), len(actions) - 1)
        goal = np.zeros((c.chunk_size, c.max_action_dim), np.float32)
        goal[:, : self.dim] = self.actions.normal(self.data(actions[rows], sample.state))
        factor = np.ones(c.chunk_size, np.float32) if weights is None else np.asarray(weights, np.float32)[rows]
        noise = rng.standard_normal(goal.shape, np.float32)
        time = rng.beta(c.time_sampling_beta_alpha, c.time_sampling_beta_beta)
        return (goal, factor, noise, np.float32(time * c.time_sampling_scale + c.time_sampling_offset)), 1.0

    def losses(self, part: Sequence[tuple[Sample, Any]]) -> torch.Tensor:
        """float32 [B]: lerobot's flow-matching loss, the mean over the action's own dimensions and the chunk."""
        device = self.choice.device
        batch = self.tensors([s for s, _ in part])
        goal, factor, noise = (torch.from_numpy(np.stack([x[n] for _, x in part])).to(device) for n in range(3))
        time = torch.tensor(np.array([x[3] for _, x in part]), device=device)
        loss = self.model.forward(*batch.seen, batch.state, goal, noise, time)
        return (loss[:, :, : self.dim].mean(2) * factor).mean(1)
