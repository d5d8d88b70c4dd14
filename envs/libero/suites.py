"""The five LIBERO suites as a table of tasks, read from the installed package without importing a simulator."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

# Most steps of an episode, by suite: what evaluations of vision-language-action models use.
MAX_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}

_SCENE_PREFIX = re.compile(r"^[A-Z_]+_SCENE\d+_")


@dataclass(frozen=True)
class TaskEntry:
    """One task of a suite. ``id`` is ``<suite>/<name>``; the files are the package's own."""

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
        """The sentence that LIBERO derives from the file name; policies are trained on it, not on the BDDL's own."""
        return _SCENE_PREFIX.sub("", self.name).replace("_", " ")

    @property
    def max_steps(self) -> int:
        return MAX_STEPS[self.suite]

    def start_state_count(self) -> int:
        """Rows of the start-state table, from the array's header alone."""
        return _npz_shape(self.states, "states")[0]

    def start_states(self) -> np.ndarray:
        """float64 [start states, 1 + nq + nv]: time (s), joint positions, joint velocities in MuJoCo's order."""
        with np.load(self.states, allow_pickle=False) as archive:
            return archive["states"]


@cache
def package_root() -> Path:
    """Folder of ``libero.libero``, found without running its code."""
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the package libero is not installed: install requirements.txt of this plugin")
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


@cache
def _names_by_suite() -> dict[str, list[str]]:
    """Task names in benchmark order, from the package's data module, loaded by path so that nothing else runs."""
    source = package_root() / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("_libero_task_table", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {suite: list(module.libero_task_map[suite]) for suite in MAX_STEPS}


def _npz_shape(path: Path, member: str) -> tuple[int, ...]:
    with zipfile.ZipFile(path) as archive, archive.open(member + ".npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(stream)[0]


def entries() -> Iterator[TaskEntry]:
    """All 130 tasks, suite by suite, in benchmark order."""
    root = package_root()
    for suite, names in _names_by_suite().items():
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
    """The same tasks by id."""
    return {entry.id: entry for entry in entries()}
