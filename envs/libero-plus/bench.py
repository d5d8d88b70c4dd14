"""A few variants of one task: this plugin's lane against the benchmark's own environment, as JSON.

    PYTHONPATH=../libero:../../sdk/python python bench.py [--variants 5] [--chunk 8] [--steps 96] [--size 256]

The lane plays one variant of each dimension after the other and renders the third-person camera at the end of each
chunk, as the policy and a recording with ``record_every = chunk`` want it. The benchmark's environment is made anew for
each variant, as its evaluations do, in a process of its own (a second one in a process draws empty frames), and renders
that camera at every step, as it always does. Seconds are of loading, resets, waiting, steps and frames; imports and
compiling are not counted. ratio: the benchmark's seconds to the lane's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import locations

locations.redirect_writes("liberoplus")

import numpy as np
import srpo_sdk as srpo

import package_tree
import rollout
import variants
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


def ours(ids: list[str], actions: np.ndarray, chunk: int, size: int) -> float:
    settings = LiberoPlus.info.resolve({})
    lane = LiberoPlus(srpo.EnvConfig(settings=settings, cameras={"agentview": (size, size)}))
    rollout.by_lane(lane, ids[0], 0, actions[:chunk], ["agentview"], chunk)  # compile, import
    lane.close()
    lane = LiberoPlus(srpo.EnvConfig(settings=settings, cameras={"agentview": (size, size)}))
    began = time.perf_counter()
    for name in ids:
        rollout.by_lane(lane, name, 0, actions, ["agentview"], chunk)
    seconds = time.perf_counter() - began
    lane.close()
    return seconds


def theirs(name: str, actions: np.ndarray, size: int) -> float:
    sys.path.insert(0, str(package_tree.make(package_tree.libero_assets())))
    from liberoplus.liberoplus.envs import OffScreenRenderEnv

    variant = variants.by_id()[name]
    bddl = os.path.join(variants.package_root(), "bddl_files", variant.suite, variant.name + ".bddl")
    began = time.perf_counter()
    env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=size, camera_widths=size, camera_names=["agentview"])
    env.seed(0)
    env.reset()
    env.set_init_state(variant.start_states()[0])
    for action in [np.array([0.0] * 6 + [-1.0])] * WAIT + list(actions.astype(np.float64)):
        env.step(action)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", type=int, default=len(PLAYED))
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--theirs", help="only the benchmark's environment, for this variant: how it is run as a child")
    options = parser.parse_args()
    ids, actions = PLAYED[: options.variants], rollout.random_actions(options.steps)
    if options.theirs:
        print(theirs(options.theirs, actions, options.size))
        return
    result = {"load": round(os.getloadavg()[0], 1), "ours_s": round(ours(ids, actions, options.chunk, options.size), 2)}
    total = 0.0
    for name in ids:
        command = [sys.executable, __file__, *sys.argv[1:], "--theirs", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        total += float(done.stdout.strip().splitlines()[-1])
    result["theirs_s"] = round(total, 2)
    result["ratio"] = round(total / result["ours_s"], 2)
    result["ours_episodes_an_hour"] = round(3600 * len(ids) / result["ours_s"])
    result["load_after"] = round(os.getloadavg()[0], 1)
    print(json.dumps(result | vars(options)))


if __name__ == "__main__":
    main()
