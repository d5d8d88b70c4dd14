"""The table of LIBERO-Plus's 10,030 variants, read from the installed package without importing a simulator.

The name of a variant defines what it changes:

    BASE_view_H_V_S_R_P_initstate_N            camera if the view is not 0_0_100_0_0, robot if N is not 0
    BASE_view_0_0_100_0_0_initstate_0_noise_N  noise
    BASE_language_N_view_0_0_100_0_0_...       language
    BASE_light_N                               light
    BASE_table_N, BASE_tb_N                    background: texture of the table or floor, or of it and the wall
    BASE_add_N, BASE[_moved]_levelX_sampleY    layout: additional objects, or moved objects
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

import start_states
from libero_sim import task_table

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
DIMENSIONS = ("camera", "robot", "language", "light", "background", "noise", "layout")
NOISES = ("motion", "gaussian", "zoom", "fog", "glass")  # in the order of their numbers, ten strengths each
DEFAULT_VIEW = (0, 0, 100, 0, 0)  # the view of LIBERO's camera
NEEDS_ARCHIVE = "needs LIBERO-Plus's archive of assets (6.4 GB): unpack it and set env.libero-plus.assets to its folder"

_VIEW = re.compile(
    r"(?P<base>.+?)(?:_language_(?P<language>\d+))?_view_(?P<view>\d+_\d+_\d+_\d+_\d+)_initstate_(?P<start>\d+)"
    r"(?:_noise_(?P<noise>\d+))?"
)
_MOVED = re.compile(r"(?P<base>.+?)(?:_moved)?_level(?P<group>\d+)_sample(?P<sample>\d+)")
_NUMBERED = re.compile(r"(?P<base>.+)_(?P<kind>light|table|tb|add)_(?P<number>\d+)")
_LANGUAGE = re.compile(r"\(:language\s+([^()]*)\)")


@dataclass(frozen=True)
class Variant:
    """One variant. ``id`` is ``<suite>/<dimension>/<name>`` with the benchmark's name.

    Attributes:
        level: 1 to 5, 0 for none.
        scene: name of the scene's BDDL file; camera, robot, language and noise use that of the base task.
        view: horizontal and vertical angle (degrees), distance (percent), the camera's turn and tilt (degrees).
        start: number of the robot's start, 0 for LIBERO's.
        noise: 1 to 50, 0 for none.
        language: number of the rewritten instruction, 0 for none.
        values: further tags by name.
    """

    suite: str
    index: int
    name: str
    base: str
    dimension: str
    level: int
    scene: str
    view: tuple[int, ...] = DEFAULT_VIEW
    start: int = 0
    noise: int = 0
    language: int = 0
    values: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.suite}/{self.dimension}/{self.name}"

    @property
    def max_steps(self) -> int:
        return task_table.MAX_STEPS[self.suite]

    @property
    def tags(self) -> dict[str, str]:
        known = {"suite": self.suite, "base": self.base, "dimension": self.dimension, "index": str(self.index)}
        return known | ({"level": f"L{self.level}"} if self.level else {}) | self.values

    @property
    def bddl(self) -> Path:
        """The path of the scene's BDDL file."""
        return package_root() / "bddl_files" / self.suite / f"{self.scene}.bddl"

    @property
    def needs_archive(self) -> bool:
        """Whether the variant needs files that no package contains: light, background and added objects."""
        return self.dimension in ("light", "background") or self.values.get("kind") == "added"

    def instruction(self, raw: bool = False) -> str:
        """Return the instruction: the base task's, or the rewritten one of a language variant.

        ``raw`` returns what the benchmark's code returns: the file's name with numbers, "... view 0 0 100 0 0 ...".
        """
        if self.language:
            text = (
                package_root() / "bddl_files" / self.suite / f"{self.base}_language_{self.language}.bddl"
            ).read_text()
            return " ".join(_LANGUAGE.search(text).group(1).lower().split())
        return task_table.instruction(self.name if raw else self.base)

    def start_states(self) -> np.ndarray:
        """Return float64 [n, 1 + nq + nv]: time (s), joint positions, joint velocities. n is 1 for layouts, else 50."""
        files = package_root() / "init_files"
        if self.dimension == "layout":
            return start_states.read(files / "libero_newobj" / self.suite / f"{self.name}.pruned_init")
        return start_states.read(files / self.suite / f"{self.base}.pruned_init")

    def start_state_count(self) -> int:
        return 1 if self.dimension == "layout" else 50


def parse(suite: str, index: int, name: str, level: int) -> Variant:
    """Parse the name of a variant.

    Raises:
        ValueError: the name does not define a change.
    """
    if found := _VIEW.fullmatch(name):
        view = tuple(int(number) for number in found["view"].split("_"))
        changes = {"view": view, "start": int(found["start"]), "noise": int(found["noise"] or 0)}
        base = found["base"]
        if found["language"]:
            dimension, values = "language", {"rewrite": found["language"]}
            changes["language"] = int(found["language"])
        elif changes["noise"]:
            kind, strength = divmod(changes["noise"] - 1, 10)
            dimension, values = "noise", {"kind": NOISES[kind], "strength": str(strength + 1)}
        elif changes["start"]:
            dimension, values = "robot", {"start": found["start"]}
        elif view != DEFAULT_VIEW:
            names = ("horizontal", "vertical", "distance", "turn", "tilt")
            dimension, values = "camera", {key: str(number) for key, number in zip(names, view)}
        else:
            raise ValueError(f"the variant {name!r} changes nothing")
        return Variant(suite, index, name, base, dimension, level, scene=base, values=values, **changes)
    if found := _MOVED.fullmatch(name):
        values = {"kind": "moved", "group": found["group"], "sample": found["sample"]}
        return Variant(suite, index, name, found["base"], "layout", level, scene=name, values=values)
    if found := _NUMBERED.fullmatch(name):
        kind, number = found["kind"], found["number"]
        dimension, values = {
            "light": ("light", {"light": number}),
            "table": ("background", {"kind": "surface", "number": number}),
            "tb": ("background", {"kind": "surface and wall", "number": number}),
            "add": ("layout", {"kind": "added", "number": number}),
        }[kind]
        return Variant(suite, index, name, found["base"], dimension, level, scene=name, values=values)
    raise ValueError(f"the name {name!r} does not define a change")


@cache
def package_root() -> Path:
    """Return the folder of ``liberoplus.liberoplus`` without importing it."""
    return task_table.package_root("liberoplus")


@cache
def _levels() -> dict[str, str]:
    """Return the level digits of all variants, one per variant, by suite."""
    levels: dict[str, str] = {}
    for line in (Path(__file__).resolve().parent / "levels.txt").read_text().split("\n"):
        if line in SUITES:
            suite = line
            levels[suite] = ""
        elif line and not line.startswith("#"):
            levels[suite] += line
    return levels


def entries() -> Iterator[Variant]:
    """Return all variants by suite, in the package's order."""
    for suite, names in task_table.names_by_suite(package_root(), SUITES).items():
        levels = _levels()[suite]
        if len(levels) != len(names):
            raise ValueError(
                f"{suite} has {len(names)} variants but levels.txt has {len(levels)}: another LIBERO-Plus release?"
            )
        for index, (name, level) in enumerate(zip(names, levels)):
            yield parse(suite, index, name, int(level))


@cache
def by_id() -> dict[str, Variant]:
    """Return all variants by id."""
    return {variant.id: variant for variant in entries()}
