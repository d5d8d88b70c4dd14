"""pi0: actions by flow matching, made random so that they have log-probabilities.

lerobot's network predicts the velocity v(x, t) from noise (t = 1) to actions (t = 0). It is integrated in K steps of
delta = 1 / K. With x0 = x - v t and x1 = x + v (1 - t), the next x is Gaussian with

    mean = (1 - (t - delta)) x0 + w1 x1                        (pi_RL, arXiv 2510.25889)
    ODE         w1 = t - delta                                 std 0
    Flow-SDE    w1 = t - delta - sigma^2 delta / (2 t)         std sqrt(delta) sigma, sigma = a sqrt(t / (1 - t)),
                where 1 - t of the first step is that of the second
    Flow-Noise  w1 = t - delta                                 std from a small network, 0.08 to 0.16

By default one random step of a chunk is stochastic and the others follow the ODE. The log-probability of a chunk is
that of this step's Gaussian over the executed actions. The temperature multiplies a, or the std of Flow-Noise.
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

from vla_lerobot.network import Batch, ChosenChunk, Network, NetworkOptions, Sample

LOW, HIGH = 0.08, 0.16  # bounds of Flow-Noise's std


@dataclass
class DenoisingChain:
    """The stochastic steps of a chunk.

    Args:
        steps: int64 [n], counted from the noise; empty for a greedy chunk.
        before, after: the chunk before and after each of the steps, normalised and padded, float32 [n, C, A].
    """

    steps: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.steps.nbytes + self.before.nbytes + self.after.nbytes


@dataclass
class Gaussian:
    """Independent normal distributions at chosen values. Terms are sums over the n stochastic steps.

    Args:
        mean, std, chosen: float32 [B, n, T].
    """

    mean: torch.Tensor
    std: torch.Tensor
    chosen: torch.Tensor

    @property
    def log_probs(self) -> torch.Tensor:
        z = (self.chosen - self.mean) / self.std
        return (-0.5 * z * z - torch.log(self.std) - 0.5 * math.log(2 * math.pi)).sum(1)

    def entropy(self) -> torch.Tensor:
        return (torch.log(self.std) + 0.5 * math.log(2 * math.pi * math.e)).sum(1)

    def kl(self, reference: Gaussian) -> torch.Tensor:
        """KL(self || reference), exact: log(s0 / s) + (s^2 + (m - m0)^2) / (2 s0^2) - 1/2."""
        ratio = self.std / reference.std
        return (-torch.log(ratio) + 0.5 * (ratio**2 + ((self.mean - reference.mean) / reference.std) ** 2) - 0.5).sum(1)


class NoiseHead(nn.Module):
    """Flow-Noise's std from the expert's features. The log-variance is between those of LOW and HIGH."""

    def __init__(self, width: int, dim: int, seed: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, dim))
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers[::2]:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.layers[-1].weight)  # starts in the middle of the bounds

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[..., width] to float32 [..., dim]."""
        low, high = 2 * math.log(LOW), 2 * math.log(HIGH)
        share = (torch.tanh(self.layers(features.float())) + 1) / 2
        return torch.exp(0.5 * (low + (high - low) * share))


def _use_sdpa(layers: nn.ModuleList) -> None:
    """Makes layers use torch's fused attention. lerobot sets the implementation in the layers' shared config before
    each step, so each layer's attention gets a copy of the config.
    """

    def cast_mask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        hidden, mask = kwargs.get("hidden_states"), kwargs.get("attention_mask")
        hidden = args[0] if hidden is None else hidden
        return args, {**kwargs, "attention_mask": None if mask is None else mask.to(hidden.dtype)}

    for layer in layers:
        layer.self_attn.config = copy.copy(layer.self_attn.config)
        layer.self_attn.config._attn_implementation = "sdpa"
        layer.self_attn.register_forward_pre_hook(cast_mask, with_kwargs=True)


