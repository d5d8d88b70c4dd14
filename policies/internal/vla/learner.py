"""What policies with torch share: what they recorded, updates that can be undone, errors with a remedy."""

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
    """A policy with a network, an optimiser over what learns of it, and a starting policy for the KL term. Everything
    random comes from the seeds of calls; nothing is drawn in between. Subclasses open the network, act, imitate, save
    and load.
    """

    name: str  # of the plugin
    network: ppo.Network
    optimiser: optimiser.Optimiser

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        self.settings = {n: _meant(n, v) if isinstance(v, str) else v for n, v in config.settings.items()}
        if config.env is None:
            raise srpo.Error(
                "invalid",
                "no env was named",
                place=f"policy {self.name}",
                hint="the env's actions and cameras are needed; with srpo plugin test give --env",
            )
        self.group = ranks.Group(config.rank, config.world_size, config.rendezvous)
        self.crew = ranks.Crew(self)
        self.space = config.env.action
        torch.set_num_threads(self.settings["threads"])
        self.records: dict[str, list[ppo.Record]] = {}
        self.recorded = 0  # bytes
        self.start: dict[str, torch.Tensor] | None = None
        self.broken = ""
        self._kept: optimiser.Keep | None = None
        self._undo = contextlib.ExitStack()

    # How the settings are read.

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        """Around the loading of the network: at the end all processes are there."""
        self._one_source()
        self._enough_devices()
        with self._memory("loading the model"):
            yield
        if self.group.rank > 0:
            ranks.follow(self, self.group)
        elif self.group.size > 1:
            self.crew.meet(self.group)
            self.crew.all("join")

    def _enough_devices(self) -> None:
        """One for each process, where they are GPUs."""
        name, _, first = self.settings["device"].partition(":")
        if self.group.size == 1 or not torch.cuda.is_available() or name not in ("auto", "cuda"):
            return
        there = torch.cuda.device_count() - (int(first) if first.isdigit() else 0)
        if self.group.size > there:
            raise srpo.Error(
                "unavailable",
                f"{self.group.size} processes, and there are {max(0, there)} GPUs from device "
                f"{self.settings['device']} on",
                place=f"policy {self.name}",
                hint=f"one process a GPU: host.policy_processes = {max(1, there)}",
            )

    def _device(self) -> torch.device:
        """The device that the settings name, where it can be used."""
        s = self.settings
        name = s["device"] if s["device"] != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
            if device.type == "cuda" and self.group.size > 1:
                device = torch.device("cuda", (device.index or 0) + self.group.rank)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as e:
            raise srpo.Error(
                "unavailable",
                f"device {s['device']!r}: {str(e).splitlines()[0]}",
                place=f"policy {self.name}, setting device",
                hint="cpu works everywhere",
            ) from e
        return device

    def _one_source(self) -> None:
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

    def _or(self, name: str, for_checkpoint: Any, for_preset: Any) -> Any:
        """A setting, or its default where it is left open."""
        value = self.settings[name]
        return value if value not in (0, "auto") else for_preset if self.settings["preset"] else for_checkpoint

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[str]:
        folder = tempfile.mkdtemp(dir=self.config.scratch or None)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _memory(self, what: str) -> Iterator[None]:
        """Turns torch's ways of saying "out of memory" into one error with a remedy."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
            text = str(e)
            if isinstance(e, RuntimeError) and not isinstance(e, torch.OutOfMemoryError):
                # The last is how cuBLAS and cuDNN say it.
                if not any(words in text for words in ("out of memory", "can't allocate memory", "_ALLOC_FAILED")):
                    raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise srpo.Error(
                "exhausted",
                f"out of memory while {what}: {text.splitlines()[0] if text else type(e).__name__}",
                place=f"policy {self.name}",
                hint=f"lower policy.{self.name}.micro_batch; turn on gradient_checkpointing, offload_optimizer, or "
                "lora_rank = 32, or use more GPUs (host.policy_processes); the run goes on from its last checkpoint "
                f"with less: srpo run --resume RUN --set policy.{self.name}.micro_batch=N",
            ) from e

    # Recording.

    def _keep(self, items: list[srpo.ActItem], records: list[ppo.Record]) -> None:
        most = self.settings["record_mb"] << 20
        if self.recorded + sum(r.bytes for r in records) > most:
            raise srpo.Error(
                "exhausted",
                f"{self.recorded >> 20} MiB of chunks are recorded, and no more fit into "
                f"record_mb = {self.settings['record_mb']}",
                place=f"policy {self.name}",
                hint=f"raise policy.{self.name}.record_mb, or sample fewer episodes an iteration",
            )
        for item, record in zip(items, records):
            if item.step == 0:
                self._forget(item.trajectory)
            kept = self.records.setdefault(item.trajectory, [])
            self.recorded -= sum(r.bytes for r in kept if r.step == item.step)
            kept[:] = sorted([r for r in kept if r.step != item.step] + [record], key=lambda r: r.step)
            self.recorded += record.bytes

    def _forget(self, trajectory: str) -> None:
        self.recorded -= sum(r.bytes for r in self.records.pop(trajectory, []))

    def forget(self, trajectories: list[str]) -> None:
        for t in trajectories or list(self.records):
            self._forget(t)

    def _usable(self) -> None:
        if self.broken:
            raise srpo.Error(
                "unavailable",
                self.broken,
                place=f"policy {self.name}",
                hint="the run goes on from its last checkpoint with --resume; a larger rollback_mb keeps "
                "a copy to go back to",
            )

    # What every process runs when rank 0 says so.

    def obey(self, method: str, args: tuple) -> Any:
        """Runs a method as one of several processes."""
        with self._memory(f"at {method}"):
            return getattr(self, method)(*args)

    def join(self) -> None:
        self.group.join(self.choice.device)

    def whole(self) -> None:
        """Brings a divided network together, for acting and saving."""

    def divided(self) -> None:
        """Before the network learns or changes, where it can be divided among processes."""

    def _each(
        self, batches: list[Any], run: Callable[[Any, bool], None], tick: Callable[[int], None] = lambda n: None
    ) -> None:
        """run(micro-batch, whether it counts) for each, and tick(n) after the n-th. In lockstep the others are in each
        pass, too: a call that is cancelled goes on to the end, and whatever else fails ends all processes.
        """
        lockstep, stopped = bool(self.crew.lockstep), None
        for n, batch in enumerate(batches, 1):
            idle = isinstance(batch, ranks.Idle)
            with contextlib.ExitStack() as within:
                if lockstep:
                    within.enter_context(self.group.together())
                    within.enter_context(self._memory("learning"))
                run(batch.part if idle else batch, not idle)
            try:
                tick(n)
            except BaseException as e:
                if not lockstep:
                    raise
                stopped = stopped or e
        if stopped is not None:
            raise stopped

    def choose(self, parts: list[list[tuple[Any, int]]], temperature: float, greedy: bool) -> list[list[Any]]:
        """What the network chooses for some parts' samples with their seeds."""
        pairs = [pair for part in parts for pair in part]
        self.whole()
        if not pairs:
            return []
        chosen = iter(self.network.act([s for s, _ in pairs], [seed for _, seed in pairs], temperature, greedy))
        return [[next(chosen) for _ in part] for part in parts]

    def hold(self) -> None:
        """Keeps a copy of what learns, for `release`."""
        self._kept = optimiser.Keep(self.optimiser, self.settings["rollback_mb"] << 20)

    def release(self, back: bool) -> bool:
        """Drops the copy, or goes back to it; False: it was too large to be kept."""
        kept, self._kept = self._kept, None
        if back:
            self.divided()
        return kept.back() if back and kept else not back

    def freeze(self) -> None:
        """Makes what learns the starting policy, if there is none."""
        if self.start is None:
            self.start = optimiser.starting(self.optimiser.parameters, self.settings["offload_optimizer"])

    def thaw(self) -> None:
        """Forgets the starting policy."""
        self.start = None

    def ppo(
        self,
        batches: list[list[ppo.Lesson]],
        h: srpo.Hyperparameters,
        temperature: float,
        share: float,
        tick: Callable[[int], None] = lambda n: None,
    ) -> ppo.Sums:
        """The gradient of some micro-batches, see `ppo.Objective`."""
        start = self.start if h.kl_beta else None
        aim = ppo.Objective(self.network, self.optimiser.parameters, start, h, temperature, share)
        idle = dataclasses.replace(aim, share=math.inf)  # whose gradient is 0
        self.divided()
        self.zero()
        sums = ppo.Sums()

        def learn(batch: list[ppo.Lesson], counts: bool) -> None:
            (aim if counts else idle).gradient(batch, sums if counts else ppo.Sums())

        self._each(batches, learn, tick)
        return sums

    def teach(self, batches: list[list[Any]], whole: float) -> float:
        """The gradient of some micro-batches of imitation; returns their part of the loss."""
        self.divided()
        self.zero()
        total = 0.0

        def learn(batch: list[Any], counts: bool) -> None:
            nonlocal total
            loss = self._imitation_loss(batch, whole if counts else math.inf)
            loss.backward()
            total += float(loss.detach())

        self._each(batches, learn, lambda _: srpo.heartbeat())
        return total

    def _imitation_loss(self, batch: list[Any], whole: float) -> torch.Tensor:
        raise NotImplementedError

    def zero(self) -> None:
        self.optimiser.zero()

    def step(self, lr: float) -> float:
        return self.optimiser.step(lr)

    def fresh(self) -> None:
        self.optimiser.fresh()

    def anew(self) -> None:
        """Forgets the gradients' moments, and the starting policy."""
        self.optimiser.fresh()
        self.start = None

    def use_statistics(self, statistics: dict) -> None:
        self.network.use_statistics(statistics)

    def steps(self) -> dict[str, float]:
        return self.optimiser.state()[1]

    def gather(self, steps: dict[str, float]) -> dict[str, torch.Tensor]:
        """See `Optimiser.gathered`."""
        return self.optimiser.gathered(steps)

    def gather_start(self) -> dict[str, torch.Tensor] | None:
        """The starting policy, on rank 0."""
        start = self.start and self.optimiser.joined(self.start)
        return start if self.group.rank == 0 else None

    # Acting and learning, on rank 0.

    def _chosen(self, samples: list[Any], seeds: list[int], temperature: float, greedy: bool) -> list[Any]:
        """What all processes together choose for samples with their seeds."""
        places = list(self.network.passes(samples))
        parts = [[(samples[i], seeds[i]) for i in place] for place in places]
        with self._memory(f"acting on {len(samples)} observations"):
            found = self.crew.share("choose", parts, temperature, greedy)
        out: list[Any] = [None] * len(samples)
        for n, place in enumerate(places):
            for i, x in zip(place, found[n % self.crew.size][n // self.crew.size]):
                out[i] = x
        return out

    @contextlib.contextmanager
    def _undone(self, what: str) -> Iterator[None]:
        """Undoes what was learned when something raises within."""
        with self._memory(f"keeping a copy to go back to before {what}"):
            self.crew.all("hold")
        try:
            with self._memory(what):
                yield
        except BaseException:
            back = False
            try:
                back = all(self.crew.all("release", True))
            finally:
                if not back:
                    self.broken = f"{what} failed half way, and the weights before it were too large to be kept"
            raise
        self.crew.all("release", False)

    def update(self, update: srpo.Update, progress: Callable[[float], None]) -> srpo.Statistics:
        """See `ppo.Ppo`. An update that fails or is cancelled leaves everything as it was."""
        self._usable()
        h = update.hyperparameters
        if update.temperature == 0:
            update = srpo.Update(**{**vars(update), "temperature": 1.0})
        for name in ("clip_low", "clip_high", "kl_beta", "clip_dual", "epochs", "mini_batch"):
            _positive(name, getattr(h, name), update.id)
        _positive("temperature", update.temperature, update.id)
        if 0 < h.clip_dual <= 1:
            raise srpo.Error(
                "invalid",
                f"clip_dual is {h.clip_dual}",
                place=f"update {update.id}",
                hint="above 1 (3 is usual), or 0 for none",
            )
        todo = ppo.lessons(update, self.records, self.network, self.settings["mean"] == "trajectory")
        if h.kl_beta and self.start is None:
            try:
                with self._memory("copying the starting policy"):
                    self.crew.all("freeze")
            except BaseException:
                self.crew.all("thaw")  # all have one, or none has
                raise
        with self._undone("an update"):
            size = self.settings["mini_batch"]
            training = ppo.Ppo(self.network, self.crew, self._or("lr", 5e-6, 1e-4), size, self.name)
            return training.run(update, todo, progress)

    # Checkpoints.

    def _write_state(self, folder: str, rank: int, alpha: float, base: str) -> None:
        """Writes `srpo_state`, the same for any number of processes."""
        steps: dict[str, float] = {}
        for some in self.crew.all("steps"):
            steps.update(some)
        names = list(self.optimiser.parameters)
        steps = {n: steps[n] for n in names if n in steps}
        tensors, start = self.crew.all("gather", steps)[0], self.crew.all("gather_start")[0]
        training_state.write(folder, tensors, steps, names, start, (rank, alpha, base))

    def load(self, folder: str) -> None:
        """Restores what save wrote. What learns must be the same (LoRA of the same rank on the same base, or the same
        parameters); else the folder's whole weights are the new base, with a fresh optimiser, and the log says so.

        Raises:
            srpo.Error: nothing has changed then.
        """
        try:
            self.crew.all("take", folder)
        except BaseException:
            try:
                self.crew.all("settle", False)
            except BaseException:
                self.broken = f"loading {folder} failed, and what was there before could not be brought back"
                raise
            raise
        self.crew.all("settle", True)
        self.broken = ""
        self.forget([])

    def begin_run(self) -> None:
        """Makes what was loaded the start of a new run: a fresh optimiser, and KL is measured to it."""
        self.crew.all("anew")

    def take(self, folder: str) -> None:
        """Loads a folder, so that it can still be undone until `settle`."""
        self.divided()  # first: what fails in one process alone leaves all in the same state
        with self._memory(f"loading {folder}"):
            state, tensors = training_state.read(folder, self.name)
            c = self.choice
            names = list(self.optimiser.parameters)
            same = state["rank"] == c.rank and state["names"] == names
            same = same and (not c.rank or (state["base"], state["alpha"]) == (self.network.fingerprint, c.alpha))
            undo = self._undo = contextlib.ExitStack()
            undo.callback(self._set, self.network, self.optimiser, self.start)
            try:
                if same and c.rank:
                    undo.callback(optimiser.Keep(self.optimiser, 1 << 62).back)
                    undo.callback(self.network.use_statistics, self.network.source.statistics)
                    self._take_adapter(folder)
                    self._new_optimiser()
                else:
                    self.network = self._taken(folder)
                    self._new_optimiser()
                if same:
                    self.optimiser.restore(tensors, state["steps"])
                    self.start = self.optimiser.parts(training_state.start(state, tensors, self.optimiser.parameters))
                    if self.start and not self.settings["offload_optimizer"]:
                        self.start = {n: t.to(c.device) for n, t in self.start.items()}
                else:
                    self.start = None
                    if self.group.rank == 0:
                        print(f"{folder} was trained in another way: its weights are the new base, the optimiser new")
            except optimiser.Misfit as e:
                raise training_state.misfit(folder, e) from e

    def settle(self, taken: bool) -> None:
        """Ends `take`: undoes it, or lets go of what was before."""
        undo, self._undo = self._undo, contextlib.ExitStack()
        if taken:
            undo.pop_all()
        else:
            undo.close()

    def _set(self, *what: Any) -> None:
        self.network, self.optimiser, self.start = what

    def _new_optimiser(self) -> None:
        raise NotImplementedError

    def _taken(self, folder: str) -> ppo.Network:
        """A network with a saved folder's whole weights."""
        raise NotImplementedError

    def _take_adapter(self, folder: str) -> None:
        """Fills what learns, with LoRA, and the statistics from a saved folder."""
        raise NotImplementedError

    def close(self) -> None:
        self.crew.close()
        self.group.leave()


def _meant(name: str, value: str) -> str:
    """A setting that names a folder, as the user meant it; a hub id stays one where no such folder is."""
    if name not in ("checkpoint", "adapter", "tokenizer", "action_tokenizer"):
        return value
    folder = srpo.path(value)
    hub = name != "adapter" and re.fullmatch(r"[\w.-]+/[\w.-]+", value) and not os.path.exists(folder)
    return value if hub else folder


def _positive(name: str, value: float, update: int) -> None:
    if not (np.isfinite(value) and value >= 0):
        raise srpo.Error("invalid", f"{name} is {value}", place=f"update {update}", hint="want 0 or more")
