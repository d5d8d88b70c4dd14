"""Writes a contact sheet of the third-person camera at the start of some variants of each available dimension.

    python tests/sheet.py OUT.jpg [--base TASK] [--columns 6] [--size 160]

Images of language variants are equal by design. Frames are mirrored so that left is on the left.
"""

from __future__ import annotations

import argparse
import itertools

import paths  # noqa: F401  first: it sets the import path and redirects the libraries' writes

# isort: split

import srpo_sdk as srpo
from PIL import Image, ImageDraw

import variants
from plus_env import LiberoPlus

BASE = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--size", type=int, default=160)
    options = parser.parse_args()
    suite, base = options.base.split("/")
    settings = LiberoPlus.info.resolve({})
    rows: dict[str, list] = {}
    for task in LiberoPlus.tasks(settings):
        if task.suite == suite and task.tags["base"] == base and not task.unavailable:
            rows.setdefault(task.tags["dimension"], []).append(task)
    size, margin = options.size, 16
    sheet = Image.new("RGB", (options.columns * size, len(rows) * (size + margin)), "white")
    pen = ImageDraw.Draw(sheet)
    lane = LiberoPlus(srpo.EnvConfig(settings=settings, cameras={"agentview": (256, 256)}))
    for row, (dimension, tasks) in enumerate(sorted(rows.items())):
        for column, task in enumerate(_spread(tasks, options.columns)):
            lane.reset(task.id, 0, seed=0)
            frame = Image.fromarray(lane.render("agentview")[:, ::-1])
            x, y = column * size, row * (size + margin)
            sheet.paste(frame.resize((size, size), Image.Resampling.LANCZOS), (x, y + margin))
            values = " ".join(f"{v}" for v in variants.by_id()[task.id].values.values())
            pen.text((x + 3, y + 3), f"{dimension} {task.tags.get('level', '')} {values}"[: size // 6], fill="black")
            print(dimension, task.id, "|", task.instruction, flush=True)
    lane.close()
    sheet.save(options.out, quality=85)


def _spread(tasks: list, count: int) -> list:
    """Return up to ``count`` tasks, evenly spread over the list and over the kinds of noise."""
    kinds: dict[str, list] = {}
    for task in tasks:
        kinds.setdefault(task.tags.get("kind", ""), []).append(task)
    each = -(-count // len(kinds))
    picked = [group[:: max(1, len(group) // each)][:each] for group in kinds.values()]
    return [task for round_ in itertools.zip_longest(*picked) for task in round_ if task is not None][:count]


if __name__ == "__main__":
    main()
