"""The base class of policies with torch: recorded chunks, updates that can be undone, checkpoints, processes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import srpo_sdk as srpo
import torch

from vla import optimiser, ppo, ranks, training_state


class Learner(srpo.Policy):
    """A policy with a network, an optimiser of its trainable parameters, and a reference policy for the KL term.

    All randomness comes from the seeds of calls. Subclasses open the network, act, imitate, save and load.

    The plugin runs as one process or as several (`vla.ranks`). `act`, `update`, `imitate`, `save` and `load` are called
    on rank 0. The methods under "Commands" run on every rank, called by rank 0 through `self.ranks`.
    """

    name: str  # of the plugin
    network: ppo.Network
    optimiser: optimiser.Optimiser

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        self.settings = {n: _resolve_path(n, v) if isinstance(v, str) else v for n, v in config.settings.items()}
        if config.env is None:
            raise srpo.Error(
                "invalid",
                "no env was named",
                place=f"policy {self.name}",
                hint="the env's actions and cameras are needed; with srpo plugin test give --env",
            )
        self.processes = ranks.ProcessGroup(config.rank, config.world_size, config.rendezvous)
        self.ranks = ranks.RankGroup(self)
        self.space = config.env.action
        torch.set_num_threads(self.settings["threads"])
        self.records: dict[str, list[ppo.RecordedChunk]] = {}  # by trajectory
        self.recorded_bytes = 0
        self.reference: dict[str, torch.Tensor] | None = None
        self.failure = ""  # why the policy refuses to act; empty: it works
        self._snapshot: optimiser.Snapshot | None = None
        self._undo_load = contextlib.ExitStack()

    # Settings.

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        """Wraps the loading of the network. At the end all ranks are connected."""
        self._check_model_source()
        self._check_device_count()
        with self._memory_errors("loading the model"):
            yield
        if self.processes.rank > 0:
            ranks.follow(self, self.processes)
        elif self.processes.size > 1:
            self.ranks.accept(self.processes)
            self.ranks.call_all("join")

    def _check_device_count(self) -> None:
        """Raises "unavailable" if there are fewer GPUs than processes."""
        name, _, first = self.settings["device"].partition(":")
        if self.processes.size == 1 or not torch.cuda.is_available() or name not in ("auto", "cuda"):
            return
        available = torch.cuda.device_count() - (int(first) if first.isdigit() else 0)
        if self.processes.size > available:
            raise srpo.Error(
                "unavailable",
                f"{self.processes.size} processes, but {max(0, available)} GPUs from device "
                f"{self.settings['device']} on",
                place=f"policy {self.name}",
                hint=f"use one process per GPU: host.policy_processes = {max(1, available)}",
            )

    def _device(self) -> torch.device:
        """The device of this process. Raises "unavailable" if the device of the settings cannot be used."""
        s = self.settings
        name = s["device"] if s["device"] != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
            if device.type == "cuda" and self.processes.size > 1:
                device = torch.device("cuda", (device.index or 0) + self.processes.rank)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as e:
            raise srpo.Error(
                "unavailable",
                f"device {s['device']!r}: {str(e).splitlines()[0]}",
                place=f"policy {self.name}, setting device",
                hint="cpu works everywhere",
            ) from e
        return device

    def _check_model_source(self) -> None:
        s = self.settings
        if bool(s["checkpoint"]) == bool(s["preset"]):
            raise srpo.Error(
                "invalid",
                "give either checkpoint or preset",
                place=f"policy {self.name}, settings",
                hint=f"policy.{self.name}.checkpoint = FOLDER for a real model, or "
                f'policy.{self.name}.preset = "tiny" to try things out',
            )

    def _dtype(self, device: torch.device) -> torch.dtype:
        return {
            "auto": torch.bfloat16 if device.type == "cuda" else torch.float32,
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
        }[self.settings["dtype"]]

    def _setting(self, name: str, for_checkpoint: Any, for_preset: Any) -> Any:
        """The value of a setting. Where it is 0 or "auto": the default for a checkpoint or for a preset."""
        value = self.settings[name]
        return value if value not in (0, "auto") else for_preset if self.settings["preset"] else for_checkpoint

    @contextlib.contextmanager
    def _temporary_folder(self) -> Iterator[str]:
        folder = tempfile.mkdtemp(dir=self.config.scratch or None)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _memory_errors(self, action: str) -> Iterator[None]:
        """Turns each of torch's errors for exhausted memory into a `srpo.Error` ("exhausted") with hints.

        Args:
            action: what is done within, such as "acting"; for the message.
        """
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
            text = str(e)
            if isinstance(e, RuntimeError) and not isinstance(e, torch.OutOfMemoryError):
                # cuBLAS and cuDNN report ..._ALLOC_FAILED.
                if not any(s in text for s in ("out of memory", "can't allocate memory", "_ALLOC_FAILED")):
                    raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise srpo.Error(
                "exhausted",
                f"out of memory while {action}: {text.splitlines()[0] if text else type(e).__name__}",
                place=f"policy {self.name}",
                hint=f"lower policy.{self.name}.micro_batch; turn on gradient_checkpointing, offload_optimizer, or "
                "lora_rank = 32, or use more GPUs (host.policy_processes); the run continues from its last checkpoint "
                f"with less: srpo run --resume RUN --set policy.{self.name}.micro_batch=N",
            ) from e

    # Recording.

    def _record(self, items: list[srpo.ActItem], chunks: list[ppo.RecordedChunk]) -> None:
        """Keeps chunks for the next update. A chunk at step 0 begins the trajectory again.

        Raises:
            srpo.Error: "exhausted" beyond the setting record_mb.
        """
        max_bytes = self.settings["record_mb"] << 20
        if self.recorded_bytes + sum(c.nbytes for c in chunks) > max_bytes:
            raise srpo.Error(
                "exhausted",
                f"{self.recorded_bytes >> 20} MiB of chunks are recorded, and no more fit into "
                f"record_mb = {self.settings['record_mb']}",
                place=f"policy {self.name}",
                hint=f"raise policy.{self.name}.record_mb, or sample fewer episodes per iteration",
            )
        for item, chunk in zip(items, chunks):
            if item.step == 0:
                self._forget_trajectory(item.trajectory)
            kept = self.records.setdefault(item.trajectory, [])
            self.recorded_bytes -= sum(c.nbytes for c in kept if c.step == item.step)
            kept[:] = sorted([c for c in kept if c.step != item.step] + [chunk], key=lambda c: c.step)
            self.recorded_bytes += chunk.nbytes

    def _forget_trajectory(self, trajectory: str) -> None:
        self.recorded_bytes -= sum(c.nbytes for c in self.records.pop(trajectory, []))

    def forget(self, trajectories: list[str]) -> None:
        for t in trajectories or list(self.records):
            self._forget_trajectory(t)

    def _check_usable(self) -> None:
        if self.failure:
            raise srpo.Error(
                "unavailable",
                self.failure,
                place=f"policy {self.name}",
                hint="continue the run from its last checkpoint with --resume; a larger rollback_mb keeps a copy to go "
                "back to",
            )

    # Commands, which run on every rank.

    def run_command(self, method: str, args: tuple) -> Any:
        """Runs a method of this policy that rank 0 names."""
        with self._memory_errors(f"running {method}"):
            return getattr(self, method)(*args)

    def join(self) -> None:
        self.processes.join(self.options.device)

    def gather_weights(self) -> None:
        """Before acting and saving: gathers the weights of a network that is sharded among the processes."""

    def shard_weights(self) -> None:
        """Before learning, or a change of the weights: the opposite of `gather_weights`."""

    def _for_each_batch(
        self, batches: list[Any], run: Callable[[Any, bool], None], tick: Callable[[int], None] = lambda n: None
    ) -> None:
        """Calls run(batch, counted) for each micro-batch, and tick(n) after the n-th; counted is False for padding.

        In lockstep all ranks take part in each pass. A cancelled call then continues up to the last batch, and any
        other failure ends all processes.
        """
        lockstep, stopped = bool(self.ranks.lockstep), None
        for n, batch in enumerate(batches, 1):
            padding = isinstance(batch, ranks.Padding)
            with contextlib.ExitStack() as stack:
                if lockstep:
                    stack.enter_context(self.processes.collective())
                    stack.enter_context(self._memory_errors("learning"))
                run(batch.part if padding else batch, not padding)
            try:
                tick(n)
            except BaseException as e:
                if not lockstep:
                    raise
                stopped = stopped or e
        if stopped is not None:
            raise stopped

    def choose_actions(self, parts: list[list[tuple[Any, int]]], temperature: float, greedy: bool) -> list[list[Any]]:
        """What the network chooses for the (sample, seed) pairs of some parts, by part."""
        pairs = [pair for part in parts for pair in part]
        self.gather_weights()
        if not pairs:
            return []
        chosen = iter(self.network.act([s for s, _ in pairs], [seed for _, seed in pairs], temperature, greedy))
        return [[next(chosen) for _ in part] for part in parts]

    def snapshot(self) -> None:
        """Copies what an update changes, for `restore`."""
        self._snapshot = optimiser.Snapshot(self.optimiser, self.settings["rollback_mb"] << 20)

    def restore(self) -> bool:
        """Restores the snapshot and drops it. Returns False if there is none, or the state was too large for one."""
        snapshot, self._snapshot = self._snapshot, None
        self.shard_weights()
        return snapshot.restore() if snapshot else False

    def discard_snapshot(self) -> None:
        self._snapshot = None

    def set_reference(self) -> None:
        """Makes the current policy the reference of the KL term, if there is none."""
        if self.reference is None:
            self.reference = optimiser.copy_parameters(self.optimiser.parameters, self.settings["offload_optimizer"])

    def clear_reference(self) -> None:
        self.reference = None

    def ppo_gradient(
        self,
        batches: list[list[ppo.TrainingChunk]],
        h: srpo.Hyperparameters,
        temperature: float,
        weight_sum: float,
        tick: Callable[[int], None] = lambda n: None,
    ) -> ppo.Totals:
        """Computes the gradient of some micro-batches of a mini-batch, see `ppo.Objective`, and returns its totals."""
        reference = self.reference if h.kl_beta else None
        objective = ppo.Objective(self.network, self.optimiser.parameters, reference, h, temperature, weight_sum)
        without_gradient = dataclasses.replace(objective, weight_sum=math.inf)
        self.shard_weights()
        self.zero_grad()
        totals = ppo.Totals()

        def learn(batch: list[ppo.TrainingChunk], counted: bool) -> None:
            if counted:
                objective.accumulate_gradient(batch, totals)
            else:
                without_gradient.accumulate_gradient(batch, ppo.Totals())

        self._for_each_batch(batches, learn, tick)
        return totals

    def imitation_gradient(self, batches: list[list[Any]], weight_sum: float) -> float:
        """Computes the gradient of some micro-batches of imitation. Returns their part of the batch's loss.

        Args:
            weight_sum: the sum of weights of the whole batch, which the loss is divided by.
        """
        self.shard_weights()
        self.zero_grad()
        total = 0.0

        def learn(batch: list[Any], counted: bool) -> None:
            nonlocal total
            loss = self._imitation_loss(batch, weight_sum if counted else math.inf)
            loss.backward()
            total += float(loss.detach())

        self._for_each_batch(batches, learn, lambda _: srpo.report_progress())
        return total

    def _imitation_loss(self, batch: list[Any], weight_sum: float) -> torch.Tensor:
        raise NotImplementedError

    def zero_grad(self) -> None:
        self.optimiser.zero_grad()

    def optimiser_step(self, lr: float) -> float:
        return self.optimiser.step(lr)

    def reset_optimiser(self) -> None:
        self.optimiser.reset()

    def reset_training_state(self) -> None:
        """Drops the optimiser's moments and the KL reference."""
        self.optimiser.reset()
        self.reference = None

    def use_statistics(self, statistics: dict) -> None:
        self.network.use_statistics(statistics)

    def optimiser_steps(self) -> dict[str, float]:
        """Number of optimiser steps by parameter, for those that this process updates."""
        return self.optimiser.state()[1]

    def gather_optimiser_state(self, steps: dict[str, float]) -> dict[str, torch.Tensor]:
        """See `Optimiser.gather_state`."""
        return self.optimiser.gather_state(steps)

    def gather_reference(self) -> dict[str, torch.Tensor] | None:
        """The KL reference in full on rank 0; None elsewhere, or if there is none."""
        reference = self.reference and self.optimiser.unshard(self.reference)
        return reference if self.processes.rank == 0 else None

    # Acting and learning, on rank 0.

    def _choose_on_all_ranks(self, samples: list[Any], seeds: list[int], temperature: float, greedy: bool) -> list[Any]:
        """What the network chooses for samples with their seeds; the forward passes are shared by all ranks."""
        batches = list(self.network.act_batches(samples))
        parts = [[(samples[i], seeds[i]) for i in batch] for batch in batches]
        with self._memory_errors(f"acting on {len(samples)} observations"):
            by_rank = self.ranks.call_split("choose_actions", parts, temperature, greedy)
        out: list[Any] = [None] * len(samples)
        for n, batch in enumerate(batches):
            for i, chosen in zip(batch, by_rank[n % self.ranks.size][n // self.ranks.size]):
                out[i] = chosen
        return out

    @contextlib.contextmanager
    def _undo_on_failure(self, action: str) -> Iterator[None]:
        """Restores weights and optimiser on all ranks if an exception is raised within. If they cannot be restored, the
        policy refuses further calls.
        """
        with self._memory_errors(f"copying the weights before {action}"):
            self.ranks.call_all("snapshot")
        try:
            with self._memory_errors(action):
                yield
        except BaseException:
            restored = False
            try:
                restored = all(self.ranks.call_all("restore"))
            finally:
                if not restored:
                    self.failure = f"{action} failed half way, and the weights before it were too large to be kept"
            raise
        self.ranks.call_all("discard_snapshot")

    def update(self, update: srpo.Update, progress: Callable[[float], None]) -> srpo.Statistics:
        """See `ppo.PPO`. An update that fails or is cancelled is undone."""
        self._check_usable()
        h = update.hyperparameters
        if update.temperature == 0:
            update = srpo.Update(**{**vars(update), "temperature": 1.0})
        for name in ("clip_low", "clip_high", "kl_beta", "clip_dual", "epochs", "mini_batch"):
            _check_not_negative(name, getattr(h, name), update.id)
        _check_not_negative("temperature", update.temperature, update.id)
        if 0 < h.clip_dual <= 1:
            raise srpo.Error(
                "invalid",
                f"clip_dual is {h.clip_dual}",
                place=f"update {update.id}",
                hint="want more than 1 (3 is usual), or 0 for no dual clip",
            )
        by_trajectory = self.settings["mean"] == "trajectory"
        chunks = ppo.training_chunks(update, self.records, self.network, by_trajectory)
        if h.kl_beta and self.reference is None:
            try:
                with self._memory_errors("copying the reference policy"):
                    self.ranks.call_all("set_reference")
            except BaseException:
                self.ranks.call_all("clear_reference")  # either all ranks have one, or none
                raise
        with self._undo_on_failure("an update"):
            mini_batch = self.settings["mini_batch"]
            training = ppo.PPO(self.network, self.ranks, self._setting("lr", 5e-6, 1e-4), mini_batch, self.name)
            return training.run(update, chunks, progress)

    # Checkpoints.

    def _save_training_state(self, folder: str, rank: int, alpha: float, base: str) -> None:
        """Writes `srpo_state`, the same for any number of processes.

        Args:
            rank, alpha: of LoRA; rank 0: without.
            base: the fingerprint of the weights that adapters belong to.
        """
        steps: dict[str, float] = {}
        for some in self.ranks.call_all("optimiser_steps"):
            steps.update(some)
        names = list(self.optimiser.parameters)
        steps = {n: steps[n] for n in names if n in steps}
        tensors = self.ranks.call_all("gather_optimiser_state", steps)[0]
        reference = self.ranks.call_all("gather_reference")[0]
        training_state.save(folder, tensors, steps, names, reference, (rank, alpha, base))

    def load(self, folder: str) -> None:
        """Restores what `save` wrote.

        The trainable parameters must be the same: LoRA of the same rank on the same base, or the same parameters. Else
        the folder's merged weights become the new base with a new optimiser, and a line is logged.

        Raises:
            srpo.Error: nothing has changed then.
        """
        try:
            self.ranks.call_all("begin_load", folder)
        except BaseException:
            try:
                self.ranks.call_all("end_load", False)
            except BaseException:
                self.failure = f"loading {folder} failed, and the previous weights could not be restored"
                raise
            raise
        self.ranks.call_all("end_load", True)
        self.failure = ""
        self.forget([])

    def begin_run(self) -> None:
        """Begins a new run with the loaded weights: resets the optimiser, and measures KL to these weights."""
        self.ranks.call_all("reset_training_state")

    def begin_load(self, folder: str) -> None:
        """Loads a folder. `end_load` can undo it."""
        self.shard_weights()  # first, so that all ranks are in the same state even if one of them fails
        with self._memory_errors(f"loading {folder}"):
            state, tensors = training_state.load(folder, self.name)
            options = self.options
            names = list(self.optimiser.parameters)
            same = state["rank"] == options.rank and state["names"] == names
            if options.rank:
                same = same and (state["base"], state["alpha"]) == (self.network.fingerprint, options.alpha)
            undo = self._undo_load = contextlib.ExitStack()
            undo.callback(self._set_network, self.network, self.optimiser, self.reference)
            try:
                if same and options.rank:
                    undo.callback(optimiser.Snapshot(self.optimiser, 1 << 62).restore)
                    undo.callback(self.network.use_statistics, self.network.source.statistics)
                    self._load_adapter(folder)
                    self._new_optimiser()
                else:
                    self.network = self._load_whole_network(folder)
                    self._new_optimiser()
                if same:
                    self.optimiser.load_state(tensors, state["steps"])
                    reference = training_state.reference(state, tensors, self.optimiser.parameters)
                    self.reference = self.optimiser.shard(reference)
                    if self.reference and not self.settings["offload_optimizer"]:
                        self.reference = {n: t.to(options.device) for n, t in self.reference.items()}
                else:
                    self.reference = None
                    if self.processes.rank == 0:
                        print(f"{folder} has other trainable parameters: using its weights as base, a new optimiser")
            except optimiser.StateMismatchError as e:
                raise training_state.mismatch(folder, e) from e

    def end_load(self, keep: bool) -> None:
        """Ends `begin_load`: keeps what was loaded, or restores what was there before."""
        undo, self._undo_load = self._undo_load, contextlib.ExitStack()
        if keep:
            undo.pop_all()
        else:
            undo.close()

    def _set_network(
        self, network: ppo.Network, optimiser: optimiser.Optimiser, reference: dict[str, torch.Tensor] | None
    ) -> None:
        self.network, self.optimiser, self.reference = network, optimiser, reference

    def _new_optimiser(self) -> None:
        raise NotImplementedError

    def _load_whole_network(self, folder: str) -> ppo.Network:
        """Returns a network with the merged weights of a saved folder."""
        raise NotImplementedError

    def _load_adapter(self, folder: str) -> None:
        """Loads the LoRA adapters and the statistics of a saved folder into the network."""
        raise NotImplementedError

    def close(self) -> None:
        self.ranks.close()
        self.processes.leave()


def _resolve_path(name: str, value: str) -> str:
    """The absolute path of a setting that names a folder. Hub ids are kept, unless a folder of that name exists."""
    if name not in ("checkpoint", "adapter", "tokenizer", "action_tokenizer"):
        return value
    folder = srpo.path(value)
    hub_id = name != "adapter" and re.fullmatch(r"[\w.-]+/[\w.-]+", value) and not os.path.exists(folder)
    return value if hub_id else folder


def _check_not_negative(name: str, value: float, update: int) -> None:
    if not (np.isfinite(value) and value >= 0):
        raise srpo.Error("invalid", f"{name} is {value}", place=f"update {update}", hint="want 0 or more")