class FlowNetwork(Network):
    """pi0. A term of a log-probability is one number of one action."""

    kind, modelling, config_class = "pi0", modeling_pi0, PI0Config
    make_processors = staticmethod(make_pi0_pre_post_processors)

    def __init__(self, folder: str, options: NetworkOptions, env: srpo.EnvSpec):
        own = options.own
        self.flow_noise = own["method"] == "flow-noise"
        super().__init__(folder, options, env)
        self.steps = own["denoise_steps"] or self.config.num_inference_steps
        for part in (self.joined.paligemma.model.language_model, self.joined.gemma_expert.model):
            part.config._attn_implementation = "eager"  # as lerobot sets it before acting
            if own["attention"] == "sdpa":
                _use_sdpa(part.layers)
        rng = np.random.Generator(np.random.Philox(key=0))
        self.greedy_noise = rng.standard_normal((self.config.chunk_size, self.config.max_action_dim), np.float32)

    @staticmethod
    def build(config: PI0Config, tokenizer: Any) -> nn.Module:
        return modeling_pi0.PI0Pytorch(config)

    def _new_noise(self) -> nn.Module | None:
        if not self.flow_noise:
            return None
        sizes = self.source.sizes
        width = sizes.expert_width if sizes else modeling_pi0.get_gemma_config(self.config.action_expert_variant).width
        return NoiseHead(width, self.config.max_action_dim, self.options.seed)

    def load_noise(self, folder: str) -> None:
        path = self.noise_file(folder)
        if self.trunk.noise is not None and os.path.isfile(path):
            try:
                self.trunk.noise.load_state_dict(load_file(path))
            except Exception as e:
                hint = "remove the file to start with a new noise head"
                raise srpo.Error("corrupt", f"cannot be read: {e}", place=path, hint=hint) from e

    def _is_used(self, name: str) -> bool:
        return "lm_head" not in name  # pi0 generates no text

    @property
    def joined(self) -> Any:
        return self.model.paligemma_with_expert

    def text(self, instruction: str, state: np.ndarray) -> str:
        return instruction if instruction.endswith("\n") else f"{instruction}\n"

    # The velocity.

    def _prefix(self, batch: Batch) -> Any:
        """What all steps share: (state, padding mask, keys and values). With gradient checkpointing there is no cache,
        and the last element is (embeddings, attention kinds).
        """
        m = self.model
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.options.expert_only):
            embeddings, padding, kinds = m.embed_prefix(*batch.prefix)
            if self.options.gradient_checkpointing:
                return batch.state, padding, (embeddings, kinds)
            _, cache = self.joined.forward(
                attention_mask=prepare_attention_masks_4d(make_att_2d_masks(padding, kinds)),
                position_ids=torch.cumsum(padding, 1) - 1,
                past_key_values=None,
                inputs_embeds=[embeddings, None],
                use_cache=True,
            )
        return batch.state, padding, cache

    def _velocity(self, prefix: Any, x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(v [B, C, A], the expert's features [B, C, W]) at x [B, C, A] and t [B]."""
        state, padding, rest = prefix
        features = []
        hook = self.model.action_out_proj.register_forward_pre_hook(lambda _, args: features.append(args[0]))
        try:
            if not self.options.gradient_checkpointing:
                v = self.model.denoise_step(state, padding, rest, x, t)
            else:
                v = self._joint_velocity(state, padding, *rest, x, t)
        finally:
            hook.remove()
        return v, features[-1]

    def _joint_velocity(
        self,
        state: torch.Tensor,
        padding: torch.Tensor,
        embeddings: torch.Tensor,
        kinds: torch.Tensor,
        x: torch.Tensor,
        t: torch.Tensor,
    ) -> torch.Tensor:
        """The velocity in one pass over prefix and actions, as in lerobot's training, which can be checkpointed."""
        m = self.model
        suffix, suffix_padding, suffix_kinds, _ = m.embed_suffix(state, x, t)
        if self.joined.paligemma.model.language_model.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16:
            suffix, embeddings = suffix.to(torch.bfloat16), embeddings.to(torch.bfloat16)
        padding = torch.cat([padding, suffix_padding], 1)
        mask = make_att_2d_masks(padding, torch.cat([kinds, suffix_kinds], 1))
        (_, out), _ = self.joined.forward(
            attention_mask=prepare_attention_masks_4d(mask),
            position_ids=torch.cumsum(padding, 1) - 1,
            past_key_values=None,
            inputs_embeds=[embeddings, suffix],
            use_cache=False,
            adarms_cond=[None, None],
        )
        return m.action_out_proj(out[:, -self.config.chunk_size :].to(torch.float32))

    def _next_distribution(
        self, v: torch.Tensor, features: torch.Tensor, x: torch.Tensor, k: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean, std), each [B, C, A], of the next x if step k [B] is stochastic."""
        delta = 1 / self.steps
        t = (1 - k.to(x) * delta)[:, None, None]
        if self.flow_noise:
            return x - delta * v, temperature * self.trunk.noise(features)
        one_minus_t = torch.where(k[:, None, None] == 0, delta, 1 - t)
        sigma = temperature * self.options.own["noise_level"] * torch.sqrt(t / one_minus_t)
        x0, x1 = x - v * t, x + v * (1 - t)
        mean = x0 * (1 - (t - delta)) + x1 * (t - delta - sigma**2 * delta / (2 * t))
        return mean, (math.sqrt(delta) * sigma).expand_as(mean)

    # Acting.

    @torch.no_grad()
    def act(
        self, samples: Sequence[Sample], seeds: Sequence[int], temperature: float, greedy: bool
    ) -> list[ChosenChunk]:
        """Chooses a chunk for each sample. Greedy chunks follow the ODE from a fixed noise; their log-probability is 0.

        Raises:
            srpo.Error: "diverged" if the network's output is not finite.
        """
        out: list[ChosenChunk] = []
        for some in self.slices(len(samples)):
            srpo.report_progress()
            part = [samples[i] for i in some]
            draws = [None if greedy else self._draw(seeds[i]) for i in some]
            prefix, chains, chunks = self._integrate(part, draws, temperature)
            if not all(np.isfinite(c).all() for c in chunks):
                raise srpo.Error(
                    "diverged",
                    "the network's output is not finite",
                    hint="start from an earlier checkpoint, and lower the learning rate",
                )
            chosen = [replace(s, chosen=c) for s, c in zip(part, chains)]
            if greedy:
                terms = np.zeros((len(part), self.chunk * self.dim), np.float32)
            else:
                # Computed in the same way as in an update.
                reused = None if self.options.gradient_checkpointing else prefix
                terms = self.evaluate_actions(chosen, temperature, reused).log_probs.cpu().numpy()
            for s, x, row in zip(chosen, chunks, terms):
                actions = self.to_env(x[: self.chunk, : self.dim], s.state)
                out.append(ChosenChunk(actions, row.reshape(self.chunk, self.dim).sum(1), row, s))
        return out

    def _draw(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(initial noise [C, A], stochastic steps [n], their noises [n, C, A]) from the seed of an item."""
        rng = np.random.Generator(np.random.Philox(key=seed))
        shape = self.greedy_noise.shape
        initial = rng.standard_normal(shape, np.float32)
        steps = np.arange(self.steps) if self.options.own["stochastic"] == "all" else rng.integers(self.steps, size=1)
        return initial, steps, rng.standard_normal((len(steps), *shape), np.float32)

    def _integrate(
        self, samples: list[Sample], draws: list[Any], temperature: float
    ) -> tuple[Any, list[DenoisingChain], list[np.ndarray]]:
        """Integrates from noise to actions.

        Args:
            draws: what `_draw` returned for each sample; None: greedy.

        Returns:
            (prefix, the stochastic steps of each sample, the chunk of each sample [C, A]).
        """
        full, draws = self.pad(samples), self.pad(draws)
        device = self.options.device
        prefix = self._prefix(self.batch_tensors(full))
        x = torch.from_numpy(np.stack([self.greedy_noise if d is None else d[0] for d in draws])).to(device)
        recorded: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in samples]
        dt = -1.0 / self.steps
        for k in range(self.steps):
            t = torch.tensor(1.0 + k * dt, dtype=torch.float32, device=device).expand(len(full))
            v, features = self._velocity(prefix, x, t)
            after = x + dt * v
            # The items of which this step is stochastic, with the index of the step's noise.
            stochastic = {
                i: int(np.flatnonzero(d[1] == k)[0]) for i, d in enumerate(draws) if d is not None and k in d[1]
            }
            if stochastic:
                step = torch.full((len(full),), k, device=device)
                mean, std = self._next_distribution(v, features, x, step, temperature)
                for i, n in stochastic.items():
                    noise = torch.from_numpy(draws[i][2][n]).to(device)
                    after[i] = mean[i] + std[i] * noise
                    if i < len(samples):
                        recorded[i].append((k, x[i].cpu().numpy(), after[i].cpu().numpy()))
            x = after
        empty = np.zeros((0, *self.greedy_noise.shape), np.float32)
        chains = [
            DenoisingChain(
                np.array([k for k, _, _ in rows], np.int64),
                np.stack([b for _, b, _ in rows]) if rows else empty,
                np.stack([a for _, _, a in rows]) if rows else empty,
            )
            for rows in recorded
        ]
        return prefix, chains, [row.cpu().numpy() for row in x[: len(samples)]]

    # Updates, see `vla.ppo.Network`.

    def evaluate_actions(self, samples: Sequence[Sample], temperature: float, prefix: Any = None) -> Gaussian:
        """The Gaussians of the recorded stochastic steps, for samples of one batch.

        Args:
            prefix: what `_prefix` returned for the samples; None: it is computed.
        """
        full = self.pad(samples)
        device = self.options.device
        prefix = prefix or self._prefix(self.batch_tensors(full))
        rows = []
        for n in range(len(full[0].chosen.steps)):
            k = torch.tensor([int(s.chosen.steps[n]) for s in full], device=device)
            before = torch.from_numpy(np.stack([s.chosen.before[n] for s in full])).to(device)
            after = torch.from_numpy(np.stack([s.chosen.after[n] for s in full])).to(device)
            v, features = self._velocity(prefix, before, 1.0 + k.to(torch.float32) * (-1.0 / self.steps))
            mean, std = self._next_distribution(v, features, before, k, temperature)
            rows.append([z[: len(samples), : self.chunk, : self.dim].flatten(1) for z in (mean, std, after)])
        mean, std, chosen = (torch.stack(z, 1) for z in zip(*rows))
        return Gaussian(mean, std, chosen)

    def was_drawn(self, sample: Sample) -> bool:
        return len(sample.chosen.steps) > 0

    def mask_and_advantage(self, sample: Sample, executed: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask, advantage = np.zeros((2, self.chunk, self.dim), np.float32)
        mask[:executed] = 1
        advantage[:executed] = np.broadcast_to(values, executed)[:, None]
        return mask.reshape(-1), advantage.reshape(-1)

    def terms_per_ratio(self, terms: int) -> int:
        return {"chunk": terms, "action": self.dim, "element": 1}[self.options.own["ratio"]]

    # Imitation.

    def imitation_target(
        self, sample: Sample, actions: np.ndarray, weights: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[Any, float]:
        """The target is (normalised actions [C, A], factors [C], noise [C, A], time); all weights are 1."""
        c = self.config
        rows = np.minimum(np.arange(c.chunk_size), len(actions) - 1)
        goal = np.zeros((c.chunk_size, c.max_action_dim), np.float32)
        goal[:, : self.dim] = self.actions.normalise(self.to_data(actions[rows], sample.state))
        factor = np.ones(c.chunk_size, np.float32) if weights is None else np.asarray(weights, np.float32)[rows]
        noise = rng.standard_normal(goal.shape, np.float32)
        time = rng.beta(c.time_sampling_beta_alpha, c.time_sampling_beta_beta)
        return (goal, factor, noise, np.float32(time * c.time_sampling_scale + c.time_sampling_offset)), 1.0

    def imitation_losses(self, part: Sequence[tuple[Sample, Any]]) -> torch.Tensor:
        """lerobot's flow-matching loss, as the mean over the chunk and the env's action dimensions."""
        device = self.options.device
        batch = self.batch_tensors([s for s, _ in part])
        goal, factor, noise = (torch.from_numpy(np.stack([x[n] for _, x in part])).to(device) for n in range(3))
        time = torch.tensor(np.array([x[3] for _, x in part]), device=device)
        loss = self.model.forward(*batch.prefix, batch.state, goal, noise, time)
        return (loss[:, :, : self.dim].mean(2) * factor).mean(1)
