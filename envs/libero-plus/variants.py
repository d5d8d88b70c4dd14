"""The 10,030 variants of LIBERO-Plus as a table, read from the installed package without importing a simulator.

What a variant changes is only in its name:

    BASE_view_H_V_S_R_P_initstate_N            camera, when the view is not 0_0_100_0_0; robot, when N is not 0
    BASE_view_0_0_100_0_0_initstate_0_noise_N  noise
    BASE_language_N_view_0_0_100_0_0_...       language
    BASE_light_N                               light
    BASE_table_N, BASE_tb_N                    background: the table's (or floor's) texture, or that and the wall's
    BASE_add_N, BASE[_moved]_levelX_sampleY    layout: more objects, or objects elsewhere
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
NOISES = ("motion", "gaussian", "zoom", "fog", "glass")  # ten strengths each, in the order of their numbers
FRONT = (0, 0, 100, 0, 0)  # the view of LIBERO's own camera
ARCHIVE = (
    "it needs LIBERO-Plus's archive of assets (6.4 GB): unpack it, and name its folder in assets of [env.libero-plus]"
)

_VIEW = re.compile(
    r"(?P<base>.+?)(?:_language_(?P<language>\d+))?_view_(?P<view>\d+_\d+_\d+_\d+_\d+)_initstate_(?P<start>\d+)"
    r"(?:_noise_(?P<noise>\d+))?"
)
_MOVED = re.compile(r"(?P<base>.+?)(?:_moved)?_level(?P<group>\d+)_sample(?P<sample>\d+)")
_NUMBERED = re.compile(r"(?P<base>.+)_(?P<kind>light|table|tb|add)_(?P<number>\d+)")
_LANGUAGE = re.compile(r"\(:language\s+([^()]*)\)")


@dataclass(frozen=True)
class Variant:
    """One variant. ``id`` is ``<suite>/<dimension>/<name>``, the name being the benchmark's own.

    view: horizontal and vertical angle (degrees), distance (percent), and the camera's own turn and tilt (degrees).
    start: number of the robot's start, 0 for LIBERO's own. noise: 1 to 50, 0 for none.
    scene: name of the BDDL file whose scene it is played in; camera, robot, language and noise change nothing in it.
    """

    suite: str
    index: int
    name: str
    base: str
    dimension: str
    level: int
    scene: str
    view: tuple[int, ...] = FRONT
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
        """The scene's file."""
        return package_root() / "bddl_files" / self.suite / f"{self.scene}.bddl"

    @property
    def needs_archive(self) -> bool:
        """Light, background and added objects are made of files that no package holds."""
        return self.dimension in ("light", "background") or self.values.get("kind") == "added"

    def instruction(self, raw: bool = False) -> str:
        """The sentence for a policy, that of the base task unless language is what the variant changes.

        ``raw`` gives what the benchmark's code gives: the file's name with its numbers, "... view 0 0 100 0 0 ...".
        """
        if self.language:
            text = (
                package_root() / "bddl_files" / self.suite / f"{self.base}_language_{self.language}.bddl"
            ).read_text()
            return " ".join(_LANGUAGE.search(text).group(1).lower().split())
        return task_table.sentence(self.name if raw else self.base)

    def start_states(self) -> np.ndarray:
        """float64 [n, 1 + nq + nv]: time (s), joint positions, joint velocities. Layouts have one, others 50."""
        files = package_root() / "init_files"
        if self.dimension == "layout":
            return start_states.read(files / "libero_newobj" / self.suite / f"{self.name}.pruned_init")
        return start_states.read(files / self.suite / f"{self.base}.pruned_init")

    def start_state_count(self) -> int:
        return 1 if self.dimension == "layout" else 50


def parse(suite: str, index: int, name: str, level: int) -> Variant:
    """What a name says; ValueError for one that says nothing."""
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
        elif view != FRONT:
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
    raise ValueError(f"the variant's name {name!r} says not what it changes")


@cache
def package_root() -> Path:
    """Folder of ``liberoplus.liberoplus``, found without running its code."""
    return task_table.package_root("liberoplus")


@cache
def _levels() -> dict[str, str]:
    """A digit for each variant, by suite."""
    levels: dict[str, str] = {}
    for line in (Path(__file__).resolve().parent / "levels.txt").read_text().split("\n"):
        if line in SUITES:
            suite = line
            levels[suite] = ""
        elif line and not line.startswith("#"):
            levels[suite] += line
    return levels


def entries() -> Iterator[Variant]:
    """All variants, suite by suite, in the package's order."""
    for suite, names in task_table.names_by_suite(package_root(), SUITES).items():
        levels = _levels()[suite]
        if len(levels) != len(names):
            raise ValueError(
                f"{suite} has {len(names)} variants, levels.txt {len(levels)}: another release of LIBERO-Plus?"
            )
        for index, (name, level) in enumerate(zip(names, levels)):
            yield parse(suite, index, name, int(level))


@cache
def by_id() -> dict[str, Variant]:
    """The same variants by id."""
    return {variant.id: variant for variant in entries()}
