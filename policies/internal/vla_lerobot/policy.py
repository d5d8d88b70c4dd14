"""pi0 and pi0-fast as srpo policies: acting, updates, imitation, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import srpo_sdk as srpo
import torch
from safetensors.torch import save_file

from vla import lora, optimiser, ppo, training_state
from vla.learner import Learner
from vla_lerobot import checkpoint, imitation, normalise
from vla_lerobot.network import Choice, Network


class PiPolicy(Learner):
    """One model, in one process or one a device."""

    network_class: type[Network]
    make_tiny: Callable[[str, int, srpo.EnvSpec, int], None]
    own: tuple[str, ...]  # settings that only its network knows

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        with self._opening():
            self.choice = self._choice()
            self.network = self._open()
            self._new_optimiser()

    # How the settings are read.

    def _choice(self) -> Choice:
        s = self.settings
        device = self._device()
        cuda = device.type == "cuda"
        return Choice(
            dtype=self._dtype(device),
            device=device,
            micro_batch=s["micro_batch"] or (8 if cuda else 1),
            compile=s["compile"],
            checkpointing=s["gradient_checkpointing"],
            rank=s["lora_rank"],
            alpha=s["lora_alpha"],
            expert=self._expert(),
            statistics=s["statistics"],
            seed=self.config.seed % 2**63,
            chunk=s["chunk"],
            cameras=s["cameras"],
            relative=s["relative"],
            tokenizer=s["tokenizer"],
            own={name: s[name] for name in self.own},
        )

    def _expert(self) -> bool:
        """Whether only pi0's action expert learns."""
        return False

    def _open(self) -> Network:
        if not self.settings["preset"]:
            folder = checkpoint.locate(self.settings["checkpoint"])
            return self.network_class(folder, self.choice, self.config.env)
        with self._scratch() as folder:
            type(self).make_tiny(folder, self.config.seed % 2**63, self.config.env, self.settings["chunk"] or 8)
            return self.network_class(folder, self.choice, self.config.env)

    def _new_optimiser(self) -> None:
        self.optimiser = optimiser.Optimiser(
            self.network.trunk, self.settings, self.settings["offload_optimizer"], self.group
        )

    def describe(self) -> srpo.PolicySpec:
        return srpo.PolicySpec(
            cameras=[(name, 0, 0) for name in dict.fromkeys(self.network.cameras)],
            chunk=self.network.chunk,
            proprio=len(self.config.env.proprio) > 0,
            parameters=self.network.parameters,
            weighs_steps=True,
        )

    # Acting.

    def act(self, items: list[srpo.ActItem], sampling: srpo.Sampling) -> list[srpo.ActResult]:
        """Actions are clipped to the env's range; log-probabilities are of what was chosen, before that."""
        self._usable()
        temperature = sampling.temperature if sampling.temperature > 0 else 1.0
        samples = [self._sample(item) for item in items]
        chosen = self._chosen(samples, [i.seed for i in items], temperature, sampling.greedy)
        results, records = [], []
        for item, acted in zip(items, chosen):
            actions = np.clip(acted.actions, self.space.low, self.space.high).astype(np.float32)
            results.append(srpo.ActResult(actions, acted.positions.astype(np.float32)))
            records.append(ppo.Record(item.step, acted.sample, acted.terms))
        if sampling.record:
            self._keep(items, records)
        return results

    def _sample(self, item: srpo.ActItem) -> Any:
        place = f"episode {item.trajectory}, step {item.step}"
        frames = []
        for camera in self.network.cameras:
            picture = item.observation.images.get(camera)
            if picture is None:
                raise srpo.Error(
                    "invalid",
                    f"no picture from camera {camera!r}, only from {sorted(item.observation.images)}",
                    place=place,
                    hint=f"set policy.{self.name}.cameras to cameras of the env",
                )
            if 0 in picture.shape:
                raise srpo.Error("invalid", f"the picture of camera {camera!r} is {list(picture.shape)}", place=place)
            frames.append(picture)
        try:
            return self.network.sample(frames, item.observation.proprio, item.observation.instruction)
        except srpo.Error as e:
            raise e.at(place) from e

    # Learning.

    def imitate(
        self,
        imitate: srpo.Imitate,
        demonstrations: Iterator[srpo.Demonstration],
        progress: Callable[[float, float], None],
    ) -> None:
        """See `imitation`. Afterwards the optimiser is fresh, the result is the starting policy of the KL term, and
        recorded chunks are forgotten.
        """
        self._usable()
        s, network = self.settings, self.network
        examples = imitation.collect(network, demonstrations, s["demo_mb"], self.name)
        old = network.source.statistics
        if s["statistics"] == "compute" or (s["statistics"] == "auto" and not network.measured):
            acted, states = imitation.windows(network, examples)
            measured = {normalise.ACTION: normalise.measure(acted), normalise.STATE: normalise.measure(states)}
            self.crew.all("use_statistics", {**old, **measured})
        try:
            with self._undone("imitation"):
                self.crew.all("fresh")
                training = imitation.Imitation(
                    network,
                    self.crew,
                    self._or("imitate_lr", 2.5e-5, 1e-3),
                    self._or("imitate_batch", 32, 8),
                    s["imitate_micro_batch"] or (self.choice.micro_batch if self.choice.device.type == "cuda" else 8),
                    1 / 30,
                    1.0 if s["imitate_decay"] == "none" else 0.1,
                    self.name,
                )
                steps = imitate.steps or self._or("imitate_steps", 30000, 300)
                training.run(examples, steps, imitate.seed, progress)
        except BaseException:
            self.crew.all("use_statistics", old)
            raise
        self.crew.all("anew")
        self.forget([])

    def _imitation_loss(self, batch: list[Any], whole: float) -> torch.Tensor:
        return self.network.losses(batch).sum() / whole

    # Checkpoints.

    def save(self, folder: str) -> None:
        """Writes lerobot's files, with adapters merged, `lora_adapter` in peft's format, and `srpo_state`."""
        self._usable()
        net, c = self.network, self.choice
        whole = not c.rank or self.settings["save_merged"]
        checkpoint.write(folder, net.source, net.weights() if whole else None, net.make_processors, net.tokenizer)
        if net.trunk.noise is not None:
            save_file(
                {n: t.detach().cpu().contiguous() for n, t in net.trunk.noise.state_dict().items()},
                net._noise_file(folder),
            )
        if c.rank:
            base = self.settings["checkpoint"] or self.settings["preset"]
            lora.write(net.trunk, os.path.join(folder, training_state.ADAPTER), c.rank, c.alpha, base)
        self._write_state(folder, c.rank, c.alpha, net.fingerprint if c.rank else "")

    def _taken(self, folder: str) -> Network:
        return self.network_class(folder, self.choice, self.config.env)

    def _take_adapter(self, folder: str) -> None:
        net = self.network
        source = checkpoint.read_source(folder, net.kind, net.config_class)
        lora.read(net.trunk, os.path.join(folder, training_state.ADAPTER))
        net._read_noise(folder)
        net.use_statistics(source.statistics)
