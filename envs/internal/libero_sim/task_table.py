"""The task table of a benchmark, read from its installed package without importing a simulator."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

# Maximum steps of an episode by suite, as in evaluations of vision-language-action models.
MAX_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}

_SCENE_PREFIX = re.compile(r"^[A-Z_]+_SCENE\d+_")


def package_root(package: str) -> Path:
    """Return the folder of ``package.package``, which contains the benchmark's files, without importing it.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package} is not installed: install the plugin's requirements.txt")
    return Path(next(iter(spec.submodule_search_locations))) / package


def names_by_suite(root: Path, suites: Iterable[str]) -> dict[str, list[str]]:
    """Return task names by suite in the benchmark's order. Only the package's data module is loaded, by path."""
    source = root / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("_task_table_of_" + root.name, source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {suite: list(module.libero_task_map[suite]) for suite in suites}


def instruction(name: str) -> str:
    """Return the instruction that the benchmarks derive from a task's name. Policies are trained on it."""
    return _SCENE_PREFIX.sub("", name).replace("_", " ")
