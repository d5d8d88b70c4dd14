"""What policies with torch share: what they recorded, updates that can be undone, errors with a remedy."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import srpo_sdk as srpo
import torch

import learning
import optimiser


class Learner(srpo.Policy):
    """A policy with a network, an optimiser over what learns of it, and a starting policy for the KL term. Everything
    random comes from the seeds of calls; nothing is drawn in between. Subclasses open the network, act, imitate, save
    and load.
    """

    name: str  # of the plugin
    network: learning.Network
    optimiser: optimiser.Optimiser

    def __init__(self, config: srpo.PolicyConfig):
        super().__init__(config)
        self.settings = dict(config.settings)
        if config.env is None:
            raise srpo.Error(
                "invalid",
                "no env was named",
                place=f"policy {self.name}",
                hint="the env's actions and cameras are needed; with srpo plugin test give --env",
            )
        if config.world_size > 1:
            raise srpo.Error(
                "unsupported",
                f"world size {config.world_size}",
                place=f"policy {self.name}",
                hint="this policy runs in one process on one device",
            )
        self.space = config.env.action
        torch.set_num_threads(self.settings["threads"])
        self.records: dict[str, list[learning.Record]] = {}
        self.recorded = 0  # bytes
        self.start: dict[str, torch.Tensor] | None = None
        self.broken = ""

    # How the settings are read.

    def _device(self) -> torch.device:
        """The device that the settings name, where it can be used."""
        s = self.settings
        if bool(s["checkpoint"]) == bool(s["preset"]):
            raise srpo.Error(
                "invalid",
                "give either checkpoint or preset",
                place=f"policy {self.name}, settings",
                hint=f"policy.{self.name}.checkpoint = FOLDER for a real model, or "
                f'policy.{self.name}.preset = "tiny" to try things out',
            )
        name = s["device"] if s["device"] != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as e:
            raise srpo.Error(
                "unavailable",
                f"device {s['device']!r}: {str(e).splitlines()[0]}",
                place=f"policy {self.name}, setting device",
                hint="cpu works everywhere",
            ) from e
        return device

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
                if "out of memory" not in text and "can't allocate memory" not in text:
                    raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise srpo.Error(
                "exhausted",
                f"out of memory while {what}: {text.splitlines()[0] if text else type(e).__name__}",
                place=f"policy {self.name}",
                hint=f"lower policy.{self.name}.micro_batch; turn on gradient_checkpointing, offload_optimizer, or "
                "lora_rank = 32; the run goes on from its last checkpoint with --resume",
            ) from e

    # Recording.

    def _keep(self, items: list[srpo.ActItem], records: list[learning.Record]) -> None:
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

    # Learning.

    @contextlib.contextmanager
    def _undone(self, what: str) -> Iterator[None]:
        """Undoes what was learned when something raises within."""
        keep = optimiser.Keep(self.optimiser, self.settings["rollback_mb"] << 20)
        try:
            with self._memory(what):
                yield
        except BaseException:
            if not keep.back():
                self.broken = f"{what} failed half way, and the weights before it were too large to be kept"
            raise

    def update(self, update: srpo.Update, progress: Callable[[float], None]) -> srpo.Statistics:
        """See `learning.Ppo`. An update that fails or is cancelled leaves everything as it was."""
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
        todo = learning.lessons(update, self.records, self.network, self.settings["mean"] == "trajectory")
        if h.kl_beta and self.start is None:
            with self._memory("copying the starting policy"):
                self.start = optimiser.starting(self.optimiser.parameters, self.settings["offload_optimizer"])
        start = self.start if h.kl_beta else None
        with self._undone("an update"):
            size = self.settings["mini_batch"]
            ppo = learning.Ppo(self.network, self.optimiser, start, self._or("lr", 5e-6, 1e-4), size, self.name)
            return ppo.run(update, todo, progress)


def _positive(name: str, value: float, update: int) -> None:
    if not (np.isfinite(value) and value >= 0):
        raise srpo.Error("invalid", f"{name} is {value}", place=f"update {update}", hint="want 0 or more")
