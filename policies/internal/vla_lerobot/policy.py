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
from vla_lerobot.network import Network, NetworkOptions, Sample


class PiPolicy(Learner):
    """One model, in one process or in one process per device."""

    network_class: type[Network]
    write_tiny: Callable[[str, int, srpo.EnvSpec, int], None]  # (folder, seed, env, chunk): writes the preset
    own_settings: tuple[str, ...]  # names of the settings that only network_class uses

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        with self._opening():
            self.options = self._network_options()
            self.network = self._open_network()
            self._new_optimiser()

    # Settings.

    def _network_options(self) -> NetworkOptions:
        s = self.settings
        device = self._device()
        cuda = device.type == "cuda"
        return NetworkOptions(
            dtype=self._dtype(device),
            device=device,
            micro_batch=s["micro_batch"] or (8 if cuda else 1),
            compile=s["compile"],
            gradient_checkpointing=s["gradient_checkpointing"],
            rank=s["lora_rank"],
            alpha=s["lora_alpha"],
            expert_only=self._expert_only(),
            statistics=s["statistics"],
            seed=self.config.seed % 2**63,
            chunk=s["chunk"],
            cameras=s["cameras"],
            relative=s["relative"],
            tokenizer=s["tokenizer"],
            own={name: s[name] for name in self.own_settings},
        )

    def _expert_only(self) -> bool:
        """Whether only pi0's action expert is trained."""
        return False

    def _open_network(self) -> Network:
        if not self.settings["preset"]:
            folder = checkpoint.locate(self.settings["checkpoint"])
            return self.network_class(folder, self.options, self.config.env)
        with self._temporary_folder() as folder:
            chunk = self.settings["chunk"] or 8
            type(self).write_tiny(folder, self.config.seed % 2**63, self.config.env, chunk)
            return self.network_class(folder, self.options, self.config.env)

    def _new_optimiser(self) -> None:
        self.optimiser = optimiser.Optimiser(
            self.network.trunk, self.settings, self.settings["offload_optimizer"], self.processes
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
        """Actions are clipped to the env's range. Log-probabilities are those of the actions before clipping."""
        self._check_usable()
        temperature = sampling.temperature if sampling.temperature > 0 else 1.0
        samples = [self._sample(item) for item in items]
        chosen = self._choose_on_all_ranks(samples, [i.seed for i in items], temperature, sampling.greedy)
        results, chunks = [], []
        for item, c in zip(items, chosen):
            actions = np.clip(c.actions, self.space.low, self.space.high).astype(np.float32)
            results.append(srpo.ActResult(actions, c.log_probs.astype(np.float32)))
            chunks.append(ppo.RecordedChunk(item.step, c.sample, c.term_log_probs))
        if sampling.record:
            self._record(items, chunks)
        return results

    def _sample(self, item: srpo.ActItem) -> Sample:
        place = f"episode {item.trajectory}, step {item.step}"
        frames = []
        for camera in self.network.cameras:
            image = item.observation.images.get(camera)
            if image is None:
                raise srpo.Error(
                    "invalid",
                    f"no image from camera {camera!r}, only from {sorted(item.observation.images)}",
                    place=place,
                    hint=f"set policy.{self.name}.cameras to cameras of the env",
                )
            if 0 in image.shape:
                raise srpo.Error("invalid", f"the image of camera {camera!r} is {list(image.shape)}", place=place)
            frames.append(image)
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
        """See `imitation`. Afterwards the optimiser is reset, the KL reference is the result, and recorded chunks are
        forgotten.
        """
        self._check_usable()
        s, network = self.settings, self.network
        examples = imitation.collect(network, demonstrations, s["demo_mb"], self.name)
        previous = network.source.statistics
        if s["statistics"] == "compute" or (s["statistics"] == "auto" and not network.has_data_statistics):
            actions, states = imitation.statistics_data(network, examples)
            computed = {
                normalise.ACTION: normalise.compute_statistics(actions),
                normalise.STATE: normalise.compute_statistics(states),
            }
            self.ranks.call_all("use_statistics", {**previous, **computed})
        try:
            with self._undo_on_failure("imitation"):
                network.check_examples(examples)
                self.ranks.call_all("reset_optimiser")
                cuda = self.options.device.type == "cuda"
                training = imitation.Imitation(
                    network,
                    self.ranks,
                    lr=self._setting("imitate_lr", 2.5e-5, 1e-3),
                    batch=self._setting("imitate_batch", 32, 8),
                    micro_batch=s["imitate_micro_batch"] or (self.options.micro_batch if cuda else 8),
                    warm_up=1 / 30,
                    final=1.0 if s["imitate_decay"] == "none" else 0.1,
                    name=self.name,
                )
                steps = imitate.steps or self._setting("imitate_steps", 30000, 300)
                training.run(examples, steps, imitate.seed, progress)
        except BaseException:
            self.ranks.call_all("use_statistics", previous)
            raise
        self.ranks.call_all("reset_training_state")
        self.forget([])

    def _imitation_loss(self, batch: list[Any], weight_sum: float) -> torch.Tensor:
        return self.network.imitation_losses(batch).sum() / weight_sum

    # Checkpoints.

    def save(self, folder: str) -> None:
        """Writes lerobot's files with adapters merged, `lora_adapter` in peft's format, and `srpo_state`."""
        self._check_usable()
        network, options = self.network, self.options
        weights = network.weights() if not options.rank or self.settings["save_merged"] else None
        checkpoint.write(folder, network.source, weights, network.make_processors, network.tokenizer)
        if network.trunk.noise is not None:
            save_file(
                {n: t.detach().cpu().contiguous() for n, t in network.trunk.noise.state_dict().items()},
                network.noise_file(folder),
            )
        if options.rank:
            base = self.settings["checkpoint"] or self.settings["preset"]
            adapter_folder = os.path.join(folder, training_state.ADAPTER_FOLDER)
            lora.save(network.trunk, adapter_folder, options.rank, options.alpha, base)
        fingerprint = network.fingerprint if options.rank else ""
        self._save_training_state(folder, options.rank, options.alpha, fingerprint)

    def _load_whole_network(self, folder: str) -> Network:
        return self.network_class(folder, self.options, self.config.env)

    def _load_adapter(self, folder: str) -> None:
        network = self.network
        source = checkpoint.read_source(folder, network.kind, network.config_class)
        lora.load(network.trunk, os.path.join(folder, training_state.ADAPTER_FOLDER))
        network.load_noise(folder)
        network.use_statistics(source.statistics)
