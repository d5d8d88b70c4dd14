"""LIBERO-Plus's archive of assets: finding it in the folder that a user names, and what of it a variant needs."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import srpo_sdk as srpo

import variants

# What the archive holds at its top, with an entry of each part that the packages do not have.
PARTS = ("articulated_objects", "new_objects", "scenes", "scenes/lights", "stable_hope_objects", "textures",
         "stable_scanned_objects", "turbosquid_objects", "serving_region.xml", "wall.xml",
         "wall_frames.stl")  # fmt: skip
_LOOKED_AT = 500  # folders, in the search for where the archive's own begin

_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)
_SETTING = re.compile(r'"(scene_xml|floor_style|wall_style)": "([^"]+)"')
_PROBLEM = re.compile(r"\(problem\s+([^\s()]+)\)")
_OBJECT_FILE = re.compile(r'f"assets/(new_objects/[^"]+)"')
_OBJECT_NAME = re.compile(r'name="(\w+)"')


class Archive:
    """The unpacked archive in ``folder``, which may be some folders further down: it was packed with its author's."""

    def __init__(self, folder: str):
        self.root = _find(Path(srpo.path(folder)))
        missing = [part for part in PARTS if not (self.root / part).exists()]
        if missing:
            raise srpo.Error(
                "invalid",
                f"the archive of LIBERO-Plus's assets lacks {missing[0]}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
                place=f"env.libero-plus.assets, {self.root}",
                hint="unpack all of assets.zip, and name the folder that holds new_objects, scenes and textures",
            )

    def missing(self, variant: variants.Variant) -> str:
        """The first file that the variant needs and the archive lacks, from its top; empty when none is."""
        for name in self.needs(variant):
            if not (self.root / name).is_file():
                return name
        return ""

    def needs(self, variant: variants.Variant) -> list[str]:
        """Files that a variant needs beside LIBERO's own."""
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
        """What each class of problem sets, by its name in lower case, read from the source: running it takes long."""
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
        """Files of the styles of floors and walls."""
        namespace: dict = {}
        source = variants.package_root() / "envs" / "arenas" / "style.py"
        exec(compile(source.read_text(), str(source), "exec"), namespace)  # two dictionaries
        return {"floor_style": namespace["FLOOR_STYLE"], "wall_style": namespace["WALL_STYLE"]}

    @cached_property
    def _objects(self) -> dict[str, str]:
        """The file of each added object, by the category's name."""
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
    """The folder itself or the first below it, by depth, that holds new_objects."""
    if not folder.is_dir():
        raise srpo.Error(
            "invalid",
            f"there is no folder {folder}",
            place="env.libero-plus.assets",
            hint="the folder into which LIBERO-Plus's assets.zip was unpacked",
        )
    level, looked_at = [folder], 0
    while level and looked_at < _LOOKED_AT:
        below = []
        for place in level:
            looked_at += 1
            if (place / "new_objects").is_dir():
                return place
            try:
                below += sorted(entry for entry in place.iterdir() if entry.is_dir())
            except PermissionError:
                continue
        level = below
    return folder
