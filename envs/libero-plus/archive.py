"""LIBERO-Plus's archive of assets: its location in a user's folder, and the files that a variant needs from it."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import srpo_sdk as srpo

import variants

# Top-level entries of the archive, including one of each part that the packages lack.
PARTS = ("articulated_objects", "new_objects", "scenes", "scenes/lights", "stable_hope_objects", "textures",
         "stable_scanned_objects", "turbosquid_objects", "serving_region.xml", "wall.xml",
         "wall_frames.stl")  # fmt: skip
_MAX_FOLDERS = 500  # limit of the search for the archive's top level

_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)
_SETTING = re.compile(r'"(scene_xml|floor_style|wall_style)": "([^"]+)"')
_PROBLEM = re.compile(r"\(problem\s+([^\s()]+)\)")
_OBJECT_FILE = re.compile(r'f"assets/(new_objects/[^"]+)"')
_OBJECT_NAME = re.compile(r'name="(\w+)"')


class Archive:
    """The unpacked archive in ``folder`` or some levels below it, because it was packed with parent folders.

    Raises:
        srpo.Error: "invalid" if the folder does not exist or a part is missing.
    """

    def __init__(self, folder: str):
        self.root = _find(Path(srpo.path(folder)))
        missing = [part for part in PARTS if not (self.root / part).exists()]
        if missing:
            raise srpo.Error(
                "invalid",
                f"the archive of LIBERO-Plus's assets lacks {missing[0]}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
                place=f"env.libero-plus.assets, {self.root}",
                hint="unpack all of assets.zip, and give the folder that contains new_objects, scenes and textures",
            )

    def missing(self, variant: variants.Variant) -> str:
        """Return the first file that the variant needs and the archive lacks, relative to its top; empty if none."""
        for name in self.needs(variant):
            if not (self.root / name).is_file():
                return name
        return ""

    def needs(self, variant: variants.Variant) -> list[str]:
        """Return the files that a variant needs in addition to LIBERO's."""
        text = variant.bddl.read_text()
        if variant.dimension == "layout":
            return [
                self._objects[word] for word in sorted(set(re.findall(r"-\s+(\w+)", text))) if word in self._objects
            ]
        settings = self._problems.get(_PROBLEM.search(text).group(1).lower(), {})
        found = [settings["scene_xml"]] if "scene_xml" in settings else []
        for key in ("floor_style", "wall_style"):
            style = settings.get(key)
            if style is not None:
                found.append("textures/" + self._textures[key].get(style, style))
        return found

    @cached_property
    def _problems(self) -> dict[str, dict[str, str]]:
        """The settings of each problem class by lower-case name, read from the source because importing it is slow."""
        found: dict[str, dict[str, str]] = {}
        for source in sorted((variants.package_root() / "envs" / "problems").glob("libero_*.py")):
            text = source.read_text()
            starts = list(_CLASS.finditer(text))
            for this, after in zip(starts, [*starts[1:], None]):
                body = text[this.end() : after.start() if after else len(text)]
                found[this.group(1).lower()] = dict(_SETTING.findall(body))
        return found

    @cached_property
    def _textures(self) -> dict[str, dict[str, str]]:
        """The files of floor and wall styles."""
        namespace: dict = {}
        source = variants.package_root() / "envs" / "arenas" / "style.py"
        exec(compile(source.read_text(), str(source), "exec"), namespace)  # two dictionaries
        return {"floor_style": namespace["FLOOR_STYLE"], "wall_style": namespace["WALL_STYLE"]}

    @cached_property
    def _objects(self) -> dict[str, str]:
        """The file of each added object by category name."""
        text = (variants.package_root() / "envs" / "objects" / "custom_objects.py").read_text()
        found = {}
        starts = list(_CLASS.finditer(text))
        for this, after in zip(starts, [*starts[1:], None]):
            body = text[this.end() : after.start() if after else len(text)]
            file, name = _OBJECT_FILE.search(body), _OBJECT_NAME.search(body)
            if file and name:
                found[name.group(1)] = file.group(1)
        return found


def _find(folder: Path) -> Path:
    """Return the first folder, in breadth-first order from ``folder``, that contains new_objects, else ``folder``."""
    if not folder.is_dir():
        raise srpo.Error(
            "invalid",
            f"there is no folder {folder}",
            place="env.libero-plus.assets",
            hint="give the folder into which LIBERO-Plus's assets.zip was unpacked",
        )
    level, visited = [folder], 0
    while level and visited < _MAX_FOLDERS:
        below = []
        for place in level:
            visited += 1
            if (place / "new_objects").is_dir():
                return place
            try:
                below += sorted(entry for entry in place.iterdir() if entry.is_dir())
            except PermissionError:
                continue
        level = below
    return folder
