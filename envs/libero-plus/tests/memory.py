"""Print the process's memory over resets of mixed variants, as JSON.

    python tests/memory.py [--resets 300] [--scenes 2] [--every 25]

The resets cycle through the dimensions of two base tasks. Each layout variant needs a new scene, so scenes are closed
and loaded. A frame is rendered after every reset. Progress is printed to stderr.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time

import paths  # noqa: F401  first: it sets the import path and redirects the libraries' writes

# isort: split

import srpo_sdk as srpo

from plus_env import LiberoPlus


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resets", type=int, default=300)
    parser.add_argument("--scenes", type=int, default=2, help="keep_scenes")
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--suite", default="libero_object")
    options = parser.parse_args()
    settings = LiberoPlus.info.resolve({"keep_scenes": options.scenes, "wait_steps": 1})
    groups: dict[tuple[str, str], list] = {}
    for task in LiberoPlus.tasks(settings):
        if task.suite == options.suite and not task.unavailable:
            groups.setdefault((task.tags["base"], task.tags["dimension"]), []).append(task.id)
    bases = sorted({base for base, _ in groups})[:2]
    lists = [itertools.cycle(ids) for (base, _), ids in sorted(groups.items()) if base in bases]
    lane = LiberoPlus(srpo.EnvConfig(settings=settings, cameras={"agentview": (128, 128)}))
    rows, began, loads = [], time.perf_counter(), 0
    for index in range(options.resets):
        before = set(lane._scenes)
        lane.reset(next(lists[index % len(lists)]), 0, seed=index)
        loads += bool(set(lane._scenes) - before)
        lane.render("agentview")
        if (index + 1) % options.every == 0:
            rows.append({"resets": index + 1, "scenes_loaded": loads, "mb": round(resident_mb())})
            rate = (index + 1) / (time.perf_counter() - began)
            print(f"{index + 1} of {options.resets} resets, {rows[-1]['mb']} MB, {rate:.2f} per second, "
                  f"{(options.resets - index - 1) / rate:.0f} s left", file=sys.stderr, flush=True)  # fmt: skip
    seconds = time.perf_counter() - began
    result = {
        "seconds": round(seconds, 1),
        "load": [round(x, 1) for x in os.getloadavg()],
        **vars(options),
        "rows": rows,
    }
    print(json.dumps(result))
    lane.close()


if __name__ == "__main__":
    main()
