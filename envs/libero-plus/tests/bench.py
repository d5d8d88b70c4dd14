"""Print the time of some variants in this plugin's lane and in the benchmark's environment, as JSON.

    python tests/bench.py [--variants 5] [--processes 1,2] [--chunk 8] [--steps 96]

The lane plays one variant of each dimension and renders the third-person camera at the end of each chunk, as for a
policy and a recording with ``record_every = chunk``. The benchmark's environment is created for each variant, as in its
evaluations, in a separate process (a second environment in a process renders empty frames), and renders that camera at
every step. The time includes loading, resets, waiting, steps and frames, but not imports and compilation. The
measurement is repeated for each number of processes, which run the same work at once; the slowest process counts.
ratio: the benchmark's time divided by the lane's. Progress is printed to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import paths  # noqa: F401  first: it sets the import path and redirects the libraries' writes

# isort: split

import numpy as np
import srpo_sdk as srpo

import package_tree
import variants
from libero_sim.testing import rollout
from plus_env import LiberoPlus

SOUP = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
PLAYED = [
    f"libero_object/camera/{SOUP}_view_6_15_100_0_0_initstate_0",
    f"libero_object/robot/{SOUP}_view_0_0_100_0_0_initstate_11",
    f"libero_object/language/{SOUP}_language_2_view_0_0_100_0_0_initstate_0",
    f"libero_object/noise/{SOUP}_view_0_0_100_0_0_initstate_0_noise_35",
    f"libero_object/layout/{SOUP}_level1_sample1",
]
WAIT = 10


def time_lane(ids: list[str], actions: np.ndarray, options, ready: Callable[[], None]) -> float:
    settings, size = LiberoPlus.info.resolve({}), options.size
    lane = LiberoPlus(srpo.EnvConfig(settings=settings, cameras={"agentview": (size, size)}))
    rollout.by_lane(lane, ids[0], 0, actions[: options.chunk], ["agentview"], options.chunk)  # compile, import
    lane.close()
    lane = LiberoPlus(srpo.EnvConfig(settings=settings, cameras={"agentview": (size, size)}))
    ready()
    began = time.perf_counter()
    for name in ids:
        rollout.by_lane(lane, name, 0, actions, ["agentview"], options.chunk)
    seconds = time.perf_counter() - began
    lane.close()
    return seconds


def time_benchmark(name: str, actions: np.ndarray, options, ready: Callable[[], None]) -> float:
    sys.path.insert(0, str(package_tree.make(package_tree.libero_assets())))
    from liberoplus.liberoplus.envs import OffScreenRenderEnv

    variant, size = variants.by_id()[name], options.size
    bddl = os.path.join(variants.package_root(), "bddl_files", variant.suite, variant.name + ".bddl")
    ready()
    began = time.perf_counter()
    env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=size, camera_widths=size, camera_names=["agentview"])
    env.seed(0)
    env.reset()
    env.set_init_state(variant.start_states()[0])
    for action in [np.array([0.0] * 6 + [-1.0])] * WAIT + list(actions.astype(np.float64)):
        env.step(action)
    return time.perf_counter() - began


def run_together(count: int, *arguments: str) -> float:
    """Run ``count`` copies of this program that start at the same time; return the seconds of the slowest."""
    children = []
    for _ in range(count):
        inner, outer = os.pipe()
        command = [sys.executable, __file__, *sys.argv[1:], *arguments, "--go", str(inner)]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, pass_fds=(inner,)
        )
        os.close(inner)
        children.append((child, outer))
    for child, _ in children:
        while (line := child.stdout.readline()) != "ready\n":
            if not line:
                raise SystemExit(f"{' '.join(arguments)} ended with status {child.wait()}")
    for _, outer in children:
        os.close(outer)  # the end of the pipe is the signal to start
    seconds = [float(child.communicate()[0].strip().splitlines()[-1]) for child, _ in children]
    return max(seconds)


def report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=len(PLAYED))
    parser.add_argument("--processes", default="1,2", help="numbers of concurrent processes, one row each")
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--play", help="child: 'lane', or the variant to run in the benchmark's environment")
    parser.add_argument("--go", type=int, help="child: descriptor whose end of file is the signal to start")
    options = parser.parse_args()
    ids, actions = PLAYED[: options.variants], rollout.random_actions(options.steps)
    if options.play:

        def ready() -> None:
            print("ready", flush=True)
            os.read(options.go, 1)

        if options.play == "lane":
            print(time_lane(ids, actions, options, ready))
        else:
            print(time_benchmark(options.play, actions, options, ready))
        return
    result = {"load": round(os.getloadavg()[0], 1), "cores": os.cpu_count(), "rows": []}
    for count in map(int, options.processes.split(",")):
        own = run_together(count, "--play", "lane")
        report(f"{count} processes: {len(ids)} variants in the lane in {own:.1f} s")
        total = 0.0
        for index, name in enumerate(ids):
            total += run_together(count, "--play", name)
            report(f"{count} processes: {index + 1} of {len(ids)} variants in the benchmark in {total:.1f} s")
        row = {"processes": count, "ours_s": round(own, 2), "theirs_s": round(total, 2), "ratio": round(total / own, 2)}
        row["ours_episodes_an_hour"] = round(3600 * len(ids) * count / own)
        row["theirs_episodes_an_hour"] = round(3600 * len(ids) * count / total)
        result["rows"].append(row)
    result["load_after"] = round(os.getloadavg()[0], 1)
    given = {name: getattr(options, name) for name in ("variants", "chunk", "steps", "size")}
    print(json.dumps(result | given))


if __name__ == "__main__":
    main()
