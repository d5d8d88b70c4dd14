"""A few variants of one task: this plugin's lane against the benchmark's own environment, as JSON.

    python tests/bench.py [--variants 5] [--processes 1,2] [--chunk 8] [--steps 96]

The lane plays one variant of each dimension after the other and renders the third-person camera at the end of each
chunk, as the policy and a recording with ``record_every = chunk`` want it. The benchmark's environment is made anew for
each variant, as its evaluations do, in a process of its own (a second one in a process draws empty frames), and renders
that camera at every step, as it always does. Seconds are of loading, resets, waiting, steps and frames; imports and
compiling are not counted. All of it once for each number of processes, which play the same at the same time, and the
slowest counts. ratio: the benchmark's seconds to the lane's. Progress is on stderr.
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


def ours(ids: list[str], actions: np.ndarray, options, ready: Callable[[], None]) -> float:
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


def theirs(name: str, actions: np.ndarray, options, ready: Callable[[], None]) -> float:
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


def together(count: int, *arguments: str) -> float:
    """Seconds of the slowest of ``count`` children of this program, which begin at the same time."""
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
        os.close(outer)  # the end of the pipe is the word to begin
    seconds = [float(child.communicate()[0].strip().splitlines()[-1]) for child, _ in children]
    return max(seconds)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=len(PLAYED))
    parser.add_argument("--processes", default="1,2", help="at once; a row each")
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--play", help="ours, or a variant in the benchmark's environment: how it is run as a child")
    parser.add_argument("--go", type=int, help="descriptor whose end of file is the word to begin")
    options = parser.parse_args()
    ids, actions = PLAYED[: options.variants], rollout.random_actions(options.steps)
    if options.play:

        def ready() -> None:
            print("ready", flush=True)
            os.read(options.go, 1)

        if options.play == "ours":
            print(ours(ids, actions, options, ready))
        else:
            print(theirs(options.play, actions, options, ready))
        return
    result = {"load": round(os.getloadavg()[0], 1), "cores": os.cpu_count(), "rows": []}
    for count in map(int, options.processes.split(",")):
        own = together(count, "--play", "ours")
        say(f"{count} at once: {len(ids)} variants by this plugin in {own:.1f} s")
        total = 0.0
        for index, name in enumerate(ids):
            total += together(count, "--play", name)
            say(f"{count} at once: {index + 1} of {len(ids)} variants by the benchmark's environment in {total:.1f} s")
        row = {"processes": count, "ours_s": round(own, 2), "theirs_s": round(total, 2), "ratio": round(total / own, 2)}
        row["ours_episodes_an_hour"] = round(3600 * len(ids) * count / own)
        row["theirs_episodes_an_hour"] = round(3600 * len(ids) * count / total)
        result["rows"].append(row)
    result["load_after"] = round(os.getloadavg()[0], 1)
    given = {name: getattr(options, name) for name in ("variants", "chunk", "steps", "size")}
    print(json.dumps(result | given))


if __name__ == "__main__":
    main()
