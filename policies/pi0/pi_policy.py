"""pi0 and pi0-fast as srpo policies: acting, updates, imitation, checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import srpo_sdk as srpo
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import checkpoint
import imitation
import learning
import lora
import normalise
import optimiser
from learner import Learner
from pi_network import Choice, Network

STATE = "srpo_state"  # folder beside lerobot's files: optimiser, starting policy
ADAPTER = "lora_adapter"


class PiPolicy(Learner):
    """One process with one model."""

    network_class: type[Network]
    make_tiny: Callable[[str, int, srpo.EnvSpec, int], None]
    own: tuple[str, ...]  # settings that only its network knows

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        with self._memory("loading the model"):
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
        self.optimiser = optimiser.Optimiser(self.network.trunk, self.settings, self.settings["offload_optimizer"])

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
        with self._memory(f"acting on {len(items)} observations"):
            chosen = self.network.act(samples, [i.seed for i in items], temperature, sampling.greedy)
        results, records = [], []
        for item, acted in zip(items, chosen):
            actions = np.clip(acted.actions, self.space.low, self.space.high).astype(np.float32)
            results.append(srpo.ActResult(actions, acted.positions.astype(np.float32)))
            records.append(learning.Record(item.step, acted.sample, acted.terms))
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
            network.use_statistics(
                {**old, normalise.ACTION: normalise.measure(acted), normalise.STATE: normalise.measure(states)}
            )
        try:
            with self._undone("imitation"):
                self.optimiser.fresh()
                training = imitation.Imitation(
                    network,
                    self.optimiser,
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
            network.use_statistics(old)
            raise
        self.optimiser.fresh()
        self.start = None
        self.forget([])

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
            lora.write(net.trunk, os.path.join(folder, ADAPTER), c.rank, c.alpha, base)
        tensors, steps = self.optimiser.state()
        tensors = dict(tensors)
        if self.start is not None:
            tensors.update({f"start.{n}": t for n, t in self.start.items()})
        place = os.path.join(folder, STATE)
        os.mkdir(place)
        save_file(
            {n: t.detach().contiguous().cpu() for n, t in tensors.items()}, os.path.join(place, "state.safetensors")
        )
        with open(os.path.join(place, "state.json"), "w", encoding="utf-8") as f:
            json.dump(
                {
                    "format": 1,
                    "base": net.fingerprint if c.rank else "",
                    "rank": c.rank,
                    "alpha": c.alpha,
                    "steps": steps,
                    "names": list(self.optimiser.parameters),
                    "start": self.start is not None,
                },
                f,
            )

    def load(self, folder: str) -> None:
        """Restores what save wrote. What learns must be the same (LoRA of the same rank on the same base, or the same
        parameters); else the folder's whole weights are the new base, with a fresh optimiser, and the log says so.

        Raises:
            srpo.Error: nothing has changed then.
        """
        with self._memory(f"loading {folder}"):
            state, tensors = self._read_state(folder)
            c = self.choice
            same = state["rank"] == c.rank and state["names"] == list(self.optimiser.parameters)
            same = same and (not c.rank or (state["base"], state["alpha"]) == (self.network.fingerprint, c.alpha))
            old = self.network, self.optimiser, self.start
            try:
                if same and c.rank:
                    keep, statistics = optimiser.Keep(self.optimiser, 1 << 62), self.network.source.statistics
                    try:
                        lora.read(self.network.trunk, os.path.join(folder, ADAPTER))
                        self.network._read_noise(folder)
                        source = checkpoint.read_source(folder, self.network.kind, self.network.config_class)
                        self.network.use_statistics(source.statistics)
                        self._new_optimiser()
                        self.optimiser.restore(tensors, state["steps"])
                    except BaseException:
                        keep.back()
                        self.network.use_statistics(statistics)
                        raise
                else:
                    self.network = self.network_class(folder, self.choice, self.config.env)
                    self._new_optimiser()
                    if same:
                        self.optimiser.restore(tensors, state["steps"])
                self.start = None
                if same:
                    names = [n for n in state["names"] if state["start"]]
                    self.start = {n: tensors[f"start.{n}"] for n in names} or None
                    if self.start and not self.settings["offload_optimizer"]:
                        self.start = {n: t.to(c.device) for n, t in self.start.items()}
                else:
                    print(f"{folder} was trained in another way: its weights are the new base, the optimiser is fresh")
            except BaseException as e:
                self.network, self.optimiser, self.start = old
                if isinstance(e, (KeyError, RuntimeError)):
                    raise srpo.Error(
                        "corrupt", f"does not fit together: {e}", place=folder, hint="go back to an earlier checkpoint"
                    ) from e
                raise
        self.broken = ""
        self.forget([])

    def _read_state(self, folder: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        place = os.path.join(folder, STATE)
        try:
            with open(os.path.join(place, "state.json"), encoding="utf-8") as f:
                state = json.load(f)
            tensors = load_file(os.path.join(place, "state.safetensors"))
            if state["format"] != 1 or not {"rank", "alpha", "base", "steps", "names", "start"} <= set(state):
                raise ValueError(f"format {state['format']}, want 1")
            return state, tensors
        except FileNotFoundError as e:
            raise srpo.Error(
                "not found",
                "not a folder that this policy was saved in",
                place=place,
                hint=f"for a lerobot checkpoint set policy.{self.name}.checkpoint instead",
            ) from e
        except (ValueError, KeyError, TypeError, SafetensorError) as e:
            raise srpo.Error(
                "corrupt", f"cannot be read: {e}", place=place, hint="go back to an earlier checkpoint"
            ) from e
