"""The task table of the five LIBERO suites, read from the installed package without importing a simulator."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from libero_sim import task_table
from libero_sim.task_table import MAX_STEPS


@dataclass(frozen=True)
class TaskEntry:
    """One task of a suite. ``id`` is ``<suite>/<name>``; the files are in the package."""

    suite: str
    index: int
    name: str
    bddl: Path
    states: Path

    @property
    def id(self) -> str:
        return f"{self.suite}/{self.name}"

    @property
    def instruction(self) -> str:
        """The sentence that LIBERO derives from the file name. Policies are trained on it, not on the BDDL file's."""
        return task_table.instruction(self.name)

    @property
    def max_steps(self) -> int:
        return MAX_STEPS[self.suite]

    def start_state_count(self) -> int:
        """Return the number of start states, from the array's header only."""
        return _npz_shape(self.states, "states")[0]

    def start_states(self) -> np.ndarray:
        """Return float64 [n, 1 + nq + nv]: time (s), joint positions and joint velocities in MuJoCo's order."""
        with np.load(self.states, allow_pickle=False) as archive:
            return archive["states"]


@cache
def package_root() -> Path:
    """Return the folder of ``libero.libero`` without importing it."""
    return task_table.package_root("libero")


def _npz_shape(path: Path, member: str) -> tuple[int, ...]:
    with zipfile.ZipFile(path) as archive, archive.open(member + ".npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(stream)[0]


def entries() -> Iterator[TaskEntry]:
    """Return all 130 tasks by suite, in benchmark order."""
    root = package_root()
    for suite, names in task_table.names_by_suite(root, MAX_STEPS).items():
        for index, name in enumerate(names):
            yield TaskEntry(
                suite=suite,
                index=index,
                name=name,
                bddl=root / "bddl_files" / suite / f"{name}.bddl",
                states=root / "init_files" / suite / f"{name}.pruned_init.npz",
            )


@cache
def by_id() -> dict[str, TaskEntry]:
    """Return all tasks by id."""
    return {entry.id: entry for entry in entries()}
