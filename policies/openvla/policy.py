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
import imitation
import pictures
import tiny
from network import Choice, Network, Sample
from vla import lora, optimiser, ppo, training_state
from vla.learner import Learner

PRESETS = {"tiny": "openvla-oft", "tiny-openvla": "openvla"}


class OpenVLAPolicy(Learner):
    """One model, in one process or one a device."""

    name = "openvla"

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        try:
            self.camera = config.env.camera(self.settings["camera"]).name
        except srpo.Error as e:
            raise e.at("policy openvla, setting camera") from e
        with self._opening():
            self.choice = self._choice()
            self.network = self._open()
            self._new_optimiser()

    # How the settings are read.

    def _choice(self) -> Choice:
        s = self.settings
        device = self._device()
        cuda = device.type == "cuda"
        dtype = self._dtype(device)
        if s["compile"] and self._sharded:
            raise srpo.Error(
                "unsupported",
                'compile with shard = "weights": what is compiled in one piece does not wait for weights from others',
                place="policy openvla, setting shard",
                hint='turn compile off, or leave shard = "optimiser" where the whole network can learn on each GPU',
            )
        rank, alpha = s["lora_rank"], s["lora_alpha"]
        if rank < 0:
            rank = 0 if s["preset"] else 32
        if s["adapter"] and s["adapter_mode"] == "keep":
            rank, alpha = lora.config(s["adapter"])
        return Choice(
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

    def _open(self) -> Network:
        s = self.settings
        if s["preset"]:
            with self._scratch() as folder:
                stats = actions.ranges(self.space, self.choice.libero, "tiny")
                tiny.make(folder, self.config.seed % 2**63, PRESETS[s["preset"]], stats, s["chunk"] or 8)
                return self._load_network(folder)
        return self._load_network(checkpoint.locate(s["checkpoint"]))

    def _load_network(self, folder: str) -> Network:
        adapter, keep = self.settings["adapter"], self.settings["adapter_mode"] == "keep"
        if not adapter or keep:
            network = Network(folder, self.choice, self.space)
            if adapter:
                lora.read(network.model, adapter)
            return network
        rank, alpha = lora.config(adapter)
        network = Network(folder, Choice(**{**vars(self.choice), "rank": rank, "alpha": alpha}), self.space)
        lora.read(network.model, adapter)
        lora.merge(network.model)
        network.fingerprint += lora.fingerprint(adapter)
        network.choice = self.choice
        network.model.requires_grad_(True)
        if self.choice.rank:
            lora.adapt(network.model, self.choice.rank, self.choice.alpha, self.choice.seed)
        return network

    @property
    def _sharded(self) -> bool:
        return self.settings["shard"] == "weights" and self.group.size > 1

    def join(self) -> None:
        super().join()
        if self._sharded:
            self.crew.lockstep = ("ppo", "teach")
            self._new_optimiser()

    def whole(self) -> None:
        if self.network.shards:
            with self.group.together(), self._memory("bringing the weights of all processes together"):
                self.network.shards.whole()

    def divided(self) -> None:
        if self.network.shards:
            self.network.shards.divided()

    def _new_optimiser(self) -> None:
        if self._sharded:
            if not self.crew.lockstep:  # `join` comes later
                return
            self.network.divide()
        if self.settings["gradient_checkpointing"]:
            self.network.model.checkpoint_gradients(True)
            # transformers computes activations twice in training mode only; there is no dropout that it would turn on.
            self.network.model.language_model.train()
        self.optimiser = optimiser.Optimiser(
            self.network.model, self.settings, self.settings["offload_optimizer"], self.group
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
        """Log-probabilities are of the tokens, over the 256 action tokens, at the call's temperature. Actions are
        clipped to the env's range.
        """
        self._usable()
        temperature = sampling.temperature if sampling.temperature > 0 else 1.0
        samples = [self._sample(item) for item in items]
        chosen = self._chosen(samples, [i.seed for i in items], temperature, sampling.greedy)
        dim = self.network.normaliser.dim
        results, records = [], []
        for item, sample, (tokens, scores) in zip(items, samples, chosen):
            acted = np.clip(self.network.env_actions(tokens), self.space.low, self.space.high)
            results.append(srpo.ActResult(acted.astype(np.float32), scores.reshape(-1, dim).sum(1)))
            seen = Sample(sample.frame, sample.ids, tokens.astype(np.int64))
            records.append(ppo.Record(item.step, seen, scores))
        if sampling.record:
            self._keep(items, records)
        return results

    def _sample(self, item: srpo.ActItem) -> Sample:
        place = f"episode {item.trajectory}, step {item.step}"
        picture = item.observation.images.get(self.camera)
        if picture is None:
            raise srpo.Error(
                "invalid",
                f"no picture from camera {self.camera!r}, only from {sorted(item.observation.images)}",
                place=place,
                hint="set policy.openvla.camera to a camera of the env",
            )
        if 0 in picture.shape:
            raise srpo.Error("invalid", f"the picture of camera {self.camera!r} is {list(picture.shape)}", place=place)
        frame = pictures.frame(picture, self.choice.jpeg, self.choice.crop)
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
        """See `imitation`. Afterwards the optimiser is fresh, the result is the starting policy of the KL term, and
        recorded chunks are forgotten.
        """
        self._usable()
        s, network = self.settings, self.network
        examples = imitation.collect(network, demonstrations, self.camera, s["demo_mb"])
        old = network.source.statistics
        if s["statistics"] == "compute" or (s["statistics"] == "auto" and not network.measured):
            everything = np.concatenate([e.actions for e in examples])
            measured = actions.measure(everything, self.choice.libero, network.key, len(examples))
            self.crew.all("use_statistics", {**old, **measured})
        try:
            with self._undone("imitation"):
                self.crew.all("fresh")
                cosine = self._or("imitate_decay", "none", "cosine") == "cosine"
                training = imitation.Imitation(
                    network,
                    self.crew,
                    self._or("imitate_lr", 5e-4, 1e-3),
                    self._or("imitate_batch", 8, 4),
                    s["imitate_micro_batch"] or (self.choice.micro_batch if self.choice.device.type == "cuda" else 4),
                    cosine,
                    self._or("augment", "on", "off") == "on",
                )
                steps = imitate.steps or self._or("imitate_steps", 2000, 300)
                training.run(examples, steps, imitate.seed, progress)
        except BaseException:
            self.crew.all("use_statistics", old)
            raise
        self.crew.all("anew")
        self.forget([])

    def _imitation_loss(self, batch: list[Any], whole: float) -> torch.Tensor:
        vocabulary = self._or("imitate_tokens", "vocabulary", "actions") == "vocabulary"
        return self.network.model(lambda: imitation.loss(self.network, batch, whole, vocabulary))

    # Checkpoints.

    def save(self, folder: str) -> None:
        """Writes the published files, with adapters merged, `lora_adapter` in peft's format, and `srpo_state`."""
        self._usable()
        self.crew.all("whole")
        net, c = self.network, self.choice
        own = {"kind": net.kind, "chunk": net.chunk, "unnorm_key": net.key}
        source = checkpoint.Source(
            folder, {**net.source.config, "srpo": own}, net.source.statistics, net.source.carried
        )
        weights, sizes = net.weights() if not c.rank or self.settings["save_merged"] else ([], {})
        checkpoint.write(folder, source, weights, sizes, self.settings["shard_mb"] * 10**6, srpo.heartbeat)
        if c.rank:
            base = self.settings["checkpoint"] or self.settings["preset"]
            lora.write(net.model, os.path.join(folder, training_state.ADAPTER), c.rank, c.alpha, base)
        self._write_state(folder, c.rank, c.alpha, net.fingerprint if c.rank else "")

    def _taken(self, folder: str) -> Network:
        network = Network(folder, Choice(**{**vars(self.choice), "statistics": "keep"}), self.space)
        network.choice = self.choice
        return network

    def _take_adapter(self, folder: str) -> None:
        lora.read(self.network.model, os.path.join(folder, training_state.ADAPTER))
        self.network.use_statistics(checkpoint.read_source(folder).statistics)
