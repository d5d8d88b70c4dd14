"""OpenVLA as an srpo policy: acting, updates, imitation, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import srpo_sdk as srpo
import torch

import actions
import checkpoint
import image_processing
import imitation
import tiny
from network import Network, NetworkOptions, Sample
from vla import lora, optimiser, ppo, training_state
from vla.learner import Learner

PRESETS = {"tiny": "openvla-oft", "tiny-openvla": "openvla"}


class OpenVLAPolicy(Learner):
    """One model, in one process or in one process per device."""

    name = "openvla"

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        try:
            self.camera = config.env.camera(self.settings["camera"]).name
        except srpo.Error as e:
            raise e.at("policy openvla, setting camera") from e
        with self._opening():
            self.options = self._network_options()
            self.network = self._open_network()
            self._new_optimiser()

    # Settings.

    def _network_options(self) -> NetworkOptions:
        s = self.settings
        device = self._device()
        cuda = device.type == "cuda"
        dtype = self._dtype(device)
        if s["compile"] and self._sharded:
            raise srpo.Error(
                "unsupported",
                'compile with shard = "weights": compiled code cannot gather the weights of one block at a time',
                place="policy openvla, setting shard",
                hint='turn compile off, or leave shard = "optimiser" if the whole network can be trained on each GPU',
            )
        rank, alpha = s["lora_rank"], s["lora_alpha"]
        if rank < 0:
            rank = 0 if s["preset"] else 32
        if s["adapter"] and s["adapter_mode"] == "keep":
            rank, alpha = lora.read_config(s["adapter"])
        return NetworkOptions(
            kind=s["kind"],
            chunk=s["chunk"],
            causal=s["mask"] == "causal",
            attention=s["attention"],
            dtype=dtype,
            device=device,
            micro_batch=s["micro_batch"] or (8 if cuda else 1),
            unnorm_key=s["unnorm_key"],
            libero=actions.libero_gripper(s["gripper"], self.space),
            jpeg=s["jpeg"],
            crop=s["center_crop"],
            compile=s["compile"],
            rank=rank,
            alpha=alpha,
            seed=self.config.seed % 2**63,
            dim=self.space.dim,
            statistics=s["statistics"],
        )

    def _open_network(self) -> Network:
        s = self.settings
        if s["preset"]:
            with self._temporary_folder() as folder:
                statistics = actions.range_statistics(self.space, self.options.libero, "tiny")
                tiny.write(folder, self.config.seed % 2**63, PRESETS[s["preset"]], statistics, s["chunk"] or 8)
                return self._load_network(folder)
        return self._load_network(checkpoint.locate(s["checkpoint"]))

    def _load_network(self, folder: str) -> Network:
        adapter, keep = self.settings["adapter"], self.settings["adapter_mode"] == "keep"
        if not adapter or keep:
            network = Network(folder, self.options, self.space)
            if adapter:
                lora.load(network.model, adapter)
            return network
        rank, alpha = lora.read_config(adapter)
        network = Network(folder, NetworkOptions(**{**vars(self.options), "rank": rank, "alpha": alpha}), self.space)
        lora.load(network.model, adapter)
        lora.merge(network.model)
        network.fingerprint += lora.fingerprint(adapter)
        network.options = self.options
        network.model.requires_grad_(True)
        if self.options.rank:
            lora.add_adapters(network.model, self.options.rank, self.options.alpha, self.options.seed)
        return network

    @property
    def _sharded(self) -> bool:
        return self.settings["shard"] == "weights" and self.processes.size > 1

    def join(self) -> None:
        super().join()
        if self._sharded:
            self.ranks.lockstep = ("ppo_gradient", "imitation_gradient")
            self._new_optimiser()

    def gather_weights(self) -> None:
        if self.network.sharded:
            with self.processes.collective(), self._memory_errors("gathering the weights of all processes"):
                self.network.sharded.gather()

    def shard_weights(self) -> None:
        if self.network.sharded:
            self.network.sharded.shard()

    def _new_optimiser(self) -> None:
        if self._sharded:
            if not self.ranks.lockstep:  # not before `join`, which calls this method again
                return
            self.network.shard()
        if self.settings["gradient_checkpointing"]:
            self.network.model.set_gradient_checkpointing(True)
            # transformers checkpoints in training mode only. The model has no dropout that this mode would turn on.
            self.network.model.language_model.train()
        self.optimiser = optimiser.Optimiser(
            self.network.model, self.settings, self.settings["offload_optimizer"], self.processes
        )

    def describe(self) -> srpo.PolicySpec:
        return srpo.PolicySpec(
            cameras=[(self.camera, 0, 0)],
            chunk=self.network.chunk,
            parameters=self.network.parameters,
            weighs_steps=True,
        )

    # Acting.

    def act(self, items: list[srpo.ActItem], sampling: srpo.Sampling) -> list[srpo.ActResult]:
        """Log-probabilities are sums over an action's tokens, over the 256 action tokens at the call's temperature.
        Actions are clipped to the env's range.
        """
        self._check_usable()
        temperature = sampling.temperature if sampling.temperature > 0 else 1.0
        samples = [self._sample(item) for item in items]
        chosen = self._choose_on_all_ranks(samples, [i.seed for i in items], temperature, sampling.greedy)
        dim = self.network.normaliser.dim
        results, chunks = [], []
        for item, sample, (tokens, log_probs) in zip(items, samples, chosen):
            acted = np.clip(self.network.env_actions(tokens), self.space.low, self.space.high)
            results.append(srpo.ActResult(acted.astype(np.float32), log_probs.reshape(-1, dim).sum(1)))
            recorded = Sample(sample.frame, sample.ids, tokens.astype(np.int64))
            chunks.append(ppo.RecordedChunk(item.step, recorded, log_probs))
        if sampling.record:
            self._record(items, chunks)
        return results

    def _sample(self, item: srpo.ActItem) -> Sample:
        place = f"episode {item.trajectory}, step {item.step}"
        image = item.observation.images.get(self.camera)
        if image is None:
            raise srpo.Error(
                "invalid",
                f"no image from camera {self.camera!r}, only from {sorted(item.observation.images)}",
                place=place,
                hint="set policy.openvla.camera to a camera of the env",
            )
        if 0 in image.shape:
            raise srpo.Error("invalid", f"the image of camera {self.camera!r} is {list(image.shape)}", place=place)
        frame = image_processing.preprocess(image, self.options.jpeg, self.options.crop)
        try:
            return Sample(frame, self.network.prompt(item.observation.instruction))
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
        examples = imitation.collect(network, demonstrations, self.camera, s["demo_mb"])
        previous = network.source.statistics
        if s["statistics"] == "compute" or (s["statistics"] == "auto" and not network.has_data_statistics):
            everything = np.concatenate([e.actions for e in examples])
            computed = actions.compute_statistics(everything, self.options.libero, network.key, len(examples))
            self.ranks.call_all("use_statistics", {**previous, **computed})
        try:
            with self._undo_on_failure("imitation"):
                self.ranks.call_all("reset_optimiser")
                cuda = self.options.device.type == "cuda"
                training = imitation.Imitation(
                    network,
                    self.ranks,
                    lr=self._setting("imitate_lr", 5e-4, 1e-3),
                    batch=self._setting("imitate_batch", 8, 4),
                    micro_batch=s["imitate_micro_batch"] or (self.options.micro_batch if cuda else 4),
                    cosine=self._setting("imitate_decay", "none", "cosine") == "cosine",
                    augment=self._setting("augment", "on", "off") == "on",
                )
                steps = imitate.steps or self._setting("imitate_steps", 2000, 300)
                training.run(examples, steps, imitate.seed, progress)
        except BaseException:
            self.ranks.call_all("use_statistics", previous)
            raise
        self.ranks.call_all("reset_training_state")
        self.forget([])

    def _imitation_loss(self, batch: list[Any], weight_sum: float) -> torch.Tensor:
        vocabulary = self._setting("imitate_tokens", "vocabulary", "actions") == "vocabulary"
        return self.network.model(lambda: imitation.loss(self.network, batch, weight_sum, vocabulary))

    # Checkpoints.

    def save(self, folder: str) -> None:
        """Writes the published files with adapters merged, `lora_adapter` in peft's format, and `srpo_state`."""
        self._check_usable()
        self.ranks.call_all("gather_weights")
        network, options = self.network, self.options
        own = {"kind": network.kind, "chunk": network.chunk, "unnorm_key": network.key}
        old = network.source
        source = checkpoint.Source(folder, {**old.config, "srpo": own}, old.statistics, old.carried)
        weights, sizes = network.weights() if not options.rank or self.settings["save_merged"] else ([], {})
        checkpoint.write(folder, source, weights, sizes, self.settings["shard_mb"] * 10**6, srpo.report_progress)
        if options.rank:
            base = self.settings["checkpoint"] or self.settings["preset"]
            adapter_folder = os.path.join(folder, training_state.ADAPTER_FOLDER)
            lora.save(network.model, adapter_folder, options.rank, options.alpha, base)
        fingerprint = network.fingerprint if options.rank else ""
        self._save_training_state(folder, options.rank, options.alpha, fingerprint)

    def _load_whole_network(self, folder: str) -> Network:
        network = Network(folder, NetworkOptions(**{**vars(self.options), "statistics": "keep"}), self.space)
        network.options = self.options
        return network

    def _load_adapter(self, folder: str) -> None:
        lora.load(self.network.model, os.path.join(folder, training_state.ADAPTER_FOLDER))
        self.network.use_statistics(checkpoint.read_source(folder).statistics)
